"""Copies of a partition's store beside it, to begin from where the topics no longer reach back far enough."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from streams.store import PartitionStore, Position
from streams.store_folder import StoreError

BACKUP = "backup"  # in the names of folders: partition-0.backup-1764201600000
BACKUPS_MAX = 3  # of one store, the newest


def back_up(store: PartitionStore, at_ms: int) -> None:
    """Copy a store as it is on the disk, while it may be written to; of earlier copies the newest are kept.

    It shares no file with the store, so what damages one leaves the other. Raises StoreError, OSError.
    """
    there, partial, linked = (
        store.folder.with_name(f"{store.folder.name}.{what}")
        for what in (f"{BACKUP}-{at_ms}", f"{BACKUP}.partial", f"{BACKUP}.linked")
    )
    if there.exists():
        return
    for leftover in (partial, linked):
        shutil.rmtree(leftover, ignore_errors=True)
    store.copy_to(linked)
    try:
        shutil.copytree(linked, partial)
    finally:
        shutil.rmtree(linked)
    partial.rename(there)
    for old in _folders(store.folder)[BACKUPS_MAX:]:
        shutil.rmtree(old, ignore_errors=True)


def forget_backups(folder: Path) -> None:
    """Remove all copies of a store."""
    for old in _folders(folder):
        shutil.rmtree(old)


def begin_from_backup(folder: Path, fits: Callable[[Position], bool], into: Path | None = None) -> bool:
    """Put the newest copy of a store whose position `fits` in its place, or `into` another, if there is one."""
    into = into or folder
    for backup, position in _positions(folder):
        if fits(position):
            partial = into.with_name(f"{into.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(backup, partial)
            partial.rename(into)
            return True
    return False


def _positions(folder: Path) -> Iterator[tuple[Path, Position]]:
    """The copies that can be read to the end, and how far each had come; the newest first."""
    for backup in _folders(folder):
        with suppress(StoreError):
            store = PartitionStore(backup)
            try:
                position = store.position()
                for _ in store.everything():  # a copy that is damaged anywhere is no ground to begin from
                    pass
            finally:
                store.close()
            if position is not None:
                yield backup, position


def _folders(folder: Path) -> list[Path]:
    found = folder.parent.glob(f"{folder.name}.{BACKUP}-*")
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))
