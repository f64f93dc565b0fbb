"""What of a store a checkpoint still has to copy: in memory with its values, and as notes of keys in the store.

A note stands in the write batch whose keys it names, so a store that is opened again knows what its last checkpoint
lacks. Which checkpoints a store continues stands beside the notes: only a store that made or read the newest
one may write the next, for a checkpoint is no more than what has changed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Struct
from rocksdict import WriteBatch

from streams.store_folder import typed_errors

LINEAGE, NOTE = b"k", b"c"  # what a key begins with
OWN = (LINEAGE, NOTE)  # of this copy alone: no checkpoint holds them
NOTES_MAX = 5_000  # one for each write batch; beyond it they are written anew as one

_encoder = msgspec.msgpack.Encoder()


class Lineage(Struct, array_like=True):
    """The checkpoints that a store continues: the last one made or read, and one that was tried."""

    made: str | None = None
    tried: str | None = None


class Taken(NamedTuple):
    """What one checkpoint copies: the raw keys that changed, None where a key is gone, as of one position."""

    name: str
    changed: dict[bytes, bytes | None]
    notes_to: int


_lineages = msgspec.msgpack.Decoder(Lineage)
_notes = msgspec.msgpack.Decoder(list[bytes])


class CheckpointNotes:
    """The notes of one store. Everything here raises StoreError where the store is no use."""

    def __init__(self, store: Any, folder: Path, notes: Iterator[tuple[bytes, bytes]], *, new: bool) -> None:
        """Of a raw rocksdict store; `notes` are the (number, note) that stand in it."""
        self._store = store
        self._folder = folder
        self._changed: dict[bytes, bytes | None] = {}  # since the last checkpoint was taken
        self._taken: dict[bytes, bytes | None] = {}  # by a checkpoint that is on its way
        self._from = self._to = 0
        if new:
            self._write(Lineage())
        for number, note in notes:
            self._to = int.from_bytes(number, "big") + 1
            self._changed |= dict.fromkeys(_notes.decode(note))
        with typed_errors(folder):
            for key in self._changed:
                self._changed[key] = store.get(key)

    def note(self, batch: Any, changed: dict[bytes, bytes | None]) -> None:
        """Put the note of a write batch into it."""
        batch.put(_note_key(self._to), _encoder.encode(list(changed)))

    def noted(self, changed: dict[bytes, bytes | None]) -> None:
        """The batch of the last note is written."""
        self._changed |= changed
        self._to += 1
        if self._to - self._from > NOTES_MAX:
            self._shorten()

    def lineage(self) -> Lineage | None:
        """The checkpoints that the store continues; None where it was written to without notes."""
        with typed_errors(self._folder):
            data = self._store.get(LINEAGE)
        return None if data is None else _lineages.decode(data)

    def take(self, needed: bytes) -> Taken | None:
        """What the next checkpoint copies, under a name of its own; None where the `needed` key has not changed."""
        if needed not in self._changed:
            return None
        assert not self._taken, "one checkpoint at a time"
        name = self.name_next()
        self._taken, self._changed = self._changed, {}
        return Taken(name, self._taken, self._to)

    def name_next(self) -> str:
        """A name for the next checkpoint, kept here before it can stand in its topic."""
        lineage = self.lineage() or Lineage()
        lineage.tried = uuid4().hex
        self._write(lineage)
        return lineage.tried

    def taken_back(self) -> None:
        """The checkpoint was not made: the next one copies it too."""
        self._changed = self._taken | self._changed
        self._taken = {}

    def made(self, taken: Taken) -> None:
        """The checkpoint stands in its topic."""
        self._write(Lineage(taken.name), done_to=taken.notes_to)
        self._taken = {}
        self._from = max(self._from, taken.notes_to)

    def holds_all(self, name: str) -> None:
        """The checkpoint of this name holds everything that is in the store."""
        self._write(Lineage(name), done_to=self._to)
        self._changed = {}
        self._from = self._to

    def _write(self, lineage: Lineage, done_to: int = 0) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.put(LINEAGE, _encoder.encode(lineage))
        if done_to:
            batch.delete_range(NOTE, _note_key(done_to))
        with typed_errors(self._folder):
            self._store.write(batch)

    def _shorten(self) -> None:
        """One note in place of many; those of a checkpoint that is on its way stay."""
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(NOTE, _note_key(self._to))
        batch.put(_note_key(self._to), _encoder.encode(list(self._taken | self._changed)))
        with typed_errors(self._folder):
            self._store.write(batch)
        self._from, self._to = self._to, self._to + 1


def _note_key(number: int) -> bytes:
    return NOTE + number.to_bytes(8, "big")
