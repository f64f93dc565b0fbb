"""What every policy promises, and each baseline on hand-made cases."""

from collections import Counter

import numpy as np
import pytest
from chance import assert_counts
from hypothesis import given
from hypothesis import strategies as st

from simulator.peers import available_peers
from simulator.policies import (
    ClosedLoopPolicy,
    EpsilonGreedy,
    FixedRatio,
    Greedy,
    Oracle,
    Proportional,
    Random,
    Uniform,
    baselines,
    webster,
)
from simulator.users import User
from simulator.worlds import WORLDS

SEED = 20161111
FEEDS = 2_000


def everybody(seed: int) -> dict[str, ClosedLoopPolicy]:
    """The baselines and the peers that are installed."""
    return baselines(3, seed) | available_peers(3, seed)[0]


NAMES = list(everybody(0))


def told(policy: ClosedLoopPolicy, views: list[int], actions: list[int]) -> ClosedLoopPolicy:
    """The policy after its first feed and these counts per pool."""
    policy.choose(0, 10)
    for pool, (seen, acted) in enumerate(zip(views, actions, strict=True)):
        for _ in range(seen):
            policy.seen(pool)
        for _ in range(acted):
            policy.acted(pool)
    return policy


def lived(policy: ClosedLoopPolicy, feeds: int, user: int = 0) -> list[list[int]]:
    """The feeds of a user of the static world."""
    somebody, made = User(WORLDS["static"], SEED, user), []
    for feed in range(feeds):
        slot_pools = policy.choose(feed, 10)
        made.append(slot_pools)
        reactions = somebody.react(feed, slot_pools)
        for slot in reactions.seen:
            policy.seen(slot_pools[slot])
        for slot, _ in reactions.actions:
            policy.acted(slot_pools[slot])
    return made


class Test_every_policy:
    @pytest.mark.parametrize("name", NAMES)
    def test_is_a_function_of_its_seed_and_of_what_it_is_told(self, name: str) -> None:
        first, again, *others = (lived(everybody(seed)[name], 40) for seed in (7, 7, *range(8, 16)))
        assert first == again
        assert any(other != first for other in others)  # some only permute the pools by it

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("slots", [1, 2, 10, 25])
    def test_fills_the_slots_with_pools(self, name: str, slots: int) -> None:
        policy = everybody(1)[name]
        for feed in range(5):
            slot_pools = policy.choose(feed, slots)
            assert len(slot_pools) == slots
            assert {type(pool) for pool in slot_pools} == {int}
            assert set(slot_pools) <= {0, 1, 2}

    @pytest.mark.parametrize("name", NAMES)
    def test_takes_an_action_long_after_its_view_and_without_a_new_one(self, name: str) -> None:
        policy = told(everybody(1)[name], [4, 3, 3], [0, 0, 0])
        for feed in range(1, 4):
            policy.acted(0)
            assert len(policy.choose(feed, 10)) == 10

    @pytest.mark.parametrize("name", ["random", "uniform", "fixed_ratio"])
    def test_that_does_not_learn_makes_the_same_feeds_whatever_it_is_told(self, name: str) -> None:
        plain, flattered = baselines(3, 1)[name], baselines(3, 1)[name]
        for feed in range(20):
            assert told(flattered, [0, 0, 9], [0, 0, 9]) is flattered
            plain.choose(feed, 10)
        assert plain.choose(20, 10) == flattered.choose(20, 10)

    def test_the_global_numbers_are_not_used(self) -> None:
        def all_feeds() -> list[list[list[int]]]:
            np.random.seed(1)  # noqa: NPY002  the global numbers are the point
            made = [lived(policy, 20) for policy in baselines(3, 1).values()]
            assert np.random.random() == 0.417022004702574  # noqa: NPY002  the first after seed(1)
            return made

        assert all_feeds() == all_feeds()

    def test_two_that_give_the_same_slots_meet_the_same_user(self) -> None:
        """Of a single pool every policy gives the same slots, so all are told the same."""
        counting = [Greedy(1, 1), EpsilonGreedy(1, 2), Proportional(1, 3)]
        for policy in counting:
            lived(policy, 50)
        assert counting[0].actions[0] > 0
        assert len({(*policy.views, *policy.actions) for policy in counting}) == 1


class Test_random_and_uniform:
    def test_random_gives_every_slot_any_pool(self) -> None:
        feeds = np.array([Random(3, seed).choose(0, 10) for seed in range(FEEDS)])
        counts = np.array([(feeds == pool).sum(axis=0) for pool in range(3)])
        assert_counts(counts, FEEDS, np.full(counts.shape, 1 / 3))

    def test_uniform_gives_equal_counts_and_the_odd_slot_to_anybody(self) -> None:
        policy = Uniform(3, SEED)
        feeds = np.array([policy.choose(feed, 10) for feed in range(FEEDS)])
        counts = np.array([np.bincount(feed, minlength=3) for feed in feeds])
        assert (np.sort(counts, axis=1) == [3, 3, 4]).all()
        assert_counts((counts == 4).sum(axis=0), FEEDS, np.full(3, 1 / 3))

    def test_uniform_shuffles_the_slots_of_each_feed(self) -> None:
        policy = Uniform(3, SEED)
        feeds = np.array([policy.choose(feed, 10) for feed in range(FEEDS)])
        counts = np.array([(feeds == pool).sum(axis=0) for pool in range(3)])
        assert_counts(counts, FEEDS, np.full(counts.shape, 1 / 3))


class Test_webster_and_fixed_ratio:
    def test_order_of_a_known_case(self) -> None:
        """Claims .5 .3 .2 | .167 .3 .2 | .167 .1 .2 | .167 .1 .067 | .1 .1 .067 (the first of equals)."""
        assert webster([0.5, 0.3, 0.2], 5)[:4] == [0, 1, 2, 0]
        assert Counter(webster([0.5, 0.3, 0.2], 10)) == {0: 5, 1: 3, 2: 2}

    @given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(0, 30))
    def test_a_longer_feed_begins_with_the_shorter_one(self, shares: list[float], slots: int) -> None:
        assert webster(shares, slots + 1)[:slots] == webster(shares, slots)

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    def test_whole_shares_are_met(self, shares: list[int]) -> None:
        assert np.bincount(webster(shares, sum(shares))).tolist() == shares

    def test_fixed_ratio_gives_each_pool_its_ratio_in_an_order_of_the_seed(self) -> None:
        orders = set()
        for seed in range(60):
            policy = FixedRatio(3, seed)
            counts = np.bincount(policy.choose(0, 10), minlength=3)
            assert sorted(counts.tolist()) == [2, 3, 5]
            assert counts.tolist() == [round(10 * share) for share in policy.shares]
            orders.add(tuple(counts.tolist()))
        assert len(orders) == 6

    def test_a_ratio_for_each_pool_or_none(self) -> None:
        with pytest.raises(ValueError, match="3 ratios for 2 pools"):
            FixedRatio(2, 0)


class Test_greedy:
    def test_pools_that_were_never_given_a_slot_come_first(self) -> None:
        for seed in range(50):
            policy = Greedy(3, seed)
            assert set(policy.choose(0, 3)) == {0, 1, 2}

    def test_also_over_several_short_feeds_and_whatever_the_first_one_found(self) -> None:
        policy = Greedy(3, 1)
        first = policy.choose(0, 1)[0]
        policy.seen(first)
        policy.acted(first)
        assert {first, *policy.choose(1, 1), *policy.choose(2, 1)} == {0, 1, 2}

    def test_then_all_slots_go_to_the_largest_actions_per_view(self) -> None:
        assert told(Greedy(3, 1), [100, 10, 10], [20, 1, 3]).choose(1, 10) == [2] * 10
        assert told(Greedy(3, 1), [100, 10, 10], [40, 1, 3]).choose(1, 10) == [0] * 10

    def test_a_view_is_a_failure_until_its_action_comes(self) -> None:
        policy = told(Greedy(3, 1), [10, 10, 10], [2, 1, 0])
        for _ in range(30):
            policy.seen(0)
        assert policy.choose(1, 10) == [1] * 10
        for _ in range(3):
            policy.acted(0)
        assert policy.choose(2, 10) == [0] * 10

    def test_equals_share_at_random(self) -> None:
        counts: Counter[int] = Counter()
        for seed in range(200):
            counts.update(told(Greedy(3, seed), [10, 10, 10], [2, 2, 1]).choose(1, 10))
        assert_counts([counts[0], counts[1]], 2_000, [0.5, 0.5])
        assert counts[2] == 0

    def test_may_lock_on_a_wrong_pool_for_ever(self) -> None:
        """The reason for the others: after bad luck nothing is learned of the best pool any more."""
        last = [lived(Greedy(3, seed), 300)[-1][0] for seed in range(20)]
        assert {0} < set(last)


class Test_epsilon_greedy:
    def test_one_slot_in_ten_is_any_pool(self) -> None:
        policy = told(EpsilonGreedy(3, SEED), [10, 10, 10], [0, 5, 0])
        counts = Counter(pool for feed in range(1, FEEDS + 1) for pool in policy.choose(feed, 10))
        assert_counts([counts[pool] for pool in range(3)], 10 * FEEDS, [0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])

    def test_pools_that_were_never_given_a_slot_come_first(self) -> None:
        firsts = [set(EpsilonGreedy(3, seed).choose(0, 10)) for seed in range(200)]
        assert all(pools == {0, 1, 2} for pools in firsts)


class Test_proportional:
    def test_shares_follow_the_posterior_means(self) -> None:
        """Means (1 + S) / (2 + E) of 6/12, 4/12 and 2/12 are slots 5, 3 and 2."""
        policy = told(Proportional(3, 1), [10, 10, 10], [5, 3, 1])
        assert np.bincount(policy.choose(1, 10)).tolist() == [5, 3, 2]

    def test_without_evidence_all_are_equal_and_the_odd_slot_goes_by_the_seed(self) -> None:
        counts = [np.bincount(Proportional(3, seed).choose(0, 10)).tolist() for seed in range(30)]
        assert {tuple(sorted(count)) for count in counts} == {(3, 3, 4)}
        assert {count.index(4) for count in counts} == {0, 1, 2}

    def test_stays_proportional_however_much_is_known(self) -> None:
        policy = told(Proportional(3, 1), [100_000, 100_000, 100_000], [10_000, 8_000, 5_000])
        assert np.bincount(policy.choose(1, 10)).tolist() == [4, 4, 2]


class Test_oracle:
    @pytest.mark.parametrize("name", list(WORLDS))
    def test_loses_nothing(self, name: str) -> None:
        world, oracle = WORLDS[name], Oracle(WORLDS[name])
        for feed in 0, 499, 500, 1_999:
            assert world.expected_reward(oracle.choose(feed, 10), feed) == world.best(feed)

    def test_knows_one_length_of_feed(self) -> None:
        with pytest.raises(ValueError, match="feeds of 10 slots, not 9"):
            Oracle(WORLDS["static"]).choose(0, 9)

    def test_what_it_gives_out_is_not_its_own(self) -> None:
        oracle = Oracle(WORLDS["static"])
        oracle.choose(0, 10).clear()
        assert oracle.choose(0, 10) == [0] * 10
