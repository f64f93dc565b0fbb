"""The examples in the README and the documentation run as they are written."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from click.testing import CliRunner

from engine.experiments import arms_of
from engine.policy import Policy
from feedloom.cli import cli
from scripts.kafka_broker import Cluster
from streams.policy_file import read_policy
from streams.settings import Settings, read_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_all(text: str, folder: Path) -> int:
    """Run the commands of a text in their order; their number."""
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(".venv/bin/python ")]
    for command in commands:
        line = command.replace(".venv/bin/python", f"'{sys.executable}'", 1)
        done = subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    return len(commands)


def test_the_readmes_commands_run_on_the_readmes_log(tmp_path: Path) -> None:
    (tmp_path / "my-log.csv").write_text(blocks("csv")[0])
    assert run_all(README, tmp_path) == 6
    assert (tmp_path / "my-report" / "report.html").exists()
    assert (tmp_path / "my-simulation" / "report.png").exists()


def test_the_commands_of_the_simulations_page_run(tmp_path: Path) -> None:
    assert run_all((ROOT / "docs" / "simulation.md").read_text(), tmp_path) == 4


def test_the_example_of_what_if_finds_that_the_policy_is_better(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "what-if.md").read_text()
    for name, block in zip(("recorded.toml", "new.toml"), blocks("toml", text), strict=True):
        (tmp_path / name).write_text(block)
    assert run_all(text, tmp_path) == 2


def test_the_readmes_policy_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(blocks("toml")[0])
    assert read_policy(path).actions.keys() == {"click", "purchase"}
    assert read_policy(path).pools == Policy().pools


def test_the_readmes_guarantees_are_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(blocks("toml")[1])
    pools = read_policy(path).pools
    assert (pools["popular"].floor, pools["fresh"].pinned, pools["fresh"].required) == (0.2, (3,), 2)


def test_the_readmes_rules_are_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(blocks("toml")[2])
    assert list(read_policy(path).rules) == ["spam", "per_creator"]
    assert read_policy(path).hides == {"hide": "creator"}


def test_the_settings_page_lists_every_key_at_its_default(tmp_path: Path) -> None:
    (example,) = blocks("toml", (ROOT / "docs" / "settings.md").read_text())
    path = tmp_path / "settings.toml"
    path.write_text(example)
    assert read_settings({"FEEDLOOM_SETTINGS": str(path)}) == Settings()
    keys = re.findall(r"^(?:# )?(\w+) = ", example, re.MULTILINE)
    assert keys == list(Settings.__struct_fields__)


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_kafka_quickstarts_commands_lead_to_a_personalised_feed(kafka: Cluster, tmp_path: Path) -> None:
    """All of it but `make`: the broker is that of the test run, and the topics' prefix is left as it is."""
    text = (ROOT / "docs" / "quickstart-kafka.md").read_text()
    (tmp_path / "quickstart.toml").write_text(blocks("toml", text)[0])
    (tmp_path / "first_feed.py").write_text(blocks("python", text)[0])
    lines = [line for block in blocks("sh", text) for line in block.splitlines()]
    assert lines[:2] == ["make setup", "make kafka"]
    environment = {**os.environ, "FEEDLOOM_BOOTSTRAP": kafka.bootstrap, "FEEDLOOM_SESSION_MS": "1000"}
    assert lines[2].startswith("export FEEDLOOM_BOOTSTRAP=")
    printed: dict[str, str] = {}
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log.txt").open("wb"))
        for line in lines[3:]:
            command = [sys.executable, *shlex.split(line)[1:]]
            if command[3:4] == ["worker"]:
                worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
                stack.callback(worker.wait)
                stack.callback(worker.terminate)
                continue
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=90
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}\n{(tmp_path / 'log.txt').read_text()}"
            printed[line] = done.stdout
    told = printed[".venv/bin/python first_feed.py"].splitlines()
    space, love = {"solaris", "gravity", "contact"}, {"casablanca", "brazil", "her"}
    for line, taste in ((told[0], space), (told[1], love)):
        similar = set(re.findall(r"(\w+) \(similar\)", line))
        assert similar
        assert similar <= taste
    print(*told, sep="\n")
    assert "alien" not in told[0]
    assert "amelie" not in told[1]
    assert re.search(r"Beta\(10\.0, 120\.0\) -> Beta\(1[01]\.[0-9], 120\.[0-9]\)", told[3])
    decision = json.loads(printed[lines[-3]])["value"]
    assert decision["request"]["user"] == "ann"


def test_a_pool_of_ones_own_is_a_class_and_a_line_of_policy(tmp_path: Path) -> None:
    """The example of docs/personal.md, as it stands there; a class that is not there is refused by name."""
    text = (ROOT / "docs" / "personal.md").read_text()
    (tmp_path / "shop_pools.py").write_text(blocks("python", text)[0])
    (tmp_path / "mine.toml").write_text(blocks("toml", text)[0])
    (tmp_path / "my-log.csv").write_text(blocks("csv")[0])
    (line,) = (line for block in blocks("sh", text) for line in block.splitlines())
    command = line.replace("feedloom", f"'{sys.executable}' -m feedloom", 1)
    rows = [f"u{n % 5},i{n % 7},{1_000_000 + n},5" for n in range(60)]
    (tmp_path / "my-log.csv").write_text("\n".join(["user,item,timestamp,value", *rows]))
    done = subprocess.run(
        f"{command} --json", shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pool_share"].keys() == {"oldest", "popular"}
    (tmp_path / "mine.toml").write_text(blocks("toml", text)[0].replace("Oldest", "Youngest"))
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "shop_pools:Youngest" in done.stderr


def test_the_experiments_page_leads_to_results_and_its_recipes_are_a_policy(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "experiments.md").read_text()
    example, recipes = blocks("toml", text)
    (tmp_path / "experiment.toml").write_text(example)
    assert run_all(text, tmp_path) == 2
    (tmp_path / "recipes.toml").write_text(recipes)
    policy = read_policy(tmp_path / "recipes.toml")
    assert list(policy.experiments) == ["holdout", "exploration", "fresh", "bolder"]
    assert arms_of(policy.experiments, "me")["bolder"] == "half"
    arguments = ["experiments", "results", "--records", str(tmp_path / "my-experiment")]
    printed = CliRunner().invoke(cli, arguments).stdout
    (shown,) = re.findall(r"```\n(experiment.*?)```", text, re.DOTALL)
    columns = [[line.split()[:4] for line in lines.splitlines()] for lines in (shown, printed)]
    assert columns[0] == columns[1][: len(columns[0])]
