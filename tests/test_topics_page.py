"""docs/topics.md: its table is the code's, its examples are values of their topics, its commands run."""

import json
import re
import shlex
from pathlib import Path

import pytest
from msgspec import Raw
from test_cli import call
from test_docs import ROOT, blocks

from streams.settings import Settings
from streams.tools import Tailed, tail
from streams.topics import TOPICS
from streams.values import TYPES, keyed

PAGE = (ROOT / "docs" / "topics.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))


def examples(topic: str) -> list[bytes]:
    return [line.encode() for block in blocks("json", SECTIONS[topic]) for line in block.splitlines()]


def test_the_pages_table_is_the_codes() -> None:
    rows = re.findall(r"^\| `(.*)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (spec.name, spec.key, spec.writer, spec.cleanup, "as many as parts" if spec.split else "1")
        for spec in TOPICS
    ]


@pytest.mark.parametrize("topic", TYPES)
def test_the_pages_examples_are_values_of_their_topics(topic: str) -> None:
    lines = examples(topic)
    assert lines
    for line in lines:
        assert keyed(topic, line).value == line


def test_the_pages_commands_run(
    own: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-feedback.jsonl").write_bytes(b"\n".join(examples("feedback")))
    commands = [line for block in blocks("sh", PAGE) for line in block.splitlines()]
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == [".venv/bin/python", "-m", "feedloom"]
        code, out, error = call(capsys, monkeypatch, *words[3:])
        assert (command, code, error) == (command, 0, "")
        assert out
    assert len(commands) == 6
    there = tail(own, "feedback", "earliest", follow=False)
    assert [bytes(line.value) for line in there if isinstance(line.value, Raw)] == examples("feedback")


def test_the_pages_envelope_is_what_tail_prints() -> None:
    (line,) = blocks("json", PAGE[PAGE.index("## The commands") :])[0].splitlines()
    envelope = json.loads(line)
    assert list(envelope) == list(Tailed.__struct_fields__[: len(envelope)])
    assert keyed("feedback", json.dumps(envelope["value"]).encode()).key == envelope["key"]
