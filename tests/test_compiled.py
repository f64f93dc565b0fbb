"""Machine code that is kept beside the source never outlives it, also across the files of a folder."""

import os
import subprocess
import sys
from pathlib import Path

from arms import ROOT

INNER = """
from blending.compiled import compiled

@compiled
def tens(x: int) -> int:
    return {times} * x
"""
OUTER = """
from blending.compiled import compiled
from loops.inner import tens

@compiled
def shifted(x: int) -> int:
    return tens(x) + 1
"""
PROGRAM = "from loops.outer import shifted; print(shifted(4), sum(shifted.stats.cache_hits.values()))"


def ran(folder: Path) -> tuple[int, int]:
    """What a process of its own gets of `shifted(4)`, and how much machine code it found there."""
    path = os.pathsep.join((str(folder), str(ROOT)))
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")} | {"PYTHONPATH": path}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=folder, env=env, timeout=120, capture_output=True, text=True, check=True)
    result, found = done.stdout.split()
    return int(result), int(found)


def test_a_change_in_one_file_renews_what_calls_it_from_another(tmp_path: Path) -> None:
    """Numba alone would keep the caller, whose own file is as it was; a file without loops renews nothing."""
    package = tmp_path / "loops"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(INNER.format(times=10))
    (package / "outer.py").write_text(OUTER)
    assert ran(tmp_path) == (41, 0)
    (package / "plain.py").write_text("TEN = 10\n")
    assert ran(tmp_path) == (41, 1)
    (package / "inner.py").write_text(INNER.format(times=1000))  # of another length, or Python keeps its own code
    assert ran(tmp_path) == (4001, 0)
