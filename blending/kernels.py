"""The hot loops of a blend: drawing Beta variates and giving out slots. Each has an oracle in its test."""

import numpy as np

from blending.compiled import compiled
from blending.randomness import bits_at, stream, uniform_at
from blending.types import FloatArray, IntArray, ItemArray

UNREAD, PLACED, DUPLICATE = 0, 1, 2  # verdicts on an entry of a pool's list

ONE, TWO = np.uint64(1), np.uint64(2)


@compiled
def log_gamma_variate(shape: float, key: np.uint64, counter: np.uint64) -> tuple[float, np.uint64]:
    """The logarithm of a Gamma(shape, 1) variate, and the next unused counter.

    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26(3), 2000, with their
    boost below shape 1; in logarithms because a variate of shape 1e-3 underflows.
    """
    boost = 0.0
    if shape < 1.0:
        boost = np.log(uniform_at(key, counter)) / shape
        counter += ONE
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        radius = np.sqrt(-2.0 * np.log(uniform_at(key, counter)))
        normal = radius * np.cos(2.0 * np.pi * uniform_at(key, counter + ONE))
        uniform = uniform_at(key, counter + TWO)
        counter += ONE + TWO
        cube = (1.0 + c * normal) ** 3
        if cube > 0.0 and np.log(uniform) < 0.5 * normal * normal + d - d * cube + d * np.log(cube):
            return np.log(d) + np.log(cube) + boost, counter


@compiled
def draw_rates(alpha: FloatArray, beta: FloatArray, key: np.uint64) -> FloatArray:
    """One draw of every Beta(alpha[p, a], beta[p, a]); shape (pools, actions).

    Each cell has a stream of its own, so another arm's posterior never moves this arm's draw.
    """
    pools, actions = alpha.shape
    rates = np.empty((pools, actions))
    for pool in range(pools):
        for action in range(actions):
            counter = stream(pool * actions + action)
            log_x, counter = log_gamma_variate(alpha[pool, action], key, counter)
            log_y, counter = log_gamma_variate(beta[pool, action], key, counter)
            rates[pool, action] = 1.0 / (1.0 + np.exp(log_y - log_x))
    return rates


@compiled
def utilities_of(rates: FloatArray, rewards: FloatArray) -> FloatArray:
    """Reward-weighted sums of rates, (pools, actions) x (actions,) -> (pools,), added in the actions' order.

    A plain loop, because a BLAS product may add in another order on another processor.
    """
    pools, actions = rates.shape
    utilities = np.zeros(pools)
    for pool in range(pools):
        for action in range(actions):
            utilities[pool] += rates[pool, action] * rewards[action]
    return utilities


@compiled
def tie_breaks(pools: int, streams_used: int, key: np.uint64) -> IntArray:
    """A random rank per pool: pools whose utilities are equal must not always come in one order."""
    ties = np.empty(pools, np.int64)
    for pool in range(pools):
        ties[pool] = np.int64(bits_at(key, stream(streams_used + pool)) >> ONE)
    return ties


@compiled
def allocate(
    utilities: FloatArray, ties: IntArray, items: ItemArray, stock: IntArray, slots: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Give out slots one at a time, each to the pool with the largest utility that has an item left.

    `items` (pools, longest list) holds each pool's ranking, best first, of which the first `stock[p]` entries
    are real. An item that another pool has placed is passed over. Returns the pool of each slot, its
    position in that pool's list (both of the feed's length, which is less than `slots` only when every pool
    is empty), and the verdicts (pools, longest list): how far each list was read, and with what result.
    """
    pools = utilities.size
    slot_pools = np.empty(slots, np.int64)
    slot_ranks = np.empty(slots, np.int64)
    verdicts = np.zeros(items.shape, np.int64)
    read = np.zeros(pools, np.int64)
    filled = 0
    while filled < slots:
        best = -1
        for pool in range(pools):
            if read[pool] < stock[pool] and (
                best < 0
                or utilities[pool] > utilities[best]
                or (utilities[pool] == utilities[best] and ties[pool] > ties[best])
            ):
                best = pool
        if best < 0:
            break
        rank = read[best]
        read[best] += 1
        taken = False
        for slot in range(filled):
            if items[slot_pools[slot], slot_ranks[slot]] == items[best, rank]:
                taken = True
                break
        if taken:
            verdicts[best, rank] = DUPLICATE
            continue
        verdicts[best, rank] = PLACED
        slot_pools[filled] = best
        slot_ranks[filled] = rank
        filled += 1
    return slot_pools[:filled], slot_ranks[:filled], verdicts
