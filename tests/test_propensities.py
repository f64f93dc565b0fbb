"""How likely each pool was to get each slot.

Statistical tests are seeded, so they pass always or never. What is compared with redraws shares one chance of a
false alarm, FAMILY, among all its comparisons.
"""

from typing import Any

import numpy as np
import pytest
from arms import SEED, Offer, plain_allocation
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from redraws import Case, cases
from scipy import stats

from blending.propensity import Propensities
from engine.decision import conditions_of, difference, posterior_of, rules_of
from engine.propensities import SAMPLES, propensities

FAMILY = 1e-6
COMPARISONS = 200  # at least as many as all tests here make together


def assert_agree(found: Propensities, counts: np.ndarray, redraws: int) -> None:
    """Slot by slot: χ² of one sample where the chances are exact, else of two samples, its own size counted."""
    for slot, chances in enumerate(found.chances):
        rare = chances * min(redraws, found.samples or redraws) < 10  # too few for χ²: counted as one pool
        cells = np.bincount(np.where(rare, chances.size, np.arange(chances.size)), chances, chances.size + 1)
        seen = np.bincount(np.where(rare, chances.size, np.arange(chances.size)), counts[slot], chances.size + 1)
        used = (cells > 0) | (seen > 0)
        cells, seen = cells[used], seen[used]
        if cells.size == 1:
            assert seen.sum() == redraws
            continue
        if found.samples == 0:
            chi = ((seen - redraws * cells) ** 2 / (redraws * cells)).sum()
        else:
            pooled = (seen + found.samples * cells) / (redraws + found.samples)
            chi = ((seen / redraws - cells) ** 2 / (pooled * (1 / redraws + 1 / found.samples))).sum()
        p = stats.chi2.sf(chi, cells.size - 1)
        print(f"seed {SEED}, slot {slot}: chi-square {chi:.1f}, p {p:.3g}")
        assert p > FAMILY / COMPARISONS, (slot, chances, counts[slot])


AGREEING: dict[str, tuple[Case, str, int]] = {
    # Lists with common items that are mostly unread: the bandit's part is exact whatever they hold.
    "a draw for each slot, the winner takes it": (
        Case([6, 9, 3], [60, 80, 20], ["abcd", "aefb", "fdcg"], 4, draws="slot"),
        "quadrature",
        100_000,
    ),
    "one draw, the winner takes all": (
        Case([6, 9, 3, 5], [60, 80, 20, 50], ["abcd", "efgh", "", "ijkl"], 4, temperature=0.5, epsilon=0.3),
        "quadrature",
        20_000,
    ),
    "satiation, stock that runs out, several actions": (
        Case(
            [[6, 2], [9, 4], [3, 2]],
            [[60, 20], [80, 30], [20, 60]],
            ["ab", "cdefg", "hij"],
            5,
            delta=0.85,
            rewards=[1.0, -0.5],
            epsilon=0.2,
        ),
        "monte carlo",
        100_000,
    ),
    "Webster and a draw for each slot": (
        Case([6, 9, 3], [60, 80, 20], ["abcdef", "ghijkl", "m"], 6, delta=None, draws="slot", epsilon=0.02),
        "monte carlo",
        20_000,
    ),
    "lists that are read whole, with common items": (
        Case([6, 9, 3], [60, 80, 20], ["abcd", "baex", "cay"], 9, delta=0.85, draws="slot", epsilon=0.5),
        "monte carlo",
        20_000,
    ),
    "common items that are unread, in lists that cannot run out": (
        Case([6, 9, 3], [60, 80, 20], ["abcde", "bcade", "fabcg"], 5, delta=0.85),
        "monte carlo",
        20_000,
    ),
    "rewards below zero only": (
        Case([6, 9, 3], [60, 80, 20], ["abc", "def", "ghi"], 3, rewards=[-2.0]),
        "monte carlo",
        20_000,
    ),
    "pinned slots, the winner takes the others": (
        Case([6, 9, 3], [60, 80, 20], ["abcd", "aefb", "fdcg"], 4, epsilon=0.2, pinned=[(1, 2), (3, 0)]),
        "quadrature",
        100_000,
    ),
    "the last item of a pool is kept back for its pin": (
        Case([90, 9, 3], [60, 80, 20], ["a", "bcde", "fghi"], 4, epsilon=0.2, pinned=[(2, 0)]),
        "monte carlo",
        20_000,
    ),
    "floors and caps": (
        Case(
            [6, 9, 3],
            [60, 80, 20],
            ["abcde", "fghij", "klmno"],
            5,
            delta=0.85,
            epsilon=0.3,
            floors=[1, 0, 1],
            caps=[2, 2, 5],
            pinned=[(0, 2)],
        ),
        "monte carlo",
        20_000,
    ),
    "a later page with a draw for each slot": (
        Case([6, 9, 3], [60, 80, 20], ["abc", "def", "ghi"], 3, delta=None, draws="slot", before=[3, 0, 2]),
        "monte carlo",
        20_000,
    ),
    "a page that is spread": (
        Case([6, 9, 3], [60, 80, 20], ["abcde", "fghij", "k"], 5, delta=0.7, order="spread", epsilon=0.1),
        "monte carlo",
        8_000,
    ),
    "shares that are rounded at random, with a floor and a cap": (
        Case(
            [6, 9, 3],
            [60, 80, 20],
            ["abcde", "fghij", "klmno"],
            5,
            order="rounded",
            floors=[0, 0, 1],
            caps=[5, 2, 5],
        ),
        "monte carlo",
        8_000,
    ),
    "by expectation": (
        Case([6, 9, 3], [60, 80, 20], ["abcde", "fghij", "klmno"], 5, delta=0.85, mode="expected", epsilon=0.2),
        "quadrature",
        20_000,
    ),
    "fixed ratios": (
        Case([6, 9, 3], [60, 80, 20], ["abcde", "fghij", "klmno"], 5, mode="fixed", fallback=[3, 2, 1.5]),
        "quadrature",
        500,
    ),
    "fixed ratios of which two are the same": (
        Case([6, 9, 3], [60, 80, 20], ["abcd", "efgh", "ijkl"], 4, mode="fixed", fallback=[1, 1, 3]),
        "monte carlo",
        20_000,
    ),
    "mixed at random with short lists that share items, floors and caps": (
        Case(
            [6, 9, 3],
            [60, 80, 20],
            ["abcd", "baex", "cay"],
            9,
            epsilon=0.95,
            floors=[1, 2, 1],
            caps=[9, 9, 2],
        ),
        "monte carlo",
        20_000,
    ),
}


@pytest.mark.parametrize("which", AGREEING)
def test_propensities_agree_with_redraws_of_the_request(which: str) -> None:
    case, method, redraws = AGREEING[which]
    record = case.decision()
    assert difference(record) is None
    found = propensities(record)
    assert found.method == method
    assert found.samples == (0 if method == "quadrature" else SAMPLES)
    assert_agree(found, case.counts(redraws), redraws)


def test_propensities_agree_with_numpys_draws_and_a_plain_allocation() -> None:
    """Nothing is shared with the engine: another generator, and slots given out in plain Python."""
    case = Case([6, 9, 3], [60, 80, 20], ["abcde", "baxyz", "ca"], 9, delta=0.85)
    random, redraws = np.random.default_rng(SEED), 6_000
    counts = np.zeros((case.slots, 3), np.int64)
    for rates in random.beta(case.posterior.alpha[:, 0], case.posterior.beta[:, 0], (redraws, 3)):
        offer = Offer(rates[None], np.arange(3), case.rules.returns, case.lists, case.slots)
        for slot, (pool, _) in enumerate(plain_allocation(offer).slots):
            counts[slot, pool] += 1
    assert_agree(propensities(case.decision()), counts, redraws)


def test_standard_errors_are_as_large_as_the_estimates_stray() -> None:
    """The mean of 400 squared deviations, in errors, is 1 within .4: five and a half of its own (2 / 400) ** .5."""
    case = Case([6, 9], [60, 80], ["a", "bcd"], 3, delta=0.85, epsilon=0.5)
    exact = propensities(case.decision(), 400_000).chances
    found = [propensities(case.decision(f"{number}"), 200) for number in range(400)]
    squares = np.mean([((one.chances - exact) / one.errors) ** 2 for one in found], axis=0)
    assert np.all(np.abs(squares - 1.0) < 0.4), f"seed {SEED}: {squares}"


@pytest.mark.parametrize(
    ("delta", "before"), [(None, [2, 2, 1]), (None, [1, 3, 1]), (1.0, [0, 5, 0]), (0.85, [3, 2, 0])]
)
def test_a_later_page_is_as_likely_as_among_feeds_that_began_like_it(
    delta: float | None, before: list[int]
) -> None:
    """Whole feeds of both pages, drawn from other keys: those whose first five slots hold as many of each pool."""
    lists = ["abcdefghi", "jklmnopqr", "stuvwxyzA"]
    more = {"delta": delta, "epsilon": 0.3}
    whole = Case([6, 9, 3], [60, 80, 20], lists, 9, **more)
    counts, alike = np.zeros((4, 3), np.int64), 0
    for number in range(15_000):
        pools = whole.made(f"whole {number}").slot_pools
        if np.bincount(pools[:5], minlength=3).tolist() == before:
            alike += 1
            counts[np.arange(4), pools[5:]] += 1
    later = Case([6, 9, 3], [60, 80, 20], [entries[5:] for entries in lists], 4, before=before, **more)
    found = propensities(later.decision())
    print(f"seed {SEED}: {alike} feeds, {found.samples} redraws")
    assert min(alike, found.samples) > 100
    assert_agree(found, counts, alike)


@pytest.mark.parametrize("mode", ["expected", "fixed"])
@pytest.mark.parametrize("epsilon", [0.0, 0.02])
def test_a_later_page_that_nothing_is_drawn_for_is_as_good_as_certain(mode: str, epsilon: float) -> None:
    """Its feed began as it always would, so it is hardly one that was mixed at random."""
    lists = ["abcdefghi", "jklmnopqr", "stuvwxyzA"]
    more = {"mode": mode, "fallback": [0.5, 0.3, 0.2], "delta": None, "epsilon": epsilon}
    whole = Case([6, 9, 3], [60, 80, 20], lists, 9, **{**more, "epsilon": 0.0}).made("whole").slot_pools
    before = np.bincount(whole[:5], minlength=3).tolist()
    later = Case([6, 9, 3], [60, 80, 20], [entries[5:] for entries in lists], 4, before=before, **more)
    found = propensities(later.decision())
    assert np.all(found.chances[np.arange(4), whole[5:]] >= 1.0 - epsilon)


# What holds of all


first_pages = cases().filter(lambda case: case.start == 0)


@given(first_pages)
@settings(max_examples=60)
def test_rows_sum_to_1_and_a_pool_without_stock_has_no_chance(case: Case) -> None:
    found = propensities(case.decision(), 64)
    assert found.chances.shape == found.errors.shape == (len(case.decision().slot_items), len(case.items))
    assert found.chances.sum(axis=1) == pytest.approx(1.0, abs=1e-12)
    assert np.all(found.chances >= 0.0)
    assert np.all(found.errors >= 0.0)
    assert np.all(found.chances[:, case.lists.stock == 0] == 0.0)
    assert np.all(found.errors[:, case.lists.stock == 0] == 0.0)


@given(first_pages)
@settings(max_examples=100)
def test_a_pool_that_must_be_open_has_at_least_its_part_of_epsilon_also_where_lists_share_items(
    case: Case,
) -> None:
    """With every slot before and its later pins it is below its stock and cap, and floors leave room."""
    record = case.decision()
    found = propensities(record, 64)
    with_items = sum(part.stock > 0 for part in record.pools)
    pins = [[slot for slot, owner in record.pinned if owner == pool] for pool in range(len(record.pools))]
    needed = sum(max(part.floor, len(own)) for part, own in zip(record.pools, pins, strict=True))
    for slot, chances in enumerate(found.chances.tolist()):
        if slot in dict(record.pinned) or needed >= case.slots - slot:
            continue
        for part, own, chance in zip(record.pools, pins, chances, strict=True):
            most = slot + sum(pin > slot for pin in own)
            if most < part.stock and (part.cap is None or most < part.cap):
                assert chance >= record.epsilon / with_items * (1.0 - 1e-12)


@given(first_pages)
@settings(max_examples=100)
def test_a_pinned_slot_has_chance_1_where_its_pool_cannot_lack_an_item(case: Case) -> None:
    """Where no item that was read is offered twice, or the pool has more entries than there are slots before."""
    record = case.decision()
    found = propensities(record, 64)
    read = [item for part in record.pools for item in part.items]
    for slot, pool in record.pinned:
        if slot < len(record.slot_pools) and record.pools[pool].stock > slot:
            assert found.chances[slot].tolist() == [float(other == pool) for other in range(len(record.pools))]
            assert not found.errors[slot].any()
        if slot < len(record.slot_pools) and len(set(read)) == len(read):
            assert found.chances[slot, pool] == pytest.approx(1.0, abs=1e-12)


def test_a_pin_of_a_pool_without_items_changes_nothing() -> None:
    for more in ({}, {"epsilon": 0.5}):
        pinned = Case([6, 9, 3], [60, 80, 20], ["", "abc", "def"], 3, pinned=[(1, 0)], **more)
        plain = Case([6, 9, 3], [60, 80, 20], ["", "abc", "def"], 3, **more)
        assert np.array_equal(propensities(pinned.decision()).chances, propensities(plain.decision()).chances)


def test_one_redraw_is_not_enough_to_call_a_tie_certain() -> None:
    case = Case([6, 6], [60, 60], ["ab", "cd"], 2, mode="expected")
    assert propensities(case.decision(), 1).errors.any()
    assert np.all(np.abs(propensities(case.decision()).chances - 0.5) < 0.05)
    apart = Case([6, 7], [60, 60], ["ab", "cd"], 2, mode="expected")
    assert propensities(apart.decision())[1:] == (pytest.approx(np.zeros((2, 2))), "quadrature", 0)


@given(first_pages, st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_propensities_are_a_function_of_all_but_the_draw(case: Case, rate: float) -> None:
    record = case.decision()
    actions = len(record.actions)
    other = replace(
        record,
        explored=not record.explored,
        pools=[replace(part, rates=[[rate] * actions for _ in part.rates]) for part in record.pools],
    )
    found, again, changed = (propensities(one, 64) for one in (record, record, other))
    for one in (again, changed):
        assert np.array_equal(found.chances, one.chances)
        assert np.array_equal(found.errors, one.errors)
        assert found[2:] == one[2:]


def test_more_samples_make_smaller_errors_and_none_is_refused() -> None:
    record = Case([6, 9], [60, 80], ["a", "bcd"], 3, delta=0.85).decision()
    few, many = propensities(record, 100), propensities(record, 10_000)
    assert np.all(many.errors < few.errors / 5)
    assert (few.samples, many.samples) == (100, 10_000)
    with pytest.raises(ValueError, match="at least one sample"):
        propensities(record, 0)


# Special cases


@pytest.mark.parametrize("more", [{}, {"delta": 0.85, "draws": "slot"}, {"delta": None, "epsilon": 0.5}])
def test_the_only_pool_with_items_has_every_slot_for_certain(more: dict[str, Any]) -> None:
    for lists, expected in ((["abcd"], [1.0]), (["", "abc", ""], [0.0, 1.0, 0.0])):
        case = Case([0.2] * len(lists), [0.3] * len(lists), lists, 4, **more)
        found = propensities(case.decision())
        assert found.samples == 0
        assert found.chances.tolist() == [expected] * len(case.decision().slot_items)
        assert not found.errors.any()


def test_a_feed_without_slots_has_no_propensities() -> None:
    found = propensities(Case([2, 3], [4, 5], ["", ""], 4, delta=0.85, epsilon=0.5).decision())
    assert found.chances.shape == found.errors.shape == (0, 2)


@pytest.mark.parametrize("more", [{}, {"delta": 0.85}, {"delta": None, "draws": "slot"}, {"rewards": [-1.0]}])
def test_equal_pools_have_equal_chances(more: dict[str, Any]) -> None:
    """Within 6 errors: below 1e-7 for the 12 cells of each."""
    case = Case([6, 6, 6], [60, 60, 60], ["abcd", "efgh", "ijkl"], 4, epsilon=0.02, **more)
    found = propensities(case.decision())
    assert np.all(np.abs(found.chances - 1 / 3) <= 6 * found.errors + 1e-9), f"seed {SEED}: {found.chances}"


def test_a_pool_that_lacks_one_item_for_the_feed_is_left_to_monte_carlo() -> None:
    """Pool 0 wins nearly always and is empty before the last slot, which an integral would give it."""
    found = propensities(Case([900, 100], [100, 900], ["abc", "defg"], 4).decision())
    assert found.method == "monte carlo"
    assert found.chances.tolist() == [[1.0, 0.0]] * 3 + [[0.0, 1.0]]
    assert np.all(found.errors > 0.0)


def test_rates_that_round_to_0_are_left_to_monte_carlo() -> None:
    """Half the draws of Beta(.001, 1) are too small for a number: the blend breaks such ties at random."""
    case = Case([0.001, 0.001], [1, 1], ["ab", "cd"], 2)
    assert propensities(case.decision()).method == "monte carlo"


def test_pools_that_offer_the_same_items_have_their_turns_when_a_feed_is_mixed_at_random() -> None:
    """Two pools with one list and a third: each has an item left for each of the first three slots."""
    case = Case([6, 6, 6], [60, 60, 60], ["abc", "abc", "xyz"], 7, delta=0.85, epsilon=1.0 - 1e-9)
    found = propensities(case.decision())
    assert found.chances[:3] == pytest.approx(1 / 3, abs=1e-8)
    assert np.all(found.errors[:3] < 1e-8)


def test_a_record_that_could_not_be_a_decision_is_refused() -> None:
    record = Case([6, 9], [60, 80], ["abc", "def"], 3, delta=0.85, draws="slot").decision()
    names = ("slot_items", "slot_pools", "slot_rules", "slot_offers")
    short = replace(record, **{name: getattr(record, name)[:-1] for name in names})
    with pytest.raises(ValueError, match="fill 3 slots"):
        propensities(short)
    for wrong in (replace(record, temperature=0.0), replace(record, temperature=-1.0)):
        with pytest.raises(ValueError, match="needs parameters"), np.errstate(divide="ignore"):
            propensities(wrong)
    draws = [replace(part, rates=part.rates[:2]) for part in record.pools]
    with pytest.raises(ValueError, match="2 draws"):
        propensities(replace(record, pools=draws))


def test_what_is_given_is_read_from_the_record() -> None:
    given_ = {"rewards": [1.0, -2.0], "draws": "slot", "before": [1, 2], "caps": [2, 3], "pinned": [(1, 0)]}
    case = Case([[6, 1], [9, 2]], [[60, 5], [80, 6]], ["abc", "def"], 3, order="spread", **given_)
    record = case.decision()
    assert all(np.array_equal(one, other) for one, other in zip(conditions_of(record), case.page, strict=True))
    assert np.array_equal(posterior_of(record), case.posterior)
    assert all(np.array_equal(one, other) for one, other in zip(rules_of(record), case.rules, strict=True))
