"""A product with `feedloom serve`: users who live over HTTP while its process is killed, and a judge at the end."""

import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from kafka_product import POLICY, USERS, wait_until
from oracle import judge

from streams.codec import decode
from streams.local_topics import LocalTopics
from streams.policy_file import read_policy
from streams.store import PartitionStore

POOLS = ("a", "b")
DOWN = (OSError, http.client.HTTPException)  # what a client sees of a server that was killed


class EmbeddedProduct:
    """A data folder, a policy, and the server over them, which may be started again and again."""

    def __init__(self, folder: Path, *, policy: str = POLICY, partitions: int = 1, **environment: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.policy = folder / "policy.toml"
        self.policy.write_text(policy)
        self.partitions = partitions
        self.environment = {"FEEDLOOM_PARTITIONS": str(partitions), "FEEDLOOM_FSYNC": "never", **environment}
        self.address: tuple[str, int] | None = None
        self.process: subprocess.Popen | None = None
        self.answers: dict[tuple[str, str], list[str]] = {}  # acknowledged: the items of each feed
        self.reacted: set[tuple[str, str]] = set()  # acknowledged: (user, event id)

    @contextmanager
    def server(
        self, failpoint: str = "", *, ready: bool = True, file_bytes_max: int | None = None, **environment: str
    ) -> Iterator[subprocess.Popen]:
        """The server process; it is killed at the end if it still runs."""
        given = {**os.environ, **self.environment, "FEEDLOOM_FAILPOINT": failpoint, **environment}
        command = ["-m", "feedloom", "serve", "--data", str(self.data), "--port", "0", "--policy", str(self.policy)]
        with (self.folder / "serve.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True, env=given
            )
        if file_bytes_max is not None:
            limit_files(process.pid, file_bytes_max)
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if line:
                host, port = line.removeprefix("http://").split(":")
                self.address = (host, int(port))
            self.process = process
            if ready and line:
                wait_until(lambda: process.poll() is not None or self.ready(), self.log)
            yield process
        finally:
            self.address = None
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()

    def log(self) -> str:
        return (self.folder / "serve.log").read_text(errors="replace")[-20_000:]

    def ready(self) -> bool:
        with suppress(*DOWN):
            return self.call("GET", "/health/ready")[0] == 200
        return False

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """One exchange on a connection of its own. Raises DOWN."""
        if self.address is None:
            raise ConnectionRefusedError("no server")
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask(self, user: str, request_id: str, slots: int = 4) -> list[str] | None:
        """The items of a feed, as soon as it is acknowledged; None where it was not."""
        candidates = {pool: [f"{pool}{number}" for number in range(6)] for pool in POOLS}
        asked = {"request_id": request_id, "user": user, "slots": slots, "candidates": candidates}
        with suppress(*DOWN):
            status, answer = self.call("POST", "/v1/feeds", asked)
            if status == 200:
                items = [slot["item"] for slot in answer["slots"]]
                assert self.answers.setdefault((user, request_id), items) == items
                return items
            assert status in (429, 503), answer
        return None

    def react(self, events: list[Mapping[str, object]]) -> bool:
        """Whether reactions were acknowledged."""
        with suppress(*DOWN):
            status, answer = self.call("POST", "/v1/feedback", events)
            if status == 200:
                self.reacted |= {(str(event["user"]), str(event["event_id"])) for event in events}
                return True
            assert status in (429, 503), answer
        return False

    def read(self, topic: str) -> list[tuple[int, object]]:
        """(log time, value) of a topic, while no server runs."""
        topics = LocalTopics(self.data, self.partitions, 64 << 20)
        try:
            return [
                (record.at_ms, decode(record.value or b""))
                for number in range(self.partitions)
                for chunk in topics.log(topic, number).read()
                for record in chunk
            ]
        finally:
            topics.close()

    def states(self) -> dict:
        found: dict = {}
        for number in range(self.partitions):
            store = PartitionStore(self.data / "state" / f"partition-{number}")
            try:
                found |= dict(store.users())
            finally:
                store.close()
        return found

    def judge(self, *, lost: bool = False) -> None:
        """By the oracle; and what was acknowledged is there, unless a fault has `lost` part of the log itself."""
        feeds, feedback = self.read("feeds"), self.read("feedback")
        memory = read_policy(self.policy).memory
        judge(feeds, feedback, self.states(), memory, () if lost else self.answers)
        decided: dict[tuple[str, str], list[str]] = {}
        for _, decision in feeds:
            decided.setdefault((decision.request.user, decision.request.request_id), decision.slot_items)
        if not lost:
            assert len(decided) == len(feeds), "a request has two decisions"
            assert {identity: decided.get(identity) for identity in self.answers} == self.answers
            there = {(value.user, value.event_id) for _, value in feedback if hasattr(value, "event_id")}
            assert self.reacted <= there


class Visitors:
    """Threads of users who ask for feeds and react to them, whether the server is there or not."""

    def __init__(self, product: EmbeddedProduct, seed: int, threads: int = 3) -> None:
        self._product = product
        self._stopped = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(Random(seed + n), n), daemon=True) for n in range(threads)
        ]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _guarded(self, random: Random, name: int) -> None:
        try:
            self._live(random, name)
        except BaseException as error:  # noqa: BLE001  it is raised again where it can be seen
            self._errors.append(error)

    def _live(self, random: Random, name: int) -> None:
        number = 0
        while not self._stopped.is_set():
            user, request_id = f"user-{random.randrange(USERS)}", f"{name}-{id(self)}-{number}"
            number += 1
            items = self._product.ask(user, request_id)
            if items is None:
                time.sleep(0.02)
                items = self._product.ask(user, request_id)  # a client that asks again
            if items:
                self._react(random, user, request_id, items)
            time.sleep(random.random() * 0.01)

    def _react(self, random: Random, user: str, request_id: str, items: list[str]) -> None:
        events: list[dict[str, object]] = []
        for slot, item in enumerate(items):
            place: dict[str, object] = {"user": user, "request_id": request_id, "slot": slot, "item": item}
            if random.random() < 0.05:
                place["item"] = "another"
            event_id = f"{request_id}-{slot}"
            if random.random() < 0.8:
                events.append({"kind": "seen", "event_id": event_id, **place})
            if random.random() < 0.3:
                events.append({"kind": "acted", "event_id": event_id + "+", "action": "like", **place})
            if random.random() < 0.05:
                events.append(
                    {"kind": "organic", "event_id": event_id + "*", "user": user, "item": "o", "action": "like"}
                )
        random.shuffle(events)
        if events and (not self._product.react(events) or random.random() < 0.1):
            self._product.react(events)  # a client that sends again


def limit_files(process: int, size: int) -> None:
    """Let a process write no file beyond this size: a disk that is full. It may be lifted again."""
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))


def terminate(process: subprocess.Popen) -> float:
    """End a server in order; how many seconds it took."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    return time.monotonic() - begun
