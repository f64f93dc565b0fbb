"""Reading the topics of an embedded engine while it writes them: nothing is locked, and nothing is cut off."""

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

from engine.errors import InputError
from streams.log import LogRecord
from streams.segment import Segment
from streams.tools import Start, Tailed, tailed


def partitions_of(folder: Path, topic: str) -> list[int]:
    """The partitions of a topic of a folder. Raises InputError for a folder that is none, or lacks the topic."""
    if not (folder / "about.json").exists():
        raise InputError(f"{folder} is no data folder of `feedloom serve`")
    found = sorted(int(path.name.rpartition("-")[2]) for path in (folder / "log").glob(f"{topic}-[0-9]*"))
    if not found:
        raise InputError(f"a server keeps no topic {topic}")
    return found


def read_partition(folder: Path, topic: str, number: int, since_ms: int = 0) -> Generator[LogRecord, None, None]:
    """What stands in a partition since this log time. What is not whole is passed over: it may be on its way."""
    for path in sorted((folder / "log" / f"{topic}-{number}").glob("*.log")):
        with suppress(FileNotFoundError):  # it has lapsed meanwhile
            for batch, rows in Segment(path).read(0, []):
                if batch.at_ms >= since_ms:
                    yield from (LogRecord(row[0], batch.at_ms, *row[1:]) for row in rows)


def tail_folder(folder: Path, topic: str, start: Start, user: str | None = None) -> Generator[Tailed, None, None]:
    """The envelopes of what stands in a topic of a data folder, by partition.

    `start` is as for a topic of Kafka. Raises InputError for a folder that is none, or has no such topic.
    """
    partitions = partitions_of(folder, topic)
    if start == "latest":
        return
    key = None if user is None else user.encode()
    for number in partitions:
        for record in read_partition(folder, topic, number, 0 if start == "earliest" else start):
            if key is None or record.key == key:
                yield tailed(
                    SimpleNamespace(
                        partition=number,
                        offset=record.offset,
                        timestamp=record.at_ms,
                        key=record.key,
                        value=record.value,
                        headers=record.headers,
                    )
                )
