"""Records as they come from topics and go to them, and those that nothing can be made of."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Input = Literal["requests", "feedback", "feeds"]
REQUEST_OFFSET = "feedloom.request-offset"  # header of a decision: where its request stands
REASON_LENGTH_MAX = 1000  # of a dead letter
LETTER_BYTES_MAX = 1 << 20  # of its value: a record that was compressed may be longer than any topic takes


class Record(NamedTuple):
    """A record of a topic, as it came."""

    offset: int
    at_ms: int
    key: bytes | None
    value: bytes | None


class Message(NamedTuple):
    """A record on its way to a topic; `partition` is None where the key decides."""

    topic: Literal[
        "requests",
        "feedback",
        "feeds",
        "items",
        "sums",
        "population",
        "erased",
        "policy",
        "alerts",
        "metrics",
        "propensities",
        "dead-letters",
    ]
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


def dead_letter(topic: Input, partition: int, record: Record, error: Exception) -> Message:
    """A record that nothing can be made of: its own bytes, where it stood, and why.

    Of a value that is too long for a dead letter its beginning, and how long it was.
    """
    value = record.value or b""
    headers = (
        ("feedloom.topic", topic.encode()),
        ("feedloom.partition", str(partition).encode()),
        ("feedloom.offset", str(record.offset).encode()),
        ("feedloom.reason", str(error)[:REASON_LENGTH_MAX].encode(errors="backslashreplace")),
        *((("feedloom.cut-from-bytes", str(len(value)).encode()),) if len(value) > LETTER_BYTES_MAX else ()),
    )
    return Message("dead-letters", record.key, value[:LETTER_BYTES_MAX], headers)
