"""Bringing back a partition after a kill, a move or a lost disk: the store that knows most, and what it lacks.

That is the one on this disk if it continues the newest checkpoint, else the checkpoint. What `feeds` and `feedback`
hold beyond it is folded again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from streams.broker import CommittedReader, ConsumerRecord, Place, committed_reader, place_of, plain, read_merged
from streams.checkpoints import Checkpoint, newest, restore
from streams.messages import Message
from streams.partition import Partition
from streams.settings import Settings
from streams.store import PartitionStore
from streams.store_folder import StoreDamagedError, set_aside

log = logging.getLogger(__name__)

AT_ONCE = 64  # records that are folded again before partitions that are ours already have their turn


class _Moment(Struct):
    """The part of a decision that says when it was."""

    at_ms: int


_moments = msgspec.json.Decoder(_Moment)


def moment_of(topic: str, at_ms: int, value: bytes | None) -> tuple[int, int]:
    """Where a record of `feeds` or `feedback` stands in time: a decision's is that of its request.

    Decisions go first where times are equal, as they were before what they caused: so no more is open at a time
    than was when it happened.
    """
    if topic != "feeds":
        return at_ms, 1
    with suppress(msgspec.DecodeError, UnicodeDecodeError, TypeError):
        return _moments.decode(value or b"").at_ms, 0
    return at_ms, 0


async def store_of(
    settings: Settings, number: int, damaged: Callable[[str, Path], Awaitable[None]]
) -> tuple[PartitionStore, bool]:
    """The store to go on with, and whether a checkpoint of all of it is needed before one of what changes.

    A damaged store is set aside, and `damaged` is told what was found and where it is now. Only the owner of the
    partition's checkpoints may ask for it. Raises KafkaError, StoreError and InputError.
    """
    folder = settings.state_folder / f"partition-{number}"
    async with committed_reader(settings, Place(settings.topic("checkpoints"), number)) as reader:
        known = await newest(reader)
        store = await _readable(folder, damaged)
        try:
            if known is None:
                lineage = store.notes.lineage()
                return store, lineage is None or lineage.made is not None
            if _continues(store, known):
                return store, False
        except BaseException:
            store.close()
            raise
        log.info("partition %d is filled from the checkpoint at %s", number, known.position)
        store.close()
        return await _restored(reader, folder, known), False


async def _readable(folder: Path, damaged: Callable[[str, Path], Awaitable[None]]) -> PartitionStore:
    """The store of a folder; if it is damaged, a new one in its place."""
    try:
        return await opened(folder)
    except StoreDamagedError as error:
        await damaged(str(error), set_aside(folder))
        return await opened(folder)


async def opened(folder: Path) -> PartitionStore:
    """Open a store in a thread. It is closed again if we are cancelled meanwhile."""
    opening = asyncio.ensure_future(asyncio.to_thread(PartitionStore, folder, copied=True))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda done: None if done.exception() else done.result().close())
        raise


def _continues(store: PartitionStore, known: Checkpoint) -> bool:
    """Whether a store has all that the newest checkpoint has: as its own, or as the one that it was filled from."""
    lineage, position = store.notes.lineage(), store.position()
    if lineage is None or position is None or known.name not in (lineage.made, lineage.tried):
        return False
    ours, theirs = position.offsets(), known.position.offsets()
    return all(ours[topic] >= offset for topic, offset in theirs.items())


async def _restored(reader: CommittedReader, folder: Path, known: Checkpoint) -> PartitionStore:
    await restore(reader, folder, known.name)
    return await opened(folder)


async def refold(
    partition: Partition,
    settings: Settings,
    sent: Callable[[Sequence[Message]], Awaitable[None]],
    wanted: Callable[[], bool],
    until: Mapping[str, int] | None = None,
) -> None:
    """Bring a partition to where the topics end now, or to these offsets, as long as it is `wanted`.

    `sent` sends messages and returns when they are acknowledged. What is folded is kept as it goes.

    The topics are merged by `moment_of`.
    """
    feeds = Place(settings.topic("feeds"), partition.number)
    feedback = Place(settings.topic("feedback"), partition.number)

    def time_of(record: ConsumerRecord) -> tuple[int, int]:
        return moment_of("feeds" if record.topic == feeds.topic else "feedback", record.timestamp, record.value)

    begin = {feeds: partition.position.feeds, feedback: partition.position.feedback}
    ends = None if until is None else {feeds: until["feeds"], feedback: until["feedback"]}
    async for records in read_merged(settings, begin, time_of, ends):
        messages: list[Message] = []
        last_ms = max((record.timestamp for record in records if place_of(record) == feedback), default=0)
        for count, record in enumerate(records, 1):
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
            if place_of(record) == feeds:
                messages += partition.adopt(plain(record), dict(record.headers))
            else:
                messages += partition.react(plain(record), last_ms)
        await sent(messages)
        await asyncio.sleep(0)
        partition.commit()
        if not wanted():
            return
