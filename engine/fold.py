"""`fold`: a user's next state of a decision or a reaction, and what the population learns from it.

Everything counted is a sum over (decision, reaction) pairs, each pair once: so reactions may come late,
twice, in any order, or before their decision, and the sums end the same.
"""

from bisect import insort
from typing import Literal, NamedTuple

from msgspec.structs import replace

from engine.decision import Decision
from engine.events import Acted, Organic, Reaction, Seen
from engine.policy import LimitsPolicy
from engine.state import EvidenceLesson, LedgerRow, Lesson, Reacted, ReactionLesson, Tally, UserState, Waiting

Outcome = Literal["adopted", "credited", "noted", "organic", "duplicate", "waiting", "conflict", "dropped"]


class Folded(NamedTuple):
    """The next state, what the population learns, and what became of the input.

    adopted: a decision entered the ledger; credited: a reaction to its slot counted; noted: an action on a
    slot nobody has reported seen yet; organic: a reaction to no slot of ours; duplicate: known already;
    waiting: its decision is not here yet; conflict: the request id is known with other slots;
    dropped: no room to wait, or a view whose decision never came.
    """

    state: UserState
    lessons: tuple[Lesson, ...]
    outcome: Outcome


def fold(state: UserState, value: Decision | Reaction, at_ms: int, limits: LimitsPolicy) -> Folded:
    """Fold a decision or reaction that entered the log at `at_ms`."""
    aged = _expire(state, at_ms, limits)
    if isinstance(value, Decision):
        done = _fold_decision(aged.state, value, limits)
    elif isinstance(value, Organic):
        done = _fold_organic(aged.state, value, at_ms, limits)
    else:
        done = _fold_of_slot(aged.state, value, at_ms, limits)
    return Folded(done.state, aged.lessons + done.lessons, done.outcome) if aged.lessons else done


def _fold_decision(state: UserState, decision: Decision, limits: LimitsPolicy) -> Folded:
    request_id = decision.request.request_id
    items = tuple(decision.slot_items)
    known = state.ledger.get(request_id)
    if known is not None:
        return Folded(state, (), "duplicate" if known.items == items else "conflict")
    names = [part.pool for part in decision.pools]
    pools = tuple(names[pool] for pool in decision.slot_pools)
    row = LedgerRow(decision.at_ms, items, pools, tuple(decision.actions))
    mine = [w for w in state.waiting if w.reaction.request_id == request_id]
    others = tuple(w for w in state.waiting if w.reaction.request_id != request_id)
    state = replace(state, ledger={**state.ledger, request_id: row}, waiting=others)
    lessons: tuple[Lesson, ...] = ()
    for early in mine:
        step = _fold_of_slot(state, early.reaction, early.at_ms, limits)
        state, lessons = step.state, lessons + step.lessons
    return Folded(state, lessons, "adopted")


def _fold_of_slot(state: UserState, reaction: Seen | Acted, at_ms: int, limits: LimitsPolicy) -> Folded:
    row = state.ledger.get(reaction.request_id)
    if row is None:
        return _wait(state, reaction, at_ms, limits)
    if reaction.slot >= len(row.items) or row.items[reaction.slot] != reaction.item:
        return _as_organic(state, reaction, at_ms, limits)
    if isinstance(reaction, Seen):
        return _see(state, row, reaction)
    return _act(state, row, reaction, at_ms, limits)


def _see(state: UserState, row: LedgerRow, seen: Seen) -> Folded:
    bit = 1 << seen.slot
    if row.seen & bit:
        return Folded(state, (), "duplicate")
    pool = row.pools[seen.slot]
    lessons = tuple(
        EvidenceLesson(pool, action, 1.0 if row.acted.get(action, 0) & bit else 0.0, 1.0)
        for action in row.actions
    )
    return _credit(state, seen.request_id, replace(row, seen=row.seen | bit), lessons)


def _act(state: UserState, row: LedgerRow, acted: Acted, at_ms: int, limits: LimitsPolicy) -> Folded:
    bit = 1 << acted.slot
    before = row.acted.get(acted.action, 0)
    if before & bit:
        return Folded(state, (), "duplicate")
    row = replace(row, acted={**row.acted, acted.action: before | bit})
    counts = bool(row.seen & bit) and acted.action in row.actions
    lessons = (EvidenceLesson(row.pools[acted.slot], acted.action, 1.0, 0.0),) if counts else ()
    done = _credit(state, acted.request_id, row, lessons)
    noted = _remember(done.state, acted, at_ms, limits)
    return Folded(noted.state, done.lessons + noted.lessons, "credited" if counts else "noted")


def _credit(state: UserState, request_id: str, row: LedgerRow, lessons: tuple[EvidenceLesson, ...]) -> Folded:
    evidence = dict(state.evidence)
    for lesson in lessons:
        tallies = dict(evidence.get(lesson.pool, {}))
        old = tallies.get(lesson.action, Tally())
        tallies[lesson.action] = Tally(old.successes + lesson.successes, old.exposure + lesson.exposure)
        evidence[lesson.pool] = tallies
    ledger = {**state.ledger, request_id: row}
    return Folded(replace(state, evidence=evidence, ledger=ledger), lessons, "credited")


def _fold_organic(state: UserState, reaction: Organic, at_ms: int, limits: LimitsPolicy) -> Folded:
    return _remember(state, reaction, at_ms, limits)


def _as_organic(state: UserState, reaction: Seen | Acted, at_ms: int, limits: LimitsPolicy) -> Folded:
    """A view of something else than we placed teaches nothing; an action on it is organic."""
    if isinstance(reaction, Seen):
        return Folded(state, (), "dropped")
    return _remember(state, reaction, at_ms, limits)


def _remember(state: UserState, reaction: Acted | Organic, at_ms: int, limits: LimitsPolicy) -> Folded:
    """Enter a reaction into the history: the `history_max` latest by (event time, event id)."""
    entry = Reacted(at_ms, reaction.event_id, reaction.item, reaction.action)
    full = len(state.history) >= limits.history_max
    if any(old.event_id == entry.event_id for old in state.history) or (full and entry < state.history[0]):
        return Folded(state, (), "duplicate")
    history = list(state.history)
    insort(history, entry)
    lesson = ReactionLesson(entry.item, entry.action, state.history)
    return Folded(replace(state, history=tuple(history[-limits.history_max :])), (lesson,), "organic")


def _wait(state: UserState, reaction: Seen | Acted, at_ms: int, limits: LimitsPolicy) -> Folded:
    if len(state.waiting) >= limits.waiting_max:
        return Folded(state, (), "dropped")
    return Folded(replace(state, waiting=(*state.waiting, Waiting(at_ms, reaction))), (), "waiting")


def _expire(state: UserState, at_ms: int, limits: LimitsPolicy) -> Folded:
    """Close decisions and give up waiting for them once `request_horizon_ms` has passed."""
    horizon = at_ms - limits.request_horizon_ms
    late = tuple(w for w in state.waiting if w.at_ms < horizon)
    oldest = next(iter(state.ledger.values()), None)
    if not late and (oldest is None or oldest.at_ms >= horizon):
        return Folded(state, (), "dropped")
    state = replace(
        state,
        ledger={request_id: row for request_id, row in state.ledger.items() if row.at_ms >= horizon},
        waiting=tuple(w for w in state.waiting if w.at_ms >= horizon),
    )
    lessons: tuple[Lesson, ...] = ()
    for waited in late:
        step = _as_organic(state, waited.reaction, waited.at_ms, limits)
        state, lessons = step.state, lessons + step.lessons
    return Folded(state, lessons, "dropped")
