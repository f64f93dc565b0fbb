"""The hot loops of a blend: giving out slots. Each has an oracle in its test."""

import numpy as np

from blending.compiled import compiled
from blending.sampling import (
    EXPLORE_STREAM,
    PARAMETER_MAX,
    PARAMETER_MIN,
    stream,
    tie_breaks,
    uniform_at,
)
from blending.types import BoolArray, FloatArray, IntArray, ItemArray
from blending.utilities import believed, fall_back, weighed

UNREAD, PLACED, DUPLICATE, CAPPED = 0, 1, 2, 3  # verdicts on an entry of a pool's list
BEFORE, FLOOR, CAP = 0, 1, 2  # rows of `limits`


@compiled
def best_pool(
    slot: int,
    utilities: FloatArray,
    fell: BoolArray,
    ties: IntArray,
    returns: FloatArray,
    given: IntArray,
    open_pools: IntArray,
) -> int:
    """The open pool with the largest utility * h(items given) in a slot of the page, -1 if none is open.

    Utilities are those of the slot's own draw, or of the only one; h is Webster's where they are the fallback.

    A negative utility is not multiplied: further items of a harmful pool do not become less harmful.
    """
    row = slot if utilities.shape[0] > 1 else 0
    webster = fell[row]
    best = -1
    best_value = 0.0
    for pool in range(ties.size):
        if not open_pools[pool]:
            continue
        value = utilities[row, pool]
        if value > 0.0:
            value *= 1.0 / (2.0 * given[pool] + 1.0) if webster else returns[given[pool]]
        if best < 0 or value > best_value or (value == best_value and ties[pool] > ties[best]):
            best, best_value = pool, value
    return best


@compiled
def is_placed(item: int, feed: IntArray, filled: int) -> bool:
    """Whether an item stands in the first `filled` slots."""
    for slot in range(filled):  # noqa: SIM110  numba compiles no generator expression
        if feed[slot] == item:
            return True
    return False


@compiled
def is_full(pool: int, rank: int, groups: ItemArray, room: IntArray) -> bool:
    """Whether a group of an entry has no room left."""
    for place in range(groups.shape[2]):
        group = groups[pool, rank, place]
        if group >= 0 and room[group] <= 0:
            return True
    return False


@compiled
def is_open(pool: int, left: IntArray, owed: IntArray, own: IntArray, limits: IntArray) -> bool:
    """Whether a pool may have a slot that is not planned."""
    return left[pool] > owed[pool] and (limits.size == 0 or own[pool] < limits[CAP, pool])


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
    utilities, ties = np.empty((rates.shape[0], rates.shape[1])), tie_breaks(stock.size, key)
    weighed(rates, rewards, utilities)
    fell = fall_back(utilities, fallback, stock, mode)
    given = before.copy()
    always = np.ones(stock.size, np.int64)
    for slot in range(slots):
        given[best_pool(slot, utilities, fell, ties, returns, given, always)] += 1
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
    groups: ItemArray,
    rooms: IntArray,
    plan: IntArray,
    slots: int,
    explored: bool,
    start: int,
    key: np.uint64,
    chances: FloatArray,
    placed: IntArray,
    verdicts: IntArray,
) -> int:
    """Give out slots one at a time: to the pool that is planned, the best that is open, or any if `explored`.

    `utilities` (draws, pools) holds one draw for all slots or one for each, `fell` (draws,) where it is the
    fallback; `returns` (start + slots,) is h. `items` (pools, longest list) holds each pool's ranking, best first,
    of which the first `stock[p]` entries are real. `limits` (3, pools) are items in earlier pages (`start` slots),
    floors and caps, or (3, 0) for none; `plan` (slots,) is the pool that must have a slot or -1, or empty for none.
    `groups` (pools, longest list, width) int32 are the groups of each entry, -1 for none, and `rooms` (groups,) how
    many items of each group the page may hold; (0, 0, 0) and (0,) for no groups.

    A pool is open while it is below its cap and has more items left than slots to come are planned for it. Where a
    slot would stay empty, caps give way first, then what was kept back. A plan keeps floors by itself. An explored
    feed keeps them by drawing, once no more slots are left than floors need, from the pools below theirs only. An
    item that stands in the feed already is passed over, and so is one of a group that is full: no room ever grows.

    Returns the feed's length, which is less than `slots` only when every pool is empty. `placed` (2, slots) gets
    the pool of each slot and its position in that pool's list, `verdicts` (pools, longest list): how far each list
    was read, and with what result. `chances` (slots, pools) gains how likely each pool was to get each slot, given
    the slots before and the draws; it may be (0, 0).
    """
    pools = stock.size
    verdicts[:] = UNREAD
    # One array for all of these, because making one takes as long as filling a slot. `owed` are planned slots to
    # come, `given` is in the whole feed, `own` on this page; both count what is planned.
    work = np.zeros(5 * pools + slots + rooms.size, np.int64)
    left, given, own = work[:pools], work[pools : 2 * pools], work[2 * pools : 3 * pools]
    open_pools, owed = work[3 * pools : 4 * pools], work[4 * pools : 5 * pools]
    feed, room = work[5 * pools : 5 * pools + slots], work[5 * pools + slots :]
    grouped = rooms.size > 0
    for group in range(rooms.size):
        room[group] = rooms[group]
    free = slots
    for slot in range(plan.size):
        if plan[slot] >= 0:
            owed[plan[slot]] += 1
            free -= 1
    for pool in range(pools):
        left[pool], own[pool] = stock[pool], owed[pool]
        given[pool] = own[pool] + (limits[BEFORE, pool] if limits.size else 0)
    some = 0
    for pool in range(pools):
        open_pools[pool] = is_open(pool, left, owed, own, limits)
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
                    while left[one] > 0:
                        rank = stock[one] - left[one]
                        if is_placed(items[one, rank], feed, filled):
                            verdicts[one, rank] = DUPLICATE
                        elif grouped and is_full(one, rank, groups, room):
                            verdicts[one, rank] = CAPPED
                        else:
                            break
                        left[one] -= 1
                    if limits.size:
                        needed += max(0, min(limits[FLOOR, one] - own[one], left[one] - owed[one]))
                    open_pools[one] = is_open(one, left, owed, own, limits)
                    some += open_pools[one]
                if needed > 0 and needed >= free:
                    closed = True
                    some = 0
                    for one in range(pools):
                        open_pools[one] = left[one] > owed[one] and own[one] < limits[FLOOR, one]
                        some += open_pools[one]
            if some == 0:
                closed = True
                for kept in (True, False):
                    if some == 0:
                        for one in range(pools):
                            open_pools[one] = left[one] > (owed[one] if kept else 0)
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
                pool = best_pool(filled, utilities, fell, ties, returns, given, open_pools)
        rank = stock[pool] - left[pool]
        left[pool] -= 1
        if is_placed(items[pool, rank], feed, filled):
            verdicts[pool, rank] = DUPLICATE
        elif grouped and is_full(pool, rank, groups, room):
            verdicts[pool, rank] = CAPPED
        else:
            verdicts[pool, rank] = PLACED
            if chances.size and (planned or not explored):
                chances[filled, pool] += 1.0
            if not planned:
                given[pool] += 1
                own[pool] += 1
            if plan.size and plan[filled] >= 0:
                owed[plan[filled]] -= 1
            else:
                free -= 1
            if grouped:
                for place in range(groups.shape[2]):
                    if groups[pool, rank, place] >= 0:
                        room[groups[pool, rank, place]] -= 1
            placed[0, filled], placed[1, filled], feed[filled] = pool, rank, items[pool, rank]
            filled += 1
        if closed:
            some = 0
            for one in range(pools):
                open_pools[one] = is_open(one, left, owed, own, limits)
                some += open_pools[one]
        elif open_pools[pool] and not is_open(pool, left, owed, own, limits):
            open_pools[pool] = 0
            some -= 1
    return filled


@compiled
def blended(
    alpha: FloatArray,
    beta: FloatArray,
    temperature: float,
    rewards: FloatArray,
    returns: FloatArray,
    fallback: FloatArray,
    mode: int,
    epsilon: float,
    items: ItemArray,
    stock: IntArray,
    limits: IntArray,
    groups: ItemArray,
    rooms: IntArray,
    plan: IntArray,
    pinned: IntArray,
    start: int,
    rates: FloatArray,
    placed: IntArray,
    verdicts: IntArray,
    key: np.uint64,
) -> tuple[int, bool]:
    """A whole blend in one call, into `rates` (draws, pools, actions) and what `allocate` fills.

    Returns the feed's length, -1 where the parameters are not fit to be drawn from, and whether it was mixed at
    random. Both parameters are divided by the temperature; a feed that is mixed at random keeps to what is `pinned`
    alone. Results go into arrays that are given because handing one back takes longer than a draw.
    """
    warm = np.empty((2, *alpha.shape))
    for pool in range(alpha.shape[0]):
        for action in range(alpha.shape[1]):
            a, b = alpha[pool, action] / temperature, beta[pool, action] / temperature
            if not (PARAMETER_MIN <= a <= PARAMETER_MAX and PARAMETER_MIN <= b <= PARAMETER_MAX):
                return -1, False
            warm[0, pool, action], warm[1, pool, action] = a, b
    utilities, fell = believed(warm[0], warm[1], rewards, fallback, stock, mode, start, key, rates)
    explored = uniform_at(key, stream(EXPLORE_STREAM)) < epsilon
    if explored:
        plan = pinned
    length = allocate(
        utilities,
        fell,
        tie_breaks(stock.size, key),
        returns,
        items,
        stock,
        limits,
        groups,
        rooms,
        plan,
        returns.size - start,
        explored,
        start,
        key,
        np.empty((0, 0)),
        placed,
        verdicts,
    )
    return length, explored


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
