"""What a further run disturbs: the order of the log inside sessions, and a pool.

A site shows things in an order of its own, and who goes down its page reacts in that order. A model that learns the
page's order hits the next row of the page, which it could not do for somebody who has not been there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from blending.randomness import key_of
from blending.sampling import uniforms_of
from blending.types import IntArray
from engine.facts import Facts
from engine.kernels import first_allowed
from engine.pools import Ranking, without
from engine.visitor import Visitor
from simulator.interactions import Interaction


def random_order(key: np.uint64, size: int) -> IntArray:
    """The numbers below `size` in a random order, int64, which is a function of the key."""
    return np.argsort(uniforms_of(key, 0, 1, size)[0], kind="stable")


class RandomPool(NamedTuple):
    """Any known items, in an order that is the key's: one for each request."""

    key: np.uint64

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank the whole catalogue at random."""
        order = random_order(self.key, facts.population.size).astype(np.int32)
        return without(*first_allowed(order, visitor.excluded, most))


def sessions(rows: Sequence[Interaction], within_ms: int) -> list[list[int]]:
    """The places of each session in the log: rows of a user, no two neighbours further apart than `within_ms`."""
    found: list[list[int]] = []
    last: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        session = last.get(row.user)
        if session is None or row.at_ms - rows[session[-1]].at_ms > within_ms:
            session = last[row.user] = []
            found.append(session)
        session.append(place)
    return found


def shuffled_within(rows: Sequence[Interaction], within_ms: int, seed: int) -> list[Interaction]:
    """The log with the order inside each session destroyed at random.

    Users and times stay at their places; what was done, item, action and whether it is positive, moves among the
    places of its session. Each session has draws of its own.
    """
    shuffled = list(rows)
    for places in sessions(rows, within_ms):
        order = random_order(key_of(seed, "session", rows[places[0]].user, str(places[0])), len(places))
        for place, other in zip(places, order.tolist(), strict=True):
            shuffled[place] = replace(rows[places[other]], at_ms=rows[place].at_ms)
    return shuffled
