"""What a user's weights are under new features: a change of coordinates of their sums.

Offline training makes features anew, up to a rotation and more, so that old weights say nothing about them. The
features of the same items before and after give M, the least squares solution of F_new M = F_old, and then
w_new = M w_old gives every item nearly the score that it had. What M leaves over makes scores less sure. Source:
the least-squares form of "Orthogonal Low Rank Embedding Stabilization" (Zielnicki and Hsiao, 2025).
"""

from typing import NamedTuple

import numpy as np

from blending.types import FloatArray
from engine.weights import Sums, packed, posterior, symmetric

RIDGE = 1e-9  # of the mean square of a new feature: directions that no item has get no weight
RESIDUAL_MIN = 1e-9  # of the mean square of a score: what rounding leaves over


class Translation(NamedTuple):
    """From old features to new ones.

    `matrix` is M, (d_new, d_old); `residual`, (d_old, d_old), the mean of r r' over the items, with r the old
    features that M does not explain; `size` the mean square of a new item's length.
    """

    matrix: FloatArray
    residual: FloatArray
    size: float


def translation(old: FloatArray, new: FloatArray, popularity: FloatArray) -> Translation:
    """From the features of the same n items, (n, d_old) and (n, d_new), each counted by its popularity (n,)."""
    share = (popularity / popularity.sum())[:, None]
    gram = new.T @ (share * new)
    size = float(np.trace(gram))
    ridge = RIDGE * size / len(gram) * np.eye(len(gram))
    matrix = np.linalg.solve(gram + ridge, new.T @ (share * old))
    left = old - new @ matrix
    return Translation(matrix, left.T @ (share * left), size)


def translated(sums: Sums, prior_precision: FloatArray, prior_mean: FloatArray, by: Translation) -> Sums:
    """A user's sums in the new features, given the prior (packed, (d_old,)) that they were read with.

    The posterior N(w, Sigma) becomes N(M w, M Sigma M' + t I), where t spreads over all new features the variance
    of scores that M leaves over, w' R w / size. The prior becomes the like, and the sums are what has to be added
    to the translated prior's precision and moment to get the posterior's. So no evidence stays none, and evidence
    takes nothing from the precision of whatever prior it is read with. By Woodbury's identity, with
    P = Lambda0 + M'M / t and Q = P + Lambda, the sums are M (P^-1 - Q^-1) M' / t^2 and
    M (Q^-1 b - (P^-1 - Q^-1) Lambda0 w0) / t.
    """
    matrix, evidence = by.matrix, symmetric(sums.precision)
    mean = posterior(prior_precision, prior_mean, *sums).mean
    spread = float(mean @ by.residual @ mean + RESIDUAL_MIN * (mean @ mean) + 1e-300) / by.size
    prior = symmetric(prior_precision)
    factor = np.linalg.cholesky(prior + matrix.T @ matrix / spread)
    half = np.linalg.solve(factor, evidence)
    gains, turn = np.linalg.eigh(np.linalg.solve(factor, half.T))
    gains = np.maximum(gains, 0.0)  # sums of terms are never negative, but by rounding
    ways = np.linalg.solve(factor.T, turn)  # P^-1 = ways ways', Q^-1 = ways diag(1 / (1 + gains)) ways'
    onto = matrix @ ways / spread
    precision = (onto * (gains / (1.0 + gains))) @ onto.T
    moment = onto @ ((ways.T @ sums.moment - gains * (ways.T @ (prior @ prior_mean))) / (1.0 + gains))
    return Sums(packed(precision), moment)
