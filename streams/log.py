"""The log of one partition of one topic on disk: segments of batches, each with a checksum.

A batch is written in one piece and read back whole or not at all. What a disk or a crash has damaged is found by
its checksum and named: at the end of a log it is cut off (and kept beside it), inside a log it is left out, up to
the next batch that is whole. Nothing of it is passed over silently.

    segment   00000000000000004711.log      named by the first offset that it may hold

Times are the log's own, in milliseconds since the epoch, and never go back inside a log.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock

from streams.segment import Batch, Damage, LogRecord, Segment, Unwritten, batch_bytes

__all__ = ["Damage", "LogRecord", "PartitionLog", "Unwritten", "sync_folder"]

READ_BYTES = 1 << 20  # about so much is handed over at a time
SUFFIX, CUT, PARTIAL, COMPACTED = ".log", ".cut", ".partial", ".compacted"


class PartitionLog:
    """An append-only log of one writer. What it took survives the process; what it synced, a power cut."""

    def __init__(self, folder: Path, *, segment_bytes: int = 64 << 20) -> None:
        """Open or create it. What is not whole at its end is cut off, and named in `damages`."""
        self.damages: list[Damage] = []
        self.end = 0  # the next offset
        self.last_ms = 0  # log time of the latest batch
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._file = -1
        self._dirty = self._broken = False
        self._syncing = Lock()  # a thread may sync a segment while another one is begun
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"*{PARTIAL}"):
            left.unlink()
        for whole in folder.glob(f"*{COMPACTED}"):
            _put_in_place(whole)
        self._segments = [Segment(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        if self._segments:
            self._open_last()
        else:
            self._begin_segment()

    @property
    def begin(self) -> int:
        """The first offset that may be there."""
        return self._segments[0].base

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.path.stat().st_size for segment in self._segments[:-1]) + self._size

    def append(self, records: Sequence[Unwritten], at_ms: int) -> int:
        """Write one batch; the offset of its first record. Raises OSError, and then none of it is written."""
        first = self.end
        if not records:
            return first
        if self._broken:
            raise OSError(f"{self._folder}: what was written last is not known to be there; open the log anew")
        if self._size >= self._segment_bytes:
            self._begin_segment()
        at_ms = self.last_ms = max(self.last_ms, at_ms)
        data = batch_bytes(list(enumerate(records, first)), at_ms)
        try:
            _write(self._file, data)
        except OSError:
            self._broken = True
            os.ftruncate(self._file, self._size)
            self._broken = False
            raise
        self._segments[-1].note(Batch(self._size, len(data), first, self.end + len(records) - 1, at_ms))
        self._size += len(data)
        self.end = first + len(records)
        self._dirty = True
        return first

    def sync(self) -> None:
        """Return when all that was appended is on the disk itself. After an OSError nobody knows what is there."""
        with self._syncing:
            self._sync()

    def advance(self, end: int) -> None:
        """Give what comes next no offset before `end`."""
        if end > self.end:
            self.end = end
            self._begin_segment()

    def read(self, offset: int = 0, most: int = READ_BYTES) -> Iterator[list[LogRecord]]:
        """The records from an offset to where the log ends now, in lists of about so many bytes."""
        end, chunk, size = self.end, list[LogRecord](), 0
        place = max(bisect_right(self._segments, offset, key=lambda segment: segment.base) - 1, 0)
        for segment in self._segments[place:]:
            for batch, rows in segment.read(offset, self.damages):
                chunk += [LogRecord(row[0], batch.at_ms, *row[1:]) for row in rows if offset <= row[0] < end]
                size += batch.size
                if size >= most and chunk:
                    yield chunk
                    chunk, size = [], 0
        if chunk:
            yield chunk

    def offset_at(self, at_ms: int) -> int:
        """An offset before which everything is older than this time, and not much before what is not."""
        found = self.begin
        for segment in self._segments:
            index = segment.index(self.damages)
            before = bisect_left(index, at_ms, key=lambda entry: entry.at_ms)
            if before:
                found = index[before - 1].first
            if before < len(index):
                break
        return found

    def begin_segment_after(self, at_ms: int) -> None:
        """Let what comes next go into another segment, if the first record of this one is older than that."""
        index = self._segments[-1].index(self.damages)
        if index and index[0].at_ms < at_ms:
            self._begin_segment()

    def lapse(self, before_ms: int) -> int:
        """Drop segments of which all is older than this time; returns how many bytes that freed."""
        freed = 0
        if self._size and self.last_ms < before_ms:
            self._begin_segment()
        while len(self._segments) > 1 and self._segments[0].last_ms(self.damages) < before_ms:
            oldest = self._segments.pop(0)
            freed += oldest.path.stat().st_size
            oldest.path.unlink()
        return freed

    def compact(self) -> None:
        """Keep the latest record of each key, and none of a key whose latest has no value."""
        latest = {record.key: record for chunk in self.read() for record in chunk}
        kept = sorted((one for one in latest.values() if one.value is not None), key=lambda one: one.offset)
        self._begin_segment()  # what comes next goes behind what is kept
        old, last = self._segments[:-1], self._segments[-1]
        if not old:
            return
        partial = self._folder / f"kept{PARTIAL}"
        with partial.open("wb") as file:
            for record in kept:
                row = Unwritten(record.key, record.value, record.headers)
                file.write(batch_bytes([(record.offset, row)], record.at_ms))
            file.flush()
            os.fsync(file.fileno())
        # It says in its name which segments it is instead of. From here on that is finished, whatever happens.
        self._segments = [Segment(_put_in_place(partial.replace(last.path.with_suffix(COMPACTED)))), last]

    def verify(self) -> list[Damage]:
        """Read all of it; what is damaged."""
        found: list[Damage] = []
        for segment in self._segments:
            for _ in segment.read(0, found, set()):
                pass
        return found

    def close(self) -> None:
        """Sync it and let go of it."""
        with suppress(OSError):  # what is not on the disk is lost at a power cut alone
            self.sync()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_last(self) -> None:
        """Go on after the last batch that is whole."""
        last = self._segments[-1]
        self.end, self._size = last.base, last.path.stat().st_size
        for batch, _ in last.read(0, self.damages):
            self.end = batch.last + 1
        if self.damages and self.damages[-1].position + self.damages[-1].size == self._size:
            damage = self.damages[-1] = self.damages[-1]._replace(cut=True)
            cut = last.path.with_suffix(f".{damage.position}{CUT}")
            cut.write_bytes(last.path.read_bytes()[damage.position :])
            self._size = damage.position
            os.truncate(last.path, self._size)
            last.known.discard(damage.position)
        for segment in reversed(self._segments):  # the last ones may hold nothing
            if segment.index(self.damages):
                self.last_ms = segment.last_ms(self.damages)
                break
        self._file = os.open(last.path, os.O_WRONLY | os.O_APPEND)
        self._dirty = True  # whoever wrote it may have been killed before it was on the disk

    def _begin_segment(self) -> None:
        """Begin a segment at the end, unless the last one holds nothing and begins there."""
        if self._segments and self._segments[-1].base == self.end:
            return
        path = self._folder / f"{self.end:020}{SUFFIX}"
        with self._syncing:
            if self._segments:
                self._sync()
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            if self._segments:  # not before there is another: where none can be had, the log goes on in this one
                os.close(self._file)
            self._file, self._size = file, 0
        self._segments.append(Segment(path, index=[]))
        sync_folder(self._folder)

    def _sync(self) -> None:
        if self._dirty:
            self._dirty = False  # what is appended meanwhile, by another thread, sets it again
            try:
                os.fsync(self._file)
            except OSError:
                self._dirty = self._broken = True  # asked again, the kernel may say that all is well
                raise


def _write(file: int, data: bytes) -> None:
    """All of it. Raises OSError where the disk or a limit of file sizes ends it."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _put_in_place(whole: Path) -> Path:
    """Let what compaction kept replace all segments before the one that it is named after; where it is then.

    After a kill it is done again from the beginning: the oldest of them is there until the end.
    """
    sync_folder(whole.parent)
    oldest, *others = sorted(path for path in whole.parent.glob(f"*{SUFFIX}") if path.stem < whole.stem)
    for path in others:
        path.unlink()
    whole.replace(oldest)
    sync_folder(whole.parent)
    return oldest


def sync_folder(folder: Path) -> None:
    """Put the names of a folder on the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
