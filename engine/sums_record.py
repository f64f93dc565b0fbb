"""A partition's sums as data, and the sums of many partitions as one: what a fitter reads, and a worker keeps.

What comes of them does not depend on how users were spread over partitions: items are numbered by when they first
appeared, then by name, and every sum is taken in the order of the partitions.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from engine.events import SCHEMA, check_schema
from engine.newcomers import Newcomers, NewcomersRecord
from engine.policy import Policy
from engine.population import Sums
from engine.ranked_counts import RankedCounts
from engine.shadow import ShadowRecord
from engine.state import Cell, CohortCell, Lesson, ReactionLesson
from engine.tallies import DelayTallies, RankTallies


class RanksRecord(Struct, frozen=True, array_like=True):
    """Successes and examined views by rank, of one (pool, action)."""

    cell: Cell
    successes: list[float]
    exposure: list[float]


class DelaysRecord(Struct, frozen=True, array_like=True):
    """What `DelayTallies.exported` gives, of one (pool, action)."""

    cell: Cell
    instant: float
    groups: list[tuple[int, float, float]]


class SumsRecord(Struct, frozen=True, tag_field="kind", tag="sums", kw_only=True):
    """The sums of one partition: of every reaction that entered its log before `version`, a time of the log.

    They were the same at every version from `since` on. `likes` has an entry per item; `pairs` is a flat list of
    (item, other item, count), items by their place in `items`.
    """

    partition: int
    since: int
    version: int
    window_ms: int
    at_ms: int
    records: int
    newcomers: list[tuple[CohortCell, NewcomersRecord]]
    shadow: list[ShadowRecord]
    ranks: list[RanksRecord]
    delays: list[DelaysRecord]
    items: list[str]
    first_ms: list[int]
    likes: list[int]
    pairs: list[int]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, and columns that do not fit together."""
        check_schema(self.schema)
        if not len(self.items) == len(self.first_ms) == len(self.likes) or len(self.pairs) % 3:
            raise ValueError("the columns of the sums do not fit together")


def record_of(sums: Sums, partition: int, since: int, version: int, window_ms: int) -> SumsRecord:
    """These sums as data."""
    size = len(sums.items)
    items, counts = sums.likes.top(0, size)
    likes = np.zeros(size, np.int64)
    likes[items] = counts
    return SumsRecord(
        partition=partition,
        since=since,
        version=version,
        window_ms=window_ms,
        at_ms=sums.at_ms,
        records=sums.records,
        newcomers=[(cell, newcomers.exported()) for cell, newcomers in sorted(sums.newcomers.items())],
        shadow=sums.shadow.exported(),
        ranks=[RanksRecord(cell, list(t.successes), list(t.exposure)) for cell, t in sorted(sums.ranks.items())],
        delays=[DelaysRecord(cell, *t.exported()) for cell, t in sorted(sums.delays.items())],
        items=list(sums.items),
        first_ms=list(sums.first_ms),
        likes=likes.tolist(),
        pairs=sums.pairs.table().ravel().tolist(),
    )


def shortened(lesson: Lesson, policy: Policy) -> Lesson:
    """The same lesson with no more of the user's past than `Sums.absorb` reads: the latest likes."""
    if not isinstance(lesson, ReactionLesson):
        return lesson
    liked = (entry for entry in reversed(lesson.before) if entry.action in policy.likes)
    latest = list(islice(liked, policy.population.recent_likes))
    return ReactionLesson(lesson.item, lesson.action, tuple(reversed(latest)))


def shortlisted(record: SumsRecord, most: int) -> SumsRecord:
    """The same sums with at most so many pairs of each item, the most frequent, so that they fit into a message."""
    pairs = np.array(record.pairs, np.int64).reshape(-1, 3)
    _, first, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(pairs)) - np.repeat(first, count)  # in its item's row, which is sorted
    return replace(record, pairs=pairs[place < most].ravel().tolist())


def merged(records: Iterable[SumsRecord]) -> Sums:
    """The sums of all these partitions together."""
    parts = sorted(records, key=lambda part: part.partition)
    sums = Sums()
    sums.at_ms = max((part.at_ms for part in parts), default=0)
    sums.records = sum(part.records for part in parts)
    _number(sums, parts)
    likes, pairs = [np.zeros((0, 3), np.int64)], [np.zeros((0, 3), np.int64)]
    for part in parts:
        numbers = np.array([sums.number_of[item] for item in part.items], np.int64)
        for cell, record in part.newcomers:
            empty = Newcomers(record.landmark_ms, record.half_life_ms, record.most)
            sums.newcomers.setdefault(cell, empty).merge(record)
        for shadow in part.shadow:
            sums.shadow.merge(shadow)
        for ranks in part.ranks:
            sums.ranks.setdefault(ranks.cell, RankTallies()).merge(ranks.successes, ranks.exposure)
        for delays in part.delays:
            sums.delays.setdefault(delays.cell, DelayTallies(part.window_ms)).merge(delays.instant, delays.groups)
        liked = np.flatnonzero(part.likes)
        counts = np.array(part.likes, np.int64)[liked]
        likes.append(np.column_stack([np.zeros(liked.size, np.int64), numbers[liked], counts]))
        own = np.array(part.pairs, np.int64).reshape(-1, 3)
        pairs.append(np.column_stack([numbers[own[:, 0]], numbers[own[:, 1]], own[:, 2]]))
    sums.newcomers_changed = (sums.records, sums.at_ms)  # a fit of them fits their strengths, and copies all lists
    sums.likes = RankedCounts.of(np.concatenate(likes))
    sums.pairs = RankedCounts.of(np.concatenate(pairs))
    sums.changed = dict.fromkeys(range(len(sums.items)), sums.records)
    return sums


def _number(sums: Sums, parts: Sequence[SumsRecord]) -> None:
    """Number all items by their first appearance anywhere."""
    first_ms: dict[str, int] = {}
    for part in parts:
        for item, at_ms in zip(part.items, part.first_ms, strict=True):
            first_ms[item] = min(at_ms, first_ms.get(item, at_ms))
    sums.items = sorted(first_ms, key=lambda item: (first_ms[item], item))
    sums.first_ms = [first_ms[item] for item in sums.items]
    sums.number_of = {item: number for number, item in enumerate(sums.items)}
