"""The one author of population versions: the same versions whatever the partitions, and whoever dies."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from folder_engine import Engine
from kafka_product import Life, Product, wait_until

from engine.population_record import PopulationRecord
from engine.revisions import Revisions
from engine.sums_record import SumsRecord
from scripts.kafka_broker import Cluster
from streams.broker import partition_of
from streams.fitter import Fits, fitted
from streams.messages import Record
from streams.partition import Partition
from streams.recovery import moment_of
from streams.store import PartitionStore

TICK = b'{"kind":"tick"}'


def logged(folder: Path, feeds: int) -> tuple[Engine, list[tuple[str, Any]]]:
    """What users of an engine did, by time: records of `feeds` and `feedback`."""
    folder.mkdir()
    engine = Engine(folder)
    engine.live(feeds)
    rows = [
        (topic, record)
        for topic in ("feeds", "feedback")
        for chunk in engine.topics.log(topic).read()
        for record in chunk
        if record.key is not None
    ]
    engine.partitions.close()
    engine.topics.close()
    return engine, sorted(rows, key=lambda row: moment_of(row[0], row[1].at_ms, row[1].value))


def versions(folder: Path, engine: Engine, rows: list[tuple[str, Any]], count: int) -> dict[int, PopulationRecord]:
    """What a fitter makes of the same records over so many partitions; all of them hear how late it is."""
    revisions = Revisions(engine.policy)
    stores = [PartitionStore(folder / f"{count}-{number}") for number in range(count)]
    parts = [Partition(number, revisions, store, partitions=count) for number, store in enumerate(stores)]
    ends = [{"feeds": 0, "feedback": 0} for _ in parts]
    fits, found = Fits(count), {}

    def next_record(number: int, topic: str, at_ms: int, key: bytes | None, value: bytes) -> Record:
        ends[number][topic] += 1
        return Record(ends[number][topic] - 1, at_ms, key, value)

    for topic, record in rows:
        number = partition_of(record.key, count) if count > 1 else 0
        messages = []
        made = next_record(number, topic, record.at_ms, record.key, record.value)
        if topic == "feeds":
            messages += parts[number].adopt(made, dict(record.headers))
        else:
            messages += parts[number].react(made)
            for other in range(count):
                messages += parts[other].react(next_record(other, "feedback", record.at_ms, None, TICK))
        for message in messages:
            assert message.topic == "sums"
            fits.take(msgspec.json.decode(message.value, type=SumsRecord))
        if (due := fits.due(max(found, default=-1))) is not None:
            value = fitted(due[0], engine.policy, due[1])
            found[due[1]] = msgspec.json.decode(value, type=PopulationRecord)
            fits.done(*due)
    for store in stores:
        store.close()
    return found


def same(one: Any, other: Any) -> None:
    """Equal, numbers to 1e-9."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9)
    else:
        assert one == other


def test_the_same_topics_give_the_same_versions_with_1_2_and_8_partitions(tmp_path: Path) -> None:
    engine, rows = logged(tmp_path / "engine", 90)
    one = versions(tmp_path, engine, rows, 1)
    assert len(one) > 60
    last = one[max(one)]
    assert last.newcomers
    assert last.weights is not None
    assert any(items for items, _ in last.neighbours)
    for count in (2, 8):
        many = versions(tmp_path, engine, rows, count)
        assert many.keys() == one.keys()
        for number, version in one.items():
            # How many records a partition counts, and the ticks among them, is its own.
            left, right = (msgspec.to_builtins(found) | {"records": 0} for found in (version, many[number]))
            same(left, right)


def test_a_fitter_that_is_killed_at_any_failpoint_is_replaced_and_no_number_comes_twice(
    kafka: Cluster, tmp_path: Path
) -> None:
    product = Product(kafka, tmp_path)
    other = {"FEEDLOOM_STATE_FOLDER": str(tmp_path / "other")}
    life = Life(product, 5)
    life.start()
    for failpoint in ("before-population:3", "after-population:3", "before-population:1", "after-population:1"):
        with product.worker(failpoint) as fitter:
            wait_until(lambda dying=fitter: dying.poll() is not None, product.log)
            assert fitter.returncode == -9
    with product.worker() as fitter:
        product.wait_until_taken_over()
        with product.worker(**other):
            count = len(published(product))
            wait_until(lambda: len(published(product)) > count + 3, product.log)
            fitter.kill()  # it has had partition 0 for longest, or the late one has it: either is replaced
            count = len(published(product))
            wait_until(lambda: len(published(product)) > count + 3, product.log)
            life.stop()
            product.wait_until_worked_off()
            newest = max(sum_versions(product))
            wait_until(lambda: published(product)[-1] >= newest, product.log)
    numbers = published(product)
    assert numbers == sorted(set(numbers))
    assert decided_by(product) <= {0, *numbers}
    product.close()


def published(product: Product) -> list[int]:
    """The versions that were ever published, in their order."""
    return [int(record.key) for record in product.read("population") if record.value]


def sum_versions(product: Product) -> list[int]:
    return [msgspec.json.decode(record.value)["version"] for record in product.read("sums")]


def decided_by(product: Product) -> set[int]:
    return {msgspec.json.decode(record.value)["population_version"] for record in product.read("feeds")}
