"""How long a feed over HTTP takes beside a handler that does nothing, in one server and in turn.

The server is `feedloom serve`'s application with one more path, `/nop`, which reads the same body and gives back an
answer of the same length. Both are asked at 200 requests a second, each for a feed of 10 slots from 500 candidates
in 5 pools, with `fsync = "interval"`; latency is from the moment that a request was due, so that waiting counts.
What is shown is reported back as users would, while feeds are asked for. Figures are medians over rounds; `--json`
prints one document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import aiohttp
import numpy as np
from aiohttp import web

from engine.policy import Policy
from engine.pool_policy import PoolPolicy
from feedloom import serve_command
from streams import http, listening
from streams.asking import Engine
from streams.settings import Settings

PER_SECOND, POOLS, CANDIDATES, SLOTS, USERS = 200, 5, 100, 10, 2_000
WARM_SECONDS = 3.0
CONTENDERS = ("nop", "feedloom")
PATHS = {"nop": "/nop", "feedloom": "/v1/feeds"}
ANSWER = json.dumps({"slots": [{"slot": n, "item": f"item-{n}", "pool": "a"} for n in range(2 * SLOTS)]}).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each contender in each round")
    parser.add_argument("--server", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.server:
        asyncio.run(serve(Path(given.server)))
        return 0
    with tempfile.TemporaryDirectory(prefix="feedloom-serve-") as folder:
        command = [sys.executable, __file__, "--server", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                rounds = asyncio.run(measure(server.stdout.readline().strip(), given.rounds, given.seconds))
            finally:
                server.terminate()
    found = figures(rounds)
    print(json.dumps(found) if given.json else "\n".join(f"{name:24} {value}" for name, value in found.items()))
    return 0


async def serve(folder: Path) -> None:
    """The application, and a path that does nothing."""
    made = http.application

    def with_nop(engine: Engine, settings: Settings) -> web.Application:
        app = made(engine, settings)
        app.router.add_post("/nop", nop)
        return app

    async def nop(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    listening.application = with_nop  # type: ignore[attr-defined]
    pools = {name: PoolPolicy(kind="external") for name in "abcde"[:POOLS]}
    serve_command.unhurried()
    await serve_command.serve(folder, "127.0.0.1", 0, Policy(pools=pools), Settings())


async def measure(address: str, rounds: int, seconds: float) -> list[dict[str, list[float]]]:
    """Milliseconds of every request, by contender, for each round."""
    random = Random(1)
    found = []
    async with aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=0)) as session:
        while (await session.get("/health/ready")).status != 200:  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.1)
        for contender in CONTENDERS:
            await load(session, contender, random, WARM_SECONDS)
        for number in range(rounds):
            order = CONTENDERS if number % 2 else CONTENDERS[::-1]
            found.append({name: await load(session, name, random, seconds) for name in order})
    return found


async def load(session: aiohttp.ClientSession, contender: str, random: Random, seconds: float) -> list[float]:
    """Ask at a steady pace, whether answers come or not."""
    took: list[float] = []
    begun = time.perf_counter()
    asked = []
    for number in range(round(seconds * PER_SECOND)):
        due = begun + number / PER_SECOND
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        asked.append(asyncio.create_task(one(session, contender, body(random), due, random, took)))
    await asyncio.gather(*asked)
    return took


def body(random: Random) -> dict[str, Any]:
    candidates = {pool: [f"item-{random.randrange(50_000)}" for _ in range(CANDIDATES)] for pool in "abcde"[:POOLS]}
    name, user = f"{random.getrandbits(64):x}", f"user-{random.randrange(USERS)}"
    return {"request_id": name, "user": user, "slots": SLOTS, "candidates": candidates}


async def one(
    session: aiohttp.ClientSession,
    contender: str,
    asked: dict[str, Any],
    due: float,
    random: Random,
    took: list[float],
) -> None:
    async with session.post(PATHS[contender], json=asked) as response:
        answer = await response.json()
        assert response.status == 200, answer
    took.append(1000.0 * (time.perf_counter() - due))
    if contender == "feedloom":
        await session.post("/v1/feedback", json=reactions(asked, answer, random))


def reactions(asked: dict[str, Any], answer: dict[str, Any], random: Random) -> list[dict[str, Any]]:
    """What the user saw of a feed, and liked."""
    found = []
    for slot in answer["slots"]:
        place = {
            "user": asked["user"],
            "request_id": asked["request_id"],
            "slot": slot["slot"],
            "item": slot["item"],
        }
        name = f"{asked['request_id']}-{slot['slot']}"
        found.append({"kind": "seen", "event_id": name, **place})
        if random.random() < 0.1:
            found.append({"kind": "acted", "event_id": name + "+", "action": "like", **place})
    return found


def figures(rounds: list[dict[str, list[float]]]) -> dict[str, object]:
    """Medians over rounds, and of the ratio the range too."""
    found: dict[str, object] = {}
    for percent in (50, 90, 99):
        values = {name: [float(np.percentile(one[name], percent)) for one in rounds] for name in CONTENDERS}
        for name in CONTENDERS:
            found[f"p{percent}_ms_{name}"] = round(median(values[name]), 3)
        ratios = [ours / theirs for ours, theirs in zip(values["feedloom"], values["nop"], strict=True)]
        found[f"p{percent}_ratio"] = [round(one, 2) for one in (median(ratios), min(ratios), max(ratios))]
    return found


if __name__ == "__main__":
    sys.exit(main())
