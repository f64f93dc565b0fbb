"""Rows of counters that stay sorted: how often items were liked, and how often together."""

import numpy as np

from blending.compiled import compiled
from blending.types import IntArray, ItemArray

FIRST_CAPACITY = 4  # entries of a new row; a full row moves to the end of the slab with twice the room


@compiled
def _bump(
    start: IntArray,
    length: IntArray,
    items: ItemArray,
    counts: IntArray,
    rows: IntArray,
    columns: IntArray,
    amounts: IntArray,
) -> None:
    """Add amounts[k] > 0 to the counter of columns[k] in rows[k]; every row has room for one more entry.

    An entry moves forward past those it now precedes: a row is sorted by (count down, item up), so equal sums
    give equal rows, whatever the order of the additions.
    """
    for k in range(rows.size):
        first, size, item = start[rows[k]], length[rows[k]], columns[k]
        at = first
        while at < first + size and items[at] != item:
            at += 1
        count = amounts[k]
        if at < first + size:
            count += counts[at]
        else:
            length[rows[k]] += 1
        while at > first and (counts[at - 1] < count or (counts[at - 1] == count and items[at - 1] > item)):
            items[at], counts[at] = items[at - 1], counts[at - 1]
            at -= 1
        items[at], counts[at] = item, count


class RankedCounts:
    """A growing table of sparse counters, each row sorted by count. One writer owns it, readers copy."""

    def __init__(self) -> None:
        self._start = np.zeros(0, np.int64)
        self._length = np.zeros(0, np.int64)
        self._capacity = np.zeros(0, np.int64)
        self._items = np.zeros(0, np.int32)
        self._counts = np.zeros(0, np.int64)
        self._end = 0

    @classmethod
    def of(cls, table: IntArray) -> "RankedCounts":
        """The sums of entries (row, item, count), shape (entries, 3); a (row, item) may come more than once."""
        made = cls()
        if not table.size:
            return made
        width = int(table[:, 1].max()) + 1
        cells, places = np.unique(table[:, 0] * width + table[:, 1], return_inverse=True)
        counts = np.zeros(cells.size, np.int64)
        np.add.at(counts, places, table[:, 2])
        rows, items = np.divmod(cells, width)
        order = np.lexsort((items, -counts, rows))
        made._items, made._counts = items[order].astype(np.int32), counts[order]
        made._length = np.bincount(rows)
        made._capacity = made._length.copy()
        made._start = np.cumsum(made._length) - made._length
        made._end = counts.size
        return made

    def bump(self, rows: IntArray, columns: IntArray, amounts: IntArray | None = None) -> None:
        """Add amounts[k] > 0, or one, to each counter (rows[k], columns[k])."""
        self._make_room(rows)
        if amounts is None:
            amounts = np.ones(rows.size, np.int64)
        _bump(self._start, self._length, self._items, self._counts, rows, columns, amounts)

    def tops(self, rows: list[int], most: int) -> list[tuple[ItemArray, IntArray]]:
        """Copies of the `most` largest entries of each of these rows: items and their counts, largest first."""
        first = self._start[rows]
        last = first + np.minimum(self._length[rows], most)
        return [
            (self._items[at:end].copy(), self._counts[at:end].copy())
            for at, end in zip(first.tolist(), last.tolist(), strict=True)
        ]

    def top(self, row: int, most: int) -> tuple[ItemArray, IntArray]:
        """Copies of the `most` largest entries of one row, which need not be there yet."""
        if row >= self._length.size:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        return self.tops([row], most)[0]

    def table(self) -> IntArray:
        """All entries as (row, item, count), shape (entries, 3), each row's largest first."""
        rows = np.repeat(np.arange(self._length.size), self._length)
        before = np.repeat(np.cumsum(self._length) - self._length, self._length)
        places = np.repeat(self._start, self._length) + np.arange(rows.size) - before
        return np.column_stack([rows, self._items[places], self._counts[places]])

    def _make_room(self, rows: IntArray) -> None:
        needed = np.bincount(rows, minlength=self._length.size)
        missing = needed.size - self._length.size
        if missing > 0:
            self._start, self._length, self._capacity = (
                np.concatenate([column, np.zeros(missing, np.int64)])
                for column in (self._start, self._length, self._capacity)
            )
        for row in np.flatnonzero((needed > 0) & (self._length + needed > self._capacity)).tolist():
            self._move(row, max(FIRST_CAPACITY, 2 * int(self._length[row] + needed[row])))

    def _move(self, row: int, capacity: int) -> None:
        if self._end + capacity > self._items.size:
            spare = max(self._items.size, 2 * capacity, 1024)
            self._items = np.concatenate([self._items, np.zeros(spare, np.int32)])
            self._counts = np.concatenate([self._counts, np.zeros(spare, np.int64)])
        old = slice(self._start[row], self._start[row] + self._length[row])
        new = slice(self._end, self._end + self._length[row])
        self._items[new], self._counts[new] = self._items[old], self._counts[old]
        self._start[row], self._capacity[row] = self._end, capacity
        self._end += capacity
