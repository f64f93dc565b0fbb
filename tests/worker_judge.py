"""The judge of a worker that was killed, put to sleep, or robbed of its disk: its topics against its stores."""

from collections import Counter

import oracle
from kafka_product import Product

from streams.codec import decode
from streams.policy_file import read_policy
from streams.store import PartitionStore


def judge(product: Product, asked: list[tuple[str, str]], *, earlier=(), twice: bool = False) -> None:
    """The worker's state is what the reference makes of the topics, and every request has one decision.

    `earlier` are records of `feeds` and `feedback` that were read before they were deleted; `twice` allows a second
    decision, which does not count.
    """
    known = {(record.topic, record.partition, record.offset): record for record in earlier}
    for topic in ("feeds", "feedback"):
        known |= {(record.topic, record.partition, record.offset): record for record in product.read(topic)}
    records = [(record.topic, record.timestamp, decode(record.value)) for _, record in sorted(known.items())]
    feeds = [(value.at_ms, value) for topic, _, value in records if topic.endswith("feeds")]
    feedback = [(at_ms, value) for topic, at_ms, value in records if topic.endswith("feedback")]
    per_request = Counter((decision.request.user, decision.request.request_id) for _, decision in feeds)
    assert per_request.keys() == set(asked)
    assert twice or set(per_request.values()) == {1}
    oracle.judge(feeds, feedback, stored(product), read_policy(product.settings.policy).memory, asked)


def stored(product: Product) -> dict:
    states = {}
    for number in range(product.partitions):
        store = PartitionStore(product.settings.state_folder / f"partition-{number}")
        states |= dict(store.users())
        store.close()
    return states
