"""Off-policy estimates against numbers worked out by hand, and their intervals against a truth that is known."""

import numpy as np
import pytest
from scipy import stats

from engine.offline.off_policy import (
    CELL_VIEWS,
    METHODS,
    Chosen,
    Logged,
    mean_of,
    modelled,
    scores_of,
    support_of,
)

FALSE_ALARM = 1e-6


def column(*values: float) -> np.ndarray:
    """Feeds of one slot."""
    return np.array(values)[:, None]


# Three feeds of two users and one slot: the log tosses a coin for kind 0 or 1, the policy takes kind 0 with .9.
HAND = Logged(
    np.array([0, 0, 1]),
    np.zeros(3, np.int64),
    np.ones(3),
    column(0, 1, 0).astype(int),
    column(1, 0, 1),
    column(1, 1, 1),
)
NEW, OLD = np.tile([0.9, 0.1], (3, 1, 1)), np.tile([0.5, 0.5], (3, 1, 1))
POLICY = Chosen(column(1.8, 0.2, 1.8), NEW, NEW, np.zeros(3))
LOG = Chosen(column(1, 1, 1), OLD, OLD, np.zeros(3))


def test_ips_is_the_mean_of_what_was_earned_times_the_weights() -> None:
    assert scores_of(HAND, POLICY, "ips") == pytest.approx([1.8, 0.0, 1.8])
    assert mean_of(scores_of(HAND, POLICY, "ips"), HAND).mean == pytest.approx(1.2)


def test_snips_divides_by_the_sum_of_the_weights() -> None:
    assert mean_of(scores_of(HAND, POLICY, "snips"), HAND).mean == pytest.approx(3.6 / 3.8)


def test_the_model_knows_nothing_of_the_users_it_is_asked_about() -> None:
    """User 0 is told what user 1 earned, a single 1; user 1 the mean 1/2 of user 0, and 1 and 0 by kind."""
    model = modelled(HAND, 2)
    assert model[:2].ravel() == pytest.approx([1.0] * 4)
    of_kind = [(1.0 + CELL_VIEWS / 2.0) / (1.0 + CELL_VIEWS), (CELL_VIEWS / 2.0) / (1.0 + CELL_VIEWS)]
    of_slot = [
        (seen + CELL_VIEWS * rate) / (1.0 + CELL_VIEWS) for seen, rate in zip((1.0, 0.0), of_kind, strict=True)
    ]
    of_cohort = [
        (seen + CELL_VIEWS * rate) / (1.0 + CELL_VIEWS) for seen, rate in zip((1, 0), of_slot, strict=True)
    ]
    assert model[2].ravel() == pytest.approx(of_cohort)


def test_dr_is_the_models_mean_and_the_weighted_rest() -> None:
    q = modelled(HAND, 2)[:, 0]
    by_hand = [
        0.9 * one[0] + 0.1 * one[1] + weight * (reward - one[kind])
        for one, weight, reward, kind in zip(q, (1.8, 0.2, 1.8), (1, 0, 1), (0, 1, 0), strict=True)
    ]
    assert scores_of(HAND, POLICY, "dr") == pytest.approx(by_hand)


def test_dr_is_right_where_the_returns_model_is_though_kinds_are_not_enough() -> None:
    """A kind's second item is worth half. The log never shows two alike, the policy nothing else.

    Slot 1 earns r in the log, r / 2 under the policy: 1.5 in all with r = 1, which only DR can know.
    """
    users, feeds = np.arange(40), 40
    kinds = np.array([[0, 1], [1, 0]])[users % 2]
    logged = Logged(users, users * 0, np.ones(feeds), kinds, np.ones((feeds, 2)), np.ones((feeds, 2)))
    chances = np.tile([1.0, 0.0], (feeds, 2, 1))
    chosen = Chosen(np.where(kinds == 0, 2.0, 0.0), chances, chances * [[1.0], [0.5]], np.zeros(feeds))
    assert mean_of(scores_of(logged, chosen, "ips"), logged).mean == pytest.approx(2.0)
    assert mean_of(scores_of(logged, chosen, "dr"), logged).mean == pytest.approx(1.5)


def test_an_interval_is_of_users_and_not_of_feeds() -> None:
    """Sums off the mean 1.2 are .6 - 1.2 = -.6 and .6: variance (.36 + .36) * 2 / 1 / 9, Student's t of 1."""
    found = mean_of(scores_of(HAND, POLICY, "ips"), HAND)
    half = stats.t.ppf(0.975, 1) * np.sqrt(0.72 * 2.0 / 9.0)
    assert (found.low, found.high) == (pytest.approx(1.2 - half), pytest.approx(1.2 + half))
    family = mean_of(scores_of(HAND, POLICY, "ips"), HAND, among=5)
    assert family.high == pytest.approx(1.2 + stats.t.ppf(0.995, 1) * np.sqrt(0.72 * 2.0 / 9.0))


def test_one_user_has_no_interval_and_no_feed_no_mean() -> None:
    scores = scores_of(HAND, POLICY, "ips")
    assert mean_of(scores, HAND, np.array([True, True, False])) == mean_of(scores, HAND, HAND.users == 0)
    assert mean_of(scores, HAND, HAND.users == 0).low is None
    assert mean_of(scores, HAND, np.zeros(3, np.bool_)).mean == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_the_same_policy_differs_by_nothing_at_all(method: str) -> None:
    difference = mean_of(scores_of(HAND, LOG, method) - scores_of(HAND, LOG, method), HAND)
    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    support = support_of(HAND, LOG)
    assert (support.effective_feeds, support.effective_users) == (3.0, 2.0)
    assert (support.weight_mean, support.weight_max, support.beyond) == (1.0, 1.0, 0.0)


def test_support_is_what_equal_weights_would_need() -> None:
    support = support_of(HAND, POLICY._replace(beyond=np.array([0.0, 0.3, 0.0])))
    assert support.effective_feeds == pytest.approx(3.8**2 / (1.8**2 + 0.2**2 + 1.8**2))
    assert support.effective_users == pytest.approx(support.effective_feeds * 2 / 3)
    assert support.weight_mean == pytest.approx(3.8 / 3.0)
    assert support.beyond == pytest.approx(0.1)


def test_slots_that_held_nothing_earn_and_weigh_nothing() -> None:
    short = Logged(
        HAND.users,
        HAND.cohorts,
        HAND.weights,
        np.array([[0, -1], [1, -1], [0, 1]]),
        np.array([[1.0, 9.0], [0.0, 9.0], [1.0, 0.0]]),
        np.ones((3, 2)),
    )
    wide = Chosen(
        np.array([[1.8, 7.0], [0.2, 7.0], [1.8, 0.2]]), np.zeros((3, 2, 2)), np.zeros((3, 2, 2)), np.zeros(3)
    )
    assert scores_of(short, wide, "ips") == pytest.approx([1.8, 0.0, 1.8])
    assert support_of(short, wide).weight_max == 1.8


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """300 logs of 150 users with tastes of their own; the bounds leave 93 to 97 % but for a chance of 1e-6."""
    generator = np.random.default_rng(11)
    users, feeds, slots, logs = 150, 2, 4, 300
    logged_chances, chances = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    rates = np.array([0.1, 0.3, 0.5])
    truth = slots * float(chances @ rates)
    low, high = (stats.binom.ppf(q, logs, p) for q, p in ((FALSE_ALARM, 0.93), (1.0 - FALSE_ALARM, 0.97)))
    held = dict.fromkeys(METHODS, 0)
    for _ in range(logs):
        who = np.repeat(np.arange(users), feeds)
        kinds = generator.choice(3, (users * feeds, slots), p=logged_chances)
        liking = np.repeat(generator.uniform(0.0, 2.0, users), feeds)[:, None]  # of mean 1
        rewards = (generator.random(kinds.shape) < rates[kinds] * liking).astype(float)
        one = Logged(who, np.zeros(who.size, np.int64), np.ones(who.size), kinds, rewards, np.ones(kinds.shape))
        ratios = (chances / logged_chances)[kinds]
        table = np.tile(chances, (who.size, slots, 1))
        chosen = Chosen(ratios, table, table, np.zeros(who.size))
        for method in METHODS:
            found = mean_of(scores_of(one, chosen, method), one)
            held[method] += found.low <= truth <= found.high
    print(held)
    assert all(low <= times <= high for times in held.values()), (held, low, high)
