"""What is learned across users: the same however it was fitted, and never changed once handed out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.policy import ActionPolicy, MemoryPolicy, Policy, PopulationPolicy
from engine.population import Population, Sums, fit
from engine.relations import NEAR_MS, SUCCESSORS, UNITS
from engine.state import CohortCell, Lesson, PriorLesson, Reacted, ReactionLesson, Tally, ViewLesson

ACTIONS = {
    "like": ActionPolicy(1.0),
    "save": ActionPolicy(3.0),
    "hide": ActionPolicy(-2.0),
    "rated": ActionPolicy(0),
}
LIKES = ("like", "save")


class Reaction(NamedTuple):
    """A user did something with an item."""

    user: int
    item: str
    action: str


class View(NamedTuple):
    """A user saw the item of this rank in a pool's part of a feed, and may have acted on it after a while."""

    user: int
    pool: str
    action: str
    rank: int
    at_ms: int
    delay_ms: int | None


class Closed(NamedTuple):
    """A newcomer's decision closed, with S and E of a pool and an action."""

    user: int
    cohort: str
    pool: str
    action: str
    successes: int
    failures: int


Step = Reaction | View | Closed
NOW_MS = 400_000_000  # log time of the last record, in which every delay has passed
reactions = st.builds(
    Reaction,
    st.integers(0, 3),
    st.sampled_from([f"i{number}" for number in range(10)]),
    st.sampled_from(["like", "like", "like", "save", "hide", "rated"]),
)
pools = st.sampled_from(["popular", "similar", "fresh", "a pool of an older policy"])
actions = st.sampled_from(["like", "save", "hide", "an action of an older policy"])
delays = st.none() | st.integers(0, 80_000_000)
views = st.builds(View, st.integers(0, 3), pools, actions, st.integers(0, 4), st.integers(0, 300_000_000), delays)
cohorts = st.sampled_from(["", "new"])
closings = st.builds(Closed, st.integers(0, 3), cohorts, pools, actions, st.integers(0, 9), st.integers(0, 99))
record = st.lists(reactions | reactions | views | closings, max_size=3)
# Long lists are asked for by name: left alone, most populations would know a few items only.
records = st.lists(record, max_size=5) | st.lists(record, min_size=10, max_size=25)
policies = st.builds(
    lambda **settings: Policy(actions=ACTIONS, population=PopulationPolicy(**settings)),
    every_records=st.sampled_from([1, 3]),
    top_max=st.sampled_from([2, 6, 2000]),
    neighbours_max=st.sampled_from([1, 3, 200]),
    recent_likes=st.sampled_from([1, 3, 20]),
    recent_reactions=st.sampled_from([1, 3, 20]),
)


class Teacher:
    """Turns steps into lessons, with a history for each user."""

    def __init__(self) -> None:
        self._histories: dict[int, tuple[Reacted, ...]] = {}
        self._taught: dict[tuple[int, CohortCell], Tally] = {}

    def lesson(self, step: Step) -> Lesson:
        """What the population learns of a step."""
        if isinstance(step, View):
            followed = step.delay_ms is not None
            return ViewLesson((step.pool, step.action), step.rank, float(followed), 1.0, step.at_ms, step.delay_ms)
        if isinstance(step, Closed):
            cell = (step.cohort, step.pool, step.action)
            old = self._taught.get((step.user, cell), Tally())
            new = old.plus(float(step.successes), float(step.successes + step.failures))
            self._taught[step.user, cell] = new
            return PriorLesson(cell, old, new, new.exposure - old.exposure, 0)
        before = self._histories.get(step.user, ())
        entry = Reacted(len(before), f"e{len(before)}", step.item, step.action)
        self._histories[step.user] = (*before, entry)
        return ReactionLesson(step.item, step.action, before, entry.at_ms, len(before))


def growing(made_of: Sequence[list[Step]], policy: Policy) -> Iterable[Sums]:
    """The same sums, before the first record and after each."""
    sums, teacher = Sums(), Teacher()
    yield sums
    for number, steps in enumerate(made_of):
        at_ms = NOW_MS * (number + 1) // len(made_of)
        sums.absorb([teacher.lesson(step) for step in steps], at_ms, policy)
        yield sums


def summed(made_of: Sequence[list[Step]], policy: Policy) -> Sums:
    """The sums after these records."""
    return list(growing(made_of, policy))[-1]


def picture(population: Population) -> dict[str, Any]:
    """A copy of everything that a version says, with the types of its arrays; of what only grows, its part."""
    items = population.items[: population.size]
    seen = {name: copied(getattr(population, name)) for name in population.__struct_fields__}
    return {**seen, "items": items, "number_of": [population.number_of[item] for item in items]}


def copied(value: Any) -> Any:
    """Plain values, however deep."""
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.tolist()
    if isinstance(value, Mapping):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [copied(entry) for entry in value]
    return value


@given(records, policies)
def test_a_fit_that_builds_on_the_last_version_equals_one_from_nothing_at_every_record(
    made_of: list[list[Step]], policy: Policy
) -> None:
    previous = None
    for sums in growing(made_of, policy):
        previous = fit(sums, policy, previous)
        assert picture(previous) == picture(fit(sums, policy))


@given(records, policies, st.data())
def test_a_fit_may_build_on_any_earlier_version(
    made_of: list[list[Step]], policy: Policy, data: st.DataObject
) -> None:
    versions: list[Population] = []
    for sums in growing(made_of, policy):
        versions.append(fit(sums, policy, data.draw(st.sampled_from([None, *versions]))))
        assert picture(versions[-1]) == picture(fit(sums, policy))


@given(records, policies)
def test_a_version_never_changes_while_the_sums_go_on(made_of: list[list[Step]], policy: Policy) -> None:
    """The last two are in use at once; here all of them are kept."""
    kept: list[Population] = []
    pictures: list[dict[str, Any]] = []
    for sums in growing(made_of, policy):
        assert [picture(version) for version in kept] == pictures
        kept.append(fit(sums, policy, kept[-1] if kept else None))
        pictures.append(picture(kept[-1]))
    assert [picture(version) for version in kept] == pictures


@given(records, policies)
def test_a_version_counts_the_records_it_was_fitted_on(made_of: list[list[Step]], policy: Policy) -> None:
    for number, sums in enumerate(growing(made_of, policy)):
        population = fit(sums, policy)
        assert population.records == number
        every = policy.population.every_records
        boundaries = [at for at in range(1, number + 1) if at < every or at % every == 0]
        assert population.version == len(boundaries)


@given(records, policies)
def test_likes_lists_and_neighbours_equal_plain_counting(made_of: list[list[Step]], policy: Policy) -> None:
    settings = policy.population
    population = fit(summed(made_of, policy), policy)
    likes, pairs, order = plain_counts(made_of, settings.recent_likes)
    number_of = {item: number for number, item in enumerate(order)}
    assert population.items == order
    assert population.number_of == number_of
    assert population.likes.tolist() == [likes[item] for item in order]
    liked = sorted((item for item in order if likes[item]), key=lambda i: (-likes[i], number_of[i]))
    assert [order[number] for number in population.popular] == liked[: settings.top_max]
    assert [order[number] for number in population.fresh] == order[::-1][: settings.top_max]
    for item, neighbours in zip(order, population.neighbours, strict=True):
        together = Counter({other: pairs[item, other] for other in order if pairs[item, other]})
        ranked = sorted(together.items(), key=lambda entry: (-entry[1], number_of[entry[0]]))
        found = [(order[other], count) for other, count in zip(*neighbours, strict=True)]
        assert found == ranked[: settings.neighbours_max]


def plain_counts(
    made_of: list[list[Step]], recent_likes: int
) -> tuple[Counter[str], Counter[tuple[str, str]], list[str]]:
    """Likes of each item, how often each two were liked together, and items by first appearance."""
    likes: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    order: dict[str, None] = {}
    liked_by: dict[int, list[str]] = {}
    for step in (step for steps in made_of for step in steps):
        if not isinstance(step, Reaction):
            continue
        order[step.item] = None
        if step.action in LIKES:
            mine = liked_by.setdefault(step.user, [])
            for other in set(mine[-recent_likes:]) - {step.item}:
                pairs[step.item, other] += 1
                pairs[other, step.item] += 1
            mine.append(step.item)
            likes[step.item] += 1
    return likes, pairs, list(order)


@given(records, policies)
def test_what_is_near_and_what_follows_equal_plain_counting(made_of: list[list[Step]], policy: Policy) -> None:
    """The k-th reaction to another item before this one, at most 5 or `recent_reactions` before it."""
    population = fit(summed(made_of, policy), policy)
    near: Counter[tuple[str, str]] = Counter()
    after: Counter[tuple[str, str]] = Counter()
    done: dict[int, list[tuple[int, str]]] = {}
    for step in (step for steps in made_of for step in steps if isinstance(step, Reaction)):
        mine = done.setdefault(step.user, [])
        ages = {item: len(mine) - at_ms for at_ms, item in mine[-policy.population.recent_reactions :]}
        ages.pop(step.item, None)
        for lag, (other, age_ms) in enumerate(sorted(ages.items(), key=lambda entry: entry[1]), 1):
            units = round(UNITS / (1 + age_ms / NEAR_MS))
            near[step.item, other] += units
            near[other, step.item] += units
            if lag <= SUCCESSORS:
                after[other, step.item] += max(units // lag, 1)
        mine.append((len(mine), step.item))
    names, most = population.items, policy.population.neighbours_max
    for counted, lists in ((near, population.near), (after, population.successors)):
        for number, item in enumerate(names):
            row = [(other, counted[item, other]) for other in names if counted[item, other]]
            expected = sorted(row, key=lambda entry: (-entry[1], names.index(entry[0])))[:most]
            assert [(names[other], count) for other, count in zip(*lists[number], strict=True)] == expected
    followed = [sum(count for (one, _), count in after.items() if one == item) / UNITS for item in names]
    assert population.statistics.followed.tolist() == followed
    reactions = Counter(step.item for steps in made_of for step in steps if isinstance(step, Reaction))
    assert population.statistics.reactions.tolist() == [reactions[item] for item in names]


@given(records, st.data())
def test_the_order_in_which_users_come_changes_no_evidence_no_likes_no_pairs_and_no_fit(
    made_of: list[list[Step]], data: st.DataObject
) -> None:
    """Each user's own steps stay in their order: what a user did before is part of the lesson."""
    policy = Policy(actions=ACTIONS, memory=MemoryPolicy(cohort_half_life_ms=10**18))
    steps = [step for steps in made_of for step in steps]
    turns = data.draw(st.permutations([step.user for step in steps]))
    own = {user: iter([step for step in steps if step.user == user]) for user in set(turns)}
    one, other = summed(made_of, policy), summed([[next(own[user])] for user in turns], policy)
    fits = [fit(sums, policy) for sums in (one, other)]
    assert by_name(fits[0]) == by_name(fits[1])
    assert fits[0].strengths == pytest.approx(fits[1].strengths, rel=1e-9)
    fading = [dict(zip(population.items, population.statistics.fading.T, strict=True)) for population in fits]
    for item, column in fading[0].items():
        assert column.tolist() == pytest.approx(fading[1][item].tolist(), rel=1e-9)


def by_name(population: Population) -> list[Any]:
    """Counts and lists under the items' names, whose numbers depend on who came first, and what was fitted."""
    name, known = population.items, picture(population)
    reactions, followed, *_ = population.statistics
    counts = {
        name[number]: row for number, row in enumerate(zip(population.likes, reactions, followed, strict=True))
    }
    relations = [
        {
            name[number]: {name[item]: count for item, count in zip(*map(np.ndarray.tolist, entry), strict=True)}
            for number, entry in enumerate(lists)
        }
        for lists in (population.neighbours, population.near, population.successors)
    ]
    of_items = (
        "version",
        "records",
        "at_ms",
        "strengths",
        "items",
        "number_of",
        "likes",
        "popular",
        "fresh",
        "neighbours",
        "near",
        "successors",
        "statistics",
    )
    return [counts, relations, {key: value for key, value in known.items() if key not in of_items}]


@given(records, policies)
def test_lists_are_no_longer_than_the_policy_says(made_of: list[list[Step]], policy: Policy) -> None:
    population = fit(summed(made_of, policy), policy)
    assert max(population.popular.size, population.fresh.size) <= policy.population.top_max
    assert all(entry.items.size <= policy.population.neighbours_max for entry in population.neighbours)


def test_long_lists_are_cut_at_the_policys_lengths() -> None:
    settings = PopulationPolicy(top_max=3, neighbours_max=2)
    policy = Policy(population=settings)
    population = fit(summed([[Reaction(0, f"i{number}", "like")] for number in range(8)], policy), policy)
    assert population.popular.tolist() == [0, 1, 2]
    assert population.fresh.tolist() == [7, 6, 5]
    assert [entry.items.tolist() for entry in population.neighbours[:3]] == [[1, 2], [0, 2], [0, 1]]
