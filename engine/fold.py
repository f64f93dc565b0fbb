"""`fold`: a user's next state of a decision or a reaction, and what the population learns from it.

Everything counted is a sum over (decision, reaction) pairs, each pair once: so reactions may come late,
twice, in any order, or before their decision, and the sums end the same.
"""

from bisect import bisect
from typing import Literal, NamedTuple

from msgspec.structs import replace

from engine.decision import Decision
from engine.events import Acted, Organic, Reaction, Seen
from engine.evidence import NOTHING, matured, with_closed
from engine.policy import MemoryPolicy
from engine.state import (
    LedgerRow,
    Lesson,
    PriorLesson,
    Reacted,
    ReactionLesson,
    UserState,
    ViewLesson,
    Waiting,
)

Outcome = Literal["adopted", "credited", "noted", "organic", "duplicate", "waiting", "conflict", "dropped"]


class Folded(NamedTuple):
    """The next state, what the population learns, and what became of the input.

    adopted: a decision entered the ledger; credited: a reaction to its slot counted; noted: an action that
    earns nothing, or on a slot that nobody has reported seen yet; organic: a reaction to no slot of ours;
    duplicate: known already, or older than all of a full history; waiting: its decision is not here yet;
    conflict: the request id is known with other slots; dropped: a view of nothing of ours.
    """

    state: UserState
    lessons: tuple[Lesson, ...]
    outcome: Outcome


def fold(state: UserState, value: Decision | Reaction, at_ms: int, memory: MemoryPolicy) -> Folded:
    """Fold a decision or reaction that entered the log at `at_ms`."""
    state, lessons = close_due(state, at_ms, memory)
    if isinstance(value, Decision):
        done = _fold_decision(state, value, memory)
    elif isinstance(value, Organic):
        done = _remember(state, value, at_ms, memory)
    else:
        done = _fold_of_slot(state, value, at_ms, memory)
    return Folded(done.state, lessons + done.lessons, done.outcome) if lessons else done


def close_due(state: UserState, at_ms: int, memory: MemoryPolicy) -> tuple[UserState, tuple[Lesson, ...]]:
    """Close what is older than the window at `at_ms`: decisions, and reactions that wait for one in vain.

    `fold` does this first; a runner also does it for people who left, or their views would never count.
    """
    horizon = at_ms - memory.window_ms
    lessons: tuple[Lesson, ...] = ()
    while state.ledger and next(iter(state.ledger.values())).at_ms < horizon:
        state, taught = _close_oldest(state, at_ms, memory)
        lessons += taught
    while state.waiting and state.waiting[0].at_ms < horizon:
        state, taught = _give_up_oldest(state, memory)
        lessons += taught
    return state, lessons


def _close_oldest(state: UserState, at_ms: int, memory: MemoryPolicy) -> tuple[UserState, tuple[Lesson, ...]]:
    """Turn the oldest open decision into closed evidence, matured as far as it has come."""
    request_id, row = next(iter(state.ledger.items()))
    ledger = dict(state.ledger)
    del ledger[request_id]
    terms = matured(row, at_ms, memory)
    state = with_closed(replace(state, ledger=ledger), row, terms, memory)
    if not row.newcomer:
        return state, ()
    taught = dict(state.taught)
    for cell, term in terms.items():
        taught[cell] = taught.get(cell, NOTHING).plus(term.successes, term.exposure)
    return replace(state, taught=taught), tuple(PriorLesson(cell, term) for cell, term in terms.items())


def _give_up_oldest(state: UserState, memory: MemoryPolicy) -> tuple[UserState, tuple[Lesson, ...]]:
    """Let the reaction that has waited longest be organic."""
    waited = state.waiting[0]
    done = _as_organic(replace(state, waiting=state.waiting[1:]), waited.reaction, waited.at_ms, memory)
    return done.state, done.lessons


def row_of(decision: Decision) -> LedgerRow:
    """The ledger row of a decision: a view of a pool's k-th item in a feed counts delta ** k."""
    names = [part.pool for part in decision.pools]
    ranks = [decision.slot_pools[:slot].count(pool) for slot, pool in enumerate(decision.slot_pools)]
    delta = 1.0 if decision.delta is None else decision.delta
    return LedgerRow(
        at_ms=decision.at_ms,
        items=tuple(decision.slot_items),
        pools=tuple(names[pool] for pool in decision.slot_pools),
        ranks=tuple(ranks),
        weights=tuple(delta**rank for rank in ranks),
        actions=tuple(decision.actions),
        delays={names[pool]: tuple(decision.pools[pool].delays) for pool in set(decision.slot_pools)},
        served=_served_after(decision),
        newcomer=decision.newcomer,
    )


def _served_after(decision: Decision) -> dict[str, int]:
    """How many of the user's slots each pool has been given, this decision included."""
    return {part.pool: part.served + part.realised for part in decision.pools}


def _fold_decision(state: UserState, decision: Decision, memory: MemoryPolicy) -> Folded:
    request_id = decision.request.request_id
    known = state.ledger.get(request_id)
    if known is not None:
        return Folded(state, (), "duplicate" if known.items == tuple(decision.slot_items) else "conflict")
    lessons: tuple[Lesson, ...] = ()
    while len(state.ledger) >= memory.open_max:
        state, taught = _close_oldest(state, decision.at_ms, memory)
        lessons += taught
    mine = [waited for waited in state.waiting if waited.reaction.request_id == request_id]
    state = replace(
        state,
        ledger={**state.ledger, request_id: row_of(decision)},
        waiting=tuple(waited for waited in state.waiting if waited.reaction.request_id != request_id),
        served={**state.served, **_served_after(decision)},
    )
    for early in mine:
        step = _fold_of_slot(state, early.reaction, early.at_ms, memory)
        state, lessons = step.state, lessons + step.lessons
    return Folded(state, lessons, "adopted")


def _fold_of_slot(state: UserState, reaction: Seen | Acted, at_ms: int, memory: MemoryPolicy) -> Folded:
    row = state.ledger.get(reaction.request_id)
    if row is None:
        return _wait(state, reaction, at_ms, memory)
    if reaction.slot >= len(row.items) or row.items[reaction.slot] != reaction.item:
        return _as_organic(state, reaction, at_ms, memory)
    if isinstance(reaction, Seen):
        return _see(state, row, reaction)
    return _act(state, row, reaction, at_ms, memory)


def _see(state: UserState, row: LedgerRow, seen: Seen) -> Folded:
    bit = 1 << seen.slot
    if row.seen & bit:
        return Folded(state, (), "duplicate")
    lessons = tuple(
        _view_lesson(row, seen.slot, action, 1.0 if row.acted.get(action, 0) & bit else 0.0, 1.0, None)
        for action in row.actions
    )
    return _credit(state, seen, replace(row, seen=row.seen | bit), lessons)


def _act(state: UserState, row: LedgerRow, acted: Acted, at_ms: int, memory: MemoryPolicy) -> Folded:
    bit = 1 << acted.slot
    before = row.acted.get(acted.action, 0)
    if before & bit:
        return Folded(state, (), "duplicate")
    row = replace(row, acted={**row.acted, acted.action: before | bit})
    counts = bool(row.seen & bit) and acted.action in row.actions
    delay_ms = max(at_ms - row.at_ms, 0)
    lessons = (_view_lesson(row, acted.slot, acted.action, 1.0, 0.0, delay_ms),) if counts else ()
    done = _credit(state, acted, row, lessons)
    noted = _remember(done.state, acted, at_ms, memory)
    return Folded(noted.state, done.lessons + noted.lessons, "credited" if counts else "noted")


def _view_lesson(
    row: LedgerRow, slot: int, action: str, successes: float, exposure: float, delay_ms: int | None
) -> ViewLesson:
    return ViewLesson((row.pools[slot], action), row.ranks[slot], successes, exposure, row.at_ms, delay_ms)


def _credit(state: UserState, reaction: Seen | Acted, row: LedgerRow, lessons: tuple[ViewLesson, ...]) -> Folded:
    """Keep the row, with what the lessons add to its sums; they are all of this slot's pool."""
    if lessons:
        pool, weight = row.pools[reaction.slot], row.weights[reaction.slot]
        tallies = dict(zip(row.actions, row.tallies.get(pool, (NOTHING,) * len(row.actions)), strict=True))
        for lesson in lessons:
            action = lesson.cell[1]
            tallies[action] = tallies[action].plus(lesson.successes, weight * lesson.exposure)
        row = replace(row, tallies={**row.tallies, pool: tuple(tallies.values())})
    return Folded(replace(state, ledger={**state.ledger, reaction.request_id: row}), lessons, "credited")


def _as_organic(state: UserState, reaction: Seen | Acted, at_ms: int, memory: MemoryPolicy) -> Folded:
    """A view of something else than we placed teaches nothing; an action on it is organic."""
    if isinstance(reaction, Seen):
        return Folded(state, (), "dropped")
    return _remember(state, reaction, at_ms, memory)


def _remember(state: UserState, reaction: Acted | Organic, at_ms: int, memory: MemoryPolicy) -> Folded:
    """Enter a reaction into the history: the `history_max` latest by (event time, event id)."""
    entry = Reacted(at_ms, reaction.event_id, reaction.item, reaction.action)
    full = len(state.history) >= memory.history_max
    if any(old.event_id == entry.event_id for old in state.history) or (full and entry < state.history[0]):
        return Folded(state, (), "duplicate")
    place = bisect(state.history, entry)
    before = state.history[:place]
    history = (*before, entry, *state.history[place:])[-memory.history_max :]
    return Folded(replace(state, history=history), (ReactionLesson(entry.item, entry.action, before),), "organic")


def _wait(state: UserState, reaction: Seen | Acted, at_ms: int, memory: MemoryPolicy) -> Folded:
    """Keep a reaction until its decision comes; the one that has waited longest makes room."""
    if any(_same(waited.reaction, reaction) for waited in state.waiting):
        return Folded(state, (), "duplicate")
    lessons: tuple[Lesson, ...] = ()
    if len(state.waiting) >= memory.waiting_max:
        state, lessons = _give_up_oldest(state, memory)
    return Folded(replace(state, waiting=(*state.waiting, Waiting(at_ms, reaction))), lessons, "waiting")


def _same(one: Seen | Acted, other: Seen | Acted) -> bool:
    """Whether two reactions say the same of one slot."""
    return (
        type(one) is type(other)
        and (one.request_id, one.slot, one.item) == (other.request_id, other.slot, other.item)
        and getattr(one, "action", None) == getattr(other, "action", None)
    )
