"""How long actions take: F(age), the probability that an action that will come has come by then.

A view that is young says little by having no action yet. Dividing successes by E * F(age) instead of E removes
that bias (Chapelle, "Modeling delayed feedback in display advertising", KDD 2014; Vernade, Cappe and Perchet,
"Stochastic bandit models for delayed conversions", UAI 2017).
"""

from math import expm1
from typing import NamedTuple

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray

MEANS = np.geomspace(1.0 / 512.0, 1.0, 19)  # mean delays that the fit tries, as parts of the window
PRIOR_MEAN = 1.0 / 8.0  # part of the window; and the standard deviation of the logarithm around it:
PRIOR_SD = 1.5  # a weak belief that gives way after a few actions
PRIOR_INSTANT = 0.1  # and the share at once, as if one action had shown it


class Delay(NamedTuple):
    """A share `instant` comes at once, the rest after an exponential time of mean `mean_ms`."""

    instant: float
    mean_ms: float

    def arrived(self, age_ms: float) -> float:
        """F(age)."""
        return self.instant + (1.0 - self.instant) * -expm1(-age_ms / self.mean_ms)


def prior_delay(window_ms: float) -> Delay:
    """What is believed of an action that nobody has taken yet.

    Patient rather than right: where actions come at once, the first of them says so, but a pool whose actions
    come late looks bad until one has come, and a pool that looks bad is not shown.
    """
    return Delay(PRIOR_INSTANT, window_ms * PRIOR_MEAN)


def fitted_delay(
    observed_ms: FloatArray, count: FloatArray, total_ms: FloatArray, instant: float, window_ms: float
) -> Delay:
    """Maximum a posteriori delay of actions that are seen only if they come while somebody looks.

    Actions are grouped by how long their views have been observed, at most `window_ms`: `observed_ms`, and for
    each group the `count` of actions that did not come at once and the sum of their delays `total_ms`; all of
    shape (groups,). `instant` is the number of those that did. An action at delay d from a view observed for T
    has the density exp(-d / m) / m / (1 - exp(-T / m)): without the last factor, young views would make every
    delay look short.
    """
    means = window_ms * MEANS
    best, late = _best_mean(observed_ms, count, float(total_ms.sum()), means)
    return Delay((instant + PRIOR_INSTANT) / (instant + late + 1.0), float(means[best]))


@compiled
def _best_mean(observed_ms: FloatArray, count: FloatArray, total_ms: float, means: FloatArray) -> tuple[int, float]:
    """The place of the best mean, and how many late actions there will be in the end if it is the one."""
    best, best_value, best_late = 0, -np.inf, 0.0
    for at in range(means.size):
        value = -total_ms / means[at] - 0.5 * (np.log(means[at] / (means[-1] * PRIOR_MEAN)) / PRIOR_SD) ** 2
        late = 0.0
        for group in range(count.size):
            arrived = -np.expm1(-observed_ms[group] / means[at])
            value -= count[group] * (np.log(means[at]) + np.log(arrived))
            late += count[group] / arrived
        if value > best_value:
            best, best_value, best_late = at, value, late
    return best, best_late
