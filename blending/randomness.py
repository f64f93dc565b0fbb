"""Where every draw comes from: a key, which is a function of (seed, user, request id).

A decision can be drawn again from its record, and one user's draws never depend on how many others were served
before. The numbers themselves are functions of (key, counter): `bits_at` in `blending.sampling`.
"""

from hashlib import blake2b

import numpy as np


def key_of(seed: int, *names: str) -> np.uint64:
    """A 64-bit key of a seed and any number of names, each length-prefixed so that no two lists are one text."""
    digest = blake2b(digest_size=8)
    for encoded in (str(seed).encode(), *(name.encode() for name in names)):
        digest.update(b"%d:" % len(encoded) + encoded)
    return np.uint64(int.from_bytes(digest.digest(), "little"))
