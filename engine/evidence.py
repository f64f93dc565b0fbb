"""A user's evidence at a moment: closed decisions decayed to now, open ones matured as far as they have come."""

from collections.abc import Mapping
from math import exp2
from typing import TypeAlias

from msgspec.structs import replace

from engine.policy import MemoryPolicy
from engine.state import Cell, LedgerRow, Tally, UserState

Sums: TypeAlias = dict[Cell, list[float]]  # [S, E]

HALF_LIVES_MAX = 400  # between a term and the landmark, so that no weight leaves the range of a double


def evidence_at(state: UserState, now_ms: int, memory: MemoryPolicy) -> dict[Cell, Tally]:
    """S and E by (pool, action). A view counts weight * F(its age), an action counts whole, both decayed."""
    factor = exp2((state.landmark_ms - now_ms) / memory.half_life_ms)
    sums = {cell: [factor * tally.successes, factor * tally.exposure] for cell, tally in state.closed.items()}
    for row in state.ledger.values():
        _add(sums, row, now_ms, memory, exp2((row.at_ms - now_ms) / memory.half_life_ms))
    return {cell: Tally(*amounts) for cell, amounts in sums.items()}


def matured(row: LedgerRow, now_ms: int, memory: MemoryPolicy) -> dict[Cell, Tally]:
    """S and E * F(age) of each (pool, action) of a row; after the window the age counts no further."""
    sums: Sums = {}
    _add(sums, row, now_ms, memory, 1.0)
    return {cell: Tally(*amounts) for cell, amounts in sums.items()}


def _add(sums: Sums, row: LedgerRow, now_ms: int, memory: MemoryPolicy, weight: float) -> None:
    """The inner loop of reading a state: once per open row."""
    age_ms = min(now_ms - row.at_ms, memory.window_ms)
    for pool, tallies in row.tallies.items():
        delays = row.delays[pool]
        for place, action in enumerate(row.actions):
            tally = tallies[place]
            amounts = sums.get((pool, action))
            if amounts is None:
                amounts = sums[pool, action] = [0.0, 0.0]
            amounts[0] += weight * tally.successes
            amounts[1] += weight * tally.exposure * delays[place].arrived(age_ms)


def with_closed(state: UserState, row: LedgerRow, terms: Mapping[Cell, Tally], memory: MemoryPolicy) -> UserState:
    """Add the terms of a row that closes to the closed evidence."""
    state = _rebased(state, row.at_ms, memory)
    weight = exp2((row.at_ms - state.landmark_ms) / memory.half_life_ms)
    closed = dict(state.closed)
    for cell, tally in terms.items():
        closed[cell] = closed.get(cell, NOTHING).plus(weight * tally.successes, weight * tally.exposure)
    return replace(state, closed=closed)


def _rebased(state: UserState, at_ms: int, memory: MemoryPolicy) -> UserState:
    """Move the landmark when a term would be too far from it; the evidence at any moment stays the same."""
    if state.closed and at_ms - state.landmark_ms <= HALF_LIVES_MAX * memory.half_life_ms:
        return state
    factor = exp2(max((state.landmark_ms - at_ms) / memory.half_life_ms, -1000.0))
    closed = {
        cell: Tally(tally.successes * factor, tally.exposure * factor) for cell, tally in state.closed.items()
    }
    return replace(state, closed=closed, landmark_ms=at_ms)


NOTHING = Tally()
