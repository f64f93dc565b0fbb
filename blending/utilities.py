"""What pools are worth to a feed: draws of their rates, weighed by rewards, or what takes their place."""

import numpy as np

from blending.compiled import compiled
from blending.sampling import draw_rates
from blending.types import BoolArray, FloatArray, IntArray

DRAWN, EXPECTED, FIXED = 0, 1, 2  # where utilities come from: draws, posterior means, or the fallback itself


@compiled
def weighed(rates: FloatArray, rewards: FloatArray, utilities: FloatArray) -> None:
    """Reward-weighted sums of rates, (draws, pools, actions) x (actions,), into `utilities` (draws, pools).

    A plain loop in the actions' order, because a BLAS product may add in another order on another processor.
    """
    draws, pools, actions = rates.shape
    for draw in range(draws):
        for pool in range(pools):
            utility = 0.0
            for action in range(actions):
                utility += rates[draw, pool, action] * rewards[action]
            utilities[draw, pool] = utility


@compiled
def drawn_utilities(
    alpha: FloatArray,
    beta: FloatArray,
    rewards: FloatArray,
    rates: FloatArray,
    utilities: FloatArray,
    key: np.uint64,
) -> None:
    """Draws alone, for those who want no feed of them: into `rates` (draws, pools, actions) and their utilities."""
    draw_rates(alpha, beta, key, 0, rates)
    weighed(rates, rewards, utilities)


@compiled
def fall_back(utilities: FloatArray, fallback: FloatArray, stock: IntArray, mode: int) -> BoolArray:
    """Where no pool with items has a utility above 0, or none is asked for, put the fallback; (draws,) says where.

    Shares of a feed cannot be made of harm alone: such a feed is what the fallback, in proportion, gives.
    """
    fell = np.empty(utilities.shape[0], np.bool_)
    for draw in range(utilities.shape[0]):
        fell[draw] = True
        for pool in range(stock.size):
            if mode != FIXED and stock[pool] > 0 and utilities[draw, pool] > 0.0:
                fell[draw] = False
        if fell[draw]:
            for pool in range(stock.size):
                utilities[draw, pool] = fallback[pool]
    return fell


@compiled
def fallen_slots(rates: FloatArray, rewards: FloatArray, stock: IntArray, mode: int, slots: int) -> BoolArray:
    """In which of the slots the fallback takes the place of utilities: draws go to the slots in turn; (slots,)."""
    utilities = np.empty(rates.shape[:2])
    weighed(rates, rewards, utilities)
    fell, found = fall_back(utilities, np.ones(stock.size), stock, mode), np.empty(slots, np.bool_)
    for slot in range(slots):
        found[slot] = fell[slot % fell.size]
    return found


@compiled
def believed(
    alpha: FloatArray,
    beta: FloatArray,
    rewards: FloatArray,
    fallback: FloatArray,
    stock: IntArray,
    mode: int,
    start: int,
    key: np.uint64,
    rates: FloatArray,
) -> tuple[FloatArray, BoolArray]:
    """Utilities (draws, pools), and where these are the fallback (draws,); `rates` get what they come of.

    A single draw is the first of the key on every page; those of each slot go on after `start`.
    """
    if mode == DRAWN:
        draw_rates(alpha, beta, key, start if rates.shape[0] > 1 else 0, rates)
    else:
        for pool in range(alpha.shape[0]):
            for action in range(alpha.shape[1]):
                rates[0, pool, action] = alpha[pool, action] / (alpha[pool, action] + beta[pool, action])
    utilities = np.empty((rates.shape[0], rates.shape[1]))
    weighed(rates, rewards, utilities)
    return utilities, fall_back(utilities, fallback, stock, mode)
