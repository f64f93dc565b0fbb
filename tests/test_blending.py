"""Whole blends: draws, utilities, allocation and exploration together.

Statistical tests are seeded, so they pass always or never; what a test says of its false alarms is the chance
that a right program meets an unlucky seed. Together those of the bandit stay below 5e-6.
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from arms import (
    FALSE_ALARM,
    ROOT,
    SEED,
    Offer,
    disjoint,
    keys,
    letters,
    plain_allocation,
    posteriors,
    rates_of,
    shapes,
    utilities_of,
)
from chance import assert_counts
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from blending.blend import MODES, NO_PLAN, Lists, Order, Page, Rules, blend, fallen, intended, lists_of
from blending.kernels import intended_counts
from blending.order import floor_plans, rounded, spread_plans
from blending.posterior import Beta
from blending.randomness import key_of
from blending.returns import returns_table
from blending.sampling import EXPLORE_STREAM, PLAN_STREAM, tie_breaks, uniform_at, uniforms_of
from blending.utilities import drawn_utilities, fall_back


def plain_rules(rewards: list[float], slots: int) -> Rules:
    """The winner takes the slots; one draw, as it is."""
    return Rules(np.array(rewards), np.ones(slots))


def first_slots(posterior: Beta, rules: Rules, purpose: str, blends: int) -> np.ndarray:
    """How often each pool got the first slot, over many keys."""
    lists = disjoint(len(posterior.alpha), rules.returns.size)
    pools = [
        blend(posterior, rules, lists, key_of(SEED, purpose, str(number))).slot_pools[0] for number in range(blends)
    ]
    return np.bincount(pools, minlength=len(posterior.alpha))


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.lists(shapes, min_size=3, max_size=3), keys)
def test_utilities_are_added_in_the_order_of_the_actions(
    rewards: list[float], alpha: list[float], key: np.uint64
) -> None:
    rates = rates_of(np.array([alpha]), np.ones((1, 3)), key, 2, 0)
    products = [[rate * reward for rate, reward in zip(row, rewards, strict=True)] for row in rates[:, 0].tolist()]
    expected = [[one + two + three] for one, two, three in products]
    assert utilities_of(rates, np.array(rewards)).tolist() == expected
    alone, utilities = np.empty_like(rates), np.empty((2, 1))
    drawn_utilities(np.array([alpha]), np.ones((1, 3)), np.array(rewards), alone, utilities, key)
    assert np.array_equal(alone, rates)
    assert utilities.tolist() == expected


def test_the_order_of_addition_shows_in_the_last_bit() -> None:
    rates, rewards = np.array([[[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]]), np.ones(3)
    assert utilities_of(rates, rewards).tolist() == [[0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1]]
    assert 0.1 + 0.2 + 0.3 != 0.3 + 0.2 + 0.1


@st.composite
def rules(draw: st.DrawFn, actions: int, slots: int) -> Rules:
    """Any rules for a feed of so many slots."""
    return Rules(
        np.array(draw(st.lists(st.floats(-5.0, 5.0), min_size=actions, max_size=actions))),
        returns_table(slots, draw(st.sampled_from([None, 1.0, 0.8]))),
        draw(st.sampled_from([0.15, 1.0, 3.0])),
        draw(st.sampled_from([0.0, 0.5])),
        draw(st.sampled_from([1, slots])),
        draw(st.sampled_from(["drawn", "drawn", "expected", "fixed"])),
    )


@st.composite
def pages(draw: st.DrawFn, pools: int, slots: int, stock: int) -> Page:
    """Pins and floors that stock and slots allow, caps above, items in earlier pages; or no condition."""
    if draw(st.booleans()):
        return Page()
    owners = draw(st.lists(st.integers(0, pools - 1), max_size=slots))
    floors = np.minimum(np.bincount(np.array(owners, np.int64), minlength=pools), stock)
    pinned = np.full(slots, -1, np.int64)
    places = draw(st.permutations(range(slots)))
    for slot, pool in zip(places, np.repeat(np.arange(pools), floors), strict=False):
        if draw(st.booleans()):
            pinned[slot] = pool
    column = st.lists(st.integers(0, slots), min_size=pools, max_size=pools)
    limits = np.array([np.array(draw(column)) // 3, floors, np.maximum(floors, draw(column))], np.int64)
    return Page(limits, pinned if draw(st.booleans()) else NO_PLAN, draw(st.integers(int(limits[0].max()), 5)))


def plan_of(by: Rules, lists: Lists, page: Page, slots: int, offer: Offer) -> np.ndarray:
    """The plan of a page: its floors; or, for other orders, as many slots as that gives or shares come to."""
    pools, key = lists.stock.size, offer.key
    uniforms = uniforms_of(key, PLAN_STREAM, 1, 3 * pools + 1)
    pinned = page.pinned if page.pinned.size else np.full(slots, -1, np.int64)
    limits = page.limits if page.limits.size else np.array([[0, 0, slots]] * pools).T
    own = np.bincount(pinned[pinned >= 0], minlength=pools)
    plan = page.pinned
    if limits[1].any():
        plan = floor_plans(pinned, limits[1].copy(), uniforms[:, :pools].copy())[0]
    if by.order == "greedy":
        return plan
    placed = [pool for pool, _ in plain_allocation(offer._replace(plan=plan)).slots]
    counts = np.bincount(np.array(placed, np.int64), minlength=pools)[None]
    if by.order == "rounded":
        low = np.maximum(np.minimum(limits[1], lists.stock), own)
        high = np.maximum(np.minimum(limits[2], lists.stock), low)
        if high.sum() < slots:
            low, high = high, np.maximum(lists.stock, high)
        counts = rounded(np.maximum(offer.utilities[:1], 0.0), low, high, slots, uniforms[:, -1].copy())
    return spread_plans(pinned, np.maximum(counts - own, 0), uniforms[:, pools : 3 * pools].copy())[0]


@given(posteriors(), keys, st.integers(1, 12), st.sampled_from(["greedy", "spread", "rounded"]), st.data())
def test_a_blend_is_its_draws_its_utilities_its_plan_and_its_allocation(
    posterior: Beta, key: np.uint64, slots: int, order: Order, data: st.DataObject
) -> None:
    pools, actions = posterior.alpha.shape
    lists = disjoint(pools, 4)
    page = data.draw(pages(pools, slots, 4))
    fallback = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=pools, max_size=pools)))
    by = data.draw(rules(actions, slots))
    by = by._replace(returns=returns_table(page.start + slots, 0.8), fallback=fallback, order=order)
    made = blend(posterior, by, lists, key, page)
    alpha, beta = posterior.alpha / by.temperature, posterior.beta / by.temperature
    first = page.start if by.draws > 1 else 0  # one draw serves all pages
    drawn = rates_of(alpha, beta, key, by.draws, first) if by.mode == "drawn" else (alpha / (alpha + beta))[None]
    utilities, ties = utilities_of(drawn, by.rewards), tie_breaks(pools, key)
    fell = fall_back(utilities, fallback, lists.stock, MODES[by.mode])
    explored = uniform_at(key, np.uint64(EXPLORE_STREAM * 2**32)) < by.epsilon
    offer = Offer(utilities, ties, by.returns, lists, slots, False, key, fell, page.limits, page.pinned, page.start)
    plan = page.pinned if explored else plan_of(by, lists, page, slots, offer)
    plain = plain_allocation(offer._replace(explored=explored, plan=plan))
    assert np.array_equal(made.rates, drawn)
    assert made.explored == explored
    assert made.plan.tolist() == plan.tolist()
    assert list(zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)) == plain.slots
    assert letters(made.verdicts) == plain.verdicts
    assert fallen(made, by, lists).tolist() == [bool(fell[slot % len(fell)]) for slot in range(len(plain.slots))]
    before = page.limits[0] if page.limits.size else np.zeros(pools, np.int64)
    head = (drawn, by.rewards, by.returns, fallback, lists.stock, MODES[by.mode], before)
    assert intended(made, by, lists, key, page).tolist() == intended_counts(*head, slots, key).tolist()


@given(posteriors(), keys, st.integers(1, 12), st.data())
def test_one_belief_serves_feeds_of_every_length(
    posterior: Beta, key: np.uint64, slots: int, data: st.DataObject
) -> None:
    """Whether it was drawn once or for each slot, and whether the feed was mixed at random or not."""
    pools, actions = posterior.alpha.shape
    by, lists = data.draw(rules(actions, slots)), disjoint(pools, 3)
    delta = 1.0 if slots == 1 else by.returns[1]
    longer_by = by._replace(
        returns=returns_table(slots + 1, None if delta == 1.0 / 3.0 else delta),
        draws=1 if by.draws == 1 else slots + 1,
    )
    shorter, longer = blend(posterior, by, lists, key), blend(posterior, longer_by, lists, key)
    assert np.array_equal(longer.rates[: len(shorter.rates)], shorter.rates)
    assert longer.slot_pools[:slots].tolist() == shorter.slot_pools.tolist()
    assert longer.slot_ranks[:slots].tolist() == shorter.slot_ranks.tolist()


@given(posteriors(), keys, st.sampled_from([None, 1.0, 0.5]), st.booleans())
def test_a_feed_is_full_even_when_every_utility_is_negative(
    posterior: Beta, key: np.uint64, delta: float | None, one_draw: bool
) -> None:
    pools, actions = posterior.alpha.shape
    slots = 3 * pools
    by = Rules(np.full(actions, -74.0), returns_table(slots, delta), draws=1 if one_draw else slots)
    assert blend(posterior, by, disjoint(pools, 3), key).slot_pools.size == slots


def test_pools_with_nothing_to_offer_leave_the_feed_empty_and_the_blend_whole() -> None:
    empty = lists_of([np.zeros(0, np.int32)] * 2)
    made = blend(Beta(np.ones((2, 1)), np.ones((2, 1))), plain_rules([1.0], 5), empty, key_of(SEED))
    assert made.slot_pools.tolist() == []
    assert made.verdicts.shape == (2, 0)


def test_arms_without_evidence_share_the_first_slot_equally() -> None:
    """Chi-squared with 3 degrees of freedom at 1e-7."""
    newcomers = Beta(np.full((4, 2), 1.0), np.full((4, 2), 19.0))
    counts = first_slots(newcomers, plain_rules([1.0, -2.0], 1), "equal arms", 6000)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


UNEQUAL = Beta(np.array([[1.0], [5.0], [20.0], [80.0]]), np.full((4, 1), 3.0))


def test_pools_that_tie_share_the_first_slot_equally() -> None:
    """A reward of 0 makes every utility 0. Chi-squared with 3 degrees of freedom at 1e-7."""
    counts = first_slots(UNEQUAL, plain_rules([0.0], 1), "ties", 6000)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


def test_a_feed_mixed_at_random_takes_any_two_pools_equally_often() -> None:
    """Whatever their utilities: chi-squared over the 16 pairs of the first two slots, at 1e-7."""
    by, lists = Rules(np.ones(1), np.ones(2), epsilon=1.0 - 2.0**-53), disjoint(4, 2)
    made = [blend(UNEQUAL, by, lists, key_of(SEED, "mixed", str(number))) for number in range(6000)]
    assert all(one.explored for one in made)
    counts = np.zeros((4, 4), int)
    for one in made:
        counts[tuple(one.slot_pools)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.5])
def test_a_feed_is_mixed_at_random_with_the_probability_epsilon(epsilon: float) -> None:
    """Three two-sided binomial tests at 1e-7; with epsilon 0, none may be."""
    by, lists = Rules(np.ones(1), np.ones(1), epsilon=epsilon), disjoint(4, 1)
    mixed = sum(blend(UNEQUAL, by, lists, key_of(SEED, "mix", str(n))).explored for n in range(5000))
    assert stats.binomtest(mixed, 5000, epsilon).pvalue > FALSE_ALARM, f"seed {SEED}: {mixed}"


@pytest.mark.parametrize("temperature", [0.15, 4.0])
def test_temperature_divides_both_parameters(temperature: float) -> None:
    """Two Kolmogorov-Smirnov tests at 1e-7."""
    posterior, lists = Beta(np.full((100, 50), 3.0), np.full((100, 50), 9.0)), disjoint(100, 1)
    by = Rules(np.ones(50), np.ones(1), temperature=temperature)
    drawn = np.ravel([blend(posterior, by, lists, key_of(SEED, "warm", str(n))).rates for n in range(4)])
    expected = stats.beta(3.0 / temperature, 9.0 / temperature)
    assert stats.kstest(drawn, expected.cdf).pvalue > FALSE_ALARM, f"seed {SEED}"


@pytest.mark.parametrize("draws", [1, 2])
def test_a_pool_comes_first_as_often_as_it_is_the_best(draws: int) -> None:
    """Thompson sampling matches probabilities: the share of pool p is the integral of f_p times all F_q.

    Two chi-squared tests with 2 degrees of freedom at 1e-7; 400 Gauss-Legendre nodes give shares to 1e-12.
    """
    alpha, beta = np.array([3.0, 2.0, 10.0]), np.array([7.0, 8.0, 40.0])
    nodes, weights = np.polynomial.legendre.leggauss(400)
    x = (nodes + 1.0) / 2.0
    density = stats.beta.pdf(x[:, None], alpha, beta)
    below = stats.beta.cdf(x[:, None], alpha, beta)
    shares = np.array([np.sum(weights / 2.0 * density[:, p] * np.delete(below, p, 1).prod(1)) for p in range(3)])
    assert shares.sum() == pytest.approx(1.0, abs=1e-9)
    posterior, by = Beta(alpha[:, None], beta[:, None]), Rules(np.ones(1), np.ones(2), draws=draws)
    counts = first_slots(posterior, by, "matching", 6000)
    pvalue = stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue
    assert pvalue > FALSE_ALARM, f"seed {SEED}: {counts}"


@given(posteriors(), keys, st.integers(1, 12), st.lists(st.integers(0, 12), min_size=5, max_size=5))
def test_by_expectation_the_pool_of_the_largest_mean_utility_has_every_slot_until_it_runs_out(
    posterior: Beta, key: np.uint64, slots: int, stock: list[int]
) -> None:
    """In the order of the posterior means, with rewards that leave all above 0."""
    pools, actions = posterior.alpha.shape
    lists = lists_of([np.arange(20 * p, 20 * p + stock[p], dtype=np.int32) for p in range(pools)])
    by = Rules(np.arange(1.0, actions + 1.0), np.ones(slots), mode="expected")
    means = (posterior.mean * by.rewards).sum(axis=1)
    if min(np.diff(np.sort(means)), default=1.0) > 1e-9:
        walked = np.repeat(np.argsort(-means), np.array(stock[:pools])[np.argsort(-means)])[:slots]
        assert blend(posterior, by, lists, key).slot_pools.tolist() == walked.tolist()


def test_a_fixed_share_of_a_twenty_fifth_has_two_fifths_of_a_slot_of_ten_in_the_mean_where_it_is_rounded() -> None:
    """Two pages in five show the smallest pool once. Bernstein for 3 counts, below 1e-7 in all."""
    ratios, pages = np.array([0.56, 0.4, 0.04]), 4000
    by = Rules(np.ones(1), np.ones(10), mode="fixed", fallback=ratios, order="rounded")
    lists, posterior = disjoint(3, 10), Beta(np.ones((3, 1)), np.ones((3, 1)))
    made = [blend(posterior, by, lists, key_of(SEED, "fixed", str(page))).slot_pools for page in range(pages)]
    counts = np.array([np.bincount(pools, minlength=3) for pools in made])
    assert set(counts[:, 2].tolist()) == {0, 1}
    assert_counts((counts - [5, 4, 0])[:, [0, 2]].sum(axis=0), pages, [0.6, 0.4], 3)
    assert np.all(counts[:, 1] == 4)


WITHOUT_END = """
import json, signal, sys
import numpy as np
from blending.blend import Rules, blend, lists_of
from blending.posterior import Beta

lists = lists_of([np.arange(3, dtype=np.int32), np.arange(3, 6, dtype=np.int32)])
for line in sys.stdin:
    parameter, pool, bad, temperature = json.loads(line)
    posterior = Beta(np.ones((2, 2)), np.ones((2, 2)))
    posterior[parameter][pool, 1] = bad
    signal.alarm(30)
    try:
        blend(posterior, Rules(np.ones(2), np.ones(3), temperature), lists, np.uint64(1))
        print("a blend", flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


@pytest.mark.parametrize(
    ("alpha", "beta", "rewards", "pools"),
    [
        ((2, 2), (2, 1), 2, 2),
        ((2, 2), (1, 2), 2, 2),
        ((2, 1), (2, 2), 2, 2),
        ((2, 2), (2, 2), 3, 2),
        ((2, 2), (2, 2), 2, 3),
        ((2, 0), (2, 0), 0, 2),
        ((0, 2), (0, 2), 2, 0),
    ],
)
def test_a_blend_refuses_shapes_that_do_not_agree(
    alpha: tuple[int, int], beta: tuple[int, int], rewards: int, pools: int
) -> None:
    """Its loops would read past the end of an array."""
    with pytest.raises(ValueError, match="needs a posterior of that shape"):
        blend(
            Beta(np.ones(alpha), np.ones(beta)), plain_rules([1.0] * rewards, 3), disjoint(pools, 3), key_of(SEED)
        )


def test_a_blend_refuses_what_its_sampler_would_never_finish() -> None:
    """In a process of its own with an alarm, so that a sampler without an end is a failure and not a wait."""
    no_parameters = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0]
    cases = [(parameter, pool, bad, 1.0) for bad in no_parameters for parameter in (0, 1) for pool in (0, 1)]
    cases += [(0, 0, 1.0, temperature) for temperature in (0.0, -1.0, math.nan, math.inf)]
    cases += [(0, 1, 1e308, 0.15), (1, 0, 2000.0, 1e-308)]  # finite, but not when divided
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    command = [sys.executable, "-c", WITHOUT_END]
    done = subprocess.run(command, cwd=ROOT, input=lines, timeout=300, capture_output=True, text=True, check=False)
    answers = done.stdout.splitlines()
    assert len(answers) == len(cases), f"of {cases[len(answers)]} nothing was heard; {done.stderr[-300:]}"
    assert [
        case for case, said in zip(cases, answers, strict=True) if not said.startswith("a Beta posterior needs")
    ] == []
