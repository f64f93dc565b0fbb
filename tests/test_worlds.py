"""The worlds against simulation and brute force."""

from dataclasses import replace
from itertools import product
from math import inf, log

import numpy as np
import pytest
from chance import assert_counts, deviation
from hypothesis import given
from hypothesis import strategies as st

from simulator.choice import Cascade, Choice, Logit, PositionBased
from simulator.users import User
from simulator.worlds import WORLDS, World

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
            "static", "satiation", "drift", "delay", "delay_quality", "equal", "equal_delay",
            "cascade", "logit",
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
        rotated = {0: [10, 8, 5], 500: [5, 10, 8], 1_000: [8, 5, 10], 1_500: [10, 8, 5]}
        for begin, rates in rotated.items():
            for feed in begin, begin + 250, begin + 499:
                assert (100 * world.rates(feed)).round(9).tolist() == rates

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
