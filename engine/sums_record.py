"""A partition's sums as data, and the sums of many partitions as one: what a fitter reads, and a worker keeps.

What comes of them does not depend on how users were spread over partitions: items are numbered by when they first
appeared, then by name, and every sum is taken in the order of the partitions.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from blending.types import IntArray
from engine.events import SCHEMA, check_schema
from engine.item_tallies import TalliesRecord
from engine.learning import WeightSumsRecord
from engine.newcomers import Newcomers, NewcomersRecord
from engine.policy import Policy
from engine.population import Sums
from engine.ranked_counts import RankedCounts
from engine.shadow import ShadowRecord
from engine.state import Cell, CohortCell, Lesson, ReactionLesson
from engine.tallies import DelayTallies, RankTallies

RELATIONS = ("together", "near", "successors")


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

    They were the same at every version from `since` on. `likes` and the columns of `tallies` have an entry per
    item; `together`, `near` and `successors` are flat lists of (item, other item, count), items by their place in
    `items`.
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
    together: list[int]
    near: list[int]
    successors: list[int]
    tallies: TalliesRecord
    weights: WeightSumsRecord
    reactions: int
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, and columns that do not fit together."""
        check_schema(self.schema)
        tallies = self.tallies
        columns: list[list[int] | list[float]] = [self.first_ms, self.likes, tallies.reactions, tallies.followed]
        columns += tallies.fading
        if any(len(column) != len(self.items) for column in columns) or any(
            len(getattr(self, name)) % 3 for name in RELATIONS
        ):
            raise ValueError("the columns of the sums do not fit together")


def record_of(sums: Sums, partition: int, since: int, version: int, policy: Policy) -> SumsRecord:
    """These sums, taken under this policy, as data."""
    size = len(sums.items)
    items, counts = sums.likes.top(0, size)
    likes = np.zeros(size, np.int64)
    likes[items] = counts
    return SumsRecord(
        partition=partition,
        since=since,
        version=version,
        window_ms=policy.memory.window_ms,
        at_ms=sums.at_ms,
        records=sums.records,
        newcomers=[(cell, newcomers.exported()) for cell, newcomers in sorted(sums.newcomers.items())],
        shadow=sums.shadow.exported(),
        ranks=[RanksRecord(cell, list(t.successes), list(t.exposure)) for cell, t in sorted(sums.ranks.items())],
        delays=[DelaysRecord(cell, *t.exported()) for cell, t in sorted(sums.delays.items())],
        items=list(sums.items),
        first_ms=list(sums.first_ms),
        likes=likes.tolist(),
        together=sums.together.counts.table().ravel().tolist(),
        near=sums.near.counts.table().ravel().tolist(),
        successors=sums.successors.counts.table().ravel().tolist(),
        tallies=sums.tallies.exported(size),
        weights=sums.weights.exported(policy.weights.population_half_life_ms),
        reactions=sums.reactions,
    )


def shortened(lesson: Lesson, policy: Policy) -> Lesson:
    """The same lesson with no more of the user's past than `Sums.absorb` reads: the latest reactions, and likes."""
    if not isinstance(lesson, ReactionLesson):
        return lesson
    latest = policy.population.recent_reactions
    likes = (
        policy.population.recent_likes if lesson.action in policy.likes else 0
    )  # only a like is paired with them
    kept = []
    for age, entry in enumerate(reversed(lesson.before)):
        if age >= latest and not likes:
            break
        liked = bool(likes) and entry.action in policy.likes
        likes -= liked
        if liked or age < latest:
            kept.append(entry)
    return replace(lesson, before=tuple(reversed(kept)))


def shortlisted(record: SumsRecord, most: int) -> SumsRecord:
    """The same sums with at most so many pairs of each item, the most frequent, so that they fit into a message."""
    return replace(record, **{name: _first(getattr(record, name), most) for name in RELATIONS})


def _first(pairs: list[int], most: int) -> list[int]:
    """So many of each item's pairs; they stand together, sorted."""
    table = np.array(pairs, np.int64).reshape(-1, 3)
    _, first, count = np.unique(table[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(table)) - np.repeat(first, count)  # in its item's row
    kept: list[int] = table[place < most].ravel().tolist()
    return kept


def merged(records: Iterable[SumsRecord]) -> Sums:
    """The sums of all these partitions together."""
    parts = sorted(records, key=lambda part: part.partition)
    sums = Sums()
    sums.at_ms = max((part.at_ms for part in parts), default=0)
    sums.records = sum(part.records for part in parts)
    sums.reactions = sum(part.reactions for part in parts)
    _number(sums, parts)
    likes = [np.zeros((0, 3), np.int64)]
    relations: dict[str, list[IntArray]] = {name: [np.zeros((0, 3), np.int64)] for name in RELATIONS}
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
        for name, tables in relations.items():
            own = np.array(getattr(part, name), np.int64).reshape(-1, 3)
            tables.append(np.column_stack([numbers[own[:, 0]], numbers[own[:, 1]], own[:, 2]]))
        sums.tallies.merge(part.tallies, numbers.tolist())
        sums.weights.merge(part.weights)
    sums.newcomers_changed = (sums.records, sums.at_ms)  # a fit of them fits their strengths, and copies all lists
    sums.likes = RankedCounts.of(np.concatenate(likes))
    for name, tables in relations.items():
        getattr(sums, name).replace(np.concatenate(tables), sums.records)
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
