"""Replay of a recording: its inputs again, in the order of its log, through the production runner."""

from heapq import merge
from pathlib import Path

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, ItemUpdate, Organic, Reaction, Request, Seen
from streams.codec import Value, encode
from streams.embedded import EmbeddedRunner
from streams.recording import Line, Topic, read_topic, recorded_policy


def replay(folder: Path, batch: int = 256) -> tuple[int, str | None]:
    """Decide every request of a recording again; the number of equal decisions, and the first difference in words.

    Decisions are compared byte for byte.
    """
    runner = EmbeddedRunner(recorded_policy(folder), None, batch)
    topics: tuple[Topic, ...] = ("items", "requests", "feedback")  # an item came before the input of its offset
    inputs = merge(*(read_topic(folder, topic) for topic in topics), key=lambda line: line.offset)
    recorded = read_topic(folder, "feeds")
    equal = 0
    for line in inputs:
        if isinstance(line.value, Seen | Acted | Organic):
            _react(runner, line.value, line)
            continue
        if isinstance(line.value, ItemUpdate):
            runner.put(line.value, line.at_ms)
            continue
        made = _decide(runner, line)
        there = next(recorded, None)
        if there is None:
            return equal, f"request {made.request.request_id} has no decision in the recording"
        if encode(made) != encode(there.value):
            return equal, f"{there.place}: {first_difference(there.value, made)}"
        equal += 1
    extra = next(recorded, None)
    return equal, None if extra is None else f"{extra.place}: a decision that no request asked for"


def _react(runner: EmbeddedRunner, reaction: Reaction, line: Line) -> None:
    try:
        runner.react(reaction, line.at_ms)
    except InputError as error:
        raise InputError(f"{line.place}: {error}") from error


def _decide(runner: EmbeddedRunner, line: Line) -> Decision:
    if not isinstance(line.value, Request):
        raise InputError(f"{line.place}: a decision stands among the inputs")
    try:
        return runner.serve(line.value, runner.gather(line.value, line.at_ms), line.at_ms)
    except InputError as error:
        raise InputError(f"{line.place}: {error}") from error


def first_difference(recorded: Value, made: Decision) -> str:
    """Where two decisions part, in words."""
    if not isinstance(recorded, Decision):
        return f"a {type(recorded).__name__.lower()} stands among the decisions"
    name = f"request {made.request.request_id} of user {made.request.user}"
    if recorded.request != made.request:
        return f"{name} was asked otherwise: {encode(recorded.request).decode()}"
    for one, other in zip(recorded.pools, made.pools, strict=False):
        for field in one.__struct_fields__:
            if getattr(one, field) != getattr(other, field):
                return (
                    f"{name}: pool {one.pool} has {field} {getattr(one, field)}, made again {getattr(other, field)}"
                )
    for field in recorded.__struct_fields__:
        if getattr(recorded, field) != getattr(made, field):
            return f"{name}: {field} is {getattr(recorded, field)}, made again {getattr(made, field)}"
    return f"{name}: the same decision in other bytes"
