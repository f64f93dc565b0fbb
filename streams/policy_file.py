"""A policy from a TOML file, checked whole before anything uses it; what is wrong is said with its line."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from engine.errors import InputError
from engine.policy import Policy
from engine.pools import pools_of
from streams.toml_file import read_toml
from streams.toml_places import line_of

T = TypeVar("T", bound=Struct)
NAMED_TABLES: dict[str, type[Struct]] = {
    table: get_args(kind)[1] for table, kind in get_type_hints(Policy).items() if get_origin(kind) is dict
}
UNKNOWN, ENUM = "Object contains unknown field", "Invalid enum value"
PLACE = " - at `$"


class RefusedError(InputError):
    """A file that is TOML and no policy."""


def read_policy(path: Path) -> Policy:
    """Read and check a policy.

    Raises InputError naming the file and the reason; it is a RefusedError, with the line, where the file is TOML
    and no policy.
    """
    policy = policy_of(read_toml(path, "policy"), path)
    try:
        pools_of(policy)
    except InputError as error:
        raise RefusedError(f"{path}: {error}") from error
    return policy


def policy_of(tables: Any, path: Path | None = None) -> Policy:
    """The policy of these tables, of a file if that is said. Raises RefusedError."""
    for table, kind in NAMED_TABLES.items():
        entries = tables.get(table) if isinstance(tables, dict) else None
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            _convert(entry, kind, path, [table, name])
    return _convert(tables, Policy, path, [])


def _convert(value: object, kind: type[T], path: Path | None, place: list[str]) -> T:
    """One table, checked; `place` is its name in parts."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, inner = " ".join(str(error).split()).partition(PLACE)
        keys = [*place, *(key for key in inner.rstrip("`").split(".") if key)]
        raise _refused(reason, keys, path, value, place) from error


def _refused(reason: str, keys: list[str], path: Path | None, value: object, place: list[str]) -> RefusedError:
    """What is wrong, where, and the nearest right word if there is one."""
    table, help_ = _table_at(value, keys[len(place) :]), "docs/policy.md lists every key"
    kind = _type_at(keys, table)
    spot = keys
    if reason.startswith(UNKNOWN):
        word = reason.removeprefix(UNKNOWN).strip(" `")
        reason, spot = f"unknown key `{word}`", [*keys, word]
        help_ = _nearest(word, list(getattr(kind, "__struct_fields__", ()))) or help_
    elif reason.startswith(ENUM):
        choices = _choices_at(keys)
        reason = f"{reason.replace(ENUM, 'unknown value')}, which is none of {', '.join(choices)}"
        help_ = _nearest(reason.split("'")[1], choices) or help_
    else:
        words = [word.strip("`,:") for word in reason.split()]
        spot = [*keys, *[word for word in words if word in table][:1]]
    line = _line(path, spot) if path else None
    where = f"{path}, line {line}: " if line else f"{path}: " if path else ""
    table_name = f"[{'.'.join(keys)}] " if keys else ""
    return RefusedError(f"{where}{table_name}{reason}; {help_}")


def _line(path: Path, keys: list[str]) -> int | None:
    """The line of a key; None where the file is another one by now."""
    try:
        return line_of(path.read_text(encoding="utf-8"), keys)
    except (OSError, UnicodeDecodeError):
        return None


def _nearest(word: str, words: list[str]) -> str | None:
    close = get_close_matches(word, words, n=1)
    return f"did you mean `{close[0]}`?" if close else None


def _table_at(value: Any, keys: list[str]) -> dict[str, object]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _type_at(keys: list[str], table: dict[str, object]) -> Any:
    """The type of what stands at this path, with these keys in it; None for what has no type of ours."""
    kind: Any = Policy
    for key in keys:
        if isinstance(kind, type) and issubclass(kind, Struct):
            kind = get_type_hints(kind).get(key)
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = None
    kinds = [of for of in get_args(kind) if isinstance(of, type) and issubclass(of, Struct)]
    named = [of for of in kinds if of.__struct_config__.tag == table.get("kind")]
    return named[0] if named else kind


def _choices_at(keys: list[str]) -> list[str]:
    kind = _type_at(keys, {})
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []
