"""Where candidates come from: one contract for all pools, and what each is for."""

from math import sqrt
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.events import Request
from engine.facts import Facts
from engine.kernels import first_allowed, is_excluded, top_neighbours
from engine.policy import ActionPolicy, Policy, PoolPolicy, PopulationPolicy
from engine.pools import KINDS, Fresh, Pool, Popular, Ranking, Similar, Visitor, gather, visitor_of
from engine.population import Population, Sums, fit
from engine.serve import serve
from engine.state import Cursor, Reacted, ReactionLesson, UserState

ACTIONS = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-2.0), "rated": ActionPolicy(0.0)}


class Reaction(NamedTuple):
    """A user did something with an item."""

    user: str
    item: str
    action: str = "like"


class World(NamedTuple):
    """A population, somebody who visits it, and how many items are asked for."""

    population: Population
    visitor: Visitor
    most: int


def history_of(user: str, done: list[Reaction]) -> tuple[Reacted, ...]:
    """What a user did, in order."""
    return tuple(Reacted(n, f"e{n}", r.item, r.action) for n, r in enumerate(done) if r.user == user)


def population_of(done: list[Reaction], policy: Policy, known: int | None = None) -> Population:
    """What a population learns of the first `known` of these reactions; the sums go on with the others."""
    sums, population = Sums(), None
    for number, (user, item, action) in enumerate(done):
        if number == known:
            population = fit(sums, policy)
        sums.absorb([ReactionLesson(item, action, history_of(user, done[:number]))], number, policy)
    return population or fit(sums, policy)


items = st.integers(0, 12)
reaction = st.builds(
    Reaction,
    st.sampled_from("ABCD"),
    st.sampled_from([f"i{number}" for number in range(10)]),
    st.sampled_from(["like", "like", "like", "hide", "rated"]),
)
# Long lists are asked for by name: left alone, half the populations would know two items at most.
many = st.lists(reaction, min_size=20, max_size=40)
reactions = st.lists(reaction, max_size=5) | many | many


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Populations of up to ten items; the visitor may have liked and may exclude any of them."""
    limits = PopulationPolicy(
        top_max=draw(st.sampled_from([2, 5, 2000])), neighbours_max=draw(st.sampled_from([1, 3, 200]))
    )
    population = population_of(draw(reactions), Policy(actions=ACTIONS, population=limits))
    known = st.integers(0, population.size - 1) if population.size else st.nothing()
    some = st.lists(known, min_size=3, max_size=6) if population.size else st.nothing()
    recent = draw(st.just([]) | some | some)
    excluded = set(draw(st.just([]) | some | some))
    visitor = Visitor(np.array(recent, np.int64), np.array(sorted(excluded), np.int64))
    return World(population, visitor, draw(st.sampled_from([1, 2, 3, 12])))


def numbers(world: World) -> list[list[float]]:
    """Every array that a pool is given, as plain numbers."""
    population, visitor, _ = world
    arrays = [population.likes, population.popular, population.fresh, *visitor]
    arrays += [column for entry in population.neighbours for column in entry]
    return [array.tolist() for array in arrays]


# Every pool takes the same examples, so they run in more than one class.
contract = settings(suppress_health_check=[HealthCheck.differing_executors])


class PoolContract:
    """What `gather`, `serve` and the decision record rely on."""

    pool: Pool

    def ranking(self, world: World) -> Ranking:
        """The pool's answer."""
        return self.pool.rank(world.visitor, world.population, world.most)

    def ranked(self, world: World) -> list[int]:
        """The items that the pool offers."""
        return self.ranking(world).items.tolist()

    def everything(self, world: World) -> list[int]:
        """What the pool would offer somebody who excludes nothing and takes as much as there is."""
        nothing = world.visitor._replace(excluded=np.zeros(0, np.int64))
        return self.ranked(world._replace(visitor=nothing, most=world.population.size + 1))

    @contract
    @given(worlds())
    def test_it_offers_at_most_as_many_as_asked_none_twice_none_excluded_and_none_unknown(
        self, world: World
    ) -> None:
        ranked = self.ranked(world)
        assert len(ranked) <= world.most
        assert len(set(ranked)) == len(ranked)
        assert set(ranked) <= set(range(world.population.size)) - set(world.visitor.excluded.tolist())
        assert self.ranking(world).items.dtype == np.int32

    @contract
    @given(worlds())
    def test_the_same_input_gives_the_same_list(self, world: World) -> None:
        assert self.ranked(world) == self.ranked(world)

    @contract
    @given(worlds())
    def test_it_changes_nothing_that_it_is_given(self, world: World) -> None:
        before = numbers(world)
        self.ranking(world).items[:] = -1  # nor does a caller through the answer
        assert numbers(world) == before

    @contract
    @given(worlds(), st.integers(1, 12))
    def test_asking_for_more_only_appends(self, world: World, more: int) -> None:
        ranked = self.ranked(world)
        assert self.ranked(world._replace(most=world.most + more))[: world.most] == ranked

    @contract
    @given(worlds())
    def test_excluding_items_only_leaves_them_out(self, world: World) -> None:
        excluded = set(world.visitor.excluded.tolist())
        left = [item for item in self.everything(world) if item not in excluded]
        assert self.ranked(world) == left[: world.most]

    @contract
    @given(worlds())
    def test_filtered_counts_the_better_items_that_were_left_out(self, world: World) -> None:
        """Better than the last item of a full list; one that is not full has left out all that is missing."""
        ranked, everything = self.ranked(world), self.everything(world)
        passed = everything[: everything.index(ranked[-1])] if len(ranked) == world.most else everything
        filtered = self.ranking(world).filtered
        assert filtered == len(set(passed) & set(world.visitor.excluded.tolist()))


class TestPopular(PoolContract):
    pool = Popular()

    def test_what_was_liked_most_often_comes_first_and_older_items_among_equals(self) -> None:
        """y has three likes, x and z two each, w one; v was only hidden."""
        done = [*["Ax", "Ay", "By", "Cy", "Bx", "Az", "Bz", "Cw"], "Dv"]
        population = population_of(
            [Reaction(name[0], name[1], "hide" if name == "Dv" else "like") for name in done],
            Policy(actions=ACTIONS),
        )
        ranking = Popular().rank(nobody_who_excludes(population, "y"), population, 10)
        assert [population.items[number] for number in ranking.items] == ["x", "z", "w"]
        assert ranking.filtered == 1


class TestFresh(PoolContract):
    pool = Fresh()

    def test_what_appeared_last_comes_first_whatever_was_done_with_it(self) -> None:
        done = [Reaction("A", "x"), Reaction("A", "y"), Reaction("B", "z", "hide"), Reaction("B", "x")]
        population = population_of(done, Policy(actions=ACTIONS))
        ranking = Fresh().rank(nobody_who_excludes(population), population, 10)
        assert [population.items[number] for number in ranking.items] == ["z", "y", "x"]


class TestSimilar(PoolContract):
    pool = Similar()

    def test_a_hand_worked_example(self) -> None:
        """Six users, five items; a cosine is (times liked together) / sqrt(product of their likes).

             x  y  z  p  q                  y              z              p              q
        A    1  1     1            from x   2/√(3·2)=.816  1/√(3·1)=.577  1/√(3·4)=.289  —
        B    1  1  1               from q   —              —              1/√(1·4)=.500  —
        C    1                     sum      .816           .577           .789
        D             1  1
        E, F          1            p has the most likes and comes second only when q counts, too.
        """
        liked = ["Ax", "Ay", "Ap", "Bx", "By", "Bz", "Cx", "Dp", "Dq", "Ep", "Fp"]
        population = population_of([Reaction(name[0], name[1]) for name in liked], Policy(actions=ACTIONS))
        assert self.similar_to("x", population) == ["y", "z", "p"]
        assert self.similar_to("xq", population) == ["y", "p", "z"]
        assert self.similar_to("xq", population, excluded="y") == ["p", "z"]
        assert self.similar_to("", population) == []

    @staticmethod
    def similar_to(names: str, population: Population, excluded: str = "") -> list[str]:
        """Items similar to these, which are excluded as everything is that the user has reacted to."""
        visitor = nobody_who_excludes(population, names + excluded)
        recent = np.array([population.number_of[name] for name in names], np.int64)
        ranking = Similar().rank(visitor._replace(recent=recent), population, 10)
        return [population.items[number] for number in ranking.items]


def nobody_who_excludes(population: Population, names: str = "") -> Visitor:
    """A visitor without likes who is not to be offered these one-letter items."""
    return Visitor(np.zeros(0, np.int64), np.array(sorted(population.number_of[name] for name in names), np.int64))


def test_every_kind_of_pool_passes_the_contract() -> None:
    assert {type(pool) for pool in KINDS.values()} <= {type(suite.pool) for suite in PoolContract.__subclasses__()}


# Their loops


@given(st.integers(-2, 14), st.sets(items))
def test_is_excluded_is_membership(item: int, excluded: set[int]) -> None:
    assert is_excluded(item, np.array(sorted(excluded), np.int64)) == (item in excluded)


@given(st.lists(items, unique=True), st.sets(items), st.integers(0, 14))
def test_first_allowed_walks_the_order_until_it_has_enough(order: list[int], excluded: set[int], most: int) -> None:
    allowed: list[int] = []
    passed = 0
    for item in order:
        if len(allowed) == most:
            break
        if item in excluded:
            passed += 1
        else:
            allowed.append(item)
    found = first_allowed(np.array(order, np.int32), np.array(sorted(excluded), np.int64), most)
    assert (found[0].tolist(), found[1]) == (allowed, passed)


@st.composite
def neighbourhoods(draw: st.DrawFn) -> tuple[list[int], list[dict[int, int]], list[int]]:
    """Sources, the neighbours of each with how often they were liked together, and all items' likes."""
    sources = draw(st.lists(items, max_size=4))
    lists = [draw(st.dictionaries(items, st.integers(1, 3), max_size=8)) for _ in sources]
    likes = draw(st.lists(st.sampled_from([1, 2, 4, 9, 10]), min_size=13, max_size=13))
    return sources, lists, likes


@given(neighbourhoods(), st.sets(items), st.integers(1, 14))
def test_top_neighbours_are_the_largest_sums_of_cosines(
    around: tuple[list[int], list[dict[int, int]], list[int]], excluded: set[int], most: int
) -> None:
    sources, lists, likes = around
    scores: dict[int, float] = {}
    for source, neighbours in zip(sources, lists, strict=True):
        for item, count in neighbours.items():
            scores[item] = scores.get(item, 0.0) + 1.0 / sqrt(likes[source]) * count
    cosines = {item: score / sqrt(likes[item]) for item, score in scores.items()}
    best = sorted((item for item in cosines if item not in excluded), key=lambda item: (-cosines[item], item))
    found, passed = top_neighbours(
        np.array([item for neighbours in lists for item in neighbours], np.int32),
        np.array([count for neighbours in lists for count in neighbours.values()], np.int64),
        np.array([len(neighbours) for neighbours in lists], np.int64),
        np.array(sources, np.int64),
        np.array(likes, np.int64),
        np.array(sorted(excluded), np.int64),
        most,
    )
    assert found.tolist() == best[:most]
    barred = [item for item in cosines if item in excluded]
    if len(best) >= most:
        last = best[most - 1]
        barred = [item for item in barred if (-cosines[item], item) < (-cosines[last], last)]
    assert passed == len(barred)


# Asking them


@given(reactions, st.integers(0, 30), st.integers(1, 4))
def test_a_visitor_is_the_part_of_a_history_that_the_version_knows(
    done: list[Reaction], known: int, recent_likes: int
) -> None:
    """Reactions after the first `known` are not in the population yet, but they are in the user's history."""
    policy = Policy(actions=ACTIONS, population=PopulationPolicy(recent_likes=recent_likes))
    population = population_of(done, policy, known)
    mine = [reaction for reaction in done if reaction.user == "A"]
    state = UserState(history=history_of("A", done))
    visitor = visitor_of(state, Facts(policy, population))
    number_of = {item: number for number, item in enumerate(dict.fromkeys(r.item for r in done[:known]))}
    liked = [number_of[r.item] for r in reversed(mine) if r.action == "like" and r.item in number_of]
    assert visitor.recent.tolist() == list(dict.fromkeys(liked))[:recent_likes]  # the latest first, each once
    assert visitor.excluded.tolist() == sorted({number_of[r.item] for r in mine if r.item in number_of})
    assert visitor.recent.dtype == visitor.excluded.dtype == np.int64


@given(reactions, st.integers(1, 8))
def test_every_pool_of_the_policy_is_asked_in_its_order_for_as_many_as_slots(
    done: list[Reaction], slots: int
) -> None:
    pools = {"new": PoolPolicy("fresh"), "top": PoolPolicy("popular"), "also_new": PoolPolicy("fresh")}
    policy = Policy(pools=pools, actions=ACTIONS)
    facts = Facts(policy, population_of(done, policy))
    state = UserState(history=history_of("A", done))
    gathered = gather(state, Request(request_id="r", user="A", slots=slots), facts)
    expected = [KINDS[pool.kind].rank(gathered.visitor, facts.population, slots) for pool in pools.values()]
    assert [(r.items.tolist(), r.filtered) for r in gathered.rankings] == [
        (r.items.tolist(), r.filtered) for r in expected
    ]
    assert gathered.lists.stock.tolist() == [ranking.items.size for ranking in expected]


@given(reactions, st.integers(1, 8))
def test_a_feed_without_guarantees_is_the_beginning_of_a_longer_one(done: list[Reaction], slots: int) -> None:
    policy = Policy(pools={name: PoolPolicy(name) for name in Policy().pools}, actions=ACTIONS)
    facts = Facts(policy, population_of(done, policy))
    state = UserState(history=history_of("A", done))
    requests = [Request(request_id="r", user="A", slots=n) for n in (slots, slots + 1)]
    shorter, longer = (serve(state, request, gather(state, request, facts), 0).slot_items for request in requests)
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
    gathered = gather(UserState(), request, Facts(EXTERNAL, population))
    assert gathered.strangers == ["s", "t"]
    assert [ranking.items.tolist() for ranking in gathered.rankings] == [[2, 1, 3], [0, 1], [3, 0]]
    assert gathered.lists.stock.tolist() == [3, 2, 2]


def test_of_a_requests_own_candidates_as_many_as_slots_are_read_and_a_missing_list_is_empty() -> None:
    names = [f"s{number}" for number in range(9)]
    request = Request(request_id="r", user="C", slots=2, candidates={"yours": names})
    gathered = gather(UserState(), request, Facts(EXTERNAL, population_of([], EXTERNAL)))
    assert gathered.strangers == names[:2]
    assert [ranking.items.size for ranking in gathered.rankings] == [0, 0, 2]
    assert [ranking.missing for ranking in gathered.rankings] == [True, False, False]


def test_a_pool_that_brings_an_empty_list_has_answered() -> None:
    request = Request(request_id="r", user="C", slots=2, candidates={"mine": [], "yours": ["s"]})
    gathered = gather(UserState(), request, Facts(EXTERNAL, population_of([], EXTERNAL)))
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
        gathered = gather(UserState(cursor=cursor), request, Facts(EXTERNAL, population))
        names = [*population.items, *gathered.strangers]
        found = [[names[item] for item in ranking.items] for ranking in gathered.rankings]
        assert (found, [ranking.filtered for ranking in gathered.rankings]) == (offered, left_out)


@pytest.mark.parametrize("name", ["top", "nobody"])
def test_candidates_for_a_pool_that_is_not_external_are_refused_by_its_name(name: str) -> None:
    request = Request(request_id="r", user="C", slots=2, candidates={"mine": ["s"], name: ["s"]})
    with pytest.raises(InputError, match=name):
        gather(UserState(), request, Facts(EXTERNAL, population_of([], EXTERNAL)))
