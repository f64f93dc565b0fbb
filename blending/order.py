"""Which pool must have which slot: plans that keep floors, spread pools evenly, or round shares at random.

A plan is a row of pools, -1 where a slot is free; all functions make one for each of `samples` feeds at once. Slots
that are pinned are given with every plan and stay as they are.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray, IntArray

NONE = -1


@compiled
def floor_plans(pinned: IntArray, floors: IntArray, uniforms: FloatArray) -> IntArray:
    """Slots for the floors of all pools, spread over the feed; (samples, slots).

    The k-th slot of a pool with a floor of n lies at (k + phase) / n of the free slots, with a random phase of its
    own for each pool, so no pool is always first. `floors` (pools,) must not need more than the free slots; a
    pinned slot counts for its pool's floor. `uniforms` are (samples, pools).
    """
    samples, pools = uniforms.shape
    plans = np.empty((samples, pinned.size), np.int64)
    wanted = floors.copy()
    free = 0
    for pool in pinned:
        if pool >= 0:
            wanted[pool] -= 1
        else:
            free += 1
    total = 0
    for pool in range(pools):
        wanted[pool] = max(0, wanted[pool])
        total += wanted[pool]
    places = np.empty(total)
    owners = np.empty(total, np.int64)
    for sample in range(samples):
        at = 0
        for pool in range(pools):
            for item in range(wanted[pool]):
                places[at] = (item + uniforms[sample, pool]) / wanted[pool] * free
                owners[at] = pool
                at += 1
        order = np.argsort(places)
        # Each goes to its place or the next that is not taken, and leaves room for those after it.
        plans[sample] = pinned
        done = 0
        number = 0  # of the free slot
        for slot in range(pinned.size):
            if pinned[slot] >= 0 or done == total:
                continue
            if places[order[done]] < number + 1 or total - done >= free - number:
                plans[sample, slot] = owners[order[done]]
                done += 1
            number += 1
    return plans


@compiled
def rounded(weights: FloatArray, low: IntArray, high: IntArray, slots: int, uniforms: FloatArray) -> IntArray:
    """Counts in proportion to weights, rounded at random so that each is right in the mean; (samples, pools).

    Systematic rounding: n_p = ⌊C_p + ω⌋ - ⌊C_(p-1) + ω⌋ with C the running sum of the pools' quotas and ω uniform
    (`uniforms`, (samples,)). Quotas add up to `slots` or what `high` allows, in proportion to `weights` (samples,
    pools; at least 0) among the pools that neither `low` nor `high` (pools,) hold fast; 0 <= low <= high, and low
    adds to at most `slots`. A count is its quota rounded up or down, so it keeps within low and high.
    """
    samples, pools = weights.shape
    counts = np.zeros((samples, pools), np.int64)
    quota = np.empty(pools)
    for sample in range(samples):
        _fill(weights[sample], low, high, slots, quota)
        running = uniforms[sample]
        before = np.int64(0)
        for pool in range(pools):
            running += quota[pool]
            # What ought to be a whole sum may miss it by its last bits.
            now = np.int64(np.floor(running + 1e-9)) if pool < pools - 1 else np.int64(np.round(quota.sum()))
            now = min(max(now, before + low[pool]), before + high[pool])
            counts[sample, pool] = now - before
            before = now
    return counts


@compiled
def _fill(weights: FloatArray, low: IntArray, high: IntArray, slots: int, quota: FloatArray) -> None:
    """Quotas in proportion to weights, within low and high, that add up to `slots` or as near as high allows."""
    pools = weights.size
    total = min(float(slots), float(high.sum()))
    # Without weight a pool gets more than its low only where the others are full.
    largest = weights.max()
    parts = np.ones(pools)
    bottom, top = 0.0, 1.0
    for pool in range(pools):
        if largest > 0.0:
            parts[pool] = max(weights[pool] / largest, 1e-9)
        top = max(top, high[pool] / parts[pool])
    for _ in range(200):
        level = 0.5 * (bottom + top)
        filled = 0.0
        for pool in range(pools):
            quota[pool] = min(max(level * parts[pool], float(low[pool])), float(high[pool]))
            filled += quota[pool]
        if filled < total:
            bottom = level
        else:
            top = level


@compiled
def spread_plans(pinned: IntArray, counts: IntArray, uniforms: FloatArray) -> IntArray:
    """The free slots given so that every pool's share of any first k is as near to its share of all as can be.

    Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980: with P pools, counts n_p of N slots
    and e = 1 / (2P - 2), an item of pool p may stand in slot k (from 1) once k n_p / N - (its items so far) >= e,
    and the pool goes first whose next item is due first, at slot ⌊(items so far + 1 - e) N / n_p⌋ + 1: without it,
    that prefix would have too few. Then no prefix deviates from k n_p / N by more than 1 - e. All in whole numbers.

    The first slot goes to a pool drawn in proportion to its count among those with which that still holds; equal
    due slots are told apart at random. `counts` (samples, pools) of each row add up to at most the free slots; a
    pinned slot is not among them. `uniforms` are (samples, 2 * pools); the result is (samples, slots).
    """
    samples, pools = counts.shape
    plans = np.empty((samples, pinned.size), np.int64)
    sequence = np.empty(pinned.size, np.int64)
    for sample in range(samples):
        slots = counts[sample].sum()
        tries = np.empty(pools)
        for pool in range(pools):  # Efraimidis and Spirakis: the smallest of these is drawn in proportion to counts
            tries[pool] = -np.log(uniforms[sample, pool]) / max(counts[sample, pool], 1e-9)
        for first in np.argsort(tries):
            if counts[sample, first] > 0 and _spread(counts[sample], first, uniforms[sample, pools:], sequence):
                break
        plans[sample] = pinned
        at = 0
        for slot in range(pinned.size):
            if pinned[slot] < 0 and at < slots:
                plans[sample, slot] = sequence[at]
                at += 1
    return plans


@compiled
def _spread(counts: IntArray, first: int, ties: FloatArray, sequence: IntArray) -> bool:
    """Fill `sequence` from this first pool on; whether every item could keep to its time."""
    pools = 0
    for pool in range(counts.size):
        pools += counts[pool] > 0
    slots = counts.sum()
    parts = max(2 * pools - 2, 1)  # e = 1 / parts, and everything below is multiplied by it
    given = np.zeros(counts.size, np.int64)
    for k in range(1, slots + 1):
        best, best_due = -1, np.int64(0)
        for pool in range(counts.size):
            n = counts[pool]
            if given[pool] >= n or (parts > 1 and parts * (k * n - given[pool] * slots) < slots):
                continue
            if k == 1 and pool != first:
                continue
            reach = (parts * (given[pool] + 1) - (1 if parts > 1 else 0)) * slots
            due = reach // (parts * n) + 1
            if best < 0 or due < best_due or (due == best_due and ties[pool] > ties[best]):
                best, best_due = pool, due
        if best < 0 or best_due < k:
            return False
        sequence[k - 1] = best
        given[best] += 1
    return True
