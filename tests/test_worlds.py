"""The worlds against simulation and brute force, and the simulated user as a function of nothing but its place."""

import hashlib
import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import product
from math import exp, inf, log

import numpy as np
import pytest
from chance import assert_counts, deviation
from hypothesis import given
from hypothesis import strategies as st

from simulator.choice import Cascade, Choice, Logit, PositionBased
from simulator.users import QUALITY, User, exponential
from simulator.worlds import DELAYS, WORLDS, World

SEED = 20161111
FEEDS = 10_000
MIXED = [1, 0, 0, 2, 0, 1, 1, 2, 0, 0]
worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def frozen(world: World) -> World:
    """The same world, whose rates stay and whose actions all arrive, so that counts are binomial."""
    return replace(world, rotation_feeds=0, window=inf)


def actions_of(world: World, slot_pools: list[int], feeds: int = FEEDS) -> list[list[tuple[int, float]]]:
    """The actions of one user on the same feed, many times."""
    user = User(world, SEED, 0)
    return [user.react(feed, slot_pools).actions for feed in range(feeds)]


def brute_force(world: World, feed: int, slots: int) -> float:
    """The best of all feeds of this length."""
    feeds = product(range(len(world.pools)), repeat=slots)
    return max(world.expected_reward(slot_pools, feed) for slot_pools in feeds)


class Test_the_worlds_are_the_ones_agreed_on:
    def test_names_rates_and_slots(self) -> None:
        assert list(WORLDS) == [
            "static", "satiation", "drift", "delay", "delay_quality", "equal", "equal_delay", "cascade", "logit",
        ]  # fmt: skip
        for name, world in WORLDS.items():
            assert world.name == name
            assert (world.slots, world.window, world.pools) == (10, 150, ("a", "b", "c"))
            assert world.base_rates == ((0.08,) * 3 if name.startswith("equal") else (0.10, 0.08, 0.05))

    def test_what_differs(self) -> None:
        assert [name for name, world in WORLDS.items() if world.satiation != 1] == ["satiation"]
        assert WORLDS["satiation"].satiation == 0.85
        assert [name for name, world in WORLDS.items() if world.rotation_feeds] == ["drift"]
        delayed = [name for name, world in WORLDS.items() if any(world.delays)]
        assert delayed == ["delay", "delay_quality", "equal_delay"]
        assert {WORLDS[name].delays for name in delayed} == {(50, 5, 5)}
        assert [name for name, world in WORLDS.items() if world.quality_spread] == ["delay_quality"]

    def test_equal_is_looked_at_by_the_logarithm_of_the_rank(self) -> None:
        seen = WORLDS["equal"].choice.seen_probability(np.full(10, 0.08))
        assert seen == pytest.approx([log(2) / log(j + 1) for j in range(1, 11)])

    def test_figures_known_by_hand(self) -> None:
        assert WORLDS["static"].best(0) == pytest.approx(10 * 0.10)
        assert WORLDS["static"].expected_reward(MIXED, 7) == pytest.approx(5 * 0.10 + 3 * 0.08 + 2 * 0.05)
        assert WORLDS["satiation"].expected_reward([0, 0, 1, 0], 0) == pytest.approx(
            0.10 * (1 + 0.85 + 0.85**2) + 0.08
        )
        assert WORLDS["logit"].best(0) == pytest.approx((10 / 9) / (1 + 10 / 9))

    def test_a_delay_does_not_take_from_what_an_action_is_worth(self) -> None:
        for name in "delay", "delay_quality":
            assert WORLDS[name].expected_reward(MIXED, 3) == WORLDS["static"].expected_reward(MIXED, 3)


class Test_expected_reward:
    @worlds
    def test_is_the_mean_number_of_actions_of_every_slot(self, world: World) -> None:
        """Per slot the count is binomial. In the logit a slot's part is not a difference of prefixes."""
        actions = actions_of(frozen(world), MIXED)
        counts = np.bincount([slot for feed in actions for slot, _ in feed], minlength=10)
        per_slot = world.choice.acted_probability(world.attractions(MIXED, 0))
        assert_counts(counts, FEEDS, per_slot)
        assert world.expected_reward(MIXED, 0) == pytest.approx(per_slot.sum())
        assert abs(counts.sum() - FEEDS * per_slot.sum()) <= deviation(FEEDS, per_slot).sum()

    @worlds
    def test_is_reached_by_the_best_feed_and_never_exceeded(self, world: World) -> None:
        for feed in 0, 499, 500, 1_000, 1_999:
            assert world.expected_reward(world.best_slots(feed), feed) == world.best(feed)
            for slot_pools in ([0] * 10, [1] * 10, [2] * 10, MIXED, sorted(MIXED)):
                assert world.expected_reward(slot_pools, feed) <= world.best(feed) * (1 + 1e-12)

    @worlds
    def test_best_is_the_best_of_all_feeds_of_six_slots(self, world: World) -> None:
        short = replace(world, slots=6)
        for feed in (0, 500, 1_000) if world.rotation_feeds else (0,):
            assert short.best(feed) == pytest.approx(brute_force(short, feed, 6), rel=1e-12)

    @given(
        st.tuples(*[st.floats(0.01, 0.9)] * 3),
        st.floats(0.05, 1.0),
        st.one_of(
            st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4).map(
                lambda kappa: PositionBased(tuple(sorted(kappa, reverse=True)))
            ),
            st.builds(Cascade, st.floats(0, 1), st.floats(0, 1)),
            st.just(Logit()),
        ),
    )
    def test_best_is_the_best_of_all_feeds_of_any_world(
        self, rates: tuple[float, ...], satiation: float, choice: Choice
    ) -> None:
        world = World("any", rates, slots=4, satiation=satiation, choice=choice)
        assert world.best(0) == pytest.approx(brute_force(world, 0, 4), rel=1e-12)


class Test_drift:
    """
    feed       0 ...  499 | 500 ... 999 | 1000 ... 1499 | 1500 ...
    rates   .10 .08 .05   | .05 .10 .08 | .08 .05 .10   | .10 .08 .05
    """

    def test_rates_rotate_every_500_feeds_and_not_in_between(self) -> None:
        world = WORLDS["drift"]
        for begin, rates in (0, (10, 8, 5)), (500, (5, 10, 8)), (1_000, (8, 5, 10)), (1_500, (10, 8, 5)):
            for feed in begin, begin + 250, begin + 499:
                assert (100 * world.rates(feed)).round(9).tolist() == list(rates)

    def test_the_best_pool_moves_with_them(self) -> None:
        assert [WORLDS["drift"].best_slots(feed)[0] for feed in (0, 500, 1_000, 1_500)] == [0, 1, 2, 0]
        assert {WORLDS["drift"].best(feed) for feed in range(0, 2_000, 250)} == {WORLDS["static"].best(0)}

    def test_users_act_by_the_rates_of_the_feed(self) -> None:
        user = User(WORLDS["drift"], SEED, 0)
        for begin in 0, 500, 1_000, 1_500:
            feeds = range(begin, begin + 500)
            acted = np.array(
                [sum(len(user.react(feed, [pool] * 10).actions) for feed in feeds) for pool in range(3)]
            )
            assert_counts(acted, 5_000, WORLDS["drift"].rates(begin), comparisons=12)


class Test_satiation:
    def test_the_kth_item_of_a_pool_is_worth_delta_to_the_k_wherever_it_stands(self) -> None:
        assert WORLDS["satiation"].attractions([0, 1, 0, 2, 0], 0) == pytest.approx(
            [0.10, 0.08, 0.10 * 0.85, 0.05, 0.10 * 0.85**2]
        )

    def test_the_next_feed_begins_afresh(self) -> None:
        user = User(WORLDS["satiation"], SEED, 0)
        first = sum(slot == 0 for feed in range(FEEDS) for slot, _ in user.react(feed, [0] * 10).actions)
        assert_counts([first], FEEDS, [0.10])

    def test_more_of_a_pool_never_makes_its_next_item_better(self) -> None:
        attractions = WORLDS["satiation"].attractions([0] * 10, 0)
        assert (np.diff(attractions) < 0).all()


class Test_delays:
    def test_without_one_every_action_is_at_once(self) -> None:
        for name in "static", "satiation", "drift", "equal", "cascade", "logit":
            assert {delay for feed in actions_of(WORLDS[name], MIXED, 500) for _, delay in feed} == {0.0}

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
        return np.array([delay for feed in actions_of(world, [pool] * 10) for _, delay in feed])

    @staticmethod
    def delays_and_quality(world: World, pool: int) -> tuple[np.ndarray, np.ndarray]:
        """Of all actions: the delay, and the factor of the item."""
        user = User(world, SEED, 0)
        actions = []
        for feed in range(FEEDS):
            factors = 1 + 0.75 * (2 * user._numbers(feed, 10)[:, QUALITY] - 1)
            actions += [(delay, factors[slot]) for slot, delay in user.react(feed, [pool] * 10).actions]
        delays, quality = np.array(actions).T
        return delays, quality


class Test_a_user_is_a_function_of_its_place:
    @worlds
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
                assert [slot for slot in mine.seen if slot < 3] == [slot for slot in theirs.seen if slot < 3]
                assert [act for act in mine.actions if act[0] < 3] == [act for act in theirs.actions if act[0] < 3]

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
        script = "import sys; sys.path.insert(0, 'tests'); import test_worlds; print(test_worlds.digest())"
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


class Test_a_truth_that_cannot_be_is_refused:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"base_rates": (0.1, 0.1)},
            {"delays": (1.0, 1.0)},
            {"base_rates": (0.1, 0.0, 0.1)},
            {"base_rates": (0.1, 1.0, 0.1)},
            {"base_rates": (0.1, 0.6, 0.1), "quality_spread": 0.75},
            {"satiation": 0.0},
            {"satiation": 1.1},
            {"quality_spread": 1.0},
            {"delays": (1.0, -1.0, 1.0)},
            {"quality_spread": 0.5, "choice": Logit()},
        ],
        ids=str,
    )
    def test_by_a_world(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"rate|delay|satiation|quality"):
            replace(WORLDS["static"], **wrong)


def digest() -> str:
    """Of every world's reactions to a few feeds."""
    said = [User(world, SEED, 5).react(feed, MIXED) for world in WORLDS.values() for feed in range(100)]
    return hashlib.sha256(repr(said).encode()).hexdigest()
