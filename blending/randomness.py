"""Counter-based randomness: every number is a pure function of (key, counter).

The key comes from (seed, user, request id), so a decision can be drawn again from its record, and one
user's draws never depend on how many others were served before. The bits are SplitMix64's (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): output i is the mix of key + i * gamma.
"""

from hashlib import blake2b

import numpy as np

from blending.compiled import compiled

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
SHIFT_30, SHIFT_27, SHIFT_31, SHIFT_12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
STREAM_LENGTH = np.uint64(1 << 32)  # counters of one stream; streams of a key never overlap


def key_of(seed: int, *names: str) -> np.uint64:
    """A 64-bit key of a seed and any number of names, each length-prefixed so that no two lists are one text."""
    digest = blake2b(digest_size=8)
    for encoded in (str(seed).encode(), *(name.encode() for name in names)):
        digest.update(b"%d:" % len(encoded) + encoded)
    return np.uint64(int.from_bytes(digest.digest(), "little"))


@compiled
def bits_at(key: np.uint64, counter: np.uint64) -> np.uint64:
    """64 uniform bits, a function of (key, counter) alone."""
    mixed = key + (counter + np.uint64(1)) * GAMMA
    mixed = (mixed ^ (mixed >> SHIFT_30)) * MIX_1
    mixed = (mixed ^ (mixed >> SHIFT_27)) * MIX_2
    return mixed ^ (mixed >> SHIFT_31)


@compiled
def uniform_at(key: np.uint64, counter: np.uint64) -> float:
    """A uniform number strictly between 0 and 1: the middles of 2**52 equal steps."""
    return (float(bits_at(key, counter) >> SHIFT_12) + 0.5) * 2.0**-52


@compiled
def stream(number: int) -> np.uint64:
    """The first counter of stream `number` of a key."""
    return np.uint64(number) * STREAM_LENGTH
