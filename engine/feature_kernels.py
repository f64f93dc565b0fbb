"""The hot loops of the personal pool: scores by relation, candidates, and their features. Each has an oracle."""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray, IntArray, ItemArray

AFFINITY_SURE = 5.0  # reactions' worth of belief that a user likes a token as often as others do
AFFINITY_MAX = 1.0


@compiled
def spread_scores(
    items: ItemArray, counts: IntArray, lengths: IntArray, weights: FloatArray, scores: FloatArray
) -> None:
    """Add weights[k] * count to the score of each item in the k-th of the lists, which stand one after another."""
    at = 0
    for source in range(lengths.size):
        for _ in range(lengths[source]):
            scores[items[at]] += weights[source] * counts[at]
            at += 1


@compiled
def divide_by_power(scores: FloatArray, amounts: FloatArray, power: float) -> None:
    """Scores /= max(amounts, 1) ** power, where a score is not 0."""
    for item in range(scores.size):
        if scores[item] != 0.0:
            scores[item] /= max(amounts[item], 1.0) ** power


@compiled
def dot_all(vectors: FloatArray, user: FloatArray, scores: FloatArray) -> None:
    """Inner products of all item vectors (items, d) with a user's (d,)."""
    for item in range(scores.size):
        total = 0.0
        for at in range(user.size):
            total += vectors[item, at] * user[at]
        scores[item] = total


@compiled
def join_top(scores: FloatArray, most: int, barred: np.ndarray, union: IntArray, filled: int) -> int:
    """Add the `most` items with the largest scores above 0 to a union that has `filled`; its new length.

    `barred` uint8 (items,) marks what may not be taken; what is taken is marked too, as 2. Smaller numbers first
    among equals.
    """
    best = np.empty(most, np.int64)
    found = 0
    for item in range(scores.size):
        score = scores[item]
        if score <= 0.0 or barred[item] == 1:
            continue
        if found == most and score <= scores[best[most - 1]]:
            continue
        place = min(found, most - 1)
        while place > 0 and scores[best[place - 1]] < score:
            best[place] = best[place - 1]
            place -= 1
        best[place] = item
        found = min(found + 1, most)
    for place in range(found):
        item = best[place]
        if barred[item] == 0 and filled < union.size:
            barred[item] = 2
            union[filled] = item
            filled += 1
    return filled


@compiled
def token_affinities(
    starts: IntArray, tokens: IntArray, liked: FloatArray, expected: FloatArray, found: FloatArray
) -> None:
    """What a user's past says of tokens, log((likes + s) / (expected likes + s)): `found` by token, zeros before.

    `starts` (past + 1,) bounds each past item's own in `tokens`; `liked` and `expected` are (past,): 0 or 1, and
    the item's like rate. `found` is left at 0 for tokens that were not met.
    """
    gains = np.zeros(found.size)
    hopes = np.zeros(found.size)
    for past in range(liked.size):
        for at in range(starts[past], starts[past + 1]):
            gains[tokens[at]] += liked[past]
            hopes[tokens[at]] += expected[past]
    for token in range(found.size):
        if hopes[token] > 0.0:
            found[token] = np.log((gains[token] + AFFINITY_SURE) / (hopes[token] + AFFINITY_SURE))


@compiled
def mean_affinities(starts: IntArray, tokens: IntArray, of_token: FloatArray, found: FloatArray) -> None:
    """The mean over each item's tokens, within [-1, 1]; 0 where it has none. `starts` (items + 1,) as above."""
    for item in range(found.size):
        total = 0.0
        for at in range(starts[item], starts[item + 1]):
            total += of_token[tokens[at]]
        count = max(starts[item + 1] - starts[item], 1)
        found[item] = min(max(total / count, -AFFINITY_MAX), AFFINITY_MAX)


@compiled
def of_greatest(scores: FloatArray, candidates: IntArray, column: FloatArray) -> None:
    """Scores of the candidates as parts of the greatest of them, within [-1, 1]."""
    greatest = 0.0
    for place in range(candidates.size):
        greatest = max(greatest, scores[candidates[place]])
    scale = 1.0 / greatest if greatest > 0.0 else 1.0
    for place in range(candidates.size):
        column[place] = min(max(scores[candidates[place]] * scale, -1.0), 1.0)


@compiled
def log_of_greatest(parts: FloatArray, column: FloatArray) -> None:
    """log(part + .01) from (0, 1] to (0, 1]; 0 where there is nothing, which is less than the least there is."""
    for place in range(parts.size):
        part = parts[place]
        column[place] = 1.0 + np.log(part + 0.01) / 4.7 if part > 0.0 else 0.0
