"""What the Kafka benchmarks send: readers who ask for feeds, see them slot by slot, and like some of it.

The same for every contender. Item ids begin with the name of their pool, which spares a peer the decision that
it would have to keep to know what a slot held.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from engine.events import Acted, Request, Seen
from streams.codec import encode
from streams.settings import Settings

PARTITIONS = 4
POOLS = ("follow", "similar", "trending")
ACTION = "like"
LIKED = 0.08  # of the slots that were seen
SLOTS = 10
CANDIDATES = 20  # of each pool in a request: twice the slots
CATALOGUE = 5_000  # items of a pool
ANSWER_SECONDS_MAX = 90.0  # for all answers to what was asked, the start of the worker included

POLICY = "".join(f'[pools.{pool}]\nkind = "external"\n' for pool in POOLS) + f"[actions.{ACTION}]\nreward = 1.0\n"


class LoadError(Exception):
    """A contender did not do what it is measured for."""


class Named(msgspec.Struct):
    """What the load reads of a request inside a feed."""

    request_id: str
    user: str


class Part(msgspec.Struct):
    """What the load reads of a pool's part in a feed."""

    alpha: list[float]


class Feed(msgspec.Struct):
    """What the load reads of a feed: as much as the echo worker has in it, and the posterior."""

    request: Named
    slot_items: list[str]
    slot_pools: list[int] = []
    pools: list[Part] = []


read_feed = msgspec.json.Decoder(Feed).decode


class Record(NamedTuple):
    """What goes to a topic."""

    key: bytes
    value: bytes


def request_of(user: str, request_id: str, random: Random) -> Record:
    """A request with ranked candidates of every pool."""
    candidates = {
        pool: [f"{pool}:{item}" for item in random.sample(range(CATALOGUE), CANDIDATES)] for pool in POOLS
    }
    request = Request(request_id=request_id, user=user, slots=SLOTS, candidates=candidates)
    return Record(user.encode(), encode(request))


def reactions_to(feed: Feed, random: Random) -> Iterator[Record]:
    """Somebody sees a feed from top to bottom and likes some of it."""
    for slot in range(len(feed.slot_items)):
        yield seen(feed, slot)
        if random.random() < LIKED:
            yield liked(feed, slot)


def seen(feed: Feed, slot: int) -> Record:
    """The reader saw a slot."""
    user, request_id, item = feed.request.user, feed.request.request_id, feed.slot_items[slot]
    event_id = f"{request_id}-s{slot}"
    event = Seen(event_id=event_id, user=user, request_id=request_id, slot=slot, item=item)
    return Record(user.encode(), encode(event))


def liked(feed: Feed, slot: int) -> Record:
    """The reader liked what was in a slot."""
    user, request_id, item = feed.request.user, feed.request.request_id, feed.slot_items[slot]
    event_id = f"{request_id}-a{slot}"
    event = Acted(event_id=event_id, user=user, request_id=request_id, slot=slot, item=item, action=ACTION)
    return Record(user.encode(), encode(event))


def interleaved(feeds: Iterable[Feed], random: Random) -> list[Record]:
    """The reactions of all readers in the order of their time: each goes on alone, one reaction a second.

    Readers begin anywhere in the time that the longest of them takes, and read feed after feed.
    """
    readers: dict[str, list[Record]] = {}
    for feed in feeds:
        readers.setdefault(feed.request.user, []).extend(reactions_to(feed, random))
    longest = max(len(records) for records in readers.values())
    timed = []
    for records in readers.values():
        begins = random.uniform(0, longest)
        timed += [(begins + second, record) for second, record in enumerate(records)]
    timed.sort(key=lambda pair: pair[0])
    return [record for _, record in timed]


@asynccontextmanager
async def bulk_producer(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that fills topics fast."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, linger_ms=20, max_batch_size=1 << 18)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def fill(settings: Settings, topic: str, records: Sequence[Record]) -> None:
    """Put all records into a topic, and return when the broker has them."""
    async with bulk_producer(settings) as producer:
        sent = [await producer.send(settings.topic(topic), record.value, record.key) for record in records]
        await asyncio.gather(*sent)


@asynccontextmanager
async def feeds_consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of all feeds from the first, in no group."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign([TopicPartition(settings.topic("feeds"), partition) for partition in range(PARTITIONS)])
    try:
        yield consumer
    finally:
        await consumer.stop()


async def ask_all(settings: Settings, requests: Sequence[Record]) -> list[Feed]:
    """Send requests to whoever answers, and wait for a feed to each."""
    await fill(settings, "requests", requests)
    feeds: dict[str, Feed] = {}
    async with feeds_consumer(settings) as consumer:
        end = asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX
        while len(feeds) < len(requests):
            if asyncio.get_running_loop().time() > end:
                raise LoadError(f"{len(feeds)} of {len(requests)} requests were answered")
            batches = await consumer.getmany(timeout_ms=200)
            for record in (record for batch in batches.values() for record in batch):
                feed = read_feed(record.value)
                feeds.setdefault(feed.request.request_id, feed)
    return list(feeds.values())
