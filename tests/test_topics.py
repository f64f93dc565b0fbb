"""Topics as the design wants them: made, repaired, and refused, on Apache Kafka itself."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource
from test_cli import call

from engine.errors import InputError
from streams.settings import Settings
from streams.tools import send
from streams.topics import MEBIBYTE, TOPICS, TopicRow, check, create, describe
from streams.values import Keyed

SPLIT = {"requests", "feedback", "feeds", "propensities", "checkpoints", "sums"}
LOG_TIME = {"message.timestamp.type": "LogAppendTime"}


@pytest.fixture
def admin(own: Settings) -> Iterator[Any]:
    client = KafkaAdminClient(bootstrap_servers=own.bootstrap)
    yield client
    client.close()


def make(admin: Any, own: Settings, name: str, partitions: int = 4, **options: str) -> None:
    """A topic that somebody made by hand; options by Kafka's names, with _ for their dots."""
    configs = {option.replace("_", "."): value for option, value in options.items()}
    wanted = {own.topic(name): {"num_partitions": partitions, "replication_factor": 1, "configs": configs}}
    admin.create_topics(wanted, wait_for_metadata=True)


def option_of(admin: Any, own: Settings, name: str, option: str) -> str:
    asked = ConfigResource("topic", own.topic(name), {option: None})
    return str(admin.describe_configs([asked], config_filter="all")["topic"][own.topic(name)][option]["value"])


def rows(own: Settings) -> dict[str, TopicRow]:
    return {row.topic.removeprefix(own.topic_prefix): row for row in describe(own)}


def test_topics_are_made_as_wanted_and_a_second_time_nothing_is_done(own: Settings, admin: Any) -> None:
    names = [own.topic(spec.name) for spec in TOPICS]
    assert create(own, 3, 1).made == names
    again = create(own, 3, 1)
    assert (again.made, again.repaired, again.there) == ([], {}, names)
    for name, row in rows(own).items():
        assert (row.partitions, row.replication, row.problem) == (3 if name in SPLIT else 1, 1, None)
    assert {row.topic for row in describe(own) if row.timestamp_type == "LogAppendTime"} == {
        own.topic(name) for name in ("requests", "feedback", "feeds", "policy")
    }
    assert {spec.name for spec in TOPICS if spec.cleanup == "compact"} == {
        name for name, row in rows(own).items() if row.cleanup == "compact"
    }
    assert option_of(admin, own, "population", "max.message.bytes") == str(32 * MEBIBYTE)
    assert check(own) == 3


def test_options_of_topics_made_by_hand_are_repaired_and_more_room_is_left_alone(own: Settings, admin: Any) -> None:
    make(admin, own, "requests", message_timestamp_type="CreateTime")
    make(admin, own, "checkpoints", cleanup_policy="delete")
    make(admin, own, "sums", cleanup_policy="compact", max_message_bytes=str(64 * MEBIBYTE))
    make(admin, own, "dead-letters", 1)
    done = create(own, 4, 1)
    assert done.repaired == {
        own.topic("requests"): LOG_TIME,
        own.topic("checkpoints"): {"cleanup.policy": "compact"},
        own.topic("dead-letters"): {"max.message.bytes": str(2 * MEBIBYTE)},
    }
    assert done.there == [own.topic("sums")]
    assert option_of(admin, own, "sums", "max.message.bytes") == str(64 * MEBIBYTE)
    assert check(own) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("feedback", "has 3 partitions where 4 must be: give --partitions 3"),
        ("sums", "has 3 partitions where 4 must be: give --partitions 3"),
        ("population", "has 3 partitions where 1 must be: delete it"),
    ],
)
def test_another_partition_count_is_refused_before_anything_is_made(
    own: Settings, admin: Any, name: str, said: str
) -> None:
    make(admin, own, name, 3)
    with pytest.raises(InputError, match=f"{own.topic(name)} {said}"):
        create(own, 4, 1)
    assert {found for found, row in rows(own).items() if row.partitions} == {name}


def test_more_copies_than_there_are_brokers_are_refused_in_kafkas_words(own: Settings) -> None:
    with pytest.raises(InputError, match=rf"Kafka did not make topic {own.topic('')}.*replicat"):
        create(own, 1, 99)


def test_a_worker_is_told_the_first_problem_and_what_to_do(own: Settings, admin: Any) -> None:
    with pytest.raises(InputError, match=r"requests is missing: `feedloom topics create` makes it"):
        check(own)
    make(admin, own, "feeds", 5, message_timestamp_type="LogAppendTime")
    make(admin, own, "requests", 4, message_timestamp_type="LogAppendTime")
    make(admin, own, "feedback", 4)
    with pytest.raises(InputError, match=r"feedback has message.timestamp.type=CreateTime where LogAppendTime"):
        check(own)
    admin.alter_configs([ConfigResource("topic", own.topic("feedback"), LOG_TIME)])
    while rows(own)["feedback"].timestamp_type != "LogAppendTime":  # a broker sees it a moment later
        time.sleep(0.05)
    with pytest.raises(InputError, match=r"feeds has 5 partitions where 4 must be"):
        check(own)


def test_offsets_are_summed_over_partitions(own: Settings, admin: Any) -> None:
    create(own, 4, 1)
    sent = send(own, "feedback", [Keyed(f"user-{number}", b"{}") for number in range(40)])
    assert sum(sent.values()) == 40
    assert set(sent) == {0, 1, 2, 3}
    admin.delete_records({TopicPartition(own.topic("feedback"), 2): sent[2] - 1})
    row = rows(own)["feedback"]
    assert (row.begin, row.end) == (sent[2] - 1, 40)


def test_the_commands_show_what_was_done_and_fail_where_a_worker_would(
    own: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "topics", "describe")
    assert code == 1
    assert f"{own.topic('feeds')} is missing: `feedloom topics create` makes it" in out
    code, out, _ = call(capsys, monkeypatch, "topics", "create", "--partitions", "2", "--json")
    assert (code, json.loads(out)["made"][0]) == (0, own.topic("requests"))
    code, out, _ = call(capsys, monkeypatch, "topics", "create", "--partitions", "2")
    assert (code, out) == (0, f"{len(TOPICS)} topics were there as wanted\n")
    code, out, _ = call(capsys, monkeypatch, "topics", "describe")
    assert (code, len(out.splitlines())) == (0, 1 + len(TOPICS))
    code, out, _ = call(capsys, monkeypatch, "topics", "describe", "--json")
    assert json.loads(out)["topics"][0]["partitions"] == 2
    code, _, error = call(capsys, monkeypatch, "topics", "create")
    assert (code, error.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:9", "Kafka at 127.0.0.1:9 does not answer: start it"), ("127.0.0.1:x", "give host:port")],
)
def test_brokers_that_cannot_be_reached_are_named_in_one_line(address: str, said: str) -> None:
    hasty = "import streams.topics as topics, feedloom.cli as cli; topics.ANSWER_SECONDS_MAX = 1; cli.main()"
    begun = time.monotonic()
    command = [sys.executable, "-c", hasty, "topics", "describe", "--bootstrap", address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"it took {time.monotonic() - begun:.1f} s")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
