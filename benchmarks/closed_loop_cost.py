"""What a feed costs when a user has had 2,000 of them, and when 20,000: time, and peak memory.

Two users, one of each age, are fed in turn, so that both meet the same machine. `--json` prints one document.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import process_time

sys.path.insert(0, str(Path(__file__).parent.parent))

from engine.policy import Policy
from simulator.closed_loop import FeedloomLife, policy_for
from simulator.worlds import WORLDS

YOUNG, OLD = 2_000, 20_000
BLOCK, ROUNDS = 50, 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--age", type=int, help=argparse.SUPPRESS)  # a child that only says its peak memory
    given = parser.parse_args()
    if given.age:
        live(given.age)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    result = {**cost(), "peak_kb": {str(age): peak(age) for age in (YOUNG, OLD)}}
    if given.json:
        print(json.dumps(result))
    else:
        print(f"a feed at {OLD:,} costs {result['ratio']:.3f} of one at {YOUNG:,} {result['spread']}")
        print(f"peak memory in kB: {result['peak_kb']}")


def live(age: int) -> FeedloomLife:
    """A user of the static world after so many feeds, with room for the rounds to come."""
    world = WORLDS["static"]
    life = FeedloomLife(world, policy_for(world, Policy()), 1, 1, age + BLOCK * ROUNDS)
    for feed in range(age):
        life.feed(0, feed)
    return life


def cost() -> dict[str, object]:
    """CPU seconds of a block at both ages, as the median ratio of interleaved rounds with its quartiles."""
    lives = {age: live(age) for age in (YOUNG, OLD)}
    ratios = []
    for number in range(ROUNDS):
        seconds = {}
        for age, life in lives.items():
            started = process_time()
            for feed in range(age + BLOCK * number, age + BLOCK * (number + 1)):
                life.feed(0, feed)
            seconds[age] = process_time() - started
        ratios.append(seconds[OLD] / seconds[YOUNG])
    ratios.sort()
    return {"ratio": median(ratios), "spread": [ratios[ROUNDS // 4], ratios[3 * ROUNDS // 4]]}


def peak(age: int) -> int:
    """Peak memory of a process of its own, in kB."""
    call = [sys.executable, __file__, "--age", str(age)]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
