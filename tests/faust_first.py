"""A Faust app as small as can be: an agent that says what it got, in a group of its own. Run by tests only."""

import os
import sys

import faust

app = faust.App(
    "first",
    broker=f"kafka://{os.environ['KAFKA_BOOTSTRAP'].replace(',', ';kafka://')}",
    web_enabled=False,
    topic_disable_leader=True,
    broker_session_timeout=6.0,
    broker_heartbeat_interval=1.0,
    stream_wait_empty=False,
)
words = app.topic(os.environ["FIRST_TOPIC"], value_type=bytes, value_serializer="raw", key_type=bytes)


@app.agent(words)
async def say(stream):  # type: ignore[no-untyped-def]
    async for event in stream.events():
        # Faust takes stdout for its log.
        print(f"got {event.message.partition} {event.message.offset}", file=sys.__stdout__, flush=True)
