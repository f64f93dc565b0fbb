"""A user's evidence at a moment: closed decisions decayed to now, open ones matured as far as they have come.

What is old counts less, on two clocks: event time, and the slots that the pool itself was given since. The
second lets go of what a pool was as fast as it shows what it is, and keeps what is known of a pool that is seldom
shown. Both are written in the decision, so that a term's weight is its own and the sums stay sums over a set.
"""

from collections.abc import Mapping
from math import exp2
from typing import TypeAlias

from msgspec.structs import replace

from blending.delay import Delay
from engine.policy import MemoryPolicy
from engine.state import Cell, ClosedTally, LedgerRow, Tally, UserState

Sums: TypeAlias = dict[Cell, "_Amounts"]

AS_RECORDED: Mapping[Cell, Delay] = {}
HALF_LIVES_MAX = 400.0  # between a term and the landmark, so that no weight leaves the range of a double
AHEAD_MAX = 1.0  # half-lives before a decision: further back in the log's time its evidence grows no more


class _Amounts:
    """S and E of a cell, and the delay that open views are read with, None for what each was made with."""

    __slots__ = ("delay", "exposure", "successes")

    def __init__(self, delay: Delay | None, successes: float = 0.0, exposure: float = 0.0) -> None:
        self.delay = delay
        self.successes = successes
        self.exposure = exposure


def half_lives(since_ms: int, since_served: int, now_ms: int, served: int, memory: MemoryPolicy) -> float:
    """The age of a pool's evidence: from a moment, when `since_served` of the user's slots were the pool's, to now.

    Differences are taken first, of whole numbers: milliseconds since the epoch, in half-lives, would leave too few
    digits.
    """
    return (now_ms - since_ms) / memory.half_life_ms + (served - since_served) / memory.half_life_slots


def evidence_at(
    state: UserState, now_ms: int, memory: MemoryPolicy, believed: Mapping[Cell, Delay] = AS_RECORDED
) -> dict[Cell, Tally]:
    """S and E by (pool, action). A view counts weight * F(its age), an action counts whole, both decayed.

    Open decisions are read with the delays `believed` now, and where it names none with those they were made
    with: these are a window old, and of a new pool were no more than a guess.
    """
    sums: Sums = {}
    for cell, closed in state.closed.items():
        age = half_lives(closed.landmark_ms, closed.served, now_ms, state.served[cell[0]], memory)
        factor = exp2(-max(age, -AHEAD_MAX))
        sums[cell] = _Amounts(believed.get(cell), factor * closed.successes, factor * closed.exposure)
    served, half_life_ms, half_life_slots = state.served, memory.half_life_ms, memory.half_life_slots
    terms = []
    for row in state.ledger.values():
        since_ms, before = (now_ms - row.at_ms) / half_life_ms, row.served
        for pool in row.tallies:  # by `half_lives`, without a call a row
            age = since_ms + (served[pool] - before[pool]) / half_life_slots
            terms.append((row, pool, exp2(-max(age, -AHEAD_MAX))))
    return _added(sums, terms, now_ms, believed)


def session_at(
    state: UserState, now_ms: int, memory: MemoryPolicy, believed: Mapping[Cell, Delay] = AS_RECORDED
) -> dict[Cell, Tally]:
    """S and E of what the user did just now: of open decisions alone, halved every `session_half_life_ms`."""
    terms = []
    for row in state.ledger.values():
        weight = exp2(-max(now_ms - row.at_ms, 0) / memory.session_half_life_ms)
        terms += [(row, pool, weight) for pool in row.tallies]
    return _added({}, terms, now_ms, believed)


def matured(row: LedgerRow) -> dict[Cell, Tally]:
    """S and E * F(age) by (pool, action) of a row that takes no more reactions, by the delays it was made with.

    Its age is that of its end, so that these delays matter little to a row that was open for a whole window.
    """
    return _added({}, [(row, pool, 1.0) for pool in row.tallies], row.until_ms, AS_RECORDED)


def _added(
    sums: Sums, terms: list[tuple[LedgerRow, str, float]], now_ms: int, believed: Mapping[Cell, Delay]
) -> dict[Cell, Tally]:
    """The sums with a term of each open row, pool and weight: the loop that reading a state spends its time in."""
    for row, pool, weight in terms:
        age_ms = max(min(now_ms, row.until_ms) - row.at_ms, 0)  # 0 where the log's time fell back
        for place, tally in enumerate(row.tallies[pool]):
            cell = (pool, row.actions[place])
            amounts = sums.get(cell)
            if amounts is None:
                amounts = sums[cell] = _Amounts(believed.get(cell))
            delay = amounts.delay or row.delays[pool][place]
            amounts.successes += weight * tally.successes
            amounts.exposure += weight * tally.exposure * delay.arrived(age_ms)
    return {cell: Tally(amounts.successes, amounts.exposure) for cell, amounts in sums.items()}


def with_closed(state: UserState, row: LedgerRow, terms: Mapping[Cell, Tally], memory: MemoryPolicy) -> UserState:
    """Add the terms of a row that closes to the closed evidence."""
    closed = dict(state.closed)
    for cell, term in terms.items():
        served = row.served[cell[0]]
        old = closed.get(cell, ClosedTally(0.0, 0.0, row.at_ms, served))
        old = _rebased(old, row.at_ms, served, memory)
        weight = exp2(half_lives(old.landmark_ms, old.served, row.at_ms, served, memory))
        closed[cell] = ClosedTally(
            old.successes + weight * term.successes,
            old.exposure + weight * term.exposure,
            old.landmark_ms,
            old.served,
        )
    return replace(state, closed=closed)


def _rebased(closed: ClosedTally, at_ms: int, served: int, memory: MemoryPolicy) -> ClosedTally:
    """Move the landmark when a term would be too far from it; the evidence at any moment stays the same."""
    since = half_lives(closed.landmark_ms, closed.served, at_ms, served, memory)
    if since <= HALF_LIVES_MAX:
        return closed
    factor = exp2(-min(since, 1000.0))
    return ClosedTally(factor * closed.successes, factor * closed.exposure, at_ms, served)


NOTHING = Tally()
