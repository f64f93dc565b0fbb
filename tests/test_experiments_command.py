"""`feedloom experiments results`: of a recording and of a server's data, and in which words it refuses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from folder_engine import USERS, Engine
from kafka_product import POLICY

from engine.events import Acted, Request
from engine.experiments import ArmPolicy, ExperimentPolicy, arms_of
from engine.policy import BlendPolicy, Policy
from engine.pool_policy import PoolPolicy
from feedloom.cli import cli
from streams.embedded import EmbeddedRunner
from streams.recording import Recording

ARMS = "[experiments.ratio.arms.drawn]\n[experiments.ratio.arms.fixed]\nset = { 'blend.draw' = 'fixed' }\n"
LISTS = {"a": ["a1", "a2"], "b": ["b1", "b2"]}
RATIO = Policy(
    pools={name: PoolPolicy("external") for name in LISTS},
    blend=BlendPolicy(cohort_by="surface", cohorts=("home",)),
    experiments={
        "ratio": ExperimentPolicy({"drawn": ArmPolicy(), "fixed": ArmPolicy(set={"blend.draw": "fixed"})})
    },
)


def told(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """What the command prints, on stdout and on stderr."""
    done = CliRunner().invoke(cli, ["experiments", "results", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout, done.stderr


def refused(*arguments: str | Path) -> str:
    """The sentence that the command refuses with."""
    done = CliRunner().invoke(cli, ["experiments", "results", *map(str, arguments)])
    assert isinstance(done.exception, ValueError), done.output
    return str(done.exception)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty users' two feeds of two slots; all like the first item of the first."""
    folder = tmp_path_factory.mktemp("made") / "recording"
    with Recording(folder, RATIO) as log:
        runner = EmbeddedRunner(RATIO, log)
        for number in range(160):
            user, context = f"user-{number % 80}", {"surface": "home" if number % 3 else "mail"}
            request = Request(request_id=str(number), user=user, slots=2, candidates=LISTS, context=context)
            decision = runner.serve(request, runner.gather(request, number), number)
            if number < 80:
                about = {"user": user, "request_id": request.request_id, "slot": 0, "item": decision.slot_items[0]}
                runner.react(Acted(event_id="e", action="like", **about), number)
        runner.commit()
    return folder


def test_it_prints_each_arm_and_each_cohort_of_a_recording(recording: Path) -> None:
    out, err = told("--records", recording)
    lines = out.splitlines()
    assert lines[0] == "experiment ratio, layer ratio"
    assert " ".join(lines[1].split()) == "arm users share feeds reward per feed difference at any time at once"
    assert [line.split()[0] for line in lines[2:4]] == ["drawn", "fixed"]
    assert [line for line in lines if line.startswith("cohort")] == [
        "cohort (none)",
        "cohort home",
        "cohort home new",
        "cohort new",
    ]
    assert "sample ratio: p = " in lines[-1]
    assert err == ""


def test_its_json_is_one_document(recording: Path) -> None:
    (found,) = json.loads(told("--records", recording, "--json", "--alpha", "0.1")[0])["experiments"]
    assert (found["experiment"], found["alpha"], found["mixed"], found["mismatch"]) == ("ratio", 0.1, 0, None)
    drawn, fixed = found["arms"]
    assert drawn["users"] + fixed["users"] == 80
    assert (drawn["reward_per_feed"], fixed["reward_per_feed"]) == (0.5, 0.5)
    assert drawn["difference"] is None
    assert found["cohorts"].keys() == {"", "new", "home", "home new"}


def test_an_arm_whose_feeds_were_lost_is_named_and_the_exit_code_is_1(recording: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in recording.glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        lost = path.name == "feeds.jsonl"
        kept = [line for at, line in enumerate(lines) if not lost or '"fixed"}' not in line or at % 80 < 20]
        (broken / path.name).write_text("".join(kept))
    out, err = told("--records", broken, code=1)
    assert err.startswith("feedloom: experiment ratio: arm ")
    assert "where its share gives" in err
    assert "reward per feed" in out
    assert told("--records", broken, "--json", code=1)[1] == err


def test_a_servers_data_is_read_by_the_policy_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("folder_engine.POLICY", POLICY + ARMS)
    engine = Engine(tmp_path)
    engine.live(60)
    engine.partitions.keep()
    engine.partitions.close()
    engine.topics.close()
    policy = tmp_path / "policy.toml"
    (found,) = json.loads(told("--data", tmp_path / "data", "--policy", policy, "--json")[0])["experiments"]
    arms = [arms_of(engine.policy.experiments, user)["ratio"] for user in USERS]
    assert {arm["arm"]: arm["users"] for arm in found["arms"]} == {
        arm: arms.count(arm) for arm in ("drawn", "fixed")
    }
    assert sum(arm["feeds"] for arm in found["arms"]) == 60
    assert all(arm["reward_per_feed"] == 1.0 for arm in found["arms"] if arm["feeds"])


def test_what_does_not_go_together_is_refused(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = tmp_path / "plain.toml"
    plain.write_text(POLICY)
    assert "say three places" in refused("--records", recording, "--data", tmp_path)
    assert "leave out --policy" in refused("--records", recording, "--policy", plain)
    assert "the policy has no experiments" in refused("--data", tmp_path, "--policy", plain)
    assert "is no data folder" in refused("--data", tmp_path)
    assert "has no experiment other, only ratio" in refused("--records", recording, "--experiment", "other")
    plain.write_text(POLICY + ARMS)
    assert "is no data folder" in refused("--data", tmp_path, "--policy", plain)
