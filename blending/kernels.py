"""The hot loops of a blend: random bits, Beta variates, and giving out slots. Each has an oracle in its test.

Randomness is counter-based: every number is a pure function of (key, counter). The bits are SplitMix64's (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): output i mixes key + i * gamma.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray, IntArray, ItemArray

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
SHIFT_30, SHIFT_27, SHIFT_31, SHIFT_12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
STREAM_LENGTH = np.uint64(1 << 32)  # counters of one stream; streams of a key never overlap

UNREAD, PLACED, DUPLICATE = 0, 1, 2  # verdicts on an entry of a pool's list

ONE, TWO = np.uint64(1), np.uint64(2)
TIE_STREAM, EXPLORE_STREAM = 1 << 30, 1 << 31  # far beyond those of the draws


@compiled
def bits_at(key: np.uint64, counter: np.uint64) -> np.uint64:
    """64 uniform bits, a function of (key, counter) alone."""
    mixed = key + (counter + np.uint64(1)) * GAMMA
    mixed = (mixed ^ (mixed >> SHIFT_30)) * MIX_1
    mixed = (mixed ^ (mixed >> SHIFT_27)) * MIX_2
    return mixed ^ (mixed >> SHIFT_31)


@compiled
def uniform_at(key: np.uint64, counter: np.uint64) -> float:
    """A uniform number strictly between 0 and 1: the middles of 2**52 equal steps."""
    return (float(bits_at(key, counter) >> SHIFT_12) + 0.5) * 2.0**-52


@compiled
def stream(number: int) -> np.uint64:
    """The first counter of stream `number` of a key."""
    return np.uint64(number) * STREAM_LENGTH


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
def draw_rates(alpha: FloatArray, beta: FloatArray, key: np.uint64, draws: int) -> FloatArray:
    """`draws` independent draws of every Beta(alpha[p, a], beta[p, a]); shape (draws, pools, actions).

    Each has a stream of its own, so another arm's posterior never moves this arm's draw.
    """
    pools, actions = alpha.shape
    rates = np.empty((draws, pools, actions))
    for draw in range(draws):
        for pool in range(pools):
            for action in range(actions):
                counter = stream((draw * pools + pool) * actions + action)
                log_x, counter = log_gamma_variate(alpha[pool, action], key, counter)
                log_y, counter = log_gamma_variate(beta[pool, action], key, counter)
                rates[draw, pool, action] = 1.0 / (1.0 + np.exp(log_y - log_x))
    return rates


@compiled
def utilities_of(rates: FloatArray, rewards: FloatArray) -> FloatArray:
    """Reward-weighted sums of rates, (draws, pools, actions) x (actions,) -> (draws, pools), in the actions' order.

    A plain loop, because a BLAS product may add in another order on another processor.
    """
    draws, pools, actions = rates.shape
    utilities = np.zeros((draws, pools))
    for draw in range(draws):
        for pool in range(pools):
            for action in range(actions):
                utilities[draw, pool] += rates[draw, pool, action] * rewards[action]
    return utilities


@compiled
def tie_breaks(pools: int, key: np.uint64) -> IntArray:
    """A random rank per pool: pools whose utilities are equal must not always come in one order."""
    ties = np.empty(pools, np.int64)
    for pool in range(pools):
        ties[pool] = np.int64(bits_at(key, stream(TIE_STREAM) + np.uint64(pool)) >> ONE)
    return ties


@compiled
def best_pool(utilities: FloatArray, ties: IntArray, returns: FloatArray, given: IntArray, left: IntArray) -> int:
    """The pool with the largest utility * h(items given) among those with any `left`; -1 if there is none.

    A negative utility is not multiplied: further items of a harmful pool do not become less harmful.
    """
    best = -1
    best_value = 0.0
    for pool in range(utilities.size):
        if left[pool] <= 0:
            continue
        value = utilities[pool] * (returns[given[pool]] if utilities[pool] > 0.0 else 1.0)
        if best < 0 or value > best_value or (value == best_value and ties[pool] > ties[best]):
            best, best_value = pool, value
    return best


@compiled
def any_pool(key: np.uint64, pick: int, left: IntArray) -> int:
    """A pool drawn uniformly from those with any `left`; -1 if there is none."""
    open_pools = 0
    for pool in range(left.size):
        open_pools += left[pool] > 0
    if open_pools == 0:
        return -1
    skip = np.int64(uniform_at(key, stream(EXPLORE_STREAM) + np.uint64(pick + 1)) * open_pools)
    for pool in range(left.size):
        if left[pool] > 0:
            if skip == 0:
                return pool
            skip -= 1
    return -1


@compiled
def intended_counts(utilities: FloatArray, ties: IntArray, returns: FloatArray, slots: int) -> IntArray:
    """How many slots each pool would get if none ever ran out; shape (pools,)."""
    given = np.zeros(ties.size, np.int64)
    unlimited = np.ones(ties.size, np.int64)
    for slot in range(slots):
        given[best_pool(utilities[slot % utilities.shape[0]], ties, returns, given, unlimited)] += 1
    return given


@compiled
def allocate(
    utilities: FloatArray,
    ties: IntArray,
    returns: FloatArray,
    items: ItemArray,
    stock: IntArray,
    slots: int,
    explored: bool,
    key: np.uint64,
) -> tuple[IntArray, IntArray, IntArray]:
    """Give out slots one at a time, each to the best pool that has an item left, or to any if `explored`.

    `utilities` (draws, pools) holds one draw for all slots or one for each; `returns` (slots,) is h. `items`
    (pools, longest list) holds each pool's ranking, best first, of which the first `stock[p]` entries are real.
    An item that another pool has placed is passed over. Returns the pool of each slot, its position in that
    pool's list (both of the feed's length, which is less than `slots` only when every pool is empty), and the
    verdicts (pools, longest list): how far each list was read, and with what result.
    """
    pools = stock.size
    slot_pools = np.empty(slots, np.int64)
    slot_ranks = np.empty(slots, np.int64)
    verdicts = np.zeros(items.shape, np.int64)
    left = stock.copy()
    given = np.zeros(pools, np.int64)
    filled = 0
    picks = 0
    while filled < slots:
        if explored:
            pool = any_pool(key, picks, left)
        else:
            pool = best_pool(utilities[filled % utilities.shape[0]], ties, returns, given, left)
        if pool < 0:
            break
        picks += 1
        rank = stock[pool] - left[pool]
        left[pool] -= 1
        taken = False
        for slot in range(filled):
            if items[slot_pools[slot], slot_ranks[slot]] == items[pool, rank]:
                taken = True
                break
        if taken:
            verdicts[pool, rank] = DUPLICATE
            continue
        verdicts[pool, rank] = PLACED
        slot_pools[filled] = pool
        slot_ranks[filled] = rank
        given[pool] += 1
        filled += 1
    return slot_pools[:filled], slot_ranks[:filled], verdicts


@compiled
def redrawn_counts(
    alpha: FloatArray,
    beta: FloatArray,
    rewards: FloatArray,
    returns: FloatArray,
    items: ItemArray,
    stock: IntArray,
    draws: int,
    explored: bool,
    samples: int,
    key: np.uint64,
) -> IntArray:
    """How often each slot went to each pool over `samples` blends with keys of their own; shape (slots, pools).

    Arguments as in `draw_rates`, `utilities_of` and `allocate`; `returns` (slots,).
    """
    slots = returns.size
    counts = np.zeros((slots, stock.size), np.int64)
    for sample in range(samples):
        own = bits_at(key, np.uint64(sample))
        utilities = utilities_of(draw_rates(alpha, beta, own, draws), rewards)
        ties = tie_breaks(stock.size, own)
        pools, _, _ = allocate(utilities, ties, returns, items, stock, slots, explored, own)
        for slot in range(pools.size):
            counts[slot, pools[slot]] += 1
    return counts


@compiled
def redrawn_chances(stock: IntArray, slots: int, samples: int, key: np.uint64) -> tuple[FloatArray, FloatArray]:
    """Feeds mixed at random from lists without a common item: chances of each pool, given the slots before.

    A pool that has items left is drawn with chance 1 / (number of those pools). Returns the sums over `samples`
    feeds of these chances and of their squares, each of shape (slots, pools).
    """
    sums = np.zeros((slots, stock.size))
    squares = np.zeros((slots, stock.size))
    for sample in range(samples):
        own = bits_at(key, np.uint64(sample))
        left = stock.copy()
        for slot in range(slots):
            pool = any_pool(own, slot, left)
            if pool < 0:
                break
            chance = 1.0 / np.count_nonzero(left)
            for other in range(stock.size):
                if left[other] > 0:
                    sums[slot, other] += chance
                    squares[slot, other] += chance * chance
            left[pool] -= 1
    return sums, squares
