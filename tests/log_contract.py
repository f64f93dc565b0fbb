"""What every log of topics promises, ours and Kafka's: subclassed for each of them, with a fixture `topics`."""

from collections.abc import Sequence
from typing import Protocol

from streams.log import LogRecord, Unwritten

PARTITIONS = 7  # no power of two, so that every bit of a hash matters
HEADERS = (("reason", "für".encode()), ("reason", b""), ("", b"\xff\x00"), ("zoë", b"x" * 300))
KEYS = [
    *(f"user-{number}" for number in range(120)),
    *("~" * length for length in range(20)),  # every length modulo 4, and none
    *("é" * length for length in range(1, 12)),  # bytes above 127, which Java has as negative numbers
    *(
        f"{word}-{number}"
        for word in ("zoë", "Жанна", "木村", "🙂", "\u0301", "\x00", "\n")
        for number in range(20)
    ),
    *(letter * 256 for letter in ("k", "ß", "語", "🚀")),
]


class Topics(Protocol):
    """Two topics in PARTITIONS partitions: `kept`, whose times are the log's, and `compacted`."""

    def append(self, topic: str, number: int, rows: Sequence[Unwritten]) -> list[int]:
        """Append records to a partition; their offsets."""

    def send(self, keys: Sequence[bytes]) -> list[int]:
        """Let the log choose the partitions of records with these keys."""

    def read(self, topic: str, number: int, offset: int = 0) -> list[LogRecord]:
        """The records from an offset to the end."""

    def end(self, topic: str, number: int) -> int:
        """The next offset."""

    def compact(self) -> None:
        """Do what is done to `compacted` from time to time."""

    def part_of(self, user: str) -> int:
        """The partition of a user."""


def rows(*values: str) -> list[Unwritten]:
    return [Unwritten(b"key", value.encode()) for value in values]


class LogContract:
    def test_offsets_count_up_from_0_in_each_partition_and_records_stand_in_their_order(
        self, topics: Topics
    ) -> None:
        assert topics.append("kept", 0, rows("a", "b")) == [0, 1]
        assert topics.append("kept", 3, rows("c")) == [0]
        assert topics.append("kept", 0, rows("d")) == [2]
        assert [topics.end("kept", number) for number in range(PARTITIONS)] == [3, 0, 0, 1, 0, 0, 0]
        read = topics.read("kept", 0)
        assert [(record.offset, record.value) for record in read] == [(0, b"a"), (1, b"b"), (2, b"d")]
        assert topics.read("kept", 1) == []

    def test_reading_begins_at_any_offset(self, topics: Topics) -> None:
        for number in range(6):
            topics.append("kept", 2, rows(f"{number}", f"{number}+"))
        whole = topics.read("kept", 2)
        assert [record.offset for record in whole] == list(range(12))
        for offset in range(13):
            assert topics.read("kept", 2, offset) == whole[offset:]

    def test_the_logs_time_never_goes_back(self, topics: Topics) -> None:
        for number in range(20):
            topics.append("kept", 0, rows(f"{number}"))
        times = [record.at_ms for record in topics.read("kept", 0)]
        assert times == sorted(times)
        assert times[0] > 1_600_000_000_000

    def test_keys_values_and_headers_come_back_byte_for_byte_and_nothing_is_not_empty(self, topics: Topics) -> None:
        given = [
            Unwritten(None, b""),
            Unwritten(b"", None),
            Unwritten(b"\x00\xff", bytes(range(256))),
            Unwritten("zoë".encode(), b"x" * 900_000),
            Unwritten(b"key", b"value", HEADERS),
        ]
        topics.append("kept", 5, given)
        read = topics.read("kept", 5)
        assert [Unwritten(*record[2:5]) for record in read] == [
            row._replace(headers=(*row.headers,)) for row in given
        ]

    def test_the_latest_of_each_key_survives_compaction_where_it_stood(self, topics: Topics) -> None:
        latest: dict[bytes, int | None] = {}
        for number in range(30):
            key = b"%d" % (number % 4)
            dead = number in (26, 29)  # the last of 2 and of 1
            (offset,) = topics.append("compacted", 0, [Unwritten(key, None if dead else b"%d" % number)])
            latest[key] = None if dead else offset
        before = topics.read("compacted", 0)
        topics.compact()
        read = topics.read("compacted", 0)
        assert set(read) <= set(before)
        assert [record.offset for record in read] == sorted(record.offset for record in read)
        folded = {record.key: None if record.value is None else record.offset for record in read}
        assert {key: offset for key, offset in folded.items() if offset is not None} == {b"0": 28, b"3": 27}
        assert latest == {b"0": 28, b"1": None, b"2": None, b"3": 27}
        assert topics.end("compacted", 0) == 30
        assert [record.offset for record in topics.read("compacted", 0, 28) if record.key == b"0"] == [28]
        assert topics.append("compacted", 0, [Unwritten(b"1", b"again")]) == [30]
        assert topics.read("compacted", 0, 29)[-1].value == b"again"

    def test_a_user_is_in_the_partition_where_records_with_that_key_go(self, topics: Topics) -> None:
        assert len(set(KEYS)) == len(KEYS) > 250
        placed = topics.send([key.encode() for key in KEYS])
        assert [topics.part_of(key) for key in KEYS] == placed
        assert set(placed) == set(range(PARTITIONS))
