"""Taking over a partition of the embedded engine: its store, and what of its topics the store has not seen."""

import logging
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from typing import NamedTuple

from engine.policy import Policy
from streams.local_topics import LocalTopics
from streams.log import LogRecord
from streams.partition import Message, Partition, Record
from streams.recovery import moment_of
from streams.settings import Settings
from streams.store import PartitionStore

log = logging.getLogger(__name__)

KEEP_RECORDS = 1000  # folded again between two write batches


class Owned(NamedTuple):
    """A partition and its store."""

    partition: Partition
    store: PartitionStore


def take_over(
    topics: LocalTopics, number: int, policy: Policy, settings: Settings, send: Callable[[Iterable[Message]], None]
) -> Owned:
    """Open a partition's store, and fold what it has not seen of `feeds` and `feedback`."""
    store = PartitionStore(topics.folder / "state" / f"partition-{number}")
    try:
        partition = Partition(
            number,
            policy,
            store,
            partitions=topics.partitions,
            value_bytes_max=settings.value_bytes_max,
            users_cached=settings.users_cached,
        )
        refold(partition, topics, send)
    except BaseException:
        store.close()
        raise
    return Owned(partition, store)


def refold(partition: Partition, topics: LocalTopics, send: Callable[[Iterable[Message]], None]) -> None:
    """Bring a partition to where `feeds` and `feedback` end, and keep it."""
    feedback = topics.log("feedback", partition.number)
    folded = 0
    for topic, record in _merged(topics, partition):
        plain = Record(*record[:4])
        if topic == "feeds":
            send(partition.adopt(plain, dict(record.headers)))
        else:
            send(partition.react(plain, feedback.last_ms))
        folded += 1
        if folded % KEEP_RECORDS == 0:
            partition.commit()
    partition.commit()
    if folded:
        log.info("partition %d: %d records are folded again", partition.number, folded)


def _merged(topics: LocalTopics, partition: Partition) -> Iterator[tuple[str, LogRecord]]:
    """What a partition has not seen of `feeds` and `feedback`, by time."""

    def of(topic: str, offset: int) -> Iterator[tuple[str, LogRecord]]:
        for chunk in topics.log(topic, partition.number).read(offset):
            for record in chunk:
                yield topic, record

    position = partition.position
    both = of("feeds", position.feeds), of("feedback", position.feedback)
    return merge(*both, key=lambda row: moment_of(row[0], row[1].at_ms, row[1].value))
