"""Runs the closed loop over many seeds and writes docs/proof/simulation.json; takes most of an hour on 2 cores.

Every world's regrets are kept seed by seed, so that a check can run a few of them again and compare.
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from engine.policy import Policy  # noqa: E402
from simulator.peers import available_peers  # noqa: E402
from simulator.referee import Plan, trials  # noqa: E402

COMPARED = {"static": 200, "satiation": 200, "drift": 200, "delay": 60}  # seeds, with baselines and peers
ALSO = {"delay_quality": 12, "cascade": 12, "logit": 12}
EQUAL = {"equal": 800, "equal_delay": 800}  # seeds of the blend alone, for its shares
FEEDS = 2000
EQUAL_FEEDS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="*", default=[*COMPARED, *EQUAL, *ALSO])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "proof" / "simulation.json")
    given = parser.parse_args()
    _, missing = available_peers(3, 0)
    if missing:
        sys.exit(
            f"the proof compares with peers that are not installed: pip install '.[bench]' ({', '.join(missing)})"
        )
    done = json.loads(given.out.read_text())["worlds"] if given.out.exists() else {}
    for world in given.worlds:
        print(f"{world} …", file=sys.stderr, flush=True)
        done[world] = proof_of(world)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**setting(), "worlds": done}, indent=1) + "\n")


def setting() -> dict[str, Any]:
    """Where and of what the proof was made."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {platform.system()}, python {platform.python_version()}",
        "policy": Policy().version,
    }


def proof_of(world: str) -> dict[str, Any]:
    """All seeds of one world."""
    compared = world not in EQUAL
    seeds = (COMPARED | ALSO | EQUAL)[world]
    plan = Plan(world, Policy(), FEEDS if compared else EQUAL_FEEDS, 1, 256, compared)
    results = list(trials(plan, range(seeds)))
    shares = np.array([one.slots.sum(axis=0) / one.slots.sum() for one in results])
    regret = {name: [round(float(one.regret[name].sum()), 6) for one in results] for name in results[0].regret}
    return {
        "seeds": seeds,
        "feeds": plan.feeds,
        "regret": {name: summary(np.array(values)) for name, values in regret.items()},
        "share": {
            "mean": shares.mean(axis=0).round(5).tolist(),
            "standard_error": (shares.std(axis=0, ddof=1) / np.sqrt(seeds)).round(5).tolist(),
        },
        "by_seed": regret,
    }


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean with its 95 % interval, and the 95th percentile."""
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(values.size)
    mean = float(values.mean())
    return {
        "mean": round(mean, 3),
        "low": round(mean - half, 3),
        "high": round(mean + half, 3),
        "p95": round(float(np.quantile(values, 0.95)), 3),
    }


if __name__ == "__main__":
    main()
