"""What both Faust agents share: an app with the settings that were fastest here, and what an event adds to S and E.

The agents do less than ours: they know the pool from the item's id, and neither dedupe, nor mature, nor decay.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import faust
from kafka_load import ACTION, PARTITIONS

from engine.events import Acted, Seen
from streams.codec import decode
from streams.settings import Settings


def peer_app(settings: Settings) -> faust.App:
    """An app for one worker that owns every partition."""
    return faust.App(
        settings.group,
        broker=f"kafka://{settings.bootstrap.replace(',', ';kafka://')}",
        datadir=settings.state_folder,
        store="rocksdb://",
        key_serializer="raw",
        value_serializer="raw",
        topic_partitions=PARTITIONS,
        # Fewer things to do beside the work.
        web_enabled=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        stream_wait_empty=False,
        # A Table sends a record for each write. Sent alone they halve the rate; waiting costs nothing here.
        producer_linger=0.1,
        producer_max_batch_size=256 << 10,
        # What its makers call the repaired fast paths, and room for all that a fetch brings: a little, if anything.
        cython_optimizations=True,
        stream_buffer_maxsize=32_768,
        # Told to the broker as often as ours, because this is what the rate is read from.
        broker_commit_interval=settings.offsets_every_ms / 1000,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=1.0,
    )


def feedback(app: faust.App, settings: Settings) -> faust.TopicT:
    """The reactions as bytes, for our own codec: Faust's costs more."""
    return app.topic(settings.topic("feedback"), key_type=bytes, value_type=bytes, value_serializer="raw")


def terms(value: bytes) -> tuple[str, float, float] | None:
    """The cell (user, pool, action) that a reaction counts for, and what it adds to S and E; None for a tick."""
    event = decode(value)
    if not isinstance(event, Seen | Acted):
        return None
    pool = event.item.partition(":")[0]
    if isinstance(event, Acted):
        return f"{event.user}|{pool}|{event.action}", 1.0, 0.0
    return f"{event.user}|{pool}|{ACTION}", 0.0, 1.0
