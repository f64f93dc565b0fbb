"""Sums and population versions as bytes: with lists of pairs that are short enough for a message."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

VALUE_BYTES_MAX = 24 << 20  # of what is sent in one record, of which the topics take 32 MiB


def fitting(of_length: Callable[[int], Struct], most: int, bytes_max: int = VALUE_BYTES_MAX) -> bytes:
    """The record with lists of `most` entries, or of half as many, and so on until it is no longer than that."""
    value = msgspec.json.encode(of_length(most))
    while len(value) > bytes_max and most > 1:
        most //= 2
        value = msgspec.json.encode(of_length(most))
    return value
