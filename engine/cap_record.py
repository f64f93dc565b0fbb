"""Caps across pools as a decision holds them, and the tables that the allocator takes of that."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from blending.blend import NO_GROUPS, NO_PLAN
from blending.types import IntArray, ItemArray


class Cap(Struct, frozen=True, array_like=True):
    """A cap as it was in force on a page: at most `most` items of each of its groups.

    `values` are what the groups of the entries that were read have in common; groups count on from rule to rule. An
    entry of any list has at most `width` of them.
    """

    rule: str
    most: int
    width: int
    values: list[str]


def tables_of(
    caps: Sequence[Cap], groups: Sequence[Sequence[Sequence[int]]], longest: int
) -> tuple[ItemArray, IntArray]:
    """What `recorded` stands for: groups (pools, longest, width), none of what was not read, and rooms.

    Raises ValueError for entries of more groups, or of others, than the caps have.
    """
    width = sum(cap.width for cap in caps)
    if not width:
        return NO_GROUPS, NO_PLAN
    rooms = np.array([cap.most for cap in caps for _ in cap.values], np.int64)
    table = np.full((len(groups), longest, width), -1, np.int32)
    for pool, row in enumerate(groups):
        for rank, numbers in enumerate(row):
            if len(numbers) > width or not all(0 <= number < rooms.size for number in numbers):
                raise ValueError("an entry is of a group that no cap has")
            table[pool, rank, : len(numbers)] = numbers
    return table, rooms
