"""A policy from a TOML file, checked whole before anything uses it."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from engine.errors import InputError
from engine.policy import ActionPolicy, Policy, PoolPolicy
from engine.pools import pools_of
from engine.rules import RulePolicy
from streams.toml_file import read_toml

T = TypeVar("T")
NAMED_TABLES: dict[str, Any] = {"pools": PoolPolicy, "actions": ActionPolicy, "rules": RulePolicy}


def read_policy(path: Path) -> Policy:
    """Read and check a policy. Raises InputError naming the file, the place in it and the reason."""
    tables = read_toml(path, "policy")
    for table, kind in NAMED_TABLES.items():
        entries = tables.get(table)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            _convert(entry, kind, path, f"{table}.{name}")
    policy = _convert(tables, Policy, path, "")
    try:
        pools_of(policy)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return policy


def _convert(value: object, kind: type[T], path: Path, place: str) -> T:
    """One table, checked; `place` is its name."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, inner = " ".join(str(error).split()).partition(" - at `$")
        reason = reason.replace("Object contains unknown field", "unknown key")
        where = ".".join(part for part in (place, inner.rstrip("`").lstrip(".")) if part)
        raise InputError(
            f"{path}: {f'[{where}] ' if where else ''}{reason}; policy.toml lists every key"
        ) from error
