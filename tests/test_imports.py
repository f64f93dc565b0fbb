"""The packages' import contracts hold: one way only, a pure core, a truth that cannot leak."""

import subprocess
import sys
from pathlib import Path


def test_imports_run_one_way_and_the_core_is_pure() -> None:
    """The contracts stand in pyproject.toml; this runs them."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
