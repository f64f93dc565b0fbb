"""Plans: floors, rounding at random, and spreading, each beside a plain program in whole numbers or fractions.

Statistical tests are seeded, so they pass always or never; the docstring says how rarely a right program fails.
"""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from arms import SEED, keys
from chance import assert_counts
from hypothesis import example, given
from hypothesis import strategies as st

from blending.order import NONE, floor_plans, rounded, spread_plans
from blending.randomness import key_of
from blending.sampling import uniforms_of


@st.composite
def pinned_pages(draw: st.DrawFn, pools: int) -> np.ndarray:
    """A page of which some slots are pinned."""
    return np.array(draw(st.lists(st.integers(-4, pools - 1), min_size=1, max_size=14)), np.int64).clip(NONE)


def drawn(key: np.uint64, samples: int, size: int) -> np.ndarray:
    """Uniform numbers, the same for the same key."""
    return uniforms_of(key, 5, samples, size)


# Floors


def plain_floor_plan(pinned: list[int], floors: list[int], phases: list[float]) -> list[int]:
    """The items of all floors, by their places: each in the next free slot, or before it if room runs out."""
    free = [slot for slot, pool in enumerate(pinned) if pool == NONE]
    queue = []
    for pool, floor in enumerate(floors):
        wanted = max(0, floor - pinned.count(pool))
        queue += [((item + phases[pool]) / wanted * len(free), pool) for item in range(wanted)]
    queue.sort()
    plan = list(pinned)
    for number, slot in enumerate(free):
        if queue and (queue[0][0] < number + 1 or len(queue) == len(free) - number):
            plan[slot] = queue.pop(0)[1]
    return plan


@st.composite
def floor_pages(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Pinned slots and floors of pools that these and the free slots can hold."""
    pools = draw(st.integers(1, 4))
    pinned = draw(pinned_pages(pools))
    owners = draw(st.lists(st.integers(0, pools - 1), max_size=int((pinned == NONE).sum())))
    own = np.bincount(pinned[pinned != NONE], minlength=pools)
    low = np.array([draw(st.booleans()) for _ in range(pools)]) * own  # a floor may be below what is pinned
    floors = np.bincount(np.array(owners, np.int64), minlength=pools)
    return pinned, np.where(floors > 0, floors + own, low)


@given(floor_pages(), keys, st.integers(1, 3))
def test_floor_plans_equal_the_plain_ones(
    page: tuple[np.ndarray, np.ndarray], key: np.uint64, samples: int
) -> None:
    pinned, floors = page
    phases = drawn(key, samples, floors.size)
    expected = [plain_floor_plan(pinned.tolist(), floors.tolist(), row) for row in phases.tolist()]
    assert floor_plans(pinned, floors, phases).tolist() == expected


@given(floor_pages(), keys)
def test_a_floor_plan_holds_every_floor_and_every_pin_and_nothing_else(
    page: tuple[np.ndarray, np.ndarray], key: np.uint64
) -> None:
    pinned, floors = page
    plan = floor_plans(pinned, floors, drawn(key, 1, floors.size))[0]
    assert np.array_equal(plan[pinned != NONE], pinned[pinned != NONE])
    held = np.bincount(plan[plan != NONE], minlength=floors.size)
    own = np.bincount(pinned[pinned != NONE], minlength=floors.size)
    assert held.tolist() == np.maximum(floors, own).tolist()


def test_the_only_slot_of_a_floor_is_anywhere_in_the_page_equally_often() -> None:
    """The phase is uniform, so the slot is. Bernstein for 8 counts, below 1e-7 in all."""
    free = np.full(8, NONE, np.int64)
    plans = floor_plans(free, np.array([0, 1]), drawn(key_of(SEED, "phase"), 40_000, 2))
    assert_counts((plans == 1).sum(axis=0), 40_000, np.full(8, 1 / 8))


# Rounding


def plain_quotas(weights: list[Fraction], low: list[int], high: list[int], slots: int) -> list[Fraction]:
    """The level at which clipped quotas add up, between points where one of them starts or stops to grow."""
    total = min(slots, sum(high))

    def quotas(level: Fraction) -> list[Fraction]:
        return [min(max(level * w, Fraction(n)), Fraction(m)) for w, n, m in zip(weights, low, high, strict=True)]

    ends = zip(weights, low, high, strict=True)
    levels = sorted({Fraction(0), *(Fraction(end) / weight for weight, *both in ends for end in both)})
    below = max(level for level in levels if sum(quotas(level)) <= total)
    growing = [
        weight
        for weight, n, m in zip(weights, low, high, strict=True)
        if n <= below * weight < m  # at this level and just above
    ]
    missing = total - sum(quotas(below))
    return quotas(below + missing / sum(growing)) if missing else quotas(below)


def plain_rounded(quotas: list[Fraction], omega: Fraction) -> list[int]:
    """Differences of the running sum, rounded down after ω."""
    sums = [sum(quotas[:pool], Fraction(0)) for pool in range(len(quotas) + 1)]
    return [math.floor(after + omega) - math.floor(before + omega) for before, after in pairwise(sums)]


@st.composite
def shares(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Whole weights above 0, low and high of pools, and slots that low leaves room in."""
    pools = draw(st.integers(1, 5))
    column = st.lists(st.integers(0, 6), min_size=pools, max_size=pools)
    weights = np.array([draw(column)], float) + 1.0
    low = np.array(draw(column), np.int64) * draw(st.integers(0, 1))
    high = low + np.array(draw(column), np.int64)
    return weights, low, high, int(low.sum()) + draw(st.integers(0, 12))


@given(shares(), st.integers(0, 999))
def test_rounded_counts_equal_the_plain_ones(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray, int], thousandths: int
) -> None:
    """ω in between thousandths, so that no sum of quotas with ω is a whole number but for its last bits."""
    weights, low, high, slots = given_
    omega = Fraction(2 * thousandths + 1, 2000) + Fraction(1, 10**6 + 3)
    quotas = plain_quotas([Fraction(weight) for weight in weights[0]], low.tolist(), high.tolist(), slots)
    assert sum(quotas) == min(slots, high.sum())
    found = rounded(weights, low, high, slots, np.array([float(omega)]))[0]
    assert found.tolist() == plain_rounded(quotas, omega)


@given(shares(), keys, st.sampled_from([1.0, 1e-310, 1e290]), st.integers(0, 4))
@example((np.ones((1, 2)), np.zeros(2, np.int64), np.array([5, 5]), 4), np.uint64(1), 1e-310, 0)
def test_rounded_counts_keep_to_low_and_high_and_add_up(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray, int], key: np.uint64, scale: float, without: int
) -> None:
    """Whatever the scale of the weights, and where pools have none."""
    weights, low, high, slots = given_
    weights = weights * scale
    weights[:, :without] = 0.0
    counts = rounded(np.repeat(weights, 4, axis=0), low, high, slots, drawn(key, 4, 1)[:, 0].copy())
    assert np.all(low <= counts)
    assert np.all(counts <= high)
    assert counts.sum(axis=1).tolist() == [min(slots, high.sum())] * 4


@given(shares(), keys)
def test_a_count_is_its_quota_rounded_up_or_down(
    given_: tuple[np.ndarray, np.ndarray, np.ndarray, int], key: np.uint64
) -> None:
    weights, low, high, slots = given_
    quotas = plain_quotas([Fraction(weight) for weight in weights[0]], low.tolist(), high.tolist(), slots)
    counts = rounded(np.repeat(weights, 8, axis=0), low, high, slots, drawn(key, 8, 1)[:, 0].copy())
    assert np.all(
        [[abs(count - quota) < 1 for count, quota in zip(row, quotas, strict=True)] for row in counts.tolist()]
    )


def test_a_share_of_a_twenty_fifth_has_two_fifths_of_a_slot_of_ten_in_the_mean() -> None:
    """Quotas 4.2, .4, 3.3, 2.1: each count less its quota's whole part is 1 with the chance of the rest.

    Bernstein for 4 counts of 20,000, below 1e-7 in all. Rounding to the nearest would leave the .4 without a slot.
    """
    quotas, pages = np.array([4.2, 0.4, 3.3, 2.1]), 20_000
    low, high = np.zeros(4, np.int64), np.full(4, 10)
    omegas = drawn(key_of(SEED, "rounded"), pages, 1)[:, 0].copy()
    counts = rounded(np.repeat(quotas[None] / 10, pages, axis=0), low, high, 10, omegas)
    more = counts - np.floor(quotas).astype(np.int64)
    assert set(more.ravel().tolist()) == {0, 1}
    assert_counts(more.sum(axis=0), pages, quotas - np.floor(quotas))


# Spreading


def plain_spread(counts: list[int], first: int, ties: list[float]) -> list[int] | None:
    """Tijdeman's sequence in fractions, None where an item would miss its time.

    With parts = 2P - 2, an item of p may stand in slot k from k n / N - c = 1 / parts on, and must before a prefix
    has more than 1 - 1 / parts too few. A single pool has all.
    """
    total, pools = sum(counts), sum(count > 0 for count in counts)
    least = Fraction(1, 2 * pools - 2) if pools > 1 else Fraction(0)
    sequence: list[int] = []
    for k in range(1, total + 1):
        choice = []
        for pool, count in enumerate(counts):
            c = sequence.count(pool)
            if c < count and Fraction(k * count, total) - c >= least and (k > 1 or pool == first):
                due = next(j for j in range(1, 10**6) if Fraction(j * count, total) - c > 1 - least)
                choice.append((due, -ties[pool], pool))
        if not choice or min(choice)[0] < k:
            return None
        sequence.append(min(choice)[2])
    return sequence


@st.composite
def countings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A page with pinned slots, and counts of pools that fit the free ones."""
    pools = draw(st.integers(1, 5))
    pinned = draw(pinned_pages(pools) | st.integers(1, 25).map(lambda slots: np.full(slots, NONE, np.int64)))
    owner = st.integers(0, pools - 1) | st.just(0)
    free = int((pinned == NONE).sum())
    owners = draw(st.lists(owner, min_size=free * draw(st.integers(0, 1)), max_size=free))
    return pinned, np.bincount(np.array(owners, np.int64), minlength=pools)


@given(countings(), keys)
def test_spread_plans_equal_the_plain_ones(page: tuple[np.ndarray, np.ndarray], key: np.uint64) -> None:
    """The first pool is the one whose exponential time, at a rate of its count, comes first and that goes well."""
    pinned, counts = page
    uniforms = drawn(key, 2, 2 * counts.size)
    for plan, row in zip(spread_plans(pinned, np.repeat(counts[None], 2, axis=0), uniforms), uniforms, strict=True):
        times = {pool: -math.log(row[pool]) / n for pool, n in enumerate(counts.tolist()) if n}
        made = (
            plain_spread(counts.tolist(), pool, row[counts.size :].tolist())
            for pool in sorted(times, key=times.get)
        )
        sequence = next((sequence for sequence in made if sequence is not None), [])
        assert len(sequence) == counts.sum()
        free = np.flatnonzero(pinned == NONE)
        expected = pinned.copy()
        expected[free[: len(sequence)]] = sequence
        assert plan.tolist() == expected.tolist()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any), keys)
@example([1] * 8, np.uint64(3))
@example([40, 1, 1, 1, 1], np.uint64(3))
def test_no_prefix_of_a_spread_plan_strays_by_more_than_tijdemans_bound(counts: list[int], key: np.uint64) -> None:
    """1 - 1 / (2P - 2) for P pools that have slots, in whole numbers: parts |N c - k n| <= (parts - 1) N."""
    total, parts = sum(counts), max(1, 2 * sum(count > 0 for count in counts) - 2)
    table = np.array([counts], np.int64)
    plan = spread_plans(np.full(total, NONE, np.int64), table, drawn(key, 1, 2 * len(counts)))[0]
    prefixes = np.cumsum(plan[:, None] == np.arange(len(counts)), axis=0)
    assert prefixes[-1].tolist() == counts
    strayed = np.abs(total * prefixes - np.arange(1, total + 1)[:, None] * table)
    assert np.all(parts * strayed <= (parts - 1) * total)


@pytest.mark.parametrize("counts", [[3, 3, 4], [5, 5], [4, 3, 2, 1]])
def test_the_first_slot_is_drawn_in_proportion_to_counts_among_those_that_can_begin(counts: list[int]) -> None:
    """So the largest pool is not always first. Bernstein, below 1e-7 in all for each of three pages.

    To begin, a pool needs a share of at least 1 / (2P - 2), or the first prefix would break the bound.
    """
    pages, total = 20_000, sum(counts)
    able = np.array([plain_spread(counts, pool, [0.5] * len(counts)) is not None for pool in range(len(counts))])
    chances = able * np.array(counts) / (able * np.array(counts)).sum()
    uniforms = drawn(key_of(SEED, "first", str(counts)), pages, 2 * len(counts))
    plans = spread_plans(np.full(total, NONE, np.int64), np.repeat([counts], pages, axis=0), uniforms)
    assert_counts(np.bincount(plans[:, 0], minlength=len(counts)), pages, chances)
    assert able.tolist() == [count * (2 * len(counts) - 2) >= total for count in counts]
