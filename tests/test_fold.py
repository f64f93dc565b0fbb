"""Folding decisions and reactions: every pair counts once, in whatever order and however often it comes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.decision import Decision, PoolPart
from engine.events import Acted, Organic, Reaction, Request, Seen
from engine.fold import fold
from engine.policy import LimitsPolicy
from engine.state import EvidenceLesson, ReactionLesson, Tally, UserState

LIMITS = LimitsPolicy(history_max=100, waiting_max=200)
HOUR_MS = 3_600_000


def decision(request_id: str, pools_of_slots: list[int], at_ms: int = 0, prefix: str = "i") -> Decision:
    """A decision with these pools in its slots and two actions that earn something."""
    parts = [
        PoolPart(
            pool=name,
            alpha=[1.0, 1.0],
            beta=[9.0, 9.0],
            rates=[0.1, 0.1],
            stock=0,
            filtered=0,
            intended=0,
            realised=0,
            items=[],
            verdicts="",
        )
        for name in ("a", "b")
    ]
    return Decision(
        request=Request(request_id=request_id, user="u", slots=len(pools_of_slots)),
        at_ms=at_ms,
        policy_version="v",
        population_version=0,
        seed=0,
        actions=["like", "hide"],
        rewards=[1.0, -1.0],
        pools=parts,
        slot_items=[f"{prefix}{slot}" for slot in range(len(pools_of_slots))],
        slot_pools=pools_of_slots,
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


def tallies(state: UserState) -> dict[tuple[str, str], Tally]:
    """Evidence by (pool, action), without empty entries."""
    return {(pool, action): tally for pool, of in state.evidence.items() for action, tally in of.items()}


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
    taught: dict[tuple[str, str], Tally] = {}
    for lesson in lessons:
        if isinstance(lesson, EvidenceLesson):
            old = taught.get((lesson.pool, lesson.action), Tally())
            taught[lesson.pool, lesson.action] = Tally(
                old.successes + lesson.successes, old.exposure + lesson.exposure
            )
    assert taught == expected  # what the population learns is what the user's state learned


@given(deliveries())
def test_history_holds_each_action_once_whatever_the_delivery(case) -> None:
    _, reactions, delivered = case
    state, lessons, _ = run(delivered)
    expected = sorted(r.event_id for r in reactions if isinstance(r, Acted))
    assert [entry.event_id for entry in state.history] == expected
    assert sum(isinstance(lesson, ReactionLesson) for lesson in lessons) == len(expected)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_history_keeps_the_latest_by_event_time_in_any_order(order: list[int], most: int) -> None:
    limits = LimitsPolicy(history_max=most)
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


def test_what_waited_in_vain_becomes_organic_and_is_not_lost() -> None:
    state, _, _ = run([seen(0), acted(0)])
    later = LIMITS.request_horizon_ms + 1
    folded = fold(state, Organic(event_id="o", user="u", item="x", action="like"), later, LIMITS)
    assert folded.state.waiting == ()
    assert [entry.item for entry in folded.state.history] == ["i0", "x"]
    assert [lesson.item for lesson in folded.lessons] == ["i0", "x"]


def test_no_more_than_the_limit_waits() -> None:
    limits = LimitsPolicy(waiting_max=1)
    first = fold(UserState(), seen(0), 0, limits)
    assert fold(first.state, seen(1), 0, limits).outcome == "dropped"


def test_a_decision_closes_after_the_horizon_and_keeps_what_it_taught() -> None:
    state, _, _ = run([decision("r", [0]), seen(0)])
    closed = fold(state, decision("r2", [0], at_ms=25 * HOUR_MS), 25 * HOUR_MS, LIMITS).state
    assert list(closed.ledger) == ["r2"]
    assert tallies(closed) == tallies(state)


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
