"""What further runs disturb: the order inside sessions, which is all that moves, and a pool."""

from collections import Counter

import numpy as np
import pytest
from chance import assert_counts
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_gather import EXTERNAL
from test_pools import PoolContract, Reaction, history_of, population_of

from blending.randomness import key_of
from engine.events import Request
from engine.facts import Facts
from engine.policy import Policy
from engine.pools import Fresh, gather
from engine.state import UserState
from engine.visitor import Visitor
from simulator.disturbances import RandomPool, random_order, sessions, shuffled_within
from simulator.interactions import Interaction


@st.composite
def logs(draw: st.DrawFn) -> list[Interaction]:
    """Three users in turn, often within two minutes of each other; every row is of an item of its own."""
    steps = draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans()), max_size=40))
    at_ms, rows = 0, []
    for number, (user, minutes, positive) in enumerate(steps):
        at_ms += 60_000 * minutes
        rows.append(Interaction(user, f"i{number}", at_ms, "like" if positive else "rated", positive))
    return rows


within = st.sampled_from([0, 60_000, 120_000, 600_000])


def done(row: Interaction) -> tuple[str, str, bool]:
    """What moves when a session is shuffled."""
    return row.item, row.action, row.positive


@given(logs(), within)
def test_a_session_is_a_users_rows_with_short_gaps_and_every_row_is_in_one(
    rows: list[Interaction], within_ms: int
) -> None:
    """Of one user: 0  1  2 ........ 5  6 with gaps of at most 1 are the sessions 0-2 and 5-6."""
    found = sessions(rows, within_ms)
    assert sorted(place for session in found for place in session) == list(range(len(rows)))
    begun: dict[str, int] = {}
    for session in found:
        users = {rows[place].user for place in session}
        times = [rows[place].at_ms for place in session]
        assert (len(users), session) == (1, sorted(session))
        assert all(gap <= within_ms for gap in np.diff(times).tolist())
        user = users.pop()
        assert times[0] - begun.get(user, -within_ms - 1) > within_ms  # as far from the session before
        begun[user] = times[-1]


@given(logs(), within, st.integers(0, 3))
def test_users_and_times_stay_at_their_places_and_each_session_keeps_what_was_done(
    rows: list[Interaction], within_ms: int, seed: int
) -> None:
    shuffled = shuffled_within(rows, within_ms, seed)
    assert [(row.user, row.at_ms) for row in shuffled] == [(row.user, row.at_ms) for row in rows]
    for session in sessions(rows, within_ms):
        assert Counter(done(shuffled[place]) for place in session) == Counter(
            done(rows[place]) for place in session
        )
    assert shuffled_within(rows, within_ms, seed) == shuffled


@given(logs(), within, st.data())
def test_how_a_session_is_shuffled_depends_on_no_other_session(
    rows: list[Interaction], within_ms: int, data: st.DataObject
) -> None:
    """What is done in one session is another thing; the others are shuffled as they were."""
    found = sessions(rows, within_ms)
    changed = data.draw(st.sampled_from(found)) if found else []
    others = [place for session in found if session != changed for place in session]
    other_rows = [replace(row, item="new") if place in changed else row for place, row in enumerate(rows)]
    before, after = shuffled_within(rows, within_ms, 0), shuffled_within(other_rows, within_ms, 0)
    assert [after[place] for place in others] == [before[place] for place in others]


def test_another_seed_is_another_order() -> None:
    rows = [Interaction("u", f"i{number}", 1000 * number, "like", positive=True) for number in range(20)]
    orders = [[row.item for row in shuffled_within(rows, 1000, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != [row.item for row in rows]


def test_every_item_is_as_often_at_every_place_of_a_random_order() -> None:
    """False alarm: see `chance`."""
    orders = np.array([random_order(key_of(0, "order", str(number)), 5) for number in range(4000)])
    counts = np.stack([np.bincount(column, minlength=5) for column in orders.T])
    assert_counts(counts, 4000, np.full((5, 5), 1 / 5))


class TestRandomPool(PoolContract):
    pool = RandomPool(np.uint64(7))

    def test_another_key_is_another_list_of_the_same_items(self) -> None:
        facts = Facts(Policy(), population_of([Reaction("A", f"i{number}") for number in range(30)], Policy()))
        visitor = Visitor(np.zeros(0, np.int64), np.arange(10))
        lists = [RandomPool(np.uint64(key)).rank(visitor, facts, 30).items.tolist() for key in (1, 1, 2)]
        assert lists[0] == lists[1] != lists[2]
        assert sorted(lists[0]) == sorted(lists[2]) == list(range(10, 30))


@pytest.mark.parametrize("name", list(EXTERNAL.pools))
def test_another_pool_is_asked_in_the_place_of_one_that_is_replaced_and_all_lists_are_made_of_that(
    name: str,
) -> None:
    """y and z are known; the user has reacted to x, which is offered by nobody who is asked."""
    done = [Reaction("A", "x"), Reaction("B", "y"), Reaction("B", "z", "hide")]
    state = UserState(history=history_of("A", done))
    request = Request(request_id="r", user="A", slots=3, candidates={"mine": ["s"]})
    facts = Facts(EXTERNAL, population_of(done, EXTERNAL))
    plain = gather(state, request, facts, 3)
    gathered = gather(state, request, facts, 3, {name: Fresh()})
    place = list(EXTERNAL.pools).index(name)
    lists = [ranking.items.tolist() for ranking in plain.rankings]
    lists[place] = [2, 1]
    assert [ranking.items.tolist() for ranking in gathered.rankings] == lists
    assert gathered.lists.stock.tolist() == [len(items) for items in lists]
    assert gathered.lists.items[place, :2].tolist() == [2, 1]
