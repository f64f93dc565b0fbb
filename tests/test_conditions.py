"""Pages that have to keep to something: floors, caps and pins, and pages that go on from others."""

from typing import NamedTuple

import numpy as np
from arms import disjoint, keys, posteriors
from hypothesis import assume, given
from hypothesis import strategies as st

from blending.blend import Lists, Order, Page, Rules, blend, fallen, lists_of
from blending.posterior import Beta
from blending.returns import returns_table

orders: st.SearchStrategy[Order] = st.sampled_from(["greedy", "spread", "rounded"])


class Feasible(NamedTuple):
    """A page whose conditions can be kept with items that no other pool offers, and lists that hold others too."""

    posterior: Beta
    lists: Lists
    rules: Rules
    page: Page


@st.composite
def feasible_pages(draw: st.DrawFn, *, shared: bool) -> Feasible:
    """Floors of at most the slots, pins among them, caps above; each pool has items of its own for its floor."""
    posterior = draw(posteriors(actions_max=2))
    pools, actions = posterior.alpha.shape
    slots = draw(st.integers(1, 10))
    owners = draw(st.permutations(draw(st.lists(st.integers(0, pools - 1), min_size=slots, max_size=slots))))
    wanted = np.array([draw(st.booleans()) for _ in owners])
    most = np.bincount(np.array(owners), minlength=pools)  # a page of these counts is feasible
    floors = np.bincount(np.array(owners)[wanted], minlength=pools)
    spare = st.lists(st.integers(0, 3), min_size=pools, max_size=pools)
    caps = most + draw(spare)
    pinned = np.array([pool if at and draw(st.booleans()) else -1 for pool, at in zip(owners, wanted, strict=True)])
    own = [list(range(100 * pool, 100 * pool + size)) for pool, size in enumerate(most + draw(spare))]
    common = st.lists(st.integers(1000, 1006), unique=True, max_size=5 if shared else 0)
    rankings = [draw(st.permutations(items + draw(common))) for items in own]
    rules = Rules(
        np.array(draw(st.sampled_from([[1.0, -2.0], [-1.0, -3.0], [2.0, 5.0]])))[:actions],
        returns_table(slots, draw(st.sampled_from([None, 1.0, 0.85]))),
        1.0,
        draw(st.sampled_from([0.0, 0.5, 1.0 - 2.0**-53])),
        draw(st.sampled_from([1, slots])),
        draw(st.sampled_from(["drawn", "expected", "fixed"])),
        draw(st.none() | st.just(np.arange(float(pools)))),
        draw(orders),
    )
    limits = np.array([np.zeros(pools, np.int64), floors, caps], np.int64)
    lists = lists_of([np.array(ranking, np.int32) for ranking in rankings])
    return Feasible(posterior, lists, rules, Page(limits, pinned.astype(np.int64)))


@given(feasible_pages(shared=True) | feasible_pages(shared=False), keys)
def test_floors_and_caps_hold_and_the_page_is_full_in_any_mode_and_order(case: Feasible, key: np.uint64) -> None:
    posterior, lists, rules, page = case
    made = blend(posterior, rules, lists, key, page)
    got = np.bincount(made.slot_pools, minlength=lists.stock.size)
    assert got.sum() == rules.returns.size
    assert np.all(page.limits[1] <= got)
    assert np.all(got <= page.limits[2])


@given(feasible_pages(shared=False), keys, st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_caps_that_leave_slots_empty_give_way_only_when_every_pool_is_full(
    case: Feasible, key: np.uint64, caps: list[int]
) -> None:
    posterior, (_, stock), rules, _ = case
    pools, slots = stock.size, rules.returns.size
    lists = disjoint(pools, slots)
    limits = np.array([np.zeros(pools), np.zeros(pools), caps[:pools]], np.int64)
    got = np.bincount(blend(posterior, rules, lists, key, Page(limits)).slot_pools, minlength=pools)
    full = np.minimum(limits[2], slots)
    assert got.sum() == slots
    assert np.all(got >= full) if full.sum() <= slots else np.all(got <= full)


@given(feasible_pages(shared=False), keys)
def test_pinned_slots_are_kept_with_the_last_item_of_a_pool_if_it_must_be(case: Feasible, key: np.uint64) -> None:
    """Lists without a common item; also where only pins are asked for."""
    posterior, lists, rules, page = case
    for asked in (page, Page(pinned=page.pinned)):
        made = blend(posterior, rules, lists, key, asked)
        kept = page.pinned >= 0
        assert np.array_equal(made.slot_pools[kept], page.pinned[kept])


@given(feasible_pages(shared=True), keys)
def test_pinned_slots_are_kept_by_a_pool_with_more_entries_than_slots_before(
    case: Feasible, key: np.uint64
) -> None:
    """Whatever other lists hold: what was read of its own stands in those slots."""
    posterior, lists, rules, page = case
    made = blend(posterior, rules, lists, key, page)
    kept = (page.pinned >= 0) & (lists.stock[page.pinned] > np.arange(page.pinned.size))
    assert np.array_equal(made.slot_pools[kept], page.pinned[kept])


@given(feasible_pages(shared=False), keys)
def test_spreading_moves_slots_but_keeps_their_numbers(case: Feasible, key: np.uint64) -> None:
    posterior, lists, rules, page = case
    counts = [
        np.bincount(blend(posterior, rules._replace(order=order), lists, key, page).slot_pools, minlength=5)
        for order in ("greedy", "spread")
    ]
    assert counts[0].tolist() == counts[1].tolist()


@given(posteriors(), keys, st.integers(1, 20), st.sampled_from([None, 1.0, 0.85]))
def test_a_spread_page_keeps_to_tijdemans_bound(
    posterior: Beta, key: np.uint64, slots: int, delta: float | None
) -> None:
    """Where no list is short, no prefix is further than 1 - 1 / (2P - 2) items from a pool's part of the page."""
    pools, actions = posterior.alpha.shape
    lists = lists_of([np.arange(30 * pool, 30 * pool + slots, dtype=np.int32) for pool in range(pools)])
    rules = Rules(np.ones(actions), returns_table(slots, delta), order="spread")
    shown = blend(posterior, rules, lists, key).slot_pools[:, None] == np.arange(pools)
    parts = max(1, 2 * np.count_nonzero(shown.any(axis=0)) - 2)
    strayed = np.abs(slots * np.cumsum(shown, axis=0) - np.arange(1, slots + 1)[:, None] * shown.sum(axis=0))
    assert np.all(parts * strayed <= (parts - 1) * slots)


@st.composite
def short_lists(draw: st.DrawFn, pools: int) -> Lists:
    """Lists of any length over few items."""
    ranking = st.lists(st.integers(0, 30), unique=True, max_size=12)
    return lists_of([np.array(draw(ranking), np.int32) for _ in range(pools)])


@given(posteriors(actions_max=2), keys, st.integers(1, 6), st.integers(2, 6), st.data())
def test_a_page_that_goes_on_is_the_rest_of_the_feed(
    posterior: Beta, key: np.uint64, slots: int, further: int, data: st.DataObject
) -> None:
    """With one draw or one for each slot, mixed at random or not: the second page is of what was not shown.

    Both pages must agree that the fallback is, or is not, in place: the second sees that a pool has run out.
    """
    pools, actions = posterior.alpha.shape
    lists = data.draw(short_lists(pools))
    by_slot = slots > 1 and data.draw(st.booleans())
    rules = Rules(
        np.array(data.draw(st.sampled_from([[1.0, -2.0], [-1.0, -3.0], [2.0, 5.0]])))[:actions],
        returns_table(slots + further, data.draw(st.sampled_from([None, 1.0, 0.85]))),
        epsilon=data.draw(st.sampled_from([0.0, 0.5])),
        mode=data.draw(st.sampled_from(["drawn", "drawn", "expected", "fixed"])),
    )

    def drawn(size: int) -> int:
        return size if by_slot else 1

    whole = blend(posterior, rules._replace(draws=drawn(slots + further)), lists, key)
    first_rules = rules._replace(returns=rules.returns[:slots], draws=drawn(slots))
    first = blend(posterior, first_rules, lists, key)
    shown = lists.items[first.slot_pools, first.slot_ranks]
    left = lists_of(
        [row[:size][~np.isin(row[:size], shown)] for row, size in zip(lists.items, lists.stock, strict=True)]
    )
    before = np.bincount(first.slot_pools, minlength=pools)
    limits = np.array([before, np.zeros(pools), np.full(pools, further)], np.int64)
    next_rules = rules._replace(draws=drawn(further))
    second = blend(posterior, next_rules, left, key, Page(limits, start=slots))
    assert first.explored == second.explored == whole.explored
    together = [*fallen(first, first_rules, lists), *fallen(second, next_rules, left)]
    assume(shown.size == slots and together == fallen(whole, rules, lists).tolist())
    feed = [*shown.tolist(), *left.items[second.slot_pools, second.slot_ranks].tolist()]
    assert feed == lists.items[whole.slot_pools, whole.slot_ranks].tolist()
    assert [*first.slot_pools, *second.slot_pools] == whole.slot_pools.tolist()
    if rules.mode == "drawn":
        assert second.rates.tolist() == whole.rates[-len(second.rates) :].tolist()
