"""A product with a cluster, for tests: it asks for feeds, reacts to them, and runs workers that may be killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from uuid import uuid4

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from scripts.kafka_broker import Cluster
from streams.settings import Settings
from streams.topics import TOPICS, create

WAIT_SECONDS_MAX = 60.0
USERS = 24
POLICY = """
[pools.a]
kind = "external"
[pools.b]
kind = "external"
[pools.popular]
kind = "popular"
[pools.personal]
kind = "personal"
[population]
every_ms = 500
[memory]
window_ms = 6000
half_life_ms = 20000
half_life_slots = 40
history_max = 60
"""


class Product:
    """Topics of its own, a policy, users who react, and a folder for the worker's state."""

    def __init__(
        self, kafka: Cluster, folder: Path, *, partitions: int = 2, policy: str = POLICY, replication: int = 1
    ) -> None:
        self.settings = Settings(
            bootstrap=kafka.bootstrap,
            topic_prefix=f"t{uuid4().hex[:8]}.",
            group=f"g{uuid4().hex[:8]}",
            state_folder=folder / "state",
            policy=folder / "policy.toml",
        )
        self.folder = folder
        self.partitions = partitions
        assert self.settings.policy is not None
        self.settings.policy.write_text(policy)
        create(self.settings, partitions, replication)
        self.producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=2)
        self.last: dict[TopicPartition, int] = defaultdict(lambda: -1)  # acknowledged of what was sent
        self._begun = 0  # where the latest worker's log begins
        self._admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)

    def close(self) -> None:
        self.producer.close()
        self._admin.close()

    def send(self, topic: str, user: str, value: Mapping[str, object]) -> None:
        self.send_raw(topic, user.encode(), json.dumps(value).encode())

    def send_raw(self, topic: str, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        sent = self.producer.send(self.settings.topic(topic), value, key, partition=partition)
        sent.add_callback(self._acknowledged)

    def _acknowledged(self, where) -> None:
        place = TopicPartition(where.topic, where.partition)
        self.last[place] = max(self.last[place], where.offset)

    def ask(self, user: str, request_id: str, slots: int = 4) -> None:
        candidates = {pool: [f"{pool}{number}" for number in range(6)] for pool in ("a", "b")}
        request = {"request_id": request_id, "user": user, "slots": slots, "candidates": candidates}
        self.send("requests", user, {"kind": "request", **request})

    @contextmanager
    def worker(
        self, failpoint: str = "", command: Sequence[str] = ("feedloom", "worker"), **environment: str
    ) -> Iterator[subprocess.Popen]:
        """A worker process; it is killed at the end if it still runs."""
        settings = self.settings
        given = {
            "FEEDLOOM_BOOTSTRAP": settings.bootstrap,
            "FEEDLOOM_TOPIC_PREFIX": settings.topic_prefix,
            "FEEDLOOM_GROUP": settings.group,
            "FEEDLOOM_STATE_FOLDER": str(settings.state_folder),
            "FEEDLOOM_POLICY": str(settings.policy),
            "FEEDLOOM_SESSION_MS": "1000",
            "FEEDLOOM_OFFSETS_EVERY_MS": "100",
            "FEEDLOOM_LAGS_EVERY_MS": "300",
            "FEEDLOOM_FAILPOINT": failpoint,
        }
        with (self.folder / "worker.log").open("ab") as log:
            self._begun = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                env={**os.environ, **given, **environment},
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def log(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")[-6000:]

    def log_of_latest(self) -> str:
        """Since the latest worker began."""
        return (self.folder / "worker.log").read_bytes()[self._begun :].decode(errors="replace")

    def committed(self, job: str = "") -> dict[TopicPartition, int]:
        """How far the group of the workers, or of a job, says it has come."""
        try:
            (of_group,) = self._admin.list_group_offsets({self.settings.group + job: None}).values()
        except KafkaError as error:  # of a broker that is gone, or just began
            if not error.retriable:
                raise
            return {}
        return {place: known.offset for place, known in of_group.items()}

    def wait_until_taken_over(self) -> None:
        """Until the worker that was started last has all partitions, and all that is in the topics of them."""
        wait_until(lambda: self.log_of_latest().count("is taken over at") >= self.partitions, self.log)

    def wait_until_worked_off(self) -> None:
        """Until the group has come past everything that was sent to it."""
        self.producer.flush()
        inputs = {self.settings.topic(topic) for topic in ("requests", "feedback")}

        def done() -> bool:
            committed = self.committed()
            return all(
                committed.get(place, 0) > offset for place, offset in self.last.items() if place.topic in inputs
            )

        wait_until(done, self.log)

    def in_sync(self) -> bool:
        """Whether every copy of every topic has caught up."""
        try:
            described = self._admin.describe_topics([self.settings.topic(spec.name) for spec in TOPICS])
        except KafkaError as error:
            if not error.retriable:
                raise
            return False
        parts = [part for topic in described for part in topic["partitions"]]
        return all(len(part["isr_nodes"]) == len(part["replica_nodes"]) for part in parts)

    def decided(self) -> set[str]:
        """The ids of requests that have a decision."""
        return {json.loads(record.value)["request"]["request_id"] for record in self.read("feeds")}

    def read(self, topic: str) -> list:
        """As `_read`, from whichever broker is there."""
        end = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            try:
                return self._read(topic)
            except KafkaError as error:  # it asked one that was killed
                if not error.retriable or time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def _read(self, topic: str) -> list:
        """All records of a topic, of transactions those that are committed, by partition and offset."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.settings.bootstrap,
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        try:
            return self._read_with(consumer, self.settings.topic(topic))
        finally:
            consumer.close()

    @staticmethod
    def _read_with(consumer: KafkaConsumer, name: str) -> list:
        consumer.topics()
        places = [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name) or ())]
        consumer.assign(places)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(places)
        records = []
        while any(consumer.position(place) < ends[place] for place in places):
            for fetched in consumer.poll(200).values():
                records += fetched
        return sorted(records, key=lambda record: (record.partition, record.offset))


class Life(threading.Thread):
    """Users who ask for feeds and react to them until they are told to stop, at random by a seed."""

    def __init__(self, product: Product, seed: int, seconds_between: float = 0.01) -> None:
        super().__init__(daemon=True)
        self.product = product
        self.asked: list[tuple[str, str]] = []
        self.again: set[tuple[str, str]] = set()  # what was asked twice
        self._random = Random(seed)
        self._seconds_between = seconds_between
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        if self._error:
            raise self._error

    def run(self) -> None:
        try:
            self._live()
        except Exception as error:  # noqa: BLE001  it is raised again where it can be seen
            self._error = error

    def _live(self) -> None:
        settings = self.product.settings
        consumer = KafkaConsumer(
            settings.topic("feeds"), bootstrap_servers=settings.bootstrap, enable_auto_commit=False
        )
        number = 0
        while not self._stopped.is_set():
            user = f"user-{self._random.randrange(USERS)}"
            request_id = f"{id(self)}-{number}"
            self.product.ask(user, request_id)
            self.asked.append((user, request_id))
            if self._random.random() < 0.05:  # a client that asks again
                self.product.ask(user, request_id)
                self.again.add((user, request_id))
            for records in consumer.poll(0).values():
                for record in records:
                    self._react(json.loads(record.value))
            number += 1
            time.sleep(self._seconds_between)
        consumer.close()

    def _react(self, decision: dict) -> None:
        user, request_id = decision["request"]["user"], decision["request"]["request_id"]
        chance = self._random.random
        for slot, item in enumerate(decision["slot_items"]):
            place = {"user": user, "request_id": request_id, "slot": slot, "item": item}
            if chance() < 0.05:
                place["item"] = "another"
            name = f"{request_id}-{slot}"
            events = [{"kind": "seen", "event_id": name, **place}] if chance() < 0.8 else []
            if chance() < 0.3:
                events.append({"kind": "acted", "event_id": name + "+", "action": "like", **place})
            if chance() < 0.05:
                events.append(
                    {"kind": "organic", "event_id": name + "*", "user": user, "item": "o", "action": "like"}
                )
            self._random.shuffle(events)
            for event in events:
                for _ in range(2 if chance() < 0.1 else 1):  # a client that sends again
                    self.product.send("feedback", user, event)


def wait_until(done, told=lambda: "", seconds: float = WAIT_SECONDS_MAX) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, told()
        time.sleep(0.05)


def terminate(process: subprocess.Popen) -> float:
    """End a worker in order; how many seconds it took."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    return time.monotonic() - begun
