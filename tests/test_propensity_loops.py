"""The integral and the loops behind propensities."""

import math
from fractions import Fraction

import numpy as np
import pytest
from arms import Offer, keys, plain_allocation
from hypothesis import given, settings
from hypothesis import strategies as st
from redraws import cases
from scipy import integrate, stats
from scipy.special import betaln

from blending.blend import blend, lists_of, tempered
from blending.kernels import bits_at, redrawn_chances, redrawn_counts
from blending.posterior import Beta
from blending.propensity import chances_of_largest, floors


@given(keys, st.sampled_from([0.0, 1.0]), st.data())
@settings(max_examples=40)
def test_redrawn_counts_are_those_of_one_blend_after_another(
    key: np.uint64, epsilon: float, data: st.DataObject
) -> None:
    case = data.draw(cases())
    rules = case.rules._replace(epsilon=epsilon)
    expected = np.zeros((case.slots, len(case.items)), np.int64)
    for sample in range(5):
        pools = blend(case.posterior, rules, case.lists, np.uint64(bits_at(key, np.uint64(sample)))).slot_pools
        expected[np.arange(pools.size), pools] += 1
    believed = tempered(case.posterior, rules, len(case.items))
    explored = epsilon == 1.0
    found = redrawn_counts(*believed, rules.rewards, rules.returns, *case.lists, rules.draws, explored, 5, key)
    assert found.tolist() == expected.tolist()


@given(keys, st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 9))
def test_redrawn_chances_are_those_of_the_pools_that_have_items_left(
    key: np.uint64, stock: list[int], slots: int
) -> None:
    """Fractions, along the feeds that `allocate` makes of lists without a common item."""
    lists = lists_of([np.arange(10 * pool, 10 * pool + size, dtype=np.int32) for pool, size in enumerate(stock)])
    sums, squares = redrawn_chances(lists.stock, slots, 3, key)
    expected = [[[Fraction(0)] * len(stock) for _ in range(slots)] for _ in range(2)]
    for sample in range(3):
        offer = Offer(np.zeros((1, len(stock))), np.arange(len(stock)), np.ones(slots), lists, slots, True)
        left = list(stock)
        offer = offer._replace(key=np.uint64(bits_at(key, np.uint64(sample))))
        for slot, (pool, _) in enumerate(plain_allocation(offer)[0]):
            for other in (other for other, items in enumerate(left) if items):
                chance = Fraction(1, sum(items > 0 for items in left))
                expected[0][slot][other] += chance
                expected[1][slot][other] += chance**2
            left[pool] -= 1
    for found, exact in zip((sums, squares), expected, strict=True):
        assert found == pytest.approx(np.array(exact, float), rel=1e-12)


def test_floors_stand_for_as_many_slots_as_a_pool_has_items() -> None:
    lists = lists_of([np.arange(3, dtype=np.int32), np.arange(3, 4, dtype=np.int32), np.zeros(0, np.int32)])
    assert floors(lists, 3, 0.2).tolist() == [[0.1, 0.1, 0.0], [0.1, 0.0, 0.0], [0.1, 0.0, 0.0]]


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
