"""The command line: one sentence and exit 2 for what a user can mend, the same bytes in every process."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from feedloom.cli import main

HEADER = "user,item,timestamp,value\n"
GOOD = HEADER + "".join(f"u{n % 7},i{n * 37 % 97},{1000 + n},{n % 5 + 1}\n" for n in range(120))
POLICY = '[pools.{name}]\nkind = "popular"\n'
POOLS = ["popular", "similar", "personal", "fresh"]  # of the policy that ships


def run(*arguments: str | Path, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "feedloom", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == expect, done.stderr
    return done


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path):
    """Run the command in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["feedloom", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return (code, *capsys.readouterr())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log that can be used."""
    path = tmp_path / "log.csv"
    path.write_text(GOOD)
    return path


BAD_LOGS = {
    "missing column": (b"user,item\nu,i\n", "timestamp"),
    "empty file": (b"", "empty"),
    "header only": (HEADER.encode(), "no rows"),
    "NaN": ((HEADER + "u,i,nan,4\n").encode(), "line 2"),
    "NaN value": ((HEADER + "u,i,1,4\nu,i,1,nan\n").encode(), "line 3"),
    "unreadable bytes": (HEADER.encode() + b"u,i,1,4\n\xff\xfe,i,1,4\n", "line 3"),
    "empty id": ((HEADER + ",i,1,4\n").encode(), "line 2"),
    "an id of 300 characters": ((HEADER + "u" * 300 + ",i,1,4\n").encode(), "line 2"),
    "nothing to score": ((HEADER + "u,i,1,4\nu,i,2,1\n").encode(), "--train-fraction"),
}


@pytest.mark.parametrize("case", BAD_LOGS)
def test_a_bad_log_is_refused_in_one_sentence_with_exit_2_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, says = BAD_LOGS[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    options = ("--positive", "value>=4", "--train-fraction", "0.5") if b"value" in content else ()
    made = tmp_path / "record", tmp_path / "out"
    code, out, err = call(capsys, monkeypatch, "backtest", path, "--record", made[0], "--out", made[1], *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert says in err
    assert [item.name for item in tmp_path.iterdir()] == ["bad.csv"]


BAD_CALLS = {
    "unknown command": (["dmeo"], "dmeo"),
    "no command": ([], "--help"),
    "no log": (["backtest"], "LOG"),
    "missing file": (["backtest", "nowhere.csv"], "nowhere.csv"),
    "a folder as log": (["backtest", "."], "director"),
    "negative slots": (["backtest", "LOG", "--slots", "-3"], "--slots"),
    "too many slots": (["backtest", "LOG", "--slots", "101"], "--slots"),
    "slots that are no number": (["backtest", "LOG", "--slots", "ten"], "--slots"),
    "a negative seed": (["backtest", "LOG", "--seed", "-1"], "seed"),
    "no world": (["simulate", "heaven"], "heaven"),
    "a recording of many": (["simulate", "static", "--seeds", "2", "--record", "new"], "--record"),
    "a replay of nothing": (["replay", "nowhere"], "nowhere"),
    "no batch": (["backtest", "LOG", "--batch", "0"], "--batch"),
    "a fraction of NaN": (["backtest", "LOG", "--train-fraction", "nan"], "--train-fraction"),
    "all for training": (["backtest", "LOG", "--train-fraction", "1"], "--train-fraction"),
    "a condition that is none": (["backtest", "LOG", "--positive", "value"], "COLUMN OP VALUE"),
    "an unknown column": (["backtest", "LOG", "--positive", "stars>=4"], "stars"),
    "a missing policy": (["backtest", "LOG", "--policy", "nowhere.toml"], "nowhere.toml"),
    "missing items": (["backtest", "LOG", "--items", "nowhere.csv"], "nowhere.csv"),
    "a recording that is there already": (["backtest", "LOG", "--record", "."], "empty"),
    "a pool of the wrong kind": (["backtest", "LOG", "--policy", "LOG"], "TOML"),
    "an out that is a file": (["backtest", "LOG", "--out", "LOG"], "--out"),
    "records that are none": (["doctor", "--records", "nowhere"], "nowhere"),
    "another clock": (["backtest", "LOG", "--clock", "wall"], "--clock"),
    "a duration without a unit": (["backtest", "LOG", "--shuffle-within", "30"], "like 30m"),
    "a duration of nothing": (["backtest", "LOG", "--shuffle-within", "0m"], "like 30m"),
    "a break of nothing": (["backtest", "LOG", "--break", "@0.5"], "similar@0.6"),
    "a break without a part": (["backtest", "LOG", "--break", "similar"], "similar@0.6"),
    "a break at no number": (["backtest", "LOG", "--break", "similar@half"], "similar@0.6"),
    "a break of no pool": (["backtest", "LOG", "--break", "nobody@0.5"], "nobody"),
    "a break after the end": (["backtest", "LOG", "--break", "similar@1"], "between 0 and 1"),
    "a demo's break of no pool": (["demo", "--break", "nobody@0.5"], "nobody"),
    "an unknown option": (["backtest", "LOG", "--polcy", "x"], "--polcy"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_gets_one_sentence_on_stderr_and_exit_2(
    case: str, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, says = BAD_CALLS[case]
    monkeypatch.chdir(log.parent)
    (log.parent / "LOG").write_text(GOOD)
    before = {path: path.read_bytes() for path in log.parent.iterdir()}
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert says in err
    assert {path: path.read_bytes() for path in log.parent.iterdir()} == before


BAD_POLICIES = {
    "unknown key": ('[pools.a]\nkind = "popular"\nflor = 1\n', "flor"),
    "unknown table": ("[poolz]\n", "poolz"),
    "unknown kind": ('[pools.a]\nkind = "magic"\n', "magic"),
    "negative slots": ("[blend]\nslots_max = -1\n", "slots_max"),
    "a prior beyond numbers": ("[blend]\nbase_successes = 1e308\n", "base_successes"),
    "a negative seed": ("[blend]\nseed = -1\n", "seed"),
    "a pool named like a policy": ('[pools.feedloom]\nkind = "popular"\n', "feedloom"),
    "a pool without candidates": ('[pools.mine]\nkind = "external"\n', "mine"),
    "infinite reward": ("[actions.like]\nreward = inf\n", "reward"),
    "not TOML": ("[pools\n", "TOML"),
    "no positive reward": ("[actions.rated]\nreward = 0\n", "reward above 0"),
}


@pytest.mark.parametrize("case", BAD_POLICIES)
def test_a_bad_policy_is_refused_with_its_place_and_reason(
    case: str, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, says = BAD_POLICIES[case]
    path = log.parent / "mine.toml"
    path.write_text(text)
    code, out, err = call(capsys, monkeypatch, "backtest", log, "--policy", path)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert says in err


def test_no_error_is_a_traceback_in_a_real_process(log: Path) -> None:
    done = run("backtest", log.with_name("nowhere.csv"), expect=2)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert "Traceback" not in done.stderr


def test_a_log_of_few_likes_is_told_that_the_personal_pool_waits(log: Path, tmp_path: Path) -> None:
    told = run("backtest", log, "--json", "--positive", "value>=4").stderr
    assert "the pool personal waits for 1,000 likes" in told
    assert "the log has 48;" in told
    (tmp_path / "policy.toml").write_text("[weights]\nready_likes = 48\n")
    done = run("backtest", log, "--json", "--positive", "value>=4", "--policy", tmp_path / "policy.toml")
    assert "waits for" not in done.stderr


def test_the_json_of_a_backtest_is_one_document_with_the_promised_keys(log: Path) -> None:
    result = json.loads(run("backtest", log, "--json", "--positive", "value>=4").stdout)
    assert {"dataset", "scored", "policies", "pool_share", "seconds", "feeds_per_s", "digest"} <= result.keys()
    assert 0.0 < result["us_per_slate"] <= 1e6 / result["feeds_per_s"]  # to answer, and to learn as well
    assert (result["order_shuffled"], result["broken"]) == (None, None)
    plain = ["uniform", "fixed_ratio", "global_thompson", "naive_thompson"]
    assert list(result["policies"]) == ["random", *POOLS, *plain, "feedloom"]
    assert result["feedloom_minus"].keys() == result["policies"].keys() - {"feedloom"}
    assert {pool: list(views) for pool, views in result["views_to_personal"].items()} == {
        pool: ["like"] for pool in POOLS
    }
    for figures in result["policies"].values():
        promised = {"hit_at_10", "hit_at_10_low", "hit_at_10_high", "ndcg_at_10", "first_five_hit"}
        assert promised <= figures.keys()
        assert figures["hit_at_10_low"] <= figures["hit_at_10"] <= figures["hit_at_10_high"]
    assert list(result["pool_share"]) == POOLS
    assert sum(result["pool_share"].values()) == pytest.approx(1.0)


def test_the_json_of_further_runs_has_the_promised_keys(log: Path) -> None:
    further = ("--shuffle-within", "90s", "--break", "fresh@0.6", "--clock", "event")
    result = json.loads(run("backtest", log, "--json", *further).stdout)
    assert list(result["order_shuffled"]) == ["hit_at_10", "ndcg_at_10"]
    assert list(result["broken"]) == [
        "pool",
        "hit_at_10_last_fifth",
        "ndcg_at_10_last_fifth",
        "hit_at_10_first_2_percent",
        "share_last_fifth",
    ]
    assert result["broken"]["pool"] == "fresh"


@pytest.mark.parametrize(("options", "shuffled"), [((), True), (("--shuffle-within", "off"), False)])
def test_the_demo_also_runs_without_the_order_inside_sessions_unless_that_is_off(
    options: tuple[str, ...],
    shuffled: bool,
    log: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = log.parent / "items.csv"
    items.write_text("item,title\ni1,One\n")
    monkeypatch.chdir(log.parent)
    monkeypatch.setattr("feedloom.cli.movielens", lambda _: (log, items))
    code, out, _ = call(capsys, monkeypatch, "demo", *options)
    said = "with the order inside users' sessions shuffled: hit@10"
    page = (log.parent / "feedloom-demo" / "report.html").read_text()
    assert (code, said in out, said in page.replace("&#x27;", "'")) == (0, shuffled, shuffled)


def test_fresh_processes_give_the_same_digest_at_micro_batches_of_1_7_and_256(log: Path) -> None:
    def digest(*options: str) -> str:
        return json.loads(run("backtest", log, "--json", *options, PYTHONHASHSEED="random").stdout)["digest"]

    digests = {digest("--batch", batch) for batch in ("1", "7", "256")}
    assert len(digests) == 1
    assert digest("--seed", "1") not in digests


def test_a_recording_holds_the_topics_and_every_decision_of_it_is_rebuilt(log: Path) -> None:
    folder = log.parent / "a folder" / "recording"
    digest = json.loads(run("backtest", log, "--json", "--record", folder).stdout)["digest"]
    topics = ["feedback.jsonl", "feeds.jsonl", "items.jsonl", "policy.jsonl", "requests.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == topics
    again = log.parent / "again"
    assert json.loads(run("backtest", log, "--json", "--record", again).stdout)["digest"] == digest
    assert all((again / topic).read_bytes() == (folder / topic).read_bytes() for topic in topics)
    assert "120 decisions rebuilt" in run("doctor", "--records", folder).stdout


def test_doctor_finds_one_changed_draw_and_names_the_request(log: Path) -> None:
    folder = log.parent / "recording"
    run("backtest", log, "--json", "--record", folder)
    feeds = folder / "feeds.jsonl"
    lines = feeds.read_text().splitlines()
    record = json.loads(lines[70])
    record["value"]["pools"][1]["rates"][0][0] *= 1 + 1e-15
    lines[70] = json.dumps(record, separators=(",", ":"))
    feeds.write_text("\n".join(lines) + "\n")
    done = run("doctor", "--records", folder, "--json", expect=1)
    failed = [check for check in json.loads(done.stdout)["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == ["records"]
    assert f"request {record['value']['request']['request_id']} of user" in failed[0]["detail"]


def test_doctor_names_the_line_of_a_record_that_cannot_be_read(log: Path) -> None:
    folder = log.parent / "recording"
    run("backtest", log, "--json", "--record", folder)
    with (folder / "feeds.jsonl").open("ab") as feeds:
        feeds.write(b'{"offset":1\n')
    done = run("doctor", "--records", folder, expect=2)
    assert "line 121" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_recording_that_fails_half_way_leaves_nothing_behind(log: Path) -> None:
    blocked = log.parent / "file"
    blocked.write_text("")
    done = run("backtest", log, "--record", blocked / "recording", expect=2)
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in log.parent.iterdir()) == ["file", "log.csv"]


def test_the_report_of_a_backtest_appears_where_it_was_asked_for(log: Path) -> None:
    items = log.parent / "items.csv"
    items.write_text("item,title\n" + "".join(f"i{n},Title <{n}>\n" for n in range(11)))
    out = log.parent / "out"
    done = run("backtest", log, "--items", items, "--out", out)
    assert "feedloom" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.png"]
    assert "<8>" not in (out / "report.html").read_text()


def test_a_policy_of_ones_own_renames_and_drops_pools(log: Path) -> None:
    policy = log.parent / "mine.toml"
    policy.write_text(POLICY.format(name="hits"))
    result = json.loads(run("backtest", log, "--json", "--policy", policy).stdout)
    assert result["pool_share"] == {"hits": 1.0}


def test_two_recordings_never_touch_what_others_made(log: Path) -> None:
    neighbour = log.parent / "recording.partial"
    neighbour.mkdir()
    (neighbour / "notes.txt").write_text("precious")
    run("backtest", log, "--json", "--record", log.parent / "recording")
    assert (neighbour / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in log.parent.iterdir()) == ["log.csv", "recording", "recording.partial"]


def test_actions_of_any_name_can_be_rewarded(log: Path) -> None:
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0] + ",action", *(line + ",Add To Cart" for line in lines[1:])]) + "\n")
    refused = run("backtest", log, expect=2)
    assert '[actions."Add To Cart"]' in refused.stderr
    policy = log.parent / "mine.toml"
    policy.write_text('[actions."Add To Cart"]\nreward = 2\n')
    assert json.loads(run("backtest", log, "--json", "--policy", policy).stdout)["scored"] == 96


def test_doctor_knows_the_bits_that_this_processor_draws() -> None:
    """On x86-64 they are the reference bits; elsewhere doctor says that they are not, and still passes."""
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json").stdout)["checks"]}
    reference = platform.machine() == "x86_64"
    assert checks["draws"]["ok"]
    assert ("as on the reference processor" in checks["draws"]["detail"]) == reference
