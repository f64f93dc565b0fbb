"""What the pools of a policy are asked for, and what they offer one request together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pools import ACTIONS, Reaction, history_of, population_of, reactions

from engine.errors import InputError
from engine.events import Acted, ItemUpdate, Organic, Request
from engine.facts import Facts
from engine.policy import Policy, PopulationPolicy, WeightsPolicy
from engine.pool_policy import PoolPolicy
from engine.pools import KINDS, Ranking, gather, plugged_in
from engine.serve import serve
from engine.state import Cursor, UserState
from engine.visitor import Visitor, visitor_of
from streams.embedded import EmbeddedRunner


@given(reactions, st.integers(0, 30), st.integers(1, 4))
def test_a_visitor_is_the_part_of_a_history_that_the_version_knows(
    done: list[Reaction], known: int, recent_likes: int
) -> None:
    """Reactions after the first `known` are not in the population yet, but they are in the user's history."""
    policy = Policy(actions=ACTIONS, population=PopulationPolicy(recent_likes=recent_likes))
    population = population_of(done, policy, known)
    mine = [reaction for reaction in done if reaction.user == "A"]
    state = UserState(history=history_of("A", done))
    visitor = visitor_of(state, Request(request_id="r", user="A", slots=1), Facts(policy, population), len(done))
    number_of = {item: number for number, item in enumerate(dict.fromkeys(r.item for r in done[:known]))}
    liked = [number_of[r.item] for r in reversed(mine) if r.action == "like" and r.item in number_of]
    assert visitor.recent.tolist() == list(dict.fromkeys(liked))[:recent_likes]  # the latest first, each once
    assert visitor.excluded.tolist() == sorted({number_of[r.item] for r in mine if r.item in number_of})
    assert visitor.recent.dtype == visitor.excluded.dtype == np.int64
    at = {r.item: (number, 0.0) for number, r in enumerate(done) if r.user == "A"}
    at |= {r.item: (number, 1.0) for number, r in enumerate(done) if r.user == "A" and r.action == "like"}
    past = sorted(((at_ms, number_of[item], like) for item, (at_ms, like) in at.items() if item in number_of))[::-1]
    assert visitor.past.items.tolist() == [item for _, item, _ in past]
    assert visitor.past.age_ms.tolist() == [len(done) - at_ms for at_ms, _, _ in past]
    assert visitor.past.liked.tolist() == [like for _, _, like in past]  # of then, whatever came later


@given(reactions, st.integers(1, 8))
def test_every_pool_of_the_policy_is_asked_in_its_order_for_as_many_as_slots(
    done: list[Reaction], slots: int
) -> None:
    pools = {"new": PoolPolicy("fresh"), "top": PoolPolicy("popular"), "also_new": PoolPolicy("fresh")}
    policy = Policy(pools=pools, actions=ACTIONS)
    facts = Facts(policy, population_of(done, policy))
    state = UserState(history=history_of("A", done))
    gathered = gather(state, Request(request_id="r", user="A", slots=slots), facts, len(done))
    expected = [KINDS[pool.kind].rank(gathered.visitor, facts, slots) for pool in pools.values()]
    assert [(r.items.tolist(), r.filtered) for r in gathered.rankings] == [
        (r.items.tolist(), r.filtered) for r in expected
    ]
    assert gathered.lists.stock.tolist() == [ranking.items.size for ranking in expected]


@given(reactions, st.integers(1, 8))
def test_a_feed_without_guarantees_is_the_beginning_of_a_longer_one(done: list[Reaction], slots: int) -> None:
    pools = {name: PoolPolicy(name) for name in Policy().pools}
    policy = Policy(pools=pools, actions=ACTIONS, weights=WeightsPolicy(ready_likes=0))
    facts = Facts(policy, population_of(done, policy))
    state = UserState(history=history_of("A", done))
    requests = [Request(request_id="r", user="A", slots=n) for n in (slots, slots + 1)]
    shorter, longer = (serve(state, one, gather(state, one, facts, 0), 0).slot_items for one in requests)
    assert longer[:slots] == shorter


EXTERNAL = Policy(
    pools={"mine": PoolPolicy("external"), "top": PoolPolicy("popular"), "yours": PoolPolicy("external")},
    actions=ACTIONS,
)


def test_an_external_pool_offers_the_requests_own_candidates_known_or_not() -> None:
    """x and y are known as 0 and 1; s and t are strangers, the same in both lists, and offered once in each."""
    population = population_of([Reaction("A", "x"), Reaction("B", "y")], EXTERNAL)
    candidates = {"mine": ["s", "y", "s", "t"], "yours": ["t", "x"]}
    request = Request(request_id="r", user="C", slots=3, candidates=candidates)
    gathered = gather(UserState(), request, Facts(EXTERNAL, population), 0)
    assert gathered.strangers == ["s", "t"]
    assert [ranking.items.tolist() for ranking in gathered.rankings] == [[2, 1, 3], [0, 1], [3, 0]]
    assert gathered.lists.stock.tolist() == [3, 2, 2]


def test_of_a_requests_own_candidates_as_many_as_slots_are_read_and_a_missing_list_is_empty() -> None:
    names = [f"s{number}" for number in range(9)]
    request = Request(request_id="r", user="C", slots=2, candidates={"yours": names})
    gathered = gather(UserState(), request, Facts(EXTERNAL, population_of([], EXTERNAL)), 0)
    assert gathered.strangers == names[:2]
    assert [ranking.items.size for ranking in gathered.rankings] == [0, 0, 2]
    assert [ranking.missing for ranking in gathered.rankings] == [True, False, False]


def test_a_pool_that_brings_an_empty_list_has_answered() -> None:
    request = Request(request_id="r", user="C", slots=2, candidates={"mine": [], "yours": ["s"]})
    gathered = gather(UserState(), request, Facts(EXTERNAL, population_of([], EXTERNAL)), 0)
    assert [ranking.missing for ranking in gathered.rankings] == [False, False, False]


def test_what_earlier_pages_hold_is_offered_by_no_pool_again() -> None:
    """x is known and stands on the page before, as does the stranger s; y is known, t is not."""
    population = population_of([Reaction("A", "x"), Reaction("B", "y")], EXTERNAL)
    cursor = Cursor("page 1", "page 1", 10, EXTERNAL.version, "", "drawn", [], 0.0, ("x", "s"), ())
    candidates = {"mine": ["s", "x", "t", "y"], "yours": ["x", "x", "s"]}
    for continues, offered, left_out in (
        ("page 1", [["t", "y"], ["y"], []], [2, 1, 2]),
        ("page 0", [["s", "x"], ["x", "y"], ["x", "s"]], [0, 0, 0]),
        (None, [["s", "x"], ["x", "y"], ["x", "s"]], [0, 0, 0]),
    ):
        request = Request(request_id="r", user="C", slots=2, candidates=candidates, continues=continues)
        gathered = gather(UserState(cursor=cursor), request, Facts(EXTERNAL, population), 0)
        names = [*population.items, *gathered.strangers]
        found = [[names[item] for item in ranking.items] for ranking in gathered.rankings]
        assert (found, [ranking.filtered for ranking in gathered.rankings]) == (offered, left_out)


@pytest.mark.parametrize("name", ["top", "nobody"])
def test_candidates_for_a_pool_that_is_not_external_are_refused_by_its_name(name: str) -> None:
    request = Request(request_id="r", user="C", slots=2, candidates={"mine": ["s"], name: ["s"]})
    with pytest.raises(InputError, match=name):
        gather(UserState(), request, Facts(EXTERNAL, population_of([], EXTERNAL)), 0)


def test_the_personal_pool_offers_nothing_before_it_has_learned_where_others_fill_the_page() -> None:
    """What it earned untrained would be held against it for long. What it is promised it has from the start."""

    class Nothing:
        def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
            return Ranking(np.zeros(0, np.int32), 0)

    pools = {"popular": PoolPolicy("popular"), "mine": PoolPolicy("personal")}
    runner = EmbeddedRunner(Policy(pools=pools, weights=WeightsPolicy(ready_likes=3, attributes=4)))
    for number in range(8):
        runner.react(Organic(event_id=f"o{number}", user="b", item=f"i{number}", action="like"), number)

    def offered(name: str, slots: int = 4) -> int:
        request = Request(request_id=name, user="a", slots=slots)
        gathered = runner.gather(request, 100, {"popular": Nothing()} if name == "alone" else {})
        assert gathered.weighing is not None  # it is learned from before it is shown
        return gathered.rankings[1].items.size

    liked = 0
    while liked < 3:
        assert (offered("beside"), offered("alone"), offered("long", 9)) == (0, 4, 8 - liked)
        request = Request(request_id=f"r{liked}", user="a", slots=4)
        item = runner.serve(request, runner.gather(request, 100), 100).slot_items[0]
        like = Acted(event_id=f"a{liked}", user="a", request_id=f"r{liked}", slot=0, item=item, action="like")
        runner.react(like, 100)
        liked += 1
    assert offered("beside") == 4
    runner.put(ItemUpdate(item="i1", attributes={"kind": "a"}), 100)  # other features: nothing is known of these
    assert offered("other features") == 0
    promised = {**pools, "mine": PoolPolicy("personal", required=1)}
    first = EmbeddedRunner(Policy(pools=promised, weights=WeightsPolicy(ready_likes=3)))
    for number in range(8):
        first.react(Organic(event_id=f"o{number}", user="b", item=f"i{number}", action="like"), number)
    request = Request(request_id="promised", user="a", slots=4)
    assert first.gather(request, 100).rankings[1].items.size == 4


class OfOnesOwn:
    """A pool that answers with what a test has put here."""

    answer: object = None

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> object:
        return self.answer


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("items", "taken"),
    [
        (np.array([2, 1], np.int64), True),
        (np.array([], np.float64), True),
        (np.array([-1]), False),
        (np.array([9]), False),
        (np.array([2_000_000_000]), False),
        (np.array([1, 1]), False),
        (np.array([0]), False),  # which the user has reacted to
        (np.array([1.0]), False),
        (np.array([[1]]), False),
        (np.array([1, 2, 3, 4]), False),  # more than was asked for
        (None, False),
    ],
)
def test_what_a_pool_of_ones_own_may_not_answer_is_refused_by_its_name(
    items: np.ndarray | None, taken: bool, beside: bool
) -> None:
    pools = {"own": PoolPolicy(f"{__name__}:OfOnesOwn")} | ({"mine": PoolPolicy("personal")} if beside else {})
    facts = Facts(Policy(pools=pools), population_of([Reaction("A", item) for item in "abcdef"], Policy()))
    state = UserState(history=history_of("A", [Reaction("A", "a")]))
    OfOnesOwn.answer = None if items is None else Ranking(items, 0)
    if taken:
        ranking = gather(state, Request(request_id="r", user="A", slots=3), facts, 9).rankings[0]
        assert (ranking.items.tolist(), ranking.items.dtype) == (items.tolist(), np.int32)
    else:
        with pytest.raises(InputError, match="the pool 'own' broke its port"):
            gather(state, Request(request_id="r", user="A", slots=3), facts, 9)


@pytest.mark.parametrize("source", ["raise ValueError('no')", "class", "import nothing_of_this_name"])
def test_a_module_of_ones_own_that_cannot_be_loaded_is_refused_by_its_name(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"pools_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=f"the pool '{name}:Own' cannot be had"):
        plugged_in(f"{name}:Own")
