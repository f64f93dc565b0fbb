"""What the tests of the bandit share: seeds, strategies, and plain programs to compare with."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from blending.blend import Lists, lists_of
from blending.kernels import EXPLORE_STREAM, allocate, uniform_at
from blending.posterior import Beta

ROOT = Path(__file__).parent.parent
SEED = 20161111
FALSE_ALARM = 1e-7  # of each statistical test below

WORD = 2**64
GAMMA, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

words = st.integers(0, WORD - 1)
names = st.lists(st.text("12:a", max_size=6), max_size=4)
shapes = st.floats(0.05, 500.0)
keys = words.map(np.uint64)


@st.composite
def posteriors(draw: st.DrawFn, pools_max: int = 5, actions_max: int = 4) -> Beta:
    """Any posterior of a few pools and actions."""
    size = (draw(st.integers(1, pools_max)), draw(st.integers(1, actions_max)))
    column = st.lists(shapes, min_size=size[0] * size[1], max_size=size[0] * size[1])
    return Beta(np.reshape(draw(column), size), np.reshape(draw(column), size))


def splitmix64(key: int, counter: int) -> int:
    """Output number `counter` of SplitMix64 with the seed `key`, in plain integers."""
    mixed = (key + (counter + 1) * GAMMA) % WORD
    mixed = (mixed ^ mixed >> 30) * MIX_1 % WORD
    mixed = (mixed ^ mixed >> 27) * MIX_2 % WORD
    return mixed ^ mixed >> 31


def disjoint(pools: int, length: int) -> Lists:
    """Lists without a common item."""
    return lists_of([np.arange(pool * length, (pool + 1) * length, dtype=np.int32) for pool in range(pools)])


class Offer(NamedTuple):
    """What `allocate` is given: utilities by draw and pool, h by items given, and a feed mixed at random or not."""

    utilities: np.ndarray
    ties: np.ndarray
    returns: np.ndarray
    lists: Lists
    slots: int
    explored: bool = False
    key: np.uint64 = np.uint64(SEED)

    @property
    def rankings(self) -> list[list[int]]:
        """The lists without their padding."""
        return [row[:size].tolist() for row, size in zip(*self.lists, strict=True)]

    @property
    def feed(self) -> list[int]:
        """The items that `allocate` puts into the slots."""
        slot_pools, slot_ranks, _ = self.allocated()
        return self.lists.items[slot_pools, slot_ranks].tolist()

    def allocated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `allocate` makes of it."""
        utilities, ties, returns, lists, slots, explored, key = self
        return allocate(utilities, ties, returns, lists.items, lists.stock, slots, explored, key)


def plain_allocation(offer: Offer) -> tuple[list[tuple[int, int]], list[str]]:
    """Slot by slot in plain Python: the pools that have something left, and the best of them or any."""
    unread = [list(enumerate(ranking)) for ranking in offer.rankings]
    slots: list[tuple[int, int]] = []
    shown: set[int] = set()
    verdicts = ["" for _ in unread]
    while len(slots) < offer.slots and any(unread):
        left = [pool for pool, entries in enumerate(unread) if entries]
        if offer.explored:
            picks = sum(map(len, verdicts))
            uniform = uniform_at(offer.key, np.uint64(EXPLORE_STREAM * 2**32 + picks + 1))
            pool = left[int(uniform * len(left))]
        else:
            pool = max(left, key=lambda pool: (worth(offer, pool, slots), offer.ties[pool]))
        rank, item = unread[pool].pop(0)
        verdicts[pool] += "d" if item in shown else "p"
        if item not in shown:
            slots.append((pool, rank))
            shown.add(item)
    return slots, verdicts


def worth(offer: Offer, pool: int, slots: list[tuple[int, int]]) -> float:
    """What this pool's next item is worth in the next slot."""
    utility = offer.utilities[len(slots) % len(offer.utilities), pool]
    given_already = [by for by, _ in slots].count(pool)
    return utility * offer.returns[given_already] if utility > 0.0 else utility


def letters(verdicts: np.ndarray) -> list[str]:
    """Verdicts as words of p and d; anything after the first unread entry would show as a dot."""
    return ["".join(".pd"[verdict] for verdict in row).rstrip(".") for row in verdicts.tolist()]
