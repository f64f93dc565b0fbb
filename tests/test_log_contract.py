"""Topics in a folder and topics of Apache Kafka keep the same promises."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from log_contract import PARTITIONS, LogContract

from scripts.kafka_broker import Cluster
from streams.local_topics import LocalTopics
from streams.log import LogRecord, PartitionLog, Unwritten
from streams.settings import Settings

LOCAL = {"kept": "feedback", "compacted": "sums"}
# Compaction may come at any time, and as soon as the broker likes to.
OPTIONS = {
    "kept": {"message.timestamp.type": "LogAppendTime"},
    "compacted": {"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.01"},
}


class InAFolder:
    """Over a clock that is put back now and then."""

    def __init__(self, folder: Path) -> None:
        ticks = count(1_700_000_000_000, 3)
        self.own = LocalTopics(folder, PARTITIONS, 500, wall=lambda: (at := next(ticks)) - 50 * (at % 4 == 0))

    def log(self, topic: str, number: int) -> PartitionLog:
        return self.own.log(LOCAL[topic], number)

    def append(self, topic: str, number: int, rows: Sequence[Unwritten]) -> list[int]:
        first = self.own.append(LOCAL[topic], number, rows, self.own.now_ms())
        return list(range(first, first + len(rows)))

    def send(self, keys: Sequence[bytes]) -> list[int]:
        for key in keys:
            self.append("kept", self.part_of(key.decode()), [Unwritten(key, b"")])
        found = {record.key: number for number in range(PARTITIONS) for record in self.read("kept", number)}
        return [found[key] for key in keys]

    def read(self, topic: str, number: int, offset: int = 0) -> list[LogRecord]:
        return [record for chunk in self.log(topic, number).read(offset) for record in chunk]

    def end(self, topic: str, number: int) -> int:
        return self.log(topic, number).end

    def compact(self) -> None:
        for number in range(PARTITIONS):
            self.log("compacted", number).compact()

    def part_of(self, user: str) -> int:
        return self.own.part_of(user)


class InKafka:
    """Over two topics of this test's own."""

    def __init__(self, kafka: Cluster, own: Settings, local: LocalTopics) -> None:
        self._own = own
        self._local = local
        self._producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
        self._consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="none")
        admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        wanted = {
            own.topic(name): {"num_partitions": PARTITIONS, "replication_factor": 1, "configs": options}
            for name, options in OPTIONS.items()
        }
        admin.create_topics(wanted, wait_for_metadata=True)
        admin.close()

    def append(self, topic: str, number: int, rows: Sequence[Unwritten]) -> list[int]:
        sent = [
            self._producer.send(self._own.topic(topic), row.value, row.key, list(row.headers), number)
            for row in rows
        ]
        return [one.get(20).offset for one in sent]

    def send(self, keys: Sequence[bytes]) -> list[int]:
        sent = [self._producer.send(self._own.topic("kept"), b"", key) for key in keys]
        return [one.get(20).partition for one in sent]

    def read(self, topic: str, number: int, offset: int = 0) -> list[LogRecord]:
        place, found = TopicPartition(self._own.topic(topic), number), []
        self._consumer.assign([place])
        self._consumer.seek(place, offset)
        end = self.end(topic, number)
        while self._consumer.position(place) < end:
            for records in self._consumer.poll(100).values():
                found += [
                    LogRecord(one.offset, one.timestamp, one.key, one.value, (*one.headers,)) for one in records
                ]
        return found

    def end(self, topic: str, number: int) -> int:
        place = TopicPartition(self._own.topic(topic), number)
        return int(self._consumer.end_offsets([place])[place])

    def compact(self) -> None:
        """The broker does it when it likes; what is promised holds before and after."""

    def part_of(self, user: str) -> int:
        return self._local.part_of(user)

    def close(self) -> None:
        self._producer.close()
        self._consumer.close()


class TestTopicsInAFolder(LogContract):
    @pytest.fixture
    def topics(self, tmp_path: Path) -> Iterator[InAFolder]:
        topics = InAFolder(tmp_path)
        yield topics
        topics.own.close()


class TestTopicsOfKafka(LogContract):
    @pytest.fixture
    def topics(self, kafka: Cluster, own: Settings, tmp_path: Path) -> Iterator[InKafka]:
        local = LocalTopics(tmp_path, PARTITIONS, 500)
        topics = InKafka(kafka, own, local)
        yield topics
        topics.close()
        local.close()
