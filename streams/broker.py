"""Faust's own Kafka client, as the worker uses it: a producer, members of the group, readers of whole topics."""

import asyncio
import time
from asyncio import Future
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer as Consumer
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka import ConsumerRebalanceListener as Rebalanced
from aiokafka import TopicPartition as Place
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.partitioner import murmur2

from streams.messages import Message, Record
from streams.security import client_options
from streams.settings import Settings

__all__ = [
    "Consumer",
    "ConsumerRecord",
    "KafkaError",
    "LostError",
    "Part",
    "Place",
    "Producer",
    "Rebalanced",
    "TransactionalProducer",
    "committed_reader",
    "group_member",
    "partition_of",
    "place_of",
    "plain",
    "read_merged",
    "since",
    "whole_topic",
]

LARGEST_BYTES = 32 << 20  # of one record: sums and population versions are whole
CHUNK = 500  # records that a reader of a range hands over at a time
POLL_MS = 200
BATCH_BYTES = 900_000  # of a transaction's records that are sent together; topics take 1 MiB
STOP_SECONDS = 0.8  # for a producer to send what is left
TRANSACTION_MS_MAX = 300_000  # an open transaction of an owner that is gone, and has no follower, ends by itself
SILENT_SECONDS_MAX = 30.0  # for records that the broker says are there


class Producer:
    """Sends messages; a message is acknowledged when all replicas in sync have it, and stands there once."""

    def __init__(self, settings: Settings) -> None:
        """Connect with `start`."""
        self._settings = settings
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap,
            acks="all",
            enable_idempotence=True,
            max_request_size=LARGEST_BYTES,
            **client_options(settings),
        )

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is left, and disconnect."""
        await self._producer.stop()

    async def send(self, message: Message) -> "Future[Any]":
        """Put a message on its way; the future has its offset once it is acknowledged."""
        sent: Future[Any] = await self._producer.send(
            self._settings.topic(message.topic),
            message.value,
            message.key,
            message.partition,
            headers=list(message.headers),
        )
        return sent


class LostError(KafkaError):  # type: ignore[misc]  # it has no type hints
    """Somebody else writes under this transactional id now, or its broker knows nothing of us any more."""


class Part(NamedTuple):
    """A record of a transaction."""

    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class TransactionalProducer:
    """Writes records in transactions, as the only one of its transactional id."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        """Connect with `start`."""
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_MS_MAX,
            max_batch_size=BATCH_BYTES,
            **client_options(settings),
        )

    async def start(self) -> None:
        """Connect; what another process of this id has begun is aborted, and it cannot write any more."""
        await self._producer.start()

    async def write(self, place: Place, records: Iterable[Part], sent: Callable[[], None] = lambda: None) -> None:
        """Write all of them in one transaction. `sent` is called when all are acknowledged and none is committed.

        Raises LostError when we may not write any more, and another KafkaError for what can be tried again.
        """
        try:
            await self._producer.begin_transaction()
        except (KafkaError, AssertionError) as error:  # asserted: the client has given up between two transactions
            raise LostError(f"transactions of {place} cannot go on: {error!r}") from error
        try:
            await self._send(place, records)
            sent()
            await self._producer.commit_transaction()
        except ProducerFenced as error:
            self._hear_the_end()
            raise LostError(f"{place} has another owner") from error
        except KafkaError as error:
            try:
                await self._producer.abort_transaction()
            except (KafkaError, AssertionError) as second:  # asserted: there is none that could be aborted
                self._hear_the_end()
                raise LostError(f"transactions of {place} cannot go on: {error!r}") from second
            raise

    def _hear_the_end(self) -> None:
        """Ask how a transaction ended that was not even sent: else Python complains that nobody has asked."""
        batches = self._producer._message_accumulator._batches.values()
        ends = [batch._drain_waiter for of_place in batches for batch in of_place]
        for end in (*ends, self._producer._txn_manager.wait_for_transaction_end()):
            if end is not None and end.done() and not end.cancelled():
                end.exception()

    async def _send(self, place: Place, records: Iterable[Part]) -> None:
        on_their_way: set[Future[Any]] = set()
        batch = self._producer.create_batch()
        for key, value, headers in records:
            record = {"timestamp": None, "key": key, "value": value, "headers": list(headers)}
            if batch.append(**record) is None:
                on_their_way.add(await self._producer.send_batch(batch, place.topic, partition=place.partition))
                batch = self._producer.create_batch()
                batch.append(**record)
        on_their_way.add(await self._producer.send_batch(batch, place.topic, partition=place.partition))
        await asyncio.gather(*on_their_way)

    async def stop(self) -> None:
        """Disconnect; a transaction that is open stays so until somebody starts under this id."""
        try:
            await asyncio.wait_for(self._producer.stop(), STOP_SECONDS)
        except (TimeoutError, KafkaError):
            with suppress(KafkaError):
                await self._producer.client.close()
        finally:
            self._hear_the_end()  # of one that was let go of on its way, and fenced after that


def group_member(settings: Settings, listener: Rebalanced, topics: Sequence[str]) -> Consumer:
    """A member of the workers' group, to be started. All topics have the same owner for the same partition."""
    consumer = _consumer(
        settings,
        group_id=settings.group,
        session_timeout_ms=settings.session_ms,
        heartbeat_interval_ms=max(settings.session_ms // 5, 1),
        # By ranges of partition numbers, so that topics of one size are spread alike.
        partition_assignment_strategy=(RangePartitionAssignor,),
    )
    consumer.subscribe([settings.topic(topic) for topic in topics], listener=listener)
    return consumer


async def whole_topic(settings: Settings, *topics: str) -> tuple[Consumer, dict[Place, int]]:
    """A reader of all of some topics, without a group, and where each of their partitions ended when it began."""
    consumer = _consumer(settings, *map(settings.topic, topics))
    await _start(consumer)
    return consumer, await consumer.end_offsets(list(consumer.assignment()))


async def since(settings: Settings, from_ms: Mapping[Place, int]) -> tuple[Consumer, dict[Place, int]]:
    """A reader of what came to these partitions since a time of each, and where each ends now."""
    consumer, places = _consumer(settings), list(from_ms)
    await _start(consumer)
    consumer.assign(places)
    ends = await consumer.end_offsets(places)
    begins = await consumer.offsets_for_times(from_ms)
    for place in places:
        begin = begins.get(place)
        consumer.seek(place, ends[place] if begin is None else begin.offset)
    return consumer, ends


async def read_merged(
    settings: Settings,
    begin: Mapping[Place, int],
    time_of: Callable[[ConsumerRecord], tuple[int, int]],
    until: Mapping[Place, int] | None = None,
) -> AsyncIterator[list[ConsumerRecord]]:
    """The records of these partitions from these offsets to where they end now, or `until`, merged by their time.

    Each partition keeps its own order. Of every partition only a chunk is in memory.
    """
    consumer = _consumer(settings)
    await _start(consumer)
    try:
        consumer.assign(list(begin))
        ends = await consumer.end_offsets(list(begin))
        if until is not None:
            ends = {place: min(end, until[place]) for place, end in ends.items()}
        for place, first in (await consumer.beginning_offsets(list(begin))).items():
            consumer.seek(place, min(max(begin[place], first), ends[place]))
        heads: dict[Place, deque[ConsumerRecord]] = {place: deque() for place in begin}
        while await _refilled(consumer, heads, ends):
            merged: list[ConsumerRecord] = []
            while all(heads.values()) and len(merged) < CHUNK:
                merged.append(min(heads.values(), key=lambda records: time_of(records[0])).popleft())
            yield merged
    finally:
        await consumer.stop()


async def _refilled(consumer: Consumer, heads: dict[Place, deque[ConsumerRecord]], ends: dict[Place, int]) -> bool:
    """Fetch for every partition that has nothing at hand; drop those that have come to their end."""
    for place in [place for place, records in heads.items() if not records]:
        while not heads[place] and await consumer.position(place) < ends[place]:
            fetched = await consumer.getmany(place, timeout_ms=POLL_MS, max_records=CHUNK)
            heads[place].extend(record for record in fetched.get(place, ()) if record.offset < ends[place])
        if not heads[place]:
            del heads[place]
    return bool(heads)


class CommittedReader:
    """What stands in one partition of a topic, and of transactions only what is committed."""

    def __init__(self, consumer: Consumer, place: Place, begin: int, end: int) -> None:
        """From its first offset to before `end`."""
        self.begin, self.end = begin, end
        self._consumer = consumer
        self._place = place

    async def read(self, begin: int, end: int) -> AsyncIterator[list[ConsumerRecord]]:
        """The records from one offset to before another. Raises KafkaError if they do not come."""
        self._consumer.seek(self._place, begin)
        come, silent_since = begin, time.monotonic()
        while (position := await self._consumer.position(self._place)) < end:
            if position > come:
                come, silent_since = position, time.monotonic()
            elif time.monotonic() > silent_since + SILENT_SECONDS_MAX:
                raise KafkaError(f"{self._place} ends at {end}, and its records do not come")
            fetched = await self._consumer.getmany(self._place, timeout_ms=POLL_MS, max_records=CHUNK)
            if records := [record for record in fetched.get(self._place, ()) if record.offset < end]:
                yield records


@asynccontextmanager
async def committed_reader(settings: Settings, place: Place) -> AsyncIterator[CommittedReader]:
    """A reader of one partition for as long as the block lasts, which is of everything up to now."""
    consumer = _consumer(settings, isolation_level="read_committed")
    await _start(consumer)
    try:
        consumer.assign([place])
        begin, end = await consumer.beginning_offsets([place]), await consumer.end_offsets([place])
        yield CommittedReader(consumer, place, begin[place], end[place])
    finally:
        await consumer.stop()


def place_of(record: ConsumerRecord) -> Place:
    """Where a record stands."""
    return Place(record.topic, record.partition)


def partition_of(key: bytes, partitions: int) -> int:
    """Where every client of Kafka puts a record with this key, unless it is told otherwise."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def plain(record: ConsumerRecord) -> Record:
    """A record as a partition takes it."""
    return Record(record.offset, record.timestamp, record.key, record.value)


async def _start(consumer: Consumer) -> None:
    """Connect, or let go of what it has by then."""
    try:
        await consumer.start()
    except BaseException:
        await consumer.stop()
        raise


def _consumer(settings: Settings, *topics: str, **options: Any) -> Consumer:
    return Consumer(
        *topics,
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=LARGEST_BYTES if "group_id" not in options else 1 << 20,
        fetch_max_wait_ms=100,
        **client_options(settings),
        **options,
    )
