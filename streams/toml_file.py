"""A TOML file as tables; one that cannot be read is an InputError that says why."""

import tomllib
from pathlib import Path

from engine.errors import InputError


def read_toml(path: Path, what: str) -> dict[str, object]:
    """The tables of `what` in this file. Raises InputError naming the file and the reason."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of the decoder, of TOML, and of numbers too long to be read
        raise InputError(f"{path} is not TOML: {' '.join(str(error).split())}") from error
