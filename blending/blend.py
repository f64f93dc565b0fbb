"""One blend: draw once per request from the posteriors, turn rates into utilities, give out the slots."""

from typing import NamedTuple

import numpy as np

from blending.kernels import allocate, draw_rates, tie_breaks, utilities_of
from blending.posterior import Beta
from blending.types import FloatArray, IntArray, ItemArray


class Lists(NamedTuple):
    """What the pools offer. `items` (pools, longest list) int32, best first; `stock` (pools,) their lengths.

    Items are opaque integers; the same integer in two lists is the same item.
    """

    items: ItemArray
    stock: IntArray


class Blend(NamedTuple):
    """A blend and everything it was made from.

    `rates` (pools, actions) are the draws; `intended` (pools,) what utilities alone would have given each
    pool; `slot_pools` and `slot_ranks` (feed length,) where each slot came from; `verdicts` (pools, longest
    list) is 0 unread, 1 placed, 2 duplicate.
    """

    rates: FloatArray
    intended: IntArray
    slot_pools: IntArray
    slot_ranks: IntArray
    verdicts: IntArray


def lists_of(rankings: list[ItemArray]) -> Lists:
    """Pad rankings of different lengths into one table."""
    stock = np.array([ranking.size for ranking in rankings], np.int64)
    items = np.full((len(rankings), int(stock.max(initial=0))), -1, np.int32)
    for row, ranking in zip(items, rankings, strict=True):
        row[: ranking.size] = ranking
    return Lists(items, stock)


def blend(posterior: Beta, rewards: FloatArray, lists: Lists, slots: int, key: np.uint64) -> Blend:
    """Thompson sampling over pools: the utility of pool p is the reward-weighted sum of its drawn rates.

    One draw serves the whole feed, because no feedback arrives between its slots. `rewards` has shape
    (actions,); negative rewards are allowed. Raises ValueError unless every parameter is finite and above 0.
    """
    parameters = np.concatenate(posterior, axis=None)
    if not (parameters.min() > 0.0 and parameters.max() < np.inf):  # the sampler would never end
        raise ValueError("a Beta posterior needs finite parameters above 0")
    rates = draw_rates(posterior.alpha, posterior.beta, key)
    utilities = utilities_of(rates, rewards)
    ties = tie_breaks(utilities.size, rates.size, key)
    slot_pools, slot_ranks, verdicts = allocate(utilities, ties, lists.items, lists.stock, slots)
    intended = np.zeros(utilities.size, np.int64)
    intended[np.lexsort((ties, utilities))[-1]] = slots
    return Blend(rates, intended, slot_pools, slot_ranks, verdicts)
