"""What others read of a worker: offsets for lag tools, lags and checkpoints in `metrics`, and alerts."""

import logging
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from streams.broker import Consumer, KafkaError, Place, Producer
from streams.messages import Message
from streams.settings import Settings

log = logging.getLogger(__name__)

INPUTS = ("requests", "feedback")
Offsets = dict[str, int]  # the next one by topic's short name


async def tell_offsets(consumer: Consumer, settings: Settings, positions: Iterable[tuple[int, Offsets]]) -> None:
    """How far each partition has come, for lag tools alone: where a worker goes on is in its stores."""
    offsets = {
        Place(settings.topic(name), number): position[name] for number, position in positions for name in INPUTS
    }
    if not offsets:
        return
    try:
        await consumer.commit(offsets)
    except KafkaError as error:
        log.info("the broker was not told our offsets: %r", error)


async def tell_lag(
    consumer: Consumer, producer: Producer, settings: Settings, number: int, position: Offsets
) -> None:
    """How many records of a partition wait to be turned."""
    ends = {name: consumer.highwater(Place(settings.topic(name), number)) or 0 for name in INPUTS}
    lags = {name: max(end - position[name], 0) for name, end in ends.items()}
    await tell_metric(producer, "lag", partition=number, **lags)


async def tell_metric(producer: Producer, name: str, **values: float) -> None:
    """A record in `metrics`; where it cannot be sent the next one will do."""
    with suppress(KafkaError):
        await producer.send(Message("metrics", name.encode(), msgspec.json.encode({"name": name, **values})))


async def alert(producer: Producer, name: str, said: str, **values: object) -> None:
    """Something that somebody has to know: a line in the log, and a record in `alerts`."""
    log.error("%s", said)
    value = msgspec.json.encode({"name": name, **values, "message": said})
    with suppress(KafkaError):  # the log has it
        await producer.send(Message("alerts", name.encode(), value))
