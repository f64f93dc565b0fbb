"""How items go together: sparse counts of pairs, and the lists that a population version shows of them.

Three relations are kept. `together`: liked by the same user, counted once. `near`: reacted to by the same user, the
nearer in time the more. `successors`: reacted to soon after another, by places and time. The weights are whole
numbers of units, so that sums are exact, and the same in any order and over any number of partitions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blending.types import FloatArray, IntArray, ItemArray
from engine.ranked_counts import RankedCounts

UNITS = 1024  # of a weight of 1: a kernel's weight is a whole number of them
NEAR_MS = 120_000  # after which a pair of reactions counts half
SUCCESSORS = 5  # earlier reactions that an item is counted as a successor of, the k-th for 1 / k


class Neighbours(NamedTuple):
    """The items that go most with one item: `items` int32 and `counts`, both sorted by count."""

    items: ItemArray
    counts: IntArray


NO_NEIGHBOURS = Neighbours(np.zeros(0, np.int32), np.zeros(0, np.int64))


class Relation:
    """Counts of pairs with a row per item; it knows which rows have changed since when."""

    def __init__(self) -> None:
        """Start with no pairs."""
        self.counts = RankedCounts()
        self.changed: dict[int, int] = {}  # row -> the record that changed it last, oldest first

    def add(self, rows: IntArray, columns: IntArray, amounts: IntArray | None, record: int) -> None:
        """Add amounts (or ones) to pairs (rows[k], columns[k]), as this log record taught."""
        if not rows.size:
            return
        self.counts.bump(rows, columns, amounts)
        for row in dict.fromkeys(rows.tolist()):
            self.changed.pop(row, None)
            self.changed[row] = record

    def replace(self, table: IntArray, records: int) -> None:
        """Take these pairs, (entries, 3) as `RankedCounts.of` reads them, as of so many records."""
        self.counts = RankedCounts.of(table)
        self.changed = dict.fromkeys(np.unique(table[:, 0]).tolist(), records)

    def lists(self, size: int, most: int, known: Sequence[Neighbours], since: int | None) -> list[Neighbours]:
        """The `most` first of each of `size` rows; `known` are those of `since` so many records, None for never."""
        lists = [*known, *[NO_NEIGHBOURS] * (size - len(known))]
        stale = []
        for row, record in reversed(self.changed.items()):
            if since is not None and record < since:
                break
            stale.append(row)
        for row, entries in zip(stale, self.counts.tops(stale, most), strict=True):
            lists[row] = Neighbours(*entries)
        return lists


def kernel_units(apart_ms: FloatArray) -> IntArray:
    """The weight of a pair of reactions so far apart, 1 / (1 + apart / NEAR_MS), in units, at least one."""
    weights = UNITS / (1.0 + np.maximum(apart_ms, 0.0) / NEAR_MS)
    return np.maximum(np.rint(weights), 1.0).astype(np.int64)
