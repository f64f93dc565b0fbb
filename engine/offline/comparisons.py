"""Whether two arms differ: the sample ratio, and the difference of a ratio metric with an interval for any time.

The unit is the user, because one user's feeds are not independent of each other.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, ndtri

from blending.types import FloatArray, IntArray

USERS_MIN = 30  # of each arm: of fewer, neither the variance nor the normal distribution is anything to go by


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """An arm's metric less the control's, and its standard error.

    `at_any_time` holds the truth at all times at once with probability 1 - alpha, however often it is looked at and
    whenever the experiment is ended for what it shows; `at_once` does so at one time that was chosen before.
    """

    estimate: float
    error: float
    at_any_time: Interval
    at_once: Interval


def sample_ratio_chance(users: IntArray, shares: FloatArray) -> float:
    """The chance that users (arms,) stray from their shares (arms,) as far as they do, by Pearson's chi-square."""
    expected = shares * users.sum()
    if not expected.all():
        return 1.0
    return float(chdtrc(users.size - 1, ((users - expected) ** 2 / expected).sum()))


def strayed(users: IntArray, shares: FloatArray) -> FloatArray:
    """By how many standard deviations of a binomial each arm's users (arms,) stray from their share."""
    total = users.sum()
    return np.asarray((users - total * shares) / np.sqrt(np.maximum(total * shares * (1.0 - shares), 1e-300)))


def ratio_and_variance(totals: FloatArray) -> tuple[float, float]:
    """A sum over users divided by another, of `totals` (users, 2), and its variance by the delta method.

    The variance is that of the mean of (y - ratio x) / mean(x) over users (Deng, Knoblich and Lu, "Applying the
    Delta Method in Metric Analytics", 2018).
    """
    count, (y, x) = len(totals), totals.T
    ratio = float(y.sum() / x.sum())
    residuals = (y - ratio * x) / x.mean()
    return ratio, float((residuals**2).sum() / (count * (count - 1)))


def difference(arm: FloatArray, control: FloatArray, alpha: float, effect: float) -> Difference | None:
    """The difference between the ratios of two arms' users, each (users, 2) of what is summed over what.

    None where an arm has fewer than USERS_MIN users, or nothing differs between any two. `effect` is the
    difference that the interval for any time looks for, as a part of the ratio of both arms together: it is the
    narrowest, against the other one, once the standard error is about a third of that, and it holds whatever
    `effect` is, provided that it is not chosen for what came out.

    With V the variance and tau the effect it is estimate ± sqrt(2 V (V + tau²) / tau² log(sqrt((V + tau²) / V) /
    alpha)): the mixture of Robbins ("Statistical methods related to the law of the iterated logarithm", 1970) over
    normal effects, on the scale of information 1 / V, on which estimates from more and more users and feeds have
    about independent increments; for means over users who come one after the other it is the asymptotic confidence
    sequence of Waudby-Smith et al. ("Time-uniform central limit theory and asymptotic confidence sequences", 2021).
    """
    if min(len(arm), len(control)) < USERS_MIN or not (arm[:, 1].any() and control[:, 1].any()):
        return None
    (one, of_one), (other, of_other) = ratio_and_variance(arm), ratio_and_variance(control)
    variance, tau = of_one + of_other, effect * abs(ratio_and_variance(np.concatenate([arm, control]))[0])
    if not (variance > 0.0 and tau > 0.0):
        return None
    error = float(np.sqrt(variance))
    more = (variance + tau**2) / variance
    sequential = error * float(np.sqrt(2.0 * more / (more - 1.0) * np.log(np.sqrt(more) / alpha)))
    fixed = error * float(-ndtri(alpha / 2.0))
    estimate = one - other
    return Difference(
        estimate,
        error,
        Interval(estimate - sequential, estimate + sequential),
        Interval(estimate - fixed, estimate + fixed),
    )
