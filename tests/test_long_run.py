"""Long-run shares: kept to by a pool that nobody likes, and free for one that people look at anyway."""

import numpy as np
import pytest

from engine.decision import difference
from engine.events import Acted, Request, Seen
from engine.long_run import MOST, long_run_floors, rounded_floors
from engine.policy import Policy, PopulationPolicy
from engine.pool_policy import PoolPolicy
from engine.tallies import RankTallies
from streams.embedded import EmbeddedRunner

SLOTS = 8


def policy_of(**shares: float) -> Policy:
    pools = {name: PoolPolicy("external", share=share) for name, share in shares.items()}
    return Policy(pools=pools, population=PopulationPolicy(every_records=64))


def viewed(**views: float) -> dict[tuple[str, str], RankTallies]:
    ranks = {(pool, "like"): RankTallies() for pool in views}
    for pool, exposure in views.items():
        ranks[pool, "like"].add(0, 0.0, exposure)
    return ranks


def lived(policy: Policy, rates: dict[str, float], feeds: int) -> dict[str, float]:
    """The parts of all slots that pools have had after so many feeds of one user who likes them at these rates."""
    runner, random = EmbeddedRunner(policy), np.random.default_rng(5)
    had = dict.fromkeys(rates, 0)
    for number in range(feeds):
        listed = {pool: [f"{pool}{number}.{place}" for place in range(SLOTS)] for pool in rates}
        request = Request(request_id=f"r{number}", user="u", slots=SLOTS, candidates=listed)
        made = runner.serve(request, runner.gather(request, number), number)
        assert difference(made) is None
        for slot, item in enumerate(made.slot_items):
            pool = made.pools[made.slot_pools[slot]].pool
            had[pool] += 1
            place = {"user": "u", "request_id": request.request_id, "slot": slot, "item": item}
            runner.react(Seen(event_id=f"s{number}.{slot}", **place), number)
            if random.random() < rates[pool]:
                runner.react(Acted(event_id=f"a{number}.{slot}", action="like", **place), number)
    return {pool: count / (SLOTS * feeds) for pool, count in had.items()}


def test_what_is_missing_is_made_up_for_and_what_is_there_anyway_is_not_asked_for() -> None:
    policy = policy_of(a=0.0, b=0.1, c=0.2)
    assert long_run_floors({}, policy) == {"b": 0.1, "c": 0.2}
    assert long_run_floors(viewed(a=1e6, b=0.0, c=0.0), policy) == {"b": MOST * 0.1, "c": MOST * 0.2}
    floors = long_run_floors(viewed(a=70.0, b=10.0, c=20.0), policy)
    assert floors == pytest.approx({"b": 0.1, "c": 0.2})
    assert long_run_floors(viewed(a=50.0, b=10.0, c=40.0), policy)["c"] == 0.0
    assert long_run_floors(viewed(a=72.0, b=8.0, c=20.0), policy)["b"] == pytest.approx(0.18)


def test_parts_of_a_slot_are_right_in_the_mean() -> None:
    policy = policy_of(a=0.05, b=0.3)
    rows = [rounded_floors(policy, {"a": 0.05, "b": 0.3}, 10, "u", f"{n}") for n in range(4000)]
    means, errors = np.mean(rows, axis=0), np.std(rows, axis=0) / np.sqrt(len(rows))
    assert abs(means[0] - 0.5) < 5.5 * errors[0]  # two sides of the normal beyond it are 4e-8
    assert (np.array(rows)[:, 1] == 3).all()
    assert set(np.array(rows)[:, 0]) == {0, 1}


def test_a_pool_that_nobody_likes_gets_its_share_of_all_views_and_no_more() -> None:
    """A share of .15 of 8 slots is no whole number of them."""
    rates = {"good": 0.4, "dull": 0.0}
    without = lived(policy_of(good=0.0, dull=0.0), rates, 250)
    assert without["dull"] < 0.1
    with_share = lived(policy_of(good=0.0, dull=0.15), rates, 250)
    assert with_share["dull"] == pytest.approx(0.15, abs=0.02)


def test_a_share_costs_nothing_where_the_pool_is_looked_at_anyway() -> None:
    rates = {"good": 0.4, "dull": 0.0}
    assert lived(policy_of(good=0.5, dull=0.0), rates, 120)["good"] > 0.9
