"""A policy file that is watched: what is new in it, once it is written whole."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from engine.errors import InputError
from engine.policy import Policy
from streams.policy_file import read_policy

LOOK_SECONDS = 0.5  # between two looks at the file; what is new has to look the same twice

Sign = tuple[int, int, int]


async def changes(path: Path) -> AsyncIterator[Policy | InputError]:
    """Each policy that the file holds from now on, or why it holds none; for ever.

    A file that is missing for a moment, as while an editor replaces it, is waited for.
    """
    known = seen = sign_of(path)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        sign = sign_of(path)
        settled, seen = sign == seen, sign
        if not settled or sign in (known, None):
            continue
        known = sign
        try:
            found: Policy | InputError = await asyncio.to_thread(read_policy, path)
        except InputError as error:
            found = error
        yield found


def sign_of(path: Path) -> Sign | None:
    """What changes with the file's contents; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
