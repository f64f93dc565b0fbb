"""Apache Kafka itself is up: a record, a transaction, and a Faust app that lives through a second member."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from scripts.kafka_broker import Cluster, cluster

TESTS = Path(__file__).parent
WAIT_SECONDS_MAX = 45.0


def new_topic(kafka: Cluster, partitions: int) -> str:
    name = f"first-{uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics([NewTopic(name, partitions, 1)])
    admin.close()
    return name


def test_a_record_goes_in_and_comes_out(kafka: Cluster) -> None:
    topic = new_topic(kafka, 1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    begun = time.perf_counter()
    sent = producer.send(topic, b"value", key=b"key").get(10)
    took = time.perf_counter() - begun
    producer.close()
    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    record = next(consumer)
    consumer.close()
    print(f"the first record took {1000 * took:.1f} ms")
    assert (record.key, record.value, record.offset) == (b"key", b"value", sent.offset)


def test_a_transaction_shows_all_of_its_records_or_none(kafka: Cluster) -> None:
    topic = new_topic(kafka, 1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=topic)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"aborted")
    producer.flush()
    producer.abort_transaction()
    begun = time.perf_counter()
    producer.begin_transaction()
    producer.send(topic, b"one")
    producer.send(topic, b"two")
    producer.commit_transaction()
    print(f"a transaction took {1000 * (time.perf_counter() - begun):.1f} ms")
    producer.close()
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap, isolation_level="read_committed", consumer_timeout_ms=10_000
    )
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    assert [next(consumer).value, next(consumer).value] == [b"one", b"two"]
    consumer.close()


@contextmanager
def faust_member(kafka: Cluster, topic: str, folder: Path) -> Iterator[Path]:
    """A worker of the app in tests/faust_first.py; yields the file it writes to."""
    folder.mkdir()
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "faust", "-A", "faust_first", "--datadir", folder, "worker", "--without-web"],
            cwd=TESTS,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "KAFKA_BOOTSTRAP": kafka.bootstrap, "FIRST_TOPIC": topic},
        )
        try:
            yield output
        finally:
            process.terminate()
            process.wait(20)


def got(output: Path) -> set[tuple[str, str]]:
    """(partition, offset) of what a member said that it got."""
    lines = [line.split() for line in output.read_text(errors="replace").splitlines()]
    return {(line[1], line[2]) for line in lines if line[:1] == ["got"]}


def test_a_faust_app_joins_consumes_and_lives_through_a_second_member(kafka: Cluster, tmp_path: Path) -> None:
    topic = new_topic(kafka, 4)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)

    def send_until(wanted: str, *outputs: Path) -> None:
        """Send to every partition until each member has got something new."""
        before = [got(output) for output in outputs]
        end = time.monotonic() + WAIT_SECONDS_MAX
        while not all(got(output) - old for output, old in zip(outputs, before, strict=True)):
            assert time.monotonic() < end, f"{wanted}: {[output.read_text()[-2000:] for output in outputs]}"
            for partition in range(4):
                producer.send(topic, b"word", partition=partition)
            producer.flush()
            time.sleep(0.2)

    with faust_member(kafka, topic, tmp_path / "one") as one:
        send_until("the first member consumes", one)
        with faust_member(kafka, topic, tmp_path / "two") as two:
            send_until("both members consume", one, two)
        send_until("the first member goes on alone", one)
    producer.close()


@pytest.mark.skipif("KAFKA_BOOTSTRAP" in os.environ, reason="the brokers are not ours to start")
@pytest.mark.kafka
def test_three_brokers_keep_three_copies_and_go_on_without_one() -> None:
    """With aiokafka: kafka-python leaves sockets open when it cannot reach a broker."""
    with cluster(3) as running:
        admin = KafkaAdminClient(bootstrap_servers=running.bootstrap)
        admin.create_topics([NewTopic("copies", 1, 3, topic_configs={"min.insync.replicas": "2"})])
        admin.close()

        async def send() -> list[int]:
            async with AIOKafkaProducer(bootstrap_servers=running.bootstrap, acks="all") as producer:
                first = await producer.send_and_wait("copies", b"one")
                running.brokers[0].kill()
                second = await producer.send_and_wait("copies", b"two")
            return [first.offset, second.offset]

        assert asyncio.run(send()) == [0, 1]
