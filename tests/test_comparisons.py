"""Comparing arms: right as often as they say, also when looked at all the time; a broken split is named."""

from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace
from scipy.stats import binom, chi2

from engine.events import Acted, Erase, Quarantine, Request
from engine.experiments import ArmPolicy, ExperimentPolicy, arms_of
from engine.offline.comparisons import (
    USERS_MIN,
    Difference,
    difference,
    ratio_and_variance,
    sample_ratio_chance,
    strayed,
)
from engine.offline.experiments import EFFECT, MISMATCH_CHANCE, ArmResult, ExperimentResult, Outcomes
from engine.policy import ActionPolicy, Policy
from engine.pool_policy import PoolPolicy
from streams.embedded import EmbeddedRunner

SEED = 20240527
FALSE_ALARM = 1e-7  # of each bound below
ALPHA = 0.05
SPLITS, USERS, LOOKS = 1000, 400, 12
HALVES = ExperimentPolicy({"a": ArmPolicy(), "b": ArmPolicy()})


@cache
def splits() -> np.ndarray:
    """Who is in the arm b of each of a thousand experiments, (splits, users), by their hashes."""
    users = [f"user-{number}" for number in range(USERS)]
    return np.array([[HALVES.drawn(f"split-{n}", user) == "b" for user in users] for n in range(SPLITS)])


@cache
def lives() -> np.ndarray:
    """Rewards and feeds of users up to each look, (looks, users, 2): some come late, and all differ in both."""
    random = np.random.default_rng(SEED)
    activity, rate = random.gamma(1.0, 2.0, USERS) + 0.2, random.gamma(2.0, 0.04, USERS)
    come = np.arange(USERS) % LOOKS <= np.arange(LOOKS)[:, None]
    feeds = random.poisson(activity, (LOOKS, USERS)) * come
    likes = random.binomial(10 * feeds, np.minimum(rate, 1.0))
    return np.stack([likes, feeds], axis=2).cumsum(axis=0).astype(np.float64)


def compared(totals: np.ndarray, treated: np.ndarray, alpha: float = ALPHA) -> Difference | None:
    """The difference of one split, between those who have been given a feed."""
    given = totals[:, 1] > 0
    return difference(totals[treated & given], totals[~treated & given], alpha, EFFECT)


def excludes(interval: tuple[float, float], truth: float = 0.0) -> bool:
    """Whether the truth is outside."""
    return not interval[0] <= truth <= interval[1]


def most(chance: float, trials: int = SPLITS) -> float:
    """So many of the trials at most, but for FALSE_ALARM."""
    return binom.isf(FALSE_ALARM, trials, chance)


# A/A: splits between which nothing differs


def test_a_thousand_splits_of_the_same_users_reject_at_alpha_when_they_are_looked_at_once() -> None:
    """Two binomial bounds, and two of the sum of squared scores, which is chi-square: errors are right to 12 %."""
    found = [compared(lives()[-1], treated) for treated in splits()]
    rejected = sum(one is None or excludes(one.at_once) for one in found)
    assert binom.ppf(FALSE_ALARM, SPLITS, ALPHA) <= rejected <= most(ALPHA)
    scores = sum((one.estimate / one.error) ** 2 for one in found if one)
    assert chi2.ppf(FALSE_ALARM, SPLITS) <= scores <= chi2.isf(FALSE_ALARM, SPLITS)
    print(f"seed {SEED}: {rejected} of {SPLITS} at alpha {ALPHA}")


def test_they_reject_at_most_at_alpha_when_they_are_looked_at_all_the_time() -> None:
    """Where intervals for one look reject more than that: `any` counts splits that were rejected at some look."""
    rejected = np.zeros(2, np.int64)
    for treated in splits():
        looks = [found for totals in lives() if (found := compared(totals, treated))]
        rejected += any(excludes(one.at_any_time) for one in looks), any(excludes(one.at_once) for one in looks)
    print(f"seed {SEED}: {rejected} of {SPLITS}, at any time and at once")
    assert rejected[0] <= most(ALPHA)
    assert rejected[1] > most(ALPHA)


def test_an_effect_is_found_and_stands_in_the_intervals() -> None:
    """Half a like more for each feed of the treated."""
    covered, found = 0, 0
    for treated in splits()[:200]:
        totals = lives()[-1].copy()
        totals[treated, 0] += 0.5 * totals[treated, 1]
        one = compared(totals, treated)
        assert one is not None
        covered += not excludes(one.at_any_time, 0.5)
        found += excludes(one.at_any_time)
    assert covered >= 200 - most(ALPHA, 200)
    assert found > 150


def test_a_thousand_fair_splits_are_named_at_most_as_often_as_the_chance_says_and_a_planted_one_is() -> None:
    counts = np.stack([USERS - splits().sum(axis=1), splits().sum(axis=1)], axis=1)
    shares = np.array([0.5, 0.5])
    chances = np.array([sample_ratio_chance(row, shares) for row in counts])
    assert (chances < MISMATCH_CHANCE).sum() <= most(MISMATCH_CHANCE)
    assert binom.ppf(FALSE_ALARM, SPLITS, 0.1) <= (chances < 0.1).sum() <= most(0.12)  # counts are whole
    lost = splits() & (np.arange(USERS) % 2 == 0)  # of every second user of b
    assert all(sample_ratio_chance(np.array([USERS // 2, row.sum()]), shares) < MISMATCH_CHANCE for row in lost)


# What the figures are


def test_of_users_with_one_feed_each_the_variance_is_that_of_their_mean() -> None:
    rewards = np.random.default_rng(SEED).standard_normal(50)
    ratio, variance = ratio_and_variance(np.stack([rewards, np.ones(50)], axis=1))
    assert ratio == pytest.approx(rewards.mean())
    assert variance == pytest.approx(rewards.var(ddof=1) / 50)


def test_the_variance_of_a_ratio_is_that_of_redrawn_users() -> None:
    """By the bootstrap, whose 4,000 redraws know it to 2.3 % (one standard deviation); linearising costs more."""
    random, totals = np.random.default_rng(SEED), lives()[-1]
    drawn = totals[random.integers(0, USERS, (4000, USERS))].sum(axis=1)
    assert ratio_and_variance(totals)[1] == pytest.approx((drawn[:, 0] / drawn[:, 1]).var(), rel=0.15)


def test_the_interval_for_any_time_ends_where_the_mixture_of_likelihood_ratios_is_one_over_alpha() -> None:
    found = compared(lives()[-1], splits()[0])
    assert found is not None
    variance = found.error**2
    tau = (EFFECT * ratio_and_variance(lives()[-1][lives()[-1][:, 1] > 0])[0]) ** 2
    width = found.at_any_time.high - found.estimate
    mixture = np.sqrt(variance / (variance + tau)) * np.exp(width**2 * tau / (2 * variance * (variance + tau)))
    assert mixture == pytest.approx(1.0 / ALPHA)
    assert found.at_once.high - found.estimate == pytest.approx(1.959964 * found.error)


def test_nothing_is_said_of_few_users_or_where_nothing_differs() -> None:
    few, many = np.ones((USERS_MIN - 1, 2)), np.random.default_rng(SEED).random((USERS_MIN, 2))
    assert difference(few, many, ALPHA, EFFECT) is None
    assert difference(many, few, ALPHA, EFFECT) is None
    same = np.ones((USERS_MIN, 2))
    assert difference(same, same, ALPHA, EFFECT) is None
    assert difference(many * [1.0, 0.0], many, ALPHA, EFFECT) is None
    assert difference(many * [0.0, 1.0], many * [0.0, 1.0], ALPHA, EFFECT) is None


def test_a_sample_ratio_of_nobody_is_no_mismatch() -> None:
    assert sample_ratio_chance(np.array([0, 0]), np.array([0.5, 0.5])) == 1.0
    assert strayed(np.array([0, 0]), np.array([0.5, 0.5])).tolist() == [0.0, 0.0]


def test_the_chance_of_a_sample_ratio_is_pearsons() -> None:
    """520 of 1,000 where half were due: (20² / 500) · 2 = 1.6, of one degree of freedom."""
    assert sample_ratio_chance(np.array([520, 480]), np.array([0.5, 0.5])) == pytest.approx(chi2.sf(1.6, 1))


# From records to results

POLICY = Policy(
    pools={"a": PoolPolicy("external"), "b": PoolPolicy("external")},
    actions={"like": ActionPolicy(1.0), "hide": ActionPolicy(-0.5), "read": ActionPolicy(0.0)},
    experiments={
        "ratio": ExperimentPolicy({"drawn": ArmPolicy(), "fixed": ArmPolicy(set={"blend.draw": "fixed"})})
    },
)
LISTS = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3"]}
WINDOW_MS = POLICY.memory.window_ms


class Life:
    """Feeds of users by one policy, at times of their own, and what is known of them."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.runner = EmbeddedRunner(policy)
        self.outcomes = Outcomes(policy)
        self.decisions = []

    def feed(self, user: str, request_id: str = "r", at_ms: int = 0, continues: str | None = None) -> list[str]:
        """The items of a feed of three slots."""
        request = Request(request_id=request_id, user=user, slots=3, candidates=LISTS, continues=continues)
        decision = self.runner.serve(request, self.runner.gather(request, at_ms), at_ms)
        self.decisions.append(decision)
        return decision.slot_items

    def act(
        self, user: str, slot: int, item: str, action: str = "like", request_id: str = "r", at_ms: int = 1
    ) -> None:
        """The user does something."""
        about = {
            "event_id": "e",
            "user": user,
            "request_id": request_id,
            "slot": slot,
            "item": item,
            "action": action,
        }
        self.outcomes.react(Acted(**about), at_ms)

    def result(self) -> ExperimentResult:
        """What the experiment has shown."""
        for decision in self.decisions:
            self.outcomes.decide(decision)
        (found,) = self.outcomes.results(ALPHA)
        return found

    def totals(self) -> dict[str, tuple[int, int, float | None]]:
        """Users, feeds and reward per feed of each arm."""
        return {arm.arm: (arm.users, arm.feeds, arm.reward_per_feed) for arm in self.result().arms}


def in_arm(arm: str, most: int = 1) -> list[str]:
    """Users of this arm."""
    users = [f"user-{number}" for number in range(40 * most)]
    return [user for user in users if arms_of(POLICY.experiments, user) == {"ratio": arm}][:most]


def test_a_feed_is_worth_each_action_of_a_slot_once_by_the_policys_rewards() -> None:
    life = Life()
    (drawn,), (fixed,) = in_arm("drawn"), in_arm("fixed")
    items = life.feed(drawn)
    life.act(drawn, 0, items[0])
    life.act(drawn, 0, items[0])  # again
    life.act(drawn, 1, items[1], "hide")
    life.act(drawn, 1, items[1], "read")  # worth nothing
    life.act(drawn, 2, items[0])  # which is not what stood there
    life.act(drawn, 3, items[0])  # no slot
    life.act(drawn, 2, items[2], request_id="another")
    life.act(drawn, 2, items[2], at_ms=WINDOW_MS + 1)  # too late
    life.act("stranger", 2, items[2])
    life.feed(fixed)
    life.feed(fixed, "r2", 5)
    assert life.totals() == {"drawn": (1, 1, 0.5), "fixed": (1, 2, 0.0)}


def test_later_pages_belong_to_their_feed() -> None:
    life = Life()
    (user,) = in_arm("fixed")
    life.feed(user)
    items = life.feed(user, "r2", 1, continues="r")
    life.act(user, 0, items[0], request_id="r2")
    assert life.decisions[1].start == 3
    assert life.totals() == {"drawn": (0, 0, None), "fixed": (1, 1, 1.0)}


def test_the_first_decision_of_an_id_counts_until_the_id_is_new_again() -> None:
    life = Life()
    (user,) = in_arm("drawn")
    life.feed(user)
    first = life.decisions[0]
    life.decisions += [first, replace(first, at_ms=WINDOW_MS), replace(first, at_ms=WINDOW_MS + 1)]
    assert life.totals()["drawn"] == (1, 2, 0.0)


def test_testers_and_users_of_several_arms_are_left_out() -> None:
    (tester,), (mixed, *others) = in_arm("drawn"), in_arm("fixed", 3)
    ratio = POLICY.experiments["ratio"]
    life = Life(replace(POLICY, experiments={"ratio": replace(ratio, users={tester: "fixed"})}))
    for user in (tester, mixed, *others):
        life.feed(user)
    life.decisions.append(replace(life.decisions[1], arms={"ratio": "drawn"}, at_ms=2 * WINDOW_MS))
    assert life.decisions[0].arms == {"ratio": "fixed"}
    assert life.totals()["fixed"] == (2, 2, 0.0)
    assert life.result().mixed == 1


def test_who_was_erased_counts_from_then_on_and_what_is_quarantined_does_not() -> None:
    life = Life()
    first, second, third = in_arm("drawn", 3)
    for user in (first, second, third):
        for number in range(3):
            items = life.feed(user, f"r{number}", 100 * number)
            life.act(user, 0, items[0], request_id=f"r{number}", at_ms=100 * number + 50)
    life.outcomes.react(Erase(user=first), 60)
    life.outcomes.react(Quarantine(from_ms=150, to_ms=150, user=second), 900)
    life.outcomes.react(Quarantine(from_ms=250), 900)
    life.outcomes.react(Quarantine(from_ms=0), 900, partition=1)
    assert life.totals()["drawn"] == (3, 8, 4 / 8)


def test_decisions_of_an_arm_that_the_policy_does_not_have_are_refused() -> None:
    life = Life()
    life.feed(*in_arm("drawn"))
    with pytest.raises(ValueError, match="in an arm 'gone' of experiment ratio, which the policy does not have"):
        life.outcomes.decide(replace(life.decisions[0], arms={"ratio": "gone"}))
    life.outcomes.decide(
        replace(life.decisions[0], request=Request(request_id="x", user="x", slots=3), arms={"old": "a"})
    )


def test_a_planted_mismatch_is_named_with_its_arm_and_a_fair_split_is_not() -> None:
    """The feeds of every second user of one arm get lost."""
    life = Life()
    life.feed(*in_arm("drawn"))
    (like,) = life.decisions
    life.decisions = []
    for number in range(2000):
        user = f"user-{number}"
        arms = arms_of(POLICY.experiments, user)
        life.decisions.append(replace(like, request=Request(request_id="r", user=user, slots=3), arms=arms))
    fair = life.result()
    assert fair.mismatch is None
    assert fair.sample_ratio_chance > MISMATCH_CHANCE
    broken = Life()
    broken.decisions = [
        decision
        for number, decision in enumerate(life.decisions)
        if decision.arms != {"ratio": "fixed"} or number % 2
    ]
    found = broken.result()
    drawn, fixed = (arm.users for arm in found.arms)
    assert found.mismatch is not None
    assert found.mismatch.startswith(f"arm drawn has {drawn:,} of {drawn + fixed:,} users, where its share gives")


def test_cohorts_share_alpha_and_their_feeds_add_up() -> None:
    """A user's first page is of the cohort of newcomers; with 40 users of each arm, there are intervals."""
    life, random = Life(), np.random.default_rng(SEED)
    for number in range(100):
        for feed in range(3):
            items = life.feed(f"user-{number}", f"r{feed}", feed)
            for slot in np.flatnonzero(random.random(3) < 0.5).tolist():
                life.act(f"user-{number}", slot, items[slot], request_id=f"r{feed}", at_ms=feed)
    found = life.result()
    assert list(found.cohorts) == ["", "new"]
    for at, arm in enumerate(found.arms):
        assert arm.feeds == sum(of[at].feeds for of in found.cohorts.values()) == 3 * arm.users
    whole, later = found.arms[1].difference, found.cohorts[""][1].difference
    assert whole is not None
    assert later is not None
    assert whole.at_once.high - whole.estimate == pytest.approx(1.959964 * whole.error)
    assert later.at_once.high - later.estimate == pytest.approx(2.241403 * later.error)  # alpha / 2
    assert all(of[0].difference is None for of in (found.arms, *found.cohorts.values()))


def test_an_arm_without_feeds_has_no_reward() -> None:
    assert Life().result().arms[0] == ArmResult("drawn", 0.5, 0, 0, None, None)
