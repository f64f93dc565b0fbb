"""`feedloom doctor --data` reads all that a server has kept, and names what cannot be read."""

from pathlib import Path

import msgspec
from click.testing import CliRunner
from embedded_product import EmbeddedProduct
from faults_embedded import damage, newest_segment
from folder_engine import Engine

from engine.errors import InputError
from feedloom.cli import cli


def checks(folder: Path) -> dict[str, tuple[bool, str]]:
    done = CliRunner().invoke(cli, ["doctor", "--data", str(folder), "--json"])
    found = {check["name"]: (check["ok"], check["detail"]) for check in msgspec.json.decode(done.stdout)["checks"]}
    assert done.exit_code == (0 if all(ok for ok, _ in found.values()) else 1)
    return found


def test_what_is_whole_is_read_to_the_end_and_what_is_not_is_named(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.live(200)
    engine.partitions.keep()
    engine.partitions.close()
    engine.topics.close()
    found = checks(tmp_path / "data")
    assert found["feeds"] == (True, "200 decisions rebuilt: draws, verdicts and slots bit for bit")
    assert found["state of partition 0"] == (True, "3 users, read to the end")
    assert found["logs"][0]
    damage(newest_segment(EmbeddedProduct(tmp_path), "feeds").parent / "00000000000000000000.log")
    for path in (tmp_path / "data" / "state" / "partition-0").glob("*.sst"):
        damage(path)
    found = checks(tmp_path / "data")
    assert "are damaged and left out" in found["logs"][1]
    assert (found["feeds"][0], found["feeds"][1].partition(" ")[0] < "200") == (True, True)
    assert "folded again when the server begins" in found["state of partition 0"][1]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--data", str(tmp_path)])
    assert isinstance(done.exception, InputError)
    assert "is no data folder" in str(done.exception)


def test_topics_can_be_read_while_they_are_written(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.live(20)
    data = str(tmp_path / "data")

    def lines(*words: str) -> list[dict]:
        done = CliRunner().invoke(cli, ["tail", *words, "--data", data])
        assert done.exit_code == 0, done.output
        return [msgspec.json.decode(line) for line in done.stdout.splitlines()]

    feeds = lines("feeds")
    assert [line["offset"] for line in feeds] == list(range(20))
    assert [line["value"]["request"]["request_id"] for line in feeds] == [f"r{n}" for n in range(1, 21)]
    assert feeds[3]["headers"] == {"feedloom.request-offset": "3"}
    assert {line["key"] for line in lines("feedback", "--user", "ann")} == {"ann"}
    assert lines("feeds", "--from", f"ts={feeds[15]['ts_ms']}", "--max", "2") == feeds[15:17]
    assert lines("feeds", "--from", "latest") == []
    for words, said in ((["metrics"], "keeps no topic metrics"), (["feeds", "--follow"], "leave out --follow")):
        done = CliRunner().invoke(cli, ["tail", *words, "--data", data])
        assert said in str(done.exception)
    engine.partitions.close()
    engine.topics.close()
