"""What the tests of the bandit share: seeds, strategies, and plain programs to compare with."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from blending.blend import NO_GROUPS, NO_LIMITS, NO_PLAN, Lists, lists_of
from blending.kernels import allocate
from blending.posterior import Beta
from blending.sampling import EXPLORE_STREAM, draw_rates, uniform_at
from blending.utilities import weighed

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


def rates_of(alpha: np.ndarray, beta: np.ndarray, key: np.uint64, draws: int, first: int = 0) -> np.ndarray:
    """What `draw_rates` fills an array of so many draws with."""
    rates = np.full((draws, *alpha.shape), np.nan)
    draw_rates(alpha, beta, key, first, rates)
    return rates


def utilities_of(rates: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """What `weighed` fills an array of utilities with."""
    utilities = np.full(rates.shape[:2], np.nan)
    weighed(rates, rewards, utilities)
    return utilities


class Offer(NamedTuple):
    """What `allocate` is given: utilities by draw and pool, h by items given, and a feed mixed at random or not.

    `fell` says of each draw whether its utilities are the fallback; None of none.
    """

    utilities: np.ndarray
    ties: np.ndarray
    returns: np.ndarray
    lists: Lists
    slots: int
    explored: bool = False
    key: np.uint64 = np.uint64(SEED)
    fell: np.ndarray | None = None
    limits: np.ndarray = NO_LIMITS
    plan: np.ndarray = NO_PLAN
    start: int = 0
    groups: np.ndarray = NO_GROUPS
    rooms: np.ndarray = NO_PLAN

    @property
    def rankings(self) -> list[list[int]]:
        """The lists without their padding."""
        return [row[:size].tolist() for row, size in zip(*self.lists, strict=True)]

    @property
    def feed(self) -> list[int]:
        """The items that `allocate` puts into the slots."""
        (slot_pools, slot_ranks), _ = self.allocated()
        return self.lists.items[slot_pools, slot_ranks].tolist()

    @property
    def falls(self) -> np.ndarray:
        """`fell`, of every draw."""
        return np.zeros(len(self.utilities), np.bool_) if self.fell is None else self.fell

    @property
    def conditions(self) -> list[tuple[int, int, int]]:
        """Earlier items, floor and cap of each pool."""
        table = self.limits.T.tolist() if self.limits.size else [(0, 0, self.slots)] * self.ties.size
        return [(before, floor, cap) for before, floor, cap in table]

    def allocated(self, chances: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """What `allocate` makes of it."""
        table = np.zeros((0, 0)) if chances is None else chances
        head = (
            self.utilities,
            self.falls,
            self.ties,
            self.returns,
            *self.lists,
            self.limits,
            self.groups,
            self.rooms,
        )
        placed = np.empty((2, self.slots), np.int64)
        verdicts = np.empty(self.lists.items.shape, np.int64)
        length = allocate(
            *head, self.plan, self.slots, self.explored, self.start, self.key, table, placed, verdicts
        )
        return placed[:, :length], verdicts


class Plain(NamedTuple):
    """What a plain program makes of an offer: (pool, rank) of each slot, letters by pool, chances by slot."""

    slots: list[tuple[int, int]]
    verdicts: list[str]
    chances: list[dict[int, Fraction]]


class PlainAllocation:
    """Slot by slot in plain Python: everything is counted anew from what stands in the feed."""

    def __init__(self, offer: Offer) -> None:
        """Nothing is given out yet."""
        self.offer, self.pools = offer, range(offer.ties.size)
        self.unread = [list(enumerate(ranking)) for ranking in offer.rankings]
        self.plan = offer.plan.tolist() or [-1] * offer.slots
        self.slots: list[tuple[int, int]] = []
        self.shown: set[int] = set()
        self.grouped: list[int] = []  # of the items that stand in the feed, a mention each
        self.verdicts = ["" for _ in self.pools]
        self.chances: list[dict[int, Fraction]] = []

    def own(self, pool: int) -> int:
        """Slots of the page that a pool has beside the plan, and all that are planned for it."""
        beside = sum(by == pool != planned for (by, _), planned in zip(self.slots, self.plan, strict=False))
        return beside + self.plan.count(pool)

    def spare(self, pool: int) -> int:
        """Entries left of a pool beyond what is planned for it in this slot and later."""
        return len(self.unread[pool]) - self.plan[len(self.slots) :].count(pool)

    def below(self, pool: int, row: int) -> int:
        """How many slots a pool is below its floor (1) or its cap (2)."""
        return self.offer.conditions[pool][row] - self.own(pool)

    def open_pools(self) -> list[int]:
        """The pools that may have this slot: the first of these sets that is not empty."""
        spare = [pool for pool in self.pools if self.spare(pool) > 0]
        if self.offer.explored:
            needed = sum(max(0, min(self.below(pool, 1), self.spare(pool))) for pool in self.pools)
            if needed and needed >= self.plan[len(self.slots) :].count(-1):
                wanting = [pool for pool in spare if self.below(pool, 1) > 0]
                if wanting:
                    return wanting
        capped = [pool for pool in spare if self.below(pool, 2) > 0]
        return capped or spare or [pool for pool in self.pools if self.unread[pool]]

    def worth(self, pool: int) -> float:
        """What this pool's next item is worth in the next slot."""
        row = len(self.slots) % len(self.offer.utilities)
        utility = float(self.offer.utilities[row, pool])
        given = self.offer.conditions[pool][0] + self.own(pool)
        if utility <= 0.0:
            return utility
        return utility * (1.0 / (2.0 * given + 1.0) if self.offer.falls[row] else float(self.offer.returns[given]))

    def read(self, pool: int) -> None:
        """Read the next entry of a list, and place its item unless it stands there already."""
        rank, item = self.unread[pool].pop(0)
        verdict = self.verdict(pool, rank, item)
        self.verdicts[pool] += verdict
        if verdict == "p":
            self.slots.append((pool, rank))
            self.shown.add(item)
            self.grouped += self.groups_of(pool, rank)

    def groups_of(self, pool: int, rank: int) -> list[int]:
        """The groups of an entry."""
        return [group for group in self.offer.groups[pool, rank] if group >= 0] if self.offer.groups.size else []

    def verdict(self, pool: int, rank: int, item: int) -> str:
        """Placed, a duplicate, or of a group of which the page holds as many as it may."""
        full = any(self.grouped.count(of) >= self.offer.rooms[of] for of in self.groups_of(pool, rank))
        return "d" if item in self.shown else "c" if full else "p"

    def fill(self) -> None:
        """Fill one slot, or read one entry that stands in the feed already."""
        slot = len(self.slots)
        planned = self.plan[slot]
        if planned >= 0 and self.unread[planned]:
            self.read(planned)
            self.chances[slot:] = [{planned: Fraction(1)}]
            return
        if self.offer.explored:
            for pool in self.pools:
                while self.unread[pool] and self.verdict(pool, *self.unread[pool][0]) != "p":
                    self.read(pool)
            if not any(self.unread):
                return
            choice = self.open_pools()
            counter = EXPLORE_STREAM * 2**32 + self.offer.start + slot + 1
            self.read(choice[int(uniform_at(self.offer.key, np.uint64(counter)) * len(choice))])
            self.chances[slot:] = [dict.fromkeys(choice, Fraction(1, len(choice)))]
            return
        best = max(self.open_pools(), key=lambda pool: (self.worth(pool), self.offer.ties[pool]))
        self.read(best)
        self.chances[slot:] = [{best: Fraction(1)}]


def plain_allocation(offer: Offer) -> Plain:
    """All slots, or until every list is read."""
    made = PlainAllocation(offer)
    while len(made.slots) < offer.slots and any(made.unread):
        made.fill()
    return Plain(made.slots, made.verdicts, made.chances[: len(made.slots)])


def letters(verdicts: np.ndarray) -> list[str]:
    """Verdicts as words of p, d and c; anything after the first unread entry would show as a dot."""
    return ["".join(".pdc"[verdict] for verdict in row).rstrip(".") for row in verdicts.tolist()]


def chances_table(plain: Plain, slots: int) -> np.ndarray:
    """The chances of a plain allocation, shape (slots, pools)."""
    table = np.zeros((slots, len(plain.verdicts)))
    for slot, chances in enumerate(plain.chances):
        for pool, chance in chances.items():
            table[slot, pool] = float(chance)
    return table
