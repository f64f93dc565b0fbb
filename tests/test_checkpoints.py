"""What is beyond a worker's disk: checkpoints, owners that are fenced, disks that are lost, damaged or full."""

import asyncio
import resource
import shutil
import signal
import time
from pathlib import Path
from random import Random

import msgspec
import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka_product import Life, Product, terminate, wait_until
from worker_judge import judge, stored

from scripts.kafka_broker import Cluster
from streams.broker import Part, Place, TransactionalProducer, committed_reader, partition_of
from streams.checkpoints import Checkpoints, newest, restore
from streams.settings import Settings
from streams.store import Changes, PartitionStore, Position
from streams.store_folder import StoreDamagedError, damaged_folders, set_aside
from streams.topics import create

SEED = 20261127
OFTEN = {"FEEDLOOM_CHECKPOINT_EVERY_MS": "200"}


@pytest.fixture
def product(kafka: Cluster, tmp_path: Path):
    made = Product(kafka, tmp_path)
    yield made
    made.close()


def alerts(product: Product) -> list[dict]:
    return [msgspec.json.decode(record.value) for record in product.read("alerts")]


def delete_first_half(product: Product) -> list:
    """Delete what was in the first half of `feeds` and `feedback`; returns all that was there."""
    earlier = product.read("feeds") + product.read("feedback")
    lasts = {TopicPartition(record.topic, record.partition): record.offset for record in earlier}
    admin = KafkaAdminClient(bootstrap_servers=product.settings.bootstrap)
    admin.delete_records({place: last // 2 for place, last in lasts.items()})
    admin.close()
    return earlier


def test_killed_anywhere_in_checkpoints_and_robbed_of_disk_and_log_it_goes_on_from_them(product: Product) -> None:
    """
    load     ============================
    worker   [--x] [--x] [--x] [--------]  disk wiped, half of the log deleted  [-x] [-x] [----------] judge
             before inside after                                             inside the restore
    """
    print(f"seed {SEED}")
    random = Random(SEED)
    life = Life(product, SEED)
    life.start()
    for failpoint in ("before-checkpoint", "inside-checkpoint", "after-checkpoint"):
        with product.worker(f"{failpoint}:{random.randrange(3, 8)}", **OFTEN) as process:
            assert process.wait(40) == -signal.SIGKILL, product.log()
    with product.worker(**OFTEN) as process:
        life.stop()
        product.wait_until_worked_off()
        terminate(process)
    judge(product, life.asked)
    shutil.rmtree(product.settings.state_folder)
    earlier = delete_first_half(product)
    for passes in (1, 2):
        with product.worker(f"inside-restore:{passes}", **OFTEN) as process:
            assert process.wait(40) == -signal.SIGKILL, product.log()
    with product.worker(**OFTEN) as process:
        product.wait_until_taken_over()
        terminate(process)
    judge(product, life.asked, earlier=earlier)
    assert alerts(product) == []


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


def test_an_owner_that_slept_or_was_fenced_lets_go_and_nothing_is_lost_or_doubled(product: Product) -> None:
    """
    load     ==================================================
    first    [-------- asleep ------ joins anew -------- fenced, joins anew ----] judge
    second        [---------------------------x
    """
    elsewhere = str(product.folder / "elsewhere")
    life = Life(product, SEED + 1)
    life.start()
    with product.worker(**OFTEN) as first:
        product.wait_until_taken_over()
        with product.worker(**OFTEN, FEEDLOOM_STATE_FOLDER=elsewhere) as second:
            taken = (product.folder / "elsewhere" / "partition-0", product.folder / "elsewhere" / "partition-1")
            wait_until(lambda: any(path.exists() for path in taken), product.log)
            time.sleep(0.5)
            first.send_signal(signal.SIGSTOP)
            wait_until(lambda: all(path.exists() for path in taken), product.log)
            time.sleep(1.0)
            first.send_signal(signal.SIGCONT)
            wait_until(lambda: "joins the group anew" in product.log(), product.log)
            time.sleep(1.0)
            second.kill()
        time.sleep(1.8)

        async def fence() -> None:
            stranger = Checkpoints(product.settings, 0)
            await stranger.start()
            await stranger.stop()

        asyncio.run(fence())
        wait_until(lambda: "partition 0 is another's" in product.log(), product.log)
        product.wait_until_taken_over()
        life.stop()
        product.wait_until_worked_off()
        terminate(first)
    judge(product, life.asked, twice=True)
    assert "Traceback" not in (product.folder / "worker.log").read_text()


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


def flip(folder: Path, pattern: str, every: int | None = None) -> None:
    """Flip a byte in the middle of the largest such file, or one of so many."""
    path = max(folder.glob(pattern), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    assert len(data) > 10, path
    for place in range(len(data) // 2 if every is None else 0, len(data), every or len(data)):
        data[place] ^= 0x55
    path.write_bytes(data)


def test_a_disk_that_was_damaged_or_was_full_costs_nothing_that_was_acknowledged(product: Product) -> None:
    """
    load     =================================================
    worker   [--x] MANIFEST, WAL [--x] SST [--- disk full --- room ---] judge
    """
    life = Life(product, SEED + 2)
    life.start()
    stores = [product.settings.state_folder / f"partition-{number}" for number in range(product.partitions)]
    with product.worker(**OFTEN):
        product.wait_until_taken_over()
        time.sleep(1.5)
    flip(stores[0], "MANIFEST-*")
    flip(stores[1], "*.log")
    with product.worker(**OFTEN) as process:
        product.wait_until_taken_over()
        time.sleep(0.5)
        process.kill()
    assert len(damaged_folders(stores[0])) == 1
    flip(stores[1], "*.sst", every=512)
    with product.worker(**OFTEN) as process:
        product.wait_until_taken_over()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        wait_until(lambda: product.log().count("is let go until there is room") == 2, product.log)
        time.sleep(2.5)
        assert product.log().count("is let go until there is room") == 2
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        life.stop()
        product.wait_until_worked_off()
        terminate(process)
    judge(product, life.asked)
    said = alerts(product)
    assert [alert["name"] for alert in said] == len(said) * ["store-damaged"]
    assert {alert["folder"] for alert in said} == {str(path) for at in stores for path in damaged_folders(at)}


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
    admin = KafkaAdminClient(bootstrap_servers=product.settings.bootstrap)
    remake(admin, product, "checkpoints")
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
    remake(admin, product, "requests")
    admin.close()
    with product.worker() as process:
        assert process.wait(20) == 2
    assert f"is of topic {product.settings.topic('requests')} with the id" in product.log()
    assert "the topic was made anew, so remove" in product.log()


def remake(admin: KafkaAdminClient, product: Product, name: str) -> None:
    admin.delete_topics([product.settings.topic(name)])
    wait_until(lambda: name not in there(admin, product))
    create(product.settings, product.partitions, 1)


def there(admin: KafkaAdminClient, product: Product) -> set[str]:
    prefix = product.settings.topic_prefix
    return {name.removeprefix(prefix) for name in admin.list_topics() if name.startswith(prefix)}
