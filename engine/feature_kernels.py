"""The hot loops of the personal pool: scores by relation, candidates, and their features. Each has an oracle."""

import numpy as np

from blending.compiled import compiled
from blending.types import BoolArray, FloatArray, IntArray, ItemArray

# Columns of what features are made of, by item.
NEAR, LAST_NEAR, TOGETHER, SUCCESSOR, EMBEDDING, RECENT_EMBEDDING, LIKES, TREND, FAST, FASTER, STARTS = range(11)
REACTIONS, AFFINITY, LIKED_AFFINITY, FACTOR, COLUMNS = 11, 12, 13, 14, 15
STEPS = 127.0  # that a feature of 1 is of: features are served, recorded and learned from in whole ones, int8
LOG_OF_GREATEST = float(np.log(1.01))
AFFINITY_SURE = 5.0  # reactions' worth of belief that a user likes a token as often as others do
AFFINITY_MAX = 1.0


@compiled
def add_counts(items: ItemArray, counts: IntArray, weight: float, scores: FloatArray) -> None:
    """Add weight * count to the score of each item of a list."""
    for at in range(items.size):
        scores[items[at]] += weight * counts[at]


@compiled
def shrunk_mean(rows: FloatArray, chosen: IntArray, weights: FloatArray, mean: FloatArray, nothing: float) -> None:
    """Make of zeros (d,) the weighted mean of the chosen rows (n, d) and of zeros that weigh `nothing`."""
    total = nothing
    for place in range(chosen.size):
        total += weights[place]
        for at in range(mean.size):
            mean[at] += weights[place] * rows[chosen[place], at]
    for at in range(mean.size):
        mean[at] /= total


@compiled
def join_top(scores: FloatArray, most: int, barred: np.ndarray, union: IntArray, filled: int) -> int:
    """Add the `most` items with the largest scores above 0 to a union that has `filled`; its new length.

    `barred` uint8 (items,) marks what may not be taken; what is taken is marked too, as 2. Smaller numbers first
    among equals.
    """
    best, values = np.empty(most, np.int64), np.empty(most)
    found = 0
    for item in range(scores.size):
        score = scores[item]
        if score <= 0.0 or barred[item] == 1 or (found == most and score <= values[most - 1]):
            continue
        place = min(found, most - 1)
        while place > 0 and values[place - 1] < score:
            best[place], values[place] = best[place - 1], values[place - 1]
            place -= 1
        best[place], values[place] = item, score
        found = min(found + 1, most)
    for place in range(found):
        item = best[place]
        if barred[item] == 0 and filled < union.size:
            barred[item] = 2
            union[filled] = item
            filled += 1
    return filled


@compiled
def join_tops(columns: FloatArray, sources: IntArray, most: IntArray, barred: np.ndarray, union: IntArray) -> int:
    """Begin a union with the most[k] best of each of these columns, one after another; its length."""
    filled = 0
    for place in range(sources.size):
        filled = join_top(columns[sources[place]], most[place], barred, union, filled)
    return filled


@compiled
def join_listed(listed: ItemArray, barred: np.ndarray, union: IntArray, filled: int) -> int:
    """Add the items of a list to a union that has `filled`, but those that `barred` marks as taken; see above."""
    for item in listed:
        if barred[item] != 2:
            barred[item] = 2
            union[filled] = item
            filled += 1
    return filled


@compiled
def token_affinities(
    starts: IntArray, tokens: IntArray, past: IntArray, liked: FloatArray, expected: FloatArray, found: FloatArray
) -> None:
    """What a user's past says of tokens, log((likes + s) / (expected likes + s)): `found` by token, zeros before.

    `starts` (items + 1,) bounds each item's own in `tokens`; `past` are items, `liked` and `expected` (past,) are 0
    or 1, and the item's like rate. `found` is left at 0 for tokens that were not met.
    """
    gains = np.zeros(found.size)
    hopes = np.zeros(found.size)
    for place in range(past.size):
        for at in range(starts[past[place]], starts[past[place] + 1]):
            gains[tokens[at]] += liked[place]
            hopes[tokens[at]] += expected[place]
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
def take(scores: FloatArray, candidates: IntArray, taken: FloatArray) -> None:
    """The candidates' own scores, 0 for those beyond the columns; all but `scores` are (m,)."""
    for place in range(candidates.size):
        taken[place] = scores[candidates[place]] if candidates[place] < scores.size else 0.0


@compiled
def put_taken(taken: FloatArray, x: FloatArray, part: int, log: int) -> None:
    """Scores of the candidates as parts of the greatest of them, within [-1, 1], and what their logarithms are.

    They go into the columns `part` and `log` of x, unless these are below 0. The logarithm's column is
    1 + log((part + .01) / 1.01) / 4.7, from just above 0 to 1; and 0 where there is nothing.
    """
    greatest = 0.0
    for place in range(taken.size):
        greatest = max(greatest, taken[place])
    scale = 1.0 / greatest if greatest > 0.0 else 1.0
    for place in range(taken.size):
        value = min(max(taken[place] * scale, -1.0), 1.0)
        if part >= 0:
            x[place, part] = value
        if log >= 0 and value > 0.0:
            x[place, log] = 1.0 + (np.log(value + 0.01) - LOG_OF_GREATEST) / 4.7


@compiled
def put_bases(columns: FloatArray, candidates: IntArray, x: FloatArray) -> None:
    """Fill the first columns of x, which are `engine.features.BASES`."""
    taken = np.empty(candidates.size)
    for column, part, log in (
        (NEAR, 0, 1),
        (TOGETHER, -1, 2),
        (SUCCESSOR, -1, 3),
        (LAST_NEAR, -1, 4),
        (EMBEDDING, 5, -1),
        (RECENT_EMBEDDING, 6, 7),
        (TREND, -1, 10),
        (FAST, -1, 11),
        (FASTER, -1, 12),
        (STARTS, 13, 14),
        (LIKED_AFFINITY, -1, 17),
        (FACTOR, 18, 19),
    ):
        take(columns[column], candidates, taken)
        put_taken(taken, x, part, log)
    take(columns[TREND], candidates, taken)
    put_taken(np.log1p(taken), x, 9, -1)
    take(columns[LIKES], candidates, taken)
    put_taken(np.log1p(taken), x, 8, -1)
    for place in range(candidates.size):
        item = candidates[place]
        if item < columns.shape[1]:
            x[place, 15] = (columns[LIKES, item] + 2.0) / (columns[REACTIONS, item] + 4.0)
            x[place, 16] = columns[AFFINITY, item]


@compiled
def put_gated(gates: FloatArray, gate_of: IntArray, base_of: IntArray, x: FloatArray, first: int) -> None:
    """Fill columns from `first` on: a base times a gate, by the numbers of both."""
    for place in range(len(x)):
        for at in range(gate_of.size):
            x[place, first + at] = gates[gate_of[at]] * x[place, base_of[at]]


@compiled
def put_presence(
    reactions: FloatArray, described: BoolArray, candidates: IntArray, x: FloatArray, first: int
) -> None:
    """Fill two columns: somebody has reacted to the item; it has attributes."""
    for place in range(candidates.size):
        item = candidates[place]
        if item < reactions.size:
            x[place, first] = 1.0 if reactions[item] > 0.0 else 0.0
            x[place, first + 1] = 1.0 if described[item] else 0.0


@compiled
def put_ranks(ranking: ItemArray, candidates: IntArray, x: FloatArray, column: int) -> None:
    """Fill a column with 1 / sqrt(1 + rank) of the candidates that a pool lists."""
    for rank in range(ranking.size):
        for place in range(candidates.size):
            if candidates[place] == ranking[rank]:
                x[place, column] = 1.0 / np.sqrt(1.0 + rank)


@compiled
def round_to_steps(x: FloatArray, kept: FloatArray) -> None:
    """Round features (m, d) to whole STEPS, those that are not `kept` (d,) to 0; what is no number is missing."""
    for place in range(x.shape[0]):
        for at in range(x.shape[1]):
            value = min(max(x[place, at], -1.0), 1.0) * kept[at]
            x[place, at] = np.rint(value * STEPS) / STEPS if x[place, at] == x[place, at] else 0.0


@compiled
def placed_first(items: IntArray, shown: ItemArray, most: int) -> tuple[IntArray, int]:
    """Places of items (m,): first of those that were shown, then of others, `most` in all; how many were shown."""
    places = np.empty(items.size, np.int64)
    was_shown = np.zeros(items.size, np.bool_)
    count = 0
    for place in range(items.size):
        for item in shown:
            if items[place] == item:
                was_shown[place] = True
        if was_shown[place]:
            places[count] = place
            count += 1
    filled = count
    for place in range(items.size):
        if filled < most and not was_shown[place]:
            places[filled] = place
            filled += 1
    return places[:filled], count
