"""What the next item of a pool is worth after n of its items stand in the same feed: the returns model.

h(n) multiplies a pool's utility: 1 always (winner takes the slot), 1/(2n + 1) (Webster: shares in proportion to
utility), or delta**n (satiation, or ranking that falls off), with delta fitted from the engine's own log.
"""

import numpy as np

from blending.compiled import compiled
from blending.types import FloatArray

# Support of the posterior of delta: no satiation, and from mild to strong.
DELTAS = np.concatenate([[1.0], np.arange(0.98, 0.49, -0.02)])


def returns_table(slots: int, delta: float | None) -> FloatArray:
    """h(0), h(1), … of shape (slots,): delta**n, or Webster's if delta is None."""
    if delta is None:
        return 1.0 / (2.0 * np.arange(slots, dtype=np.float64) + 1.0)
    table = np.full(slots, delta)
    table[:1] = 1.0
    return np.cumprod(table)  # multiplied up, so that it is the same on every machine


def fitted_delta(successes: FloatArray, exposure: FloatArray, chance_of_one: float) -> float:
    """Posterior mean of delta from counts by rank, both of shape (arms, ranks).

    `successes[i, k]` and `exposure[i, k]` count actions on, and examined views of, the item that was the k-th of
    its pool in its feed. Given an arm's total, its successes are multinomial with probabilities in proportion
    to exposure * delta**k: the arm's own rate drops out, and so does any delay, which is the same for all ranks.
    The prior puts `chance_of_one` on exactly 1 and spreads the rest evenly over the other DELTAS.
    """
    log_likelihood = _delta_log_likelihoods(successes, exposure, DELTAS)
    prior = np.full(DELTAS.size, (1.0 - chance_of_one) / (DELTAS.size - 1))
    prior[0] = chance_of_one
    posterior = prior * np.exp(log_likelihood - log_likelihood.max())
    return float((posterior * DELTAS).sum() / posterior.sum())


@compiled
def _delta_log_likelihoods(successes: FloatArray, exposure: FloatArray, deltas: FloatArray) -> FloatArray:
    arms, ranks = successes.shape
    likelihoods = np.zeros(deltas.size)
    for at in range(deltas.size):
        for arm in range(arms):
            power, total, later, weighted = 1.0, 0.0, 0.0, 0.0
            for rank in range(ranks):
                total += successes[arm, rank]
                later += rank * successes[arm, rank]
                weighted += exposure[arm, rank] * power
                power *= deltas[at]
            if total > 0.0:
                likelihoods[at] += later * np.log(deltas[at]) - total * np.log(weighted)
    return likelihoods
