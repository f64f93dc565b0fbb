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

Sums: TypeAlias = dict[Cell, list[float]]  # [S, E]

AS_RECORDED: Mapping[Cell, Delay] = {}
HALF_LIVES_MAX = 400.0  # between a term and the landmark, so that no weight leaves the range of a double


def half_lives(at_ms: int, served: int, memory: MemoryPolicy) -> float:
    """A moment of a pool's evidence, in half-lives: `served` of the user's slots were the pool's by then."""
    return at_ms / memory.half_life_ms + served / memory.half_life_slots


def evidence_at(
    state: UserState, now_ms: int, memory: MemoryPolicy, believed: Mapping[Cell, Delay] = AS_RECORDED
) -> dict[Cell, Tally]:
    """S and E by (pool, action). A view counts weight * F(its age), an action counts whole, both decayed.

    Open decisions are read with the delays `believed` now, and where it names none with those they were made
    with: these are a window old, and of a new pool were no more than a guess.
    """
    now = {pool: half_lives(now_ms, served, memory) for pool, served in state.served.items()}
    sums: Sums = {}
    for cell, closed in state.closed.items():
        factor = exp2(closed.landmark - now[cell[0]])
        sums[cell] = [factor * closed.successes, factor * closed.exposure]
    for row in state.ledger.values():
        _add(sums, row, now_ms, memory, now, believed)
    return {cell: Tally(*amounts) for cell, amounts in sums.items()}


def matured(row: LedgerRow, memory: MemoryPolicy) -> dict[Cell, Tally]:
    """S and E * F(age) by (pool, action) of a row that takes no more reactions, by the delays it was made with.

    Its age is that of its end, so that these delays matter little to a row that was open for a whole window.
    """
    sums: Sums = {}
    at_its_time = {pool: half_lives(row.at_ms, served, memory) for pool, served in row.served.items()}
    _add(sums, row, row.until_ms, memory, at_its_time, AS_RECORDED)
    return {cell: Tally(*amounts) for cell, amounts in sums.items()}


def _add(
    sums: Sums,
    row: LedgerRow,
    now_ms: int,
    memory: MemoryPolicy,
    now: Mapping[str, float],
    believed: Mapping[Cell, Delay],
) -> None:
    """The inner loop of reading a state: once per open row."""
    age_ms = min(now_ms, row.until_ms) - row.at_ms
    for pool, tallies in row.tallies.items():
        weight = exp2(half_lives(row.at_ms, row.served[pool], memory) - now[pool])
        for action, tally, recorded in zip(row.actions, tallies, row.delays[pool], strict=True):
            cell = (pool, action)
            amounts = sums.get(cell)
            if amounts is None:
                amounts = sums[cell] = [0.0, 0.0]
            amounts[0] += weight * tally.successes
            amounts[1] += weight * tally.exposure * believed.get(cell, recorded).arrived(age_ms)


def with_closed(state: UserState, row: LedgerRow, terms: Mapping[Cell, Tally], memory: MemoryPolicy) -> UserState:
    """Add the terms of a row that closes to the closed evidence."""
    closed = dict(state.closed)
    for cell, term in terms.items():
        moment = half_lives(row.at_ms, row.served[cell[0]], memory)
        old = _rebased(closed.get(cell, ClosedTally(0.0, 0.0, moment)), moment)
        weight = exp2(moment - old.landmark)
        closed[cell] = ClosedTally(
            old.successes + weight * term.successes, old.exposure + weight * term.exposure, old.landmark
        )
    return replace(state, closed=closed)


def _rebased(closed: ClosedTally, moment: float) -> ClosedTally:
    """Move the landmark when a term would be too far from it; the evidence at any moment stays the same."""
    if moment - closed.landmark <= HALF_LIVES_MAX:
        return closed
    factor = exp2(max(closed.landmark - moment, -1000.0))
    return ClosedTally(factor * closed.successes, factor * closed.exposure, moment)


NOTHING = Tally()
