"""What is learned across users: running sums, and the one pure `fit` that makes a numbered version of them.

Priors, item statistics and lists are read from a version only, so that a decision can name what it saw.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from blending.posterior import Beta, capped, updated
from blending.types import IntArray, ItemArray
from engine.policy import Policy
from engine.ranked_counts import RankedCounts
from engine.state import EvidenceLesson, Lesson, ReactionLesson, Tally


class Neighbours(NamedTuple):
    """The items most often liked with one item: `items` int32 and `counts`, both sorted by count."""

    items: ItemArray
    counts: IntArray


NO_NEIGHBOURS = Neighbours(np.zeros(0, np.int32), np.zeros(0, np.int64))


class Population(Struct, frozen=True):
    """One version: the fit of the first `records` log records.

    Items are numbered in the order of their first appearance; `items` and `number_of` only ever grow, and
    this version speaks of the first `size` of them. `likes` has shape (size,); `popular` and `fresh` are
    item numbers, best first; `neighbours` has an entry per item; `prior` has shape (pools, actions).
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
    prior: Beta


class Sums:
    """Running sums over all users. One writer owns them; a `Population` made of them never changes."""

    def __init__(self) -> None:
        self.records = 0
        self.arms: dict[tuple[str, str], Tally] = {}
        self.items: list[str] = []
        self.number_of: dict[str, int] = {}
        self.likes = RankedCounts()  # one row
        self.pairs = RankedCounts()  # a row per item
        self.changed: dict[int, int] = {}  # row of `pairs` -> the record that changed it last, oldest first

    def absorb(self, lessons: Iterable[Lesson], policy: Policy) -> None:
        """Add what one log record taught."""
        for lesson in lessons:
            if isinstance(lesson, EvidenceLesson):
                self._absorb_evidence(lesson)
            else:
                self._absorb_reaction(lesson, policy)
        self.records += 1

    def _absorb_evidence(self, lesson: EvidenceLesson) -> None:
        arm = (lesson.pool, lesson.action)
        old = self.arms.get(arm, Tally())
        self.arms[arm] = Tally(old.successes + lesson.successes, old.exposure + lesson.exposure)

    def _absorb_reaction(self, lesson: ReactionLesson, policy: Policy) -> None:
        item = self._number(lesson.item)
        if lesson.action not in policy.likes:
            return
        self.likes.bump(np.zeros(1, np.int64), np.array([item], np.int64))
        liked = (
            self._number(entry.item) for entry in reversed(lesson.before) if entry.action in policy.likes
        )
        partners = dict.fromkeys(islice(liked, policy.population.recent_likes))
        partners.pop(item, None)
        others = np.fromiter(partners, np.int64)
        itself = np.full(others.size, item, np.int64)
        self.pairs.bump(np.concatenate([itself, others]), np.concatenate([others, itself]))
        for row in (item, *partners):
            self.changed.pop(row, None)
            self.changed[row] = self.records

    def _number(self, item: str) -> int:
        number = self.number_of.setdefault(item, len(self.items))
        if number == len(self.items):
            self.items.append(item)
        return number


def fit(sums: Sums, policy: Policy, previous: Population | None = None) -> Population:
    """The population version of these sums.

    A pure function of the sums and the policy: `previous`, an earlier version of the same sums under the same
    policy, only saves copying the neighbours that have not changed since.
    """
    settings = policy.population
    size = len(sums.items)
    items, counts = sums.likes.top(0, size)
    likes = np.zeros(size, np.int64)
    likes[items] = counts
    return Population(
        version=sums.records // settings.every_records,
        records=sums.records,
        size=size,
        items=sums.items,
        number_of=sums.number_of,
        likes=likes,
        popular=items[: settings.top_max],
        fresh=np.arange(size - 1, max(size - 1 - settings.top_max, -1), -1, dtype=np.int32),
        neighbours=_neighbours(sums, settings.neighbours_max, previous),
        prior=_prior(sums, policy),
    )


def _neighbours(sums: Sums, most: int, previous: Population | None) -> list[Neighbours]:
    known = previous.neighbours if previous else []
    neighbours = known + [NO_NEIGHBOURS] * (len(sums.items) - len(known))
    for row, record in reversed(sums.changed.items()):
        if previous and record < previous.records:
            break
        neighbours[row] = Neighbours(*sums.pairs.top(row, most))
    return neighbours


def _prior(sums: Sums, policy: Policy) -> Beta:
    """A new user's prior: the population's own posterior, at most `prior_strength` views strong."""
    actions = policy.rewarded
    tallies = [[sums.arms.get((pool, action), Tally()) for action in actions] for pool in policy.pools]
    base = Beta(
        np.full((len(tallies), len(actions)), policy.blend.base_successes),
        np.full((len(tallies), len(actions)), policy.blend.base_failures),
    )
    successes = np.array([[tally.successes for tally in row] for row in tallies])
    exposure = np.array([[tally.exposure for tally in row] for row in tallies])
    return capped(updated(base, successes, exposure), policy.blend.prior_strength)
