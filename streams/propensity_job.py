"""The slow path behind `feeds`, an agent of Faust: `feedloom propensities`.

It reads decisions in a consumer group of its own and writes how likely each was to `propensities`. An offset is
committed when what was made of its record is acknowledged, so after a kill some feeds are read again. What is
written of a feed is a function of it, so reading it again writes the same value once more.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from mode.supervisors import CrashingSupervisor

from streams.enrichment import enriched
from streams.failpoints import passing
from streams.hosting import App, addresses, credentials, quiet_clients
from streams.messages import LETTER_BYTES_MAX, Message, Record
from streams.settings import read_settings

FEEDS_PER_TURN = 32  # at most so many are computed, written and acknowledged at a time
TURN_SECONDS = 0.05  # that the first feed of a turn waits for others

quiet_clients()
settings = read_settings()
app = App(
    f"{settings.group}-propensities",
    broker=addresses(settings),
    broker_credentials=credentials(settings),
    key_serializer="raw",
    value_serializer="raw",
    web_enabled=False,
    worker_redirect_stdouts=False,
    topic_disable_leader=True,
    topic_allow_declare=False,  # `feedloom topics create` makes them
    table_standby_replicas=0,
    processing_guarantee="at_least_once",
    producer_acks=-1,  # of all replicas in sync
    producer_max_request_size=2 * LETTER_BYTES_MAX,  # a dead letter has headers, too
    broker_commit_interval=settings.offsets_every_ms / 1000,
    broker_session_timeout=settings.session_ms / 1000,
    broker_request_timeout=max(90.0, settings.session_ms / 1000),  # Faust's own, which no session may exceed
    broker_heartbeat_interval=settings.session_ms / 5000,
    stream_wait_empty=False,  # what has been fetched and not begun is left to the next owner
)
feeds = app.topic(settings.topic("feeds"), key_type=bytes, value_type=bytes)


# Faust would go on after an agent that failed, past what it failed at: here the process ends instead.
@app.agent(feeds, supervisor_strategy=CrashingSupervisor)
async def enrich(stream: Any) -> None:
    """Turns: compute, write, wait until all of it is acknowledged, and only then let the offsets be committed."""
    async for events in stream.noack_take(FEEDS_PER_TURN, within=TURN_SECONDS):
        messages = await asyncio.to_thread(_made_of, [event.message for event in events])
        pending = [await _sent(message) for message in messages]
        passing("before-acknowledgement")
        for sent in pending:
            await sent
        passing("after-acknowledgement")
        for event in events:
            await stream.ack(event)


def _made_of(messages: Sequence[Any]) -> list[Message]:
    return [
        enriched(of.partition, Record(of.offset, round(1000 * of.timestamp), of.key, of.value)) for of in messages
    ]


async def _sent(message: Message) -> Any:
    """Put a message on its way; what is returned can be waited for, until it is acknowledged."""
    topic, headers = settings.topic(message.topic), list(message.headers)
    return await app.producer.send(topic, message.key, message.value, message.partition, None, headers)
