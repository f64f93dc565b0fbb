"""Checks that an installation can do its work, and that a recording's decisions follow from their records."""

import sys
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
from msgspec import Struct

from blending.randomness import key_of
from blending.sampling import draw_rates
from engine.decision import Decision, difference
from engine.errors import InputError
from streams.codec import decode
from streams.local_topics import LocalTopics
from streams.recording import read_topic
from streams.settings import Settings
from streams.store import PartitionStore
from streams.store_folder import StoreError

# What the sampler drew on the processor family that recorded results were made on (x86-64).
REFERENCE_DRAWS = "cb45e79f75c3cc8c"


class Check(Struct, frozen=True):
    """One thing looked at."""

    name: str
    ok: bool
    detail: str


def examine(records: Path | None, data: Path | None = None) -> list[Check]:
    """All checks, in the order a person would want them. Raises InputError where a folder is of something else."""
    checks = [check_python(), check_packages(), check_draws()]
    if records:
        checks.append(check_records(records))
    return [*checks, *check_data(data)] if data else checks


def check_python() -> Check:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), f"{found} (3.11 or later is needed)")


def check_packages() -> Check:
    """Every package that this one requires, extras left out."""
    names = [line.split(";")[0].split(">")[0].strip() for line in requires("feedloom") or [] if "extra" not in line]
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return Check("packages", not missing, f"missing: {', '.join(missing)}" if missing else ", ".join(found))


def check_draws() -> Check:
    """Whether this processor draws the very bits that the reference one does."""
    shapes = np.geomspace(1e-3, 1e4, 64).reshape(8, 8)
    drawn = np.empty((1, *shapes.shape))
    draw_rates(shapes, shapes[::-1].copy(), key_of(0, "doctor"), 0, drawn)
    digest = blake2b(drawn.tobytes(), digest_size=8).hexdigest()
    same = digest == REFERENCE_DRAWS
    detail = "as on the reference processor" if same else "not the reference bits: trust the draws in the records"
    return Check("draws", bool(np.all((drawn >= 0) & (drawn <= 1))), f"{digest}, {detail}")


def check_data(folder: Path) -> list[Check]:
    """Read all that a server has kept to the end, while it is not running."""
    if not (folder / "about.json").exists():
        raise InputError(f"{folder} is no data folder of `feedloom serve`")
    topics = LocalTopics(folder, None, Settings().segment_bytes)
    try:
        damages = {str(damage) for damage in (*topics.damages(), *topics.verify())}
        logs = Check(
            "logs", not damages, "; ".join(sorted(damages)) or f"{topics.size:,} bytes, every batch is whole"
        )
        return [logs, _check_feeds(topics), *(_check_state(folder, number) for number in range(topics.partitions))]
    finally:
        topics.close()


def _check_feeds(topics: LocalTopics) -> Check:
    """Make every decision of a server again from its record."""
    count = 0
    for number in range(topics.partitions):
        for chunk in topics.log("feeds", number).read():
            for record in chunk:
                made = decode(record.value or b"")
                found = difference(made) if isinstance(made, Decision) else "not a decision"
                if found:
                    return Check("feeds", ok=False, detail=f"partition {number}, offset {record.offset}: {found}")
                count += 1
    return Check("feeds", ok=True, detail=f"{count} decisions rebuilt: draws, verdicts and slots bit for bit")


def _check_state(folder: Path, number: int) -> Check:
    """Read a store to its end; one that is damaged is folded again when the server begins."""
    name = f"state of partition {number}"
    try:
        store = PartitionStore(folder / "state" / f"partition-{number}")
    except StoreError as error:
        return Check(name, ok=False, detail=f"{error}; it is folded again when the server begins")
    try:
        users = sum(1 for _ in store.users())
        for _ in store.everything():
            pass
    except StoreError as error:
        return Check(name, ok=False, detail=f"{error}; it is folded again when the server begins")
    finally:
        store.close()
    return Check(name, ok=True, detail=f"{users:,} users, read to the end")


def check_records(folder: Path) -> Check:
    """Make every decision again from its record alone. Raises InputError where one is unreadable."""
    count = 0
    for line in read_topic(folder, "feeds"):
        if not isinstance(line.value, Decision):
            return Check("records", ok=False, detail=f"{line.place}: not a decision")
        found = difference(line.value)
        if found:
            return Check("records", ok=False, detail=f"{line.place}: {found}")
        count += 1
    if count == 0:
        return Check("records", ok=False, detail="there are no decisions in it")
    return Check("records", ok=True, detail=f"{count} decisions rebuilt: draws, verdicts and slots bit for bit")
