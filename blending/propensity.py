"""How likely each pool was to get each slot: propensities, given posterior, rules and lists, never given a draw.

A blend is a mixture, π = (1 - ε) bandit + ε explore, and the two parts are found apart, exactly where that can be:

- Bandit, when further items of a pool are worth as much (h = 1) and no pool can run out: every slot goes to the
  pool with the largest utility, be there one draw or one for each slot. With one action and a positive reward that
  is ∫ f_p(x) Π_{q≠p} F_q(x) dx over Beta densities f and distributions F, a quadrature.
- Explore, while no pool can be closed: 1 / (number of pools with items).
- A pinned slot: 1 for its pool.
- Everything else is Monte Carlo through the very loop that makes feeds, with its standard error. In feeds that are
  mixed at random each redraw gives the exact chances of its own slots, given the slots before.

Floors are kept by plans with random phases, which are redrawn too.

"Cannot run out" is stock for every slot: each entry that is read of a list stands in the feed, so a list of as many
entries as slots has an item left for any slot, whatever the other lists hold. Where groups have only so much room,
a list that keeps to it by itself needs `Page.reach` times as many.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import betainc, betaln, digamma, expit, gammaln, log_expit, polygamma

from blending.blend import MODES, NO_PLAN, WHOLE, Lists, Page, Rules, blend, fallback_of, pinned_of, tempered
from blending.kernels import BEFORE, CAP, FLOOR
from blending.order import floor_plans
from blending.posterior import Beta
from blending.redraws import redrawn
from blending.sampling import PLAN_STREAM, bits_at, uniforms_of
from blending.types import FloatArray, IntArray

Method = Literal["quadrature", "monte carlo"]

# Below this a rate may round to 0 or 1, where the blend breaks ties at random and an integral knows none.
QUADRATURE_MIN = 0.5
QUADRATURE_ERROR_MAX = 1e-6  # by which chances may miss 1 in all before the integral is not trusted
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)  # of each panel
# Where panels meet, in standard deviations of the logit; beyond them, tails fall like exp(-alpha |x|).
CUTS = np.array([-20.0, -10.0, -5.0, -2.5, 0.0, 2.5, 5.0, 10.0, 20.0])
SETTLED = 64  # redraws in which a tie of two pools is always broken alike with a chance of 2**-63
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
    """Chances and standard errors of one part of the mixture, shape (slots, pools); redraws that they took.

    `alike` is the part of the redraws that would have filled earlier pages as they are.
    """

    chances: FloatArray
    errors: FloatArray
    samples: int
    alike: float = 1.0


def propensities_of(
    posterior: Beta, rules: Rules, lists: Lists, samples: int, key: np.uint64, page: Page = WHOLE
) -> Propensities:
    """The propensities of a blend, given everything but its draw; `key` seeds the redraws.

    A page that goes on from others has their draw, so what they hold is given, too: redraws count only if they
    would have filled the earlier slots with as many items of each pool, as if all had had enough, and whether the
    feed is mixed at random is as likely as what they hold says. Raises ValueError for fewer than one sample, where
    no redraw counts, for such a page in another order than greedy, and as `tempered` does.
    """
    if samples < 1:
        raise ValueError(f"Monte Carlo needs at least one sample, not {samples}")
    if page.start and rules.order != "greedy":
        raise ValueError(f"propensities of a later page are not known in {rules.order} order")
    believed = tempered(posterior, rules, lists.stock.size)
    distinct = np.unique(np.concatenate([row[:size] for row, size in zip(*lists, strict=True)])).size
    length = min(rules.returns.size - page.start, distinct)
    if rules.epsilon == 1.0 and page.start == 0:
        bandit = explore = _explored(believed, rules, lists, page, samples, key)
        epsilon = 1.0
    else:
        certain = _certain(believed, rules, lists, page)
        bandit = _redrawn(believed, rules, lists, page, samples, key) if certain is None else certain
        epsilon = _mixed(rules, page, bandit.alike) if _given(rules, page) else rules.epsilon
        explore = _explored(believed, rules, lists, page, samples, key) if epsilon > 0.0 else bandit
    chances = (1.0 - epsilon) * bandit.chances[:length] + epsilon * explore.chances[:length]
    errors = np.hypot((1.0 - epsilon) * bandit.errors[:length], epsilon * explore.errors[:length])
    # So by construction; this takes only the last bit's rounding away.
    least = floors(lists, length, 0.0 if page.start else epsilon, page)
    chances = np.maximum(chances, least)
    errors = np.where(least.max(axis=1, initial=0.0)[:, None] == 1.0, 0.0, errors)
    taken = max(bandit.samples, explore.samples)
    return Propensities(chances, errors, "monte carlo" if bandit.samples else "quadrature", taken)


def _given(rules: Rules, page: Page) -> bool:
    """Whether what earlier pages hold says something of the draw: if it is one for all of them."""
    return page.start > 0 and rules.draws == 1


def _mixed(rules: Rules, page: Page, bandit: float) -> float:
    """How likely a feed is mixed at random, given earlier pages that a bandit would fill so with this chance."""
    before = page.limits[BEFORE]
    explore = rules.epsilon * _evenly(before) if before.sum() == page.start else 0.0
    either = explore + (1.0 - rules.epsilon) * bandit
    if either == 0.0:
        raise ValueError("no redraw would have filled the earlier pages so: they had rules or stock of their own")
    return explore / either


def _evenly(before: IntArray) -> float:
    """How likely equal pools get so many slots: a multinomial probability (scipy.stats takes .4 s to import)."""
    slots = before.sum()
    return float(np.exp(gammaln(slots + 1) - gammaln(before + 1).sum() - slots * np.log(before.size)))


def floors(lists: Lists, slots: int, epsilon: float, page: Page = WHOLE) -> FloatArray:
    """What each pool has at least in each slot: 1 where it is pinned, else ε / (pools with items); (slots, pools).

    The latter of each pool that is feasible whatever came before: it has more entries than there are slots before
    this one, each entry that was read being one of those, and later ones that are pinned to it; its cap is larger
    than their number; and more slots are left than floors and pins of all pools need. Pools in a pinned slot other
    than its own have no chance.
    """
    before = np.arange(slots)[:, None]
    pins = pinned_of(page, slots)[:, None] == np.arange(lists.stock.size)
    taken = before + pins.sum(axis=0) - np.cumsum(pins[:slots], axis=0)
    feasible = page.reach * taken < lists.stock
    if page.limits.size:
        feasible &= taken < page.limits[CAP]
        feasible &= np.maximum(page.limits[FLOOR], pins.sum(axis=0)).sum() < slots - before
    least = np.asarray(feasible * (epsilon / max(1, int(np.count_nonzero(lists.stock)))), np.float64)
    for slot in np.flatnonzero(page.pinned[:slots] >= 0):
        pool = page.pinned[slot]
        least[slot] = 0.0
        least[slot, pool] = float(page.reach * slot < lists.stock[pool])
    return least


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


def _certain(believed: Beta, rules: Rules, lists: Lists, page: Page) -> Part | None:
    """The bandit's part where every slot that is not pinned has the same chances and an integral finds them."""
    stocked, slots = lists.stock > 0, rules.returns.size - page.start
    chances = np.zeros(lists.stock.size)
    if _given(rules, page):
        return None
    if np.count_nonzero(stocked) <= 1:
        chances[stocked] = 1.0
        return _every_slot(chances, slots, lists, page)
    one_action = rules.mode == "drawn" and rules.rewards.size == 1 and rules.rewards[0] > 0.0
    smooth = min(believed.alpha[stocked].min(), believed.beta[stocked].min()) >= QUADRATURE_MIN
    flat = rules.order == "greedy" and bool((rules.returns == 1.0).all())
    if not (_unlimited(lists, slots, page) and one_action and smooth and flat):
        return None
    competing = Beta(believed.alpha[stocked, 0], believed.beta[stocked, 0])
    chances[stocked] = chances_of_largest(competing)
    total = float(chances.sum())
    return _every_slot(chances / total, slots, lists, page) if abs(total - 1.0) <= QUADRATURE_ERROR_MAX else None


def _unlimited(lists: Lists, slots: int, page: Page) -> bool:
    """Whether every pool that has items is open in every slot that is not pinned, whatever came before."""
    enough = bool((lists.stock[lists.stock > 0] >= page.reach * slots).all())
    return enough and not (page.limits.size and (page.limits[FLOOR].any() or (page.limits[CAP] < slots).any()))


def _every_slot(chances: FloatArray, slots: int, lists: Lists, page: Page) -> Part:
    table = np.tile(chances, (slots, 1))
    for slot, pool in enumerate(page.pinned):
        if pool >= 0 and lists.stock[pool] > 0:
            table[slot] = np.arange(chances.size) == pool
    return Part(table, np.zeros_like(table), 0)


def _redrawn(believed: Beta, rules: Rules, lists: Lists, page: Page, samples: int, key: np.uint64) -> Part:
    """Shares of `samples` blends that are not mixed at random."""
    accepted = asked = samples
    if rules.order == "greedy":
        plans = page.pinned[None]
        if page.limits.size and page.limits[FLOOR].any():
            uniforms = uniforms_of(key, PLAN_STREAM, samples, lists.stock.size)
            plans = floor_plans(pinned_of(page, rules.returns.size - page.start), page.limits[FLOOR], uniforms)
        sums, _, accepted = _looped(believed, rules, lists, page, plans, samples, key, explored=False)
    else:
        plain = rules._replace(temperature=1.0, epsilon=0.0)
        sums = np.zeros((rules.returns.size - page.start, lists.stock.size))
        for sample in range(samples):
            made = blend(believed, plain, lists, np.uint64(bits_at(key, np.uint64(sample))), page)
            sums[np.arange(made.slot_pools.size), made.slot_pools] += 1.0
    samples, alike = max(accepted, 1), accepted / asked
    shares = sums / samples
    # Without draws and plans only ties are broken at random: what came this often without exception is certain.
    settled = samples >= SETTLED and rules.mode != "drawn" and rules.order == "greedy" and len(plans) == 1
    if settled and np.isin(shares, (0, 1)).all():
        return Part(shares, np.zeros_like(shares), 0, alike)
    # Half a count more, in the error only: that it never happened does not make it impossible.
    doubtful = (sums + 0.5) / (samples + 1.0)
    errors = np.sqrt(doubtful * (1.0 - doubtful) / samples) * (lists.stock > 0)
    return Part(shares, errors, accepted, alike)


def _explored(believed: Beta, rules: Rules, lists: Lists, page: Page, samples: int, key: np.uint64) -> Part:
    """Feeds mixed at random: known without a redraw unless stock, caps or floors may close a pool."""
    stocked, slots = lists.stock > 0, rules.returns.size - page.start
    pools = int(np.count_nonzero(stocked))
    if pools <= 1 or _unlimited(lists, slots, page):
        return _every_slot(stocked / max(1, pools), slots, lists, page)
    sums, squares, _ = _looped(believed, rules, lists, page, page.pinned[None], samples, key, explored=True)
    chances = sums / samples
    return Part(chances, np.sqrt(np.maximum(squares / samples - chances**2, 0.0) / samples), samples)


def _looped(
    believed: Beta,
    rules: Rules,
    lists: Lists,
    page: Page,
    plans: IntArray,
    samples: int,
    key: np.uint64,
    *,
    explored: bool,
) -> tuple[FloatArray, FloatArray, int]:
    """`redrawn`; feeds that are mixed at random need no more than one draw, and are mixed anew on each page."""
    given = _given(rules, page) and not explored
    return redrawn(
        *believed,
        rules.rewards,
        rules.returns,
        fallback_of(rules, lists.stock.size),
        MODES[rules.mode],
        1 if explored else rules.draws,
        *lists,
        page.limits,
        page.groups,
        page.rooms,
        plans,
        rules.returns.size - page.start,
        explored,
        page.start,
        page.limits[BEFORE] if given else NO_PLAN,
        samples,
        key,
    )
