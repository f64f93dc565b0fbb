"""The hot loops of a blend: utilities, and giving out slots. Each has an oracle in its test."""

import numpy as np

from blending.compiled import compiled
from blending.sampling import (
    EXPLORE_STREAM,
    PARAMETER_MAX,
    PARAMETER_MIN,
    bits_at,
    draw_rates,
    stream,
    tie_breaks,
    uniform_at,
)
from blending.types import BoolArray, FloatArray, IntArray, ItemArray

UNREAD, PLACED, DUPLICATE = 0, 1, 2  # verdicts on an entry of a pool's list
DRAWN, EXPECTED, FIXED = 0, 1, 2  # where utilities come from: draws, posterior means, or the fallback itself
BEFORE, FLOOR, CAP = 0, 1, 2  # rows of `limits`


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
def believed(
    alpha: FloatArray,
    beta: FloatArray,
    rewards: FloatArray,
    fallback: FloatArray,
    stock: IntArray,
    mode: int,
    draws: int,
    start: int,
    key: np.uint64,
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Rates (draws, pools, actions), utilities (draws, pools), and where these are the fallback (draws,).

    A single draw is the first of the key on every page; those of each slot go on after `start`.
    """
    if mode == DRAWN:
        rates = draw_rates(alpha, beta, key, draws, start if draws > 1 else 0)
    else:
        rates = np.empty((1, *alpha.shape))
        for pool in range(alpha.shape[0]):
            for action in range(alpha.shape[1]):
                rates[0, pool, action] = alpha[pool, action] / (alpha[pool, action] + beta[pool, action])
    utilities = utilities_of(rates, rewards)
    return rates, utilities, fall_back(utilities, fallback, stock, mode)


@compiled
def best_pool(
    utilities: FloatArray, fell: bool, ties: IntArray, returns: FloatArray, given: IntArray, open_pools: BoolArray
) -> int:
    """The open pool with the largest utility * h(items given), -1 if none is open; h is Webster's for a fallback.

    A negative utility is not multiplied: further items of a harmful pool do not become less harmful.
    """
    best = -1
    best_value = 0.0
    for pool in range(utilities.size):
        if not open_pools[pool]:
            continue
        value = utilities[pool]
        if value > 0.0:
            value *= 1.0 / (2.0 * given[pool] + 1.0) if fell else returns[given[pool]]
        if best < 0 or value > best_value or (value == best_value and ties[pool] > ties[best]):
            best, best_value = pool, value
    return best


@compiled
def is_placed(item: int, feed: ItemArray, filled: int) -> bool:
    """Whether an item stands in the first `filled` slots."""
    for slot in range(filled):  # noqa: SIM110  numba compiles no generator expression
        if feed[slot] == item:
            return True
    return False


@compiled
def intended_counts(
    rates: FloatArray,
    rewards: FloatArray,
    returns: FloatArray,
    fallback: FloatArray,
    stock: IntArray,
    mode: int,
    before: IntArray,
    slots: int,
    key: np.uint64,
) -> IntArray:
    """How many slots each pool would get by utilities alone, if none ever ran out; shape (pools,)."""
    utilities, ties = utilities_of(rates, rewards), tie_breaks(stock.size, key)
    fell = fall_back(utilities, fallback, stock, mode)
    given = before.copy()
    always = np.ones(stock.size, np.bool_)
    for slot in range(slots):
        row = slot % utilities.shape[0]
        given[best_pool(utilities[row], fell[row], ties, returns, given, always)] += 1
    return given - before


@compiled
def allocate(
    utilities: FloatArray,
    fell: BoolArray,
    ties: IntArray,
    returns: FloatArray,
    items: ItemArray,
    stock: IntArray,
    limits: IntArray,
    plan: IntArray,
    slots: int,
    explored: bool,
    start: int,
    key: np.uint64,
    chances: FloatArray,
) -> tuple[IntArray, IntArray]:
    """Give out slots one at a time: to the pool that is planned, the best that is open, or any if `explored`.

    `utilities` (draws, pools) holds one draw for all slots or one for each, `fell` (draws,) where it is the
    fallback; `returns` (start + slots,) is h. `items` (pools, longest list) holds each pool's ranking, best first,
    of which the first `stock[p]` entries are real. `limits` (3, pools) are items in earlier pages (`start` slots),
    floors and caps, or (3, 0) for none; `plan` (slots,) is the pool that must have a slot or -1, or empty for none.

    A pool is open while it has items left and is below its cap; caps give way where a slot would stay empty. A plan
    keeps floors by itself. An explored feed keeps them by drawing, once no more slots are left than floors need,
    from the pools below theirs only. An item that stands in the feed already is passed over.

    Returns the pool of each slot and its position in that pool's list (2, feed's length, which is less than `slots`
    only when every pool is empty), and the verdicts (pools, longest list): how far each list was read, and
    with what result. `chances` (slots, pools) gains how likely each pool was to get each slot, given the slots
    before and the draws; it may be (0, 0).
    """
    pools = stock.size
    placed = np.empty((2, slots), np.int64)
    feed = np.empty(slots, np.int32)
    verdicts = np.zeros(items.shape, np.int64)
    left, given, own = np.zeros((3, pools), np.int64)  # `given` in the whole feed, `own` here; both with the plan's
    open_pools = np.empty(pools, np.bool_)
    free = slots
    for slot in range(plan.size):
        if plan[slot] >= 0:
            own[plan[slot]] += 1
            free -= 1
    for pool in range(pools):
        left[pool] = stock[pool]
        given[pool] = own[pool] + (limits[BEFORE, pool] if limits.size else 0)
    some = 0
    for pool in range(pools):
        open_pools[pool] = left[pool] > 0 and (limits.size == 0 or own[pool] < limits[CAP, pool])
        some += open_pools[pool]
    filled = 0
    while filled < slots:
        pool = plan[filled] if plan.size else -1
        planned = pool >= 0 and left[pool] > 0
        closed = False  # whether this slot has rules of its own
        if not planned:
            if explored:
                some = 0
                needed = 0
                for one in range(pools):
                    while left[one] > 0 and is_placed(items[one, stock[one] - left[one]], feed, filled):
                        verdicts[one, stock[one] - left[one]] = DUPLICATE
                        left[one] -= 1
                    if limits.size:
                        needed += max(0, min(limits[FLOOR, one] - own[one], left[one]))
                    open_pools[one] = left[one] > 0 and (limits.size == 0 or own[one] < limits[CAP, one])
                    some += open_pools[one]
                if needed > 0 and needed >= free:
                    closed = True
                    some = 0
                    for one in range(pools):
                        open_pools[one] = left[one] > 0 and own[one] < limits[FLOOR, one]
                        some += open_pools[one]
            if some == 0:
                closed = True
                for one in range(pools):
                    open_pools[one] = left[one] > 0
                    some += open_pools[one]
            if some == 0:
                break
            if explored:
                skip = np.int64(uniform_at(key, stream(EXPLORE_STREAM) + np.uint64(start + filled + 1)) * some)
                for one in range(pools):
                    if open_pools[one]:
                        if skip == 0:
                            pool = one
                        skip -= 1
                        if chances.size:
                            chances[filled, one] += 1.0 / some
            else:
                row = filled % utilities.shape[0]
                pool = best_pool(utilities[row], fell[row], ties, returns, given, open_pools)
        rank = stock[pool] - left[pool]
        left[pool] -= 1
        if is_placed(items[pool, rank], feed, filled):
            verdicts[pool, rank] = DUPLICATE
        else:
            verdicts[pool, rank] = PLACED
            if chances.size and (planned or not explored):
                chances[filled, pool] += 1.0
            if not planned:
                given[pool] += 1
                own[pool] += 1
            free -= plan.size == 0 or plan[filled] < 0
            placed[0, filled], placed[1, filled], feed[filled] = pool, rank, items[pool, rank]
            filled += 1
        if closed:
            some = 0
            for one in range(pools):
                open_pools[one] = left[one] > 0 and (limits.size == 0 or own[one] < limits[CAP, one])
                some += open_pools[one]
        elif open_pools[pool] and not (left[pool] > 0 and (limits.size == 0 or own[pool] < limits[CAP, pool])):
            open_pools[pool] = False
            some -= 1
    return placed[:, :filled], verdicts


@compiled
def blended(
    alpha: FloatArray,
    beta: FloatArray,
    temperature: float,
    rewards: FloatArray,
    returns: FloatArray,
    fallback: FloatArray,
    mode: int,
    draws: int,
    epsilon: float,
    items: ItemArray,
    stock: IntArray,
    limits: IntArray,
    plan: IntArray,
    pinned: IntArray,
    start: int,
    key: np.uint64,
) -> tuple[FloatArray, bool, IntArray, IntArray]:
    """A whole blend in one call: rates, whether it was mixed at random, and what `allocate` returns.

    Both parameters are divided by the temperature; without rates, they were not fit to be drawn from. A feed that
    is mixed at random keeps to what is `pinned` alone.
    """
    warm_alpha, warm_beta = np.empty(alpha.shape), np.empty(alpha.shape)
    fit = True
    for pool in range(alpha.shape[0]):
        for action in range(alpha.shape[1]):
            a, b = alpha[pool, action] / temperature, beta[pool, action] / temperature
            fit = fit and PARAMETER_MIN <= a <= PARAMETER_MAX and PARAMETER_MIN <= b <= PARAMETER_MAX
            warm_alpha[pool, action], warm_beta[pool, action] = a, b
    if not fit:
        none = np.empty((2, 0), np.int64)
        return np.empty((0, 0, 0)), False, none, none
    rates, utilities, fell = believed(warm_alpha, warm_beta, rewards, fallback, stock, mode, draws, start, key)
    ties = tie_breaks(stock.size, key)
    explored = uniform_at(key, stream(EXPLORE_STREAM)) < epsilon
    if explored:
        plan = pinned
    slots = returns.size - start
    placed, verdicts = allocate(
        utilities, fell, ties, returns, items, stock, limits, plan, slots, explored, start, key, np.empty((0, 0))
    )
    return rates, explored, placed, verdicts


@compiled
def redrawn(
    alpha: FloatArray,
    beta: FloatArray,
    rewards: FloatArray,
    returns: FloatArray,
    fallback: FloatArray,
    mode: int,
    draws: int,
    items: ItemArray,
    stock: IntArray,
    limits: IntArray,
    plans: IntArray,
    slots: int,
    explored: bool,
    start: int,
    samples: int,
    key: np.uint64,
) -> tuple[FloatArray, FloatArray]:
    """Chances of each pool in each slot over `samples` blends with keys of their own: sums, and sums of squares.

    Given the draws and the slots before, the chance is 1 for the pool that is best or planned; in a feed that is
    mixed at random it is equal for the pools that are open. Arguments as in `believed` and `allocate`; `plans` are
    (samples, slots), a single one for all, or one of no slots. Both results have the shape (slots, pools).
    """
    sums = np.zeros((slots, stock.size))
    squares = np.zeros((slots, stock.size))
    chances = np.zeros((slots, stock.size))
    for sample in range(samples):
        own = bits_at(key, np.uint64(sample))
        _, utilities, fell = believed(alpha, beta, rewards, fallback, stock, mode, draws, start, own)
        ties = tie_breaks(stock.size, own)
        plan = plans[sample % plans.shape[0]]
        allocate(utilities, fell, ties, returns, items, stock, limits, plan, slots, explored, start, own, chances)
        for slot in range(slots):
            for pool in range(stock.size):
                chance = chances[slot, pool]
                sums[slot, pool] += chance
                squares[slot, pool] += chance * chance
                chances[slot, pool] = 0.0
    return sums, squares


@compiled
def offering(items: ItemArray, stock: IntArray, placed: IntArray) -> IntArray:
    """For each slot the pools whose lists hold its item, as bits: 1 is the first pool, 2 the second; (slots,)."""
    found = np.zeros(placed.shape[1], np.int64)
    for slot in range(found.size):
        item = items[placed[0, slot], placed[1, slot]]
        for pool in range(stock.size):
            for rank in range(stock[pool]):
                if items[pool, rank] == item:
                    found[slot] |= 1 << pool
                    break
    return found
