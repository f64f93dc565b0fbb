"""Who gets which slot."""

import numpy as np
from arms import Offer, disjoint, keys, letters, plain_allocation, splitmix64
from hypothesis import given
from hypothesis import strategies as st

from blending.blend import Lists, lists_of
from blending.kernels import (
    DUPLICATE,
    PLACED,
    TIE_STREAM,
    UNREAD,
    intended_counts,
    tie_breaks,
)
from blending.returns import returns_table

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
    returns = returns_table(SLOTS_MAX, draw(st.sampled_from([None, 1.0, 0.5, 0.85])))
    ties = draw(st.permutations(range(pools)))
    return Offer(
        np.reshape(utilities, (-1, pools)),
        np.array(ties, np.int64),
        returns,
        Lists(items, stock),
        slots,
        draw(st.booleans()) if explored is None else explored,
        draw(keys),
    )


@given(offers())
def test_allocation_equals_the_plain_one(offer: Offer) -> None:
    assert (UNREAD, PLACED, DUPLICATE) == (0, 1, 2)
    slot_pools, slot_ranks, verdicts = offer.allocated()
    slots, expected_verdicts = plain_allocation(offer)
    assert list(zip(slot_pools.tolist(), slot_ranks.tolist(), strict=True)) == slots
    assert letters(verdicts) == expected_verdicts


@given(offers(explored=False))
def test_when_the_winner_takes_the_slots_pools_are_walked_one_after_another(offer: Offer) -> None:
    """One draw and h = 1: utilities stand still, so each pool is read to its end before the next begins."""
    offer = offer._replace(utilities=offer.utilities[:1].copy(), returns=np.ones(SLOTS_MAX))
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
    assert letters(offer.allocated()[2]) == ["dp", "pp", "dpdp"]


def test_websters_returns_share_the_slots_in_proportion_to_utility() -> None:
    """Utilities 5, 3, 2 and ten slots: u / (2n + 1) gives 5, 3, 2 of them, in brackets their numbers.

    divided by  1        3         5        7        9
    pool 0      5  [1]   1.67 [4]  1   [5]  .71 [7]  .56 [10]
    pool 1      3  [2]   1    [6]  .6  [9]                        1 comes after pool 0's: it has the lower tie
    pool 2      2  [3]   .67  [8]
    """
    offer = Offer(np.array([[5.0, 3.0, 2.0]]), np.array([2, 1, 0]), returns_table(10, None), disjoint(3, 10), 10)
    assert offer.allocated()[0].tolist() == [0, 1, 2, 0, 0, 1, 0, 2, 1, 0]
    assert intended_counts(offer.utilities, offer.ties, offer.returns, 10).tolist() == [5, 3, 2]


@given(offers())
def test_a_feed_holds_every_item_once_and_as_many_as_there_are(offer: Offer) -> None:
    distinct = set().union(*offer.rankings)
    assert len(offer.feed) == min(offer.slots, len(distinct))
    assert len(set(offer.feed)) == len(offer.feed)
    assert set(offer.feed) <= distinct


@given(offers())
def test_within_a_feed_every_pool_keeps_its_own_order(offer: Offer) -> None:
    slot_pools, slot_ranks, _ = offer.allocated()
    for pool in range(len(offer.rankings)):
        ranks = slot_ranks[slot_pools == pool]
        assert np.all(np.diff(ranks) > 0)


@given(offers())
def test_a_longer_feed_begins_with_the_shorter_one(offer: Offer) -> None:
    longer = offer._replace(slots=offer.slots + 1)
    assert longer.feed[: offer.slots] == offer.feed


@given(offers())
def test_as_many_candidates_as_slots_are_as_good_as_all(offer: Offer) -> None:
    """Everything read of a list stands in the feed, so nothing is read past as many entries as slots."""
    items, stock = offer.lists
    shorter = offer._replace(lists=Lists(items[:, : offer.slots].copy(), np.minimum(stock, offer.slots)))
    assert shorter.feed == offer.feed


@given(offers())
def test_verdicts_account_for_every_slot_and_every_entry_that_was_read(offer: Offer) -> None:
    slot_pools, slot_ranks, verdicts = offer.allocated()
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
    slot_pools, slot_ranks, verdicts = offer.allocated()
    moved_pools, moved_ranks, moved_verdicts = other.allocated()
    assert order[moved_pools].tolist() == slot_pools.tolist()
    assert moved_ranks.tolist() == slot_ranks.tolist()
    assert moved_verdicts.tolist() == verdicts[order].tolist()


@given(offers(explored=False))
def test_intended_counts_are_what_pools_that_never_run_out_would_get(offer: Offer) -> None:
    endless = offer._replace(lists=disjoint(offer.ties.size, offer.slots))
    placed = np.bincount(endless.allocated()[0], minlength=offer.ties.size)
    intended = intended_counts(offer.utilities, offer.ties, offer.returns, offer.slots)
    assert intended.tolist() == placed.tolist()


@given(keys, st.integers(1, 32))
def test_tie_breaks_come_from_a_stream_that_no_draw_uses(key: np.uint64, pools: int) -> None:
    """32 pools, 32 actions and a draw for each of 1000 slots use the streams below 2 ** 20 only."""
    assert TIE_STREAM >= 2**20
    expected = [splitmix64(int(key), TIE_STREAM * 2**32 + pool) >> 1 for pool in range(pools)]
    assert tie_breaks(pools, key).tolist() == expected


# The whole blend
