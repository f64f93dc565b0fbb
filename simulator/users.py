"""One simulated user: a function of (seed, user, feed, pools of the slots), and of nothing else.

The random numbers of a feed are one block of Philox's counter-based stream: the key comes from (seed, user),
the counter is the feed, each slot has a row and each purpose a column. So slot j meets the same numbers
whatever stands in it and however long the feed is, whatever came before and whoever else is simulated.
"""

from collections.abc import Sequence
from math import log1p
from typing import NamedTuple

import numpy as np

from simulator.choice import COLUMNS, FloatArray
from simulator.worlds import World

DELAY, QUALITY = COLUMNS, COLUMNS + 1  # purposes, after those of the choice model
PURPOSES = COLUMNS + 2


class Reactions(NamedTuple):
    """The slots that were seen, rising, and the actions as (slot, delay in feeds), rising by slot.

    Delay 0 is an action at once. Every action is on a slot that was seen.
    """

    seen: list[int]
    actions: list[tuple[int, float]]


class Stream:
    """The uniform numbers of one user's feeds, each a function of (seed, user, feed, slot, purpose)."""

    def __init__(self, seed: int, user: int) -> None:
        """`seed` of the run and number of the user, both at least 0."""
        key = np.random.SeedSequence((seed, user)).generate_state(2, np.uint64)
        self._philox = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._philox)
        self._start = self._philox.state  # before the first number; its second counter is the feed

    def of_feed(self, feed: int, slots: int, purposes: int = PURPOSES) -> FloatArray:
        """Uniforms in [0, 1), shape (slots, purposes); a longer feed only adds rows."""
        self._start["state"]["counter"][1] = feed
        self._philox.state = self._start  # a third of the time of a new generator
        return self._generator.random((slots, purposes))


class User:
    """A user of a world. It keeps nothing of feeds it saw: memory is constant, and any feed may be next."""

    def __init__(self, world: World, seed: int, user: int) -> None:
        """`seed` of the run and number of the user, both at least 0."""
        self._world = world
        self._stream = Stream(seed, user)

    def react(self, feed: int, slot_pools: Sequence[int]) -> Reactions:
        """What the user does with this feed, the pools of its slots being `slot_pools`.

        An action that would take longer than the world's window never arrives, and is left out.
        """
        numbers = self._stream.of_feed(feed, len(slot_pools))
        world = self._world
        quality = 1.0 + world.quality_spread * (2.0 * numbers[:, QUALITY] - 1.0)
        attractions = world.attractions(slot_pools, feed) * quality
        outcome = world.choice.react(attractions, numbers[:, :COLUMNS])
        actions = []
        for slot in np.flatnonzero(outcome.acted).tolist():
            mean = world.delays[slot_pools[slot]] / float(quality[slot])
            delay = exponential(mean, float(numbers[slot, DELAY]))
            if delay <= world.window:
                actions.append((slot, delay))
        return Reactions(np.flatnonzero(outcome.seen).tolist(), actions)


def exponential(mean: float, uniform: float) -> float:
    """The exponential of this mean whose distribution function is `uniform`, by inversion."""
    return -mean * log1p(-uniform)
