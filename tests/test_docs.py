"""The README's examples run as they are written, and its figures are those of the demo."""

import re
import subprocess
import sys
from pathlib import Path

from engine.policy import Policy
from streams.policy_file import read_policy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readmes_commands_run_on_the_readmes_log(tmp_path: Path) -> None:
    (tmp_path / "my-log.csv").write_text(blocks("csv")[0])
    commands = [line for block in blocks("sh") for line in block.splitlines() if "feedloom" in line]
    commands = [line for line in commands if line.startswith(".venv/bin/python ")]
    assert len(commands) == 3
    for command in commands:
        line = command.replace(".venv/bin/python", f"'{sys.executable}'", 1)
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "my-report" / "report.html").exists()


def test_the_readmes_policy_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(blocks("toml")[0])
    assert read_policy(path).actions.keys() == {"click", "purchase"}
    assert read_policy(path).pools == Policy().pools


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
