"""Runs `feedloom serve` and a worker for ten minutes each under load; writes docs/proof/soak.json and a picture.

Memory and descriptors are sampled while users ask and react; a lag of a million reactions is worked off by a worker
and folded by the embedded engine; and a partition is taken over beside a bare scan of the same store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

import aiohttp  # noqa: E402
from kafka_broker import Cluster, cluster, free_ports  # noqa: E402
from proof_setting import commit, machine  # noqa: E402

from engine.events import Organic, Seen  # noqa: E402
from engine.policy import Policy  # noqa: E402
from engine.revisions import Revisions  # noqa: E402
from engine.state import Lesson, Reacted, UserState  # noqa: E402
from streams.codec import encode  # noqa: E402
from streams.local_topics import LocalTopics  # noqa: E402
from streams.log import Unwritten  # noqa: E402
from streams.partition import Partition  # noqa: E402
from streams.store import Changed, Changes, PartitionStore, Position  # noqa: E402

OUT = ROOT / "docs" / "proof" / "soak.json"
PICTURE = ROOT / "docs" / "images" / "soak.png"
USERS, ITEMS, SLOTS, PER_SECOND = 200, 80, 6, 60  # few, so that what can be known of them is soon known
SAMPLE_SECONDS = 2.0
WARM_PART = 0.3  # of a soak, after which memory is to be flat
POLICY = """
[pools.a]
kind = "external"
[pools.popular]
kind = "popular"
[pools.similar]
kind = "similar"
[memory]
window_ms = 30000
history_max = 100
open_max = 50
waiting_max = 50
"""


PARTS = ("recovery", "lag embedded", "lag worker", "soak embedded", "soak worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts", nargs="*", default=PARTS, choices=PARTS, help="the others keep what is in the file"
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--lag", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000, help="in the store that is taken over")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    for part in given.parts:
        with tempfile.TemporaryDirectory(prefix="feedloom-soak-") as folder, cluster() as kafka:
            name, _, engine = part.partition(" ")
            made_of = {"commit": commit(), **run_part(part, Path(folder) / "at", kafka, given)}
        if engine:
            found.setdefault(name, {})[engine] = made_of
        else:
            found[name] = made_of
        print(part, {key: value for key, value in made_of.items() if key != "samples"}, file=sys.stderr, flush=True)
        OUT.write_text(json.dumps({**found, "machine": machine()}, indent=1) + "\n")
    if {"soak", "lag"} <= found.keys():
        picture(found)


def run_part(part: str, folder: Path, kafka: Cluster, given: argparse.Namespace) -> dict[str, Any]:
    """One part of the proof."""
    seconds = 60.0 * given.minutes
    if part == "recovery":
        return recovery(folder, given.users)
    at = made(folder)
    if part == "lag embedded":
        return embedded_lag(at, given.lag)
    if part == "lag worker":
        return worker_lag(at, kafka, given.lag)
    return embedded_soak(at, seconds) if part == "soak embedded" else worker_soak(at, kafka, seconds)


# Beginning and watching processes.


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "policy.toml").write_text(POLICY)
    return folder


class Watched:
    """Samples of a process: (seconds since it was first looked at, MiB of memory, descriptors)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._begun = process, time.monotonic()
        self.samples: list[tuple[float, float, int]] = []

    def look(self) -> None:
        """Take a sample."""
        at = Path(f"/proc/{self._process.pid}")
        pages = int((at / "statm").read_text().split()[1])
        seconds = round(time.monotonic() - self._begun, 1)
        self.samples.append((seconds, round(pages * 4096 / 2**20, 1), len(list((at / "fd").iterdir()))))

    async def watch(self) -> None:
        """Take samples until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_SECONDS)


def summary(samples: Sequence[tuple[float, float, int]]) -> dict[str, float]:
    """By how much memory and descriptors grew once it was warm: of the last third beside the third before."""
    warm = samples[int(WARM_PART * len(samples)) :]
    half = len(warm) // 2
    early, late = warm[:half], warm[half:]
    mean = [sum(of[1] for of in part) / len(part) for part in (early, late)]
    return {
        "mib": round(mean[1], 1),
        "growth": round(mean[1] / mean[0] - 1.0, 4),
        "descriptors": max(of[2] for of in late),
        "descriptors_grown": max(of[2] for of in late) - max(of[2] for of in early),
    }


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`feedloom serve` over a folder, and its address."""
    command = [
        "-m",
        "feedloom",
        "serve",
        "--data",
        folder / "data",
        "--port",
        "0",
        "--policy",
        folder / "policy.toml",
    ]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


# The soak.


def embedded_soak(folder: Path, seconds: float) -> dict[str, Any]:
    with serving(folder) as (process, address):
        return asyncio.run(soak(process, address, seconds))


def worker_soak(folder: Path, kafka: Cluster, seconds: float) -> dict[str, Any]:
    product = import_module("kafka_product").Product(kafka, folder, policy=POLICY)
    (port,) = free_ports(1)
    with product.worker(FEEDLOOM_HTTP_PORT=str(port), FEEDLOOM_SESSION_MS="10000") as process:
        product.wait_until_taken_over()
        found = asyncio.run(soak(process, f"http://127.0.0.1:{port}", seconds))
    product.close()
    return found


async def soak(process: subprocess.Popen[str], address: str, seconds: float) -> dict[str, Any]:
    """Users live with a server for so long."""
    watched, random, answered = Watched(process), Random(1), [0]
    async with aiohttp.ClientSession(address) as session:
        while not await ready(session):  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.2)
        watching = asyncio.create_task(watched.watch())
        begun, living = time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(round(seconds * PER_SECOND)):
            if (wait := begun + number / PER_SECOND - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(visit(session, random, number, answered))
            living.add(task)
            task.add_done_callback(living.discard)
        await asyncio.gather(*living)
        watching.cancel()
    return {"feeds": answered[0], **summary(watched.samples), "samples": watched.samples}


async def ready(session: aiohttp.ClientSession) -> bool:
    try:
        return (await session.get("/health/ready")).status == 200
    except aiohttp.ClientError:
        return False


async def visit(session: aiohttp.ClientSession, random: Random, number: int, answered: list[int]) -> None:
    """One user asks, looks, and likes some of it."""
    user, name = f"user-{random.randrange(USERS)}", f"{number}"
    candidates = {"a": [f"item-{random.randrange(ITEMS)}" for _ in range(20)]}
    asked = {"request_id": name, "user": user, "slots": SLOTS, "candidates": candidates}
    async with session.post("/v1/feeds", json=asked) as response:
        answer = await response.json()
        assert response.status == 200, answer
    answered[0] += 1
    events = []
    for slot in answer["slots"]:
        place = {"user": user, "request_id": name, "slot": slot["slot"], "item": slot["item"]}
        events.append({"kind": "seen", "event_id": f"{name}-{slot['slot']}", **place})
        if random.random() < 0.1:
            events.append({"kind": "acted", "event_id": f"{name}-{slot['slot']}+", "action": "like", **place})
    async with session.post("/v1/feedback", json=events) as response:
        assert response.status == 200


# A lag.


def reactions(count: int) -> Iterator[tuple[str, bytes]]:
    """(user, reaction) of users who were away: likes of their own, and views of feeds that nobody knows."""
    random = Random(2)
    for number in range(count):
        user, item = f"user-{random.randrange(USERS)}", f"item-{random.randrange(ITEMS)}"
        if number % 4:
            seen = Seen(event_id=f"{number}", user=user, request_id=f"{number % 997}", slot=0, item=item)
            yield user, encode(seen)
        else:
            yield user, encode(Organic(event_id=f"{number}", user=user, item=item, action="like"))


def embedded_lag(folder: Path, count: int) -> dict[str, Any]:
    """A server begins over a topic of so many reactions that its state has not seen."""
    topics, batch = LocalTopics(folder / "data", 1, 64 << 20), 1000
    rows = [Unwritten(user.encode(), value) for user, value in reactions(count)]
    at_ms = topics.now_ms()
    for begin in range(0, count, batch):
        topics.append("feedback", 0, rows[begin : begin + batch], at_ms + begin // 100)
    topics.close()
    rows.clear()
    with serving(folder) as (process, address):
        return asyncio.run(until(process, ready, address, count))


def worker_lag(folder: Path, kafka: Cluster, count: int) -> dict[str, Any]:
    """A worker begins over topics of so many reactions."""
    product = import_module("kafka_product").Product(kafka, folder, policy=POLICY)
    for number, (user, value) in enumerate(reactions(count)):
        product.send_raw("feedback", user.encode(), value)
        if number % 20_000 == 0:
            product.producer.flush()
    product.producer.flush()

    async def done(_: aiohttp.ClientSession) -> bool:
        committed = product.committed()
        return all(committed.get(place, 0) > offset for place, offset in product.last.items())

    with product.worker(FEEDLOOM_SESSION_MS="10000") as process:
        found = asyncio.run(until(process, done, "http://127.0.0.1", count))
    product.close()
    return found


async def until(
    process: subprocess.Popen[str], done: Callable[[aiohttp.ClientSession], Any], address: str, count: int
) -> dict[str, Any]:
    """Watch a process until it has worked off what waits for it."""
    watched, begun = Watched(process), time.monotonic()
    async with aiohttp.ClientSession(address) as session:
        while not await done(session):
            assert process.poll() is None
            watched.look()
            await asyncio.sleep(0.25)
    seconds = time.monotonic() - begun
    return {"events": count, "seconds": round(seconds, 1), **summary(watched.samples), "samples": watched.samples}


# Taking over.


def recovery(folder: Path, users: int, rounds: int = 5) -> dict[str, Any]:
    """How long a partition of so many users takes to be taken over, beside a bare scan of the same store."""
    folder.mkdir(parents=True)
    store, random = PartitionStore(folder / "partition-0"), Random(3)
    lessons: list[tuple[int, Lesson]] = []
    for begin in range(0, users, 1000):
        changed = []
        for number in range(begin, min(begin + 1000, users)):
            history = tuple(
                Reacted(at, f"{number}-{at}", f"item-{random.randrange(ITEMS)}", "like") for at in range(30)
            )
            changed.append(Changed(f"user-{number}", UserState(), UserState(history=history)))
        due = [(random.randrange(10**9), changed[-1].user) for _ in range(100)]
        store.write(Changes(changed, due, [], lessons, None, Position(1)))
    store.close()
    ratios, scans, takes = [], [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        store = PartitionStore(folder / "partition-0")
        Partition(0, Revisions(Policy()), store, partitions=1)
        takes.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in store.everything():
            pass
        scans.append(time.perf_counter() - begun)
        store.close()
        ratios.append(round(takes[-1] / scans[-1], 3))
    ratios.sort()
    return {
        "users": users,
        "scan_ms": round(1000 * sorted(scans)[rounds // 2], 1),
        "take_over_ms": round(1000 * sorted(takes)[rounds // 2], 1),
        "ratio": ratios[rounds // 2],
        "ratio_range": [ratios[0], ratios[-1]],
    }


# What is written.


def picture(found: dict[str, Any]) -> None:
    """Memory and descriptors over time, and memory while a lag is worked off."""
    pyplot = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for name, of in found["soak"].items():
        seconds = [sample[0] / 60.0 for sample in of["samples"]]
        axes[0].plot(seconds, [sample[1] for sample in of["samples"]], label=name)
        axes[1].plot(seconds, [sample[2] for sample in of["samples"]], label=name)
    for name, of in found["lag"].items():
        axes[2].plot([sample[0] for sample in of["samples"]], [sample[1] for sample in of["samples"]], label=name)
    events = next(iter(found["lag"].values()))["events"]
    titles = ("memory under load", "descriptors under load", f"working off {events:,}")
    for axis, title, across, up in zip(
        axes, titles, ("minutes", "minutes", "seconds"), ("MiB", "descriptors", "MiB"), strict=True
    ):
        axis.set(title=title, xlabel=across, ylabel=up)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
