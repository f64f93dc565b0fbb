"""A key is in the partition where Kafka's own client puts it, whichever client of ours sends it."""

import shutil
import subprocess

import pytest
from aiokafka.partitioner import DefaultPartitioner
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner import murmur2

from scripts.kafka_broker import JAVA_OPTIONS, Cluster, jars
from streams.settings import Settings
from streams.tools import send
from streams.topics import create
from streams.values import Keyed

PARTITIONS = 7  # no power of two, so that every bit of a hash matters
KEYS = [
    *(f"user-{number}" for number in range(200)),
    *(chr(first) + "a" * length for first in (0x21, 0x7E) for length in range(40)),  # every length modulo 4
    *("é" * length for length in range(1, 20)),  # bytes above 127, which Java has as negative numbers
    *(f"{word}-{number}" for word in ("zoë", "Жанна", "木村", "🙂", "\u0301") for number in range(12)),
    *(letter * 256 for letter in ("k", "ß", "語", "🚀")),
    " ",
    " a ",
    '"',
    "\\",
    "\u00a0",
    "\u2028",
]


def sent_by_java(kafka: Cluster, topic: str, keys: list[str]) -> None:
    """Send a record per key, whose value is the key's number, with the console producer."""
    lines = "".join(f"{key}\t{number}\n" for number, key in enumerate(keys))
    command = ["java", *JAVA_OPTIONS, "-cp", f"{jars()}/*", "org.apache.kafka.tools.ConsoleProducer"]
    command += ["--bootstrap-server", kafka.bootstrap, "--topic", topic, "--reader-property", "parse.key=true"]
    done = subprocess.run(command, input=lines.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def places(kafka: Cluster, topic: str, count: int) -> dict[bytes, int]:
    """The partition of every key of a topic that holds so many records."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, consumer_timeout_ms=10_000)
    consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    consumer.seek_to_beginning()
    found = {record.key: record.partition for _, record in zip(range(count), consumer, strict=False)}
    consumer.close()
    return found


def test_every_client_puts_a_key_where_javas_does(kafka: Cluster, own: Settings) -> None:
    if shutil.which("java") is None or shutil.which("mvn") is None:
        pytest.skip("Java's producer needs Java, and Maven to fetch it")
    create(own, PARTITIONS, 1)
    keys = ["", *KEYS]
    assert len(set(keys)) == len(keys)
    sent_by_java(kafka, own.topic("requests"), keys)
    wanted = places(kafka, own.topic("requests"), len(keys))
    assert set(wanted) == {key.encode() for key in keys}
    assert set(wanted.values()) == set(range(PARTITIONS))

    send(own, "feedback", [Keyed(key, b"{}") for key in keys])
    assert places(kafka, own.topic("feedback"), len(keys)) == wanted

    everywhere = list(range(PARTITIONS))
    assert {key: DefaultPartitioner()(key, everywhere, everywhere) for key in wanted} == wanted
    assert {key: (murmur2(key) & 0x7FFFFFFF) % PARTITIONS for key in wanted} == wanted
