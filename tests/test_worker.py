"""The Kafka worker against Apache Kafka: killed anywhere, it loses nothing and doubles nothing."""

import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from random import Random

import msgspec
import pytest
from kafka_product import Life, Product, terminate, wait_until
from reference_refold import Reference

from engine.decision import Decision, difference
from engine.events import Tick
from engine.evidence import evidence_at
from engine.fold import close_due
from scripts.kafka_broker import Cluster
from streams.codec import decode
from streams.policy_file import read_policy
from streams.store import PartitionStore

SEED = 20261126
FAILPOINTS = ("before-acknowledgement", "after-acknowledgement", "inside-batch", "after-batch")


@pytest.fixture
def product(kafka: Cluster, tmp_path: Path):
    made = Product(kafka, tmp_path)
    yield made
    made.close()


def judge(product: Product, asked: list[tuple[str, str]]) -> None:
    """The worker's state is what the reference makes of the topics, and every request has one decision."""
    memory = read_policy(product.settings.policy).memory
    feeds = [decode(record.value) for record in product.read("feeds")]
    reactions = [(record.timestamp, decode(record.value)) for record in product.read("feedback")]
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
    assert per_request == Counter(dict.fromkeys(asked, 1))
    for decision in feeds:
        assert isinstance(decision, Decision)
        assert difference(decision) is None
    now_ms = max(at_ms for at_ms, _ in reactions) + 10 * memory.window_ms
    for user, state in stored(product).items():
        closed, _ = close_due(state, now_ms, memory)
        assert closed.ledger == {}
        same(evidence_at(closed, now_ms, memory), reference.evidence(user, now_ms))
        same(closed.taught, reference.evidence(user, now_ms, aged=False))
        assert [msgspec.structs.astuple(entry) for entry in closed.history] == reference.history.get(user, [])
        assert closed.served == reference.served[user]


def same(found, wanted) -> None:
    assert {cell for cell, tally in found.items() if tally.exposure} == wanted.keys()
    for cell, (successes, exposure) in wanted.items():
        assert found[cell].successes == pytest.approx(successes, abs=1e-7)
        assert found[cell].exposure == pytest.approx(exposure, abs=1e-7)


def stored(product: Product) -> dict:
    states = {}
    for number in range(product.partitions):
        store = PartitionStore(product.settings.state_folder / f"partition-{number}")
        states |= dict(store.users())
        store.close()
    return states


def test_killed_anywhere_it_loses_nothing_and_doubles_nothing(product: Product) -> None:
    """
    load  ======================================================================
    worker  [--x] [--x] [--x] [--x] [--x] wiped [----------------] SIGTERM, judge
             before  after  inside  after  at random
    """
    print(f"seed {SEED}")
    random = Random(SEED)
    life = Life(product, SEED)
    life.start()
    for failpoint in FAILPOINTS:
        with product.worker(f"{failpoint}:{random.randrange(5, 40)}") as process:
            assert process.wait(40) == -signal.SIGKILL, product.log()
    with product.worker() as process:
        before = len(life.asked)
        wait_until(lambda: len(life.asked) > before + 50)
        time.sleep(2 + random.random())
        process.kill()
    with product.worker() as process:
        life.stop()
        product.wait_until_worked_off()
        assert terminate(process) < 5.0
    judge(product, life.asked)
    shutil.rmtree(product.settings.state_folder)
    with product.worker() as process:
        product.wait_until_worked_off()
        time.sleep(1)
        terminate(process)
    judge(product, life.asked)
