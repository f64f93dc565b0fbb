"""The state of one partition on disk: users, due decisions, lessons and offsets in one rocksdict store.

What a micro-batch changes goes into one write batch: all of it is there after a crash, or none. A user's open
decisions have records of their own: most reactions change one of them and nothing else.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from rocksdict import Options, Rdict, WriteBatch

from engine.errors import InputError
from engine.state import (
    Cell,
    ClosedTally,
    CohortCell,
    Cursor,
    LedgerRow,
    Lesson,
    Reacted,
    Taught,
    UserState,
    UserWeights,
    Waiting,
)
from streams.failpoints import passing

OPEN_SECONDS_MAX = 20.0  # how long the owner before us may take to let go of a store
RETRY_SECONDS = 0.1
WRITE_BUFFER_BYTES = 16 << 20
WAL_BYTES_MAX = 64 << 20
USER, OPEN, DUE, LESSON, SUMS, POSITION = b"u", b"o", b"d", b"l", b"s", b"p4"  # what a key begins with
# Of stores whose users are laid out otherwise: another key each time that changes.
OTHER_POSITIONS = (b"p", b"p2", b"p3")


class Position(Struct, array_like=True):
    """How far a partition has come: the next offset of each topic, of `partitions` that there are.

    `clock_ms` is the log time of the latest reaction, `version` the last population version that it has passed.
    Lessons from `lessons_from` to before `lessons_to` are not yet in the stored sums.
    """

    partitions: int
    requests: int = 0
    feedback: int = 0
    feeds: int = 0
    clock_ms: int = 0
    version: int = -1
    lessons_from: int = 0
    lessons_to: int = 0

    def offsets(self) -> dict[str, int]:
        """The next offset by topic."""
        return {"requests": self.requests, "feedback": self.feedback, "feeds": self.feeds}


class Changed(NamedTuple):
    """A user's state as it is stored, and as it is to be."""

    user: str
    old: UserState
    new: UserState


class Changes(NamedTuple):
    """What one micro-batch changes; `sums` is None where the stored sums stay."""

    users: list[Changed]
    due: list[tuple[int, str]]
    no_longer_due: list[tuple[int, str]]
    lessons: list[tuple[int, Lesson]]
    sums: bytes | None
    position: Position


class _UserRecord(Struct, frozen=True, array_like=True):
    """A user's state but for the open decisions, of which it has the ids in their order."""

    closed: dict[Cell, ClosedTally]
    history: tuple[Reacted, ...]
    waiting: tuple[Waiting, ...]
    served: dict[str, int]
    taught: dict[CohortCell, Taught]
    cursor: Cursor | None
    weights: UserWeights | None
    open: tuple[str, ...]


_encoder = msgspec.msgpack.Encoder()
_users = msgspec.msgpack.Decoder(_UserRecord)
_rows = msgspec.msgpack.Decoder(LedgerRow)
_lessons = msgspec.msgpack.Decoder(list[tuple[int, Lesson]])
_positions = msgspec.msgpack.Decoder(Position)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _open_key(user: str, request_id: str) -> bytes:
    name = user.encode()
    return OPEN + _number(len(name)) + name + request_id.encode()


def _due_key(until_ms: int, user: str) -> bytes:
    return DUE + _number(until_ms) + user.encode()


class PartitionStore:
    """One partition's store; a second process cannot open it."""

    def __init__(self, folder: Path) -> None:
        """Open or create it. Raises InputError if it stays locked, or cannot be read."""
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot keep state in {folder.parent}: {error.strerror}") from error
        self._store = _opened(folder)

    def position(self) -> Position | None:
        """How far it has come; None if it is new. Raises InputError for a store of another version."""
        if any(self._store.get(other) is not None for other in OTHER_POSITIONS):
            raise InputError(
                "the state was written by another version of Feedloom: remove the folder, and it comes back from "
                "feeds and feedback"
            )
        data = self._store.get(POSITION)
        return None if data is None else _positions.decode(data)

    def user(self, user: str) -> UserState | None:
        """A user's state."""
        data = self._store.get(USER + user.encode())
        return None if data is None else self._whole(user, data)

    def users(self) -> Iterator[tuple[str, UserState]]:
        """All users and their states."""
        for key, data in self._range(USER):
            user = key.decode()
            yield user, self._whole(user, data)

    def _whole(self, user: str, data: bytes) -> UserState:
        """A user's record with the open decisions that it names."""
        record = _users.decode(data)
        return UserState(
            closed=record.closed,
            ledger={name: _rows.decode(self._store.get(_open_key(user, name))) for name in record.open},
            history=record.history,
            waiting=record.waiting,
            served=record.served,
            taught=record.taught,
            cursor=record.cursor,
            weights=record.weights,
        )

    def due(self) -> Iterator[tuple[int, str]]:
        """(until, user) of open decisions, the first due first."""
        for key, _ in self._range(DUE):
            yield int.from_bytes(key[:8], "big"), key[8:].decode()

    def sums(self) -> bytes | None:
        """The sums as they were last stored."""
        data: bytes | None = self._store.get(SUMS)
        return data

    def lessons(self) -> Iterator[tuple[int, Lesson]]:
        """(log time, lesson) of what the stored sums do not hold yet, in order."""
        for _, data in self._range(LESSON):
            yield from _lessons.decode(data)

    def _range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, data in self._store.items(from_key=prefix):
            if not key.startswith(prefix):
                return
            yield key[len(prefix) :], data

    def write(self, changes: Changes) -> None:
        """Write all of it, in one batch."""
        batch = WriteBatch(raw_mode=True)
        for changed in changes.users:
            _put_user(batch, *changed)
        for until_ms, user in changes.due:
            batch.put(_due_key(until_ms, user), b"")
        passing("inside-batch")
        for until_ms, user in changes.no_longer_due:
            batch.delete(_due_key(until_ms, user))
        position = changes.position
        if changes.sums is not None:
            batch.put(SUMS, changes.sums)
            batch.delete_range(LESSON, LESSON + _number(position.lessons_from))
        if changes.lessons:
            batch.put(LESSON + _number(position.lessons_to - 1), _encoder.encode(changes.lessons))
        batch.put(POSITION, _encoder.encode(position))
        self._store.write(batch)

    def close(self) -> None:
        """Let go of it."""
        self._store.close()


def _put_user(batch: Any, user: str, old: UserState, new: UserState) -> None:
    """Put what differs. States are values: what is the same object has not changed."""
    for request_id, row in new.ledger.items():
        if old.ledger.get(request_id) is not row:
            batch.put(_open_key(user, request_id), _encoder.encode(row))
    for request_id in old.ledger.keys() - new.ledger.keys():
        batch.delete(_open_key(user, request_id))
    if (
        old.history is not new.history
        or old.closed is not new.closed
        or old.waiting is not new.waiting
        or old.served is not new.served
        or old.taught is not new.taught
        or old.cursor is not new.cursor
        or old.weights is not new.weights
        or old.ledger.keys() != new.ledger.keys()
    ):
        ids = tuple(new.ledger)
        record = (new.closed, new.history, new.waiting, new.served, new.taught, new.cursor, new.weights, ids)
        batch.put(USER + user.encode(), _encoder.encode(record))


def _opened(folder: Path) -> Any:  # rocksdict's own type hints know no raw mode
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_keep_log_file_num(2)
    end = time.monotonic() + OPEN_SECONDS_MAX
    while True:
        try:
            return Rdict(str(folder), options)
        except Exception as error:
            if "lock" not in str(error).lower():
                raise InputError(f"cannot open the store {folder}: {error}") from error
            if time.monotonic() > end:
                raise InputError(
                    f"another process has the store {folder}: give every worker a folder of its own"
                ) from error
            time.sleep(RETRY_SECONDS)
