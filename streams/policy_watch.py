"""A policy file that is watched: what is new in it, once it is written whole.

A file counts when it says something new. What a file said once and an operator has taken back is not new because a
process starts, or sees the file later than another one.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from engine.errors import InputError
from engine.policy import Policy
from engine.revisions import Revisions
from streams.policy_file import read_policy
from streams.toml_file import read_toml

LOOK_SECONDS = 0.5  # between two looks at the file; what is new has to look the same twice

Sign = tuple[int, int, int]


class FileNews:
    """What the file of this process said last, and which revision was in force then."""

    def __init__(self, policy: Policy | None) -> None:
        """As the process began; None where there is no file."""
        self.policy = policy
        self._began = True
        self._number = 0

    def due(self, revisions: Revisions) -> bool:
        """Whether what the file said as the process began is to be put into force: nobody has ever said it."""
        self._number = revisions.number
        if self.policy is None:
            return not revisions.number
        return not revisions.says(self.policy)

    def is_new(self, policy: Policy, revisions: Revisions) -> bool:
        """Whether this is to be put into force, that the file says now.

        Not what it said before, nor what another process has put into force since, because the file said it there.
        """
        known, number = self.policy, self._number
        self.policy, self._number = policy, revisions.number
        if policy.version in (known and known.version, revisions.policy.version):
            return False
        return not revisions.says(policy, after=number, source="file")


async def changes(path: Path) -> AsyncIterator[Policy | InputError]:
    """What the file holds now, and each time that it has changed, or why it holds no policy; for ever.

    A file that is missing for a moment, as while an editor replaces it, is waited for.
    """
    known = seen = None
    while True:
        sign = sign_of(path)
        settled, seen = sign == seen, sign
        if settled and sign not in (known, None):
            known = sign
            try:
                found: Policy | InputError = await asyncio.to_thread(_written, path)
            except InputError as error:
                found = error
            except Exception as error:  # noqa: BLE001  whatever it is, the next change is looked at
                found = InputError(f"{path} cannot be read: {error!r}")
            yield found
        await asyncio.sleep(LOOK_SECONDS)


def policy_of_file(path: Path) -> Policy | InputError:
    """What a file says, or why it says nothing."""
    try:
        return read_policy(path)
    except InputError as error:
        return error


def _written(path: Path) -> Policy:
    """The policy of a watched file. Raises InputError also for an empty one: somebody is about to write it."""
    policy = read_policy(path)
    if not read_toml(path, "policy"):
        raise InputError(f"{path} is empty: write at least one table, or end the process to begin without a file")
    return policy


def sign_of(path: Path) -> Sign | None:
    """What changes with the file's contents; None where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
