"""Shares in the long run: the part of all views that a pool is to have at least, held by a feedback controller.

The controlled value is the pool's part of all views so far, whose error is the integral of the errors of all pages:
so a proportional step on it is integral control (Åström and Murray, "Feedback Systems", 2008, chapter 11), and what
was missing for long is made up for, no faster than a page bears. A pool that people look at anyway costs nothing.
"""

from collections.abc import Mapping

import numpy as np

from blending.randomness import key_of
from blending.sampling import uniforms_of
from blending.types import FloatArray, IntArray
from engine.policy import Policy
from engine.state import Cell
from engine.tallies import RankTallies

GAIN = 4.0  # of the missing share, that is added to the share itself,
MOST = 2.0  # up to so many times the share: what was missing for long is made up for in time


def long_run_floors(ranks: Mapping[Cell, RankTallies], policy: Policy) -> dict[str, float]:
    """The part of a page that each pool with a long-run share is to have now, from 0 to its cap."""
    views = dict.fromkeys(policy.pools, 0.0)
    for (pool, _), tallies in ranks.items():
        if pool in views:  # each view counts for every action alike
            views[pool] = max(views[pool], float(sum(tallies.exposure)))
    total = sum(views.values())
    floors = {}
    for name, own in policy.pools.items():
        if own.share > 0.0:
            missing = own.share - views[name] / total if total else 0.0
            floors[name] = min(max(own.share + GAIN * missing, 0.0), MOST * own.share, own.cap)
    return floors


def rounded_floors(policy: Policy, floors: Mapping[str, float], slots: int, *names: str) -> IntArray:
    """Slots of a page by pool, (pools,): parts of a slot are rounded at random, so that they are right in the mean.

    The random numbers are those of a key of the request's `names` alone; a decision holds what came of them.
    """
    shares: FloatArray = slots * np.array([floors.get(name, 0.0) for name in policy.pools])
    uniforms = uniforms_of(key_of(policy.blend.seed, "floors", *names), 0, 1, shares.size)[0]
    return np.asarray(np.floor(shares + uniforms), np.int64)
