"""The simulated user: the world's delays, and a function of nothing but seed, user, feed and slots."""

import hashlib
import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from math import exp, inf

import numpy as np
import pytest
from chance import assert_counts, deviation
from hypothesis import given
from hypothesis import strategies as st

from simulator.users import QUALITY, User, exponential
from simulator.worlds import DELAYS, WORLDS, World

SEED = 20161111
FEEDS = 10_000
MIXED = [1, 0, 0, 2, 0, 1, 1, 2, 0, 0]


class Test_delays:
    def test_without_one_every_action_is_at_once(self) -> None:
        for name in "static", "satiation", "drift", "equal", "cascade", "logit":
            user = User(WORLDS[name], SEED, 0)
            assert {delay for feed in range(500) for _, delay in user.react(feed, MIXED).actions} == {0.0}

    def test_are_exponential_with_the_mean_of_the_pool(self) -> None:
        for pool, mean in enumerate(DELAYS):
            delays = self.delays(replace(WORLDS["delay"], window=inf), pool)
            times = mean * np.array([0.1, 0.5, 1.0, 2.0])
            arrived = [(delays <= time).sum() for time in times]
            assert_counts(arrived, delays.size, 1 - np.exp(-times / mean), comparisons=12)

    def test_an_action_later_than_the_window_never_arrives(self) -> None:
        within, all_of_them = (
            self.delays(world, 0) for world in (WORLDS["delay"], replace(WORLDS["delay"], window=inf))
        )
        assert within.max() <= 150 < all_of_them.max()
        assert within.tolist() == all_of_them[all_of_them <= 150].tolist()
        assert_counts([within.size], all_of_them.size, [1 - exp(-150 / 50)])

    def test_better_items_convert_sooner_and_the_rest_of_the_pool_stays(self) -> None:
        """
        Quality m is even on [.25, 1.75] and delays are exponential of mean 50 / m, so of the actions
        P(delay <= t) = 1 - E[m exp(-m t / 50)], whose mean is 50; an exponential of mean 50 has fewer soon.
        """
        world = replace(WORLDS["delay_quality"], window=inf)
        delays, quality = self.delays_and_quality(world, 0)
        assert_counts([delays.size], FEEDS * 10, [0.10], comparisons=10)
        times = np.array([5.0, 25.0, 50.0, 150.0])
        arrived = np.array([(delays <= time).sum() for time in times])
        assert_counts(arrived, delays.size, self.distribution(times / 50), comparisons=10)
        sooner = delays[quality > 1.0] <= 25
        later = delays[quality <= 1.0] <= 25
        slack = sum(deviation(part.size, [part.mean()], 10)[0] / part.size for part in (sooner, later))
        assert sooner.mean() > later.mean() + slack

    def test_items_differ_in_quality_and_not_only_in_delay(self) -> None:
        _, quality = self.delays_and_quality(replace(WORLDS["delay_quality"], window=inf), 1)
        # An action's item has the density m / 1.5 on [.25, 1.75], so it is above 1 with probability .6875.
        assert_counts([(quality > 1.0).sum()], quality.size, [(1.75**2 - 1) / 2 / 1.5])

    @given(st.floats(0, 200), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
    def test_a_larger_number_is_a_longer_delay(self, mean: float, low: float, high: float) -> None:
        low, high = sorted((low, high))
        assert 0 <= exponential(mean, low) <= exponential(mean, high) < inf

    @staticmethod
    def distribution(t: np.ndarray) -> np.ndarray:
        """1 - E[m exp(-m t)] for m even on [.25, 1.75], by parts."""

        def integral(m: float) -> np.ndarray:
            return -np.exp(-m * t) * (m / t + 1 / t**2)

        return 1 - (integral(1.75) - integral(0.25)) / 1.5

    @staticmethod
    def delays(world: World, pool: int) -> np.ndarray:
        """Of all actions on feeds of one pool."""
        feed_of_pool = [pool] * 10
        user = User(world, SEED, 0)
        return np.array([delay for feed in range(FEEDS) for _, delay in user.react(feed, feed_of_pool)[1]])

    @staticmethod
    def delays_and_quality(world: World, pool: int) -> tuple[np.ndarray, np.ndarray]:
        """Of all actions: the delay, and the factor of the item."""
        user = User(world, SEED, 0)
        actions = []
        for feed in range(FEEDS):
            factors = 1 + 0.75 * (2 * user._stream.of_feed(feed, 10)[:, QUALITY] - 1)
            actions += [(delay, factors[slot]) for slot, delay in user.react(feed, [pool] * 10).actions]
        delays, quality = np.array(actions).T
        return delays, quality


class Test_a_user_is_a_function_of_its_place:
    @pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
    def test_same_slots_same_reactions_whoever_asks_and_in_whatever_order(self, world: World) -> None:
        in_order, backwards = User(world, SEED, 3), User(world, SEED, 3)
        expected = {feed: in_order.react(feed, MIXED) for feed in range(60)}
        for feed in reversed(range(60)):
            backwards.react(feed, [2] * 7)  # another policy's feed does not matter either
            User(world, SEED, 4).react(feed, MIXED)
            assert backwards.react(feed, MIXED) == expected[feed]

    def test_a_slot_meets_the_same_numbers_whatever_stands_elsewhere(self) -> None:
        """
        feed of one policy    a b a a     the reaction to the first three slots is one,
        feed of another       a b a c b   as these slots are the same
        """
        for name in "static", "delay", "delay_quality", "equal", "satiation":
            one, other = User(WORLDS[name], SEED, 0), User(WORLDS[name], SEED, 0)
            for feed in range(300):
                mine, theirs = one.react(feed, [0, 1, 0, 0]), other.react(feed, [0, 1, 0, 2, 1])
                for slot in range(3):
                    assert (slot in mine.seen) == (slot in theirs.seen)
                    assert dict(mine.actions).get(slot) == dict(theirs.actions).get(slot)

    def test_what_is_acted_on_in_a_worse_pool_is_acted_on_in_a_better_one(self) -> None:
        user = User(WORLDS["static"], SEED, 0)
        for feed in range(300):
            worse, better = ({slot for slot, _ in user.react(feed, [pool] * 10).actions} for pool in (2, 0))
            assert worse <= better

    def test_users_seeds_and_feeds_are_independent(self) -> None:
        """Slots on which both act are as many as chance has it."""

        def acted(seed: int, user: int, begin: int = 0) -> np.ndarray:
            one = User(WORLDS["static"], seed, user)
            hits = np.zeros((1_000, 10))
            for feed in range(1_000):
                hits[feed, [slot for slot, _ in one.react(begin + feed, [0] * 10).actions]] = 1
            return hits

        first = acted(1, 2)
        for other in acted(1, 3), acted(2, 2), acted(2, 1), acted(1, 2, begin=1), acted(1, 2, begin=1_000):
            assert_counts([(first * other).sum()], 10_000, [0.10**2], comparisons=5)

    def test_same_seed_same_bytes_in_another_process(self) -> None:
        script = "import test_users; print(test_users.digest())"
        for hash_seed in "1", "2":
            ran = subprocess.run(
                [sys.executable, "-c", script],
                env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
                capture_output=True,
                text=True,
                check=True,
            )
            assert ran.stdout.strip() == digest()

    def test_the_global_numbers_are_neither_used_nor_moved(self) -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  the global numbers are the point
        one = digest()
        drawn = random.random(), np.random.random()  # noqa: NPY002
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        assert drawn == (random.random(), np.random.random())  # noqa: NPY002
        assert digest() == one

    def test_memory_does_not_grow_with_the_feeds(self) -> None:
        user = User(WORLDS["delay_quality"], SEED, 0)

        def live(feeds: range) -> int:
            for feed in feeds:
                user.react(feed, MIXED)
                WORLDS["drift"].best(feed)
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            grown = live(range(200, 2_200)) - live(range(200))
        finally:
            tracemalloc.stop()
        assert grown < 4_000  # bytes; 2 per feed would not pass

    def test_any_feed_may_be_asked_for_first(self) -> None:
        assert User(WORLDS["static"], SEED, 0).react(10**12, MIXED).seen == list(range(10))


def digest() -> str:
    """Of every world's reactions to a few feeds."""
    said = [User(world, SEED, 5).react(feed, MIXED) for world in WORLDS.values() for feed in range(100)]
    return hashlib.sha256(repr(said).encode()).hexdigest()
