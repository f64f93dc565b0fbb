"""A recording: a folder with a file per topic, a JSON line per record, in the order of the log.

Each line is an envelope like Kafka's own: `offset` (the position of the input in the one log of an embedded
engine; a decision carries that of its request), `key`, `ts_ms` (the log's time) and `value`.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import msgspec
from msgspec import Raw, Struct

from engine.decision import Decision
from engine.errors import InputError
from engine.policy import Policy
from streams.codec import Value, decode_as, encode

Topic = Literal["requests", "feedback", "feeds"]
TOPICS: tuple[Topic, ...] = ("requests", "feedback", "feeds")


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
        """Refuse a folder that holds something already."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and is not an empty folder: choose another for the recording")
        self._folder = folder
        self._partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        try:
            self._partial.mkdir(parents=True)
            self._files: dict[Topic, IO[bytes]] = {
                topic: (self._partial / f"{topic}.jsonl").open("wb") for topic in TOPICS
            }
        except OSError as error:
            raise InputError(f"cannot record to {folder}: {error.strerror}") from error
        line = Envelope(0, policy.version, 0, Raw(msgspec.json.encode(policy)))
        (self._partial / "policy.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")

    def append(self, entries: Sequence[Entry]) -> None:
        """Write one micro-batch."""
        for topic, file in self._files.items():
            lines = [
                msgspec.json.encode(Envelope(entry.offset, entry.key, entry.at_ms, Raw(encode(entry.value))))
                + b"\n"
                for entry in entries
                if entry.topic == topic
            ]
            file.write(b"".join(lines))

    def __enter__(self) -> "Recording":
        """Write until the block ends."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the folder its name if all went well, remove it otherwise."""
        for file in self._files.values():
            file.close()
        if kind is None:
            self._partial.replace(self._folder)
        else:
            shutil.rmtree(self._partial, ignore_errors=True)


def decisions(folder: Path) -> Iterator[Decision]:
    """The decisions of a recording, in order. Raises InputError with file and line of an unreadable one."""
    path = folder / "feeds.jsonl"
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield _decision(line, f"{path}, line {number}")
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; --records takes a folder that --record made"
        ) from error


def _decision(line: bytes, place: str) -> Decision:
    try:
        return decode_as(Decision, bytes(msgspec.json.decode(line, type=Envelope).value))
    except (msgspec.DecodeError, UnicodeDecodeError, InputError) as error:
        raise InputError(f"{place}: {error}") from error
