"""Folding again what a partition has not seen of `feeds` and `feedback`: after a kill, a move, or a lost disk."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from streams.broker import ConsumerRecord, Place, place_of, plain, read_merged
from streams.partition import Message, Partition
from streams.settings import Settings


class _Moment(Struct):
    """The part of a decision that says when it was."""

    at_ms: int


def moment_of(topic: str, at_ms: int, value: bytes | None) -> tuple[int, int]:
    """Where a record of `feeds` or `feedback` stands in time: a decision's is that of its request.

    Decisions go first where times are equal, as they were before what they caused: so no more is open at a time than
    was when it happened.
    """
    if topic != "feeds":
        return at_ms, 1
    with suppress(msgspec.DecodeError, UnicodeDecodeError, TypeError):
        return msgspec.json.decode(value or b"", type=_Moment).at_ms, 0
    return at_ms, 0


async def refold(
    partition: Partition,
    settings: Settings,
    sent: Callable[[Sequence[Message]], Awaitable[None]],
    wanted: Callable[[], bool],
) -> None:
    """Bring a partition to where the topics end now, as long as it is `wanted`.

    `sent` sends messages and returns when they are acknowledged. What is folded is kept as it goes.

    The topics are merged by `moment_of`.
    """
    feeds = Place(settings.topic("feeds"), partition.number)
    feedback = Place(settings.topic("feedback"), partition.number)

    def time_of(record: ConsumerRecord) -> tuple[int, int]:
        return moment_of("feeds" if record.topic == feeds.topic else "feedback", record.timestamp, record.value)

    begin = {feeds: partition.position.feeds, feedback: partition.position.feedback}
    async for records in read_merged(settings, begin, time_of):
        messages: list[Message] = []
        last_ms = max((record.timestamp for record in records if place_of(record) == feedback), default=0)
        for record in records:
            if place_of(record) == feeds:
                messages += partition.adopt(plain(record), dict(record.headers))
            else:
                messages += partition.react(plain(record), last_ms)
        await sent(messages)
        partition.commit()
        if not wanted():
            return
