"""Records into a topic and out of it, for an operator: `send` and `tail`."""

import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from typing import IO, Any, Literal

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError
from msgspec import UNSET, Raw, Struct, UnsetType

from engine.errors import InputError
from streams.settings import Settings
from streams.topics import ANSWER_SECONDS_MAX, MEBIBYTE, REQUEST_MS_MAX, connection, partition_count
from streams.values import Keyed

RECORD_BYTES_MAX = 32 * MEBIBYTE  # the most that any topic of ours takes
PENDING_MAX = 10_000  # records sent and not yet acknowledged
DELIVERY_SECONDS_MAX = 15  # for one record
POLL_MS = 200

Start = Literal["earliest", "latest"] | int  # or log time in milliseconds since the epoch


class LineError(InputError):
    """A line that cannot be sent; the message names it."""


class Tailed(Struct, frozen=True, omit_defaults=True):
    """One record of a topic, in an envelope as a recording's lines are.

    A `value` that is not JSON stands in `value_base64`, a `key` that is not UTF-8 in `key_base64`. Of headers
    with one name the last one stands.
    """

    partition: int
    offset: int
    key: str | None
    ts_ms: int
    value: Raw | UnsetType = UNSET
    key_base64: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET


def read_lines(source: IO[bytes], place: str, bytes_max: int, read: Callable[[bytes], Keyed]) -> Iterator[Keyed]:
    """The records of JSON lines; empty lines are passed over. Raises LineError with the line and the reason."""
    number = 0
    while line := source.readline(bytes_max + 2):  # and the end of the line, of up to two bytes
        number += 1
        value = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(value) > bytes_max:
            raise LineError(f"{place}, line {number}: it is longer than {bytes_max:,} bytes")
        if not value.strip():
            continue
        try:
            yield read(value)
        except InputError as error:
            raise LineError(f"{place}, line {number}: {error}") from error


def send(settings: Settings, name: str, records: Iterable[Keyed]) -> dict[int, int]:
    """Send records as they come, and return when all are acknowledged; their number by partition.

    Where `records` raises, what it gave before is sent and acknowledged nevertheless.
    """
    partition_count(settings, name)
    sent: Counter[int] = Counter()
    pending: deque[Any] = deque()

    def settle(kept: int) -> None:
        while len(pending) > kept or (pending and pending[0].is_done):
            sent[pending.popleft().get(DELIVERY_SECONDS_MAX).partition] += 1

    with producing(settings) as producer:
        try:
            for key, value in records:
                pending.append(producer.send(settings.topic(name), value, None if key is None else key.encode()))
                settle(PENDING_MAX)
        finally:
            settle(0)
    return dict(sorted(sent.items()))


def producing(settings: Settings) -> AbstractContextManager[Any]:
    """A producer for as long as the block lasts, which waits for no broker and no acknowledgement for ever."""
    limits = {"max_block_ms": 1000 * ANSWER_SECONDS_MAX, "request_timeout_ms": REQUEST_MS_MAX}
    limits |= {"delivery_timeout_ms": 1000 * DELIVERY_SECONDS_MAX, "max_request_size": RECORD_BYTES_MAX + MEBIBYTE}
    return connection(KafkaProducer, settings, linger_ms=5, allow_auto_create_topics=False, **limits)


def tail(
    settings: Settings, name: str, start: Start, *, follow: bool, user: str | None = None
) -> Generator[Tailed, None, None]:
    """The envelopes of `records`; `user` leaves out what is not keyed by this user."""
    key = None if user is None else user.encode()
    with closing(records(settings, name, start, follow=follow)) as found:
        yield from (tailed(record) for record in found if key is None or record.key == key)


def records(settings: Settings, name: str, start: Start, *, follow: bool = False) -> Generator[Any, None, None]:
    """kafka-python's records from `start` on, in the order of each partition: up to what is there now, or for ever.

    Records of aborted transactions are not among them.
    """
    topic = settings.topic(name)
    places = [TopicPartition(topic, part) for part in range(partition_count(settings, name))]
    options = {"isolation_level": "read_committed", "auto_offset_reset": "earliest"}  # old records go meanwhile
    limits = {"request_timeout_ms": REQUEST_MS_MAX, "allow_auto_create_topics": False, "enable_auto_commit": False}
    with connection(KafkaConsumer, settings, **options, **limits) as consumer:
        ends = consumer.end_offsets(places)
        consumer.assign(places)
        for place, offset in _starts(consumer, places, start, ends).items():
            consumer.seek(place, offset)
        yield from _records(consumer, None if follow else ends)


def _starts(
    consumer: Any, places: list[TopicPartition], start: Start, ends: dict[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """The first offset to be read of each partition."""
    if start == "latest":
        return ends
    if start == "earliest":
        found: dict[TopicPartition, int] = consumer.beginning_offsets(places)
        return found
    after = consumer.offsets_for_times(dict.fromkeys(places, start))
    return {place: after[place].offset if after.get(place) else ends[place] for place in places}


def _records(consumer: Any, ends: dict[TopicPartition, int] | None) -> Iterator[Any]:
    """What the consumer reads, up to these offsets if there are any."""
    heard = time.monotonic()
    while ends is None or any(consumer.position(place) < end for place, end in ends.items()):
        read = consumer.poll(POLL_MS)
        if read:
            heard = time.monotonic()
        elif ends and time.monotonic() - heard > DELIVERY_SECONDS_MAX:
            raise KafkaTimeoutError("there is more, and it does not come")
        for place, records in read.items():
            yield from (record for record in records if ends is None or record.offset < ends[place])


def tailed(record: Any) -> Tailed:
    """The envelope of one of kafka-python's records."""
    line = Tailed(record.partition, record.offset, None, record.timestamp)
    return msgspec.structs.replace(
        line,
        **_shown("key", record.key, lambda key: key.decode()),
        **_shown("value", record.value, _one_line),
        headers={name: value.decode(errors="backslashreplace") for name, value in record.headers} or UNSET,
    )


def _shown(field: str, data: bytes | None, read: Callable[[bytes], str | Raw]) -> dict[str, object]:
    """The bytes as a field of a line, or in base64 under a name of their own where they cannot be read."""
    if data is None:
        return {field: Raw(b"null") if field == "value" else None}
    try:
        return {field: read(data)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {f"{field}_base64": b64encode(data).decode()}


def _one_line(value: bytes) -> Raw:
    """JSON as it is, without line ends. Raises what msgspec does for anything else."""
    msgspec.json.decode(value)
    return Raw(msgspec.json.format(value, indent=-1) if b"\n" in value or b"\r" in value else value)
