"""Dead letters listed and sent back, on Apache Kafka itself."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kafka import KafkaProducer
from kafka_product import Product, wait_until
from test_cli import call

from engine.errors import InputError
from scripts.kafka_broker import Cluster
from streams import dead_letters
from streams.messages import LETTER_BYTES_MAX, Input, Record, dead_letter
from streams.settings import Settings
from streams.tools import records
from streams.topics import create

Feedloom = Callable[..., tuple[int, str, str]]
LIKE = b'{"kind":"organic","event_id":"e-1","user":"ada","item":"film-7","action":"like"}'


@pytest.fixture
def feedloom(own: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Feedloom:
    """Runs a command of dead letters over topics of this test's own."""
    create(own, 4, 1)
    return lambda *arguments: call(capsys, monkeypatch, "dead-letters", *arguments)


def bury(own: Settings, *letters: tuple[Input, int, bytes | None, bytes, str]) -> None:
    """Write letters as a worker does: topic, offset, key, value and reason, of partition 1."""
    producer = KafkaProducer(bootstrap_servers=own.bootstrap, max_request_size=4 << 20)
    for topic, offset, key, value, reason in letters:
        letter = dead_letter(topic, 1, Record(offset, 0, key, value), InputError(reason))
        producer.send(own.topic("dead-letters"), letter.value, letter.key, headers=list(letter.headers)).get(10)
    producer.close()


def there(own: Settings, topic: str) -> list[Any]:
    return list(records(own, topic, "earliest"))


def listed(feedloom: Feedloom, *arguments: str) -> list[dict[str, Any]]:
    code, out, error = feedloom("list", "--json", *arguments)
    assert (code, error) == (0, "")
    return json.loads(out)["letters"]


def became(feedloom: Feedloom, *arguments: str, expect: int = 0) -> dict[str, str]:
    """What `resend` says became of each letter, by its place."""
    code, out, error = feedloom("resend", "--json", *arguments)
    assert (code, error) == (expect, "")
    return {letter["letter"]: letter["became"] for letter in json.loads(out)["letters"]}


def test_letters_are_listed_with_place_time_reason_and_beginning_and_filtered(
    own: Settings, feedloom: Feedloom
) -> None:
    bury(own, ("feedback", 41, b"ada", b"{", "not an event"), ("requests", 7, None, b"\xff\x1b[2J", "no KEY here"))
    time.sleep(0.02)
    bury(own, ("feeds", 3, "zoë".encode(), ("x" + "é" * 1499 + "x").encode(), "a tick stands\nhere"))
    first, second, third = listed(feedloom)
    assert {name: first[name] for name in ("letter", "topic", "partition", "offset", "key", "reason")} == {
        "letter": "0:0",
        "topic": "feedback",
        "partition": 1,
        "offset": 41,
        "key": "ada",
        "reason": "not an event",
    }
    assert (first["beginning"], first["bytes"], first["resent_to"]) == ("{", 1, None)
    assert (second["key"], second["beginning_base64"]) == (None, "/xtbMko=")
    assert (third["bytes"], third["beginning"]) == (3000, "x" + "é" * 99)
    for arguments, places in (
        (["--topic", "requests"], ["0:1"]),
        (["--reason", "key HERE"], ["0:1"]),
        (["--user", "zoë"], ["0:2"]),
        (["--from", f"ts={third['at_ms']}"], ["0:2"]),
        (["--from", "last=1h", "--max", "2"], ["0:1", "0:2"]),
        (["--offset", "0:2", "--offset", "0:0"], ["0:0", "0:2"]),
        (["--user", "bob"], []),
    ):
        assert (arguments, [letter["letter"] for letter in listed(feedloom, *arguments)]) == (arguments, places)
    code, out, _ = feedloom("list")
    lines = out.splitlines()
    assert (code, len(lines), lines[0].split()[:3]) == (0, 4, ["letter", "when", "from"])
    assert lines[1].split()[::2][1:4] == ["feedback", "ada", "an"]
    assert "\\xff\\x1b[2J" in lines[2]
    assert "a tick stands\\nhere" in lines[3]
    assert feedloom("list", "--user", "bob") == (0, "no letters\n", "")


def test_letters_go_back_once_with_their_key_and_bytes_and_say_where_from(
    own: Settings, feedloom: Feedloom
) -> None:
    bury(
        own,
        ("feedback", 1, b"ada", LIKE, "the policy does not name it"),
        ("requests", 2, b"bob", b"\xffno json", "not an event"),
        ("feedback", 3, None, b"no key", "the key is missing"),
        ("feedback", 1, b"ada", LIKE, "folded again: the same record"),
    )
    told = became(feedloom, "--yes", "--dry-run")
    assert told == {**dict.fromkeys(("0:0", "0:1", "0:2"), "would be sent"), "0:3": "not sent again"}
    assert (there(own, "feedback"), there(own, "requests")) == ([], [])
    assert became(feedloom, "--offset", "0:1") == {"0:1": "sent"}
    (request,) = there(own, "requests")
    assert (request.key, request.value, request.headers) == (
        b"bob",
        b"\xffno json",
        [("feedloom.resent-from", b"0:1")],
    )
    told = became(feedloom, "--yes")
    assert told == {"0:0": "sent", "0:1": "not sent again", "0:2": "sent", "0:3": "not sent again"}
    by_value = {record.value: record for record in there(own, "feedback")}
    assert by_value.keys() == {LIKE, b"no key"}
    assert by_value[LIKE].key == b"ada"
    assert (by_value[b"no key"].key, by_value[b"no key"].partition) == (None, 1)
    assert set(became(feedloom, "--yes").values()) == {"not sent again"}
    assert (len(there(own, "feedback")), len(there(own, "requests"))) == (2, 1)
    assert [letter["resent_to"] for letter in listed(feedloom)][1] == f"requests {request.partition}:0"
    bury(own, ("feedback", 9, b"ada", LIKE, "a record of its own"))
    assert became(feedloom, "--user", "ada", "--max", "1") == {"0:7": "sent"}
    code, out, _ = feedloom("resend", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "5 not sent again")


def test_what_cannot_be_sent_back_is_named_and_the_rest_is_sent(own: Settings, feedloom: Feedloom) -> None:
    whole = b'"' + b"x" * LETTER_BYTES_MAX + b'"'
    bury(
        own,
        ("feedback", 1, b"ada", whole, "too long"),
        ("feeds", 2, b"ada", b"{}", "this is no decision"),
        ("feedback", 3, b"ada", LIKE, "no action"),
    )
    for flag in ("--dry-run", "--yes"):
        code, out, error = feedloom("resend", flag)
        assert (code, error) == (1, "")
        assert f"0:0  is not sent: it is cut from {len(whole):,} bytes: send the record itself again" in out
        assert "0:1  is not sent: workers alone write to feeds: send the request again" in out
        assert f"0:2  {'would be' if flag == '--dry-run' else 'is'} sent" in out
    assert [record.value for record in there(own, "feedback")] == [LIKE]
    assert there(own, "feeds") == []


def test_a_mended_value_goes_in_place_of_one_letters_and_is_checked_first(
    own: Settings, feedloom: Feedloom, tmp_path: Path
) -> None:
    bury(own, ("feedback", 1, None, b"x" * (LETTER_BYTES_MAX + 1), "no JSON"), ("feedback", 2, b"a", b"{", "none"))
    mended = tmp_path / "mended.json"
    mended.write_bytes(LIKE[:-1])
    for arguments, said in (
        (("--value", mended), "--value mends one letter: name it with one --offset"),
        (("--value", mended, "--offset", "0:0", "--offset", "0:1"), "--value mends one letter"),
        (("--value", mended, "--offset", "0:0"), f"{mended}: "),
        (("--value", tmp_path / "none.json", "--offset", "0:0"), "No such file"),
        (("--offset", "0:9"), "no letter is at 0:9, or the other filters leave it out"),
        (("--offset", "9"), "--offset '9' is no place: give partition and offset"),
        (("--from", "soon"), "is no place: give earliest"),
    ):
        code, out, error = feedloom("resend", *arguments)
        assert (code, out, error.count("\n")) == (2, "", 1)
        assert said in error
    assert there(own, "feedback") == []
    mended.write_bytes(b"\n" + LIKE + b"\n")
    assert became(feedloom, "--value", str(mended), "--offset", "0:0") == {"0:0": "sent"}
    (record,) = there(own, "feedback")
    assert (record.key, record.value) == (b"ada", LIKE)


def test_more_than_one_letter_wants_a_yes(own: Settings, feedloom: Feedloom) -> None:
    bury(own, ("feedback", 1, b"ada", LIKE, "one"), ("requests", 2, b"ada", b"{}", "two"))
    code, out, error = feedloom("resend")
    assert (code, out) == (2, "")
    assert "this would send 1 to feedback and 1 to requests: look with --dry-run, then give --yes" in error
    for answer, code, sent in ((b"n\n", 130, 0), (b"y\n", 0, 1)):
        here, terminal = pty.openpty()
        command = [sys.executable, "-m", "feedloom", "dead-letters", "resend"]
        started = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL)
        os.write(here, answer)
        assert started.wait(30) == code
        shown = os.read(here, 4096)
        os.close(here)
        os.close(terminal)
        assert b"Send 1 to feedback and 1 to requests? [y/N]" in shown
        assert len(there(own, "feedback")) == sent


def test_after_a_kill_before_the_receipts_a_batch_is_sent_once_more_and_no_more(
    own: Settings, feedloom: Feedloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(own, *[("feedback", number, b"ada", LIKE, "no action") for number in range(3)])
    command = [sys.executable, "-m", "feedloom", "dead-letters", "resend", "--yes"]
    done = subprocess.run(command, env={**os.environ, "FEEDLOOM_FAILPOINT": "before-receipts"}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(there(own, "feedback")) == 3
    monkeypatch.setattr(dead_letters, "BATCH", 2)
    assert set(became(feedloom, "--yes").values()) == {"sent"}
    assert set(became(feedloom, "--yes").values()) == {"not sent again"}
    sent = [dict(record.headers)["feedloom.resent-from"] for record in there(own, "feedback")]
    assert sorted(sent) == [b"0:0", b"0:0", b"0:1", b"0:1", b"0:2", b"0:2"]


def test_what_kafka_does_not_take_ends_it_and_the_rest_is_not_tried(
    own: Settings, feedloom: Feedloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (
        b'"' + b"\x00\x01" * (LETTER_BYTES_MAX // 2 - 1) + b'"'
    )  # with its headers it is more than a topic takes
    bury(own, ("feedback", 1, b"a", LIKE, "1"), ("feedback", 2, b"a", whole, "2"), ("feedback", 3, b"a", LIKE, "3"))
    monkeypatch.setattr(dead_letters, "BATCH", 1)
    code, out, error = feedloom("resend", "--yes")
    assert (code, error) == (1, "")
    assert "0:1  is not sent: Kafka at" in out
    assert out.splitlines()[-1] == "1 sent, 1 refused, 1 not tried, after one that could not be sent"
    assert became(feedloom, "--offset", "0:2") == {"0:2": "sent"}


def test_a_reaction_that_was_mended_and_sent_back_is_learned_from(
    kafka: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one user likes is popular, so another is offered it."""
    policy = '[pools.popular]\nkind = "popular"\n[population]\nevery_ms = 500\n'
    product = Product(kafka, tmp_path, partitions=1, policy=policy)
    monkeypatch.setenv("FEEDLOOM_BOOTSTRAP", kafka.bootstrap)
    monkeypatch.setenv("FEEDLOOM_TOPIC_PREFIX", product.settings.topic_prefix)
    product.send_raw("feedback", b"ada", LIKE[:-1])
    (tmp_path / "mended.json").write_bytes(LIKE)

    def offered() -> set[str]:
        product.send("requests", "bob", {"kind": "request", "request_id": uuid4().hex, "user": "bob", "slots": 1})
        return {item for feed in product.read("feeds") for item in json.loads(feed.value)["slot_items"]}

    with product.worker():
        product.wait_until_worked_off()
        assert offered() == set()
        arguments = ("--offset", "0:0", "--value", str(tmp_path / "mended.json"))
        for _ in range(2):
            assert call(capsys, monkeypatch, "dead-letters", "resend", *arguments)[0] == 0
        wait_until(lambda: offered() == {"film-7"}, product.log)
    assert len([record for record in product.read("feedback") if record.headers]) == 1
    product.close()
