"""One file of a log: batches, each with a checksum, and a sparse index of where they stand.

    batch     magic, bytes, checksum | first and last offset, log time | offsets, keys, values, headers

The checksum is CRC-32 of all that follows it. What is no batch is named, and reading goes on at the next one.
"""

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from struct import Struct as Layout
from typing import NamedTuple
from zlib import crc32

import msgspec

MAGIC = b"flb1"
HEAD = Layout(">4sII")  # magic, bytes of the rest, checksum of the rest
ABOUT = Layout(">QQq")  # first and last offset, log time
INDEX_BYTES = 16 << 10  # at least, between two entries of the index


class LogRecord(NamedTuple):
    """A record as it stands in a log."""

    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Unwritten(NamedTuple):
    """A record on its way into a log."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Damage(NamedTuple):
    """Bytes of a segment that are no batch, after this offset (-1: none is known), cut off or left out."""

    path: Path
    position: int
    size: int
    after: int
    cut: bool

    def __str__(self) -> str:
        """In words."""
        done = "cut off" if self.cut else "left out"
        return (
            f"{self.path}: {self.size} bytes at {self.position}, after offset {self.after}, are damaged and {done}"
        )


class Batch(NamedTuple):
    """Where a batch stands in its file, and what it holds."""

    position: int
    size: int
    first: int
    last: int
    at_ms: int


_Row = tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]
_rows = msgspec.msgpack.Decoder(list[_Row])
_encoder = msgspec.msgpack.Encoder()


class Segment:
    """One file, and a sparse index of its batches, which is made when it is first read."""

    def __init__(self, path: Path, index: list[Batch] | None = None) -> None:
        self.path = path
        self.base = int(path.stem)
        self.known: set[int] = set()  # positions of damage that was named
        self._index = index  # not None: of all batches that are there
        self._last: Batch | None = None

    def index(self, damages: list[Damage]) -> list[Batch]:
        """Entries at least INDEX_BYTES apart."""
        if self._index is None:
            for _ in self.read(0, damages):
                pass
        assert self._index is not None
        return self._index

    def last_ms(self, damages: list[Damage]) -> int:
        """Log time of its latest batch; 0 if it holds none."""
        self.index(damages)
        return self._last.at_ms if self._last else 0

    def note(self, batch: Batch) -> None:
        """Remember where a batch stands that was just written."""
        assert self._index is not None
        _note(self._index, batch)
        self._last = batch

    def read(
        self, offset: int, damages: list[Damage], known: set[int] | None = None
    ) -> Iterator[tuple[Batch, list[_Row]]]:
        """The whole batches that hold this offset or a later one; damage is named unless it is `known`."""
        position, new = 0, list[Batch]()
        if self._index and (place := bisect_right(self._index, offset, key=lambda batch: batch.first)):
            position = self._index[place - 1].position
        for batch, rows in _batches(self.path, position, damages, self.known if known is None else known):
            if self._index is None:
                _note(new, batch)
                self._last = batch
            if batch.last >= offset:
                yield batch, _rows.decode(rows)
        if self._index is None:
            self._index = new


def _note(index: list[Batch], batch: Batch) -> None:
    """Take a batch into an index if it stands far enough from the one before."""
    if not index or batch.position - index[-1].position >= INDEX_BYTES:
        index.append(batch)


def _batches(path: Path, position: int, damages: list[Damage], known: set[int]) -> Iterator[tuple[Batch, bytes]]:
    """The whole batches of a file from a position on, with the bytes of their records; names what is not whole."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            after = -1
            while position < size:
                batch = _batch_at(data, position)
                if batch is None:
                    begin = position
                    batch = _next_batch(data, position)
                    end = size if batch is None else batch.position
                    if begin not in known:
                        known.add(begin)
                        damages.append(Damage(path, begin, end - begin, after, cut=False))
                    if batch is None:
                        return
                position = batch.position + batch.size
                after = batch.last
                yield batch, data[batch.position + HEAD.size + ABOUT.size : position]


def _next_batch(data: mmap.mmap, position: int) -> Batch | None:
    """The first whole batch after a position."""
    while (position := data.find(MAGIC, position + 1)) >= 0:
        batch = _batch_at(data, position)
        if batch is not None:
            return batch
    return None


def _batch_at(data: mmap.mmap, position: int) -> Batch | None:
    """The batch that begins here, if one does and it is whole."""
    begin = position + HEAD.size
    if len(data) < begin + ABOUT.size:
        return None
    magic, size, checksum = HEAD.unpack_from(data, position)
    if magic != MAGIC or not ABOUT.size < size <= len(data) - begin:
        return None
    with memoryview(data) as view, view[begin : begin + size] as rest:
        if crc32(rest) != checksum:
            return None
    return Batch(position, HEAD.size + size, *ABOUT.unpack_from(data, begin))


def batch_bytes(rows: Iterable[tuple[int, Unwritten]], at_ms: int) -> bytes:
    """One batch of (offset, record), whose offsets go up."""
    flat = [(offset, *row) for offset, row in rows]
    rest = ABOUT.pack(flat[0][0], flat[-1][0], at_ms) + _encoder.encode(flat)
    return HEAD.pack(MAGIC, len(rest), crc32(rest)) + rest
