"""The log of a data folder, read beside whoever writes it, without what was taken out of it since.

Erased users and reactions of a quarantine stand in `feedback` behind what they leave out, so that topic is read
once before anything else is.
"""

from collections.abc import Iterator
from contextlib import suppress
from heapq import merge
from pathlib import Path
from sys import maxsize

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, Erase, Organic, Quarantine, Request, Seen
from engine.policy import Policy
from engine.revisions import Revisions
from streams.broker import partition_of
from streams.codec import Value, decode, decode_item
from streams.exclusions import Exclusions
from streams.local_tail import partitions_of, read_partition
from streams.past import Input

TOPICS = ("items", "requests", "feeds", "feedback")  # in this order where they have one time


class KeptLog:
    """What a folder holds. By partition, `began` is the log time of the first reaction that has not lapsed.

    `lapsed` says whether there were others before it.
    """

    def __init__(self, folder: Path) -> None:
        """Read what was taken out, and the policies. Raises InputError for a folder that is none."""
        self._folder = folder
        self.partitions = len(partitions_of(folder, "feedback"))
        self.revisions = Revisions(Policy())
        for record in read_partition(folder, "policy", 0):
            with suppress(InputError):  # it was refused when it came
                self.revisions.take(record.value or b"", record.at_ms)
        self._exclusions, self.began, self.lapsed = [Exclusions()] * self.partitions, list[int](), list[bool]()
        for number in range(self.partitions):
            first = next(read_partition(folder, "feedback", number), None)
            self.began.append(maxsize if first is None else first.at_ms)
            whole = folder / "log" / f"feedback-{number}" / f"{0:020}.log"
            self.lapsed.append(not whole.exists() if first is None else first.offset > 0)
            for _, place, one in self._records("feedback", number, 0):
                self._exclude(number, place[1], one)

    def part_of(self, user: str) -> int:
        """The partition of a user's records."""
        return partition_of(user.encode(), self.partitions)

    def inputs(self, *topics: str) -> Iterator[tuple[int, Input]]:
        """The records of these topics by the log's time, each with its partition, without what was taken out."""
        logs = [
            self._records(name, number, rank)
            for rank, name in enumerate(topics)
            for number in range(1 if name == "items" else self.partitions)
        ]
        for _, (_, _, number), one in merge(*logs, key=lambda found: (found[0], found[1][0])):
            if not self._holds(number, one.value, one.at_ms):
                yield number, one

    def _exclude(self, number: int, offset: int, one: Input) -> None:
        """Take what a record of feedback leaves out."""
        known = self._exclusions[number]
        if isinstance(one.value, Erase):
            self._exclusions[number] = known.with_erased(one.value.user, one.at_ms)
        elif isinstance(one.value, Quarantine):
            self._exclusions[number] = known.with_quarantine(offset, one.value, one.at_ms)

    def _holds(self, number: int, value: Value, at_ms: int) -> bool:
        """Whether a record was taken out."""
        known = self._exclusions[number]
        if isinstance(value, Request):
            return at_ms <= known.erased.get(value.user, -1)
        if isinstance(value, Decision):
            return value.at_ms <= known.erased.get(value.request.user, -1)
        return isinstance(value, Seen | Acted | Organic) and known.hold(value.user, at_ms)

    def _records(self, topic: str, number: int, rank: int) -> Iterator[tuple[int, tuple[int, int, int], Input]]:
        """The records of a partition that can be read: time; rank, offset and partition; and what it is."""
        read = decode_item if topic == "items" else decode
        for record in read_partition(self._folder, topic, number):
            with suppress(InputError):  # it was refused when it came
                if record.value is not None:
                    one = Input(record.at_ms, read(record.value), f"{topic}-{number}, offset {record.offset}")
                    yield record.at_ms, (rank, record.offset, number), one
