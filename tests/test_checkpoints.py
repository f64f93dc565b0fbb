"""What is beyond a worker's disk: checkpoints, owners that are fenced, disks that are lost or damaged."""

import asyncio
import shutil
import time
from pathlib import Path

import msgspec
import pytest
from faults_kafka import (
    OFTEN,
    a_byte_flipped_in_the_store,
    alerts,
    delete_first_half,
    flip,
    remake,
)
from kafka_product import Product, terminate, wait_until
from worker_judge import stored

from scripts.kafka_broker import Cluster
from streams.broker import Part, Place, TransactionalProducer, committed_reader, partition_of
from streams.checkpoints import Checkpoints, newest, restore
from streams.settings import Settings
from streams.store import Changes, PartitionStore, Position
from streams.store_folder import StoreDamagedError, damaged_folders, set_aside
from streams.topics import create

SEED = 20261127


@pytest.fixture
def product(kafka: Cluster, tmp_path: Path):
    made = Product(kafka, tmp_path)
    yield made
    made.close()


def test_a_torn_checkpoint_is_never_read_and_a_fenced_owner_makes_none(own: Settings, tmp_path: Path) -> None:
    """Two owners of one partition, and a value that is longer than a record may be."""
    create(own, 1, 1)
    own = msgspec.structs.replace(own, checkpoint_every_ms=1)
    sums = bytes(range(256)) * 10_000

    def torn() -> None:
        raise KeyboardInterrupt

    async def scenario() -> None:
        place = Place(own.topic("checkpoints"), 0)
        first, second = Checkpoints(own, 0), Checkpoints(own, 0)
        store = PartitionStore(tmp_path / "first", copied=True)
        await first.start()
        for offset in range(1, 4):
            store.write(Changes([], [(offset, "user")], [(offset - 1, "user")], [], sums, Position(1, offset)))
            await first.last(store)
        async with committed_reader(own, place) as reader:
            known = await newest(reader)
            assert known is not None
            assert known.position == Position(1, 3)
        half = TransactionalProducer(own, "half")
        await half.start()
        with pytest.raises(KeyboardInterrupt):
            await half.write(place, [Part(b"p4", b"\x91\x01", (("feedloom.checkpoint", b"torn"),))], torn)
        await second.start()
        async with committed_reader(own, place) as reader:
            assert await newest(reader) == known
            await restore(reader, tmp_path / "second", known.name)
        store.write(Changes([], [], [], [], None, Position(1, 9)))
        await first.last(store)
        assert "another owner" in (first.lost or "")
        async with committed_reader(own, place) as reader:
            assert await newest(reader) == known
        copy = PartitionStore(tmp_path / "second", copied=True)
        assert (list(copy.due()), copy.sums(), copy.position()) == ([(3, "user")], sums, known.position)
        copy.write(Changes([], [], [], [], None, Position(1, 4)))
        await second.last(copy)
        assert second.lost is None
        for each in (first, second, half):
            await each.stop()
        store.close()
        copy.close()

    asyncio.run(scenario())


def test_a_store_that_is_opened_again_knows_what_its_last_checkpoint_lacks(tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "store", copied=True)
    store.write(Changes([], [(1, "u"), (2, "v")], [], [], b"sums", Position(1, 1)))
    taken = store.notes.take(b"p4")
    assert taken is not None
    assert store.notes.take(b"p4") is None
    store.write(Changes([], [], [(1, "u")], [], None, Position(1, 2)))
    store.notes.made(taken)
    store.close()
    store = PartitionStore(tmp_path / "store", copied=True)
    again = store.notes.take(b"p4")
    assert again is not None
    due = b"d" + (1).to_bytes(8, "big") + b"u"
    assert again.changed == {due: None, b"p4": store.raw_position()}
    assert store.notes.lineage() == msgspec.structs.replace(store.notes.lineage(), made=taken.name)
    store.close()
    store = PartitionStore(tmp_path / "store")  # somebody who takes no notes
    store.write(Changes([], [], [], [], None, Position(1, 3)))
    store.close()
    store = PartitionStore(tmp_path / "store", copied=True)
    assert store.notes.lineage() is None
    store.close()


def test_a_partition_that_takes_long_to_come_back_holds_up_no_other(product: Product) -> None:
    reaction = {"kind": "organic", "user": "u", "item": "i", "action": "like"}
    for number in range(15_000):
        value = msgspec.json.encode(reaction | {"event_id": str(number)})
        product.send_raw("feedback", b"u", value, partition=0)
    user = next(user for user in map(str, range(99)) if partition_of(user.encode(), 2) == 1)
    product.ask(user, "r")
    product.producer.flush()
    with product.worker() as process:
        wait_until(lambda: any(record.partition == 1 for record in product.read("feeds")), product.log)
        assert "partition 0 is taken over" not in product.log()
        product.wait_until_taken_over()
        terminate(process)


def test_a_disk_that_was_damaged_costs_nothing_that_was_acknowledged(kafka: Cluster, tmp_path: Path) -> None:
    assert a_byte_flipped_in_the_store(tmp_path, SEED + 2, kafka)["set_aside"] >= 1


def test_damage_that_is_met_in_use_is_remembered_until_the_store_is_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = PartitionStore(folder)
    users = [(number, f"user-{number}") for number in range(5_000)]
    store.write(Changes([], users, [], [], None, Position(1)))
    store.close()  # which writes an SST file
    flip(folder, "*.sst")
    store = PartitionStore(folder)
    with pytest.raises(StoreDamagedError, match="Corruption"):
        list(store.due())
    store.close()
    for _ in range(3):
        with pytest.raises(StoreDamagedError):
            PartitionStore(folder)
        aside = set_aside(folder)
        assert aside.exists()
        time.sleep(0.002)
        shutil.copytree(aside, folder)
    assert len(damaged_folders(folder)) == 2


def test_history_that_nobody_has_is_said_loudly_and_topics_made_anew_are_refused(product: Product) -> None:
    with product.worker(**OFTEN) as process:
        for number in range(20):
            product.ask(f"user-{number}", "r")
        product.wait_until_worked_off()
        terminate(process)
    shutil.rmtree(product.settings.state_folder)
    remake(product, "checkpoints")
    delete_first_half(product)
    with product.worker(**OFTEN) as process:
        product.wait_until_taken_over()
        product.ask("another", "r")
        product.wait_until_worked_off()
        terminate(process)
    assert {(alert["name"], alert["topic"]) for alert in alerts(product)} == {
        ("history-lost", product.settings.topic("feeds"))
    }
    assert "another" in stored(product)
    remake(product, "requests")
    with product.worker() as process:
        assert process.wait(20) == 2
    assert f"is of topic {product.settings.topic('requests')} with the id" in product.log()
    assert "the topic was made anew, so remove" in product.log()
