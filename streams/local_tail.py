"""Reading the topics of an embedded engine while it writes them: nothing is locked, and nothing is cut off."""

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

from engine.errors import InputError
from streams.segment import Segment
from streams.tools import Start, Tailed, tailed


def tail_folder(folder: Path, topic: str, start: Start, user: str | None = None) -> Generator[Tailed, None, None]:
    """The envelopes of what stands in a topic of a data folder, by partition.

    `start` is as for a topic of Kafka. What is not whole is passed over: it may be on its way. Raises InputError
    for a folder that is none, or has no such topic.
    """
    if not (folder / "about.json").exists():
        raise InputError(f"{folder} is no data folder of `feedloom serve`")
    partitions = sorted(
        (folder / "log").glob(f"{topic}-[0-9]*"), key=lambda path: int(path.name.rpartition("-")[2])
    )
    if not partitions:
        raise InputError(f"a server keeps no topic {topic}")
    key = None if user is None else user.encode()
    for partition in partitions:
        number = int(partition.name.rpartition("-")[2])
        for path in sorted(partition.glob("*.log")):
            for batch, rows in Segment(path).read(0, []):
                if start == "latest" or (isinstance(start, int) and batch.at_ms < start):
                    continue
                for offset, row_key, value, headers in rows:
                    if key is None or row_key == key:
                        yield tailed(
                            SimpleNamespace(
                                partition=number,
                                offset=offset,
                                timestamp=batch.at_ms,
                                key=row_key,
                                value=value,
                                headers=headers,
                            )
                        )
