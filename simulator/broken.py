"""What is put in a pool's place when it breaks."""

from typing import NamedTuple

import numpy as np

from blending.sampling import uniforms_of
from blending.types import IntArray
from engine.kernels import first_allowed
from engine.pools import Ranking, Visitor
from engine.population import Population


def random_order(key: np.uint64, size: int) -> IntArray:
    """The numbers below `size` in a random order, int64, which is a function of the key."""
    return np.argsort(uniforms_of(key, 0, 1, size)[0], kind="stable")


class RandomPool(NamedTuple):
    """Any known items, in an order that is the key's: one for each request."""

    key: np.uint64

    def rank(self, visitor: Visitor, population: Population, most: int) -> Ranking:
        """Rank the whole catalogue at random."""
        order = random_order(self.key, population.size).astype(np.int32)
        return Ranking(*first_allowed(order, visitor.excluded, most))
