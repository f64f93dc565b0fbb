"""Beta posteriors: the population's prior, and what a user's own evidence makes of it.

Everything is an array of shape (pools, actions): `successes` is S, the number of examined views followed by
the action; `exposure` is E, the number of examined views. S <= E always.
"""

from typing import NamedTuple

import numpy as np

from blending.types import FloatArray


class Beta(NamedTuple):
    """Parameters of independent Beta distributions; `alpha` and `beta` have one shape, all above zero."""

    alpha: FloatArray
    beta: FloatArray

    @property
    def mean(self) -> FloatArray:
        """Expected rates."""
        return self.alpha / (self.alpha + self.beta)


def updated(prior: Beta, successes: FloatArray, exposure: FloatArray) -> Beta:
    """The conjugate update: alpha + S, beta + (E - S)."""
    return Beta(prior.alpha + successes, prior.beta + np.maximum(exposure - successes, 0.0))


def capped(posterior: Beta, strength_max: float) -> Beta:
    """The same means with a strength (alpha + beta) of at most `strength_max` examined views.

    This makes a prior for one user out of the population's posterior: sure of the mean as far as the
    population is, but never so sure that a user could not leave it. After n views of a user's own, the
    prior's share in the mean is strength / (strength + n).
    """
    scale = np.minimum(1.0, strength_max / (posterior.alpha + posterior.beta))
    return Beta(posterior.alpha * scale, posterior.beta * scale)
