"""A user's weights through `fold`: of the same decisions and reactions, whatever their order and their copies."""

from functools import cache

import numpy as np
from arms import SEED
from hypothesis import given
from hypothesis import strategies as st

from engine.decision import Decision
from engine.events import Acted, ItemUpdate, Organic, Reaction, Request, Seen
from engine.facts import Facts
from engine.features import layout_of
from engine.fold import fold
from engine.learning import WeightSums, bytes_of, learned
from engine.personal import weights_at
from engine.policy import MemoryPolicy, Policy, WeightsPolicy
from engine.pool_policy import PoolPolicy
from engine.state import UserState, WeightLesson
from streams.embedded import EmbeddedRunner

MINUTE_MS = 60_000
POLICY = Policy(
    pools={
        "personal": PoolPolicy("personal"),
        "popular": PoolPolicy("popular"),
        "listed": PoolPolicy("external", required=2),
    },
    memory=MemoryPolicy(weights_half_life_ms=7 * MINUTE_MS),
    weights=WeightsPolicy(attributes=5, ready_likes=0, strength=5.0, full_after_slots=20, seen_weight=0.5),
)
LAST_MS = 60 * MINUTE_MS


@cache
def told() -> tuple[list[Decision], list[tuple[Reaction, int]], Facts]:
    """What a user was shown and did, with log times: views, likes at once and late, organic likes."""
    random = np.random.default_rng(SEED)
    runner = EmbeddedRunner(POLICY)
    items = [f"i{number}" for number in range(30)]
    for number, item in enumerate(items):
        runner.put(ItemUpdate(item=item, attributes={"kind": f"k{number % 5}"}), 0)
    for number in range(60):  # others, of whom the population learns
        user, item = f"other-{number % 6}", items[int(random.integers(30))]
        runner.react(Organic(event_id=f"o{number}", user=user, item=item, action="like"), number)
    decisions, reactions = [], []
    for page in range(6):
        at_ms = (1 + 4 * page) * MINUTE_MS
        listed = random.permutation(items)[:6].tolist()
        request = Request(request_id=f"r{page}", user="u", slots=6, candidates={"listed": listed})
        decision = runner.serve(request, runner.gather(request, at_ms), at_ms)
        decisions.append(decision)
        for slot, item in enumerate(decision.slot_items):
            of = {"user": "u", "request_id": f"r{page}", "slot": slot, "item": item}
            entries: list[tuple[Reaction, int]] = []
            if random.random() < 0.8:
                entries.append((Seen(event_id=f"s{page}-{slot}", **of), at_ms + slot))
            if random.random() < 0.4:
                late = int(random.integers(5 * MINUTE_MS))
                entries.append((Acted(event_id=f"a{page}-{slot}", action="like", **of), at_ms + late))
            reactions += entries
        assert decision.considered
        hidden = [item for item in decision.considered.items if item not in decision.slot_items]
        organic = Organic(event_id=f"l{page}", user="u", item=hidden[0], action="like")
        reactions.append((organic, at_ms + MINUTE_MS))
        for reaction, when in reactions:
            if when <= at_ms + MINUTE_MS:
                runner.react(reaction, when)
    return decisions, reactions, runner.facts


def weights_of(reactions: list[tuple[Reaction, int]]) -> np.ndarray:
    """The mean and the factor of what is believed of the user after these, in this order."""
    decisions, _, facts = told()
    state = UserState()
    for decision in decisions:
        state = fold(state, decision, decision.at_ms, POLICY.memory).state
    for reaction, at_ms in reactions:
        state = fold(state, reaction, at_ms, POLICY.memory).state
    assert state.weights is not None
    layout = layout_of(POLICY, facts.catalogue)
    assert state.weights.layout == layout.key
    return np.concatenate(weights_at(state.weights, facts, layout, LAST_MS))


@given(st.data())
def test_weights_do_not_depend_on_the_order_of_reactions_or_on_copies_of_them(data: st.DataObject) -> None:
    _, reactions, _ = told()
    copies = data.draw(st.lists(st.sampled_from(reactions), max_size=20))
    shuffled = data.draw(st.permutations([*reactions, *copies]))
    assert np.abs(weights_of(shuffled) - weights_of(reactions)).max() < 1e-9


def test_every_kind_of_reaction_counts() -> None:
    _, reactions, _ = told()
    whole = weights_of(reactions)
    for kind in (Seen, Acted, Organic):
        left = [entry for entry in reactions if not isinstance(entry[0], kind)]
        assert len(left) < len(reactions)
        assert np.abs(weights_of(left) - whole).max() > 1e-4


def test_a_decision_that_comes_after_its_reactions_is_as_good() -> None:
    decisions, reactions, facts = told()
    mine = [entry for entry in reactions if not isinstance(entry[0], Organic)]
    state = UserState()
    for reaction, at_ms in mine:
        state = fold(state, reaction, at_ms, POLICY.memory).state
    for decision in decisions:
        state = fold(state, decision, decision.at_ms, POLICY.memory).state
    late = np.concatenate(weights_at(state.weights, facts, layout_of(POLICY, facts.catalogue), LAST_MS))
    assert np.abs(late - weights_of(mine)).max() < 1e-9


def test_a_late_term_of_features_that_are_no_more_takes_nothing_away() -> None:
    """Terms of the new features began; one of a decision before them comes late."""

    def term(layout: str, at_ms: int) -> WeightLesson:
        return WeightLesson(
            "choice", layout, bytes_of(np.array([[1.0, 0.0], [0.0, 1.0]])), (0.1, 0.2), 0, 1.0, at_ms
        )

    everybody, own = WeightSums(), None
    for layout, at_ms in (("old", 10), ("new", 20), ("new", 30)):
        everybody.add(term(layout, at_ms), 1_000)
        own = learned(own, term(layout, at_ms), 1_000, full=True)
    before = everybody.exported(1_000)
    assert (before.layout, before.choices) == ("new", 2)
    everybody.add(term("old", 11), 1_000)
    assert everybody.exported(1_000) == before
    assert learned(own, term("old", 11), 1_000, full=True) == own
    everybody.add(term("newer", 40), 1_000)
    assert (everybody.layout, everybody.choices) == ("newer", 1)
