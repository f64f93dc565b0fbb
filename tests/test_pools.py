"""Where candidates come from: one contract for all pools, and what each is for."""

from math import sqrt
from typing import NamedTuple

import numpy as np
from chance import assert_counts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.catalogue import CatalogueWriter
from engine.events import ItemUpdate
from engine.facts import Facts
from engine.item_tallies import HALF_LIVES_MS, TREND
from engine.kernels import first_allowed, is_excluded, top_neighbours
from engine.policy import ActionPolicy, Policy, PopulationPolicy
from engine.pools import KINDS, Affinity, Fresh, Pool, Popular, Random, Ranking, Similar, Successor, Trending
from engine.population import Population, Sums, fit
from engine.state import Reacted, ReactionLesson, UserState
from engine.visitor import NOBODY, Visitor, past_of

ACTIONS = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-2.0), "rated": ActionPolicy(0.0)}
LIKED = Policy(actions=ACTIONS)


class Reaction(NamedTuple):
    """A user did something with an item."""

    user: str
    item: str
    action: str = "like"


class World(NamedTuple):
    """Facts of a population, somebody who visits it, and how many items are asked for."""

    facts: Facts
    visitor: Visitor
    most: int

    @property
    def population(self) -> Population:
        """The population."""
        return self.facts.population


def history_of(user: str, done: list[Reaction]) -> tuple[Reacted, ...]:
    """What a user did, in order."""
    return tuple(Reacted(n, f"e{n}", r.item, r.action) for n, r in enumerate(done) if r.user == user)


def population_of(done: list[Reaction], policy: Policy, known: int | None = None) -> Population:
    """What a population learns of the first `known` of these reactions; the sums go on with the others."""
    sums, population = Sums(), None
    for number, (user, item, action) in enumerate(done):
        if number == known:
            population = fit(sums, policy)
        before = history_of(user, done[:number])
        sums.absorb([ReactionLesson(item, action, before, number, len(before))], number, policy)
    return population or fit(sums, policy)


items = st.integers(0, 12)
genres = st.lists(st.sampled_from(["art", "birds", "cars"]), max_size=2, unique=True)
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
    policy = Policy(actions=ACTIONS, population=limits)
    done = draw(reactions)
    population = population_of(done, policy)
    known = st.integers(0, population.size - 1) if population.size else st.nothing()
    some = st.lists(known, min_size=3, max_size=6) if population.size else st.nothing()
    recent = draw(st.just([]) | some | some)
    excluded = set(draw(st.just([]) | some | some))
    facts = described(Facts(policy, population), draw(st.lists(genres, min_size=population.size)))
    past = past_of(UserState(history=history_of(draw(st.sampled_from("AE")), done)), facts, len(done))
    names = (draw(st.sampled_from("uv")),)
    visitor = Visitor(np.array(recent, np.int64), np.array(sorted(excluded), np.int64), past, 0, names)
    return World(facts, visitor, draw(st.sampled_from([1, 2, 3, 12])))


def described(facts: Facts, attributes: list[list[str]]) -> Facts:
    """The same with a catalogue in which the population's items, in their order, are of these genres."""
    writer = CatalogueWriter()
    for item, names in zip(facts.population.items, attributes, strict=False):
        writer.put(ItemUpdate(item=item, attributes={"genres": names}))
    return Facts(facts.policy, facts.population, writer.version())


def numbers(world: World) -> list[list[float]]:
    """Every array that a pool is given, as plain numbers."""
    population, visitor, table = world.population, world.visitor, world.facts.items
    arrays = [population.likes, population.popular, population.fresh, *population.statistics]
    lists = population.neighbours, population.near, population.successors
    arrays += [column for rows in lists for entry in rows for column in entry]
    arrays += [visitor.recent, visitor.excluded, *visitor.past, table.starts, table.tokens]
    return [array.tolist() for array in arrays]


# Every pool takes the same examples, so they run in more than one class.
contract = settings(suppress_health_check=[HealthCheck.differing_executors])


class PoolContract:
    """What `gather`, `serve` and the decision record rely on."""

    pool: Pool

    def ranking(self, world: World) -> Ranking:
        """The pool's answer."""
        return self.pool.rank(world.visitor, world.facts, world.most)

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
            [Reaction(name[0], name[1], "hide" if name == "Dv" else "like") for name in done], LIKED
        )
        ranking = Popular().rank(nobody_who_excludes(population, "y"), Facts(LIKED, population), 10)
        assert [population.items[number] for number in ranking.items] == ["x", "z", "w"]
        assert ranking.filtered == 1


class TestFresh(PoolContract):
    pool = Fresh()

    def test_what_appeared_last_comes_first_whatever_was_done_with_it(self) -> None:
        done = [Reaction("A", "x"), Reaction("A", "y"), Reaction("B", "z", "hide"), Reaction("B", "x")]
        population = population_of(done, LIKED)
        ranking = Fresh().rank(nobody_who_excludes(population), Facts(LIKED, population), 10)
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
        population = population_of([Reaction(name[0], name[1]) for name in liked], LIKED)
        assert self.similar_to("x", population) == ["y", "z", "p"]
        assert self.similar_to("xq", population) == ["y", "p", "z"]
        assert self.similar_to("xq", population, excluded="y") == ["p", "z"]
        assert self.similar_to("", population) == []

    @staticmethod
    def similar_to(names: str, population: Population, excluded: str = "") -> list[str]:
        """Items similar to these, which are excluded as everything is that the user has reacted to."""
        visitor = nobody_who_excludes(population, names + excluded)
        recent = np.array([population.number_of[name] for name in names], np.int64)
        ranking = Similar().rank(visitor._replace(recent=recent), Facts(LIKED, population), 10)
        return [population.items[number] for number in ranking.items]


class TestTrending(PoolContract):
    pool = Trending()

    def test_a_like_of_late_is_worth_more_than_two_of_long_ago(self) -> None:
        """x was liked twice three half-lives before y was once; z was only hidden."""
        sums, half_life_ms = Sums(), HALF_LIVES_MS[TREND]
        for item, action, half_lives in (("x", "like", 0), ("x", "like", 0), ("y", "like", 3), ("z", "hide", 3)):
            at_ms = 1 + half_lives * half_life_ms
            sums.absorb([ReactionLesson(item, action, (), at_ms, 0)], at_ms, LIKED)
        ranking = Trending().rank(NOBODY, Facts(LIKED, fit(sums, LIKED)), 10)
        assert [sums.items[number] for number in ranking.items] == ["y", "x"]


class TestSuccessor(PoolContract):
    pool = Successor()

    def test_what_others_did_next_comes_first_and_nothing_that_came_before(self) -> None:
        """After x two went on to y and one to z; all of them had come from w."""
        done = [
            Reaction(user, item) for user, items in (("A", "wxy"), ("B", "wxy"), ("C", "wxz")) for item in items
        ]
        facts = Facts(LIKED, population_of(done, LIKED))
        past = past_of(UserState(history=(Reacted(0, "e", "x", "hide"),)), facts, 0)
        ranking = Successor().rank(NOBODY._replace(past=past), facts, 10)
        assert [facts.population.items[number] for number in ranking.items] == ["y", "z"]


class TestAffinity(PoolContract):
    pool = Affinity()

    def test_of_items_that_are_liked_as_often_those_of_the_genres_that_the_user_likes_come_first(self) -> None:
        """Both o and p have two likes; the user likes birds, and has hidden a car."""
        done = [Reaction(user, item) for user in "BC" for item in "opqr"]
        facts = Facts(LIKED, population_of([*done, Reaction("A", "r"), Reaction("A", "q", "hide")], LIKED))
        facts = described(facts, [["cars"], ["birds"], ["cars"], ["birds"]])
        past = past_of(
            UserState(history=history_of("A", [Reaction("A", "r"), Reaction("A", "q", "hide")])), facts, 9
        )
        visitor = nobody_who_excludes(facts.population, "qr")._replace(past=past)
        ranking = Affinity().rank(visitor, facts, 10)
        assert [facts.population.items[number] for number in ranking.items] == ["p", "o"]


class TestRandom(PoolContract):
    pool = Random()

    def test_every_item_comes_first_as_often_whatever_was_done_with_it(self) -> None:
        """Of 5 items, in 4000 requests. False alarm: see `chance`."""
        done = [Reaction("A", "x", "hide"), *[Reaction(user, "y") for user in "ABC"]]
        facts = Facts(LIKED, population_of([*done, *[Reaction("B", item) for item in "zpq"]], LIKED))
        visitors = [NOBODY._replace(names=("u", str(number))) for number in range(4000)]
        lists = [Random().rank(visitor, facts, 5).items for visitor in visitors]
        counts = np.stack([np.bincount(column, minlength=5) for column in np.stack(lists).T])
        assert_counts(counts, 4000, np.full((5, 5), 1 / 5))


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
    passed: list[int] = []
    for item in order:
        if len(allowed) == most:
            break
        if item in excluded:
            passed.append(item)
        else:
            allowed.append(item)
    found = first_allowed(np.array(order, np.int32), np.array(sorted(excluded), np.int64), most)
    assert (found[0].tolist(), found[1].tolist()) == (allowed, passed)


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
    assert sorted(passed.tolist()) == sorted(barred)
