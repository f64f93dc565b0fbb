"""The hot loops of offline training. Each has an oracle in its test.

No product goes through BLAS, whose sums depend on the number of threads, so the same input gives the same bits.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import BoolArray, FloatArray, IntArray

PIVOT_MIN = 1e-13  # of a diagonal's part: rounding must not make a matrix that is positive look otherwise


@compiled
def add_outers(upper: FloatArray, rows: FloatArray, chosen: IntArray, weights: FloatArray) -> None:
    """Add weight x x' of the chosen rows x to the upper triangle (d, d); rows are (n, d), the others (m,).

    The innermost loop runs along memory and has no running sum, so that it is vectorised with the order of every
    sum as it stands here; four rows are taken at a time, so that the triangle is written a quarter as often.
    """
    size = upper.shape[0]
    at = 0
    while at + 4 <= chosen.size:
        a, b, c, d = rows[chosen[at]], rows[chosen[at + 1]], rows[chosen[at + 2]], rows[chosen[at + 3]]
        for row in range(size):
            of_a, of_b = weights[at] * a[row], weights[at + 1] * b[row]
            of_c, of_d = weights[at + 2] * c[row], weights[at + 3] * d[row]
            for column in range(row, size):
                two = of_a * a[column] + of_b * b[column]
                upper[row, column] += two + (of_c * c[column] + of_d * d[column])
        at += 4
    while at < chosen.size:
        a = rows[chosen[at]]
        for row in range(size):
            of_a = weights[at] * a[row]
            for column in range(row, size):
                upper[row, column] += of_a * a[column]
        at += 1


@compiled
def factorise(upper: FloatArray) -> None:
    """Replace the upper triangle of a positive matrix A, (d, d), by U of its Cholesky factors U'U = A."""
    size = upper.shape[0]
    for row in range(size):
        pivot_min = PIVOT_MIN * upper[row, row]
        earlier = 0
        while earlier + 4 <= row:
            a, b = upper[earlier, row], upper[earlier + 1, row]
            c, d = upper[earlier + 2, row], upper[earlier + 3, row]
            for column in range(row, size):
                two = a * upper[earlier, column] + b * upper[earlier + 1, column]
                upper[row, column] -= two + (c * upper[earlier + 2, column] + d * upper[earlier + 3, column])
            earlier += 4
        while earlier < row:
            a = upper[earlier, row]
            for column in range(row, size):
                upper[row, column] -= a * upper[earlier, column]
            earlier += 1
        inverse = 1.0 / np.sqrt(max(upper[row, row], pivot_min))
        for column in range(row, size):
            upper[row, column] *= inverse


@compiled
def solve_factorised(upper: FloatArray, values: FloatArray) -> None:
    """Replace values b, (d,), by (U'U)^-1 b."""
    size = upper.shape[0]
    for row in range(size):
        values[row] /= upper[row, row]
        for column in range(row + 1, size):
            values[column] -= upper[row, column] * values[row]
    for row in range(size - 1, -1, -1):
        value = values[row]
        for column in range(row + 1, size):
            value -= upper[row, column] * values[column]
        values[row] = value / upper[row, row]


@compiled
def add_gram(others: FloatArray, ridge: float, gram: FloatArray) -> None:
    """Add Y'Y + ridge I to the upper triangle of `gram` (d, d), for Y (columns, d)."""
    add_outers(gram, others, np.arange(others.shape[0]), np.ones(others.shape[0]))
    for row in range(gram.shape[0]):
        gram[row, row] += ridge


@compiled
def solve_row(
    gram: FloatArray,
    columns: IntArray,
    liked: BoolArray,
    others: FloatArray,
    liked_weight: float,
    disliked_weight: float,
    solved: FloatArray,
) -> None:
    """Write into `solved`, (d,), the best vector of one row, whose reactions are these `columns` (n,) of `others`.

    `gram` is of `add_gram`; `solve_rows` says what is best.
    """
    weights = np.empty(columns.size)
    solved[:] = 0.0
    for at in range(columns.size):
        weights[at] = liked_weight if liked[at] else disliked_weight
        if liked[at]:
            other = others[columns[at]]
            for feature in range(solved.size):
                solved[feature] += (1.0 + liked_weight) * other[feature]
    upper = gram.copy()
    add_outers(upper, others, columns, weights)
    factorise(upper)
    solve_factorised(upper, solved)


@compiled
def solve_rows(
    starts: IntArray,
    columns: IntArray,
    liked: BoolArray,
    others: FloatArray,
    liked_weight: float,
    disliked_weight: float,
    ridge: float,
    solved: FloatArray,
) -> None:
    """Write into each row of `solved`, (rows, d), its best vector given those of the other side, (columns, d).

    A row's reactions are `columns[starts[row] : starts[row + 1]]`. Its vector x minimises
    sum over all columns of c (t - x'y)^2 + ridge |x|^2, where t = 1 and c = 1 + liked_weight if it was liked, t = 0
    and c = 1 + disliked_weight if it was reacted to otherwise, t = 0 and c = 1 if not at all. So
    x = (Y'Y + ridge I + sum (c - 1) y y')^-1 sum c t y, the sums over the row's reactions alone. Source: Hu, Koren
    and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets" (2008).
    """
    gram = np.zeros((others.shape[1], others.shape[1]))
    add_gram(others, ridge, gram)
    for row in range(solved.shape[0]):
        own = slice(starts[row], starts[row + 1])
        solve_row(gram, columns[own], liked[own], others, liked_weight, disliked_weight, solved[row])


@compiled
def add_normal_equations(
    starts: IntArray,
    rows: IntArray,
    weights: FloatArray,
    targets: FloatArray,
    upper: FloatArray,
    moment: FloatArray,
) -> None:
    """Add the sums w x x' to the upper triangle (tokens, tokens) and w x y' to the moment (tokens, d).

    Item i has the weight w (items,), the target y (items, d) and x = 1 / sqrt(m) at each of its m tokens, which are
    `rows[starts[i] : starts[i + 1]]`, increasing, or -1 for a token that has no row.
    """
    for item in range(weights.size):
        first, last = starts[item], starts[item + 1]
        x = 1.0 / np.sqrt(max(last - first, 1))
        for at in range(first, last):
            row = rows[at]
            if weights[item] == 0.0 or row < 0:
                continue
            for feature in range(targets.shape[1]):
                moment[row, feature] += weights[item] * x * targets[item, feature]
            for other in range(at, last):
                upper[row, rows[other]] += weights[item] * x * x


@compiled
def invert(upper: FloatArray, inverse: FloatArray) -> None:
    """Write the inverse of a positive matrix, (n, n), given its upper triangle, which is overwritten."""
    factorise(upper)
    inverse[:] = 0.0
    for row in range(upper.shape[0]):
        inverse[row, row] = 1.0
        solve_factorised(upper, inverse[row])


@compiled
def predict(
    starts: IntArray,
    rows: IntArray,
    effects: FloatArray,
    covariance: FloatArray,
    predicted: FloatArray,
    unsure: FloatArray,
    unseen: FloatArray,
) -> None:
    """Write x'B, x'Cx and the part of an item's tokens that have no row (1 if it has no token), for each item.

    x is as in `add_normal_equations`; `effects` B are (tokens, d), `covariance` C (tokens, tokens), `predicted`
    (items, d), the last two (items,).
    """
    for item in range(unsure.size):
        first, last = starts[item], starts[item + 1]
        square = 1.0 / max(last - first, 1)
        x = np.sqrt(square)
        predicted[item] = 0.0
        without, doubt = 0, 0.0
        for at in range(first, last):
            row = rows[at]
            if row < 0:
                without += 1
                continue
            for feature in range(effects.shape[1]):
                predicted[item, feature] += x * effects[row, feature]
            for other in range(first, last):
                if rows[other] >= 0:
                    doubt += covariance[row, rows[other]]
        unsure[item] = square * doubt
        unseen[item] = 1.0 if first == last else square * without
