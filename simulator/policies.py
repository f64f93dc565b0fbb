"""What the blend is compared with in a closed loop: baselines told nothing of the world, and the oracle.

All decide for one user, from the views and actions they are told of; a view counts as a failure until an
action comes, and none knows of delay, position or satiation. Every one is a function of its seed.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from simulator.worlds import World

EPSILON = 0.1  # of epsilon_greedy's slots are drawn at random, as in Sutton and Barto's testbed (2.3)
RATIOS = (0.5, 0.3, 0.2)  # of fixed_ratio


class ClosedLoopPolicy(Protocol):
    """One user's policy."""

    def choose(self, feed: int, slots: int) -> list[int]:
        """The pools of the slots of this feed, first slot first. Feeds come in order, from 0."""

    def seen(self, pool: int) -> None:
        """An item of this pool was seen."""

    def acted(self, pool: int) -> None:
        """An action on an item of this pool arrived, whenever it was seen."""


def generator(seed: int, name: str) -> np.random.Generator:
    """The random numbers of one policy; two names never share theirs."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *name.encode()))))


def webster(shares: Sequence[float], slots: int) -> list[int]:
    """Slots given one by one to the largest share / (2 n + 1), n the slots it has; the first of equals."""
    given = [0] * len(shares)
    order = []
    for _ in range(slots):
        claims = [share / (2 * count + 1) for share, count in zip(shares, given, strict=True)]
        pool = claims.index(max(claims))
        given[pool] += 1
        order.append(pool)
    return order


class Deaf:
    """A policy that does not learn."""

    def seen(self, pool: int) -> None:
        """Nothing."""

    def acted(self, pool: int) -> None:
        """Nothing."""


class Random(Deaf):
    """Every slot a pool at random."""

    def __init__(self, pools: int, seed: int) -> None:
        """Draw with this seed."""
        self._pools = pools
        self._random = generator(seed, "random")

    def choose(self, feed: int, slots: int) -> list[int]:  # noqa: ARG002  the port's
        """Each by itself."""
        drawn: list[int] = self._random.integers(0, self._pools, slots).tolist()
        return drawn


class Uniform(Deaf):
    """Every pool equally often, in random order; what is left of the division goes to pools at random."""

    def __init__(self, pools: int, seed: int) -> None:
        """Draw with this seed."""
        self._pools = pools
        self._random = generator(seed, "uniform")

    def choose(self, feed: int, slots: int) -> list[int]:  # noqa: ARG002  the port's
        """Deal the pools out in a random order, and shuffle the slots."""
        dealt = np.resize(self._random.permutation(self._pools), slots)
        shuffled: list[int] = self._random.permutation(dealt).tolist()
        return shuffled


class FixedRatio(Deaf):
    """The same shares in every feed, of the pools in an order that the seed permutes."""

    def __init__(self, pools: int, seed: int, ratios: Sequence[float] = RATIOS) -> None:
        """Give each pool one of the ratios. Raises ValueError unless there is one for each."""
        if len(ratios) != pools:
            raise ValueError(f"{len(ratios)} ratios for {pools} pools")
        order = generator(seed, "fixed_ratio").permutation(pools)
        self.shares = [ratios[place] for place in order]

    def choose(self, feed: int, slots: int) -> list[int]:  # noqa: ARG002  the port's
        """By Webster's method, whose order spreads each pool over the feed."""
        return webster(self.shares, slots)


class Counting:
    """Counts of actions S and views E per pool."""

    def __init__(self, pools: int) -> None:
        """Nothing is counted yet."""
        self.actions = [0] * pools
        self.views = [0] * pools

    def seen(self, pool: int) -> None:
        """One view more."""
        self.views[pool] += 1

    def acted(self, pool: int) -> None:
        """One action more."""
        self.actions[pool] += 1


class Greedy(Counting):
    """Every slot to the pool with the largest S/E; pools never given a slot first, equals at random."""

    EXPLORED = 0.0  # share of the slots that are drawn at random
    NAME = "greedy"

    def __init__(self, pools: int, seed: int) -> None:
        """Break ties with this seed."""
        super().__init__(pools)
        self._untried = list(range(pools))
        self._random = generator(seed, self.NAME)

    def choose(self, feed: int, slots: int) -> list[int]:  # noqa: ARG002  the port's
        """Slot by slot; nothing is learned between the slots of a feed."""
        best = self._best()
        return [self._pool(best, explored) for explored in self._random.random(slots) < self.EXPLORED]

    def _pool(self, best: list[int], explored: bool) -> int:
        pool = self._one_of(range(len(self.views)) if explored else self._untried or best)
        if pool in self._untried:
            self._untried.remove(pool)
        return pool

    def _one_of(self, pools: Sequence[int]) -> int:
        return pools[int(self._random.integers(len(pools)))] if len(pools) > 1 else pools[0]

    def _best(self) -> list[int]:
        rates = [S / E if E else 0.0 for S, E in zip(self.actions, self.views, strict=True)]
        return [pool for pool, rate in enumerate(rates) if rate == max(rates)]


class EpsilonGreedy(Greedy):
    """Greedy, but every slot is a pool at random with probability EPSILON."""

    EXPLORED = EPSILON
    NAME = "epsilon_greedy"


class Proportional(Counting):
    """Shares proportional to the posterior mean (1 + S) / (2 + E) of a Beta(1, 1) prior, by Webster's method.

    A late action may make S exceed E; the mean then exceeds 1/2, and never fails.
    """

    def __init__(self, pools: int, seed: int) -> None:
        """Break ties in an order that the seed permutes."""
        super().__init__(pools)
        self._order: list[int] = generator(seed, "proportional").permutation(pools).tolist()

    def choose(self, feed: int, slots: int) -> list[int]:  # noqa: ARG002  the port's
        """The shares as they are now."""
        shares = [(1 + self.actions[pool]) / (2 + self.views[pool]) for pool in self._order]
        return [self._order[place] for place in webster(shares, slots)]


class Oracle(Deaf):
    """The best feed. It alone is handed the world."""

    def __init__(self, world: World) -> None:
        """Of this world."""
        self._world = world

    def choose(self, feed: int, slots: int) -> list[int]:
        """The world's best feed. Raises ValueError for another length than the world's."""
        if slots != self._world.slots:
            raise ValueError(f"the oracle knows feeds of {self._world.slots} slots, not {slots}")
        return self._world.best_slots(feed)


def baselines(pools: int, seed: int) -> dict[str, ClosedLoopPolicy]:
    """All but the oracle, by name. Raises ValueError unless there are three pools, as fixed_ratio has it."""
    return {
        "random": Random(pools, seed),
        "uniform": Uniform(pools, seed),
        "fixed_ratio": FixedRatio(pools, seed),
        Greedy.NAME: Greedy(pools, seed),
        EpsilonGreedy.NAME: EpsilonGreedy(pools, seed),
        "proportional": Proportional(pools, seed),
    }
