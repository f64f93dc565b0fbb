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
    except (ValueError, RecursionError) as error:  # of the decoder, of TOML, and of numbers too long to be read
        raise InputError(f"{path} is not TOML: {_one_line(error)}") from error
    try:
        return msgspec.convert(tables, Policy)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {_in_toml_words(_one_line(error))}; policy.toml lists every key") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _in_toml_words(message: str) -> str:
    """`… - at `$.blend.seed`` becomes `[blend.seed] …`."""
    reason, _, place = message.partition(" - at `$")
    reason = reason.replace("Object contains unknown field", "unknown key")
    return f"[{place.rstrip('`').lstrip('.')}] {reason}" if place else reason
