"""The hot loops of a user's weights. Each has an oracle in its test.

With d features, `precision` is the lower triangle of a symmetric (d, d) matrix, row by row, float64 of shape
(d (d + 1) / 2,), and `moment` is (d,) float64. A term is linearised at the score eta that was served, so what is
added to both depends on that term alone: sums may be made in any order, merged, and a term is taken out again by
adding it with the negative of its weight. Source: the Laplace update of Chapelle and Li, "An Empirical Evaluation
of Thompson Sampling" (NIPS 2011, algorithm 3), with its expansion at the served score instead of a running mode.

Values are clipped, so that no finite input makes a sum overflow; a term that is not finite is refused as a whole.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray

FEATURE_MAX = 100.0  # of a feature's size: they are made to lie in [-1, 1]
SCORE_MAX = 30.0  # of a logistic score's size: beyond it there is nothing left to learn, p (1 - p) < 1e-13
VALUE_MAX = 1e6  # of a real outcome's size
VARIANCE_MIN = 1e-6  # of a real outcome
WEIGHT_MAX = 2.0**512  # of a term: sums of 2**400 terms of this size stay below the largest double
PIVOT_MIN = 1e-13  # of a diagonal's part: rounding must not make a matrix that is positive look otherwise
ROWS = 64  # whose variances are found together: of 64 features they fill the nearest cache


@compiled
def outside(values: FloatArray, most: float) -> int:
    """How many of the values, shape (n,), are not within [-most, most]; NaN is not."""
    count = 0
    for value in values:
        count += not (abs(value) <= most)
    return count


@compiled
def within(values: FloatArray, most: float, clipped: FloatArray) -> bool:
    """Write the values into `clipped`, both (n,), at most `most` in size; False if one of them is not finite."""
    for at in range(values.size):
        clipped[at] = min(max(values[at], -most), most)
    return outside(values, np.finfo(np.float64).max) == 0


@compiled
def add_outer(precision: FloatArray, x: FloatArray, v: float) -> None:
    """Add v x x' for x of shape (d,)."""
    at = 0
    for row in range(x.size):
        of_row = v * x[row]
        for column in range(row + 1):
            precision[at + column] += of_row * x[column]
        at += row + 1


@compiled
def add_squares(precision: FloatArray, x: FloatArray, v: float) -> None:
    """Add the diagonal of v x x' alone, for x of shape (d,)."""
    at = 0
    for row in range(x.size):
        precision[at] += v * x[row] * x[row]
        at += row + 2


@compiled
def add_scaled(sums: FloatArray, x: FloatArray, by: float) -> None:
    """Add by * x, both of shape (n,)."""
    for at in range(x.size):
        sums[at] += by * x[at]


@compiled
def probability(eta: float) -> float:
    """The logistic function of a score of at most SCORE_MAX in size."""
    return float(1.0 / (1.0 + np.exp(-eta)))


@compiled
def clip(value: float, most: float) -> float:
    """The value, at most `most` in size."""
    return float(min(max(value, -most), most))


@compiled
def clip_to_unit(value: float) -> float:
    """The value, within [0, 1]."""
    return float(min(max(value, 0.0), 1.0))


@compiled
def add_term(precision: FloatArray, moment: FloatArray, x: FloatArray, v: float, by: float, full: bool) -> bool:
    """Add v x x', or its diagonal unless `full`, and by * x, for x of shape (d,); False if x is not finite."""
    if outside(x, FEATURE_MAX):
        clipped = np.empty(x.size)
        if not within(x, FEATURE_MAX, clipped):
            return False
        return add_term(precision, moment, clipped, v, by, full)
    if full:
        add_outer(precision, x, v)
    else:
        add_squares(precision, x, v)
    add_scaled(moment, x, by)
    return True


@compiled
def add_seen(
    precision: FloatArray, moment: FloatArray, x: FloatArray, eta: float, y: float, weight: float, full: bool
) -> bool:
    """Add what a seen slot says: x (d,) was served with the logistic score eta, and y in [0, 1] came of it.

    With p = sigma(eta) and v = weight p (1 - p): precision += v x x', moment += weight (y - p) x + v eta x.
    False, and nothing added, if anything is not finite or the weight is out of bounds.
    """
    if not (np.isfinite(eta) and np.isfinite(y) and abs(weight) <= WEIGHT_MAX):
        return False
    score = clip(eta, SCORE_MAX)
    p = probability(score)
    v = weight * p * (1.0 - p)
    return add_term(precision, moment, x, v, weight * (clip_to_unit(y) - p) + v * score, full)


@compiled
def add_valued(
    precision: FloatArray, moment: FloatArray, x: FloatArray, y: float, variance: float, weight: float, full: bool
) -> bool:
    """Add what an outcome y = x'w + noise of this variance says, for x of shape (d,).

    precision += weight x x' / variance, moment += weight y x / variance. False, and nothing added, if anything is
    not finite or variance or weight are out of bounds.
    """
    if not (np.isfinite(y) and variance >= VARIANCE_MIN and np.isfinite(variance) and abs(weight) <= WEIGHT_MAX):
        return False
    v = weight / variance
    return add_term(precision, moment, x, v, v * clip(y, VALUE_MAX), full)


@compiled
def add_choice(
    precision: FloatArray,
    moment: FloatArray,
    candidates: FloatArray,
    etas: FloatArray,
    chosen: int,
    weight: float,
    full: bool,
) -> bool:
    """Add what the choice of one of m candidates says, x (m, d) with scores eta (m,): conditional logit.

    With P = softmax(eta), xbar = sum P_j x_j and etabar = sum P_j eta_j: precision += weight sum P_j (x_j - xbar)
    (x_j - xbar)', moment += weight (x_chosen - xbar) + weight sum P_j (eta_j - etabar) (x_j - xbar).
    False, and nothing added, if anything is not finite, nothing was chosen, or the weight is out of bounds.
    Source: McFadden, "Conditional logit analysis of qualitative choice behavior" (1974).
    """
    most, features = candidates.shape
    inside = abs(weight) <= WEIGHT_MAX and 0 <= chosen < most and etas.size == most
    if not inside or outside(etas, np.finfo(np.float64).max):
        return False
    flat = candidates.ravel()
    if outside(flat, FEATURE_MAX):
        clipped = np.empty(flat.size)
        if not within(flat, FEATURE_MAX, clipped):
            return False
        return add_choice(precision, moment, clipped.reshape(most, features), etas, chosen, weight, full)
    chances, scores = np.empty(most), np.empty(most)
    mean, centred = np.zeros(features), np.empty(features)
    mean_score = softmax(etas, scores, chances)
    for candidate in range(most):
        for at in range(features):
            mean[at] += chances[candidate] * candidates[candidate, at]
    for candidate in range(most):
        for at in range(features):
            centred[at] = candidates[candidate, at] - mean[at]
        v = weight * chances[candidate]
        if full:
            add_outer(precision, centred, v)
        else:
            add_squares(precision, centred, v)
        add_scaled(moment, centred, v * (scores[candidate] - mean_score) + (weight if candidate == chosen else 0.0))
    return True


@compiled
def softmax(etas: FloatArray, scores: FloatArray, chances: FloatArray) -> float:
    """Write scores and their softmax, all of shape (m,); the mean score.

    Scores are taken from the greatest, and none further below it than 2 SCORE_MAX: only differences count.
    """
    greatest = etas[0]
    for eta in etas:
        greatest = max(greatest, eta)
    total = 0.0
    for at in range(etas.size):
        scores[at] = max(etas[at] - greatest, -2.0 * SCORE_MAX)
        chances[at] = np.exp(scores[at])
        total += chances[at]
    mean = 0.0
    for at in range(etas.size):
        chances[at] /= total
        mean += chances[at] * scores[at]
    return mean


@compiled
def solve(
    prior_precision: FloatArray,
    prior_mean: FloatArray,
    precision: FloatArray,
    moment: FloatArray,
    scale: float,
    mean: FloatArray,
    factor: FloatArray,
) -> None:
    """Write the posterior of a user: `mean` (d,) and `factor`, packed like the precisions.

    factor factor' = Lambda0 + scale Lambda, and mean solves factor factor' mean = Lambda0 w0 + scale b.
    """
    size = prior_mean.size
    upper = np.empty((size, size))
    at = 0
    for row in range(size):
        mean[row] = scale * moment[row]
        for column in range(row + 1):
            upper[column, row] = prior_precision[at + column] + scale * precision[at + column]
            mean[row] += prior_precision[at + column] * prior_mean[column]
        for column in range(row):
            mean[column] += prior_precision[at + column] * prior_mean[row]
        at += row + 1
    at = 0
    for row in range(size):
        for column in range(row):
            factor[at + column] = upper[column, row]
        pivot_min = PIVOT_MIN * upper[row, row]
        subtract_earlier(upper, row, row, factor, at)
        pivot = np.sqrt(max(upper[row, row], pivot_min))
        factor[at + row] = pivot
        mean[row] /= pivot
        for column in range(row + 1, size):
            upper[row, column] *= 1.0 / pivot
            mean[column] -= upper[row, column] * mean[row]
        at += row + 1
    solve_transposed(factor, mean)


@compiled
def subtract_earlier(matrix: FloatArray, row: int, first: int, parts: FloatArray, at: int) -> None:
    """From a row of the matrix, from column `first` on, subtract parts[at + e] times each earlier row e.

    The innermost loop runs along memory and has no running sum, so that it is vectorised with the order of every
    sum as it stands here; four rows are taken at a time, so that the row is written a quarter as often.
    """
    columns = matrix.shape[1]
    earlier = 0
    while earlier + 4 <= row:
        a, b, c, d = parts[at + earlier], parts[at + earlier + 1], parts[at + earlier + 2], parts[at + earlier + 3]
        for column in range(first, columns):
            two = a * matrix[earlier, column] + b * matrix[earlier + 1, column]
            two += c * matrix[earlier + 2, column] + d * matrix[earlier + 3, column]
            matrix[row, column] -= two
        earlier += 4
    while earlier < row:
        a = parts[at + earlier]
        for column in range(first, columns):
            matrix[row, column] -= a * matrix[earlier, column]
        earlier += 1


@compiled
def solve_transposed(factor: FloatArray, values: FloatArray) -> None:
    """Replace values (d,) by factor'^-1 values, for a packed lower triangle."""
    at = factor.size
    for row in range(values.size - 1, -1, -1):
        at -= row + 1
        values[row] /= factor[at + row]
        for column in range(row):
            values[column] -= factor[at + column] * values[row]


@compiled
def draw(mean: FloatArray, factor: FloatArray, normals: FloatArray, weights: FloatArray) -> None:
    """Write one draw, mean + factor'^-1 normals, all (d,): its covariance is the inverse of factor factor'."""
    for at in range(mean.size):
        weights[at] = normals[at]
    solve_transposed(factor, weights)
    for at in range(mean.size):
        weights[at] += mean[at]


@compiled
def score(rows: FloatArray, weights: FloatArray, scores: FloatArray) -> None:
    """Write x'w for each of the rows x, (m, d), with weights (d,).

    Four rows are summed side by side: each sum has to wait for its last addition.
    """
    count = rows.shape[0]
    row = 0
    while row + 4 <= count:
        a = b = c = d = 0.0
        for at in range(weights.size):
            weight = weights[at]
            a += rows[row, at] * weight
            b += rows[row + 1, at] * weight
            c += rows[row + 2, at] * weight
            d += rows[row + 3, at] * weight
        scores[row], scores[row + 1], scores[row + 2], scores[row + 3] = a, b, c, d
        row += 4
    while row < count:
        a = 0.0
        for at in range(weights.size):
            a += rows[row, at] * weights[at]
        scores[row] = a
        row += 1


@compiled
def variances(rows: FloatArray, factor: FloatArray, found: FloatArray) -> None:
    """Write x' Sigma x = |factor^-1 x|^2 for each of the rows x, (m, d), of which `found` has shape (m,).

    A block of rows is solved together, so that the innermost loop runs over rows.
    """
    count, features = rows.shape
    block = np.zeros((features, ROWS))
    for first in range(0, count, ROWS):
        size = min(ROWS, count - first)
        for row in range(size):
            found[first + row] = 0.0
            for feature in range(features):
                block[feature, row] = rows[first + row, feature]
        at = 0
        for feature in range(features):
            subtract_earlier(block, feature, 0, factor, at)
            at += feature
            for row in range(ROWS):
                block[feature, row] *= 1.0 / factor[at]
            for row in range(size):
                found[first + row] += block[feature, row] * block[feature, row]
            at += 1
