"""The folder of a store: opening it, and what becomes of one that is damaged or has no room."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rocksdict import DBRecoveryMode, Options, Rdict

from engine.errors import InputError

OPEN_SECONDS_MAX = 20.0  # how long the owner before us may take to let go of a store
RETRY_SECONDS = 0.1
WRITE_BUFFER_BYTES = 16 << 20
WAL_BYTES_MAX = 64 << 20
DAMAGED = "DAMAGED"  # a file in a store's folder, with the damage that was met while it was in use
SET_ASIDE = "damaged"  # in the names of folders that were set aside
SET_ASIDE_MAX = 2  # such folders of one store, the newest
MISSING = "No such file"
FULL = ("No space left", "File too large", "quota exceeded")  # what ENOSPC, EFBIG and EDQUOT are in words


class StoreError(Exception):
    """A store is no use as it is. Of requests and reactions it says nothing, so it is no InputError."""


class StoreDamagedError(StoreError):
    """What is on the disk is not what was written; `set_aside` makes room for another store."""


class StoreFullError(StoreError):
    """There is no room to write; what was written before is whole, and shows when the store is opened anew."""


@contextmanager
def typed_errors(folder: Path) -> Iterator[None]:
    """Raise what rocksdict says of damage and of room as a StoreError; damage is remembered in the folder."""
    try:
        yield
    except Exception as error:
        said = str(error)
        if "Corruption" in said:
            with suppress(OSError):  # on a full disk it is met again
                (folder / DAMAGED).write_text(said)
            raise StoreDamagedError(f"the store {folder} is damaged: {said}") from error
        if any(words in said for words in FULL):
            raise StoreFullError(f"the store {folder} has no room: {said}") from error
        raise


def opened(folder: Path) -> Any:  # rocksdict's own type hints know no raw mode
    """Open or create a store.

    Raises InputError if it stays locked or cannot be read, StoreDamagedError also for damage that was met before.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot keep state in {folder.parent}: {error.strerror}") from error
    with suppress(FileNotFoundError):
        raise StoreDamagedError(f"the store {folder} was damaged when it was last in use: {_damage(folder)}")
    known = (folder / "CURRENT").exists()
    end = time.monotonic() + OPEN_SECONDS_MAX
    while True:
        try:
            with typed_errors(folder):
                return Rdict(str(folder), _options())
        except StoreError:
            raise
        except Exception as error:
            if known and MISSING in str(error):
                raise StoreDamagedError(f"the store {folder} lacks a file: {error}") from error
            if "lock" not in str(error).lower():
                raise InputError(f"cannot open the store {folder}: {error}") from error
            if time.monotonic() > end:
                raise InputError(
                    f"another process has the store {folder}: give every worker a folder of its own"
                ) from error
            time.sleep(RETRY_SECONDS)


def _damage(folder: Path) -> str:
    """What was met earlier. Raises FileNotFoundError where that is nothing."""
    return (folder / DAMAGED).read_text()


def put_in_place(made: Path, folder: Path) -> None:
    """Let a store that was made in a folder of its own take the place of another, if there is one; none is open."""
    outdated = folder.with_name(f"{folder.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    if folder.exists():
        folder.rename(outdated)
    made.rename(folder)
    shutil.rmtree(outdated, ignore_errors=True)


def set_aside(folder: Path) -> Path:
    """Rename a damaged store's folder, for whoever wants to look at it; returns where it is now.

    Of folders that were set aside earlier only the newest are kept.
    """
    there = folder.with_name(f"{folder.name}.{SET_ASIDE}-{time.time_ns() // 1_000_000}")
    folder.rename(there)
    for old in damaged_folders(folder)[:-SET_ASIDE_MAX]:
        shutil.rmtree(old, ignore_errors=True)
    return there


def damaged_folders(folder: Path) -> list[Path]:
    """What was set aside of a store, the oldest first."""
    found = folder.parent.glob(f"{folder.name}.{SET_ASIDE}-*")
    return sorted(found, key=lambda path: int(path.name.split("-")[-1]))


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_keep_log_file_num(2)
    options.set_paranoid_checks(True)
    # Up to the first record that is not whole: what is beyond it is folded again from the topics.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    return options
