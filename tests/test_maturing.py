"""Delays, satiation and ageing: what the engine fits from its own log is what was put into it.

Random numbers are seeded; each bound is 4 to 6 standard errors of the quantity itself, or derived where it stands.
"""

import numpy as np
import pytest
from test_fold import decision

from blending.delay import Delay, fitted_delay, prior_delay
from blending.returns import DELTAS, fitted_delta, returns_table
from engine.events import Acted, Seen
from engine.evidence import evidence_at
from engine.fold import close_due, fold
from engine.policy import MemoryPolicy
from engine.state import UserState

FEED_MS = 576_000  # 150 feeds are one window
NEVER = 10**12
MEMORY = MemoryPolicy(half_life_ms=10**18, half_life_slots=NEVER, open_max=NEVER)


def test_the_returns_models_are_what_their_formulas_say() -> None:
    assert returns_table(4, 1.0).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert returns_table(4, None).tolist() == [1.0, 1 / 3, 1 / 5, 1 / 7]
    assert returns_table(3, 0.5).tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("delta", [1.0, 0.92, 0.85, 0.6])
def test_satiation_is_recovered_from_counts_by_rank(delta: float) -> None:
    """The standard error of ln(delta) is 1 / sqrt(information); 6 of them, plus half a step of the grid."""
    random = np.random.Generator(np.random.PCG64(3))
    ranks = np.arange(10)
    exposure = np.full((3, 10), 40_000.0)
    rates = np.array([0.1, 0.08, 0.05])[:, None] * delta**ranks
    successes = random.binomial(40_000, rates).astype(float)
    weights = successes / successes.sum(axis=1, keepdims=True)
    variance = (weights * ranks**2).sum(axis=1) - (weights * ranks).sum(axis=1) ** 2
    error = 1.0 / np.sqrt((successes.sum(axis=1) * variance).sum())
    found = fitted_delta(successes, exposure, 0.6)
    assert abs(np.log(found / delta)) < 6 * error + 0.02, found


def test_without_any_success_satiation_is_what_was_believed() -> None:
    prior = 0.6 * 1.0 + 0.4 * DELTAS[1:].mean()
    assert fitted_delta(np.zeros((2, 5)), np.ones((2, 5)), 0.6) == pytest.approx(prior)


@pytest.mark.parametrize("observed", [20.0, 150.0])
@pytest.mark.parametrize(("mean", "instant"), [(5.0, 0.0), (50.0, 0.0), (50.0, 0.5)])
def test_a_delay_is_recovered_from_actions_that_were_waited_for_only_so_long(
    mean: float, instant: float, observed: float
) -> None:
    """40,000 actions; the grid's step is a factor of 512 ** (1 / 18), half of it is 19 %; instant within .05."""
    random = np.random.Generator(np.random.PCG64(5))
    delays = random.exponential(mean, 40_000)
    at_once = random.random(40_000) < instant
    late = delays[~at_once & (delays <= observed)]
    found = fitted_delay(
        np.array([observed]), np.array([float(late.size)]), np.array([late.sum()]), float(at_once.sum()), 150.0
    )
    assert 1 / 1.2 < found.mean_ms / mean < 1.2
    assert abs(found.instant - instant) < 0.05


def test_of_young_actions_the_truncated_fit_is_right_where_the_plain_mean_is_far_off() -> None:
    random = np.random.Generator(np.random.PCG64(7))
    delays = random.exponential(50.0, 40_000)
    late = delays[delays <= 20.0]
    assert late.mean() < 10.0
    found = fitted_delay(np.array([20.0]), np.array([float(late.size)]), np.array([late.sum()]), 0.0, 150.0)
    assert found.mean_ms > 40.0


def test_of_a_pool_that_nobody_acted_on_a_view_of_a_twentieth_of_the_window_counts_less_than_half() -> None:
    prior = prior_delay(150.0)
    assert prior.arrived(0.0) == pytest.approx(0.1)
    assert prior.arrived(7.5) < 0.5
    assert prior.arrived(150.0) > 0.999


def test_where_actions_come_at_once_ten_of_them_are_enough_to_say_so() -> None:
    nothing = np.zeros(1)
    instant = [fitted_delay(np.array([150.0]), nothing, nothing, count, 150.0).instant for count in (1.0, 10.0)]
    assert instant == pytest.approx([1.1 / 2, 10.1 / 11])


def test_open_decisions_are_read_with_the_delays_known_now_and_close_with_those_they_were_made_with() -> None:
    made_with, known_now = Delay(0.5, 5.0 * FEED_MS), Delay(0.0, 50.0 * FEED_MS)
    state = fold(UserState(), decision("r", [0, 1], delays=(made_with, made_with)), 0, MEMORY).state
    for slot in (0, 1):
        seen = Seen(event_id=f"s{slot}", user="u", request_id="r", slot=slot, item=f"i{slot}")
        state = fold(state, seen, 0, MEMORY).state
    believed = {("a", "like"): known_now}
    now_ms = 10 * FEED_MS
    read = evidence_at(state, now_ms, MEMORY, believed)
    assert read["a", "like"].exposure == pytest.approx(known_now.arrived(now_ms))
    for cell in (("a", "hide"), ("b", "like")):  # of which nothing is believed
        assert read[cell].exposure == pytest.approx(made_with.arrived(now_ms))
    closed, _ = close_due(state, MEMORY.window_ms + 1, MEMORY)
    assert evidence_at(closed, MEMORY.window_ms + 1, MEMORY, believed)["a", "like"].exposure == pytest.approx(
        made_with.arrived(MEMORY.window_ms)
    )


def test_nobody_knows_a_delay_before_an_action() -> None:
    nothing = np.zeros(1)
    found = fitted_delay(np.array([150.0]), nothing, nothing, 0.0, 150.0)
    assert found.mean_ms == pytest.approx(prior_delay(150.0).mean_ms)
    assert found.instant == prior_delay(150.0).instant


@pytest.mark.parametrize("views", [25, 50, 100, 200, 400])
def test_a_true_tenth_reads_a_tenth_however_young_the_views(views: int) -> None:
    """One view a feed, exponential delays of mean 50 feeds, a window of 150: S/E over 150 users.

    The bound is 4 standard errors of the ratio over users, by the delta method; five such tests have a false
    alarm in 3 of 10,000 seeds, and this seed has none.
    """
    delay = Delay(0.0, 50.0 * FEED_MS)
    read = np.array([_read(seed, views, delay) for seed in range(150)])
    ratio = read[:, 0].sum() / read[:, 1].sum()
    error = np.sqrt(((read[:, 0] - ratio * read[:, 1]) ** 2).sum()) / read[:, 1].sum()
    assert abs(ratio - 0.1) < 4 * error
    assert error < 0.03


def _read(seed: int, views: int, delay: Delay) -> tuple[float, float]:
    """S and E of one user after so many views, folded in the order of the log."""
    random = np.random.Generator(np.random.PCG64((11, seed)))
    acts = random.random(views) < 0.1
    delays = random.exponential(50.0, views)
    log: list[tuple[float, int, object]] = []
    for feed in range(views):
        log.append((feed, 0, decision(f"{feed}", [0], at_ms=feed * FEED_MS, delays=(delay, delay))))
        log.append((feed, 1, Seen(event_id=f"s{feed}", user="u", request_id=f"{feed}", slot=0, item="i0")))
        if acts[feed]:
            action = Acted(event_id=f"a{feed}", user="u", request_id=f"{feed}", slot=0, item="i0", action="like")
            log.append((feed + delays[feed], 2, action))
    state = UserState()
    for at, _, value in sorted(log, key=lambda entry: entry[:2]):
        if at <= views:
            state = fold(state, value, round(at * FEED_MS), MEMORY).state
    tally = evidence_at(state, views * FEED_MS, MEMORY)["a", "like"]
    return tally.successes, tally.exposure


def test_evidence_of_a_pool_ages_with_the_slots_it_was_given_and_not_with_those_of_others() -> None:
    memory = MemoryPolicy(half_life_ms=10**18, half_life_slots=10)
    state = UserState()
    served = [0, 0]
    for number, pools in enumerate([[0] * 5, [1] * 10, [0] * 10]):
        made = decision(f"r{number}", pools, served=(served[0], served[1]))
        state = fold(state, made, 0, memory).state
        served = [served[pool] + pools.count(pool) for pool in (0, 1)]
        if number == 0:
            seen = Seen(event_id="s", user="u", request_id="r0", slot=0, item="i0")
            state = fold(state, seen, 0, memory).state
        expected = 0.5 if number == 2 else 1.0
        assert evidence_at(state, 0, memory)["a", "like"].exposure == pytest.approx(expected)
