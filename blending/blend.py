"""One blend: draw from the posteriors, turn rates into utilities, give out the slots."""

from typing import NamedTuple

import numpy as np

from blending.kernels import (
    EXPLORE_STREAM,
    allocate,
    draw_rates,
    intended_counts,
    stream,
    tie_breaks,
    uniform_at,
    utilities_of,
)
from blending.posterior import Beta
from blending.types import FloatArray, IntArray, ItemArray

PARAMETER_MIN, PARAMETER_MAX = 1e-9, 1e15  # of a Beta: beyond them draws underflow, or never end


class Lists(NamedTuple):
    """What the pools offer. `items` (pools, longest list) int32, best first; `stock` (pools,) their lengths.

    Items are opaque integers; the same integer in two lists is the same item.
    """

    items: ItemArray
    stock: IntArray


class Rules(NamedTuple):
    """How utilities become slots.

    `rewards` (actions,) may be negative. `returns` (slots,) is h(n), what a pool's next item is worth after n
    of its items. `temperature` c divides both Beta parameters: the variance is about c times as large, below 1
    the blend is bolder. With probability `epsilon` a feed is mixed at random instead, each slot from any pool
    that has items left. `draws` is 1, one belief for the whole feed, or the number of slots, one for each.
    """

    rewards: FloatArray
    returns: FloatArray
    temperature: float = 1.0
    epsilon: float = 0.0
    draws: int = 1


class Blend(NamedTuple):
    """A blend and everything it was made from.

    `rates` (draws, pools, actions) are the draws, `explored` whether the feed was mixed at random, `intended`
    (pools,) what utilities alone would have given each pool; `slot_pools` and `slot_ranks` (feed length,) where
    each slot came from; `verdicts` (pools, longest list) is 0 unread, 1 placed, 2 duplicate.
    """

    rates: FloatArray
    explored: bool
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


def tempered(posterior: Beta, rules: Rules, pools: int) -> Beta:
    """What rates are drawn from: both parameters divided by the temperature, (pools, actions).

    Raises ValueError unless the posterior has this shape and every parameter that comes out is from
    PARAMETER_MIN to PARAMETER_MAX.
    """
    shape = (pools, rules.rewards.size)
    if not (min(shape) > 0 and posterior.alpha.shape == posterior.beta.shape == shape):
        raise ValueError(f"a blend of {shape[0]} pools and {shape[1]} actions needs a posterior of that shape")
    alpha, beta = posterior.alpha / rules.temperature, posterior.beta / rules.temperature
    parameters = np.concatenate((alpha, beta), axis=None)
    if not (parameters.min() >= PARAMETER_MIN and parameters.max() <= PARAMETER_MAX):
        raise ValueError(f"a Beta posterior needs parameters from {PARAMETER_MIN} to {PARAMETER_MAX}")
    return Beta(alpha, beta)


def blend(posterior: Beta, rules: Rules, lists: Lists, key: np.uint64) -> Blend:
    """Thompson sampling over pools, for a feed of `rules.returns.size` slots.

    The utility of a pool is the reward-weighted sum of its drawn rates. Raises ValueError as `tempered` does.
    """
    alpha, beta = tempered(posterior, rules, lists.stock.size)
    slots = rules.returns.size
    rates = draw_rates(alpha, beta, key, rules.draws)
    utilities = utilities_of(rates, rules.rewards)
    ties = tie_breaks(alpha.shape[0], key)
    # As uint64: the stream begins beyond int64, and numba would look up the types of a larger int each time.
    explored = bool(uniform_at(key, np.uint64(stream(EXPLORE_STREAM))) < rules.epsilon)
    placed = allocate(utilities, ties, rules.returns, lists.items, lists.stock, slots, explored, key)
    return Blend(rates, explored, intended_counts(utilities, ties, rules.returns, slots), *placed)
