"""The hot loops over large tables: users' sums, and items' features. Each has an oracle in its test.

A table is far greater than the caches, so that rows are asked for before they are needed. It is fastest where it
begins at a cache line and a row is whole lines, which is what `engine.slabs.slab` makes.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray, IntArray
from engine.lanes import dot, prefetch
from engine.weight_kernels import FEATURE_MAX, SCORE_MAX, WEIGHT_MAX, clip, clip_to_unit, probability

EVENTS_AHEAD = 24  # of a batch, whose sums are asked for: enough for the longest wait
ROWS_AHEAD = 512  # of items, together: their lines fill an eighth of a second cache of 1 MB


@compiled
def add_seen_rows(
    sums: FloatArray, users: IntArray, x: FloatArray, etas: FloatArray, y: FloatArray, weights: FloatArray
) -> int:
    """Add what n seen slots say to the diagonal sums of many users; how many were refused.

    `sums` (all users, 2, d) holds the precision's diagonal of a user and then the moment; `users` (n,) are its
    rows, best in order; x is (n, d), and etas, y and weights are (n,). What is added, clipped and refused is
    what `add_seen` of `engine.weight_kernels` does without `full`.
    """
    count, features = x.shape
    refused = 0
    clipped = np.empty(features)
    for event in range(min(EVENTS_AHEAD, count)):
        prefetch(sums, users[event])
    for event in range(count):
        if event + EVENTS_AHEAD < count:
            prefetch(sums, users[event + EVENTS_AHEAD])
        eta, weight, row = etas[event], weights[event], users[event]
        taken = np.isfinite(eta) and np.isfinite(y[event]) and abs(weight) <= WEIGHT_MAX
        score = clip(eta, SCORE_MAX)
        p = probability(score)
        v = weight * p * (1.0 - p)
        by = weight * (clip_to_unit(y[event]) - p) + v * score
        large = 0
        for at in range(features):
            large += not (abs(x[event, at]) <= FEATURE_MAX)
        if large or not taken:
            for at in range(features):
                taken = taken and np.isfinite(x[event, at])
                clipped[at] = clip(x[event, at], FEATURE_MAX)
            refused += not taken
            for at in range(features if taken else 0):
                sums[row, 0, at] += v * clipped[at] * clipped[at]
                sums[row, 1, at] += by * clipped[at]
            continue
        for at in range(features):
            sums[row, 0, at] += v * x[event, at] * x[event, at]
            sums[row, 1, at] += by * x[event, at]
    return refused


@compiled
def best_scored(
    table: np.ndarray, candidates: IntArray, weights: np.ndarray, scores: np.ndarray, best: IntArray
) -> int:
    """Write the scores of all candidates, and the places of the greatest of them into `best`, best first.

    `table` (all items, d) is float32, or float16 viewed as uint16; `candidates` (m,) are rows of it, weights (d,)
    and scores (m,) float32, best (k,). Of equal scores the earlier candidate's is the better; -inf
    and what is not a number are left out. How many there are is returned.
    """
    count, most = candidates.size, best.size
    for first in range(0, count, ROWS_AHEAD):
        end = min(first + ROWS_AHEAD, count)
        for place in range(first, end):
            prefetch(table, candidates[place])
        for place in range(first, end):
            scores[place] = dot(table, candidates[place], weights)
    filled = 0
    least = -np.inf if most else np.inf
    for place in range(count):
        score = scores[place]
        if score > least:
            rank = min(filled, most - 1)
            while rank > 0 and score > scores[best[rank - 1]]:
                best[rank] = best[rank - 1]
                rank -= 1
            best[rank] = place
            filled = min(filled + 1, most)
            if filled == most:
                least = scores[best[most - 1]]
    return filled
