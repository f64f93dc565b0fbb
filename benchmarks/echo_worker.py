"""The least a worker could do: read a request with our codec, and answer a record as long as a feed.

Its answer is what any worker on this machine, broker and client pays before it thinks. It reads no feedback and
waits for no acknowledgement, though it asks for one of all replicas as ours does.
"""

import asyncio
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from msgspec.structs import replace

from engine.events import Request
from streams.codec import decode
from streams.settings import Settings, read_settings

FEED_BYTES = 1_500  # a decision of 10 slots and 3 pools
encode = msgspec.json.Encoder().encode


class Echo(msgspec.Struct):
    """As much of a feed as the load reads, and what fills it up to a feed's length."""

    request: Request
    slot_items: list[str]
    filler: str = ""


def answer(value: bytes) -> bytes:
    """The first pool's candidates are the feed."""
    request = decode(value)
    assert isinstance(request, Request)
    items = next(iter(request.candidates.values()))[: request.slots]
    echo = encode(Echo(replace(request, candidates={}), items))
    return echo[:-2] + b"." * (FEED_BYTES - len(echo)) + echo[-2:]  # into the filler, the last field


async def work(settings: Settings) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(
        settings.topic("requests"),
        bootstrap_servers=settings.bootstrap,
        group_id=settings.group,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=settings.offsets_every_ms,
    )
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, acks="all", linger_ms=0)
    await consumer.start()
    await producer.start()
    feeds = settings.topic("feeds")
    while not stop.is_set():
        batches = await consumer.getmany(timeout_ms=200)
        for partition, records in batches.items():
            for record in records:
                await producer.send(feeds, answer(record.value), record.key, partition.partition)
    await producer.stop()
    await consumer.stop()


if __name__ == "__main__":
    asyncio.run(work(read_settings()))
