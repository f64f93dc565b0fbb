"""The hot loops of the pools and of priors. Each has an oracle in its test."""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray, IntArray, ItemArray

MEAN_MAX = 0.999  # of a rate, whatever a user's level


@compiled
def is_excluded(item: int, excluded: IntArray) -> bool:
    """Whether a sorted array holds an item."""
    at = np.searchsorted(excluded, item)
    return bool(at < excluded.size and excluded[at] == item)


@compiled
def first_allowed(order: ItemArray, excluded: IntArray, most: int) -> tuple[ItemArray, ItemArray]:
    """The first `most` items of `order` outside the sorted array `excluded`, and those that were passed over."""
    allowed = np.empty(min(most, order.size), np.int32)
    over = np.empty(min(excluded.size, order.size), np.int32)
    filled = 0
    passed = 0
    for item in order:
        if filled == allowed.size:
            break
        if is_excluded(item, excluded):
            over[passed] = item
            passed += 1
        else:
            allowed[filled] = item
            filled += 1
    return allowed[:filled], over[:passed]


@compiled
def top_neighbours(
    items: ItemArray,
    counts: IntArray,
    lengths: IntArray,
    sources: IntArray,
    likes: IntArray,
    excluded: IntArray,
    most: int,
) -> tuple[ItemArray, ItemArray]:
    """The `most` items with the largest sum of cosines to the sources, and the excluded ones that are better.

    `items` and `counts` hold the sources' lists of neighbours one after another, `lengths` their lengths;
    the cosine of items i and j is (times liked together) / sqrt(likes[i] * likes[j]).
    """
    scores = np.zeros(likes.size)
    touched = np.empty(items.size, np.int32)
    met = 0
    at = 0
    for source in range(sources.size):
        weight = 1.0 / np.sqrt(likes[sources[source]])
        for _ in range(lengths[source]):
            item = items[at]
            if scores[item] == 0.0:
                touched[met] = item
                met += 1
            scores[item] += weight * counts[at]
            at += 1
    best = np.empty(min(most, met), np.int32)
    filled = 0
    barred = 0  # excluded items, moved to the front of `touched`
    for place in range(met):
        item = touched[place]
        scores[item] /= np.sqrt(likes[item])
        if is_excluded(item, excluded):
            touched[barred] = item
            barred += 1
            continue
        if filled == best.size and not _precedes(item, best[filled - 1], scores):
            continue
        rank = min(filled, best.size - 1)
        while rank > 0 and _precedes(item, best[rank - 1], scores):
            best[rank] = best[rank - 1]
            rank -= 1
        best[rank] = item
        filled = min(filled + 1, best.size)
    passed = 0
    for item in touched[:barred]:
        if filled < best.size or _precedes(item, best[filled - 1], scores):
            touched[passed] = item
            passed += 1
    return best[:filled], touched[:passed]


@compiled
def _precedes(item: int, other: int, scores: np.ndarray) -> bool:
    return bool(scores[item] > scores[other] or (scores[item] == scores[other] and item < other))


@compiled
def own_lists(
    ends: IntArray, starts: IntArray, groups: IntArray, places: IntArray, most: IntArray, slots: int
) -> tuple[IntArray, IntArray, IntArray, ItemArray, IntArray]:
    """What each pool would show by itself of what it ranks, where a page holds only so many items of each group.

    Arguments are as in `engine.caps.Ranked`; `most` (rules,) is the room of a rule's groups, -1 where it is not in
    force. A list ends when it holds as many entries for each slot as any outcome of a page may need, which is as
    many as groups in force that one entry is in.

    Returns the entries of each list (pools, longest possible), how many these are (pools,), how many were left out
    for each rule, the first that was full (pools, rules), the groups in force of the entries of each list (pools,
    longest, sum of widths) int32 or -1, and by rule the most groups that one entry is in: its width.
    """
    pools, rules = ends.size - 1, most.size
    widths, own = np.zeros(rules, np.int64), np.zeros(rules, np.int64)
    for entry in range(starts.size - 1):
        own[:] = 0
        for at in range(starts[entry], starts[entry + 1]):
            own[places[groups[at]]] += 1
        for rule in range(rules):
            widths[rule] = max(widths[rule], own[rule])
    width = 0
    for rule in range(rules):
        if most[rule] >= 0:
            width += int(widths[rule])
    longest = 0
    for pool in range(pools):
        longest = max(longest, int(ends[pool + 1] - ends[pool]))
    enough = min(slots * max(1, width), longest)
    kept, sizes = np.zeros((pools, enough), np.int64), np.zeros(pools, np.int64)
    thinned, held = np.zeros((pools, rules), np.int64), np.empty(places.size, np.int64)
    for pool in range(pools):
        held[:] = 0
        for entry in range(ends[pool], ends[pool + 1]):
            if sizes[pool] == enough:
                break
            full = -1
            for at in range(starts[entry], starts[entry + 1]):
                room = most[places[groups[at]]]
                if room >= 0 and held[groups[at]] >= room and (full < 0 or places[groups[at]] < full):
                    full = places[groups[at]]
            if full >= 0:
                thinned[pool, full] += 1
                continue
            kept[pool, sizes[pool]] = entry
            sizes[pool] += 1
            for at in range(starts[entry], starts[entry + 1]):
                held[groups[at]] += 1
    table = np.full((pools, sizes.max(), width), -1, np.int32)
    for pool in range(pools):
        for rank in range(sizes[pool]):
            column = 0
            for at in range(starts[kept[pool, rank]], starts[kept[pool, rank] + 1]):
                if most[places[groups[at]]] >= 0:
                    table[pool, rank, column] = groups[at]
                    column += 1
    return kept, sizes, thinned, table, widths


@compiled
def marginal_order(values: IntArray, weight: float) -> IntArray:
    """Places of a list in the order of maximal marginal relevance (`engine.diversity`); (n,).

    `values` (n, width) are those of each entry, best first, none twice and -1 for none at the end. Of equals the
    one that stands higher comes first.
    """
    size, width = values.shape
    counts = np.zeros(size)
    for place in range(size):
        for column in range(width):
            counts[place] += values[place, column] >= 0
    nearest = np.zeros(size)
    left = np.ones(size, np.uint8)
    order = np.empty(size, np.int64)
    for rank in range(size):
        best, best_worth = -1, 0.0
        for place in range(size):
            if left[place]:
                worth = (1.0 - weight) * (1.0 - place / size) - weight * nearest[place]
                if best < 0 or worth > best_worth:
                    best, best_worth = place, worth
        order[rank] = best
        left[best] = 0
        for place in range(size):
            if left[place]:
                shared = 0
                for one in range(width):
                    for other in range(width):
                        shared += values[best, one] >= 0 and values[best, one] == values[place, other]
                if shared:
                    nearest[place] = max(nearest[place], shared / np.sqrt(counts[best] * counts[place]))
    return order


@compiled
def prior_means(
    others: FloatArray, place: int, own: FloatArray, base_successes: float, base: float, certainty: float
) -> tuple[FloatArray, FloatArray]:
    """What is expected of pools for a user of a cohort, (pools, actions), and the user's level, (actions,).

    From all pools to the pool to the cohort.

    `others` (cohorts, 2, pools, actions) are S and E of everybody else, `place` is the cohort's, `own` (2, pools,
    actions) S and E of the user; each step is as sure of the next as `base` views, of which `base_successes` are.

    What others show is taken at the user's level, how often the user acts over how often others would who had seen
    the same: its prior is Gamma(certainty, certainty), successes are Poisson with the mean level * sum of E * rate,
    and this is the posterior's mean.
    """
    cohorts, _, pools, actions = others.shape
    means, levels = np.empty((pools, actions)), np.empty(actions)
    for action in range(actions):
        level = 1.0
        for _ in range(2):
            successes, exposure = 0.0, 0.0
            for cohort in range(cohorts):
                for pool in range(pools):
                    successes += others[cohort, 0, pool, action]
                    exposure += others[cohort, 1, pool, action]
            all_pools = (base_successes + level * successes) / (base + exposure)
            acted, expected = certainty, certainty
            for pool in range(pools):
                successes, exposure = 0.0, 0.0
                for cohort in range(cohorts):
                    successes += others[cohort, 0, pool, action]
                    exposure += others[cohort, 1, pool, action]
                everywhere = (base * all_pools + level * successes) / (base + exposure)
                successes, exposure = others[place, 0, pool, action], others[place, 1, pool, action]
                means[pool, action] = min((base * everywhere + level * successes) / (base + exposure), MEAN_MAX)
                acted += own[0, pool, action]
                expected += own[1, pool, action] * means[pool, action]
            levels[action] = level
            level = acted / expected
    return means, levels
