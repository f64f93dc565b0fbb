"""How likely each pool was to get each slot: propensities, given posterior, rules and lists, never given a draw.

A blend is a mixture, π = (1 - ε) bandit + ε explore, and the two parts are found apart, exactly where that can be:

- Bandit, when further items of a pool are worth as much (h = 1) and no pool can run out: every slot goes to the
  pool with the largest utility, be there one draw or one for each slot. With one action and a positive reward that
  is ∫ f_p(x) Π_{q≠p} F_q(x) dx over Beta densities f and distributions F, a quadrature.
- Explore, while no pool can have run out and no item is offered twice: 1 / (number of pools with items).
- Everything else is Monte Carlo through the very loop that makes feeds, with its standard error.

"Cannot run out" is stock for every slot: each entry that is read of a list stands in the feed, so a list of as many
entries as slots has an item left for any slot, whatever the other lists hold.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import betainc, betaln, digamma, expit, log_expit, polygamma

from blending.blend import Lists, Rules, tempered
from blending.kernels import redrawn_chances, redrawn_counts
from blending.posterior import Beta
from blending.types import FloatArray

Method = Literal["quadrature", "monte carlo"]

# Below this a rate may round to 0 or 1, where the blend breaks ties at random and an integral knows none.
QUADRATURE_MIN = 0.5
QUADRATURE_ERROR_MAX = 1e-6  # by which chances may miss 1 in all before the integral is not trusted
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)  # of each panel
# Where panels meet, in standard deviations of the logit; beyond them, tails fall like exp(-alpha |x|).
CUTS = np.array([-20.0, -10.0, -5.0, -2.5, 0.0, 2.5, 5.0, 10.0, 20.0])
BULK, TAIL = 10.0, 60.0  # how far mass above exp(-40) reaches: standard deviations, or over alpha


class Propensities(NamedTuple):
    """π and its standard errors, both of shape (slots of the feed, pools); rows of π sum to 1.

    `method` says how the bandit's part was found. `samples` is the number of redraws, 0 when all of it is exact;
    errors are 0 where it is.
    """

    chances: FloatArray
    errors: FloatArray
    method: Method
    samples: int


class Part(NamedTuple):
    """Chances and standard errors of one part of the mixture, shape (slots, pools); redraws that they took."""

    chances: FloatArray
    errors: FloatArray
    samples: int


def propensities_of(posterior: Beta, rules: Rules, lists: Lists, samples: int, key: np.uint64) -> Propensities:
    """The propensities of a blend, given everything but its draw; `key` seeds the redraws.

    Raises ValueError for fewer than one sample, and as `tempered` does.
    """
    if samples < 1:
        raise ValueError(f"Monte Carlo needs at least one sample, not {samples}")
    believed = tempered(posterior, rules, lists.stock.size)
    distinct = np.unique(np.concatenate([row[:size] for row, size in zip(*lists, strict=True)])).size
    length = min(rules.returns.size, distinct)
    shared = distinct < int(lists.stock.sum())
    certain = _certain(believed, rules, lists)
    bandit = _redrawn(believed, rules, lists, samples, key) if certain is None else _every_slot(certain, length)
    epsilon = rules.epsilon
    explore = _explored(believed, rules, lists, samples, key, shared=shared) if epsilon > 0.0 else bandit
    chances = (1.0 - epsilon) * bandit.chances[:length] + epsilon * explore.chances[:length]
    if not shared:  # so by construction; this takes only the last bit's rounding away
        chances = np.maximum(chances, floors(lists, length, epsilon))
    errors = np.hypot((1.0 - epsilon) * bandit.errors[:length], epsilon * explore.errors[:length])
    taken = max(bandit.samples, explore.samples)
    return Propensities(chances, errors, "monte carlo" if certain is None else "quadrature", taken)


def floors(lists: Lists, slots: int, epsilon: float) -> FloatArray:
    """ε / (number of pools with items), for each pool that must have an item left; shape (slots, pools).

    A pool with more entries than there are slots before this one has one left for it: each entry that was read
    fills one of those. Holds where no item is offered twice: an entry that another pool has placed costs a pool
    that mixes at random its turn.
    """
    surely_left = np.arange(slots)[:, None] < lists.stock
    return np.asarray(surely_left * (epsilon / max(1, int(np.count_nonzero(lists.stock)))), np.float64)


def chances_of_largest(posterior: Beta) -> FloatArray:
    """P(a draw of Beta p is the largest of all), shape (pools,), for `alpha` and `beta` of shape (pools,).

    The integral above, over the logit of x, in which the density x^α (1-x)^β / B(α, β) is bounded for any
    parameters; Gauss-Legendre on panels that every pool's own scale cuts, so that a narrow posterior beside a wide
    one is not stepped over. What is returned sums to 1 as closely as the integral was found.
    """
    alpha, beta = posterior.alpha[:, None], posterior.beta[:, None]
    middle = digamma(alpha) - digamma(beta)
    sd = np.sqrt(polygamma(1, alpha) + polygamma(1, beta))
    # The largest of all lies between the largest of the lower ends and the largest of the upper ends.
    low = (middle - np.maximum(BULK * sd, TAIL / alpha)).max()
    high = (middle + np.maximum(BULK * sd, TAIL / beta)).max()
    edges = np.unique(np.clip(np.concatenate(((middle + sd * CUTS).ravel(), [low, high])), low, high))
    half = np.diff(edges)[:, None] / 2.0
    logits = (edges[:-1, None] + half + half * NODES).ravel()
    below = betainc(alpha, beta, expit(logits))
    density = np.exp(alpha * log_expit(logits) + beta * log_expit(-logits) - betaln(alpha, beta))
    others = np.array([np.delete(below, pool, axis=0).prod(axis=0) for pool in range(alpha.size)])
    return np.asarray((density * others) @ (half * WEIGHTS).ravel())


def _certain(believed: Beta, rules: Rules, lists: Lists) -> FloatArray | None:
    """The bandit's chances where every slot has the same and an integral finds them, shape (pools,)."""
    stocked = lists.stock > 0
    chances = np.zeros(lists.stock.size)
    if np.count_nonzero(stocked) <= 1:
        chances[stocked] = 1.0
        return chances
    always_full = (lists.stock[stocked] >= rules.returns.size).all()
    one_action = rules.rewards.size == 1 and rules.rewards[0] > 0.0
    smooth = min(believed.alpha[stocked].min(), believed.beta[stocked].min()) >= QUADRATURE_MIN
    if not (always_full and one_action and smooth and (rules.returns == 1.0).all()):
        return None
    competing = Beta(believed.alpha[stocked, 0], believed.beta[stocked, 0])
    chances[stocked] = chances_of_largest(competing)
    total = float(chances.sum())
    return chances / total if abs(total - 1.0) <= QUADRATURE_ERROR_MAX else None


def _every_slot(chances: FloatArray, slots: int) -> Part:
    table = np.tile(chances, (slots, 1))
    return Part(table, np.zeros_like(table), 0)


def _redrawn(
    believed: Beta, rules: Rules, lists: Lists, samples: int, key: np.uint64, *, explored: bool = False
) -> Part:
    """Shares of `samples` blends; those of feeds that are mixed at random need no more than one draw."""
    draws = 1 if explored else rules.draws
    counts = redrawn_counts(*believed, rules.rewards, rules.returns, *lists, draws, explored, samples, key)
    # Half a count more, in the error only: that it never happened does not make it impossible.
    doubtful = (counts + 0.5) / (samples + 1.0)
    errors = np.sqrt(doubtful * (1.0 - doubtful) / samples) * (lists.stock > 0)
    return Part(counts / samples, errors, samples)


def _explored(believed: Beta, rules: Rules, lists: Lists, samples: int, key: np.uint64, *, shared: bool) -> Part:
    """Feeds mixed at random: known without a redraw unless a pool may run out, or an item is offered twice."""
    stocked, slots = lists.stock > 0, rules.returns.size
    pools = int(np.count_nonzero(stocked))
    if pools <= 1 or (not shared and (lists.stock[stocked] >= slots).all()):
        return _every_slot(stocked / max(1, pools), slots)
    if shared:
        return _redrawn(believed, rules, lists, samples, key, explored=True)
    sums, squares = redrawn_chances(lists.stock, slots, samples, key)
    chances = sums / samples
    return Part(chances, np.sqrt(np.maximum(squares / samples - chances**2, 0.0) / samples), samples)
