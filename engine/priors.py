"""What is believed of pools before a user's own evidence: from all pools to one, to the cohort, to the user.

Each level is as sure of the next as `base_successes + base_failures` views; how far users of a cohort differ is
found by empirical Bayes, and says how many views it takes until a user is believed more than the cohort.
"""

import numpy as np

from blending.posterior import Beta
from blending.types import FloatArray
from engine.facts import Facts
from engine.kernels import prior_means
from engine.newcomers import taught_at
from engine.state import UserState

LEVEL_CERTAINTY = 3.0  # of the prior of a user's level: as if so many successes had come as expected
KNOWN_VIEWS = 10.0  # of others, of the pool that they know least of
VIEWS_MIN = 1e-6  # of others: fewer are the rounding of a difference


def prior_for(
    state: UserState, facts: Facts, cohort: str, own: FloatArray | None = None
) -> tuple[Beta, FloatArray]:
    """A user's prior, shape (pools, actions), its strength at most `prior_strength` views; the level, (actions,).

    The mean is the cohort's, of everybody else's first slots; where these are few it is the pool's over all
    cohorts, where there are none that of all pools, and at first the policy's base. What others show is taken at
    the user's own level: `own` (2, pools, actions) are S and E of all that the user did, and somebody who acts half
    as often as others would on the same pools is expected to do so on all of them.

    The strength is how alike users of the cohort are, but never more than there are views to know the mean by. What
    the user taught the population is taken out of the means, or it would count twice.
    """
    settings = facts.policy.blend
    base = settings.base_successes + settings.base_failures
    others, place = _others(state, facts), facts.places[0][cohort]
    own = np.zeros(others.shape[1:]) if own is None else own
    mean, levels = prior_means(others, place, own, settings.base_successes, base, LEVEL_CERTAINTY)
    views = others[place, 1]
    # Of a user whom nobody else stands beside, strengths know the user alone.
    alike = np.where(views > VIEWS_MIN, facts.alike[place], np.inf)
    strength = np.minimum(np.minimum(base + views, alike), settings.prior_strength)
    return Beta(mean * strength, (1.0 - mean) * strength), levels


def mixed_chance(state: UserState, facts: Facts) -> float:
    """The chance of a feed mixed at random: as much as is not known of the pool that others know least of.

    What others have shown need not be shown again by everybody. After KNOWN_VIEWS views of theirs it is half way
    from `epsilon` to `epsilon_known`.
    """
    settings = facts.policy.blend
    views = float(_others(state, facts)[:, 1].sum(axis=0).max(axis=1).min())
    unknown = KNOWN_VIEWS / (KNOWN_VIEWS + (views if views > VIEWS_MIN else 0.0))
    least = min(settings.epsilon_known, settings.epsilon)
    return float(f"{least + (settings.epsilon - least) * unknown:.6g}")


def _others(state: UserState, facts: Facts) -> FloatArray:
    """S and E of everybody else's first slots, shape (cohorts, 2, pools, actions); S <= E.

    With shadow evidence they are those of everybody's lists instead, this user's part in them included.
    """
    if facts.policy.blend.shadow:
        return facts.shadow
    if not state.taught:
        return facts.newcomers
    (cohorts, pools, actions), table = facts.places, facts.newcomers.copy()
    half_life_ms = facts.policy.memory.cohort_half_life_ms
    for (cohort, pool, action), taught in state.taught.items():
        if cohort in cohorts and pool in pools and action in actions:
            own = taught_at(taught, facts.population.at_ms, half_life_ms)
            cell = table[cohorts[cohort], :, pools[pool], actions[action]]
            # Below 0 where this version is older than what the user taught.
            cell[1] = max(cell[1] - own.exposure, 0.0)
            cell[0] = min(max(cell[0] - own.successes, 0.0), cell[1])
    return table
