"""Runs the closed loop over many seeds and writes docs/proof/simulation.json; takes most of an hour on 2 cores.

Every world's regrets are kept seed by seed, so that a check can run a few of them again and compare. What the blend
is compared with does not depend on the engine: `--ours` runs the blend and the oracle alone and keeps the figures
of the others, after the code behind them is found unchanged and one of their seeds, run again, to be the same.
Seeds that were never compared are run with the others also then.
"""

import argparse
import json
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from proof_setting import commit, machine  # noqa: E402

from engine.policy import Policy  # noqa: E402
from simulator.peers import available_peers  # noqa: E402
from simulator.referee import FEEDLOOM, ORACLE, Plan, Trial, trial, trials  # noqa: E402

COMPARED = {"static": 200, "satiation": 200, "drift": 200, "delay": 60}  # seeds, with baselines and peers
ALSO = {"delay_quality": 12, "cascade": 120, "logit": 12}
EQUAL = {"equal": 800, "equal_delay": 800}  # seeds of the blend alone, for its shares
FEEDS = 2000
EQUAL_FEEDS = 500
OURS = (FEEDLOOM, ORACLE)
TABLES = ("actions", "blend", "population", "memory")  # of a policy: those that matter to the worlds
NOT_THESE = (
    ("blend", "shadow"),
    ("population", "every_records"),
    ("population", "neighbours_max"),
    ("population", "recent_reactions"),
    ("memory", "shadow_half_life_views"),
    ("memory", "weights_half_life_ms"),
    ("memory", "hidden_max"),
    ("memory", "views_max"),
)
OF_THE_OTHERS = [f"simulator/{name}.py" for name in ("choice", "worlds", "users", "policies", "peers")]

Regrets = dict[str, list[float]]  # by policy, seed by seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", nargs="*", default=[*COMPARED, *EQUAL, *ALSO])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "proof" / "simulation.json")
    parser.add_argument("--ours", action="store_true", help="keep what is known of the others")
    given = parser.parse_args()
    _, missing = available_peers(3, 0)
    if missing:
        sys.exit(
            f"the proof compares with peers that are not installed: pip install '.[bench]' ({', '.join(missing)})"
        )
    done = json.loads(given.out.read_text())["worlds"] if given.out.exists() else {}
    for world in given.worlds:
        print(f"{world} …", file=sys.stderr, flush=True)
        done[world] = proof_of(world, done.get(world) if given.ours else None)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({**setting(), "worlds": done}, indent=1) + "\n")


def setting() -> dict[str, Any]:
    """Where and of what the proof was made; the commits stand beside each world's figures."""
    return {
        "machine": machine(),
        "policy": version_of(Policy()),
    }


def version_of(policy: Policy) -> str:
    """A short hash of what matters to the worlds.

    They bring pools of their own, all of them external. So nothing there is ranked by weights, vectors or what goes
    with what: these tables are left out, and the fields of others that say how such is learned, what acts only
    where it is switched on, and how often there is a version, which worlds say themselves.
    """
    tables = {name: msgspec.to_builtins(getattr(policy, name)) for name in TABLES}
    for table, name in NOT_THESE:
        del tables[table][name]
    for action in tables["actions"].values():
        del action["hides"]
    return blake2b(msgspec.json.encode(tables), digest_size=6).hexdigest()


def proof_of(world: str, before: dict[str, Any] | None) -> dict[str, Any]:
    """All seeds of one world; of the policies that are not ours those that `before` knows are kept."""
    compared = world not in EQUAL
    seeds = (COMPARED | ALSO | EQUAL)[world]
    plan = Plan(world, Policy(), FEEDS if compared else EQUAL_FEEDS, 1, 256, compared)
    kept = others_of(before, plan, seeds) if before and compared else {}
    known = min((len(values) for values in kept.values()), default=0)
    results = [*trials(plan._replace(compared=False), range(known))] if known else []
    if known < seeds:
        results += trials(plan, range(known, seeds))
    commits: dict[str, Any] = {"ours": commit()}
    if compared:
        commits["others"] = {**(before["commits"]["others"] if before and kept else {})}
        if known < seeds:
            commits["others"][f"seeds {known} to {seeds - 1}"] = commit()
    return {"seeds": seeds, "feeds": plan.feeds, "commits": commits, **figures(results, kept)}


def others_of(before: dict[str, Any], plan: Plan, seeds: int) -> Regrets:
    """What is known of the others, of at most so many seeds, if it would be the same today; else this ends here."""
    for made_at in before["commits"]["others"].values():
        unchanged = subprocess.run(["git", "diff", "--quiet", made_at, "--", *OF_THE_OTHERS], cwd=ROOT, check=False)
        if unchanged.returncode:
            sys.exit(f"what {plan.scenario} is compared with has changed since {made_at}: run it without --ours")
    assert before["feeds"] == plan.feeds, "regrets are kept of lives of one length"
    kept: Regrets = {name: values[:seeds] for name, values in before["by_seed"].items() if name not in OURS}
    again = regrets([trial(plan, 0)])
    if [name for name, values in again.items() if name not in OURS and values[0] != kept[name][0]]:
        sys.exit(f"seed 0 of {plan.scenario} is not what it was for the others: run it without --ours")
    return kept


def regrets(results: list[Trial]) -> Regrets:
    return {
        name: [round(float(one.regret[name].sum()), 6) for one in results if name in one.regret]
        for name in results[-1].regret
    }


def figures(results: list[Trial], kept: Regrets) -> dict[str, Any]:
    """Regrets and shares of these seeds, those of the others after what is kept of them."""
    shares = np.array([one.slots.sum(axis=0) / one.slots.sum() for one in results])
    regret = regrets(results)
    regret |= {name: values + regret.get(name, []) for name, values in kept.items()}
    return {
        "regret": {name: summary(np.array(values)) for name, values in regret.items()},
        "share": {
            "mean": shares.mean(axis=0).round(5).tolist(),
            "standard_error": (shares.std(axis=0, ddof=1) / np.sqrt(len(results))).round(5).tolist(),
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
