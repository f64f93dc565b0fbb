"""One run over a log: each row asks for a feed if it is positive, is scored, and teaches.

The undisturbed run and those that disturb something are all made here.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from time import perf_counter
from typing import NamedTuple

from blending.randomness import key_of
from engine.decision import Decision
from engine.events import Acted, ItemUpdate, Organic, Reaction, Request, Seen
from engine.policy import Policy
from engine.pools import AS_NAMED, Pool
from simulator.baselines import Asked, Baseline
from simulator.disturbances import RandomPool
from simulator.interactions import Interaction
from simulator.replay_plan import Break, ReplayPlan
from simulator.scoreboard import Scoreboard
from streams.codec import encode
from streams.embedded import EmbeddedRunner, Log

FEEDLOOM = "feedloom"
PROGRESS_EVERY = 500  # rows

Progress = Callable[[str], Callable[[int], None]]  # told a run's name when it begins, then its rows done


class Run(NamedTuple):
    """What is replayed: a log, a policy, whom it is compared with, what breaks, and what is known of items."""

    name: str
    rows: Sequence[Interaction]
    policy: Policy
    baselines: Mapping[str, Baseline] = {}
    broken: Break | None = None
    log: Log | None = None
    items: Sequence[ItemUpdate] = ()


def replayed(run: Run, plan: ReplayPlan, progress: Progress) -> "Replay":
    """The run, from its first row to its last."""
    replay, tell, rows = Replay(run, plan), progress(run.name), len(run.rows)
    for number in range(rows):
        replay.step(number)
        if number % PROGRESS_EVERY == 0 or number == rows - 1:
            tell(number + 1)
    replay.runner.commit()
    return replay


class Replay:
    """The state of one run."""

    def __init__(self, run: Run, plan: ReplayPlan) -> None:
        """Before the first row, when all that is known of items is said."""
        self.run = run
        self.plan = plan
        self.runner = EmbeddedRunner(run.policy, run.log, plan.batch)
        for update in run.items:
            self.runner.put(update, run.rows[0].at_ms)
        requests = sum(row.positive for row in run.rows)
        self.board = Scoreboard([*run.baselines, FEEDLOOM], list(run.policy.pools), requests)
        self.feedloom_seconds = 0.0  # with all that it learns
        self.slate_seconds = 0.0  # of it, what it takes to answer, fits of the population and training included
        self.last: Decision | None = None
        self._facts = self.runner.facts
        self._first_scored = scored_from(run.rows, plan)
        self._first_broken = broken_from(run.rows, run.broken)
        self._requests = 0
        self._likes: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self._digest = blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Of all decisions so far."""
        return self._digest.hexdigest()

    def step(self, number: int) -> None:
        """One row: an organic event, or a request and the reactions to its feed."""
        row = self.run.rows[number]
        started = perf_counter()
        if not row.positive:
            self._organic(number, row)
            self.feedloom_seconds += perf_counter() - started
            return
        at_ms = self._asked_at(number)
        request = Request(request_id=str(number), user=row.user, slots=self.plan.slots, ts_ms=at_ms)
        gathered = self.runner.gather(request, at_ms, self._replaced(number, request))
        population = self.runner.facts.population
        size, item = population.size, population.number(row.item)
        decision = self.runner.serve(request, gathered, at_ms)
        self.slate_seconds += perf_counter() - started
        self._react(number, row, decision)
        self.feedloom_seconds += perf_counter() - started
        self._score(row, decision, scored=number >= self._first_scored)
        self._compare(Asked(request.request_id, row.user, self.plan.slots, size, gathered), item)
        self._requests += 1

    def _asked_at(self, number: int) -> int:
        """The time of a row's request, by the plan's clock."""
        before = number - 1 if self.plan.clock == "strict" and number else number
        return self.run.rows[before].at_ms

    def _replaced(self, number: int, request: Request) -> Mapping[str, Pool]:
        """The pool that is broken at this row, if there is one."""
        broken = self.run.broken
        if broken is None or number < self._first_broken:
            return AS_NAMED
        key = key_of(self.run.policy.blend.seed, "broken", request.user, request.request_id)
        return {broken.pool: RandomPool(key)}

    def _organic(self, number: int, row: Interaction) -> None:
        event = Organic(event_id=f"{number:09d}", user=row.user, item=row.item, action=row.action, ts_ms=row.at_ms)
        self._feed_back(event, row.at_ms)

    def _react(self, number: int, row: Interaction, decision: Decision) -> None:
        """The user sees every slot; the row's action is on its slot if its item was shown, else organic."""
        request = decision.request
        for slot, item in enumerate(decision.slot_items):
            seen = Seen(
                event_id=f"{number:09d}-{slot}",
                user=row.user,
                request_id=request.request_id,
                slot=slot,
                item=item,
                ts_ms=row.at_ms,
            )
            self._feed_back(seen, row.at_ms)
        slot_of_row = _place(row.item, decision.slot_items)
        if slot_of_row is None:
            self._organic(number, row)
        else:
            acted = Acted(
                event_id=f"{number:09d}",
                user=row.user,
                request_id=request.request_id,
                slot=slot_of_row,
                item=row.item,
                action=row.action,
                ts_ms=row.at_ms,
            )
            self._feed_back(acted, row.at_ms)

    def _feed_back(self, reaction: Reaction, at_ms: int) -> None:
        """A reaction; a version of the population that is due before it is part of what feeds cost."""
        started = perf_counter()
        facts = self.runner.facts
        if facts is not self._facts:
            self._facts = facts
            self.slate_seconds += perf_counter() - started
        self.runner.react(reaction, at_ms)

    def _score(self, row: Interaction, decision: Decision, *, scored: bool) -> None:
        likes_before = self._likes.get(row.user, 0)
        self._likes[row.user] = likes_before + 1
        user = self._users.setdefault(row.user, len(self._users))
        self.board.asked(self._requests, user, likes_before, scored=scored)
        self.board.placed(self._requests, decision.slot_pools)
        self.board.found(self._requests, FEEDLOOM, _place(row.item, decision.slot_items))
        self._digest.update(encode(decision) + b"\n")
        self.last = decision

    def _compare(self, asked: Asked, item: int | None) -> None:
        for name, baseline in self.run.baselines.items():
            slate = baseline.slate(asked)
            hit = _place(item, slate.items)
            self.board.found(self._requests, name, hit)
            baseline.learn(asked.user, slate, hit)


def scored_from(rows: Sequence[Interaction], plan: ReplayPlan) -> int:
    """The first row that is scored."""
    return int(len(rows) * plan.train_fraction)


def broken_from(rows: Sequence[Interaction], broken: Break | None) -> int:
    """The first row before which the pool is broken; where none is, there is no such row."""
    return int(len(rows) * broken.part) if broken else len(rows)


def requests_before(rows: Sequence[Interaction], number: int | None = None) -> int:
    """How many feeds are asked for before this row's, or in all."""
    return sum(row.positive for row in rows[:number])


def _place(item: object, items: Sequence[object]) -> int | None:
    return items.index(item) if item in items else None
