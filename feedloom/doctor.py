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
from streams.recording import read_topic

# What the sampler drew on the processor family that recorded results were made on (x86-64).
REFERENCE_DRAWS = "cb45e79f75c3cc8c"


class Check(Struct, frozen=True):
    """One thing looked at."""

    name: str
    ok: bool
    detail: str


def examine(records: Path | None) -> list[Check]:
    """All checks, in the order a person would want them."""
    checks = [check_python(), check_packages(), check_draws()]
    return [*checks, check_records(records)] if records else checks


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
