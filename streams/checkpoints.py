"""Checkpoints: the topic `checkpoints` as a copy of what stands in the stores, for whoever has lost a disk.

A record's key is a store's raw key and its value what stands there; a record without a value takes the key out.
What has changed since the last checkpoint goes there in one transaction, with the position last: who reads
committed records alone finds a store as it stood at that position, whatever was killed when. Who starts to write
those of a partition thereby fences its owner before.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from streams.broker import (
    CommittedReader,
    ConsumerRecord,
    KafkaError,
    LostError,
    Part,
    Place,
    TransactionalProducer,
)
from streams.checkpoint_notes import Taken
from streams.failpoints import passing
from streams.settings import Settings
from streams.store import PIECE, POSITION, PartitionStore, Position, piece_key, read_position
from streams.store_folder import put_in_place

log = logging.getLogger(__name__)

NAME = "feedloom.checkpoint"  # header of the position: the checkpoint's name
PIECES = "feedloom.pieces"  # header of a value's first piece: how many there are
PIECE_BYTES_MAX = 512 << 10  # a value that is longer is sent in pieces, as the topic's records may have 1 MiB
LOOK_BACK = 256  # records from the end, in which the newest position is looked for first; then four times as many


class Checkpoint(NamedTuple):
    """The newest one that is complete."""

    name: str
    position: Position


class Checkpoints:
    """Makes those of one partition, one at a time, beside the turns. `lost` says why it cannot any more."""

    def __init__(self, settings: Settings, number: int) -> None:
        """Connect with `start`."""
        self.lost: str | None = None
        self.paused = False  # while a state is made that is to take the place of this one
        self.seconds = 0.0  # that the last one took,
        self.keys = 0  # and how many keys it had
        self._place = Place(settings.topic("checkpoints"), number)
        self._producer = TransactionalProducer(
            settings, f"{settings.topic_prefix}{settings.group}-checkpoints-{number}"
        )
        self._every = settings.checkpoint_every_ms / 1000.0
        self._due = time.monotonic() + self._every
        self._making: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fence whoever makes them now."""
        await self._producer.start()

    def go_on(self, store: PartitionStore) -> None:
        """Begin one if it is time. Raises what the one before met in the store."""
        if (making := self._making) is not None:
            if not making.done():
                return
            self._making = None
            making.result()
        now = time.monotonic()
        if now < self._due or self.paused or self.lost is not None:
            return
        self._due = now + self._every
        if (taken := store.notes.take(POSITION)) is not None:
            self._making = asyncio.create_task(self._make(store, taken))

    async def last(self, store: PartitionStore) -> None:
        """Make one of what is left, before the store is closed.

        None where another state is about to take this one's place: changes of this one have no place behind that.
        """
        if self.paused:
            return
        if self._making is not None:
            await self._making
        if self.lost is None and (taken := store.notes.take(POSITION)) is not None:
            await self._make(store, taken)

    async def whole(self, store: PartitionStore, old: PartitionStore | None = None) -> None:
        """Make one of all that is in a store whose changes nobody has noted. Raises KafkaError.

        What earlier ones hold of an `old` store that it takes the place of, and it has not, is taken out. That one
        makes no more of them, also if this fails: nobody knows then which is the newest.
        """
        self.paused = True
        if self._making is not None:
            await asyncio.wait({self._making})
        name = store.notes.name_next()
        position = store.raw_position()
        if position is not None:
            everything = (pair for pair in store.everything() if pair[0] != POSITION)
            gone = ((key, None) for key in (_keys_of_checkpoints(old) if old else ()) if not store.holds(key))
            await self._producer.write(self._place, _records(name, chain(gone, everything), position))
        store.notes.holds_all(name)
        self.paused = old is not None  # until the store has the other's place

    async def _make(self, store: PartitionStore, taken: Taken) -> None:
        begun = time.monotonic()
        passing("before-checkpoint")
        rest = (pair for pair in taken.changed.items() if pair[0] != POSITION)
        records = _records(taken.name, rest, taken.changed[POSITION])
        try:
            await self._producer.write(self._place, records, lambda: passing("inside-checkpoint"))
        except LostError as error:
            self.lost = str(error)
        except KafkaError as error:
            log.warning("a checkpoint of partition %d is put off: %r", self._place.partition, error)
            store.notes.taken_back()
        else:
            passing("after-checkpoint")
            store.notes.made(taken)
            self.seconds, self.keys = time.monotonic() - begun, len(taken.changed)

    def cancel(self) -> None:
        """Begin nothing, and leave alone what is on its way: its store is closed."""
        if self._making is not None:
            self._making.cancel()
        self.lost = self.lost or "it was let go"

    async def stop(self) -> None:
        """Disconnect."""
        self.cancel()
        await self._producer.stop()


def _keys_of_checkpoints(store: PartitionStore) -> Iterator[bytes]:
    """All keys that the checkpoints of a store may hold: those it has, then those that went since the last one."""
    for key, _ in store.everything():
        yield key
    if (taken := store.notes.take(POSITION)) is not None:
        yield from taken.changed


def _records(name: str, changed: Iterable[tuple[bytes, bytes | None]], position: bytes | None) -> Iterator[Part]:
    """What a checkpoint consists of."""
    for key, value in changed:
        if value is None or len(value) <= PIECE_BYTES_MAX:
            yield Part(key, value)
            continue
        pieces = [value[at : at + PIECE_BYTES_MAX] for at in range(0, len(value), PIECE_BYTES_MAX)]
        for number, piece in enumerate(pieces[1:], 1):
            yield Part(piece_key(key, number), piece)
        yield Part(key, pieces[0], ((PIECES, str(len(pieces)).encode()),))
    yield Part(POSITION, position, ((NAME, name.encode()),))


async def newest(reader: CommittedReader) -> Checkpoint | None:
    """The newest checkpoint, looked for from the end in growing steps; None if there is none."""
    end, span = reader.end, LOOK_BACK
    while end > reader.begin:
        first = max(end - span, reader.begin)
        found = None
        async for records in reader.read(first, end):
            for record in records:
                found = record if record.key == POSITION and record.value else found
        if found is not None:
            return Checkpoint(dict(found.headers)[NAME].decode(), read_position(found.value))
        end, span = first, 4 * span
    return None


async def restore(reader: CommittedReader, folder: Path, name: str) -> None:
    """Put the store of the newest checkpoint, which has this name, in the place of what is in the folder.

    It is made in a folder of its own, so a kill leaves the old one or the new one, or none: then it is made again.
    """
    making = folder.with_name(f"{folder.name}.restoring")
    await asyncio.to_thread(shutil.rmtree, making, ignore_errors=True)
    store = await asyncio.to_thread(PartitionStore, making, copied=True)
    try:
        pieces: dict[bytes, int] = {}
        async for records in reader.read(reader.begin, reader.end):
            store.fill((record.key, record.value) for record in records)
            for record in records:
                _count_pieces(record, pieces)
            passing("inside-restore")
        for key, number in pieces.items():
            store.join(key, number)
        store.notes.holds_all(name)
    finally:
        store.close()
    await asyncio.to_thread(put_in_place, making, folder)


def _count_pieces(record: ConsumerRecord, pieces: dict[bytes, int]) -> None:
    if record.key.startswith(PIECE):
        return
    number = dict(record.headers).get(PIECES)
    if number is None:
        pieces.pop(record.key, None)
    else:
        pieces[record.key] = int(number)
