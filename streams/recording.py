"""A recording: a folder with a file per topic, a JSON line per record, in the order of the log.

Each line is an envelope like Kafka's own: `offset` (the position of the input in the one log of an embedded
engine; a decision carries that of its request, an item that of the input it came before), `key`, `ts_ms` (the log's
time) and `value`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from engine.errors import InputError
from engine.policy import Policy
from streams.codec import Value, decode, decode_item, encode

Topic = Literal["requests", "feedback", "feeds", "items", "propensities"]
TOPICS: tuple[Topic, ...] = (
    "requests",
    "feedback",
    "feeds",
    "items",
)  # of a run; what is made of it may come later


class Envelope(Struct, frozen=True):
    """One line of a topic's file."""

    offset: int
    key: str
    ts_ms: int
    value: Raw


class Entry(NamedTuple):
    """One record on its way into a topic."""

    topic: Topic
    offset: int
    key: str
    at_ms: int
    value: Value


class Recording:
    """Writes a recording; as a context manager it appears under its name only when all of it is written."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        """Record into a folder that is new or empty. Raises InputError for any other."""
        self._folder = folder.resolve()
        self._policy = policy
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise InputError(f"{folder} exists and is not an empty folder: choose another for the recording")

    def __enter__(self) -> "Recording":
        """Write beside the folder until the block ends."""
        with ExitStack() as undo:
            try:
                self._folder.parent.mkdir(parents=True, exist_ok=True)
                prefix = f".{self._folder.name}."
                self._partial = Path(undo.enter_context(TemporaryDirectory(dir=self._folder.parent, prefix=prefix)))
                self._files: dict[Topic, IO[bytes]] = {
                    topic: undo.enter_context((self._partial / f"{topic}.jsonl").open("wb")) for topic in TOPICS
                }
            except OSError as error:
                raise InputError(f"cannot record to {self._folder}: {error.strerror}") from error
            line = Envelope(0, self._policy.version, 0, Raw(msgspec.json.encode(self._policy)))
            (self._partial / "policy.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the folder its name if all went well; leave nothing otherwise."""
        with self._undo:
            for file in self._files.values():
                file.close()
            if kind is None:
                kept = self._partial / "kept"
                kept.mkdir()
                for path in self._partial.glob("*.jsonl"):
                    path.replace(kept / path.name)
                kept.replace(self._folder)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write one micro-batch."""
        for topic, file in self._files.items():
            file.write(b"".join(_line(entry) for entry in entries if entry.topic == topic))


def add_topic(folder: Path, topic: Topic, entries: Iterable[Entry]) -> None:
    """Write a further topic of a whole recording; its file appears, or is replaced, when all of it is written."""
    path = folder / f"{topic}.jsonl"
    try:
        with TemporaryDirectory(dir=folder, prefix=f".{topic}.") as partial:
            made = Path(partial, path.name)
            with made.open("wb") as file:
                file.writelines(map(_line, entries))
            made.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def _line(entry: Entry) -> bytes:
    return msgspec.json.encode(Envelope(entry.offset, entry.key, entry.at_ms, Raw(encode(entry.value)))) + b"\n"


class Line(NamedTuple):
    """A record of a recording, and where it stands."""

    offset: int
    at_ms: int
    value: Value
    place: str


def read_topic(folder: Path, topic: Topic) -> Iterator[Line]:
    """The records of one topic, in order. Raises InputError with file and line of an unreadable one."""
    path, read = folder / f"{topic}.jsonl", decode_item if topic == "items" else decode
    with _readable(path), path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                envelope = msgspec.json.decode(line, type=Envelope)
                yield Line(envelope.offset, envelope.ts_ms, read(bytes(envelope.value)), f"{path}, line {number}")
            except (msgspec.DecodeError, UnicodeDecodeError, InputError) as error:
                raise InputError(f"{path}, line {number}: {error}") from error


def recorded_policy(folder: Path) -> Policy:
    """The policy that a recording was made with. Raises InputError where there is none."""
    path = folder / "policy.jsonl"
    try:
        with _readable(path):
            return msgspec.json.decode(msgspec.json.decode(path.read_bytes(), type=Envelope).value, type=Policy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give a folder that --record made") from error
