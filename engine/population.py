"""What is learned across users: running sums, and the one pure `fit` that makes a numbered version of them.

Priors, item statistics and lists are read from a version only, so that a decision can name what it saw.
"""

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np
from msgspec import Struct

from blending.delay import Delay
from blending.hierarchy import Prior, Tails, fitted, no_tails, shrunk
from blending.returns import fitted_delta
from blending.types import IntArray, ItemArray
from engine.item_tallies import ItemStatistics, ItemTallies
from engine.learning import PopulationWeights, WeightSums
from engine.long_run import long_run_floors
from engine.newcomers import Newcomers
from engine.policy import Policy
from engine.ranked_counts import RankedCounts
from engine.relations import SUCCESSORS, UNITS, Neighbours, Relation, kernel_units
from engine.shadow import ShadowSums
from engine.state import (
    Cell,
    CohortCell,
    Lesson,
    PriorLesson,
    ReactionLesson,
    ShadowLesson,
    Tally,
    ViewLesson,
    WeightLesson,
)
from engine.tallies import DelayTallies, RankTallies

STRENGTH_SD = 1.5  # of the logarithm of how alike users are believed to be before any data
TAIL_VIEWS = 200  # of a user and pool: the first ones, which say how far users differ
COHORT_USERS = 10.0  # so many users like those of all cohorts stand beside a cohort's own


class Population(Struct, frozen=True):
    """One version: the fit of `records` log records.

    Items are numbered in the order of their first appearance; `items` and `number_of` only ever grow, and
    this version speaks of the first `size` of them. `likes` has shape (size,); `popular` and `fresh` are
    item numbers, best first; `neighbours`, `near` and `successors` have an entry per item (`engine.relations`), and
    so have the columns of `statistics`; `weights` are those of the personal pool, None before it has learned
    anything. `newcomers` is the evidence of all users' first
    slots by (cohort, pool, action), as it counts at `at_ms` of the log, and `strengths` how many views' worth users
    are alike there: priors are made of both. `delta` is the returns model fitted from the log; `delays` are those
    that views of a (pool, action) are matured by. `shadow` is the evidence of all pools' own lists by (cohort,
    pool, action), and `shadow_views` how many views of them it has counted, by pool. `floors` are the parts of a
    page that pools with a long-run share are to have.
    """

    version: int
    records: int
    size: int
    items: list[str]
    number_of: Mapping[str, int]
    likes: IntArray
    popular: ItemArray
    fresh: ItemArray
    neighbours: list[Neighbours]
    near: list[Neighbours]
    successors: list[Neighbours]
    statistics: ItemStatistics
    weights: PopulationWeights | None
    at_ms: int
    newcomers: Mapping[CohortCell, Tally]
    strengths: Mapping[CohortCell, float]
    delta: float
    delays: Mapping[Cell, Delay]
    shadow: Mapping[CohortCell, Tally] = {}
    shadow_views: Mapping[str, int] = {}
    floors: Mapping[str, float] = {}

    def number(self, item: str) -> int | None:
        """The number of an item, None if this version does not know it."""
        number = self.number_of.get(item, self.size)
        return number if number < self.size else None


class Sums:
    """Running sums over all users. One writer owns them; a `Population` made of them never changes."""

    def __init__(self) -> None:
        self.records = 0
        self.at_ms = 0  # the log's time
        self.newcomers: dict[CohortCell, Newcomers] = {}
        self.newcomers_changed = (0, 0)  # the record that changed them last, and its log time
        self.ranks: dict[Cell, RankTallies] = {}
        self.delays: dict[Cell, DelayTallies] = {}
        self.items: list[str] = []
        self.first_ms: list[int] = []  # by item: when it first appeared
        self.number_of: dict[str, int] = {}
        self.likes = RankedCounts()  # one row
        self.together, self.near, self.successors = Relation(), Relation(), Relation()
        self.tallies = ItemTallies()
        self.weights = WeightSums()
        self.shadow = ShadowSums()
        self.reactions = 0  # how many have been absorbed

    def absorb(self, lessons: Iterable[Lesson], at_ms: int, policy: Policy) -> None:
        """Add what one log record, of this log time, taught."""
        self.at_ms = max(self.at_ms, at_ms)
        for lesson in lessons:
            if isinstance(lesson, ViewLesson):
                self._absorb_view(lesson, policy)
            elif isinstance(lesson, PriorLesson):
                self.newcomers_of(lesson.cell, lesson.at_ms, policy).add(lesson)
                self.newcomers_changed = (self.records, self.at_ms)
            elif isinstance(lesson, WeightLesson):
                self.weights.add(lesson, policy.weights.population_half_life_ms)
            elif isinstance(lesson, ShadowLesson):
                self.shadow.add(lesson, policy.memory.shadow_half_life_views)
            else:
                self._absorb_reaction(lesson, policy)
        self.records += 1

    def newcomers_of(self, cell: CohortCell, landmark_ms: int, policy: Policy) -> Newcomers:
        """The sums of a cell; they begin with this landmark."""
        known = self.newcomers.get(cell)
        if known is None:
            half_life_ms = policy.memory.cohort_half_life_ms
            known = self.newcomers[cell] = Newcomers(landmark_ms, half_life_ms, TAIL_VIEWS)
        return known

    def _absorb_view(self, lesson: ViewLesson, policy: Policy) -> None:
        ranks = self.ranks.get(lesson.cell)
        if ranks is None:
            ranks = self.ranks[lesson.cell] = RankTallies()
        ranks.add(lesson.rank, lesson.successes, lesson.exposure)
        if lesson.delay_ms is not None:
            tallies = self.delays.setdefault(lesson.cell, DelayTallies(policy.memory.window_ms))
            tallies.add(lesson.at_ms, lesson.delay_ms)

    def _absorb_reaction(self, lesson: ReactionLesson, policy: Policy) -> None:
        item = self._number(lesson.item)
        liking = lesson.action in policy.likes
        self.reactions += 1
        self.tallies.react(item, liked=liking, earlier=lesson.earlier, at_ms=lesson.at_ms)
        self._relate(item, lesson, policy.population.recent_reactions)
        if not liking:
            return
        self.likes.bump(np.zeros(1, np.int64), np.array([item], np.int64))
        liked = (self._number(entry.item) for entry in reversed(lesson.before) if entry.action in policy.likes)
        partners = dict.fromkeys(islice(liked, policy.population.recent_likes))
        partners.pop(item, None)
        others = np.fromiter(partners, np.int64)
        itself = np.full(others.size, item, np.int64)
        rows, columns = np.concatenate([itself, others]), np.concatenate([others, itself])
        self.together.add(rows, columns, None, self.records)

    def _relate(self, item: int, lesson: ReactionLesson, most: int) -> None:
        """Count what this item came near to in time, and what it followed."""
        ages: dict[int, int] = {}  # item number -> ms since its latest reaction, latest first
        for entry in reversed(lesson.before[-most:]):
            ages.setdefault(self._number(entry.item), lesson.at_ms - entry.at_ms)
        ages.pop(item, None)
        others = np.fromiter(ages, np.int64, len(ages))
        itself = np.full(others.size, item, np.int64)
        units = kernel_units(np.fromiter(ages.values(), np.float64, len(ages)))
        rows, columns = np.concatenate([itself, others]), np.concatenate([others, itself])
        self.near.add(rows, columns, np.concatenate([units, units]), self.records)
        followed = others[:SUCCESSORS]
        lagged = np.maximum(units[:SUCCESSORS] // np.arange(1, followed.size + 1), 1)
        self.successors.add(followed, itself[:SUCCESSORS], lagged, self.records)
        for other, amount in zip(followed.tolist(), lagged.tolist(), strict=True):
            self.tallies.follow(other, amount / UNITS)

    def _number(self, item: str) -> int:
        number = self.number_of.setdefault(item, len(self.items))
        if number == len(self.items):
            self.items.append(item)
            self.first_ms.append(self.at_ms)
        return number


def version_due(records: int, every: int) -> int:
    """The number of the version due after so many log records: one at each of the first, then each `every`."""
    return records if records < every else every - 1 + records // every


def fit(sums: Sums, policy: Policy, previous: Population | None = None) -> Population:
    """The population version of these sums, numbered by their log records.

    A pure function of the sums and the policy: `previous`, an earlier version of the same sums under the same
    policy, only saves making the neighbours and strengths again that have not changed since.
    """
    settings = policy.population
    size = len(sums.items)
    items, counts = sums.likes.top(0, size)
    likes = np.zeros(size, np.int64)
    likes[items] = counts
    most, since = settings.neighbours_max, previous.records if previous else None
    return Population(
        version=version_due(sums.records, settings.every_records),
        records=sums.records,
        size=size,
        items=sums.items,
        number_of=sums.number_of,
        likes=likes,
        popular=items[: settings.top_max],
        fresh=np.arange(size - 1, max(size - 1 - settings.top_max, -1), -1, dtype=np.int32),
        neighbours=sums.together.lists(size, most, previous.neighbours if previous else (), since),
        near=sums.near.lists(size, most, previous.near if previous else (), since),
        successors=sums.successors.lists(size, most, previous.successors if previous else (), since),
        statistics=sums.tallies.at(size, sums.at_ms),
        weights=sums.weights.at(sums.at_ms, policy.weights) if policy.personal else None,
        at_ms=sums.at_ms,
        newcomers={cell: newcomers.at(sums.at_ms) for cell, newcomers in sums.newcomers.items()},
        strengths=_strengths(sums, policy, previous),
        delta=_delta(sums, policy),
        delays=_delays(sums),
        shadow=sums.shadow.now(),
        shadow_views=sums.shadow.views,
        floors=long_run_floors(sums.ranks, policy),
    )


def _strengths(sums: Sums, policy: Policy, previous: Population | None) -> Mapping[CohortCell, float]:
    """How alike users of each cell are; a small cohort is joined by some who are like those of all cohorts.

    As of the last change, so that a version without one has those of the version before.
    """
    record, at_ms = sums.newcomers_changed
    if previous and record < previous.records:
        return previous.strengths
    settings = policy.blend
    base = settings.base_successes + settings.base_failures
    prior = Prior(settings.base_successes / base, base, STRENGTH_SD, max(settings.prior_strength, 1.0))
    tails = {cell: newcomers.tails_at(at_ms, TAIL_VIEWS) for cell, newcomers in sums.newcomers.items()}
    everybody: dict[Cell, Tails] = {}
    for (_, *cell), own in tails.items():
        known = everybody.setdefault((cell[0], cell[1]), no_tails(TAIL_VIEWS))
        everybody[cell[0], cell[1]] = Tails(*(one + other for one, other in zip(known, own, strict=True)))
    return {
        cell: fitted(shrunk(own, everybody[cell[1], cell[2]], COHORT_USERS), prior).strength
        for cell, own in tails.items()
    }


def _delta(sums: Sums, policy: Policy) -> float:
    """The satiation of a feed, from all pools and all actions that are worth something."""
    cells = [(pool, action) for pool in policy.pools for action in policy.likes]
    tried = [sums.ranks[cell] for cell in cells if cell in sums.ranks]
    if not tried or policy.blend.returns != "fitted":
        return 1.0
    counts = np.zeros((2, len(tried), max(len(tallies.exposure) for tallies in tried)))
    for arm, tallies in enumerate(tried):
        counts[0, arm, : len(tallies.successes)] = tallies.successes
        counts[1, arm, : len(tallies.exposure)] = tallies.exposure
    return fitted_delta(counts[0], counts[1], policy.blend.delta_one_chance)


def _delays(sums: Sums) -> dict[Cell, Delay]:
    return {cell: tallies.fitted(sums.at_ms) for cell, tallies in sums.delays.items()}
