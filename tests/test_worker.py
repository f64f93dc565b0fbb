"""The Kafka worker against Apache Kafka: killed anywhere, it loses nothing and doubles nothing."""

import shutil
import signal
import time
from pathlib import Path
from random import Random

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka_product import Life, Product, terminate, wait_until
from worker_judge import judge, stored

from engine.decision import Decision
from engine.newcomers import taught_at
from engine.sums_record import SumsRecord
from scripts.kafka_broker import Cluster
from streams.codec import decode
from streams.policy_file import read_policy
from streams.store import Changes, PartitionStore, Position

SEED = 20261126
FAILPOINTS = ("before-acknowledgement", "after-acknowledgement", "inside-batch", "after-batch")


@pytest.fixture
def product(kafka: Cluster, tmp_path: Path):
    made = Product(kafka, tmp_path)
    yield made
    made.close()


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
        product.wait_until_taken_over()
        terminate(process)
    judge(product, life.asked)


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


def decisions(product: Product, user: str, count: int) -> list[Decision]:
    """A user's feeds, as soon as there are so many."""
    found: list[Decision] = []

    def there() -> bool:
        values = [decode(record.value) for record in product.read("feeds") if record.key == user.encode()]
        found[:] = [value for value in values if isinstance(value, Decision)]
        return len(found) >= count

    wait_until(there, product.log)
    return found


KEY = b"poisoned"
ORGANIC = {"kind": "organic", "event_id": "e", "user": "poisoned", "item": "i", "action": "like"}


def request(**changes: object) -> bytes:
    asked = {"kind": "request", "request_id": "p", "user": "poisoned", "slots": 1}
    return msgspec.json.encode(asked | changes)


POISON = {
    "bytes": (KEY, b"\xff\x00{", "not an event or decision"),
    "no JSON": (KEY, b'{"kind":', "not an event or decision"),
    "schema": (KEY, request(slots="ten"), "$.slots"),
    "version": (KEY, request(schema=9), "schema version 9 is not known"),
    "NaN": (KEY, request().replace(b"1", b"NaN"), "not an event or decision"),
    "null key": (None, request(), "the key is missing"),
    "another's key": (b"x", request(), "the key is not the user's id"),
    "oversize": (KEY, b" " * 300_000, "at most 262144 are read"),
    "no value": (KEY, None, "no value"),
    "too many slots": (KEY, request(slots=999), "at most 100 slots by the policy"),
    "no such pool": (KEY, request(candidates={"z": ["i"]}), "no external pool"),
    "a time beyond all": (KEY, request(ts_ms=2**64), "ts_ms counts milliseconds"),
    "other kind": (KEY, msgspec.json.encode(ORGANIC), "stands among the requests"),
}


def test_poison_becomes_a_dead_letter_with_its_origin_and_the_next_message_is_served(served: Product) -> None:
    partition = 1
    for topic in ("requests", "feedback"):
        for key, value, _ in POISON.values():
            served.send_raw(topic, key, value, partition)
    far_slot = {"kind": "seen", "event_id": "e", "user": "poisoned", "request_id": "r", "slot": 2**64, "item": "i"}
    served.send_raw("feedback", KEY, msgspec.json.encode(far_slot), partition)
    unknown = {"kind": "organic", "event_id": "e", "user": "poisoned", "item": "i", "action": "unheard of"}
    served.send_raw("feedback", b"poisoned", msgspec.json.encode(unknown), partition)
    served.producer.flush()
    served.ask("after", "the next")
    served.send(
        "feedback", "after", {"kind": "organic", "event_id": "e", "user": "after", "item": "i", "action": "like"}
    )
    served.wait_until_worked_off()
    (decision,) = decisions(served, "after", 1)
    assert decision.request.request_id == "the next"
    letters = served.read("dead-letters")
    origins = [{name: value.decode() for name, value in letter.headers} for letter in letters]
    requests = [
        (letter, told)
        for letter, told in zip(letters, origins, strict=True)
        if told["feedloom.topic"] == "requests"
    ]
    assert [int(told["feedloom.offset"]) for _, told in requests] == list(range(len(POISON)))
    for (letter, told), (name, (key, value, reason)) in zip(requests, POISON.items(), strict=True):
        assert (letter.key, letter.value) == (key, value or b""), name
        assert told["feedloom.partition"] == str(partition), name
        assert reason in told["feedloom.reason"], name
    of_feedback = [told["feedloom.reason"] for told in origins if told["feedloom.topic"] == "feedback"]
    # "other kind" is a reaction there; the unknown action and the slot are not.
    assert len(of_feedback) == len(POISON) + 1
    assert any("slots count from 0 to 999" in reason for reason in of_feedback)
    assert "the policy does not name action 'unheard of': add [actions.\"unheard of\"]" in of_feedback


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


def test_a_worker_that_is_told_to_end_ends_within_five_seconds_and_nothing_is_read_again(product: Product) -> None:
    life = Life(product, SEED + 2)
    life.start()
    with product.worker() as process:
        wait_until(lambda: bool(product.last) and any(o > 0 for o in product.committed().values()), product.log)
        time.sleep(1)
        assert terminate(process) < 5.0, product.log()
        assert process.returncode == 0, product.log()
    life.stop()
    committed = product.committed()
    for number in range(product.partitions):
        store = PartitionStore(product.settings.state_folder / f"partition-{number}")
        position = store.position()
        store.close()
        for topic in ("requests", "feedback"):
            (place,) = [at for at in committed if at.topic.endswith(topic) and at.partition == number]
            assert committed[place] == getattr(position, topic)  # so what is read next has not been folded
    with product.worker() as process:
        product.wait_until_worked_off()
        terminate(process)
    judge(product, life.asked)


def test_a_second_worker_takes_its_part_and_gives_it_back(product: Product) -> None:
    life = Life(product, SEED + 3)
    life.start()
    with product.worker() as first:
        wait_until(lambda: len(product.read("feeds")) > 20, product.log)
        with product.worker(FEEDLOOM_STATE_FOLDER=str(product.folder / "elsewhere")) as second:
            other = product.folder / "elsewhere" / "partition-1"
            wait_until(
                lambda: other.exists() or (product.folder / "elsewhere" / "partition-0").exists(), product.log
            )
            time.sleep(2)
            assert terminate(second) < 5.0
        time.sleep(2)
        life.stop()
        product.wait_until_worked_off()
        terminate(first)
    judge(product, life.asked)


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
