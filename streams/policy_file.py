"""A policy from a TOML file, checked whole before anything uses it."""

import tomllib
from pathlib import Path

import msgspec

from engine.errors import InputError
from engine.policy import Policy


def read_policy(path: Path) -> Policy:
    """Read and check a policy. Raises InputError naming the file, the place in it and the reason."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the policy {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    try:
        return msgspec.convert(tables, Policy)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {_in_toml_words(str(error))}; policy.toml lists every key") from error


def _in_toml_words(message: str) -> str:
    """`… - at `$.blend.seed`` becomes `[blend.seed] …`."""
    reason, _, place = message.partition(" - at `$")
    reason = reason.replace("Object contains unknown field", "unknown key")
    return f"[{place.rstrip('`').lstrip('.')}] {reason}" if place else reason
