"""Where in a TOML file a key stands: tomllib says what a file holds and not where."""

import re

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")


def line_of(text: str, keys: list[str]) -> int | None:
    """The line, counted from 1, of the key at this path or of the longest part of the path that stands there."""
    table: list[str] = []
    longest, found = 0, None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            path = table = _parts(header[1])
        elif key := _KEY.match(line):
            path = table + _parts(key[1])
        else:
            continue
        if len(path) > longest and path == keys[: len(path)]:
            longest, found = len(path), number
    return found


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, dotted)]
