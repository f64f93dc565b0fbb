"""Runs the whole fault matrix, of the embedded engine and of Kafka's workers, and writes docs/proof/faults.json.

A cell that fails is an error, and nothing is written: what stands in the file has held, for every seed in it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

from kafka_broker import VERSION  # noqa: E402
from proof_setting import commit, machine  # noqa: E402

# The cells stand among the tests, which run eight of them.
MATRIX: dict[str, dict[str, Callable[[Path, int], dict[str, float]]]] = {
    engine: import_module(f"faults_{engine}").CELLS for engine in ("embedded", "kafka")
}
OUT = ROOT / "docs" / "proof" / "faults.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="*", default=list(MATRIX), choices=list(MATRIX))
    parser.add_argument("--cells", nargs="*", help="default: all; the others keep what is in the file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    done = json.loads(given.out.read_text())["cells"] if given.out.exists() else {}
    for engine in given.engines:
        for name, cell in MATRIX[engine].items():
            if given.cells and name not in given.cells:
                continue
            done.setdefault(engine, {})[name] = [of_seed(engine, name, cell, seed) for seed in range(given.seeds)]
            given.out.write_text(json.dumps({**setting(), "cells": done}, indent=1) + "\n")


def of_seed(engine: str, name: str, cell: Callable[[Path, int], dict[str, float]], seed: int) -> dict[str, Any]:
    """One cell with one seed: what it says of itself, and when and of what it was."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="feedloom-faults-") as folder:
        figures = cell(Path(folder), seed)
    seconds = round(time.monotonic() - begun, 1)
    print(f"{engine} {name} {seed}: {seconds} s, {figures}", file=sys.stderr, flush=True)
    return {"seed": seed, "commit": commit(), "seconds": seconds, **figures}


def setting() -> dict[str, Any]:
    """Where the proof was made."""
    return {
        "machine": machine(),
        "kafka": VERSION,
    }


if __name__ == "__main__":
    main()
