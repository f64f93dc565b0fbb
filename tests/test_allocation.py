"""Who gets which slot."""

import numpy as np
from arms import Offer, chances_table, disjoint, keys, letters, plain_allocation, splitmix64
from hypothesis import given
from hypothesis import strategies as st

from blending.blend import Lists, Page, lists_of
from blending.kernels import CAPPED, DUPLICATE, PLACED, UNREAD, intended_counts, offering
from blending.returns import returns_table
from blending.sampling import EXPLORE_STREAM, PLAN_STREAM, TIE_STREAM, tie_breaks
from blending.utilities import DRAWN, EXPECTED, FIXED, fall_back

# Giving out slots


SLOTS_MAX = 20


@st.composite
def offers(draw: st.DrawFn, *, tied: bool = True, explored: bool | None = None) -> Offer:
    """Short lists over few items: pools run empty, share items and tie. The padding is an item, too."""
    pools, slots = draw(st.integers(1, 5)), draw(st.integers(1, SLOTS_MAX - 1))
    item = st.integers(0, 14)
    ranking = st.lists(item, unique=True, max_size=3) | st.lists(item, unique=True, min_size=5, max_size=9)
    rankings = draw(st.lists(ranking, min_size=pools, max_size=pools))
    stock = np.array([len(entries) for entries in rankings], np.int64)
    items = np.full((pools, max(map(len, rankings)) + draw(st.integers(0, 2))), 7, np.int32)
    for row, entries in zip(items, rankings, strict=True):
        row[: len(entries)] = entries
    utility = st.sampled_from([-2.5, -1.0, -0.0, 0.0, 0.25, 0.5]) if tied else st.floats(-10.0, 10.0)
    cells = pools * draw(st.sampled_from([1, SLOTS_MAX]))
    utilities = draw(st.lists(utility, min_size=cells, max_size=cells, unique=not tied))
    returns = returns_table(SLOTS_MAX + 5, draw(st.sampled_from([None, 1.0, 0.5, 0.85])))
    ties = draw(st.permutations(range(pools)))
    return Offer(
        np.reshape(utilities, (-1, pools)),
        np.array(ties, np.int64),
        returns,
        Lists(items, stock),
        slots,
        draw(st.booleans()) if explored is None else explored,
        draw(keys),
        np.array([draw(st.booleans()) for _ in range(cells // pools)]) if tied else None,
    )


@st.composite
def conditioned(draw: st.DrawFn) -> Offer:
    """Offers with any limits and any plan, whether they can be kept or not."""
    offer = draw(offers())
    pools = offer.ties.size
    table = [st.integers(0, 5), st.integers(0, 4), st.integers(0, 4) | st.just(offer.slots)]
    limits = np.array([[draw(column) for _ in range(pools)] for column in table], np.int64)
    plan = draw(st.lists(st.integers(-3, pools - 1), min_size=offer.slots, max_size=offer.slots))
    return offer._replace(
        limits=limits if draw(st.booleans()) else offer.limits,
        plan=np.array(plan, np.int64).clip(-1) if draw(st.booleans()) else offer.plan,
        start=draw(st.integers(0, 3)),
    )


@st.composite
def grouped(draw: st.DrawFn) -> Offer:
    """Offers whose items are in up to two groups each, wherever they stand; lists keep to the rooms or do not."""
    offer = draw(offers() | conditioned())
    width, count = draw(st.integers(1, 2)), draw(st.integers(1, 5))
    of_item = np.array(
        [draw(st.lists(st.integers(0, count - 1), unique=True, max_size=width)) + [-1] * 2 for _ in range(15)],
        dtype=object,
    )
    table = np.array([row[:width] for row in of_item.tolist()], np.int32)
    rooms = np.array([draw(st.integers(0, 3)) for _ in range(count)], np.int64)
    offer = offer._replace(groups=np.ascontiguousarray(table[offer.lists.items]), rooms=rooms)
    return kept_within(offer) if draw(st.booleans()) else offer


def groups_of(offer: Offer, pool: int, rank: int) -> list[int]:
    """The groups of an entry."""
    return [group for group in offer.groups[pool, rank].tolist() if group >= 0]


def kept_within(offer: Offer) -> Offer:
    """The same with lists that each keep to the rooms by themselves."""
    rankings, rows = [], []
    for pool, ranking in enumerate(offer.rankings):
        counts, kept = np.zeros(offer.rooms.size, np.int64), []
        for rank in range(len(ranking)):
            groups = groups_of(offer, pool, rank)
            if np.all(counts[groups] < offer.rooms[groups]):
                counts[groups] += 1
                kept.append(rank)
        rankings.append(np.array([ranking[rank] for rank in kept], np.int32))
        rows.append(offer.groups[pool, kept])
    lists = lists_of(rankings)
    groups = np.full((*lists.items.shape, offer.groups.shape[2]), -1, np.int32)
    for row, own in zip(groups, rows, strict=True):
        row[: len(own)] = own
    return offer._replace(lists=lists, groups=groups)


@given(grouped())
def test_no_page_holds_more_of_a_group_than_there_is_room_for(offer: Offer) -> None:
    (slot_pools, slot_ranks), verdicts = offer.allocated()
    held = np.zeros(offer.rooms.size, np.int64)
    for pool, rank in zip(slot_pools.tolist(), slot_ranks.tolist(), strict=True):
        held[groups_of(offer, pool, rank)] += 1
    assert np.all(held <= offer.rooms)
    for pool, rank in np.argwhere(verdicts == CAPPED).tolist():
        assert any(held[group] == offer.rooms[group] for group in groups_of(offer, pool, rank))
    if slot_pools.size < offer.slots:  # every list was read to its end, and what is left out is of a full group
        read = (verdicts != UNREAD).sum(axis=1)
        assert read.tolist() == offer.lists.stock.tolist()


@given(grouped())
def test_lists_that_keep_to_the_rooms_are_read_no_further_than_their_reach(offer: Offer) -> None:
    """So `reach` times as many candidates as slots are as good as all."""
    offer = kept_within(offer)
    enough = Page(groups=offer.groups).reach * offer.slots
    items, stock = offer.lists
    shorter = offer._replace(
        lists=Lists(np.ascontiguousarray(items[:, :enough]), np.minimum(stock, enough)),
        groups=np.ascontiguousarray(offer.groups[:, :enough]),
    )
    assert shorter.feed == offer.feed
    read = (offer.allocated()[1] != UNREAD).sum(axis=1)
    assert np.all(read <= enough)


@given(offers() | conditioned() | grouped())
def test_allocation_equals_the_plain_one(offer: Offer) -> None:
    assert (UNREAD, PLACED, DUPLICATE, CAPPED) == (0, 1, 2, 3)
    chances = np.zeros((offer.slots, offer.ties.size))
    placed, verdicts = offer.allocated(chances)
    plain = plain_allocation(offer)
    assert list(map(tuple, placed.T.tolist())) == plain.slots
    assert letters(verdicts) == plain.verdicts
    assert np.array_equal(chances, chances_table(plain, offer.slots))


@given(offers(explored=False))
def test_when_the_winner_takes_the_slots_pools_are_walked_one_after_another(offer: Offer) -> None:
    """One draw and h = 1: utilities stand still, so each pool is read to its end before the next begins."""
    offer = offer._replace(utilities=offer.utilities[:1].copy(), returns=np.ones(SLOTS_MAX), fell=None)
    by_rank = sorted(range(offer.ties.size), key=lambda p: (offer.utilities[0, p], offer.ties[p]), reverse=True)
    walked = dict.fromkeys(item for pool in by_rank for item in offer.rankings[pool])
    assert offer.feed == list(walked)[: offer.slots]


def test_a_drawing_of_one_allocation() -> None:
    """Utilities 0.1, 0.3, 0.2 and five slots.

    pool 0   1 2 3 4          not read beyond the last slot
    pool 1   5 1              best: both placed
    pool 2   1 6 5 7          second: 1 and 5 stand in the feed already
    feed     5 1 6 7 2        2 comes from pool 0, after its duplicate 1
    """
    lists = lists_of([np.array(row, np.int32) for row in ([1, 2, 3, 4], [5, 1], [1, 6, 5, 7])])
    offer = Offer(np.array([[0.1, 0.3, 0.2]]), np.arange(3), np.ones(5), lists, 5)
    assert offer.feed == [5, 1, 6, 7, 2]
    assert letters(offer.allocated()[1]) == ["dp", "pp", "dpdp"]


def test_websters_returns_share_the_slots_in_proportion_to_utility() -> None:
    """Utilities 5, 3, 2 and ten slots: u / (2n + 1) gives 5, 3, 2 of them, in brackets their numbers.

    divided by  1        3         5        7        9
    pool 0      5  [1]   1.67 [4]  1   [5]  .71 [7]  .56 [10]
    pool 1      3  [2]   1    [6]  .6  [9]                        1 comes after pool 0's: it has the lower tie
    pool 2      2  [3]   .67  [8]
    """
    offer = Offer(np.array([[5.0, 3.0, 2.0]]), np.array([2, 1, 0]), returns_table(10, None), disjoint(3, 10), 10)
    assert offer.allocated()[0][0].tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]


def test_a_drawing_of_an_allocation_with_conditions() -> None:
    """Utilities 0.3, 0.2, 0.1 and six slots: pool 2 has the last one pinned, pool 1 the second by its floor.

    plan     -  1  -  -  -  2
    pool 0   best, but may have two: slots 0 and 2
    pool 1   the second is its own by plan; then the best that is open: slot 3, and has none left
    pool 2   has one item, which is kept back for the pin
    slot 4   nobody is open: pool 0 goes beyond its cap before the pin is given up
    """
    lists = lists_of([np.array(row, np.int32) for row in ([1, 2, 3, 4, 5], [6, 7], [8])])
    limits, plan = np.array([[0, 0, 0], [0, 1, 1], [2, 6, 6]]), np.array([-1, 1, -1, -1, -1, 2])
    offer = Offer(np.array([[0.3, 0.2, 0.1]]), np.arange(3), np.ones(6), lists, 6, limits=limits, plan=plan)
    assert offer.feed == [1, 6, 2, 7, 3, 8]


@given(offers() | conditioned())
def test_a_feed_holds_every_item_once_and_as_many_as_there_are(offer: Offer) -> None:
    distinct = set().union(*offer.rankings)
    assert len(offer.feed) == min(offer.slots, len(distinct))
    assert len(set(offer.feed)) == len(offer.feed)
    assert set(offer.feed) <= distinct


@given(offers() | conditioned() | grouped())
def test_within_a_feed_every_pool_keeps_its_own_order(offer: Offer) -> None:
    (slot_pools, slot_ranks), _ = offer.allocated()
    for pool in range(len(offer.rankings)):
        ranks = slot_ranks[slot_pools == pool]
        assert np.all(np.diff(ranks) > 0)


@given(offers())
def test_a_longer_feed_begins_with_the_shorter_one(offer: Offer) -> None:
    longer = offer._replace(slots=offer.slots + 1)
    assert longer.feed[: offer.slots] == offer.feed


@given(offers() | conditioned())
def test_as_many_candidates_as_slots_are_as_good_as_all(offer: Offer) -> None:
    """Everything read of a list stands in the feed, so nothing is read past as many entries as slots."""
    items, stock = offer.lists
    shorter = offer._replace(lists=Lists(items[:, : offer.slots].copy(), np.minimum(stock, offer.slots)))
    assert shorter.feed == offer.feed


@given(offers() | conditioned())
def test_verdicts_account_for_every_slot_and_every_entry_that_was_read(offer: Offer) -> None:
    (slot_pools, slot_ranks), verdicts = offer.allocated()
    assert np.count_nonzero(verdicts == PLACED) == slot_pools.size
    shown: list[int] = offer.feed
    for pool, ranking in enumerate(offer.rankings):
        row = verdicts[pool]
        read = np.count_nonzero(row)
        assert np.all(row[:read] != UNREAD)
        assert read <= len(ranking)
        assert np.flatnonzero(row == PLACED).tolist() == slot_ranks[slot_pools == pool].tolist()
        elsewhere = {item for item, by in zip(shown, slot_pools, strict=True) if by != pool}
        assert {ranking[rank] for rank in np.flatnonzero(row == DUPLICATE)} <= elsewhere


@given(offers(tied=False, explored=False), st.data())
def test_exchanging_pools_exchanges_the_result(offer: Offer, data: st.DataObject) -> None:
    """With h = 1, as h(n) could make two products equal."""
    offer = offer._replace(returns=np.ones(SLOTS_MAX))
    order = np.array(data.draw(st.permutations(range(offer.ties.size))))
    items, stock = offer.lists
    other = offer._replace(
        utilities=offer.utilities[:, order].copy(), lists=Lists(items[order].copy(), stock[order].copy())
    )
    (slot_pools, slot_ranks), verdicts = offer.allocated()
    (moved_pools, moved_ranks), moved_verdicts = other.allocated()
    assert order[moved_pools].tolist() == slot_pools.tolist()
    assert moved_ranks.tolist() == slot_ranks.tolist()
    assert moved_verdicts.tolist() == verdicts[order].tolist()


@given(offers() | conditioned(), st.permutations(range(20)))
def test_items_are_opaque_and_only_their_order_in_a_list_matters(offer: Offer, names: list[int]) -> None:
    """So whatever keeps the order of a pool's own scores changes nothing, and nothing compares pools by them."""
    items, stock = offer.lists
    other = offer._replace(lists=Lists(np.array(names, np.int32)[items], stock))
    for one, same in zip(offer.allocated(), other.allocated(), strict=True):
        assert np.array_equal(one, same)


@given(offers() | conditioned() | grouped())
def test_the_chances_of_a_slot_add_to_1_and_do_not_move_what_is_given_out(offer: Offer) -> None:
    chances = np.zeros((offer.slots, offer.ties.size))
    placed, _ = offer.allocated(chances)
    assert placed.tolist() == offer.allocated()[0].tolist()
    assert np.allclose(chances.sum(axis=1), np.arange(offer.slots) < placed.shape[1], rtol=1e-14)
    assert np.all(chances[np.arange(placed.shape[1]), placed[0]] > 0.0)


@given(offers())
def test_an_offer_is_found_in_every_list_that_holds_the_item(offer: Offer) -> None:
    placed, _ = offer.allocated()
    expected = [sum(2**pool for pool, row in enumerate(offer.rankings) if item in row) for item in offer.feed]
    assert offering(*offer.lists, placed).tolist() == expected


def plain_fallback(
    utilities: list[list[float]], fallback: list[float], stock: list[int], mode: int
) -> tuple[list[list[float]], list[bool]]:
    """Rows of which some pool with items is worth having stay as they are, unless the ratios are fixed."""
    fell = [
        mode == FIXED or not any(utility > 0.0 for utility, size in zip(row, stock, strict=True) if size)
        for row in utilities
    ]
    return [fallback if harm else row for row, harm in zip(utilities, fell, strict=True)], fell


modes = st.sampled_from([DRAWN, EXPECTED, FIXED])


@given(offers(), modes, st.data())
def test_the_fallback_takes_the_place_of_harm(offer: Offer, mode: int, data: st.DataObject) -> None:
    pools = offer.ties.size
    fallback = data.draw(st.lists(st.floats(0.0, 5.0), min_size=pools, max_size=pools))
    utilities = offer.utilities.copy()
    fell = fall_back(utilities, np.array(fallback), offer.lists.stock, mode)
    expected = plain_fallback(offer.utilities.tolist(), fallback, offer.lists.stock.tolist(), mode)
    assert (utilities.tolist(), fell.tolist()) == expected


@given(offers(explored=False), modes, st.data())
def test_intended_counts_are_what_pools_that_never_run_out_would_get(
    offer: Offer, mode: int, data: st.DataObject
) -> None:
    """After any items in earlier pages, and with the fallback where utilities are harm alone."""
    pools, stock = offer.ties.size, offer.lists.stock
    counts = st.lists(st.integers(0, 5), min_size=pools, max_size=pools)
    before = np.array(data.draw(counts), np.int64)
    fallback = np.array(data.draw(counts), float)
    rows, fell = plain_fallback(offer.utilities.tolist(), fallback.tolist(), stock.tolist(), mode)
    endless = offer._replace(
        utilities=np.array(rows),
        fell=np.array(fell),
        ties=tie_breaks(pools, offer.key),
        lists=disjoint(pools, offer.slots),
        limits=np.array([before, np.zeros(pools), np.full(pools, offer.slots)], np.int64),
    )
    placed = [pool for pool, _ in plain_allocation(endless).slots]
    head = (offer.utilities[:, :, None].copy(), np.ones(1), offer.returns, fallback, stock, mode, before)
    assert intended_counts(*head, offer.slots, offer.key).tolist() == np.bincount(placed, minlength=pools).tolist()


def test_where_everything_harms_shares_are_in_proportion_to_the_fallback() -> None:
    """Webster's method: 8, 4, 2, 1 of 15 slots, whatever h is; a pool that has run out leaves its part to others.

    The divisors 1, 3, 5, … of the fallback, sorted, are an oracle that gives out no slots.
    """
    weights = np.array([8.0, 4.0, 2.0, 1.0])
    for stock, slots in ((15, 15), (15, 14), (5, 15)):
        offer = Offer(
            weights[None], np.arange(4), np.full(15, 0.1), disjoint(4, stock), slots, fell=np.ones(1, bool)
        )
        quotients = sorted(((weights[p] / (2 * n + 1), p) for p in range(4) for n in range(stock)), reverse=True)
        assert offer.allocated()[0][0].tolist() == [pool for _, pool in quotients[:slots]]


@given(keys, st.integers(1, 32))
def test_tie_breaks_come_from_a_stream_that_no_draw_uses(key: np.uint64, pools: int) -> None:
    """32 pools, 32 actions and a draw for each of 1000 slots use the streams below 2 ** 20 only."""
    assert 2**20 <= TIE_STREAM < EXPLORE_STREAM < PLAN_STREAM < 2**32
    expected = [splitmix64(int(key), TIE_STREAM * 2**32 + pool) >> 1 for pool in range(pools)]
    assert tie_breaks(pools, key).tolist() == expected


# The whole blend
