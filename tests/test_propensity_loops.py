"""The integral and the loops behind propensities."""

import math

import numpy as np
import pytest
from arms import Offer, chances_table, keys, plain_allocation, rates_of, utilities_of
from hypothesis import given, settings
from hypothesis import strategies as st
from redraws import Case, cases
from scipy import integrate, stats
from scipy.special import betaln

from blending.blend import MODES, Page, lists_of, pinned_of, tempered
from blending.order import floor_plans
from blending.posterior import Beta
from blending.propensity import chances_of_largest, floors
from blending.redraws import redrawn
from blending.sampling import PLAN_STREAM, bits_at, tie_breaks, uniforms_of
from blending.utilities import fall_back


@given(cases(), keys, st.booleans())
@settings(max_examples=60)
def test_redrawn_chances_are_those_of_one_plain_allocation_after_another(
    case: Case, key: np.uint64, explored: bool
) -> None:
    """Each sample has a key of its own, and a plan of its own where there are as many."""
    pools, samples = len(case.items), 5
    believed = tempered(case.posterior, case.rules, pools)
    rules, page, mode = case.rules, case.page, MODES[case.rules.mode]
    plans = page.pinned[None]
    if page.limits.size:
        uniforms = uniforms_of(key, PLAN_STREAM, samples, pools)
        plans = floor_plans(pinned_of(page, case.slots), page.limits[1].copy(), uniforms)
    expected = []
    for sample in range(samples):
        own = np.uint64(bits_at(key, np.uint64(sample)))
        rates = believed.mean[None]
        if rules.mode == "drawn":
            rates = rates_of(*believed, own, rules.draws, case.start if rules.draws > 1 else 0)
        utilities = utilities_of(rates, rules.rewards)
        fell = fall_back(utilities, rules.fallback, case.lists.stock, mode)
        ties, plan = tie_breaks(pools, own), plans[sample % len(plans)]
        offer = Offer(utilities, ties, rules.returns, case.lists, case.slots, explored, own, fell)
        offer = offer._replace(
            limits=page.limits, groups=page.groups, rooms=page.rooms, plan=plan, start=case.start
        )
        expected.append(chances_table(plain_allocation(offer), case.slots))
    head = (*believed, rules.rewards, rules.returns, rules.fallback, mode, rules.draws, *case.lists)
    found = redrawn(
        *head,
        page.limits,
        page.groups,
        page.rooms,
        plans,
        case.slots,
        explored,
        case.start,
        np.zeros(0, np.int64),
        samples,
        key,
    )
    assert found[2] == samples
    for sums, power in zip(found[:2], (1, 2), strict=True):
        assert sums == pytest.approx(np.sum([table**power for table in expected], axis=0), rel=1e-12)


def test_a_guarantee_stands_for_as_many_slots_as_a_pool_must_have_items() -> None:
    lists = lists_of([np.arange(3, dtype=np.int32), np.arange(3, 4, dtype=np.int32), np.zeros(0, np.int32)])
    assert floors(lists, 3, 0.2).tolist() == [[0.1, 0.1, 0.0], [0.1, 0.0, 0.0], [0.1, 0.0, 0.0]]


def test_a_guarantee_knows_caps_floors_and_pins() -> None:
    """Three pools of 6 items, 6 slots: slot 2 is pinned to pool 0, which must have 2 and may not have more.

    So pool 0 is open for certain in slot 0 only, and pool 1, which may have 3, in slots 0 to 2; in slots 4 and 5
    the two items that must be pool 0's may be all that is left.
    """
    lists = lists_of([np.arange(6 * pool, 6 * pool + 6, dtype=np.int32) for pool in range(3)])
    limits, pinned = np.array([[0, 0, 0], [2, 0, 0], [2, 3, 6]]), np.array([-1, -1, 0, -1, -1, -1])
    expected = [[1, 1, 1], [0, 1, 1], [10, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert floors(lists, 6, 0.3, Page(limits, pinned)) == pytest.approx(np.array(expected) / 10)


# The integral


def chance_of_first(a: int, b: int, c: int, d: int) -> float:
    """P(Beta(a, b) > Beta(c, d)) for whole a: Σ_i B(c + i, b + d) / ((b + i) B(1 + i, b) B(c, d)), i < a.

    Evan Miller, "Formulas for Bayesian A/B testing", 2015.
    """
    terms = [math.exp(betaln(c + i, b + d) - math.log(b + i) - betaln(1 + i, b) - betaln(c, d)) for i in range(a)]
    return math.fsum(terms)


@pytest.mark.parametrize(
    "parameters", [(1, 1, 1, 1), (3, 57, 5, 60), (1, 19, 40, 500), (2000, 24000, 2, 20), (30, 2, 1, 1)]
)
def test_the_chances_of_two_pools_are_those_of_the_finite_sum(parameters: tuple[int, int, int, int]) -> None:
    a, b, c, d = parameters
    found = chances_of_largest(Beta(np.array([a, c], float), np.array([b, d], float)))
    expected = chance_of_first(a, b, c, d)
    assert found == pytest.approx([expected, 1.0 - expected], abs=1e-9)


def test_the_chances_of_four_pools_are_those_of_an_adaptive_integral() -> None:
    alpha, beta = np.array([10.0, 14.0, 3.0, 90.0]), np.array([120.0, 130.0, 22.0, 900.0])

    def integrand(x: float, pool: int) -> float:
        below = stats.beta(alpha, beta).cdf(x)
        return float(stats.beta(alpha[pool], beta[pool]).pdf(x) * np.delete(below, pool).prod())

    expected = [
        integrate.quad(integrand, 0.0, 1.0, args=(pool,), points=[0.08, 0.1, 0.13, 0.3], epsabs=1e-10)[0]
        for pool in range(4)
    ]
    assert chances_of_largest(Beta(alpha, beta)) == pytest.approx(expected, abs=1e-8)


parameters = st.floats(-0.3, 5.0).map(lambda power: 10.0**power)


@given(st.lists(st.tuples(parameters, parameters), min_size=2, max_size=6))
def test_the_integral_finds_all_of_the_mass_whatever_the_scales(pools: list[tuple[float, float]]) -> None:
    """Nothing in it makes the chances add to 1 but that they are right."""
    alpha, beta = np.array(pools).T
    assert chances_of_largest(Beta(alpha, beta)).sum() == pytest.approx(1.0, abs=1e-7)
