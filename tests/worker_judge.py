"""The judge of a worker that was killed, put to sleep, or robbed of its disk: its state against the oracle's."""

from collections import Counter

import msgspec
import pytest
from kafka_product import Product
from reference_refold import Reference

from engine.decision import Decision, difference
from engine.events import Tick
from engine.evidence import evidence_at
from engine.fold import close_due
from engine.state import Tally
from streams.codec import decode
from streams.policy_file import read_policy
from streams.store import PartitionStore


def judge(product: Product, asked: list[tuple[str, str]], *, earlier=(), twice: bool = False) -> None:
    """The worker's state is what the reference makes of the topics, and every request has one decision.

    `earlier` are records of `feeds` and `feedback` that were read before they were deleted; `twice` allows a second
    decision, which does not count.
    """
    memory = read_policy(product.settings.policy).memory
    known = {(record.topic, record.partition, record.offset): record for record in earlier}
    for topic in ("feeds", "feedback"):
        known |= {(record.topic, record.partition, record.offset): record for record in product.read(topic)}
    records = [record for _, record in sorted(known.items())]
    feeds = [decode(record.value) for record in records if record.topic.endswith("feeds")]
    reactions = [(r.timestamp, decode(r.value)) for r in records if r.topic.endswith("feedback")]
    reactions = [(at_ms, value) for at_ms, value in reactions if not isinstance(value, Tick)]
    reference = Reference(
        [(decision.at_ms, decision) for decision in feeds],
        reactions,
        window_ms=memory.window_ms,
        half_life_ms=memory.half_life_ms,
        half_life_slots=memory.half_life_slots,
        history_max=memory.history_max,
    )
    per_request = Counter((decision.request.user, decision.request.request_id) for decision in feeds)
    assert per_request.keys() == set(asked)
    assert twice or set(per_request.values()) == {1}
    for decision in feeds:
        assert isinstance(decision, Decision)
        assert difference(decision) is None
    now_ms = max(at_ms for at_ms, _ in reactions) + 10 * memory.window_ms
    states = stored(product)
    assert states.keys() >= reference.served.keys() | reference.history.keys()
    for user, state in states.items():
        closed, _ = close_due(state, now_ms, memory)
        assert closed.ledger == {}
        same(evidence_at(closed, now_ms, memory), reference.evidence(user, now_ms))
        taught = {cell: Tally(of.successes, of.leveled_exposure) for cell, of in closed.taught.items()}
        same(taught, reference.taught(user))
        assert [msgspec.structs.astuple(entry) for entry in closed.history] == reference.history.get(user, [])
        assert closed.served == reference.served[user]


def same(found, wanted) -> None:
    assert {cell for cell, tally in found.items() if tally.exposure} == wanted.keys()
    for cell, (successes, exposure) in wanted.items():
        assert found[cell].successes == pytest.approx(successes, abs=1e-9)
        assert found[cell].exposure == pytest.approx(exposure, abs=1e-9)


def stored(product: Product) -> dict:
    states = {}
    for number in range(product.partitions):
        store = PartitionStore(product.settings.state_folder / f"partition-{number}")
        states |= dict(store.users())
        store.close()
    return states
