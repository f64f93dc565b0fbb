"""The topics of an embedded engine: a folder with a log for each partition, which one process has at a time.

    DIR/about.json           how many parts users are divided into, which never changes
    DIR/log/feedback-0/      the log of a partition
    DIR/state/partition-0/   what is folded from it: not ours here

The log's clock is the machine's, but it never goes back: where the machine's does, log time stands still until the
machine has caught up.
"""

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct

from engine.errors import InputError
from streams.broker import partition_of
from streams.log import Damage, PartitionLog, Unwritten, sync_folder
from streams.topics import FOR_EVER_MS, TOPICS

SEGMENTS = 8  # of a topic's retention, at least
TIDY_MS = 60_000  # between two looks at what has lapsed
FORMAT = 1  # of the folder
Fsync = Literal["always", "interval", "never"]
COMPACT_BYTES_MIN = 16 << 20  # a compacted topic is compacted again when it has grown by so much,
COMPACT_GROWTH = 2  # and by this factor
EMBEDDED = (
    "requests",
    "feedback",
    "feeds",
    "items",
    "policy",
    "population",
    "erased",
    "sums",
    "alerts",
    "dead-letters",
)


class _About(Struct, frozen=True):
    format: int
    partitions: int


def wall_ms() -> int:
    """The machine's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class LocalTopics:
    """The logs of all topics. What is appended together has one log time."""

    def __init__(
        self, folder: Path, partitions: int | None, segment_bytes: int, wall: Callable[[], int] = wall_ms
    ) -> None:
        """Open or create them; without `partitions`, with as many as there are.

        Raises InputError for a folder of another process, or made with another number of partitions.
        """
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._wall = wall
        self._floor_ms = 0
        self._noted: set[Damage] = set()
        self._untold: list[Damage] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
        except OSError as error:
            raise InputError(f"cannot keep data in {folder}: {error.strerror}") from error
        try:
            self.partitions = _agreed(folder, partitions)
            self._open()
        except BaseException as error:
            self._lock.close()
            if isinstance(error, OSError):
                raise InputError(f"cannot keep data in {folder}: {error.strerror}") from error
            raise

    def _open(self) -> None:
        specs = {spec.name: spec for spec in TOPICS}
        logs: dict[tuple[str, int], PartitionLog] = {}
        compacted: dict[tuple[str, int], int] = {}
        for name in EMBEDDED:
            for number in range(specs[name].partitions(self.partitions)):
                log = PartitionLog(self.folder / "log" / f"{name}-{number}", segment_bytes=self._segment_bytes)
                logs[name, number] = log
                if specs[name].cleanup == "compact":
                    compacted[name, number] = log.size
        self._logs, self._compacted = logs, compacted

    def log(self, topic: str, number: int = 0) -> PartitionLog:
        """The log of a topic's partition."""
        return self._logs[topic, number]

    @property
    def size(self) -> int:
        """Bytes of all logs."""
        return sum(log.size for log in self._logs.values())

    def part_of(self, user: str) -> int:
        """The partition of a user's records: where Kafka's own partitioner puts the same key."""
        return partition_of(user.encode(), self.partitions) if self.partitions > 1 else 0

    def now_ms(self) -> int:
        """Log time: the machine's, but never before what is in a log already."""
        return max(self._wall(), self._floor_ms, *(log.last_ms for log in self._logs.values()))

    def pass_time(self, at_ms: int) -> None:
        """Let log time go on behind this: what comes now came later, also where the machine's clock went back."""
        self._floor_ms = max(self._floor_ms, at_ms + 1)

    def append(self, topic: str, number: int, records: Sequence[Unwritten], at_ms: int) -> int:
        """Append one batch; the offset of its first record. Raises OSError, and then none of it is there."""
        return self._logs[topic, number].append(records, at_ms)

    def sync(self) -> None:
        """Return when everything is on the disk itself. Raises OSError."""
        for log in self._logs.values():
            log.sync()

    def lapse_ms(self, at_ms: int, retention_ms: int) -> int | None:
        """When what came by this time will have lapsed, with all of its segment; None where that is for ever."""
        kept_ms = retention_ms + retention_ms // SEGMENTS + TIDY_MS
        return None if kept_ms > FOR_EVER_MS else at_ms + kept_ms

    def tidy(self, retention_ms: int) -> None:
        """Drop what has lapsed, by segments, and what newer records of the same key have replaced.

        A segment takes records for an eighth of the retention, so that what is in it lapses no later than that.
        """
        now_ms = self.now_ms()
        for place, log in self._logs.items():
            if place not in self._compacted:
                log.begin_segment_after(now_ms - retention_ms // SEGMENTS)
                log.lapse(now_ms - retention_ms)
            elif log.size > max(
                COMPACT_GROWTH * self._compacted[place], self._compacted[place] + COMPACT_BYTES_MIN
            ):
                log.compact()
                self._compacted[place] = log.size

    def damages(self) -> list[Damage]:
        """What was found damaged since it was asked last."""
        self._note_damages()
        untold, self._untold = self._untold, []
        return untold

    def _note_damages(self) -> None:
        new = [damage for log in self._logs.values() for damage in log.damages if damage not in self._noted]
        self._noted.update(new)
        self._untold += new

    def verify(self) -> list[Damage]:
        """Read everything; what is damaged."""
        return [damage for log in self._logs.values() for damage in log.verify()]

    def reopen(self) -> None:
        """Open all logs anew, after a failure. Raises OSError."""
        self._note_damages()
        for log in self._logs.values():
            log.close()
        self._open()

    def close(self) -> None:
        """Sync, and let another process have them."""
        for log in self._logs.values():
            log.close()
        self._lock.close()


def _locked(folder: Path) -> IO[bytes]:
    """The folder's lock, until it is closed or the process ends."""
    lock = (folder / "lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise InputError(f"another process has {folder}: end it first, or give this one another folder") from None
    return lock


def _agreed(folder: Path, partitions: int | None) -> int:
    """The folder's number of partitions, which it gets when it is new. Raises InputError where it has another."""
    path = folder / "about.json"
    try:
        about = msgspec.json.decode(path.read_bytes(), type=_About)
    except FileNotFoundError:
        _write_whole(path, msgspec.json.encode(_About(FORMAT, partitions or 1)))
        return partitions or 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if about.format != FORMAT:
        raise InputError(f"{folder} is of format {about.format}, and this version of Feedloom reads {FORMAT}")
    if partitions not in (None, about.partitions):
        raise InputError(
            f"{folder} was made with {about.partitions} partitions, and {partitions} are asked for: users would be "
            "on other partitions than their state"
        )
    return about.partitions


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole, on the disk itself, or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
