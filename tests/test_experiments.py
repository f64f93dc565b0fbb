"""Experiments: who is in which arm, what an arm may set, and that a feed in it is what its policy would make."""

from typing import Any

import numpy as np
import pytest
from chance import assert_counts
from msgspec.structs import replace
from scipy.stats import chi2_contingency

from engine.decision import Decision, difference
from engine.events import Organic, Request, Seen
from engine.experiments import BUCKETS, COMBINATIONS_MAX, ArmPolicy, ExperimentPolicy, arms_of, bucket_of
from engine.facts import Facts
from engine.fold import fold
from engine.policy import ActionPolicy, BlendPolicy, Policy, WeightsPolicy
from engine.pool_policy import PoolPolicy
from engine.pools import gather
from engine.propensities import propensities
from engine.rules import CapRule
from engine.serve import serve
from engine.state import UserState
from streams.codec import decode, encode
from streams.embedded import EmbeddedRunner

FIRST_BUCKETS = [736, 84, 471, 20]  # of user-0 and so on in the layer `blend`
FIRST_ARMS = "-cac-ccacb-ccc-c--ca"  # - is none
P_MIN = 1e-7  # of each chi-square test below: its chance of a false alarm
ACTIONS = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-0.5)}
PLAIN = Policy(actions=ACTIONS, weights=WeightsPolicy(ready_likes=0))


def experiment(*shares: float, **about: Any) -> ExperimentPolicy:
    """An experiment of arms named a, b and so on, which set nothing."""
    return ExperimentPolicy(
        {name: ArmPolicy(share) for name, share in zip("abcdef", shares, strict=False)}, **about
    )


def setting(**set: Any) -> ExperimentPolicy:  # noqa: A002  the key's own name
    """An experiment of a control and an arm that sets this; a key's dots are written as __."""
    return ExperimentPolicy(
        {"control": ArmPolicy(), "other": ArmPolicy(set={key.replace("__", "."): set[key] for key in set})}
    )


def users_in(policy: Policy, **arms: str) -> list[str]:
    """Some users who are in these arms."""
    found = (f"user-{number}" for number in range(1000))
    return [user for user in found if arms_of(policy.experiments, user) == arms][:8]


# Who is in which arm


def test_two_layers_are_independent_and_each_has_its_shares() -> None:
    """Chi-square over 100,000 users; those in none are a column too."""
    experiments = {
        "one": experiment(1.0, 2.0, layer="first", buckets=(0, 600)),
        "two": experiment(1.0, 1.0, layer="second", buckets=(100, 900)),
        "three": experiment(3.0, 1.0, layer="second", buckets=(900, 1000)),
    }
    found = [arms_of(experiments, f"user-{number}") for number in range(100_000)]
    rows = ["", "one a", "one b"]
    columns = ["", "two a", "two b", "three a", "three b"]
    table = np.zeros((len(rows), len(columns)), np.int64)
    for arms in found:
        names = [f"{name} {arm}" for name, arm in arms.items()]
        row = next((name for name in names if name in rows), "")
        table[rows.index(row), columns.index(next((name for name in names if name in columns), ""))] += 1
    assert chi2_contingency(table).pvalue > P_MIN
    assert_counts(table.sum(axis=1), 100_000, [0.4, 0.2, 0.4])
    assert_counts(table.sum(axis=0), 100_000, [0.1, 0.4, 0.4, 0.075, 0.025])


def test_an_arm_says_nothing_of_a_users_place_in_the_layer() -> None:
    """So that an experiment that takes over some of its buckets finds the former arms evenly among them."""
    one, table = experiment(1.0, 1.0), np.zeros((10, 2), np.int64)
    for number in range(50_000):
        user = f"user-{number}"
        table[bucket_of("one", user) * 10 // BUCKETS, "ab".index(one.drawn("one", user))] += 1
    assert chi2_contingency(table).pvalue > P_MIN
    assert_counts(table.ravel(), 50_000, np.full(20, 0.05))


def test_assignments_are_those_of_the_first_release() -> None:
    """Hashes must never change: users would change their arms in the middle of an experiment."""
    experiments = {"ratio": experiment(1.0, 1.0, 2.0, layer="blend", buckets=(0, 700))}
    assert [bucket_of("blend", f"user-{number}") for number in range(4)] == FIRST_BUCKETS
    assert [arms_of(experiments, f"user-{number}").get("ratio", "-") for number in range(20)] == list(FIRST_ARMS)


def test_other_experiments_layers_and_more_buckets_change_nobodys_arm() -> None:
    users = [f"user-{number}" for number in range(500)]
    one = experiment(1.0, 2.0, layer="first", buckets=(0, 300))
    before = {user: arms_of({"one": one}, user).get("one") for user in users}
    wider = replace(one, buckets=(0, 800))
    others = {
        "zero": experiment(1.0, 1.0),
        "one": wider,
        "two": experiment(1.0, 1.0, layer="first", buckets=(800, 900)),
    }
    after = {user: arms_of(others, user).get("one") for user in users}
    kept = [user for user in users if before[user] is not None]
    assert kept
    assert [user for user in kept if after[user] != before[user]] == []
    assert sum(arm is not None for arm in after.values()) > len(kept)


def test_experiments_of_one_layer_share_no_user() -> None:
    experiments = {
        "one": experiment(1.0, 1.0, layer="l", buckets=(0, 500)),
        "two": experiment(1.0, 1.0, layer="l", buckets=(500, 1000)),
    }
    found = [arms_of(experiments, f"user-{number}") for number in range(2000)]
    assert {tuple(arms) for arms in found} == {("one",), ("two",)}


def test_whoever_tries_an_arm_is_in_it_and_in_no_other_experiment_of_its_layer_by_hash() -> None:
    experiments = {
        "one": experiment(1.0, 1.0, layer="l", buckets=(0, 1000)),
        "two": experiment(1.0, 1.0, layer="l", buckets=(0, 0), users={"me": "b"}),
    }
    assert arms_of(experiments, "me") == {"two": "b"}
    assert list(arms_of(experiments, "you")) == ["one"]


def test_users_of_an_arm_that_is_alone_are_in_no_other_experiment_unless_they_try_it() -> None:
    arms = {"held": ArmPolicy(0.2, alone=True), "live": ArmPolicy(0.8)}
    experiments = {
        "one": experiment(1.0, 1.0, users={"me": "a"}),
        "holdout": ExperimentPolicy(arms, users={"me": "held"}),
        "two": experiment(1.0, 3.0),
    }
    found = [arms_of(experiments, f"user-{number}") for number in range(20_000)]
    held = [arms for arms in found if arms["holdout"] == "held"]
    assert {tuple(arms) for arms in held} == {("holdout",)}
    rest = [arms for arms in found if arms["holdout"] == "live"]
    assert {tuple(arms) for arms in rest} == {("one", "holdout", "two")}
    assert_counts([len(held)], 20_000, [0.2])
    assert_counts([sum(arms["two"] == "b" for arms in rest)], len(rest), [0.75])
    assert arms_of(experiments, "me") == {"one": "a", "holdout": "held"}


# What an arm may set


@pytest.mark.parametrize(
    "path",
    [
        "blend.seed",
        "blend.cohorts",
        "blend.shadow",
        "blend.base_successes",
        "blend.newcomer_slots",
        "blend.delta_one_chance",
        "blend.sede",
        "blend",
        "draw",
        "pools.fresh.kind",
        "pools.floor",
        "memory.window_ms",
        "population.top_max",
        "weights.strength",
        "weights.without",
        "embeddings.dimensions",
        "experiments.x.layer",
        "blend.fresh.draw",
    ],
)
def test_what_is_learned_across_users_is_no_arms_to_set(path: str) -> None:
    with pytest.raises(
        ValueError, match=f"an arm cannot set '{path}', only what is decided for each feed: .*blend.dr"
    ):
        ArmPolicy(set={path: 1})


@pytest.mark.parametrize(
    ("experiments", "says"),
    [
        ({"x": setting(pools__cold__floor=0.1)}, r"experiments.x.arms.other: there is no pools.cold"),
        ({"x": setting(blend__draw="often")}, r"experiments.x.arms.other: Invalid enum value 'often'"),
        ({"x": setting(blend__epsilon=1.5)}, r"experiments.x.arms.other: epsilon must be from 0 to 1"),
        ({"x": setting(blend__epsilon="much")}, r"experiments.x.arms.other: Expected `float`, got `str`"),
        ({"x": setting(pools__fresh__floor=0.9)}, r"experiments.x.arms.other: the floors of all pools"),
        ({"x": setting(blend__draw="slot", blend__order="rounded")}, r'draw must not be "slot"'),
        ({"x": setting(actions__like__reward=-1.0)}, r"reward above 0"),
        ({"x": setting(actions__hide__reward=1.0)}, r"a reward keeps its sign"),
        (
            {"x": setting(pools__fresh__floor=0.5), "y": setting(pools__popular__floor=0.5)},
            r"experiments.x.arms.other with experiments.y.arms.other: the floors of all pools add up to 1.1",
        ),
        (
            {"x": setting(blend__draw="mean"), "y": setting(blend__draw="fixed")},
            r"experiments x and y both set 'blend.draw', and users can be in both: give them one layer",
        ),
        (
            {"x": experiment(1, 1, layer="l", buckets=(0, 51)), "y": experiment(1, 1, layer="l", buckets=(50, 99))},
            r"experiments x and y share buckets of their layer",
        ),
        (
            {
                "x": experiment(1, 1, layer="l", buckets=(0, 9), users={"me": "a"}),
                "y": experiment(1, 1, layer="l", buckets=(9, 99), users={"me": "a"}),
            },
            r"user 'me' tries experiments x and y",
        ),
        (
            {name: ExperimentPolicy({"a": ArmPolicy(alone=True), "b": ArmPolicy()}) for name in "xy"},
            r"one experiment at most has an arm that is alone, not x and y",
        ),
        ({"X": experiment(1, 1)}, r"'X': a name is"),
        ({f"x{number}": experiment(1, 1) for number in range(33)}, r"experiments must hold at most 32, not 33"),
        (
            {f"x{number}": setting(**{f"pools__{pool}__{key}": 0}) for number, (pool, key) in enumerate(
                (pool, key) for pool in PLAIN.pools for key in ("priority", "required", "floor_views")
            )},
            rf"their arms make 4096 policies together, at most {COMBINATIONS_MAX}",
        ),
    ],
)  # fmt: skip
def test_experiments_that_could_fail_a_request_are_refused_with_their_names(
    experiments: dict[str, ExperimentPolicy], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        replace(PLAIN, experiments=experiments)


def test_returns_are_fitted_in_an_arm_only_where_they_are_for_everybody() -> None:
    with pytest.raises(ValueError, match="only where it is so for everybody"):
        replace(PLAIN, blend=BlendPolicy(returns="winner"), experiments={"x": setting(blend__returns="fitted")})


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"arms": {"a": ArmPolicy()}}, "2 to 16 names, not 1"),
        ({"arms": {"a": ArmPolicy(), "B": ArmPolicy()}}, "'B': a name is"),
        ({"buckets": (2, 1)}, "two numbers from 0 to 1000"),
        ({"buckets": (0, 1001)}, "two numbers from 0 to 1000"),
        ({"users": {"me": "z"}}, "'me' is given the arm 'z'"),
        ({"users": {"": "a"}}, "1 to 256 characters"),
        ({"layer": "two words"}, "'two words': a name is"),
    ],
)
def test_an_experiment_that_is_none_is_refused(about: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ExperimentPolicy(**{"arms": {"a": ArmPolicy(), "b": ArmPolicy()}, **about})


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_an_arm_without_a_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share must be above 0"):
        ArmPolicy(share)


# What a feed in an arm is


@pytest.fixture(scope="module")
def lived() -> EmbeddedRunner:
    """A runner after some reactions, and after a feed of two users."""
    runner = EmbeddedRunner(PLAIN)
    for number in range(300):
        event = Organic(
            event_id=f"{number}", user=f"user-{number % 40}", item=f"i{number * number % 83}", action="like"
        )
        runner.react(event, number)
    for user in ("user-1", "user-2"):
        request = Request(request_id="before", user=user, slots=6)
        decision = runner.serve(request, runner.gather(request, 400), 400)
        for slot, item in enumerate(decision.slot_items):
            about = {"user": user, "request_id": "before", "slot": slot, "item": item}
            runner.react(Seen(event_id=f"s{slot}", **about), 500 + slot)
    return runner


def served(runner: EmbeddedRunner, policy: Policy, user: str) -> list[Decision]:
    """Two pages of a feed of a user, by this policy and all that the runner has learned."""
    facts = replace(runner.facts, policy=policy)
    state: UserState = runner.state(user)
    pages = []
    for request_id, before in (("monday", None), ("tuesday", "monday")):
        request = Request(request_id=request_id, user=user, slots=8, continues=before)
        decision = serve(state, request, gather(state, request, facts, 1000), 1000)
        state = fold(state, decision, 1000, policy.memory).state
        pages.append(decision)
    return pages


SETTINGS: dict[str, tuple[dict[str, Any], Policy]] = {
    "fixed ratios": ({"blend.draw": "fixed"}, replace(PLAIN, blend=BlendPolicy(draw="fixed"))),
    "exploration": (
        {"blend.epsilon": 1.0, "blend.epsilon_known": 1},
        replace(PLAIN, blend=BlendPolicy(epsilon=1.0, epsilon_known=1.0)),
    ),
    "a draw for each slot": (
        {"blend.draw": "slot", "blend.temperature": 2, "blend.returns": "webster", "blend.prior_strength": 30.0},
        replace(PLAIN, blend=BlendPolicy(draw="slot", temperature=2.0, returns="webster", prior_strength=30.0)),
    ),
    "guarantees": (
        {"pools.fresh.floor": 0.25, "pools.fresh.floor_views": 90, "pools.popular.pinned": [1, 9]},
        replace(
            PLAIN,
            pools={
                **PLAIN.pools,
                "fresh": PoolPolicy("fresh", floor=0.25, floor_views=90.0),
                "popular": PoolPolicy("popular", floor=0.1, pinned=(1, 9)),
            },
        ),
    ),
    "rewards": (
        {"actions.like.reward": 3.0, "actions.hide.reward": -2.0},
        replace(PLAIN, actions={"like": ActionPolicy(3.0), "hide": ActionPolicy(-2.0)}),
    ),
    "the personal pool": (
        {"weights.temperature": 1.0, "weights.own": False, "weights.depth": 4},
        replace(PLAIN, weights=WeightsPolicy(ready_likes=0, temperature=1.0, own=False, depth=4)),
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_feed_in_an_arm_is_to_the_bit_what_a_policy_of_its_own_would_make(
    case: str, lived: EmbeddedRunner
) -> None:
    """And what a user of the control gets is what the policy without experiments makes."""
    changes, same = SETTINGS[case]
    policy = replace(
        PLAIN, experiments={"x": setting(**{key.replace(".", "__"): of for key, of in changes.items()})}
    )
    differ = 0
    for arm, plain in (("control", PLAIN), ("other", same)):
        for user in users_in(policy, x=arm):
            pages = served(lived, policy, user)
            assert [page.arms for page in pages] == [{"x": arm}] * 2
            assert {page.policy_version for page in pages} == {policy.version}
            without = {"policy_version": plain.version, "arms": served(lived, plain, user)[0].arms}
            assert [replace(page, **without) for page in pages] == served(lived, plain, user)
            assert pages[1].start == 8
            assert [difference(page) for page in pages] == [None, None]
            assert decode(encode(pages[0])) == pages[0]
            items = [[page.slot_items for page in made] for made in (pages, served(lived, PLAIN, user))]
            differ += arm == "other" and items[0] != items[1]
    assert differ > 0


def test_where_all_feeds_are_mixed_at_random_propensities_say_so(lived: EmbeddedRunner) -> None:
    policy = SETTINGS["exploration"][1]
    for user in ("user-1", "user-3"):
        for page in served(lived, policy, user):
            assert page.explored
            found = propensities(page)
            assert np.isfinite(found.chances).all()
            assert np.all(found.chances.sum(axis=1) == pytest.approx(1.0))
            if not page.start:
                assert found.chances[0] == pytest.approx(0.25)


def test_a_decision_without_experiments_has_no_arms_in_its_bytes(lived: EmbeddedRunner) -> None:
    assert b'"arms"' not in encode(served(lived, PLAIN, "user-1")[0])
    beside = replace(PLAIN, experiments={"x": experiment(1.0, 1.0, buckets=(0, 0))})
    assert b'"arms"' not in encode(served(lived, beside, "user-1")[0])


def test_arms_of_two_layers_hold_at_once(lived: EmbeddedRunner) -> None:
    policy = replace(PLAIN, experiments={"x": setting(blend__draw="fixed"), "y": setting(pools__fresh__ratio=9.0)})
    (user, *_) = users_in(policy, x="other", y="other")
    facts = Facts(policy, lived.facts.population)
    under = facts.under({"x": "other", "y": "other"}).policy
    assert (under.blend.draw, under.pools["fresh"].ratio, under.version) == ("fixed", 9.0, policy.version)
    pools = served(lived, policy, user)[0].pools
    assert {part.pool: part.fallback for part in pools}["fresh"] == 9.0


def test_the_facts_under_arms_are_made_once_and_share_their_tables() -> None:
    policy = replace(PLAIN, experiments={"x": setting(blend__draw="fixed")})
    facts = EmbeddedRunner(policy).facts
    assert facts.under({"x": "control"}) is facts
    other = facts.under({"x": "other"})
    assert other is facts.under({"x": "other"})
    assert (other.items, other.alike, other.places) == (facts.items, facts.alike, facts.places)
    assert other.items is facts.items


def test_an_arm_may_have_a_rule_of_another_size() -> None:
    rules = {"alike": CapRule(attribute="topic", most=3)}
    arms = {"control": ArmPolicy(), "one": ArmPolicy(set={"rules.alike.most": 1})}
    policy = Policy(rules=rules, experiments={"x": ExperimentPolicy(arms=arms)})
    under = policy.by_setting[(("x", "one"),)]
    assert under.rules == {"alike": CapRule(attribute="topic", most=1)}
    unfit = ExperimentPolicy(arms={"control": ArmPolicy(), "one": ArmPolicy(set={"rules.alike.least": 1})})
    with pytest.raises(ValueError, match=r"x.arms.one: .*`least`"):
        Policy(rules=rules, experiments={"x": unfit})
