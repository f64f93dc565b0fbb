"""How far a count may stray by chance."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FALSE_ALARM = 1e-7  # at most, of one test


def deviation(trials: float, probabilities: npt.ArrayLike, comparisons: int | None = None) -> np.ndarray:
    """By how much counts of independent trials leave their mean with probability at most FALSE_ALARM in all.

    Bernstein's inequality from the binomial variance V = n p (1 - p): P(|X - n p| >= t) is at most
    2 exp(-t² / (2 V + 2 t / 3)), solved for t; the false alarms are shared by all comparisons of the test.
    """
    p = np.asarray(probabilities, np.float64)
    log = np.log(2 * (comparisons or p.size) / FALSE_ALARM)
    return log / 3 + np.sqrt((log / 3) ** 2 + 2 * trials * p * (1 - p) * log)


def assert_counts(
    counts: Sequence[int] | np.ndarray,
    trials: float,
    probabilities: npt.ArrayLike,
    comparisons: int | None = None,
) -> None:
    """Each count is of `trials` with its probability."""
    expected = trials * np.asarray(probabilities, np.float64)
    strayed = np.abs(np.asarray(counts) - expected)
    assert (strayed <= deviation(trials, probabilities, comparisons)).all(), (counts, expected)
