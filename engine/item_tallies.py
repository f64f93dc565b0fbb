"""What is counted of each item by itself: reactions, likes that fade at several speeds, and how often it begins.

Terms that fade are weighted forward from a landmark, so that the sums stay sums.
"""

from typing import NamedTuple

import numpy as np
from msgspec import Struct

from blending.types import FloatArray
from engine.newcomers import faded, forward

HOUR_MS = 3_600_000
# Half-lives of likes (trend, fast, faster) and of being among a user's first reactions.
HALF_LIVES_MS = (480 * HOUR_MS, 24 * HOUR_MS, 4 * HOUR_MS, 1440 * HOUR_MS)
TREND, FAST, FASTER, STARTS = range(4)
FIRST = 3  # a user's first reactions, the k-th of which counts 1 / k
FIRST_CAPACITY = 64
DAMPED = 0.4  # between what has most in common with the sources (0) and what has most of its own there (1)


class ItemStatistics(NamedTuple):
    """One version's columns, float64 (items,) each; `fading` is (4, items) as it counts at the version's time.

    `damping` is what scores of what goes together are divided by, of `damping_of`.
    """

    reactions: FloatArray
    followed: FloatArray
    fading: FloatArray
    damping: FloatArray


def damping_of(reactions: FloatArray) -> FloatArray:
    """What scores of items with so many reactions are divided by, so that not the most popular lead all of them."""
    return np.maximum(reactions, 1.0) ** DAMPED


class TalliesRecord(Struct, frozen=True, array_like=True):
    """`ItemTallies` as data: an entry per item in each column."""

    landmarks_ms: list[int]
    reactions: list[float]
    followed: list[float]
    fading: list[list[float]]


class ItemTallies:
    """Growing columns with an entry per item. One writer owns them, readers copy."""

    def __init__(self) -> None:
        """Start with no items."""
        self._plain = np.zeros((2, FIRST_CAPACITY))  # reactions, followed
        self._fading = np.zeros((len(HALF_LIVES_MS), FIRST_CAPACITY))
        self._landmarks_ms = [0] * len(HALF_LIVES_MS)

    def react(self, item: int, *, liked: bool, earlier: int, at_ms: int) -> None:
        """Count a reaction of a user who had reacted `earlier` times."""
        self._make_room(item + 1)
        self._plain[0, item] += 1.0
        if liked:
            for place in (TREND, FAST, FASTER):
                self._fading[place, item] += self._weight(place, at_ms)
        if earlier < FIRST:
            self._fading[STARTS, item] += self._weight(STARTS, at_ms) / (1.0 + earlier)

    def follow(self, item: int, weight: float) -> None:
        """Count that something followed this item."""
        self._make_room(item + 1)
        self._plain[1, item] += weight

    def at(self, size: int, now_ms: int) -> ItemStatistics:
        """The columns of the first `size` items as they count at a moment."""
        self._make_room(size)
        factors = [
            faded(landmark_ms, now_ms, half_life_ms) if landmark_ms else 0.0
            for landmark_ms, half_life_ms in zip(self._landmarks_ms, HALF_LIVES_MS, strict=True)
        ]
        fading = self._fading[:, :size] * np.array(factors)[:, None]
        reactions, followed = self._plain[:, :size].copy()
        return ItemStatistics(reactions, followed, fading, damping_of(reactions))

    def exported(self, size: int) -> TalliesRecord:
        """The columns as data."""
        self._make_room(size)
        reactions, followed = self._plain[:, :size].tolist()
        return TalliesRecord(list(self._landmarks_ms), reactions, followed, self._fading[:, :size].tolist())

    def merge(self, record: TalliesRecord, numbers: list[int]) -> None:
        """Add what another partition exported; `numbers` says which item here each of its items is."""
        self._make_room(max(numbers, default=-1) + 1)
        self._plain[0, numbers] += record.reactions
        self._plain[1, numbers] += record.followed
        for place, landmark_ms in enumerate(record.landmarks_ms):
            if landmark_ms:
                weight = self._weight(place, landmark_ms)
                self._fading[place, numbers] += weight * np.array(record.fading[place])

    def _weight(self, place: int, at_ms: int) -> float:
        """The weight of a term of this moment, after moving the landmark if the term is too far from it."""
        half_life_ms = HALF_LIVES_MS[place]
        self._landmarks_ms[place] = self._landmarks_ms[place] or max(at_ms, 1)
        self._landmarks_ms[place], factor, weight = forward(self._landmarks_ms[place], at_ms, half_life_ms)
        if factor != 1.0:
            self._fading[place] *= factor
        return weight

    def _make_room(self, size: int) -> None:
        missing = size - self._plain.shape[1]
        if missing > 0:
            spare = max(missing, self._plain.shape[1])
            self._plain = np.concatenate([self._plain, np.zeros((len(self._plain), spare))], axis=1)
            self._fading = np.concatenate([self._fading, np.zeros((len(self._fading), spare))], axis=1)
