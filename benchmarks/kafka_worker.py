"""What one worker takes over Apache Kafka, beside peers of the same run: reactions per second, latency, freshness.

It starts a broker of its own. A pace is of one process with four partitions over a topic that is full before it
begins, one contender after another; latency is from the moment that a request was due, at 500 requests and 2,000
reactions a second, an echo and ours in turn. Figures are medians over rounds; `--json` prints one document. Of the
ratios, those of processor time are the ones to trust where others use the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import math
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import numpy as np
from kafka_broker import BrokerError, cluster
from kafka_contenders import Pace, Stage, pace, paused, running
from kafka_latency import caught_up_ms, client, freshness_ms, latencies_ms
from kafka_load import PARTITIONS, POLICY, Feed, LoadError, Record, ask_all, fill, interleaved, request_of

from streams.topics import create

REQUESTS_PER_S, REACTIONS_PER_S = 500, 2_000
PEERS = ("faust_table", "faust_agent")
RATES = {"feedloom": "feedback", "faust_table": "faust_table", "faust_agent": "faust_agent"}  # names of figures

Figures = dict[str, list[float]]  # by name, an entry per round


class Size(NamedTuple):
    """How much is measured."""

    rounds: int = 3
    users: int = 2_000
    feeds: int = 5  # of each user, which reactions refer to
    seconds_max: float = 15.0  # that a contender is watched
    latency_seconds: float = 10.0
    probes: int = 200


QUICK = Size(rounds=1, users=500, feeds=8, seconds_max=6.0, latency_seconds=2.0, probes=40)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one small round: that it runs, not how fast")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--peers-only", action="store_true", help="leave our worker out; the echo makes the feeds")
    given = parser.parse_args()
    size = QUICK if given.quick else Size()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it retries where a topic is new, and says so
    size = size._replace(rounds=given.rounds or size.rounds)
    try:
        figures = measure(size, "echo" if given.peers_only else "feedloom")
    except (BrokerError, LoadError) as error:
        print(f"kafka_worker: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(document(figures)))
    else:
        show(figures)
    return 0


def measure(size: Size, decider: str) -> Figures:
    """All rounds, over one broker. `decider` makes the feeds that reactions refer to."""
    figures: Figures = {}
    with cluster() as kafka, tempfile.TemporaryDirectory(prefix="feedloom-bench-") as folder:
        for number in range(1, size.rounds + 1):
            for part in one_round(kafka.bootstrap, Path(folder), number, size, decider):
                for name, value in part.items():
                    figures.setdefault(name, []).append(value)
                    print(f"round {number}: {name} {value:,.1f}", file=sys.stderr, flush=True)
    return figures


def one_round(bootstrap: str, folder: Path, number: int, size: Size, decider: str) -> Iterator[dict[str, float]]:
    """Every contender once, on topics of this round."""
    yield rates(new_stage(bootstrap, folder, f"rate{number}"), size, decider, number)
    for contender in ("echo", "feedloom")[: 1 if decider == "echo" else 2]:
        stage = new_stage(bootstrap, folder, f"{contender}{number}")
        yield asyncio.run(latency(stage, contender, size, number))


def new_stage(bootstrap: str, folder: Path, name: str) -> Stage:
    stage = Stage(bootstrap, f"{folder.name}.{name}.", folder / name)  # a broker may have topics of another run
    stage.folder.mkdir()
    (stage.folder / "policy.toml").write_text(POLICY)
    create(stage.settings("load"), PARTITIONS, replication=1)
    return stage


def rates(stage: Stage, size: Size, decider: str, seed: int) -> dict[str, float]:
    """The pace of each contender, over the same full topic.

    Ours, which has made the feeds, is held while the topic is filled: as a start it would fold what is there
    before it tells its offsets. The others start when the topic is full.
    """
    figures: dict[str, float] = {}
    with running(stage, decider) as process:
        feeds = asyncio.run(ask_all(stage.settings("load"), requests(size, seed)))
        with paused(process):
            total = fill_feedback(stage, feeds, seed)
        if decider in RATES:
            figures |= figures_of(decider, pace(stage.settings(decider), process, total, size.seconds_max))
    for name in PEERS:
        with running(stage, name) as process:
            figures |= figures_of(name, pace(stage.settings(name), process, total, size.seconds_max))
    return figures


def figures_of(contender: str, of: Pace) -> dict[str, float]:
    figures = {f"{RATES[contender]}_per_s": of.per_s, f"{RATES[contender]}_cpu_us": of.cpu_us}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def requests(size: Size, seed: int) -> list[Record]:
    random = Random(seed)
    return [
        request_of(f"user-{user}", f"u{user}-f{feed}", random)
        for feed in range(size.feeds)
        for user in range(size.users)
    ]


def fill_feedback(stage: Stage, feeds: Sequence[Feed], seed: int) -> int:
    """Put the reactions of all readers into the topic; how many they are."""
    records = interleaved(feeds, Random(seed))
    asyncio.run(fill(stage.settings("load"), "feedback", records))
    return len(records)


async def latency(stage: Stage, contender: str, size: Size, seed: int) -> dict[str, float]:
    """p50 and p99 of a contender under the load, and freshness for ours."""
    with running(stage, contender):
        async with client(stage.settings("load"), seed) as one:
            gc.disable()  # a pause of the load would be taken for one of the worker
            took = await latencies_ms(one, REQUESTS_PER_S, REACTIONS_PER_S, size.latency_seconds)
            name = "echo" if contender == "echo" else "request"
            figures = {f"{name}_p50_ms": percentile(took, 50), f"{name}_p99_ms": percentile(took, 99)}
            if contender != "echo":
                figures["caught_up_ms"] = await caught_up_ms(one)
                fresh = await freshness_ms(one, size.probes)
                figures |= {"freshness_p50_ms": percentile(fresh, 50), "freshness_p99_ms": percentile(fresh, 99)}
            gc.enable()
    return figures


def percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def ratios(figures: Figures) -> Figures:
    """What is promised as a ratio, by round: contenders of one round met the same machine."""
    pairs = {
        "feedback_to_faust_table": ("feedback_per_s", "faust_table_per_s"),
        "feedback_to_faust_agent": ("feedback_per_s", "faust_agent_per_s"),
        "faust_table_cpu_to_feedback": ("faust_table_cpu_us", "feedback_cpu_us"),
        "faust_agent_cpu_to_feedback": ("faust_agent_cpu_us", "feedback_cpu_us"),
        "request_p99_to_echo_p99": ("request_p99_ms", "echo_p99_ms"),
    }
    return {
        name: [one / other for one, other in zip(figures[over], figures[under], strict=True)]
        for name, (over, under) in pairs.items()
        if over in figures and under in figures
    }


def document(figures: Figures) -> dict[str, object]:
    """Medians, and under `spread` the least and the greatest of all rounds."""
    every = figures | ratios(figures)
    return {
        **{name: round(median(values), 3) for name, values in every.items()},
        "spread": {name: [round(min(values), 3), round(max(values), 3)] for name, values in every.items()},
        "rounds": len(next(iter(figures.values()))),
        "machine": machine(),
    }


def machine() -> str:
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(figures: Figures) -> None:
    rounds = len(next(iter(figures.values())))
    print(f"{machine()}; medians of {rounds} rounds, least and greatest")
    for name, values in (figures | ratios(figures)).items():
        print(f"  {name:<26} {median(values):>12,.2f}   {min(values):>12,.2f} {max(values):>12,.2f}")


if __name__ == "__main__":
    sys.exit(main())
