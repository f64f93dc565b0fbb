"""The job behind `feeds` against Apache Kafka: killed and started again, it leaves no decision out."""

import signal
from collections import defaultdict
from pathlib import Path

import pytest
from goldens import golden, golden_decision
from kafka_product import USERS, Product, terminate, wait_until
from msgspec.structs import replace

from engine.propensity_record import PropensityRecord, propensity_record
from scripts.kafka_broker import Cluster
from streams.codec import decode, encode

JOB = ("feedloom", "propensities")
FEEDS = 150
USER = "zoë".encode()
POISON = {
    "bytes": (USER, b"\xff\x00{", "not an event or decision"),
    "another kind": (USER, golden("request"), "a request stands among the decisions"),
    "no value": (USER, None, "not an event or decision"),
    "no key": (None, golden("decision"), "the key is not the id of the decision's user"),
    "no posterior": (USER, encode(replace(golden_decision(), temperature=-1.0)), "Beta posterior"),
}


@pytest.fixture
def product(kafka: Cluster, tmp_path: Path):
    made = Product(kafka, tmp_path)
    yield made
    made.close()


def worked_off(product: Product) -> bool:
    """Whether the job's group has come past everything in `feeds`."""
    committed = {place.partition: offset for place, offset in product.committed("-propensities").items()}
    return all(committed.get(record.partition, 0) > record.offset for record in product.read("feeds"))


def test_killed_and_started_again_it_leaves_no_decision_out_and_what_is_there_twice_is_equal(
    product: Product,
) -> None:
    """
    worker        [=================]
    feeds           ==============   poison, a decision
    propensities  [------x] [------x] [-------------] SIGTERM, judge
                     before    after   acknowledgement
    """
    for number in range(FEEDS):
        product.ask(f"user-{number % USERS}", f"r{number}", slots=1 + number % 8)
    with product.worker() as worker:
        for failpoint in ("before-acknowledgement:2", "after-acknowledgement:2"):
            with product.worker(failpoint, JOB) as process:
                assert process.wait(40) == -signal.SIGKILL, product.log()
        wait_until(lambda: len(product.read("feeds")) == FEEDS, product.log)
        worker.send_signal(signal.SIGTERM)
        assert len(product.read("propensities")) > 0
        for key, value, _ in POISON.values():
            product.send_raw("feeds", key, value, 1)
        product.send_raw("feeds", USER, golden("decision"), 1)
        product.producer.flush()
        with product.worker(command=JOB) as process:
            wait_until(lambda: worked_off(product), product.log)
            assert terminate(process) < 5.0
            assert process.returncode == 0, product.log()
    judge_values(product)
    judge_letters(product)


def judge_values(product: Product) -> None:
    """Every decision has one value, which is a function of it, in the partition and under the key of its feed."""
    poison = [(key, value) for key, value, _ in POISON.values()]
    decisions = [record for record in product.read("feeds") if (record.key, record.value) not in poison]
    written = product.read("propensities")
    assert len(written) > len(decisions) == FEEDS + 1  # something was read twice, or nothing is shown here
    found = defaultdict(set)
    for record in written:
        made = decode(record.value)
        assert isinstance(made, PropensityRecord)
        found[record.key.decode(), made.request_id].add((record.partition, made.user, record.value))
    wanted = defaultdict(set)
    for record in decisions:
        made = propensity_record(decode(record.value))
        wanted[record.key.decode(), made.request_id].add((record.partition, made.user, encode(made)))
    assert found == wanted


def judge_letters(product: Product) -> None:
    """What is no decision is a dead letter as it was, with its place and the reason."""
    places = {
        record.offset: (record.key, record.value) for record in product.read("feeds") if record.partition == 1
    }
    letters = defaultdict(list)
    for letter in product.read("dead-letters"):
        told = {name: value.decode() for name, value in letter.headers}
        assert (told["feedloom.topic"], told["feedloom.partition"]) == ("feeds", "1")
        key, value = places[int(told["feedloom.offset"])]
        assert (letter.key, letter.value) == (key, value or b"")
        letters[key, value].append(told["feedloom.reason"])
    assert letters.keys() == {(key, value) for key, value, _ in POISON.values()}
    for name, (key, value, reason) in POISON.items():
        assert all(reason in told for told in letters[key, value]), name
