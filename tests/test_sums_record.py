"""Sums as data: nothing is lost on the way, and how users were spread over partitions does not matter."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from blending.delay import prior_delay
from engine.facts import Facts
from engine.item_tallies import HALF_LIVES_MS
from engine.learning import bytes_of
from engine.policy import ActionPolicy, Policy, PopulationPolicy
from engine.pool_policy import PoolPolicy
from engine.population import Population, Sums, fit
from engine.population_record import PopulationRecord, population_of
from engine.population_record import record_of as population_record
from engine.population_record import shortlisted as population_shortlisted
from engine.state import PriorLesson, Reacted, ReactionLesson, ShadowLesson, Tally, ViewLesson, WeightLesson
from engine.sums_record import RELATIONS, RanksRecord, SumsRecord, merged, record_of, shortened, shortlisted
from streams.sizes import fitting

SHORT = PopulationPolicy(recent_likes=2, recent_reactions=3)
POLICY = Policy(
    actions={"like": ActionPolicy(1.0), "hide": ActionPolicy(-1.0), "rated": ActionPolicy(0.0)}, population=SHORT
)
WINDOW_MS = POLICY.memory.window_ms
HALF_LIFE_MS = POLICY.memory.cohort_half_life_ms
NOW_MS = 3 * HALF_LIFE_MS
pools = st.sampled_from(list(POLICY.pools))
items = st.sampled_from([f"i{number}" for number in range(6)])

views = st.builds(
    lambda pool, rank, at_ms, delay_ms: ViewLesson((pool, "like"), rank, 1.0, 1.0, at_ms, delay_ms),
    pools,
    st.integers(0, 4),
    st.integers(NOW_MS - 2 * WINDOW_MS, NOW_MS),
    st.none() | st.integers(0, WINDOW_MS),
)
priors = st.builds(
    lambda cohort, pool, before, s, at_ms: PriorLesson(
        (cohort, pool, "like"),
        Tally(0.3 * before, before),
        Tally(0.3 * before + s, before + 2.0 * s),
        1.5 * s,
        at_ms,
    ),
    st.sampled_from(["", "new", "de"]),
    pools,
    st.floats(0, 50),
    st.integers(0, 9),
    st.integers(0, NOW_MS),
)
actions = st.sampled_from(list(POLICY.actions))
reactions = st.builds(
    lambda item, action, before, earlier: ReactionLesson(
        item,
        action,
        tuple(Reacted(NOW_MS - at_ms, f"{at_ms}", b, done) for at_ms, b, done in sorted(before, reverse=True)),
        NOW_MS,
        len(before) + earlier,
    ),
    items,
    actions,
    st.lists(st.tuples(st.integers(0, 2 * WINDOW_MS), items, actions), max_size=8),
    st.integers(0, 2),
)
features = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, -0.5, 1.0]), min_size=3, max_size=3), min_size=1, max_size=4
)
weights = st.builds(
    lambda kind, rows, chosen, at_ms: WeightLesson(
        kind,
        "here",
        bytes_of(np.array(rows if kind == "choice" else rows[:1])),
        tuple(0.1 * sum(row) for row in (rows if kind == "choice" else rows[:1])),
        chosen % len(rows) if kind == "choice" else 0,
        1.0 if kind == "choice" else 0.1,
        at_ms,
    ),
    st.sampled_from(["choice", "seen", "liked"]),
    features,
    st.integers(0, 11),
    st.integers(0, NOW_MS),
)
shadows = st.builds(  # of decisions that knew of none before, so that all sums are exact
    lambda pool, seen, won, weight: ShadowLesson(
        "de", ("like",), (pool,), (0,), (pool,) * seen, ((pool,) * won,), weight * seen
    ),
    pools,
    st.integers(0, 1),
    st.integers(0, 1),
    st.sampled_from([1.0, 0.5]),
)
lessons = st.lists(st.tuples(st.integers(0, 3), views | priors | shadows | reactions | weights), max_size=40)


def picture(population: Population) -> PopulationRecord:
    return population_record(population)


def summed(taught: list, partitions: int) -> list[Sums]:
    """The lessons, spread over partitions by their user."""
    parts = [Sums() for _ in range(partitions)]
    for at_ms, (user, lesson) in enumerate(taught, NOW_MS):
        parts[user % partitions].absorb([lesson], at_ms, POLICY)
    return parts


def sent(sums: Sums, partition: int) -> SumsRecord:
    """The record of a partition, as it comes out of a topic."""
    record = record_of(sums, partition, 0, 7, POLICY)
    return msgspec.json.decode(msgspec.json.encode(record), type=SumsRecord)


def assert_near(one: PopulationRecord, other: PopulationRecord) -> None:
    """The same S, E, strengths, fading counts and weights to 1e-9, whatever was added first."""
    assert [cell for cell, _ in one.newcomers] == [cell for cell, _ in other.newcomers]
    for (_, mine), (_, theirs) in zip(one.newcomers, other.newcomers, strict=True):
        assert astuple(mine) == pytest.approx(astuple(theirs), rel=1e-9, abs=0.0)
    assert dict(one.strengths) == pytest.approx(dict(other.strengths), rel=1e-9, abs=0.0)
    for mine, theirs in zip(one.statistics.fading, other.statistics.fading, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=0.0)
    if one.weights is None or other.weights is None:
        assert one.weights is other.weights
        return
    assert (one.weights.layout, one.weights.likes) == (other.weights.layout, pytest.approx(other.weights.likes))
    assert one.weights.mean == pytest.approx(other.weights.mean, rel=1e-9, abs=1e-9)
    assert one.weights.precision == pytest.approx(other.weights.precision, rel=1e-9, abs=1e-9)


def exact(record: PopulationRecord) -> PopulationRecord:
    """The same without what depends on the order of additions: what is left comes of whole numbers."""
    statistics = replace(record.statistics, fading=[[0.0] * len(record.items)] * len(HALF_LIVES_MS))
    return replace(record, newcomers=[], strengths=[], weights=None, statistics=statistics)


@given(lessons)
def test_the_same_users_teach_the_same_population_over_one_two_or_four_partitions(taught) -> None:
    pictures = []
    for partitions in (1, 2, 4):
        parts = summed(taught, partitions)
        records = [sent(sums, number) for number, sums in enumerate(parts)]
        pictures.append(picture(fit(merged(records[::-1]), POLICY)))
    for other in pictures[1:]:
        assert exact(other) == exact(pictures[0])
        assert_near(other, pictures[0])


@given(lessons, lessons)
def test_sums_that_were_written_and_read_go_on_as_if_they_had_not_been(taught, later) -> None:
    straight = summed(taught + later, 1)[0]
    again = merged([sent(summed(taught, 1)[0], 0)])
    for at_ms, (_, lesson) in enumerate(later, NOW_MS + len(taught)):
        again.absorb([lesson], at_ms, POLICY)
    assert picture(fit(merged([sent(again, 0)]), POLICY)) == picture(fit(merged([sent(straight, 0)]), POLICY))


@given(lessons)
def test_a_shortened_lesson_teaches_the_same(taught) -> None:
    short = [(user, shortened(lesson, POLICY)) for user, lesson in taught]
    one, other = (sent(summed(version, 1)[0], 0) for version in (taught, short))
    assert one == other


PAST = [("like", "a"), ("hide", "b"), ("like", "c"), ("like", "d"), ("rated", "e"), ("hide", "f"), ("rated", "g")]


@pytest.mark.parametrize(
    ("action", "latest", "likes", "kept"),
    [
        ("like", 3, 2, "cdefg"),
        ("like", 3, 9, "acdefg"),
        ("like", 9, 1, "abcdefg"),
        ("like", 5, 1, "cdefg"),
        ("rated", 3, 2, "efg"),
    ],
)
def test_a_short_past_is_the_latest_reactions_and_for_a_like_the_latest_likes(action, latest, likes, kept) -> None:
    policy = replace(POLICY, population=PopulationPolicy(recent_likes=likes, recent_reactions=latest))
    before = tuple(Reacted(number, item, item, done) for number, (done, item) in enumerate(PAST))
    short = shortened(ReactionLesson("x", action, before, 9, 42), policy)
    assert isinstance(short, ReactionLesson)
    assert "".join(entry.item for entry in short.before) == kept
    assert (short.item, short.action, short.at_ms, short.earlier) == ("x", action, 9, 42)


@given(lessons)
def test_a_population_survives_the_way_through_a_topic(taught) -> None:
    population = fit(summed(taught, 1)[0], POLICY)
    data = msgspec.json.encode(picture(population))
    again = population_of(msgspec.json.decode(data, type=PopulationRecord))
    assert picture(again) == picture(population)
    assert again.number("i0") == population.number("i0")


def test_a_population_of_another_policy_says_nothing_of_pools_that_are_new() -> None:
    other = replace(POLICY, pools={"elsewhere": PoolPolicy("external"), "popular": PoolPolicy("popular")})
    taught = [(0, ViewLesson(("popular", "like"), 0, 1.0, 1.0, NOW_MS, 9_000)) for _ in range(9)]
    population = population_of(picture(fit(summed(taught, 1)[0], POLICY)))
    delays = Facts(other, population).delays
    assert delays["elsewhere", "like"] == prior_delay(other.memory.window_ms)
    assert delays["popular", "like"] == population.delays["popular", "like"] != delays["elsewhere", "like"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("popular", [3]),
        ("neighbours", []),
        ("near", [[[1], [2]]]),
        ("successors", [[[0], []]]),
        ("statistics", {"reactions": [1.0], "followed": [], "fading": [[0.0]] * 4}),
        ("statistics", {"reactions": [1.0], "followed": [0.0], "fading": [[0.0]] * 3}),
        ("weights", {"layout": "", "likes": 0.0, "mean": [0.0, 0.0], "precision": [1.0]}),
        ("schema", 9),
        ("delays", [[["a", "like"]]]),
        ("fresh", [-1]),
    ],
)
def test_a_population_that_does_not_fit_together_is_refused(field: str, value: object) -> None:
    document = msgspec.json.decode(msgspec.json.encode(picture(fit(Sums(), POLICY))))
    document |= {"items": ["x"], "likes": [1]} | {name: [[[], []]] for name in ("neighbours", "near", "successors")}
    document["statistics"] = {"reactions": [1.0], "followed": [0.0], "fading": [[0.0]] * 4}
    msgspec.json.decode(msgspec.json.encode(document), type=PopulationRecord)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(document | {field: value}), type=PopulationRecord)


@given(lessons, st.integers(1, 3))
def test_a_population_with_short_lists_is_one_of_a_policy_that_keeps_no_longer_ones(taught, most) -> None:
    sums = summed(taught, 1)[0]
    shorter = replace(POLICY, population=replace(SHORT, neighbours_max=most))
    assert population_shortlisted(picture(fit(sums, POLICY)), most) == picture(fit(sums, shorter))


@pytest.mark.parametrize(("bytes_max", "tried"), [(62, [12]), (61, [12, 6]), (37, [12, 6, 3]), (5, [12, 6, 3, 1])])
def test_lists_are_halved_until_the_record_fits_into_a_message(bytes_max: int, tried: list[int]) -> None:
    """With 12, 6, 3 and 1 numbers it has 62, 38, 26 and 18 bytes; with one it is sent in any case."""
    lengths: list[int] = []

    def of_length(most: int) -> RanksRecord:
        lengths.append(most)
        return RanksRecord(("", ""), [0.0] * most, [])

    value = fitting(of_length, 12, bytes_max)
    assert lengths == tried
    assert value == msgspec.json.encode(of_length(tried[-1]))


@given(lessons)
def test_a_short_list_holds_the_most_frequent_pairs_of_each_item(taught) -> None:
    record = sent(summed(taught, 1)[0], 0)
    short = shortlisted(record, 2)
    for relation in RELATIONS:
        flat = getattr(record, relation)
        rows = {item: [p for p in zip(*[iter(flat)] * 3, strict=True) if p[0] == item] for item in flat[::3]}
        kept = [pair for item in dict.fromkeys(flat[::3]) for pair in rows[item][:2]]
        assert getattr(short, relation) == [number for pair in kept for number in pair]
    assert shortlisted(record, 1000) == record
