"""A worker answers HTTP by the topics: whoever made a decision, wherever it was asked for, and what is refused."""

import json
from http.client import HTTPConnection
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from kafka_product import Product, terminate, wait_until

from engine.errors import InputError
from feedloom.cli import cli
from scripts.kafka_broker import Cluster, free_ports
from streams.codec import decode


class Client:
    """Calls one worker."""

    def __init__(self, port: int) -> None:
        self._port = port

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            raw = None if body is None else json.dumps(body)
            connection.request(method, path, raw, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask(self, user: str, request_id: str, slots: int = 3, **more: object) -> tuple[int, Any]:
        candidates = {pool: [f"{pool}{number}" for number in range(6)] for pool in ("a", "b")}
        body = {"request_id": request_id, "user": user, "slots": slots, "candidates": candidates}
        return self.call("POST", "/v1/feeds", body | more)


@pytest.fixture(scope="module")
def two(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory):
    """Two workers with a partition each, and a client of each."""
    product = Product(kafka, tmp_path_factory.mktemp("gateway"))
    ports = free_ports(2)
    elsewhere = str(product.folder / "elsewhere")
    with (
        product.worker(FEEDLOOM_HTTP_PORT=str(ports[0])) as first,
        product.worker(FEEDLOOM_HTTP_PORT=str(ports[1]), FEEDLOOM_STATE_FOLDER=elsewhere) as second,
    ):
        clients = [Client(port) for port in ports]
        for client in clients:
            wait_until(lambda client=client: ready(client), product.log)
        yield product, clients
        for process in (first, second):
            assert process.poll() is None, product.log()
            assert terminate(process) < 5.0
    product.close()


def ready(client: Client) -> bool:
    try:
        return client.call("GET", "/health/ready")[0] == 200
    except OSError:
        return False


def test_any_worker_answers_for_any_user_and_the_same_id_gets_the_same_feed(two) -> None:
    product, (one, other) = two
    for number in range(8):
        status, feed = one.ask(f"user-{number}", "r")
        assert (status, len(feed["slots"])) == (200, 3)
        assert other.ask(f"user-{number}", "r") == (200, feed)
        assert one.ask(f"user-{number}", "r") == (200, feed)
    decided = [decode(record.value).request for record in product.read("feeds")]
    assert sorted(request.user for request in decided) == [f"user-{number}" for number in range(8)]
    assert {record.partition for record in product.read("feeds")} == {0, 1}


def test_what_is_refused_is_said_and_what_comes_late_of_the_workers_too(two) -> None:
    product, (one, other) = two
    assert one.ask("twice", "r")[0] == 200
    assert other.ask("twice", "r", 2)[0] == 409
    assert one.ask("twice", "x", 999)[0] == 422
    ends = len(product.read("requests"))
    status, answer = one.call(
        "POST", "/v1/feedback", {"kind": "organic", "event_id": "e", "user": "u", "item": "i"}
    )
    assert (status, "action" in answer["error"]) == (400, True)
    event = {"kind": "organic", "event_id": "e", "user": "u", "item": "i", "action": "unheard of"}
    assert one.call("POST", "/v1/feedback", event)[0] == 422
    assert len(product.read("requests")) == ends
    # Only the state knows how long the pages before are: the worker refuses it, and the gateway tells who asked.
    assert one.ask("long", "page-0", 100)[0] == 200
    statuses = [one.ask("long", f"page-{n}", 100, continues=f"page-{n - 1}") for n in range(1, 4)]
    assert {status for status, _ in statuses} == {200}


def test_reactions_items_and_erasures_reach_the_worker_of_the_user(two) -> None:
    product, (one, other) = two
    _, feed = one.ask("fan", "first")
    slot = feed["slots"][0]
    place = {"user": "fan", "request_id": "first", "slot": 0, "item": slot["item"]}
    events = [
        {"kind": "seen", "event_id": "s", **place},
        {"kind": "acted", "event_id": "a", "action": "like", **place},
    ]
    assert other.call("POST", "/v1/feedback", events) == (200, {"accepted": 2})
    product.producer.flush()

    def learned() -> bool:
        number = sum(record.key == b"fan" for record in product.read("requests"))
        assert one.ask("fan", f"r{number}")[0] == 200
        latest = [decode(record.value) for record in product.read("feeds") if record.key == b"fan"][-1]
        return max(part.alpha[0] + part.beta[0] for part in latest.pools) > 60.5

    wait_until(learned, product.log)
    assert one.call("GET", "/v1/feeds/first/explanation?user=fan")[0] == 200
    assert one.call("POST", "/v1/items", {"item": "a0", "blocked": True}) == (200, {"accepted": 1})
    status, answer = other.call("DELETE", "/v1/users/fan")
    assert status == 200
    assert answer["logs_lapse_ms"] > answer["erased_ms"]
    wait_until(lambda: [r.key for r in product.read("erased")] == [b"fan"], product.log)
    (fact,) = [msgspec.json.decode(record.value) for record in product.read("erased")]
    assert (fact["user"], fact["at_ms"]) == ("fan", answer["erased_ms"])
    # Both had it at hand, and only one was told to forget it.
    for client in (one, other):
        wait_until(
            lambda client=client: client.call("GET", "/v1/feeds/first/explanation?user=fan")[0] == 404, product.log
        )

    def blocked() -> bool:
        number = sum(record.key == b"reader" for record in product.read("requests"))
        return "a0" not in {slot["item"] for slot in other.ask("reader", f"r{number}", 12)[1]["slots"]}

    wait_until(blocked, product.log)


def test_a_worker_that_others_could_reach_wants_a_key_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLOOM_HTTP_PORT", "8080")
    monkeypatch.setenv("FEEDLOOM_HTTP_HOST", "0.0.0.0")
    done = CliRunner().invoke(cli, ["worker"])
    assert isinstance(done.exception, InputError)
    assert "set FEEDLOOM_API_KEY first" in str(done.exception)
