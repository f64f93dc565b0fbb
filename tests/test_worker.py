"""The Kafka worker against Apache Kafka: what it answers, learns, publishes and refuses."""

import signal
import time
from pathlib import Path

import msgspec
import pytest
from faults_kafka import POISON, decisions, ended_in_order_under_load, poisoned
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka_product import Life, Product, terminate, wait_until
from worker_judge import stored

from engine.newcomers import taught_at
from engine.sums_record import SumsRecord
from scripts.kafka_broker import Cluster
from streams.policy_file import read_policy
from streams.store import Changes, PartitionStore, Position

SEED = 20261126
KEY = b"poisoned"


@pytest.fixture
def product(kafka: Cluster, tmp_path: Path):
    made = Product(kafka, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def served(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory):
    """A product with a worker that runs through several tests."""
    made = Product(kafka, tmp_path_factory.mktemp("served"))
    made.send("items", "b5", {"item": "b5", "blocked": True})
    made.producer.flush()
    with made.worker() as process:
        made.process = process
        yield made
        assert process.poll() is None, made.log()
    made.close()


def test_poison_becomes_a_dead_letter_with_its_origin_and_the_next_message_is_served(served: Product) -> None:
    assert poisoned(served) > 2 * len(POISON)


def test_an_oversize_record_that_was_compressed_becomes_the_beginning_of_a_dead_letter(served: Product) -> None:
    producer = KafkaProducer(
        bootstrap_servers=served.settings.bootstrap, compression_type="gzip", max_request_size=8 << 20
    )
    for topic in ("requests", "feedback"):
        producer.send(served.settings.topic(topic), b" " * (3 << 20), KEY, partition=0).get(20)
    producer.close()

    def cut() -> list[tuple[int, bytes]]:
        found = [(len(letter.value), dict(letter.headers)) for letter in served.read("dead-letters")]
        return [
            (size, told["feedloom.cut-from-bytes"]) for size, told in found if "feedloom.cut-from-bytes" in told
        ]

    wait_until(lambda: len(cut()) == 2, served.log)
    assert cut() == 2 * [(1 << 20, str(3 << 20).encode())]
    served.ask("after it", "r")
    assert decisions(served, "after it", 1)


def test_the_same_request_again_gets_no_second_feed_and_other_slots_are_refused(served: Product) -> None:
    for slots in (4, 4, 5):
        served.ask("twice", "same", slots)
    served.ask("twice", "another")
    served.wait_until_worked_off()
    assert [d.request.request_id for d in decisions(served, "twice", 2)] == ["same", "another"]
    reasons = [dict(letter.headers)["feedloom.reason"].decode() for letter in served.read("dead-letters")]
    assert any("has a decision of 4 slots already, so it cannot have one of 5" in reason for reason in reasons)


def test_feedback_shows_in_the_next_feed_and_in_the_population(served: Product) -> None:
    served.ask("fan", "first")
    (first,) = decisions(served, "fan", 1)
    place = {"user": "fan", "request_id": "first", "slot": 0, "item": first.slot_items[0]}
    served.send("feedback", "fan", {"kind": "seen", "event_id": "s", **place})
    served.send("feedback", "fan", {"kind": "acted", "event_id": "a", "action": "like", **place})
    served.wait_until_worked_off()
    served.ask("fan", "second")
    second = decisions(served, "fan", 2)[1]
    pool = first.slot_pools[0]
    assert second.pools[pool].alpha[0] > first.pools[pool].alpha[0] + 0.5

    def popular() -> bool:
        """What was liked comes to everybody, with the next version of the population."""
        number = sum(record.key == b"else" for record in served.read("requests"))
        served.ask("else", f"r{number}")
        latest = decisions(served, "else", number + 1)[-1]
        part = latest.pools[2]
        return latest.population_version > 0 and first.slot_items[0] in part.items[: part.stock]

    wait_until(popular, served.log)


def test_an_item_that_is_blocked_is_no_longer_served_and_one_that_is_removed_from_the_catalogue_is(
    served: Product,
) -> None:
    """b5 was blocked before the worker began. All candidates of a and b fit into the feed."""

    def missing() -> set[str]:
        number = sum(record.key == b"reader" for record in served.read("requests"))
        served.ask("reader", f"r{number}", 20)
        decision = decisions(served, "reader", number + 1)[-1]
        candidates = {f"{pool}{item}" for pool in "ab" for item in range(6)}
        left_out = candidates - set(decision.slot_items)
        assert sum(part.filtered for part in decision.pools[:2]) == len(left_out)
        return left_out

    assert missing() == {"b5"}
    served.send_raw("items", b"a1", b'{"item":"a1","blocked":"perhaps"}')
    served.send("items", "a0", {"item": "a0", "blocked": True})
    wait_until(lambda: missing() == {"b5", "a0"}, served.log)
    served.send_raw("items", b"b5", None)
    wait_until(lambda: missing() == {"a0"}, served.log)
    assert "item updates left out: 1, of which the first at offset" in served.log()
    served.send_raw("items", b"a0", None)


def test_both_lags_of_every_partition_are_published(served: Product) -> None:
    def lags() -> dict[int, dict]:
        told = map(msgspec.json.decode, (r.value for r in served.read("metrics") if r.key == b"lag"))
        return {lag["partition"]: lag for lag in told}

    wait_until(lambda: set(lags()) == set(range(served.partitions)), served.log)
    for lag in lags().values():
        assert lag["name"] == "lag"
        assert lag["requests"] >= 0 <= lag["feedback"]


def test_what_the_population_was_taught_is_what_the_users_taught(product: Product) -> None:
    """Closed by ticks alone after everybody has left, and through a kill."""
    life = Life(product, SEED + 1)
    life.start()
    with product.worker("inside-batch:30") as process:
        assert process.wait(40) == -signal.SIGKILL, product.log()
    life.stop()
    with product.worker() as process:
        product.wait_until_worked_off()
        memory = read_policy(product.settings.policy).memory
        time.sleep(memory.window_ms / 1000 + 2)
        terminate(process)
    newest = {record.partition: decode_sums(record.value) for record in product.read("sums")}
    now_ms, half_life_ms = max(sums.at_ms for sums in newest.values()), memory.cohort_half_life_ms
    taught: dict = {}
    for sums in newest.values():
        for cell, of_cell in sums.newcomers:
            weight = 2.0 ** ((of_cell.landmark_ms - now_ms) / half_life_ms)
            taught[cell] = taught.get(cell, 0.0) + weight * of_cell.exposure
    wanted: dict = {}
    for state in stored(product).values():
        assert state.ledger == {}
        for cell, of_user in state.taught.items():
            wanted[cell] = wanted.get(cell, 0.0) + taught_at(of_user, now_ms, half_life_ms).exposure
    assert taught == pytest.approx(wanted, abs=1e-9)
    assert sum(wanted.values()) > 10
    liked = {(user, e.event_id) for user, state in stored(product).items() for e in state.history}
    assert sum(sum(sums.likes) for sums in newest.values()) == len(liked)


def decode_sums(value: bytes) -> SumsRecord:
    return msgspec.json.decode(value, type=SumsRecord)


def test_a_worker_that_is_told_to_end_ends_within_five_seconds_and_nothing_is_read_again(
    kafka: Cluster, tmp_path: Path
) -> None:
    assert ended_in_order_under_load(tmp_path, SEED + 2, kafka, ends=1)["requests"] > 0


def test_a_worker_refuses_topics_that_would_lose_or_mix_up_users(kafka: Cluster, tmp_path: Path) -> None:
    product = Product(kafka, tmp_path)
    name = product.settings.topic("feedback")
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {"message.timestamp.type": "CreateTime"})])
    admin.close()
    with product.worker() as process:
        assert process.wait(20) == 2
    assert "LogAppendTime" in product.log()
    assert "Traceback" not in product.log()
    product.close()


def test_state_that_is_ahead_of_its_topics_is_refused(product: Product) -> None:
    store = PartitionStore(product.settings.state_folder / "partition-0")
    store.write(Changes([], [], [], [], None, Position(product.partitions, requests=999)))
    store.close()
    with product.worker() as process:
        assert process.wait(20) == 2
    assert "up to offset 999 and it ends at 0: the topic was made anew, so remove" in product.log()


def test_faust_itself_can_start_the_worker(product: Product) -> None:
    with product.worker(command=("faust", "-A", "streams.worker", "worker", "--without-web")) as process:
        product.ask("somebody", "r")
        assert decisions(product, "somebody", 1)[0].request.request_id == "r"
        assert terminate(process) < 5.0
