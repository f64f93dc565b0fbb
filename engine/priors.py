"""What is believed of pools before a user's own evidence: from all pools to one, to the cohort, to the user.

Each level is as sure of the next as `base_successes + base_failures` views; how far users of a cohort differ is
found by empirical Bayes, and says how many views it takes until a user is believed more than the cohort.
"""

from collections.abc import Mapping

import numpy as np

from blending.posterior import Beta
from blending.types import FloatArray
from engine.newcomers import taught_at
from engine.policy import NEW, BlendPolicy, Policy
from engine.pools import Facts
from engine.state import CohortCell, Tally, UserState

LEVEL_CERTAINTY = 3.0  # of the prior of a user's level: as if so many successes had come as expected
MEAN_MAX = 0.999  # of a rate, whatever a user's level
VIEWS_MIN = 1e-6  # of others: fewer are the rounding of a difference


def cohort_of(policy: Policy, context: Mapping[str, str], *, first: bool) -> str:
    """The cohort of a request: what the policy's key of its context says, and whether it is a user's first page."""
    value = context.get(policy.blend.cohort_by, "")
    named = value if value in policy.blend.cohorts else ""
    return f"{named} {NEW}".strip() if first else named


def cohorts_of(policy: Policy) -> list[str]:
    """All cohorts that requests of a policy may belong to."""
    return [name for value in ("", *policy.blend.cohorts) for name in (value, f"{value} {NEW}".strip())]


def prior_for(state: UserState, facts: Facts, cohort: str, own: FloatArray | None = None) -> Beta:
    """A user's prior, shape (pools, actions), its strength at most `prior_strength` views.

    The mean is the cohort's, of everybody else's first slots; where these are few it is the pool's over all
    cohorts, where there are none that of all pools, and at first the policy's base. What others show is taken at
    the user's own level: `own` (2, pools, actions) are S and E of all that the user did, and somebody who acts half
    as often as others would on the same pools is expected to do so on all of them.

    The strength is how alike users of the cohort are, but never more than there are views to know the mean by. What
    the user taught the population is taken out of the means, or it would count twice.
    """
    settings = facts.policy.blend
    base = settings.base_successes + settings.base_failures
    others = _others(state, facts)
    of_cohort = others[cohorts_of(facts.policy).index(cohort)]
    mean = _mean(others.sum(axis=0), of_cohort, 1.0, settings)
    if own is not None:
        mean = _mean(others.sum(axis=0), of_cohort, level(own, mean, LEVEL_CERTAINTY), settings)
    alike = np.array(
        [
            [facts.population.strengths.get((cohort, name, action), np.inf) for action in facts.policy.rewarded]
            for name in facts.policy.pools
        ]
    )
    alike = np.where(of_cohort[1] > VIEWS_MIN, alike, np.inf)  # or the user would be compared with nobody else
    strength = np.minimum(np.minimum(base + of_cohort[1], alike), settings.prior_strength)
    return Beta(mean * strength, (1.0 - mean) * strength)


def level(own: FloatArray, mean: FloatArray, certainty: float) -> FloatArray:
    """How often a user acts, over how often others would who had seen the same; by action, (actions,).

    Its prior is Gamma(certainty, certainty), and successes are Poisson with the mean level * sum of E * rate; this
    is the posterior's mean. `own` is (2, pools, actions), `mean` (pools, actions) the others' rates.
    """
    successes, exposure = own
    return np.asarray((certainty + successes.sum(axis=0)) / (certainty + (exposure * mean).sum(axis=0)))


def _mean(
    everywhere: FloatArray, cohort: FloatArray, level: FloatArray | float, settings: BlendPolicy
) -> FloatArray:
    """Means of rates from S and E (2, pools, actions) of all cohorts and of one, successes times `level`."""
    base = settings.base_successes + settings.base_failures
    successes, exposure = everywhere.sum(axis=1)
    all_pools = (settings.base_successes + level * successes) / (base + exposure)
    pool = (base * all_pools + level * everywhere[0]) / (base + everywhere[1])
    mean = (base * pool + level * cohort[0]) / (base + cohort[1])
    return np.asarray(np.minimum(mean, MEAN_MAX))


def _others(state: UserState, facts: Facts) -> FloatArray:
    """S and E of everybody else's first slots, shape (cohorts, 2, pools, actions); S <= E."""
    policy, population = facts.policy, facts.population
    half_life_ms = policy.memory.cohort_half_life_ms
    own = {cell: taught_at(taught, population.at_ms, half_life_ms) for cell, taught in state.taught.items()}
    table = np.array([_table(policy, cohort, population.newcomers) for cohort in cohorts_of(policy)])
    if own:
        table -= np.array([_table(policy, cohort, own) for cohort in cohorts_of(policy)])
    exposure = np.maximum(table[:, 1], 0.0)  # below 0 where this version is older than what the user taught
    return np.stack((np.clip(table[:, 0], 0.0, exposure), exposure), axis=1)


def _table(policy: Policy, cohort: str, evidence: Mapping[CohortCell, Tally]) -> list[list[list[float]]]:
    nothing = Tally()
    cells = [[evidence.get((cohort, pool, action), nothing) for action in policy.rewarded] for pool in policy.pools]
    return [[[cell.successes for cell in row] for row in cells], [[cell.exposure for cell in row] for row in cells]]
