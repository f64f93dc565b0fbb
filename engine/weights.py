"""What a user's weights are believed to be: sums of terms, the prior that is added when they are read, and draws.

The weights w have the prior N(w0, Lambda0^-1), which the population gives. A user's sums Lambda and b begin at
nothing and make it w = (Lambda0 + Lambda)^-1 (Lambda0 w0 + b), with the covariance (Lambda0 + Lambda)^-1; adding
the prior only when they are read is what lets old terms fade towards it instead of into nothing. The sums' formulas
and the layout of `precision` (packed) and `moment` stand in `engine.weight_kernels`.
"""

from math import exp2
from typing import NamedTuple

import numpy as np

from blending.types import FloatArray
from engine import weight_kernels
from engine.evidence import HALF_LIVES_MAX
from engine.weight_kernels import add_choice, add_seen, add_valued

__all__ = ["Sums", "Weights", "add_choice", "add_seen", "add_valued"]

FEATURES_MAX = 68  # a full matrix of more costs more than it is worth: the solution's time grows with its cube


class Sums(NamedTuple):
    """What a user's terms add up to: `precision` packed, float64 (d (d + 1) / 2,), and `moment`, float64 (d,)."""

    precision: FloatArray
    moment: FloatArray


class Weights(NamedTuple):
    """A posterior: `mean`, float64 (d,), and the packed Cholesky `factor` of its precision, (d (d + 1) / 2,)."""

    mean: FloatArray
    factor: FloatArray


def no_sums(features: int) -> Sums:
    """The sums of no terms."""
    assert 0 < features <= FEATURES_MAX
    return Sums(np.zeros(packed_size(features)), np.zeros(features))


def packed_size(features: int) -> int:
    """How many numbers the lower triangle of a (features, features) matrix has."""
    return features * (features + 1) // 2


def packed(matrix: FloatArray) -> FloatArray:
    """The lower triangle of a (d, d) matrix, row by row."""
    return np.ascontiguousarray(matrix[np.tril_indices(len(matrix))])


def unpacked(triangle: FloatArray) -> FloatArray:
    """The lower triangular (d, d) matrix of a packed triangle."""
    size = int((8 * triangle.size + 1) ** 0.5) // 2
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size)] = triangle
    return matrix


def symmetric(triangle: FloatArray) -> FloatArray:
    """The symmetric (d, d) matrix of a packed triangle."""
    matrix = unpacked(triangle)
    return matrix + np.tril(matrix, -1).T


def posterior(
    prior_precision: FloatArray,
    prior_mean: FloatArray,
    precision: FloatArray,
    moment: FloatArray,
    scale: float = 1.0,
) -> Weights:
    """What sums make of a prior; precisions are packed, `prior_mean` and `moment` are (d,).

    Sums that are weighted forward from a landmark count by the `scale`, which is `faded` of the moment of reading.
    """
    found = Weights(np.empty(prior_mean.size), np.empty(prior_precision.size))
    weight_kernels.solve(prior_precision, prior_mean, precision, moment, scale, *found)
    assert np.isfinite(found.mean).all(), "sums of terms and a prior are finite and positive definite"
    return found


def drawn(weights: Weights, normals: FloatArray) -> FloatArray:
    """One coherent draw of all weights, (d,), of as many standard normal numbers."""
    made = np.empty(normals.size)
    weight_kernels.draw(*weights, normals, made)
    return made


def scores(rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Scores (m,) of the rows (m, d) with weights (d,), be they a posterior's mean or a draw."""
    found = np.empty(len(rows))
    weight_kernels.score(rows, weights, found)
    return found


def score_variances(rows: FloatArray, weights: Weights) -> FloatArray:
    """Variances (m,) of the scores of the rows (m, d)."""
    found = np.empty(len(rows))
    weight_kernels.variances(rows, weights.factor, found)
    return found


def forward(half_lives: float) -> float:
    """The weight of a term so many half-lives after the landmark (before it if negative).

    The landmark has to be moved before a term comes to lie HALF_LIVES_MAX after it.
    """
    assert half_lives <= HALF_LIVES_MAX
    return exp2(half_lives)


def faded(half_lives: float) -> float:
    """What sums count so many half-lives after their landmark; before it they count in full."""
    return exp2(-max(half_lives, 0.0))


def move_landmark(sums: Sums, half_lives: float) -> None:
    """Weight sums from a landmark that is so many half-lives later. What is far behind it fades to nothing."""
    assert half_lives >= 0.0, "landmarks only move on"
    factor = faded(half_lives)
    np.multiply(sums.precision, factor, out=sums.precision)
    np.multiply(sums.moment, factor, out=sums.moment)
