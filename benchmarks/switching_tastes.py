"""Users whose tastes switch: weights of each user's own against the population's for all, over many seeds.

`--json` prints one document, which docs/proof/tastes.json holds.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulator.taste_loop import aligned_of, lived, recovery
from simulator.tastes import Tastes

USERS, SEEDS = 12, 20
FEEDS = 400  # of each user: the population's weights need most of what comes after the switch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    given = parser.parse_args()
    result = measured(given.seeds)
    print(json.dumps(result, indent=2) if given.json else result)


def measured(seeds: int) -> dict[str, object]:
    world = Tastes(feeds=FEEDS)
    own, frozen = ([lived(world, seed, USERS, own=mine) for seed in range(seeds)] for mine in (True, False))
    ratios = np.array([one.reward / other.reward for one, other in zip(own, frozen, strict=True)])
    error = float(ratios.std(ddof=1) / np.sqrt(ratios.size)) if seeds > 1 else 0.0
    mine, theirs = aligned_of(own), aligned_of(frozen)
    return {
        "seeds": seeds,
        "users": USERS,
        "feeds": world.feeds,
        "reward_own": float(np.mean([one.reward for one in own])),
        "reward_frozen": float(np.mean([one.reward for one in frozen])),
        "reward_best": float(np.mean([one.best for one in own])),
        "ratio": float(ratios.mean()),
        "ratio_low": float(ratios.mean()) - 1.96 * error,
        "ratio_high": float(ratios.mean()) + 1.96 * error,
        "horizon_feeds": mine.shape[1] // 2,
        "recovery_feeds_own": recovery(mine),
        "recovery_feeds_frozen": recovery(theirs),
        "curve_own": np.round(mine.mean(axis=0), 3).tolist(),
        "curve_frozen": np.round(theirs.mean(axis=0), 3).tolist(),
    }


if __name__ == "__main__":
    main()
