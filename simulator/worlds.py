"""What is true in a simulation: the pools' rates, and how users meet them. Only the referee may look here.

Time is counted in feeds of one user, from 0. An action is worth 1, whenever it comes: a delay postpones it,
and does not take from its worth, even where it is longer than the window and nobody is told any more. So
regret is about the pools' rates alone, and a learner that takes late for never pays for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from simulator.choice import Cascade, Choice, FloatArray, Logit, PositionBased

SLOTS = 10
WINDOW = 150.0  # feeds; three times the longest mean delay
RATES = (0.10, 0.08, 0.05)
DELAYS = (50.0, 5.0, 5.0)
SPREAD = 0.75  # the best items of a pool are 7 times (1.75 / .25) as good as its worst
CACHED = 256  # best allocations that are remembered: one per world and state of rotation


@dataclass(frozen=True)
class World:
    """The truth of one scenario. All tuples are per pool.

    base_rates: probability that an item alone is acted on when it is seen, as the feed begins.
    slots: length of the feeds.
    rotation_feeds: every so many feeds each pool takes the rate of the one before it; 0 is never.
    satiation: δ; the k-th item of one pool in a feed (k from 0, in the order of the slots) is worth δ^k.
    delays: mean of the exponential time between view and action, in feeds; 0 is at once.
    quality_spread: each item's rate is its pool's times a factor drawn evenly from 1 - spread to 1 + spread,
        and its mean delay is its pool's over the same factor. The mean factor is 1, and the mean delay over
        the pool's actions is the pool's: E[factor · (delay / factor)] / E[factor] = delay.
    window: W, in feeds; an action that takes longer never arrives.
    choice: the model of how a feed is gone through.

    Raises ValueError for a truth that cannot be. An attraction is the rate after satiation, in expectation
    over the item's factor.
    """

    name: str
    base_rates: tuple[float, ...] = RATES
    pools: tuple[str, ...] = ("a", "b", "c")
    slots: int = SLOTS
    rotation_feeds: int = 0
    satiation: float = 1.0
    delays: tuple[float, ...] = (0.0, 0.0, 0.0)
    quality_spread: float = 0.0
    window: float = WINDOW
    choice: Choice = field(default=PositionBased((1.0,) * SLOTS))

    def __post_init__(self) -> None:
        """Refuse a truth that cannot be."""
        if not len(self.pools) == len(self.base_rates) == len(self.delays):
            raise ValueError("every pool needs one rate and one delay")
        if not (min(self.base_rates) > 0.0 and max(self.base_rates) * (1.0 + self.quality_spread) < 1.0):
            raise ValueError("every item's rate must lie between 0 and 1")
        if not (0.0 < self.satiation <= 1.0 and 0.0 <= self.quality_spread < 1.0 and min(self.delays) >= 0.0):
            raise ValueError("satiation is in (0, 1], spread in [0, 1), and no delay is below 0")
        if self.quality_spread and isinstance(self.choice, Logit):
            # It is the one model in which an item of mean quality does not stand for the mean over items.
            raise ValueError("the expected reward of items of unequal quality is not known under a logit")

    def rates(self, feed: int) -> FloatArray:
        """The pools' rates in this feed, shape (P,)."""
        return np.array(self._rates(feed))

    def _rates(self, feed: int) -> tuple[float, ...]:
        if not self.rotation_feeds:
            return self.base_rates
        first = -(feed // self.rotation_feeds) % len(self.base_rates)
        return self.base_rates[first:] + self.base_rates[:first]

    def attractions(self, slot_pools: Sequence[int], feed: int) -> FloatArray:
        """The expected attraction of every slot, shape (slots,), for the pools of the slots."""
        return _attractions(self._rates(feed), self.satiation, slot_pools)

    def expected_reward(self, slot_pools: Sequence[int], feed: int) -> float:
        """The expected number of actions on this feed, at once or late."""
        return float(self.choice.acted_probability(self.attractions(slot_pools, feed)).sum())

    def best(self, feed: int) -> float:
        """The largest expected reward of any feed at this time."""
        return _best(self, self._rates(feed))[0]

    def best_slots(self, feed: int) -> list[int]:
        """A feed that reaches it."""
        return list(_best(self, self._rates(feed))[1])


def _attractions(rates: Sequence[float], satiation: float, slot_pools: Sequence[int]) -> FloatArray:
    current = list(rates)
    values = []
    for pool in slot_pools:
        values.append(current[pool])
        current[pool] *= satiation
    return np.array(values)


@lru_cache(CACHED)
def _best(world: World, rates: tuple[float, ...]) -> tuple[float, tuple[int, ...]]:
    """The best expected reward at these rates, and a feed with it: the highest attractions, falling.

    Each pool offers the attractions θ δ^k, k = 0, 1, ...; any feed has some k of the first of each, so the
    highest of all, sorted, are nowhere below those of any other feed, sorted. That this is best needs only
    that reward falls neither when one attraction rises nor when a pair of neighbours comes to stand with the
    higher one first:
    position-based: Σ κ_j θ_j with falling κ (rearrangement).
    cascade: from a slot of attraction x on it is x + η (1 - s x) V, with V of the slots below. It rises in x
        if η s V <= 1; then it is largest at x = 1, and η s times that is η s + η (1 - s)(η s V) <= η, so the
        same holds one slot further up. Neighbours x, y have (x - y)(1 - η) more than y, x.
    logit: Σ w / (1 + Σ w) rises in every w, and knows no order.
    """
    k_th = world.satiation ** np.arange(world.slots)
    offers = [(-rate * k_th[k], k, pool) for pool, rate in enumerate(rates) for k in range(world.slots)]
    slot_pools = tuple(pool for _, _, pool in sorted(offers)[: world.slots])
    attractions = _attractions(rates, world.satiation, slot_pools)
    return float(world.choice.acted_probability(attractions).sum()), slot_pools


EQUAL = (0.08, 0.08, 0.08)
# The discount of a rank in DCG (Järvelin and Kekäläinen 2002), taken as the chance that it is looked at.
LOGARITHMIC = PositionBased(tuple(float(1.0 / np.log2(slot + 2)) for slot in range(SLOTS)))
# Who finds nothing still sees slot 10 in 63 % of feeds (.95^9), and every other action ends the visit.
READER = Cascade(persistence=0.95, stop=0.5)

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World("static"),
        World("satiation", satiation=0.85),
        World("drift", rotation_feeds=500),
        World("delay", delays=DELAYS),
        World("delay_quality", delays=DELAYS, quality_spread=SPREAD),
        World("equal", EQUAL, choice=LOGARITHMIC),
        World("equal_delay", EQUAL, delays=DELAYS),
        World("cascade", choice=READER),
        World("logit", choice=Logit()),
    )
}
