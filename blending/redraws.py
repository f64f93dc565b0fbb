"""The hot loop of propensities: blends drawn again and again. It has an oracle in its test."""

import numpy as np

from blending.compiled import compiled
from blending.kernels import allocate, is_full, is_placed
from blending.sampling import bits_at, tie_breaks
from blending.types import FloatArray, IntArray, ItemArray
from blending.utilities import DRAWN, believed


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
    groups: ItemArray,
    rooms: IntArray,
    plans: IntArray,
    slots: int,
    explored: bool,
    start: int,
    earlier: IntArray,
    samples: int,
    key: np.uint64,
) -> tuple[FloatArray, FloatArray, int]:
    """Chances of each pool in each slot over `samples` blends with keys of their own: sums, and sums of squares.

    Given the draws and the slots before, the chance is 1 for the pool that is best or planned; in a feed that is
    mixed at random it is equal for the pools that are open. Arguments as in `believed` and `allocate`; `plans` are
    (samples, slots), a single one for all, or one of no slots. Both tables have the shape (slots, pools).

    Only those redraws count whose first `start` slots, of pools that never run out, hold `earlier` (pools,) items
    of each; an empty one lets all count. The last result is how many did.
    """
    pools = stock.size
    sums = np.zeros((slots, pools))
    squares = np.zeros((slots, pools))
    chances = np.zeros((slots, pools))
    rates = np.empty((draws if mode == DRAWN else 1, *alpha.shape))
    placed, verdicts = np.empty((2, max(slots, start)), np.int64), np.empty(items.shape, np.int64)
    distinct = np.arange(pools * start).astype(np.int32).reshape((pools, start))
    unread = np.empty(distinct.shape, np.int64)
    plenty = np.full(pools, start)
    accepted = 0
    for sample in range(samples):
        own = bits_at(key, np.uint64(sample))
        utilities, fell = believed(alpha, beta, rewards, fallback, stock, mode, start, own, rates)
        ties = tie_breaks(pools, own)
        if earlier.size:
            allocate(
                utilities,
                fell,
                ties,
                returns,
                distinct,
                plenty,
                np.empty((3, 0), np.int64),
                np.empty((0, 0, 0), np.int32),
                np.empty(0, np.int64),
                np.empty(0, np.int64),
                start,
                explored,
                0,
                own,
                np.empty((0, 0)),
                placed,
                unread,
            )
            matches = True
            for pool in range(pools):
                matches = matches and (placed[0, :start] == pool).sum() == earlier[pool]
            if not matches:
                continue
        accepted += 1
        allocate(
            utilities,
            fell,
            ties,
            returns,
            items,
            stock,
            limits,
            groups,
            rooms,
            plans[sample % plans.shape[0]],
            slots,
            explored,
            start,
            own,
            chances,
            placed,
            verdicts,
        )
        for slot in range(slots):
            for pool in range(pools):
                chance = chances[slot, pool]
                sums[slot, pool] += chance
                squares[slot, pool] += chance * chance
                chances[slot, pool] = 0.0
    return sums, squares, accepted


@compiled
def redrawn_items(
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
    groups: ItemArray,
    rooms: IntArray,
    plans: IntArray,
    explored: bool,
    columns: IntArray,
    wide: int,
    worth: FloatArray,
    samples: int,
    key: np.uint64,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Chances of each pool and of each item in each slot of a feed's first page: sums over `samples` blends.

    As `redrawn`, for what stands in a slot and not only whose it is: `columns` (pools, longest list) is the column
    of every entry's item, of `wide` in all. The tables are (slots, pools) and (slots, wide); the last is the first
    with each chance times `worth` (slots,), that of the k-th item of a pool on the page. In a feed that is mixed
    at random the next item of every open pool has that pool's chance.
    """
    pools, slots = stock.size, returns.size
    chances = np.zeros((slots, pools))
    by_pool, by_item, by_worth = np.zeros((slots, pools)), np.zeros((slots, wide)), np.zeros((slots, pools))
    rates = np.empty((draws if mode == DRAWN else 1, *alpha.shape))
    placed, verdicts = np.empty((2, slots), np.int64), np.empty(items.shape, np.int64)
    feed, ahead, given = np.empty(slots, np.int64), np.empty(pools, np.int64), np.empty(pools, np.int64)
    for sample in range(samples):
        own = bits_at(key, np.uint64(sample))
        utilities, fell = believed(alpha, beta, rewards, fallback, stock, mode, 0, own, rates)
        length = allocate(
            utilities,
            fell,
            tie_breaks(pools, own),
            returns,
            items,
            stock,
            limits,
            groups,
            rooms,
            plans[sample % plans.shape[0]],
            slots,
            explored,
            0,
            own,
            chances,
            placed,
            verdicts,
        )
        ahead[:] = 0
        given[:] = 0
        room = rooms.copy()
        for slot in range(length):
            for pool in range(pools):
                chance = chances[slot, pool]
                chances[slot, pool] = 0.0
                if chance > 0.0:
                    while is_placed(items[pool, ahead[pool]], feed, slot) or (
                        room.size > 0 and is_full(pool, ahead[pool], groups, room)
                    ):
                        ahead[pool] += 1
                    by_pool[slot, pool] += chance
                    by_worth[slot, pool] += chance * worth[given[pool]]
                    by_item[slot, columns[pool, ahead[pool]]] += chance
            owner, rank = placed[0, slot], placed[1, slot]
            given[owner] += 1
            feed[slot] = items[owner, rank]
            if room.size > 0:
                for place in range(groups.shape[2]):
                    if groups[owner, rank, place] >= 0:
                        room[groups[owner, rank, place]] -= 1
    return by_pool, by_item, by_worth
