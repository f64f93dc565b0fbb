"""The state of one partition on disk: users, due decisions, lessons and offsets in one rocksdict store.

What a micro-batch changes goes into one write batch: all of it is there after a crash, or none. A user's open
decisions have records of their own: most reactions change one of them and nothing else.

A store that is `copied` remembers, in the same batches, which keys a checkpoint has to copy.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct
from rocksdict import Checkpoint as DiskCopy
from rocksdict import DbClosedError, WriteBatch

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
    Viewed,
    Waiting,
)
from streams.checkpoint_notes import LINEAGE, NOTE, OWN, CheckpointNotes
from streams.exclusions import NOBODY, Exclusions
from streams.failpoints import passing
from streams.store_folder import StoreError, opened, typed_errors

USER, OPEN, DUE, LESSON, SUMS, POSITION = b"u", b"o", b"d", b"l", b"s", b"p4"  # what a key begins with
# Of stores whose users are laid out otherwise: another key each time that changes.
OTHER_POSITIONS = (b"p", b"p2", b"p3")
TOPIC_IDS, EXCLUSIONS = b"t", b"x"
PIECE = b"+"  # of a value that is too long for a record of a checkpoint


class Position(Struct, array_like=True):
    """How far a partition has come: the next offset of each topic, of `partitions` that there are.

    `clock_ms` is the log time of the latest reaction, `version` the last population version that it has passed.
    Lessons from `lessons_from` to before `lessons_to` are not yet in the stored sums. `policy` is the revision that
    it is folded by, 0 for the first there is.
    """

    partitions: int
    requests: int = 0
    feedback: int = 0
    feeds: int = 0
    clock_ms: int = 0
    version: int = -1
    lessons_from: int = 0
    lessons_to: int = 0
    policy: int = 0

    def offsets(self) -> dict[str, int]:
        """The next offset by topic."""
        return {"requests": self.requests, "feedback": self.feedback, "feeds": self.feeds}


class Changed(NamedTuple):
    """A user's state as it is stored, and as it is to be."""

    user: str
    old: UserState
    new: UserState


class Changes(NamedTuple):
    """What one micro-batch changes; `sums` and `exclusions` are None where the stored ones stay."""

    users: list[Changed]
    due: list[tuple[int, str]]
    no_longer_due: list[tuple[int, str]]
    lessons: list[tuple[int, Lesson]]
    sums: bytes | None
    position: Position
    exclusions: Exclusions | None = None


class _UserRecord(Struct, frozen=True, array_like=True):
    """A user's state but for the open decisions, of which it has the ids in their order.

    The last two are left out where both are empty.
    """

    closed: dict[Cell, ClosedTally]
    history: tuple[Reacted, ...]
    waiting: tuple[Waiting, ...]
    served: dict[str, int]
    taught: dict[CohortCell, Taught]
    cursor: Cursor | None
    weights: UserWeights | None
    open: tuple[str, ...]
    hidden: tuple[Reacted, ...] = ()
    views: tuple[Viewed, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_users = msgspec.msgpack.Decoder(_UserRecord)
_rows = msgspec.msgpack.Decoder(LedgerRow)
_lessons = msgspec.msgpack.Decoder(list[tuple[int, Lesson]])
_exclusions = msgspec.msgpack.Decoder(Exclusions)
_positions = msgspec.msgpack.Decoder(Position)
_topic_ids = msgspec.msgpack.Decoder(dict[str, str])


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _open_key(user: str, request_id: str) -> bytes:
    name = user.encode()
    return OPEN + _number(len(name)) + name + request_id.encode()


def piece_key(key: bytes, number: int) -> bytes:
    """Where a piece of a long value stands in a checkpoint."""
    return PIECE + _number(number) + key


def _lesson_key(number: int) -> bytes:
    return LESSON + _number(number)


def _due_key(until_ms: int, user: str) -> bytes:
    return DUE + _number(until_ms) + user.encode()


def read_position(data: bytes) -> Position:
    """A position as it stands in a store or in a checkpoint."""
    return _positions.decode(data)


class OtherVersionError(InputError):
    """The state was written by another version of Feedloom."""


class PartitionStore:
    """One partition's store, which a second process cannot open. All of it raises StoreError where it is no use."""

    def __init__(self, folder: Path, *, copied: bool = False) -> None:
        """Open or create it; one that is `copied` has notes. Raises InputError if it stays locked."""
        self.folder = folder
        self._store = opened(folder)
        self._notes: CheckpointNotes | None = None
        try:
            self._lesson_numbers = [int.from_bytes(key, "big") for key, _ in self._range(LESSON)]
            if copied:
                new = all(self._get(key) is None for key in (LINEAGE, POSITION))
                self._notes = CheckpointNotes(self._store, folder, self._range(NOTE), new=new)
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> CheckpointNotes:
        """What a checkpoint has to copy, of a store that is opened as `copied`."""
        assert self._notes is not None
        return self._notes

    def position(self) -> Position | None:
        """How far it has come; None if it is new. Raises OtherVersionError for a store of another version."""
        if any(self._get(other) is not None for other in OTHER_POSITIONS):
            raise OtherVersionError(
                "the state was written by another version of Feedloom: remove the folder, and it comes back from "
                "feeds and feedback"
            )
        data = self.raw_position()
        return None if data is None else read_position(data)

    def raw_position(self) -> bytes | None:
        """The position as it is stored."""
        return self._get(POSITION)

    def topic_ids(self) -> dict[str, str]:
        """Kafka's ids of the topics that it is made of, by short name; empty where that is not known."""
        data = self._get(TOPIC_IDS)
        return {} if data is None else _topic_ids.decode(data)

    def keep_topic_ids(self, ids: dict[str, str]) -> None:
        """Remember the topics that it is made of."""
        batch = _Batch()
        batch.put(TOPIC_IDS, _encoder.encode(ids))
        self._write(batch)

    def _get(self, key: bytes) -> bytes | None:
        with typed_errors(self.folder):
            data: bytes | None = self._store.get(key)
        return data

    def user(self, user: str) -> UserState | None:
        """A user's state."""
        data = self._get(USER + user.encode())
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
            ledger={name: _rows.decode(self._get(_open_key(user, name)) or b"") for name in record.open},
            history=record.history,
            waiting=record.waiting,
            served=record.served,
            taught=record.taught,
            cursor=record.cursor,
            weights=record.weights,
            hidden=record.hidden,
            views=record.views,
        )

    def due(self) -> Iterator[tuple[int, str]]:
        """(until, user) of open decisions, the first due first."""
        for key, _ in self._range(DUE):
            yield int.from_bytes(key[:8], "big"), key[8:].decode()

    def sums(self) -> bytes | None:
        """The sums as they were last stored."""
        return self._get(SUMS)

    def lessons(self) -> Iterator[tuple[int, Lesson]]:
        """(log time, lesson) of what the stored sums do not hold yet, in order."""
        for _, data in self._range(LESSON):
            yield from _lessons.decode(data)

    def holds(self, key: bytes) -> bool:
        """Whether there is a raw key."""
        return self._get(key) is not None

    def exclusions(self) -> Exclusions | None:
        """What the state leaves out for good."""
        data = self._get(EXCLUSIONS)
        return None if data is None else _exclusions.decode(data)

    def everything(self) -> Iterator[tuple[bytes, bytes]]:
        """All raw keys and values that a checkpoint copies."""
        return ((key, data) for key, data in self._range(b"") if not key.startswith(OWN))

    def _range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with typed_errors(self.folder):
            cursor = self._store.iter()
            cursor.seek(prefix)
            while cursor.valid():
                key = cursor.key()
                if not key.startswith(prefix):
                    return
                yield key[len(prefix) :], cursor.value()
                cursor.next()
            cursor.status()  # at damage it ends as it does behind the last key

    def write(self, changes: Changes) -> None:
        """Write all of it, in one batch."""
        batch = _Batch()
        for changed in changes.users:
            _put_user(batch, *changed)
        for until_ms, user in changes.due:
            batch.put(_due_key(until_ms, user), b"")
        passing("inside-batch")
        for until_ms, user in changes.no_longer_due:
            batch.delete(_due_key(until_ms, user))
        position = changes.position
        numbers = self._lesson_numbers
        if changes.sums is not None:
            batch.put(SUMS, changes.sums)
            old = bisect_left(numbers, position.lessons_from)
            batch.delete_range(LESSON, _lesson_key(position.lessons_from), map(_lesson_key, numbers[:old]))
            del numbers[:old]
        if changes.lessons:
            numbers.append(position.lessons_to - 1)
            batch.put(_lesson_key(numbers[-1]), _encoder.encode(changes.lessons))
        if changes.exclusions is not None:
            batch.put(EXCLUSIONS, _encoder.encode(changes.exclusions))
        batch.put(POSITION, _encoder.encode(position))
        self._write(batch)

    def _write(self, batch: "_Batch") -> None:
        """Write a batch, and with it the note of what it changes; without notes, that there are none."""
        if self._notes is None:
            batch.raw.delete(LINEAGE)
        else:
            self._notes.note(batch.raw, batch.changed)
        with typed_errors(self.folder):
            self._store.write(batch.raw)
        if self._notes is not None:
            self._notes.noted(batch.changed)

    def fill(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Put raw keys of a checkpoint into a store that is being made; None takes a key out."""
        batch = WriteBatch(raw_mode=True)
        for key, data in records:
            if data is None:
                batch.delete(key)
            else:
                batch.put(key, data)
        with typed_errors(self.folder):
            self._store.write(batch)

    def join(self, key: bytes, pieces: int) -> None:
        """Put a value together again that came in so many pieces, the first one under its own key."""
        rest = [piece_key(key, number) for number in range(1, pieces)]
        whole = b"".join(self._get(place) or b"" for place in (key, *rest))
        self.fill([(key, whole), *((place, None) for place in rest)])

    def copy_to(self, folder: Path) -> None:
        """Copy what is written to a new folder on the same disk; files that never change are shared."""
        with typed_errors(self.folder):
            DiskCopy(self._store).create_checkpoint(str(folder))

    def scrub(self, user: str) -> None:
        """Take what was deleted of a user out of the files too."""
        with typed_errors(self.folder):
            self._store.flush()
            for key in (USER + user.encode(), _open_key(user, "")):
                self._store.compact_range(key, key + b"\xff")

    def close(self) -> None:
        """Let go of it; again it does nothing."""
        # What cannot be put in order is folded again.
        with suppress(StoreError, DbClosedError), typed_errors(self.folder):
            self._store.close()


class _Batch:
    """A write batch, and the raw keys that it changes."""

    def __init__(self) -> None:
        self.raw = WriteBatch(raw_mode=True)
        self.changed: dict[bytes, bytes | None] = {}

    def put(self, key: bytes, data: bytes) -> None:
        self.raw.put(key, data)
        self.changed[key] = data

    def delete(self, key: bytes) -> None:
        self.raw.delete(key)
        self.changed[key] = None

    def delete_range(self, begin: bytes, end: bytes, keys: Iterable[bytes]) -> None:
        """`keys` are those that there are in the range."""
        self.raw.delete_range(begin, end)
        self.changed |= dict.fromkeys(keys)


def _put_user(batch: _Batch, user: str, old: UserState, new: UserState) -> None:
    """Put what differs. States are values: what is the same object has not changed."""
    for request_id, row in new.ledger.items():
        if old.ledger.get(request_id) is not row:
            batch.put(_open_key(user, request_id), _encoder.encode(row))
    for request_id in old.ledger.keys() - new.ledger.keys():
        batch.delete(_open_key(user, request_id))
    if new == NOBODY:
        batch.delete(USER + user.encode())
    elif (
        old.history is not new.history
        or old.closed is not new.closed
        or old.waiting is not new.waiting
        or old.served is not new.served
        or old.taught is not new.taught
        or old.cursor is not new.cursor
        or old.weights is not new.weights
        or old.hidden is not new.hidden
        or old.views is not new.views
        or old.ledger.keys() != new.ledger.keys()
    ):
        ids = tuple(new.ledger)
        record = (new.closed, new.history, new.waiting, new.served, new.taught, new.cursor, new.weights, ids)
        later = (new.hidden, new.views) if new.hidden or new.views else ()
        batch.put(USER + user.encode(), _encoder.encode((*record, *later)))
