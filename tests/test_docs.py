"""The README's examples run as they are written, and its figures are those of the demo."""

import re
import subprocess
import sys
from pathlib import Path

from engine.policy import Policy
from streams.policy_file import read_policy

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
    assert run_all(README, tmp_path) == 5
    assert (tmp_path / "my-report" / "report.html").exists()
    assert (tmp_path / "my-simulation" / "report.png").exists()


def test_the_commands_of_the_simulations_page_run(tmp_path: Path) -> None:
    assert run_all((ROOT / "docs" / "simulation.md").read_text(), tmp_path) == 4


def test_the_readmes_policy_is_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(blocks("toml")[0])
    assert read_policy(path).actions.keys() == {"click", "purchase"}
    assert read_policy(path).pools == Policy().pools


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
