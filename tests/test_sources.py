"""What features are made of, by item: each column against plain loops over the version's own lists."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pools import LIKED, Reaction, history_of, population_of, reactions

from engine import feature_kernels as kernels
from engine.facts import Facts
from engine.feature_kernels import join_listed, join_tops, placed_first
from engine.item_tallies import DAMPED
from engine.personal import (
    DISLIKED,
    LIKED_MAX,
    NEAR_LEAST,
    NEAR_PROFILE_MS,
    SOURCES_MAX,
    Past,
    raw_of,
)
from engine.state import UserState
from engine.visitor import past_of


def listed(past: Past, facts: Facts) -> dict[int, dict[int, float]]:
    """The four columns that are sums over lists, as column -> item -> score."""
    population, statistics = facts.population, facts.population.statistics
    items, ages, liked = past.items.tolist(), past.age_ms.tolist(), past.liked.tolist()
    damping = [max(count, 1.0) ** DAMPED for count in statistics.reactions.tolist()]
    found: dict[int, dict[int, float]] = {
        column: {} for column in (kernels.NEAR, kernels.LAST_NEAR, kernels.TOGETHER, kernels.SUCCESSOR)
    }

    def add(column: int, lists: list, source: int, weight: float, divisors: list[float]) -> None:
        for item, count in zip(*map(np.ndarray.tolist, lists[source]), strict=True):
            found[column][item] = found[column].get(item, 0.0) + weight * count / divisors[item]

    for item, age, like in list(zip(items, ages, liked, strict=True))[:SOURCES_MAX]:
        weight = (1 / (1 + age / NEAR_PROFILE_MS) + NEAR_LEAST) * (1.0 if like else DISLIKED)
        add(kernels.NEAR, population.near, item, weight / max(statistics.reactions[item], 1.0) ** 0.5, damping)
    for item in items[:1]:
        add(kernels.LAST_NEAR, population.near, item, 1.0, damping)
    roots = [max(count, 1) ** 0.5 for count in population.likes.tolist()]
    for item in [item for item, like in zip(items, liked, strict=True) if like][:LIKED_MAX]:
        add(kernels.TOGETHER, population.neighbours, item, 1 / roots[item], roots)
    for place, item in enumerate(items[:5]):
        weight = 1 / (place + 1) / (statistics.followed[item] + 1) ** 0.5
        add(kernels.SUCCESSOR, population.successors, item, weight, damping)
    return found


@settings(max_examples=50)
@given(reactions, st.sampled_from("AE"), st.integers(0, 10**7))
def test_columns_are_what_plain_sums_over_the_lists_say(done: list[Reaction], user: str, later_ms: int) -> None:
    facts = Facts(LIKED, population_of(done, LIKED))
    past = past_of(UserState(history=history_of(user, done)), facts, len(done) + later_ms)
    columns = raw_of(past, [], facts).columns
    for column, scores in listed(past, facts).items():
        plain = np.zeros(facts.population.size)
        for item, score in scores.items():
            plain[item] = score
        np.testing.assert_allclose(columns[column], plain, rtol=1e-9, err_msg=str(column))
    assert np.array_equal(columns[kernels.LIKES], facts.population.likes)
    assert not columns[[kernels.EMBEDDING, kernels.RECENT_EMBEDDING, kernels.FACTOR]].any()  # none were trained


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=9, max_size=9), min_size=1, max_size=4),
    st.sets(st.integers(0, 8)),
    st.lists(st.integers(0, 11), max_size=6, unique=True),
    st.integers(1, 4),
)
def test_a_union_is_the_best_of_each_column_and_then_what_is_listed(
    columns: list[list[float]], excluded: set[int], extra: list[int], most: int
) -> None:
    """Items from 9 on are strangers, which only lists have."""
    barred, union = np.zeros(12, np.uint8), np.empty(len(columns) * most + len(extra), np.int64)
    barred[sorted(excluded)] = 1
    each = np.full(len(columns), most)
    filled = join_tops(np.array(columns), np.arange(len(columns)), each, barred, union)
    allowed = [item for item in extra if item not in excluded]
    filled = join_listed(np.array(allowed, np.int32), barred, union, filled)
    expected: dict[int, None] = {}
    for column in columns:
        some = [item for item in range(9) if column[item] > 0 and item not in excluded]
        expected |= dict.fromkeys(sorted(some, key=lambda item: (-column[item], item))[:most])
    expected |= dict.fromkeys(allowed)
    assert union[:filled].tolist() == list(expected)


@given(
    st.lists(st.integers(0, 20), max_size=12, unique=True),
    st.lists(st.integers(0, 20), max_size=6, unique=True),
    st.integers(1, 8),
)
def test_what_was_shown_is_remembered_before_the_best_others(items: list[int], shown: list[int], most: int) -> None:
    places, count = placed_first(np.array(items, np.int64), np.array(shown, np.int32), most)
    first = [place for place, item in enumerate(items) if item in shown]
    others = [place for place, item in enumerate(items) if item not in shown]
    assert count == len(first)
    assert places.tolist() == first + others[: max(most - count, 0)]
