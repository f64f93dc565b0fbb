"""Traffic that is over, as it was: its records in the order of the log, and what was known at each of them.

A recording's own log says exactly in which order things came, so the production runner knows again what it knew.
"""

from collections.abc import Callable, Iterator
from heapq import merge
from pathlib import Path
from typing import NamedTuple, Protocol

from engine.believed import UnknownError
from engine.decision import Decision
from engine.errors import InputError
from engine.events import ItemUpdate, Reaction, Request
from engine.facts import Facts
from engine.groups import limiting
from engine.policy import Policy
from engine.pools import Gathered, gather
from engine.state import UserState
from streams.codec import Value
from streams.embedded import EmbeddedRunner
from streams.recording import Topic, read_topic, recorded_policy

ORDER: tuple[Topic, ...] = ("items", "requests", "feeds", "feedback")  # of what has one offset


class Input(NamedTuple):
    """A record of the log: its time, what it is, and where it stands."""

    at_ms: int
    value: Value
    place: str


class Past(Protocol):
    """What was known at each moment of a log; it is told of all its records in their order."""

    def state(self, user: str) -> UserState:
        """A user's state now."""

    def known_from(self, user: str) -> int | None:
        """From which time on all reactions of a user are there; None where the log lacks nothing at all."""

    def gathered(self, request: Request, record: Decision, at_ms: int) -> Gathered:
        """What the pools offered for this decision.

        Raises UnknownError where that cannot be known, InputError where a log that is whole would say otherwise.
        """

    def put(self, update: ItemUpdate, at_ms: int) -> None:
        """An item's record."""

    def adopt(self, request: Request, record: Decision, at_ms: int) -> None:
        """A decision."""

    def react(self, reaction: Reaction, at_ms: int) -> object:
        """A reaction."""


class RecordedPast(EmbeddedRunner):
    """The past of a recording."""

    def known_from(self, _: str) -> None:
        """A recording is whole."""

    def gathered(self, request: Request, record: Decision, at_ms: int) -> Gathered:
        """What the pools offered. Raises InputError where that is not what the record holds."""
        gathered = self.gather(request, at_ms)
        pool = unlike(record, gathered)
        if pool is not None:
            raise InputError(
                f"request {request.request_id} of user {request.user} was decided of other items than pool {pool} "
                "lists now: the log is not whole, or of another version of Feedloom"
            )
        return gathered


class Traffic(NamedTuple):
    """A log to be read once: the policy it was made under, what was known, and all records.

    `feeds` is how many there are, and `delta` the newest returns model of their policy.
    """

    policy: Policy
    past: Past
    feeds: int
    delta: float
    inputs: Callable[[], Iterator[Input]]


def recorded_traffic(folder: Path) -> Traffic:
    """A recording. Raises InputError for what is none."""
    policy = recorded_policy(folder)
    deltas = [line.value.delta for line in read_topic(folder, "feeds") if isinstance(line.value, Decision)]
    delta = deltas[-1] if deltas else None
    return Traffic(policy, RecordedPast(policy), len(deltas), delta or 1.0, lambda: inputs_of(folder))


def inputs_of(folder: Path) -> Iterator[Input]:
    """The records of a recording in the order of its log, each decision after its request."""
    topics = (_ranked(folder, topic, rank) for rank, topic in enumerate(ORDER))
    for _, _, found in merge(*topics, key=lambda one: one[:2]):
        yield found


def _ranked(folder: Path, topic: Topic, rank: int) -> Iterator[tuple[int, int, Input]]:
    for line in read_topic(folder, topic):
        yield line.offset, rank, Input(line.at_ms, line.value, line.place)


def unlike(record: Decision, gathered: Gathered) -> str | None:
    """A pool whose list is not the one that a decision was made of, thinned by rules or not; None where all are."""
    thinned = bool(limiting(gathered.facts.policy.rules))
    for part, ranking in zip(record.pools, gathered.rankings, strict=True):
        offered = iter(gathered.names(ranking.items if thinned else ranking.items[: len(part.items)]))
        in_order = all(item in offered for item in part.items)  # each is looked for after the one before
        if not in_order or (ranking.items.size < part.stock if thinned else ranking.items.size != part.stock):
            return part.pool
    return None


def gathered_anew(state: UserState, request: Request, facts: Facts, at_ms: int) -> Gathered:
    """`gather`; what the policy refuses now is not known of a past in which it did not. Raises UnknownError."""
    try:
        return gather(state, request, facts, at_ms)
    except InputError as error:
        raise UnknownError from error
