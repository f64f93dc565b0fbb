"""Messages on their way to Kafka, and what became of them."""

import asyncio
import logging
from collections.abc import Sequence

from streams.broker import KafkaError, Producer
from streams.messages import Message

log = logging.getLogger(__name__)

Sent = tuple[Message, "asyncio.Future[object]"]


async def on_their_way(producer: Producer, messages: Sequence[Message]) -> list[Sent]:
    """Put messages on their way; sums that cannot be sent are left out."""
    sent = []
    for message in messages:
        try:
            sent.append((message, await producer.send(message)))
        except KafkaError as error:
            _pass_over(message, error)
    if sent:
        await asyncio.sleep(0)  # so that the client writes them before we go on
    return sent


async def acknowledged(sent: Sequence[Sent]) -> list[tuple[Message, int]]:
    """The offset of each message, -1 where the broker does not say it.

    Raises the first KafkaError, after what became of each is known.
    """
    if not sent:
        return []
    results = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
    offsets = []
    for (message, _), result in zip(sent, results, strict=True):
        if isinstance(result, BaseException):
            _pass_over(message, result)
        else:
            offsets.append((message, int(getattr(result, "offset", -1))))
    return offsets


async def send(producer: Producer, messages: Sequence[Message]) -> None:
    """Send messages, and return when they are acknowledged."""
    await acknowledged(await on_their_way(producer, messages))


def _pass_over(message: Message, error: BaseException) -> None:
    """Raise what a message could not be sent for; but sums are sent again with the next version."""
    if message.topic != "sums" or not isinstance(error, KafkaError):
        raise error
    log.error("the sums of partition %s are not published: %r", message.partition, error)
