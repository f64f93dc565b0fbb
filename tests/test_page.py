"""What a page keeps to, whatever was drawn: floors that fade, caps, pins; and what happens where that cannot be."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pages import LIKE, asked, external, facts_of, lists, reacted

from engine.decision import difference
from engine.facts import Facts
from engine.page import Degraded, Wanted, page_of, wanted_of
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy
from engine.pool_policy import PoolPolicy
from engine.state import Tally
from streams.codec import decode, encode

ORDERS = ("greedy", "spread", "rounded")


def wanted(policy: Policy, slots: int, views: float = 0.0, start: int = 0, *, first: bool = False) -> Wanted:
    none = np.zeros(len(policy.pools), np.int64)
    return wanted_of(policy, slots, start, np.full(len(policy.pools), views), none, first=first)


# Floors


def test_a_floor_is_halved_by_floor_views_and_fades_as_the_formula_says() -> None:
    policy = Policy(external(a={"floor": 0.5, "floor_views": 10.0}, b={"floor": 0.3, "floor_views": 1e9}))
    found = [wanted(policy, 20, views).floors.tolist() for views in (0.0, 10.0, 15.0, 90.0, 1e6)]
    assert found == [[10, 6], [5, 5], [4, 5], [1, 5], [0, 5]]


def test_a_floor_without_floor_views_is_of_the_first_page_only() -> None:
    policy = Policy(external(a={"floor": 0.5}, b={}))
    assert wanted(policy, 4, first=True).floors.tolist() == [2, 0]
    assert wanted(policy, 4).floors.tolist() == [0, 0]
    facts = facts_of(replace(policy, blend=BlendPolicy(epsilon=0.0)))
    first = asked(facts, "r1", 4, lists(9, "a", "b"))
    second = asked(facts, "r2", 4, lists(9, "a", "b"), first.state)
    assert [part.floor for part in first.decision.pools] == [2, 0]
    assert [part.floor for part in second.decision.pools] == [0, 0]


@given(st.floats(0.0, 1.0), st.floats(0.01, 1e6), st.floats(0.0, 1e6), st.integers(1, 100))
def test_a_faded_floor_is_the_share_rounded_down(share: float, half: float, views: float, slots: int) -> None:
    policy = Policy(external(a={"floor": share, "floor_views": half}))
    exact = Fraction(share) * Fraction(half) / (Fraction(half) + Fraction(views)) * slots
    found = int(wanted(policy, slots, views).floors[0])
    assert 0 <= found <= slots
    assert (
        exact - 1 < found <= exact + Fraction(1, 10**8)
    )  # a share times slots may miss a whole number by its last bits


def test_a_share_of_a_tenth_of_ten_slots_is_one_slot_and_of_thirty_three() -> None:
    for share in (0.1, 0.2, 0.3, 0.7):
        policy = Policy(external(a={"floor": share, "cap": share, "floor_views": 1e9}))
        for slots in range(10, 1000, 10):
            page = wanted(policy, slots)
            assert page.floors.tolist() == page.caps.tolist() == [round(share * slots)]


def test_large_floors_leave_every_other_floor_its_slot_of_the_first_page() -> None:
    policy = Policy(external(a={"floor": 0.8}, b={"floor": 0.1}, c={"floor": 0.1}))
    assert wanted(policy, 5, first=True).floors.tolist() == [3, 1, 1]
    facts = facts_of(policy)
    page = asked(facts, "r", 5, lists(9, "a", "b", "c")).decision
    assert all(part.realised >= least for part, least in zip(page.pools, (3, 1, 1), strict=True))
    assert page.degraded == []


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 30))
def test_a_first_page_wants_no_more_than_it_has_and_a_slot_of_every_floor(parts: list[int], slots: int) -> None:
    shares = [part / max(sum(parts), 8) for part in parts]
    policy = Policy({f"p{at}": PoolPolicy("external", floor=share) for at, share in enumerate(shares)})
    floors = wanted(policy, slots, first=True).floors.tolist()
    with_floor = sum(share > 0 for share in shares)
    assert all((floor > 0) == (share > 0) for floor, share in zip(floors, shares, strict=True))
    assert sum(floors) <= max(slots, with_floor)


@pytest.mark.parametrize("order", ORDERS)
@given(st.integers(3, 12), st.integers(0, 20), st.booleans(), st.integers(0, 3))
def test_a_first_page_shows_every_floor_pool_that_has_stock(
    order: str, slots: int, seed: int, mixed: bool, gone: int
):
    """Whatever is drawn, planned or mixed at random. `gone` is a pool that brings nothing."""
    pools = external(a={"floor": 0.5}, b={"floor": 0.2}, c={"floor": 0.01}, d={"ratio": 9.0})
    facts = facts_of(Policy(pools, LIKE, BlendPolicy(seed=seed, order=order, epsilon=0.9 * mixed)))
    offered = lists(12)
    offered[list(pools)[gone]] = []
    page = asked(facts, "r", slots, offered).decision
    assert len(page.slot_items) == slots
    for number, part in enumerate(page.pools[:3]):
        assert part.realised >= (number != gone)
    if gone < 3:
        assert ("floor", list(pools)[gone], 0) in [(rule.rule, rule.pool, rule.got) for rule in page.degraded]
    else:
        assert page.degraded == []


# What gives way


def test_where_guarantees_do_not_fit_those_of_the_lowest_priority_give_way_and_are_named() -> None:
    """Nine slots are wanted of five; of equals the pool that is named last gives way first."""
    pools = external(
        a={"required": 3, "priority": 1}, b={"required": 2}, c={"required": 2}, d={"floor": 0.4, "priority": 2}
    )
    page = asked(facts_of(Policy(pools, LIKE, BlendPolicy(epsilon=0.0))), "r", 5, lists(9)).decision
    assert [part.floor for part in page.pools] == [3, 0, 0, 2]
    assert page.degraded == [Degraded("required", "b", 2, 0), Degraded("required", "c", 2, 0)]
    assert sorted(page.slot_rules) == list("ffrrr")


@given(st.data())
def test_whatever_is_guaranteed_fits_the_page_and_the_stock_and_only_lower_priorities_gave_way(data) -> None:
    number, slots = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    several = st.lists(st.integers(0, 9), min_size=number, max_size=number)
    stock, required, floors, caps, priorities = (np.array(data.draw(several)) for _ in range(5))
    pinned = np.array(data.draw(st.lists(st.integers(-1, number - 1), min_size=slots, max_size=slots)))
    pools = {f"p{at}": PoolPolicy("external", priority=int(value)) for at, value in enumerate(priorities)}
    page = page_of(Policy(pools), Wanted(pinned, required, floors, caps), stock, np.zeros(number, np.int64), 0)
    own = np.bincount(page.pinned[page.pinned >= 0], minlength=number)
    assert (own <= stock).all()
    assert (own == np.minimum(stock, np.bincount(pinned[pinned >= 0], minlength=number))).all()
    limits = page.limits[1:] if page.limits.size else (np.zeros(number, np.int64), np.full(number, slots))
    given_floors, given_caps = np.maximum(limits[0], own), limits[1]
    assert given_floors.sum() <= slots
    assert (given_floors <= given_caps).all()
    asked_for = np.maximum(np.minimum(np.maximum(required, floors), stock), own)
    assert (given_floors <= asked_for).all()
    if asked_for.sum() > slots:
        assert given_floors.sum() == slots
    short = given_floors < asked_for
    for lost in np.flatnonzero(short):
        for kept in np.flatnonzero(given_floors > own):
            assert (priorities[kept], -kept) >= (priorities[lost], -lost)


@pytest.mark.parametrize("order", ORDERS)
def test_a_cap_holds_unless_a_slot_would_stay_empty_and_then_it_is_named(order: str) -> None:
    pools = external(a={"cap": 0.3, "ratio": 9.0}, b={"cap": 0.5}, c={})
    facts = facts_of(Policy(pools, LIKE, BlendPolicy(draw="fixed", order=order)))
    page = asked(facts, "r", 10, lists(10, "a", "b", "c")).decision
    assert page.pools[0].realised == 3
    assert page.pools[1].realised <= 5
    assert page.degraded == []
    short = asked(facts, "r", 10, {**lists(10, "a", "b"), "c": ["c0"]}).decision
    assert len(short.slot_items) == 10
    over = [part.realised - cap for part, cap in zip(short.pools, (3, 5), strict=False)]
    assert sum(over) == 1
    assert [rule.rule for rule in short.degraded] == ["cap"]


def test_what_is_required_is_on_every_page_even_above_its_cap() -> None:
    facts = facts_of(Policy(external(a={"required": 2, "cap": 0.0}, b={}), LIKE, BlendPolicy(epsilon=0.0)))
    state = None
    for number in range(4):
        served = asked(facts, f"r{number}", 6, lists(9, "a", "b"), state)
        state = served.state
        assert served.decision.slot_rules.count("r") == served.decision.pools[0].realised == 2
        assert served.decision.degraded == []


def test_pins_are_slots_of_the_feed_whatever_page_they_stand_on() -> None:
    """
    feed    0 1 2 3 | 4 5 6 7 | 8 9      a has 1 and 6, b has 9
    """
    facts = facts_of(Policy(external(a={"pinned": (1, 6), "ratio": 0.0}, b={"pinned": (9,)}, c={"ratio": 5.0})))
    state, previous = None, None
    pages = []
    for number, slots in enumerate((4, 4, 2)):
        served = asked(facts, f"r{number}", slots, lists(12, "a", "b", "c"), state, continues=previous)
        state, previous = served.state, f"r{number}"
        pages.append(served.decision)
    assert [page.pinned for page in pages] == [[(1, 0)], [(2, 0)], [(1, 1)]]
    assert [page.slot_rules[slot] for page, slot in zip(pages, (1, 2, 1), strict=True)] == list("ppp")
    owners = [pool for page in pages for pool in page.slot_pools]
    assert (owners[1], owners[6], owners[9]) == (0, 0, 1)


def test_a_pin_without_an_item_gives_way_and_is_named() -> None:
    facts = facts_of(Policy(external(a={"pinned": (0, 1, 2)}, b={})))
    page = asked(facts, "r", 4, {**lists(9, "b"), "a": ["x", "y"]}).decision
    assert (page.pinned, page.slot_rules[:2]) == ([(0, 0), (1, 0)], "pp")
    assert page.degraded == [Degraded("pinned", "a", 3, 2)]


def test_a_pool_that_did_not_answer_has_no_stock_and_nothing_is_learned_of_it() -> None:
    facts = facts_of(Policy(external(a={"floor": 0.5}, b={}), LIKE))
    served = asked(facts, "r", 4, lists(9, "b"))
    part = served.decision.pools[0]
    assert (part.stock, part.missing, part.realised) == (0, True, 0)
    assert served.decision.degraded == [Degraded("floor", "a", 2, 0)]
    state = reacted(served, facts, dict.fromkeys(range(4), "like"))
    after = asked(facts, "r2", 4, lists(9, "a", "b"), state, at_ms=2).decision
    there = asked(facts, "r2", 4, lists(9, "a", "b"), asked(facts, "r", 1, {}).state, at_ms=2).decision
    strength = after.pools[0].alpha[0] + after.pools[0].beta[0]
    assert strength == pytest.approx(there.pools[0].alpha[0] + there.pools[0].beta[0])  # the prior's alone
    assert all(tally_cell[0] != "a" for row in state.ledger.values() for tally_cell in row.tallies)


# Where utilities say nothing


def webster(shares: list[float], slots: int) -> list[int]:
    """Sainte-Laguë's counts."""
    counts = [0] * len(shares)
    for _ in range(slots):
        best = max(range(len(shares)), key=lambda pool: shares[pool] / (2 * counts[pool] + 1))
        counts[best] += 1
    return counts


@pytest.mark.parametrize("draw", ["feed", "slot", "mean"])
def test_where_every_pool_does_harm_the_page_is_shared_out_by_the_fallback(draw: str) -> None:
    """Everything is hidden, at a cost of 50 likes, so the ratios of 4, 2 and 1 are what is left."""
    actions = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-50.0)}
    pools = external(a={"ratio": 4.0}, b={"ratio": 2.0}, c={"ratio": 1.0})
    facts = facts_of(Policy(pools, actions, BlendPolicy(draw=draw, epsilon=0.0)))
    page = asked(facts, "r", 14, lists(14, "a", "b", "c")).decision
    assert page.slot_rules == "b" * 14
    assert [part.realised for part in page.pools] == webster([4.0, 2.0, 1.0], 14) == [8, 4, 2]
    assert difference(page) is None


def test_where_one_pool_is_worth_something_by_its_prior_the_fallback_is_that_and_not_the_ratios() -> None:
    """The draw may say that all do harm although the prior does not: c's rates are those of its cohort."""
    actions = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-1.0)}
    policy = Policy(external(a={}, b={}, c={}), actions, BlendPolicy(epsilon=0.0, temperature=1.0))
    known = {("new", "c", "like"): Tally(300.0, 1000.0), ("new", "a", "hide"): Tally(300.0, 1000.0)}
    facts = Facts(policy, replace(facts_of(policy).population, newcomers=known))
    page = asked(facts, "r", 6, lists(9, "a", "b", "c")).decision
    assert [part.fallback for part in page.pools][2] == 1.0
    assert page.pools[0].fallback == 0.0


UNFIT = {
    "too small": (BlendPolicy(base_successes=1e-3, base_failures=1e9, prior_strength=1e-3), {}),
    "not a number": (BlendPolicy(), {("new", "a", "like"): Tally(np.nan, np.nan)}),
    "not a number, one draw for each slot": (BlendPolicy(draw="slot"), {("new", "b", "like"): Tally(1.0, np.nan)}),
    "not a number, of means": (BlendPolicy(draw="mean"), {("new", "b", "like"): Tally(np.nan, 9.0)}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_beliefs_that_cannot_be_drawn_from_make_a_page_of_fixed_ratios_that_says_so(case: str) -> None:
    blend, newcomers = UNFIT[case]
    pools = external(a={"ratio": 4.0}, b={"ratio": 2.0, "floor": 0.1}, c={"ratio": 1.0})
    policy = Policy(pools, LIKE, replace(blend, epsilon=0.0))
    facts = Facts(policy, replace(facts_of(policy).population, newcomers=newcomers))
    served = asked(facts, "r", 14, lists(40, "a", "b", "c"))
    page = served.decision
    assert (page.mode, page.degraded) == ("fixed", [Degraded("posterior", "", 0, 0)])
    assert [part.realised for part in page.pools] == [8, 4, 2]
    assert sorted(page.slot_rules) == list("b" * 13 + "f")
    read = decode(encode(page))
    assert read == page
    assert difference(page) is None
    more = asked(facts, "r2", 7, lists(40, "a", "b", "c"), served.state, continues="r").decision
    assert (more.mode, more.degraded, more.slot_rules) == ("fixed", [Degraded("posterior", "", 0, 0)], "b" * 7)
    assert [part.realised for part in more.pools] == [4, 2, 1]
    assert difference(more) is None


def test_the_page_after_the_fault_is_drawn_again() -> None:
    policy = Policy(external(a={}, b={}), LIKE, BlendPolicy(epsilon=0.0), memory=MemoryPolicy())
    sound = facts_of(policy)
    broken = Facts(policy, replace(sound.population, newcomers={("new", "a", "like"): Tally(np.nan, np.nan)}))
    first = asked(broken, "r", 4, lists(9, "a", "b"))
    assert asked(sound, "r2", 4, lists(9, "a", "b"), first.state).decision.mode == "drawn"
