"""Records sent and read back by an operator, on Apache Kafka itself."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from goldens import golden
from kafka import KafkaProducer
from msgspec import Raw
from test_cli import call

from engine.errors import InputError
from streams.settings import Settings
from streams.tools import LineError, Tailed, read_lines, send, tail
from streams.topics import create
from streams.values import Keyed

Feedloom = Callable[..., tuple[int, str, str]]
WAIT_SECONDS_MAX = 20.0
ORGANIC = '{{"kind":"organic","event_id":"{0}","user":"{1}","item":"i","action":"like"}}'


@pytest.fixture
def feedloom(own: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Feedloom:
    """Runs a command over topics of this test's own."""
    create(own, 4, 1)

    def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return call(capsys, monkeypatch, *arguments)

    return run


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def event_ids(out: str) -> set[str]:
    return {line["value"]["event_id"] for line in lines(out)}


def organics(*ids: str, user: str = "ada") -> bytes:
    return "".join(ORGANIC.format(name, user) + "\n" for name in ids).encode()


def read(own: Settings, name: str) -> list[Tailed]:
    return list(tail(own, name, "earliest", follow=False))


def value_of(record: Tailed) -> bytes:
    assert isinstance(record.value, Raw)
    return bytes(record.value)


@pytest.mark.parametrize(
    ("topic", "kinds", "key"),
    [
        ("requests", ["request"], "zoë"),
        ("feedback", ["seen", "acted", "organic"], "zoë"),
        ("feeds", ["decision"], "zoë"),
        ("items", ["item"], "film-31"),
    ],
)
def test_what_is_sent_comes_back_with_its_key_byte_for_byte(
    feedloom: Feedloom, tmp_path: Path, topic: str, kinds: list[str], key: str
) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\r\n\n".join(golden(kind) for kind in kinds))
    code, out, _ = feedloom("send", topic, file, "--json")
    (partition,) = json.loads(out)["partitions"]
    assert (code, json.loads(out)["partitions"][partition]) == (0, len(kinds))
    code, out, error = feedloom("tail", topic)
    assert (code, error) == (0, "")
    for offset, (kind, line) in enumerate(zip(kinds, out.splitlines(), strict=True)):
        assert line.encode().endswith(b',"value":' + golden(kind) + b"}")
        read = json.loads(line)
        assert (read["partition"], read["offset"], read["key"]) == (int(partition), offset, key)
        assert list(read) == ["partition", "offset", "key", "ts_ms", "value"]


def test_tail_begins_where_it_is_told(feedloom: Feedloom) -> None:
    feedloom("send", "feedback", stdin=organics("one", "two"))
    time.sleep(0.01)
    feedloom("send", "feedback", stdin=organics("three", "four"))
    times = {line["value"]["event_id"]: line["ts_ms"] for line in lines(feedloom("tail", "feedback")[1])}
    assert times["two"] < times["three"]
    zone = datetime.fromtimestamp(times["three"] / 1000, UTC)
    wanted = {
        "earliest": {"one", "two", "three", "four"},
        "latest": set(),
        "last=1h": {"one", "two", "three", "four"},
        "last=90000d": {"one", "two", "three", "four"},
        f"ts={times['three']}": {"three", "four"},
        f"ts={zone.isoformat()}": {"three", "four"},
        f"ts={zone.replace(tzinfo=None).isoformat()}": {"three", "four"},
        f"ts={times['four'] + 1}": set(),
        f"ts={2**63 - 1}": set(),
        "ts=1970-01-01": {"one", "two", "three", "four"},
    }
    for start, ids in wanted.items():
        code, out, error = feedloom("tail", "feedback", "--from", start)
        assert (start, code, error, event_ids(out)) == (start, 0, "", ids)


NO_STARTS = (
    "",
    "soon",
    "ts=",
    "ts=yesterday",
    "ts=-1",
    "ts=1e3",
    f"ts={2**63}",
    "ts=1969-01-01",
    "last=1",
    "last=1w",
    "ts=" + "9" * 5000,
)


@pytest.mark.parametrize("start", NO_STARTS)
def test_a_beginning_that_is_none_is_refused(
    start: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, error = call(capsys, monkeypatch, "tail", "feedback", "--from", start)
    assert (code, "is no place: give earliest" in error, error.count("\n")) == (2, True, 1)


def test_tail_ends_after_so_many_and_leaves_out_other_users(feedloom: Feedloom) -> None:
    feedloom("send", "feedback", stdin=organics("a", "b", "c") + organics("d", "e", "f", user="bob"))
    assert event_ids(feedloom("tail", "feedback", "--user", "bob")[1]) == {"d", "e", "f"}
    assert event_ids(feedloom("tail", "feedback", "--user", "bob", "--max", "2")[1]) == {"d", "e"}
    assert event_ids(feedloom("tail", "feedback", "--follow", "--max", "6")[1]) == set("abcdef")
    document = json.loads(feedloom("tail", "feedback", "--max", "1", "--json")[1])
    assert len(document["records"]) == 1
    code, _, error = feedloom("tail", "feedback", "--json", "--follow")
    assert (code, "give --max" in error) == (2, True)


def test_tail_follows_what_comes(own: Settings) -> None:
    create(own, 4, 1)
    send(own, "feedback", [Keyed("ada", b"1")])
    records = tail(own, "feedback", "earliest", follow=True)
    assert value_of(next(records)) == b"1"
    send(own, "feedback", [Keyed("ada", b"2")])
    assert value_of(next(records)) == b"2"
    records.close()


def test_tail_from_latest_passes_over_what_was_there(own: Settings) -> None:
    create(own, 4, 1)
    send(own, "feedback", [Keyed("ada", b"0")])
    first: list[Tailed] = []
    thread = threading.Thread(target=lambda: first.extend(islice(tail(own, "feedback", "latest", follow=True), 1)))
    thread.start()
    end = time.monotonic() + WAIT_SECONDS_MAX
    while thread.is_alive() and time.monotonic() < end:
        send(own, "feedback", [Keyed("ada", b"1")])
    thread.join()
    assert value_of(first[0]) == b"1"


BAD_LINES = {
    b"no JSON": "not an event or decision: JSON is malformed",
    golden("request"): "a request does not belong on topic feedback",
    b'{"kind":"seen","user":"ada"}': "missing required field `event_id`",
    organics("x", user=""): "an id must have 1 to 256 characters, not 0",
    organics("x").replace(b'"i"', b"NaN"): "malformed",
    organics("x").replace(b'"i"', b'"\xff"'): "decode byte 0xff",
    organics("x" * 262_144): "it is longer than 262,144 bytes",
}


def test_a_bad_line_is_named_and_nothing_is_sent(feedloom: Feedloom, own: Settings, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    for line, reason in BAD_LINES.items():
        text = organics("one", "two") + b"\n" + line.rstrip(b"\n") + b"\n" + organics("three")
        file.write_bytes(text)
        for place, arguments, stdin in ((str(file), [file], b""), ("standard input", [], text)):
            code, out, error = feedloom("send", "feedback", *arguments, stdin=stdin)
            assert (code, out, error.count("\n")) == (2, "", 1)
            assert f"{place}, line 4: " in error
            assert reason in error
            assert error.endswith("; nothing was sent\n")
    assert read(own, "feedback") == []


def test_a_topic_without_a_type_takes_raw_lines_only(feedloom: Feedloom, own: Settings) -> None:
    code, _, error = feedloom("send", "policy", stdin=b"{}\n")
    assert (code, "--raw sends them as they are" in error) == (2, True)
    assert feedloom("send", "metrics", "--raw", stdin=b"{}\n")[0] == 0
    assert [value_of(line) for line in read(own, "metrics")] == [b"{}"]


def test_raw_lines_are_sent_whatever_they_are(feedloom: Feedloom) -> None:
    poison = [b"\xff\xfe", b"NaN", b'{"user":"ada","slots":-1}', b'{"user":7}', b"[" * 2000, b'"' + b"x" * 300_000]
    code, out, _ = feedloom("send", "requests", "--raw", "--json", stdin=b"\n".join(poison))
    assert (code, json.loads(out)["sent"]) == (0, len(poison))
    found = {}
    for line in lines(feedloom("tail", "requests")[1]):
        json_bytes = json.dumps(line.get("value"), separators=(",", ":")).encode()
        found[base64.b64decode(line["value_base64"]) if "value_base64" in line else json_bytes] = line["key"]
    assert found == {value: "ada" if b"ada" in value else None for value in poison}


def test_what_kafka_refuses_is_said_in_one_line(feedloom: Feedloom) -> None:
    code, _, error = feedloom("send", "feedback", "--raw", stdin=b"x" * 2_000_000)
    assert (code, error.count("\n"), "MessageSizeTooLarge" in error) == (2, 1, True)
    code, _, error = feedloom("send", "policy", "--raw", stdin=b"no key on a compacted topic\n")
    assert (code, error.count("\n"), "InvalidRecord" in error) == (2, 1, True)


def test_streamed_lines_are_sent_up_to_the_bad_one(feedloom: Feedloom) -> None:
    text = organics("one", "two") + b"no\n" + organics("three")
    code, _, error = feedloom("send", "feedback", "--stream", stdin=text)
    assert (code, error.endswith("what came before it was sent\n"), "line 3" in error) == (2, True, True)
    assert event_ids(feedloom("tail", "feedback")[1]) == {"one", "two"}
    assert feedloom("send", "feedback", "-", "--stream", stdin=organics("four"))[1].startswith("sent 1 to ")


def test_a_streamed_line_is_read_and_sent_before_the_next_one_comes(own: Settings) -> None:
    create(own, 4, 1)
    reading, writing = os.pipe()

    def came(user: str) -> None:
        end = time.monotonic() + WAIT_SECONDS_MAX
        while user not in {line.key for line in read(own, "feedback")}:
            assert time.monotonic() < end

    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        records = read_lines(source, "pipe", 100, lambda line: Keyed(line.decode(), line))

        def typed() -> Any:
            for user in ("ada", "bob"):
                sink.write(user.encode() + b"\n")
                yield next(records)
                came(user)

        # A record is acknowledged in the background: the check of one runs when the next is asked for.
        assert sum(send(own, "feedback", typed()).values()) == 2


def test_lines_are_as_long_as_allowed_whatever_ends_them() -> None:
    def sizes(data: bytes) -> list[int]:
        return [len(one.value) for one in read_lines(io.BytesIO(data), "here", 4, lambda line: Keyed(None, line))]

    assert sizes(b"1234\r\n123\n\n \r\n1234") == [4, 3, 4]
    for data in (b"12345", b"12345\n", b"12345\r\n", b"1" * 100):
        with pytest.raises(LineError, match="here, line 1: it is longer than 4 bytes"):
            sizes(data)


def test_records_that_others_wrote_are_shown_whatever_is_in_them(own: Settings, feedloom: Feedloom) -> None:
    producer = KafkaProducer(bootstrap_servers=own.bootstrap)
    topic = own.topic("checkpoints")
    headers = [("feedloom.topic", b"requests"), ("feedloom.reason", "für".encode()), ("odd", b"\xff")]
    for key, value in ((b"k", None), (b"\xff", b"1"), (b"k", b'{\r\n "a": 1.50 }'), (b"", b"")):
        producer.send(topic, value, key=key, headers=headers if value == b"1" else None, partition=0)
    producer.close()
    code, out, _ = feedloom("tail", "checkpoints")
    place = {"partition", "offset", "ts_ms"}
    shown = [{name: line[name] for name in line if name not in place} for line in lines(out)]
    assert code == 0
    assert shown == [
        {"key": "k", "value": None},
        {
            "key": None,
            "value": 1,
            "key_base64": "/w==",
            "headers": {"feedloom.topic": "requests", "feedloom.reason": "für", "odd": "\\xff"},
        },
        {"key": "k", "value": {"a": 1.5}},
        {"key": "", "value_base64": ""},
    ]
    assert '"value":{"a":1.50}' in out


def test_what_a_transaction_took_back_is_not_shown_and_tail_ends_behind_it(own: Settings) -> None:
    create(own, 1, 1)
    producer = KafkaProducer(bootstrap_servers=own.bootstrap, transactional_id=own.topic("test"))
    producer.init_transactions()
    for value in (b"1", b"2"):
        producer.begin_transaction()
        producer.send(own.topic("checkpoints"), value, key=b"k")
        producer.flush()
        producer.commit_transaction() if value == b"1" else producer.abort_transaction()
    producer.close()
    assert [value_of(line) for line in read(own, "checkpoints")] == [b"1"]


def test_a_topic_that_is_missing_is_named_and_not_made(own: Settings) -> None:
    missing = f"topic {own.topic('feeds')} is missing: `feedloom topics create` makes it"
    with pytest.raises(InputError, match=missing):
        send(own, "feeds", [Keyed("ada", b"1")])
    with pytest.raises(InputError, match=missing):
        read(own, "feeds")
    with pytest.raises(InputError, match=missing):
        read(own, "feeds")


@pytest.mark.parametrize(
    "arguments",
    [
        ["tail", "likes"],
        ["send", "likes"],
        ["send", "feedback", "no-such-file"],
        ["tail", "feedback", "--bootstrap", ""],
    ],
)
def test_what_cannot_be_is_refused_before_kafka_is_asked(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, error = call(capsys, monkeypatch, *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)


def test_tail_ends_quietly_when_its_reader_has_gone(own: Settings) -> None:
    create(own, 1, 1)
    send(own, "feedback", [Keyed("ada", b'"' + b"x" * 100_000 + b'"')] * 20)
    command = f"set -o pipefail; '{sys.executable}' -m feedloom tail feedback | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"partitio', "")
