"""Taking over a partition of the embedded engine: its store, and what of its topics the store has not seen."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from pathlib import Path
from typing import NamedTuple

from engine.revisions import Revisions
from streams.backups import HaltedError, begin_from, clean, find_backup, reaches
from streams.local_topics import LocalTopics
from streams.log import LogRecord
from streams.messages import Input, Message, Record
from streams.partition import Partition
from streams.recovery import moment_of
from streams.settings import Settings
from streams.store import OtherVersionError, PartitionStore
from streams.store_folder import StoreDamagedError, set_aside

log = logging.getLogger(__name__)

FOLDED: tuple[Input, ...] = ("feeds", "feedback")  # topics that a state is folded from
KEEP_RECORDS = 1000  # folded again between two write batches

Send = Callable[[Iterable[Message]], None]
Alert = Callable[[str, str], None]


class Owned(NamedTuple):
    """A partition and its store."""

    partition: Partition
    store: PartitionStore


class Ground(NamedTuple):
    """What a partition is taken over from, of one product."""

    topics: LocalTopics
    revisions: Revisions
    settings: Settings
    wanted: Callable[[], bool]  # whether to go on with what takes long

    def folder(self, number: int) -> Path:
        """Where the store of a partition is."""
        return self.topics.folder / "state" / f"partition-{number}"

    def begins(self, number: int) -> dict[Input, int]:
        """The first offset that may be there, of the topics that state is folded from."""
        return {topic: self.topics.log(topic, number).begin for topic in FOLDED}

    def ends(self, number: int) -> dict[Input, int]:
        """Where these topics end."""
        return {topic: self.topics.log(topic, number).end for topic in FOLDED}

    def open(self, number: int, folder: Path) -> Owned:
        """The partition of a store. Raises StoreDamagedError, and InputError as Partition does."""
        store = PartitionStore(folder)
        try:
            partition = Partition(
                number,
                self.revisions,
                store,
                partitions=self.topics.partitions,
                value_bytes_max=self.settings.value_bytes_max,
                users_cached=self.settings.users_cached,
            )
        except BaseException:
            store.close()
            raise
        return Owned(partition, store)


def take_over(ground: Ground, number: int, erased: Mapping[str, int], send: Send, alert: Alert) -> Owned:
    """Open a partition's store, forget who was erased, and fold what it has not seen of `feeds` and `feedback`.

    A store that is damaged, or ahead of its topics, is set aside: the newest copy that is neither takes its place,
    or none, and everything that the topics hold is folded again.
    """
    owned = _fit_store(ground, number, alert)
    try:
        partition = owned.partition
        for user, at_ms in erased.items():
            partition.forget(user, at_ms)
        for topic, begin in ground.begins(number).items():
            seen = partition.position.offsets()[topic]
            if seen < begin:
                lapsed = f"{topic} of partition {number} begins at {begin}, and the state has seen it up to {seen}"
                alert("history-lost", f"{lapsed}: what was between is lost")
                partition.pass_over(topic, begin)
        refold(ground, partition, send)
        # Of a request whose decision is there, the topic's end may have been cut off.
        ground.topics.log("requests", number).advance(partition.position.requests)
    except BaseException:
        owned.store.close()
        raise
    return owned


def _fit_store(ground: Ground, number: int, alert: Alert) -> Owned:
    """The store, a copy of it, or an empty one: the first that lacks nothing and is not ahead of the topics."""
    folder, begins, ends = ground.folder(number), ground.begins(number), ground.ends(number)

    def from_copy() -> bool:
        there = find_backup(folder, lambda position: reaches(position, begins, ends))
        if there is not None:
            begin_from(there, folder)
        return there is not None

    clean(folder)
    if not folder.exists():
        from_copy()
    while True:
        owned = _opened(ground, number, alert, whole=not any(begins.values()))
        if owned is None:
            from_copy()
            continue
        if reaches(owned.partition.position, begins, ends):
            return owned
        ahead = not reaches(owned.partition.position, {}, ends)
        owned.store.close()
        aside = set_aside(folder)
        if not from_copy() and not ahead:
            aside.rename(folder)  # what has lapsed before anybody saw it is lost
            return ground.open(number, folder)
        why = "has seen more than its topics hold" if ahead else "lacks what a copy of it has"
        alert("store-set-aside", f"the state of partition {number} {why}: it is now {aside}")


def _opened(ground: Ground, number: int, alert: Alert, *, whole: bool) -> Owned | None:
    """The partition of its store; None where that was set aside. `whole` topics reach back to their beginning."""
    folder = ground.folder(number)
    try:
        return ground.open(number, folder)
    except StoreDamagedError as error:
        alert("store-damaged", f"{error}; it is set aside as {set_aside(folder)}")
    except OtherVersionError as error:
        if not whole:
            raise
        alert("state-of-another-version", f"{error}; it is set aside as {set_aside(folder)}, and folded again")
    return None


def refold(ground: Ground, partition: Partition, send: Send) -> None:
    """Bring a partition to where `feeds` and `feedback` end, and keep it. Raises HaltedError where nobody waits."""
    feedback = ground.topics.log("feedback", partition.number)
    folded = 0
    for topic, record in _merged(ground.topics, partition):
        plain = Record(*record[:4])
        if topic == "feeds":
            send(partition.adopt(plain, dict(record.headers)))
        else:
            send(partition.react(plain, feedback.last_ms))
        folded += 1
        if folded % KEEP_RECORDS == 0:
            partition.commit()
            if not ground.wanted():
                raise HaltedError
    partition.commit()
    if folded:
        log.info("partition %d: %d records are folded again", partition.number, folded)


def _merged(topics: LocalTopics, partition: Partition) -> Iterator[tuple[str, LogRecord]]:
    """What a partition has not seen of `feeds` and `feedback`, by time."""

    def of(topic: str, offset: int) -> Iterator[tuple[str, LogRecord]]:
        for chunk in topics.log(topic, partition.number).read(offset):
            for record in chunk:
                yield topic, record

    position = partition.position
    both = of("feeds", position.feeds), of("feedback", position.feedback)
    return merge(*both, key=lambda row: moment_of(row[0], row[1].at_ms, row[1].value))
