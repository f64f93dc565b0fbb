"""The personal pool over Kafka: likes become weights, are published to everybody, and outlive the state folder."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from faults_kafka import decisions
from kafka_product import POLICY, Product, terminate, wait_until
from worker_judge import stored

from engine.decision import Decision, difference
from engine.population_record import PopulationRecord, WeightsRecord
from engine.state import UserWeights
from scripts.kafka_broker import Cluster


def sees_and_likes_the_last(product: Product, decision: Decision) -> None:
    """The user sees the whole feed."""
    about = {"user": decision.request.user, "request_id": decision.request.request_id}
    for slot, item in enumerate(decision.slot_items):
        event = {"kind": "seen", "event_id": f"s{slot}", "slot": slot, "item": item, **about}
        product.send("feedback", decision.request.user, event)
    product.send("feedback", decision.request.user, event | {"kind": "acted", "event_id": "a", "action": "like"})


def published(product: Product) -> WeightsRecord | None:
    """The weights of the newest population version."""
    values = [record.value for record in product.read("population") if record.value]
    return msgspec.json.decode(values[-1], type=PopulationRecord).weights if values else None


def test_likes_become_weights_that_are_published_and_come_back_from_the_topics(
    kafka: Cluster, tmp_path: Path
) -> None:
    # A first request may wait for a compiler, and its reactions must not come too late for it.
    product = Product(
        kafka, tmp_path, partitions=1, policy=POLICY.replace("window_ms = 6000", "window_ms = 600000")
    )
    with product.worker() as process:
        product.ask("taster", "first")
        (first,) = decisions(product, "taster", 1)
        assert first.considered is not None
        assert set(first.slot_items) <= set(first.considered.items)
        sees_and_likes_the_last(product, first)
        product.wait_until_worked_off()
        product.ask("taster", "second")
        second = decisions(product, "taster", 2)[1]
        assert second.considered is not None
        assert [difference(decision) for decision in (first, second)] == [None, None]
        wait_until(lambda: published(product) is not None, product.log)
        weights = published(product)
        assert weights is not None
        assert (weights.layout, weights.likes) == (first.considered.layout, pytest.approx(1.0, rel=1e-3))
        assert np.abs(weights.mean).max() > 0.0
        terminate(process)
    (kept,) = [state.weights for user, state in stored(product).items() if user == "taster"]
    assert isinstance(kept, UserWeights)
    assert np.frombuffer(kept.moment).any()
    shutil.rmtree(product.settings.state_folder)
    with product.worker() as process:
        product.wait_until_taken_over()
        terminate(process)
    assert stored(product)["taster"].weights == kept
    product.close()
