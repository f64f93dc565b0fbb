"""Asks what-if about policies whose worth is known, and writes docs/proof/what_if.json.

Every pair is a recording of its own, of simulated users who are shown feeds mixed at random, and one policy. How
often the intervals hold the truth is counted over all pairs; the policies' estimates are ranked against the truth.
The truth is what the world says of the pages that the policy itself makes for such users and states, over other
recordings.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from proof_setting import commit, machine  # noqa: E402

from engine.decision import Decision  # noqa: E402
from engine.events import Acted, Request, Seen  # noqa: E402
from engine.facts import Facts  # noqa: E402
from engine.offline.off_policy import METHODS  # noqa: E402
from engine.offline.verdict import Verdict, verdict_of  # noqa: E402
from engine.policy import BlendPolicy, Policy  # noqa: E402
from engine.pool_policy import PoolPolicy  # noqa: E402
from engine.serve import serve  # noqa: E402
from engine.what_if import Match, Matching  # noqa: E402
from simulator.closed_loop import FeedloomLife, policy_for  # noqa: E402
from simulator.worlds import WORLDS, World  # noqa: E402
from streams.embedded import EmbeddedRunner  # noqa: E402
from streams.past import Input, RecordedPast, Traffic  # noqa: E402
from streams.recording import Entry  # noqa: E402
from streams.what_if import Question, WhatIf, asked_of  # noqa: E402

USERS, FEEDS, SAMPLES = 200, 2, 256
BUCKET = 0.98  # of the recorded feeds are mixed at random
TRUTHS = 24  # recordings that the truth is the mean over
TRUTH_SEEDS = 10_000_000  # where their seeds begin
RANKED_SEED = 5_000_000
EVERY_RECORDS = 64  # of a version of the population


class Setting(NamedTuple):
    """A world, how slots are matched, and how many pairs there are of it."""

    world: str
    match: Match
    pairs: int
    policies: Sequence[str]
    ranked_users: int = 0  # of one larger recording that is asked about all policies


def shares(*ratios: float, **of_blend: Any) -> Policy:
    """The policy of the fixed-ratio blend."""
    pools = {name: PoolPolicy("external", ratio=ratio) for name, ratio in zip("abc", ratios, strict=True)}
    return Policy(pools=pools, blend=BlendPolicy(draw="fixed", **of_blend))


def blended(a: PoolPolicy | None = None, c: PoolPolicy | None = None, **of_blend: Any) -> Policy:
    """A policy that draws from beliefs, with guarantees for the first and the last pool."""
    plain = PoolPolicy("external")
    return Policy(pools={"a": a or plain, "b": plain, "c": c or plain}, blend=BlendPolicy(**of_blend))


POLICIES: dict[str, Policy] = {
    "as it ships": blended(),
    "bold": blended(temperature=0.005),
    "timid": blended(temperature=1.0, returns="webster"),
    "means": blended(draw="mean"),
    "a draw for each slot": blended(draw="slot"),
    "winner": blended(returns="winner"),
    "winner by slot": blended(draw="slot", returns="winner"),
    "mixed at random": blended(epsilon=0.9, epsilon_known=0.9),
    "a at most a tenth": blended(a=PoolPolicy("external", cap=0.1)),
    "a at most three tenths": blended(a=PoolPolicy("external", cap=0.3)),
    "c at most a tenth": blended(c=PoolPolicy("external", cap=0.1)),
    "c never": blended(c=PoolPolicy("external", cap=0.0)),
    "c on top": blended(c=PoolPolicy("external", pinned=(0, 1, 2))),
    "six of c": blended(c=PoolPolicy("external", required=6)),
    "seven of a": blended(a=PoolPolicy("external", required=7)),
    "half is a": blended(a=PoolPolicy("external", floor=0.5, floor_views=1e6)),
    "all a": shares(1.0, 0.0, 0.0),
    "all b": shares(0.0, 1.0, 0.0),
    "all c": shares(0.0, 0.0, 1.0),
    "a and b": shares(1.0, 1.0, 0.0),
    "a and c": shares(1.0, 0.0, 1.0),
    "b and c": shares(0.0, 1.0, 1.0),
    "more of a": shares(3.0, 1.0, 1.0),
    "more of c": shares(1.0, 1.0, 3.0),
}
NEAR = ("as it ships", "a draw for each slot", "mixed at random", "timid", "winner by slot")
SETTINGS = (
    Setting("static", "pool", 2000, tuple(POLICIES), 2000),
    Setting("satiation", "pool", 120, tuple(POLICIES)),
    Setting("cascade", "pool", 120, tuple(POLICIES)),
    Setting("satiation", "item", 100, NEAR),
)


class Kept:
    """A log that is kept in memory."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep them."""
        self.entries += entries


def bucket(world: World, seed: int) -> Policy:
    """The policy of a recording."""
    policy = policy_for(world, Policy())
    return replace(
        policy,
        blend=replace(policy.blend, seed=seed, epsilon=BUCKET, epsilon_known=BUCKET),
        population=replace(policy.population, every_records=EVERY_RECORDS),
    )


def asked(name: str, seed: int) -> Policy:
    """A policy to ask about."""
    policy = POLICIES[name]
    return replace(policy, blend=replace(policy.blend, seed=seed))


def recorded(world: World, seed: int, users: int = USERS) -> tuple[Policy, list[Input]]:
    """A recording, and its policy."""
    policy, log = bucket(world, seed), Kept()
    FeedloomLife(world, policy, seed, users, FEEDS, log=log).run()
    return policy, [Input(entry.at_ms, entry.value, f"offset {entry.offset}") for entry in log.entries]


def estimated(setting: Setting, seed: int, name: str, users: int = USERS) -> Verdict:
    """What a recording says of a policy."""
    recorded_policy, inputs = recorded(WORLDS[setting.world], seed, users)
    _, usable, _ = asked_of(recorded_policy, asked(name, seed), setting.match)
    delta = [one.value.delta for one in inputs if isinstance(one.value, Decision)][-1] or 1.0
    question = Question(usable, Matching(setting.match, explored_only=True, samples=SAMPLES, delta=delta))
    past = RecordedPast(recorded_policy)
    traffic = Traffic(recorded_policy, past, users * FEEDS, delta, lambda: iter(inputs))
    return verdict_of(WhatIf(traffic, question).read())


def truths(world: World, names: Sequence[str], recordings: int) -> dict[str, list[float]]:
    """By policy and recording, the mean worth of the pages that the policy makes for the recorded states."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(TRUTH_SEEDS, TRUTH_SEEDS + recordings):
        policy, inputs = recorded(world, seed)
        policies = {name: asked_of(policy, asked(name, seed + TRUTH_SEEDS), None)[1] for name in names}
        worth: dict[str, list[float]] = {name: [] for name in names}
        runner, requests = EmbeddedRunner(policy), {}
        for one in inputs:
            if isinstance(one.value, Request):
                requests[one.value.user, one.value.request_id] = one.value
            elif isinstance(one.value, Decision):
                request = requests.pop((one.value.request.user, one.value.request.request_id))
                gathered = runner.gather(request, one.at_ms)
                for name in names:
                    offered = gathered._replace(facts=Facts(policies[name], gathered.facts.population))
                    page = serve(runner.state(request.user), request, offered, one.at_ms).slot_pools
                    worth[name].append(world.expected_reward(page, int(request.request_id)))
                runner.adopt(request, one.value, one.at_ms)
            elif isinstance(one.value, Seen | Acted):
                runner.react(one.value, one.at_ms)
        for name in names:
            found[name].append(float(np.mean(worth[name])))
    return found


def proof_of(setting: Setting, pairs: int, recordings: int) -> dict[str, Any]:
    """All pairs of one setting."""
    started = time.perf_counter()
    names = [setting.policies[pair % len(setting.policies)] for pair in range(pairs)]
    with ProcessPoolExecutor(cpu_count(), get_context("spawn")) as processes:
        asked_for = processes.submit(truths, WORLDS[setting.world], setting.policies, recordings)
        verdicts = list(processes.map(estimated, [setting] * pairs, range(pairs), names, chunksize=8))
        known = asked_for.result()
        singles: list[Verdict] = []
        if setting.ranked_users:
            one, users = [RANKED_SEED] * len(setting.policies), [setting.ranked_users] * len(setting.policies)
            singles = list(processes.map(estimated, [setting] * len(one), one, setting.policies, users))
    truth = {name: float(np.mean(values)) for name, values in known.items()}
    refused: dict[str, int] = {}
    hits: dict[str, list[bool]] = {method: [] for method in METHODS}
    widths: dict[str, list[float]] = {method: [] for method in METHODS}
    means: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    for name, verdict in zip(names, verdicts, strict=True):
        if verdict.refused:
            refused[name] = refused.get(name, 0) + 1
            continue
        for method, reward in verdict.methods.items():
            low, high = reward.asked.low, reward.asked.high
            assert low is not None
            assert high is not None
            hits[method].append(low <= truth[name] <= high)
            widths[method].append(high - low)
            means[method].setdefault(name, []).append(reward.asked.mean)
    return {
        "commit": commit(),
        "pairs": pairs,
        "refused": refused,
        "truth": {name: round(value, 6) for name, value in truth.items()},
        "truth_error": round(max(float(np.std(v, ddof=1)) / len(v) ** 0.5 for v in known.values()), 6),
        "methods": {
            method: figures(hits[method], widths[method], means[method], truth)
            for method in METHODS
            if hits[method]
        },
        "ranking": ranking(setting, singles, truth) if singles else None,
        "seconds": round(time.perf_counter() - started, 1),
    }


def figures(
    hits: list[bool], widths: list[float], means: dict[str, list[float]], truth: dict[str, float]
) -> dict[str, Any]:
    """Coverage, width and bias, and how the means over recordings go with the truth."""
    names = list(means)
    true = np.array([truth[name] for name in names])
    mean = np.array([np.mean(means[name]) for name in names])
    return {
        "covered": sum(hits),
        "of": len(hits),
        "coverage": round(float(np.mean(hits)), 4),
        "width": round(float(np.mean(widths)), 4),
        "bias": {name: round(float(value), 4) for name, value in zip(names, mean - true, strict=True)},
        "correlation_of_means": round(correlation(mean, true), 4),
    }


def ranking(setting: Setting, verdicts: list[Verdict], truth: dict[str, float]) -> dict[str, Any]:
    """How the estimates of all policies from one recording go with the truth."""
    true = np.array([truth[name] for name in setting.policies])
    found = np.array([verdict.reward.asked.mean for verdict in verdicts])
    return {
        "users": setting.ranked_users,
        "policies": len(verdicts),
        "estimates": {name: round(float(value), 4) for name, value in zip(setting.policies, found, strict=True)},
        "correlation": round(correlation(found, true), 4),
        "rank_correlation": round(correlation(found.argsort().argsort(), true.argsort().argsort()), 4),
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, help="of each setting at most so many")
    parser.add_argument("--settings", type=int, nargs="*", default=list(range(len(SETTINGS))))
    parser.add_argument("--truths", type=int, default=TRUTHS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "proof" / "what_if.json")
    given = parser.parse_args()
    done = json.loads(given.out.read_text())["settings"] if given.out.exists() else {}
    for number in given.settings:
        setting = SETTINGS[number]
        print(f"{setting.world} by {setting.match} …", file=sys.stderr, flush=True)
        pairs = min(setting.pairs, given.pairs or setting.pairs)
        done[f"{setting.world} by {setting.match}"] = proof_of(setting, pairs, given.truths)
        result = {"machine": machine(), "users": USERS, "feeds": FEEDS, "settings": done}
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
