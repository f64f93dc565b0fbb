"""Folding decisions and reactions: every pair counts once, in whatever order and however often it comes."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from blending.delay import Delay
from engine.decision import Decision, PoolPart
from engine.events import Acted, Organic, Reaction, Request, Seen
from engine.evidence import evidence_at
from engine.fold import close_due, fold
from engine.policy import MemoryPolicy
from engine.state import Cell, PriorLesson, ReactionLesson, Tally, UserState, ViewLesson

LIMITS = MemoryPolicy(history_max=100, waiting_max=200, half_life_ms=48 * 3_600_000, half_life_slots=10**12)
AT_ONCE = Delay(1.0, 1.0)  # every action that will come has come
HOUR_MS = 3_600_000


def decision(
    request_id: str,
    pools_of_slots: list[int],
    at_ms: int = 0,
    prefix: str = "i",
    delta: float | None = 1.0,
    delays: tuple[Delay, Delay] = (AT_ONCE, AT_ONCE),
    *,
    served: tuple[int, int] = (0, 0),
    newcomer: bool = True,
    feed: str = "",
    before: tuple[int, int] = (0, 0),
) -> Decision:
    """A decision with these pools in its slots and two actions that earn something."""
    parts = [
        PoolPart(
            pool=name,
            alpha=[1.0, 1.0],
            beta=[9.0, 9.0],
            strength=[10.0, 10.0],
            fallback=1.0,
            rates=[[0.1, 0.1]],
            delays=list(delays),
            served=served[place],
            stock=0,
            filtered=0,
            intended=0,
            realised=pools_of_slots.count(place),
            items=[],
            verdicts="",
            before=before[place],
        )
        for place, name in enumerate(("a", "b"))
    ]
    return Decision(
        request=Request(request_id=request_id, user="u", slots=len(pools_of_slots)),
        feed=feed or request_id,
        start=sum(before),
        at_ms=at_ms,
        policy_version="v",
        population_version=0,
        seed=0,
        temperature=1.0,
        epsilon=0.0,
        delta=delta,
        mode="drawn",
        order="greedy",
        cohort="de",
        levels=[1.0, 1.0],
        explored=False,
        newcomer=newcomer,
        actions=["like", "hide"],
        rewards=[1.0, -1.0],
        pools=parts,
        pinned=[],
        degraded=[],
        slot_items=[f"{prefix}{slot}" for slot in range(len(pools_of_slots))],
        slot_pools=pools_of_slots,
        slot_rules="d" * len(pools_of_slots),
        considered=None,
        slot_offers=[1 << pool for pool in pools_of_slots],
    )


def seen(slot: int, request_id: str = "r", event_id: str | None = None, item: str | None = None) -> Seen:
    """The user saw a slot."""
    name = event_id or f"s-{request_id}-{slot}"
    return Seen(event_id=name, user="u", request_id=request_id, slot=slot, item=item or f"i{slot}")


def acted(slot: int, action: str = "like", request_id: str = "r", item: str | None = None) -> Acted:
    """The user acted on a slot."""
    name = f"{action}-{request_id}-{slot}"
    return Acted(event_id=name, user="u", request_id=request_id, slot=slot, item=item or f"i{slot}", action=action)


def run(values: list[Decision | Reaction], at_ms: int = 0) -> tuple[UserState, list, list[str]]:
    """Fold them all into a new user."""
    state, lessons, outcomes = UserState(), [], []
    for value in values:
        folded = fold(state, value, at_ms, LIMITS)
        state = folded.state
        lessons += folded.lessons
        outcomes.append(folded.outcome)
    return state, lessons, outcomes


def tallies(state: UserState, at_ms: int = 0) -> dict[Cell, Tally]:
    """Evidence by (pool, action)."""
    return evidence_at(state, at_ms, LIMITS)


def tallies_of_rows(state: UserState) -> dict[Cell, Tally]:
    """Evidence by (pool, action), in the order of the only open decision."""
    (row,) = state.ledger.values()
    return {
        (pool, action): tally
        for pool, sums in row.tallies.items()
        for action, tally in zip(row.actions, sums, strict=True)
    }


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[int], list[Reaction], list[Decision | Reaction]]:
    """A feed, the reactions to it, and both as they are delivered: each 1 to 3 times, in any order."""
    pools = draw(st.lists(st.integers(0, 1), min_size=1, max_size=5))
    slots = st.integers(0, len(pools) - 1)
    views = [seen(slot) for slot in draw(st.sets(slots))]
    actions = draw(st.sets(st.tuples(slots, st.sampled_from(["like", "hide", "rated"]))))
    reactions: list[Reaction] = [*views, *(acted(slot, action) for slot, action in sorted(actions))]
    copies: list[Decision | Reaction] = [decision("r", pools)]
    for value in [*copies, *reactions]:
        copies += [value] * draw(st.integers(0, 2))
    return pools, reactions, draw(st.permutations([*copies, *reactions]))


@given(deliveries())
def test_exposure_is_conserved_under_any_order_and_one_to_three_deliveries(case) -> None:
    pools, reactions, delivered = case
    state, lessons, _ = run(delivered)
    seen_slots = {r.slot for r in reactions if isinstance(r, Seen)}
    acted_on = {(r.slot, r.action) for r in reactions if isinstance(r, Acted)}
    names = ["a", "b"]
    exposure = Counter(names[pools[slot]] for slot in seen_slots)
    successes = Counter((names[pools[slot]], action) for slot, action in acted_on if slot in seen_slots)
    expected = {
        (pool, action): Tally(float(successes[pool, action]), float(count))
        for pool, count in exposure.items()
        for action in ("like", "hide")
    }
    assert tallies(state) == expected
    assert all(0 <= tally.successes <= tally.exposure for tally in expected.values())
    taught: dict[Cell, Tally] = {}
    for lesson in lessons:
        if isinstance(lesson, ViewLesson):
            taught[lesson.cell] = taught.get(lesson.cell, Tally()).plus(lesson.successes, lesson.exposure)
    assert taught == expected  # what the population learns is what the user's state learned
    closed, at_close = close_due(state, LIMITS.window_ms + 1, LIMITS)
    assert closed.ledger == {}
    assert at_close == tuple(
        PriorLesson(("de", *cell), Tally(), tally, tally.exposure, 0)
        for cell, tally in tallies_of_rows(state).items()
    )
    assert {lesson.cell[1:]: lesson.after for lesson in at_close if isinstance(lesson, PriorLesson)} == expected


@given(deliveries())
def test_history_holds_each_action_once_whatever_the_delivery(case) -> None:
    _, reactions, delivered = case
    state, lessons, _ = run(delivered)
    expected = sorted(r.event_id for r in reactions if isinstance(r, Acted))
    assert [entry.event_id for entry in state.history] == expected
    assert sum(isinstance(lesson, ReactionLesson) for lesson in lessons) == len(expected)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_history_keeps_the_latest_by_event_time_in_any_order(order: list[int], most: int) -> None:
    limits = MemoryPolicy(history_max=most)
    state = UserState()
    for number in order:
        event = Organic(event_id=f"e{number}", user="u", item=f"i{number}", action="like")
        state = fold(state, event, number, limits).state
    assert [entry.at_ms for entry in state.history] == list(range(8))[-most:]


def test_a_view_counts_once_for_every_action_that_earns_something() -> None:
    state, _, outcomes = run([decision("r", [0, 1]), seen(0), acted(0), seen(0), acted(0)])
    assert outcomes == ["adopted", "credited", "credited", "duplicate", "duplicate"]
    assert tallies(state) == {("a", "like"): Tally(1.0, 1.0), ("a", "hide"): Tally(0.0, 1.0)}


def test_an_action_is_not_credited_until_its_slot_was_seen() -> None:
    state, _, outcomes = run([decision("r", [0]), acted(0)])
    assert (outcomes[-1], tallies(state)) == ("noted", {})
    state = fold(state, seen(0), 0, LIMITS).state
    assert tallies(state)["a", "like"] == Tally(1.0, 1.0)


def test_the_same_event_under_two_ids_counts_once() -> None:
    state, _, outcomes = run([decision("r", [0]), seen(0), seen(0, event_id="another")])
    assert (outcomes[-1], tallies(state)["a", "like"]) == ("duplicate", Tally(0.0, 1.0))


def test_a_reaction_to_another_item_than_was_placed_moves_history_but_no_evidence() -> None:
    state, lessons, outcomes = run([decision("r", [0]), seen(0, item="other"), acted(0, item="other")])
    assert (outcomes[1:], tallies(state)) == (["dropped", "organic"], {})
    assert [lesson.item for lesson in lessons] == ["other"]


def test_a_slot_beyond_the_feed_moves_no_evidence() -> None:
    state, _, outcomes = run([decision("r", [0]), seen(1), acted(7)])
    assert (outcomes[1:], tallies(state)) == (["dropped", "organic"], {})


def test_reactions_wait_for_their_decision_and_are_then_credited() -> None:
    state, _, outcomes = run([seen(0), acted(0)])
    assert (outcomes, tallies(state)) == (["waiting", "waiting"], {})
    folded = fold(state, decision("r", [1]), 0, LIMITS)
    assert tallies(folded.state)["b", "like"] == Tally(1.0, 1.0)
    assert folded.state.waiting == ()


def test_what_waits_in_vain_is_organic_from_the_start_and_is_given_up_after_the_window() -> None:
    state, lessons, _ = run([seen(0), acted(0)])
    assert [lesson.item for lesson in lessons] == ["i0"]
    later = LIMITS.window_ms + 1
    folded = fold(state, Organic(event_id="o", user="u", item="x", action="like"), later, LIMITS)
    assert folded.state.waiting == ()
    assert [entry.item for entry in folded.state.history] == ["i0", "x"]
    assert [lesson.item for lesson in folded.lessons] == ["x"]


def test_no_more_than_the_limit_waits_and_an_action_that_must_give_way_is_not_lost() -> None:
    limits = MemoryPolicy(waiting_max=1)
    first = fold(UserState(), acted(0), 0, limits)
    second = fold(first.state, seen(1), 0, limits)
    assert [waited.reaction for waited in second.state.waiting] == [seen(1)]
    assert [entry.item for entry in second.state.history] == ["i0"]


def test_what_waits_waits_once_however_often_it_is_delivered() -> None:
    state, _, outcomes = run([seen(0)] * 600 + [acted(0)])
    assert set(outcomes) == {"waiting", "duplicate"}
    done = fold(state, decision("r", [0]), 0, LIMITS)
    assert tallies(done.state)["a", "like"] == Tally(1.0, 1.0)


def test_the_oldest_decision_takes_no_more_reactions_when_too_many_are_open() -> None:
    limits = MemoryPolicy(open_max=2)
    state = UserState()
    for number in range(3):
        state = fold(state, decision(f"r{number}", [0]), number, limits).state
        state = fold(state, seen(0, f"r{number}"), number, limits).state
    state = fold(state, decision("r3", [0], at_ms=10), 10, limits).state
    on_time = fold(state, acted(0, request_id="r1"), 10, limits)
    assert on_time.outcome == "credited"
    late = fold(on_time.state, acted(0, "hide", "r1"), 11, limits)
    assert list(late.state.ledger) == ["r2", "r3"]
    assert evidence_at(late.state, 11, limits)["a", "like"].exposure > 2.999


SHORT = MemoryPolicy(window_ms=40, history_max=6, half_life_ms=1000)


@st.composite
def two_topics(draw: st.DrawFn) -> tuple[list[Decision], list[tuple[int, Reaction]], list[bool]]:
    """Decisions and reactions, each in the order of their own log time, and two ways to interleave them."""
    times = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=8)))
    decisions = [decision(f"r{number}", [0, 1], at_ms=at_ms) for number, at_ms in enumerate(times)]
    reactions = []
    for number, at_ms in enumerate(times):
        for slot in draw(st.sets(st.integers(0, 1))):
            reactions.append((at_ms + draw(st.integers(0, 60)), seen(slot, f"r{number}")))
            reactions.append((at_ms + draw(st.integers(0, 60)), acted(slot, request_id=f"r{number}")))
    order = draw(st.permutations([True] * len(decisions) + [False] * len(reactions)))
    return decisions, sorted(reactions, key=lambda pair: pair[0]), order


@given(two_topics())
def test_how_decisions_and_reactions_interleave_changes_nothing_that_is_kept(case) -> None:
    """
    feeds     D0 ---- D1 --------- D2        each topic keeps its order;
    feedback     s0 a0 ---- s1 ---- a1       a worker may read either ahead of the other
    """
    decisions, reactions, order = case
    merged = sorted([(d.at_ms, 0, d) for d in decisions] + [(t, 1, r) for t, r in reactions], key=lambda x: x[:2])
    straight, crossed = UserState(), UserState()
    for at_ms, _, value in merged:
        straight = fold(straight, value, at_ms, SHORT).state
    ahead, behind = list(decisions), list(reactions)
    for of_feeds in order:
        # The other topic may be behind by less than the window, or the reaction would have been given up.
        while ahead and (of_feeds or (behind and ahead[0].at_ms + SHORT.window_ms < behind[0][0])):
            value = ahead.pop(0)
            crossed = fold(crossed, value, value.at_ms, SHORT).state
            if of_feeds:
                break
        if not of_feeds and behind:
            at_ms, reaction = behind.pop(0)
            crossed = fold(crossed, reaction, at_ms, SHORT).state
    for value in ahead:
        crossed = fold(crossed, value, value.at_ms, SHORT).state
    straight, _ = close_due(straight, 1000, SHORT)
    crossed, _ = close_due(crossed, 1000, SHORT)
    assert crossed.history == straight.history
    for cell, tally in evidence_at(straight, 1000, SHORT).items():
        other = evidence_at(crossed, 1000, SHORT)[cell]
        assert math.isclose(other.successes, tally.successes, abs_tol=1e-9)
        assert math.isclose(other.exposure, tally.exposure, abs_tol=1e-9)


def test_an_item_is_paired_with_what_came_before_it_in_event_time() -> None:
    state = UserState()
    for at_ms in (1, 3):
        event = Organic(event_id=f"e{at_ms}", user="u", item=f"i{at_ms}", action="like")
        state = fold(state, event, at_ms, LIMITS).state
    late = fold(state, Organic(event_id="e2", user="u", item="i2", action="like"), 2, LIMITS)
    assert [entry.item for entry in late.lessons[0].before] == ["i1"]
    assert [entry.item for entry in late.state.history] == ["i1", "i2", "i3"]


def test_a_decision_closes_after_the_window_and_keeps_what_it_taught() -> None:
    state, _, _ = run([decision("r", [0]), seen(0)])
    before = tallies(state, 25 * HOUR_MS)
    ahead = fold(state, decision("r2", [0], at_ms=25 * HOUR_MS), 25 * HOUR_MS, LIMITS).state
    assert list(ahead.ledger) == ["r", "r2"]  # only reactions move the clock
    closed = fold(ahead, seen(0, "r2", item="other"), 25 * HOUR_MS, LIMITS).state
    assert list(closed.ledger) == ["r2"]
    assert tallies(closed, 25 * HOUR_MS) == before


def test_an_action_after_the_window_is_organic() -> None:
    state, _, _ = run([decision("r", [0]), seen(0)])
    late = fold(state, acted(0), 25 * HOUR_MS, LIMITS)
    assert late.outcome == "waiting"  # its decision is unknown by now
    assert [entry.item for entry in late.state.history] == ["i0"]
    gone, lessons = close_due(late.state, 50 * HOUR_MS, LIMITS)
    assert (gone.waiting, lessons) == ((), ())
    assert tallies(gone, 50 * HOUR_MS)["a", "like"].successes == 0.0


def test_a_young_view_counts_as_far_as_actions_would_have_come() -> None:
    delay = Delay(0.25, 3.0 * HOUR_MS)
    state, _, _ = run([decision("r", [0], delays=(delay, AT_ONCE)), seen(0)])
    for hours in (0, 1, 5, 24):
        exposure = 2.0 ** (-hours / 48) * (0.25 + 0.75 * (1 - math.exp(-hours / 3)))
        assert math.isclose(tallies(state, hours * HOUR_MS)["a", "like"].exposure, exposure, rel_tol=1e-12)


def test_evidence_halves_in_a_half_life_open_or_closed_and_never_leaves_the_prior() -> None:
    state, _, _ = run([decision("r", [0]), seen(0), acted(0)])
    for days, share in ((0, 1.0), (2, 0.5), (4, 0.25)):
        assert tallies(state, days * 24 * HOUR_MS)["a", "like"] == Tally(share, share)
    closed, _ = close_due(state, 48 * HOUR_MS, LIMITS)
    assert tallies(closed, 96 * HOUR_MS)["a", "like"] == Tally(0.25, 0.25)
    far = 10_000 * 48 * HOUR_MS  # so many half-lives that nothing is left, and nothing overflows
    again = fold(closed, decision("r2", [0], at_ms=far), far, LIMITS).state
    again = fold(again, seen(0, "r2"), far, LIMITS).state
    again, _ = close_due(again, far + 48 * HOUR_MS, LIMITS)
    left = tallies(again, far + 48 * HOUR_MS)["a", "like"]
    assert left.successes < 1e-200
    assert left.exposure == 0.5


def test_a_view_of_the_kth_item_of_a_pool_counts_delta_to_the_k() -> None:
    values = [decision("r", [0, 0, 1, 0], delta=0.5), *(seen(slot) for slot in range(4)), acted(3)]
    state, lessons, _ = run(values)
    assert tallies(state)["a", "like"] == Tally(1.0, 1.75)
    assert tallies(state)["b", "like"] == Tally(0.0, 1.0)
    ranks = [lesson.rank for lesson in lessons if isinstance(lesson, ViewLesson) and lesson.cell == ("a", "like")]
    assert ranks == [0, 1, 2, 2]


def test_only_newcomers_teach_the_prior() -> None:
    state, _, _ = run([decision("r", [0], newcomer=False), seen(0)])
    assert close_due(state, 25 * HOUR_MS, LIMITS)[1] == ()


def test_a_request_id_with_other_slots_is_a_conflict_and_changes_nothing() -> None:
    state, _, _ = run([decision("r", [0])])
    folded = fold(state, decision("r", [0], prefix="other"), 0, LIMITS)
    assert (folded.outcome, folded.state) == ("conflict", state)


def test_folding_changes_nothing_in_the_state_it_was_given() -> None:
    state, _, _ = run([decision("r", [0, 1]), seen(0)])
    before = repr(state)
    fold(state, acted(0), 0, LIMITS)
    fold(state, seen(1), 0, LIMITS)
    assert repr(state) == before
