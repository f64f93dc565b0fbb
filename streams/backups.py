"""Copies of a partition's store beside it, to begin from where the topics do not reach back to the beginning.

They share no file with the store, so what damages one leaves the others. Of many, some are kept of every age: one
at least for each doubling of it, from the newest to as far back as topics reach.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from engine.errors import InputError
from streams.messages import Input
from streams.store import PartitionStore, Position
from streams.store_folder import StoreError

BACKUP = "backup"  # in the names of folders: partition-0.backup-1764201600000
NEWEST = 2  # that are kept in any case
MINUTE_MS = 60_000  # the youngest age that is told apart
LEFT_OVER = ("anew", "partial", f"{BACKUP}.partial", f"{BACKUP}.linked", "outdated")


class NoGroundError(InputError):
    """Neither the topics nor a copy of the state reach back far enough."""


class HaltedError(Exception):
    """What takes long was ended before its end; what it has kept so far is not lost."""


def reaches(position: Position, begins: Mapping[Input, int], ends: Mapping[Input, int] | None = None) -> bool:
    """Whether a state of this position lacks nothing that its topics no longer hold, and is not ahead of them."""
    offsets = position.offsets()
    return all(offsets[topic] >= first for topic, first in begins.items()) and all(
        offsets[topic] <= end for topic, end in (ends or {}).items()
    )


def back_up(
    store: PartitionStore,
    at_ms: int,
    kept_ms: int,
    erased_ms: int = -1,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Copy a store as it is on the disk, while it may be written to; then let go of what is too old, or too much.

    What is older than `kept_ms` is of no use, and what is from before an erasure, at `erased_ms`, is to go. Raises
    StoreError and OSError, and HaltedError when it is not wanted any more; it leaves nothing half made.
    """

    def copied(source: str, target: str) -> None:
        if not wanted():
            raise HaltedError
        shutil.copy2(source, target)

    folder = store.folder
    there, partial, linked = (
        folder.with_name(f"{folder.name}.{what}")
        for what in (f"{BACKUP}-{at_ms}", f"{BACKUP}.partial", f"{BACKUP}.linked")
    )
    if there.exists():
        return
    try:
        store.copy_to(linked)
        shutil.copytree(linked, partial, copy_function=copied)
        partial.rename(there)
    finally:
        for leftover in (partial, linked):
            shutil.rmtree(leftover, ignore_errors=True)
    ages = {time_of(old): old for old in copies(folder)}
    for made_ms in ages.keys() - kept(list(ages), at_ms, kept_ms):
        shutil.rmtree(ages[made_ms], ignore_errors=True)
    for made_ms, old in ages.items():
        if made_ms <= erased_ms and old != there:
            shutil.rmtree(old, ignore_errors=True)


def kept(times: list[int], now_ms: int, kept_ms: int) -> set[int]:
    """Which copies to keep: the newest, and the oldest of each doubling of age."""
    newest = sorted(times)[-NEWEST:]
    oldest: dict[int, int] = {}
    for at_ms in sorted(times):
        age_ms = now_ms - at_ms
        if age_ms <= kept_ms:
            oldest.setdefault(int(math.log2(max(age_ms, MINUTE_MS))), at_ms)
    return {*newest, *oldest.values()}


def find_backup(folder: Path, fits: Callable[[Position], bool]) -> Path | None:
    """The newest copy of a store whose position `fits`, and that can be read to its end; None if there is none."""
    return next((backup for backup, position in _positions(folder) if fits(position)), None)


def begin_from(backup: Path, folder: Path) -> None:
    """Copy a copy to where there is nothing."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(backup, partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def begin_before(from_ms: int, folder: Path, begins: Mapping[Input, int], into: Path) -> None:
    """Lay the ground for a state without what came since a time: a copy that is older, or nothing.

    Nothing will do where the topics still hold their beginning. Raises NoGroundError.
    """
    shutil.rmtree(into, ignore_errors=True)
    if not any(begins.values()):
        return
    copy = find_backup(folder, lambda position: position.clock_ms < from_ms and reaches(position, begins))
    if copy is None:
        raise NoGroundError(
            f"{folder.name} cannot be folded without what came since {from_ms}: its topics begin later, and no "
            "copy of its state is older"
        )
    begin_from(copy, into)


def clean(folder: Path) -> None:
    """Finish or remove what a kill has left half made beside a store."""
    outdated = folder.with_name(f"{folder.name}.outdated")
    if outdated.exists() and not folder.exists():  # another state was to take its place
        outdated.rename(folder)
    for what in LEFT_OVER:
        shutil.rmtree(folder.with_name(f"{folder.name}.{what}"), ignore_errors=True)


def copies(folder: Path) -> list[Path]:
    """The copies of a store, the newest first."""
    return sorted(folder.parent.glob(f"{folder.name}.{BACKUP}-*"), key=lambda path: -time_of(path))


def time_of(backup: Path) -> int:
    """When a copy was made, by the log's time."""
    return int(backup.name.rpartition("-")[2])


def _positions(folder: Path) -> Iterator[tuple[Path, Position]]:
    for backup in copies(folder):
        with suppress(StoreError, InputError):  # one that cannot be read is no ground to begin from
            store = PartitionStore(backup)
            try:
                position = store.position()
                for _ in store.everything():
                    pass
            finally:
                store.close()
            if position is not None:
                yield backup, position
