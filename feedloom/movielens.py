"""Fetches MovieLens-100K: 100,000 ratings of 1,682 films by 943 people, 1997-09-20 to 1998-04-22.

The data is GroupLens's, free for research and not to be handed on, so it is no part of this repository:
it is fetched once at run time, out of a published package that carries it, and kept in the user's cache.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from hashlib import file_digest
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from engine.errors import InputError

PACKAGE = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
MEMBER = "recbole/dataset_example/ml-100k/ml-100k"
DOWNLOAD_SECONDS_MAX = 300  # 2.1 MB, and pip's own retries
RATINGS, ITEMS = "ratings.csv", "items.csv"
CSV_SHA256 = {
    RATINGS: "54dee4153cacf728d66576b621ac5a36feb0d2feeeb5c8717b6b348423e1e69f",
    ITEMS: "46f2714ae7be22900e57e4b563a87918e3337ceee23aebb97bab5eb16b38d4ae",
}


def movielens(progress: Callable[[str], None] | None = None) -> tuple[Path, Path]:
    """The paths of `ratings.csv` (user,item,timestamp,value) and `items.csv` (item,title,year,genre).

    They lie in `movielens-100k` in the cache folder: FEEDLOOM_CACHE, else feedloom in XDG_CACHE_HOME, else
    ~/.cache/feedloom. What is there is used if its checksums are right and fetched otherwise; `progress`
    hears of a download. Any number of processes may do so at once. Raises InputError without a network,
    for a download that is not the expected one, and for a cache that cannot be written.
    """
    folder = _cache_folder() / "movielens-100k"
    try:
        if not _is_whole(folder):
            _fetch(folder, progress or _say_nothing)
    except OSError as error:
        raise InputError(
            f"MovieLens-100K cannot be kept in {folder} ({error.strerror}): "
            "set FEEDLOOM_CACHE to a folder that can be written."
        ) from None
    return folder / RATINGS, folder / ITEMS


def _say_nothing(_: str) -> None:
    pass


def _cache_folder() -> Path:
    if own := os.environ.get("FEEDLOOM_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "feedloom"
    try:
        return Path.home() / ".cache" / "feedloom"
    except RuntimeError:
        raise InputError("There is no home folder for a cache: set FEEDLOOM_CACHE to a folder.") from None


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() and _sha256(folder / name) == CSV_SHA256[name] for name in CSV_SHA256)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _fetch(folder: Path, progress: Callable[[str], None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Inside the folder, so that the renames below stay within one file system.
    with TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        fetched = Path(name)
        progress("Downloading MovieLens-100K (2.1 MB, once)")
        wheel = _download(fetched, folder)
        _check(wheel)
        _convert(wheel, fetched)
        # File by file and not the folder at once: a rename over a file is atomic even where another process
        # was first or a damaged file lies there, and is never without a file for one that reads meanwhile.
        for file in CSV_SHA256:
            (fetched / file).replace(folder / file)


def _download(into: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--quiet", "-d", str(into), PACKAGE]
    try:
        # Nobody answers: pip asks for a password where its index wants one.
        subprocess.run(  # noqa: S603 (our own words, and no shell)
            command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=DOWNLOAD_SECONDS_MAX
        )
        return next(into.glob("*.whl"))
    except (OSError, subprocess.SubprocessError, StopIteration):
        raise InputError(
            f"MovieLens-100K could not be downloaded (pip download {PACKAGE} failed): connect to the network "
            f"once, and it will be kept in {folder}."
        ) from None


def _check(wheel: Path) -> None:
    found = _sha256(wheel)
    if found != WHEEL_SHA256:
        raise InputError(
            f"The download of MovieLens-100K has sha256 {found} where {WHEEL_SHA256} belongs, and was thrown "
            "away: try again, or point pip at another index."
        )


def _convert(wheel: Path, into: Path) -> None:
    with ZipFile(wheel) as archive:
        ratings = _rows(archive, f"{MEMBER}.inter")
        items = _rows(archive, f"{MEMBER}.item")
    _write(into / RATINGS, "user,item,timestamp,value", ([u, i, time, value] for u, i, value, time in ratings))
    _write(into / ITEMS, "item,title,year,genre", (_item(*row) for row in items))


def _rows(archive: ZipFile, member: str) -> list[list[str]]:
    """The rows of a file with tabs and no quoting, without its header."""
    return [line.split("\t") for line in archive.read(member).decode().splitlines()[1:]]


def _item(item: str, title: str, year: str, genres: str) -> list[str]:
    # Two films have no year; what stands there ("V", a misspelt unknown) is none.
    return [item, title, year if year.isdecimal() else "", genres.replace(" ", "|")]


def _write(path: Path, header: str, rows: Iterable[list[str]]) -> None:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.split(","))
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="\n")
