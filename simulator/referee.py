"""Says what was lost: every policy's regret in the same world, against the world's best feeds.

Regret is the expected reward lost against the best allocation of the same world, summed over users and feeds.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from multiprocessing import get_context
from os import cpu_count
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from blending.types import FloatArray
from engine.policy import Policy
from simulator.closed_loop import FeedloomLife, Life, live_with, policy_for
from simulator.peers import available_peers
from simulator.policies import ClosedLoopPolicy, Oracle, baselines
from simulator.users import User
from simulator.worlds import WORLDS, World
from streams.embedded import Log

FEEDLOOM, ORACLE = "feedloom", "oracle"
RECOVERED = 0.9  # of the best reward
SMOOTHED_FEEDS = 25  # over which a reward is averaged before it is called recovered


class PolicyFigures(Struct, frozen=True):
    """Means over seeds; the bounds are the mean's 95 % interval, null with one seed.

    `recovery_feeds` is how long after a change the mean reward is back at 90 % of the best, averaged over the
    changes; the whole period where it never is, null where nothing drifts.
    """

    regret: float
    regret_low: float | None
    regret_high: float | None
    regret_p95: float
    reward_per_feed: float
    recovery_feeds: float | None


class Simulation(Struct, frozen=True):
    """The JSON document of `simulate`."""

    scenario: str
    seed: int
    feeds: int
    digest: str
    policies: dict[str, PolicyFigures]


class Curves(NamedTuple):
    """For pictures: mean regret per feed by policy, and feedloom's share of slots, shape (feeds, pools)."""

    regret: dict[str, FloatArray]
    shares: FloatArray
    pools: tuple[str, ...]


class Trial(NamedTuple):
    """One seed: by policy, regret and reward per feed, summed over users; and feedloom's slots and digest."""

    regret: dict[str, FloatArray]
    reward: dict[str, FloatArray]
    slots: FloatArray
    digest: str


class Plan(NamedTuple):
    """What every seed runs. `compared` leaves out everything but feedloom and the oracle when false."""

    scenario: str
    policy: Policy
    feeds: int
    users: int
    batch: int
    compared: bool = True


def trial(plan: Plan, seed: int, log: Log | None = None) -> Trial:
    """Run one seed."""
    world = WORLDS[plan.scenario]
    ours = FeedloomLife(world, seeded(plan, seed), seed, plan.users, plan.feeds, batch=plan.batch, log=log)
    digest = ours.run()
    lives = {FEEDLOOM: ours.life}
    for number in range(plan.users):
        user = User(world, seed, number)
        for name, policy in _compared(plan, world, _mixed(seed, number)).items():
            life = lives.setdefault(name, Life(world, plan.users, plan.feeds))
            live_with(policy, life, user, number, world)
    return Trial(
        {name: life.regret for name, life in lives.items()},
        {name: life.rewards.sum(axis=0) for name, life in lives.items()},
        ours.life.slots.astype(np.float64),
        digest,
    )


def seeded(plan: Plan, seed: int) -> Policy:
    """The policy of one seed: this world's pools, and the seed for all draws."""
    policy = policy_for(WORLDS[plan.scenario], plan.policy)
    return replace(policy, blend=replace(policy.blend, seed=seed))


def _compared(plan: Plan, world: World, seed: int) -> dict[str, ClosedLoopPolicy]:
    """One user's policies to compare with."""
    oracle: dict[str, ClosedLoopPolicy] = {ORACLE: Oracle(world)}
    if not plan.compared:
        return oracle
    pools = len(world.pools)
    return oracle | baselines(pools, seed) | available_peers(pools, seed)[0]


def _mixed(seed: int, user: int) -> int:
    """A baseline's seed for one of several users."""
    return int(np.random.SeedSequence((seed, user)).generate_state(1)[0])


def trials(plan: Plan, seeds: range) -> Iterator[Trial]:
    """Run many seeds in parallel processes; they come in order."""
    workers = min(len(seeds), cpu_count() or 1)
    if workers == 1:
        yield from (trial(plan, seed) for seed in seeds)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as processes:
        yield from processes.map(trial, [plan] * len(seeds), seeds)


def judged(plan: Plan, seed: int, results: Iterable[Trial]) -> tuple[Simulation, Curves]:
    """The figures of all seeds, and the curves of the picture."""
    all_of = list(results)
    names = list(all_of[0].regret)
    regret = {name: np.stack([one.regret[name] for one in all_of]) for name in names}
    reward = {name: np.stack([one.reward[name] for one in all_of]) for name in names}
    period = WORLDS[plan.scenario].rotation_feeds
    best = (reward[ORACLE] + regret[ORACLE]).mean(axis=0)
    figures = {name: _figures(plan, regret[name], reward[name], best, period) for name in names}
    digest = blake2b("".join(one.digest for one in all_of).encode(), digest_size=16).hexdigest()
    slots = sum(one.slots for one in all_of[1:]) + all_of[0].slots
    curves = Curves(
        {name: curve.mean(axis=0) for name, curve in regret.items()},
        slots / slots.sum(axis=1, keepdims=True),
        WORLDS[plan.scenario].pools,
    )
    return Simulation(plan.scenario, seed, plan.feeds, digest, figures), curves


def _figures(plan: Plan, regret: FloatArray, reward: FloatArray, best: FloatArray, period: int) -> PolicyFigures:
    """Of (seeds, feeds) regrets and rewards."""
    totals = regret.sum(axis=1)
    error = float(totals.std(ddof=1) / np.sqrt(totals.size)) if totals.size > 1 else None
    mean = float(totals.mean())
    return PolicyFigures(
        regret=mean,
        regret_low=None if error is None else mean - 1.96 * error,
        regret_high=None if error is None else mean + 1.96 * error,
        regret_p95=float(np.quantile(totals, 0.95)),
        reward_per_feed=float(reward.mean()) / plan.users,
        recovery_feeds=recovery_feeds(reward.mean(axis=0), best, period),
    )


def recovery_feeds(reward: FloatArray, best: FloatArray, period: int) -> float | None:
    """Feeds from a change until the smoothed reward is back at RECOVERED of the best, averaged over changes."""
    waits = []
    for change in range(period, reward.size - SMOOTHED_FEEDS + 1, period) if period else ():
        end = min(change + period, reward.size)
        smooth = np.convolve(reward[change:end], np.full(SMOOTHED_FEEDS, 1.0 / SMOOTHED_FEEDS), "valid")
        back = np.flatnonzero(smooth >= RECOVERED * best[change])
        waits.append(float(back[0]) if back.size else float(end - change))
    return float(np.mean(waits)) if waits else None
