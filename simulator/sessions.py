"""Sessions of a log, and the same log without the order inside them.

A site shows things in an order of its own, and who goes down its page reacts in that order. A model that learns the
page's order hits the next row of the page, which it could not do for somebody who has not seen it.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from blending.randomness import key_of
from simulator.broken import random_order
from simulator.interactions import Interaction


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
