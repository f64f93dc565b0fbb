"""`fold`: a user's next state of a decision or a reaction, and what the population learns from it.

Everything counted is a sum over (decision, reaction) pairs, each pair once: so reactions may come late,
twice, in any order, or before their decision, and the sums end the same.
"""

from bisect import bisect, insort
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

from msgspec.structs import replace

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, Organic, Reaction, Seen
from engine.evidence import NOTHING, matured, with_closed
from engine.learning import learned, lessons_of_choice, lessons_of_like, lessons_of_view
from engine.newcomers import plus
from engine.policy import MemoryPolicy, Policy
from engine.shadow import lessons_of_action, lessons_of_slot, listed_of
from engine.state import (
    Cursor,
    LedgerRow,
    Lesson,
    PoolBelief,
    PriorLesson,
    Reacted,
    ReactionLesson,
    Tally,
    Taught,
    UserState,
    Viewed,
    ViewLesson,
    Waiting,
    Weighed,
    WeightLesson,
)

E = TypeVar("E", Reacted, Viewed)
Outcome = Literal["adopted", "credited", "noted", "organic", "duplicate", "waiting", "conflict", "dropped"]


class Folded(NamedTuple):
    """The next state, what the population learns, and what became of the input.

    adopted: a decision entered the ledger; credited: a reaction to its slot counted; noted: an action that
    earns nothing, or on a slot that nobody has reported seen yet; organic: a reaction to no slot of ours, or too
    late for it; duplicate: known already, or older than all of a full history; waiting: its decision is not here
    yet; conflict: the request id is known with other slots; dropped: a view of nothing of ours.
    """

    state: UserState
    lessons: tuple[Lesson, ...]
    outcome: Outcome


def check_reaction(reaction: Reaction, policy: Policy) -> None:
    """Raise InputError for an action that the policy does not name, whoever reports it."""
    if not isinstance(reaction, Seen) and reaction.action not in policy.actions:
        raise InputError(f'the policy does not name action {reaction.action!r}: add [actions."{reaction.action}"]')


def fold(
    state: UserState, value: Decision | Reaction, at_ms: int, memory: MemoryPolicy, hiding: Collection[str] = ()
) -> Folded:
    """Fold a decision or reaction that entered the log at `at_ms`; `hiding` are the actions that hide something.

    Only reactions move the clock that closes decisions: they come in the order of one topic, and decisions of
    another may be ahead of them or behind.
    """
    if isinstance(value, Decision):
        return _fold_decision(state, value, memory, hiding)
    state, lessons = close_due(state, at_ms, memory)
    done = _fold_reaction(state, value, at_ms, memory, hiding)
    return Folded(done.state, lessons + done.lessons, done.outcome) if lessons else done


def close_due(state: UserState, at_ms: int, memory: MemoryPolicy) -> tuple[UserState, tuple[Lesson, ...]]:
    """Close what takes no more reactions at `at_ms`: decisions, and reactions that wait for one in vain.

    `fold` does this with a reaction; a runner also does it for people who left, or their views would never count.
    """
    lessons: tuple[Lesson, ...] = ()
    while state.ledger and next(iter(state.ledger.values())).until_ms < at_ms:
        state, taught = _close_oldest(state, memory)
        lessons += taught
    kept = 0
    while kept < len(state.waiting) and state.waiting[kept].at_ms < at_ms - memory.window_ms:
        kept += 1
    return (replace(state, waiting=state.waiting[kept:]) if kept else state), lessons


def _close_oldest(state: UserState, memory: MemoryPolicy) -> tuple[UserState, tuple[Lesson, ...]]:
    """Turn the oldest open decision into closed evidence, matured as far as it came."""
    request_id, row = next(iter(state.ledger.items()))
    ledger = dict(state.ledger)
    del ledger[request_id]
    terms = matured(row)
    state = with_closed(replace(state, ledger=ledger), row, terms, memory)
    if not row.newcomer:
        return state, ()
    taught = dict(state.taught)
    lessons = []
    for (pool, action), term in terms.items():
        cell = (row.cohort, pool, action)
        old = taught.get(cell, Taught(0.0, 0.0, 0.0, 0.0, row.at_ms))
        level = row.levels[row.actions.index(action)]
        new = taught[cell] = plus(old, term, level, row.at_ms, memory.cohort_half_life_ms)
        before, after = (Tally(one.successes, one.leveled_exposure) for one in (old, new))
        lessons.append(PriorLesson(cell, before, after, term.exposure, row.at_ms))
    return replace(state, taught=taught), tuple(lessons)


def row_of(decision: Decision, memory: MemoryPolicy) -> LedgerRow:
    """The ledger row of a decision: a view of a pool's k-th item in a feed counts delta ** k."""
    names = [part.pool for part in decision.pools]
    before = [part.before for part in decision.pools]
    ranks = [before[pool] + decision.slot_pools[:slot].count(pool) for slot, pool in enumerate(decision.slot_pools)]
    delta = 1.0 if decision.delta is None else decision.delta
    return LedgerRow(
        at_ms=decision.at_ms,
        until_ms=decision.at_ms + memory.window_ms,
        slots=decision.request.slots,
        items=tuple(decision.slot_items),
        pools=tuple(names[pool] for pool in decision.slot_pools),
        ranks=tuple(ranks),
        weights=tuple(delta**rank for rank in ranks),
        actions=tuple(decision.actions),
        delays={names[pool]: tuple(decision.pools[pool].delays) for pool in set(decision.slot_pools)},
        served=_served_after(decision),
        newcomer=decision.newcomer,
        cohort=decision.cohort,
        levels=tuple(decision.levels),
        weighed=_weighed_of(decision),
        listed=listed_of(decision),
    )


def _weighed_of(decision: Decision) -> Weighed | None:
    """What the ledger keeps of the candidates that the decision considered."""
    considered = decision.considered
    if considered is None:
        return None
    return Weighed(
        considered.layout,
        tuple(considered.items),
        considered.x,
        tuple(considered.etas),
        tuple(action for action, reward in zip(decision.actions, decision.rewards, strict=True) if reward > 0),
        considered.seen_weight,
        considered.full,
    )


def cursor_of(state: UserState, decision: Decision, memory: MemoryPolicy) -> Cursor | None:
    """Where the feed of a decision ends; it goes on from the page before, if that was the user's last.

    None where pages before this one are not known, as when `feeds` has forgotten them: the feed cannot go on.
    """
    earlier = state.cursor.items if decision.start and state.cursor and state.cursor.feed == decision.feed else ()
    if len(earlier) != decision.start:
        return None
    return Cursor(
        decision.request.request_id,
        decision.feed,
        decision.at_ms + memory.window_ms,
        decision.policy_version,
        decision.cohort,
        decision.mode,
        decision.levels,
        decision.epsilon,
        (*earlier, *decision.slot_items),
        tuple(
            PoolBelief(part.alpha, part.beta, part.strength, part.fallback, part.before + part.realised)
            for part in decision.pools
        ),
    )


def _served_after(decision: Decision) -> dict[str, int]:
    """How many of the user's slots each pool has been given, this decision included."""
    return {part.pool: part.served + part.realised for part in decision.pools}


def _fold_decision(state: UserState, decision: Decision, memory: MemoryPolicy, hiding: Collection[str]) -> Folded:
    request_id = decision.request.request_id
    known = state.ledger.get(request_id)
    if known is not None:
        return Folded(state, (), "duplicate" if known.items == tuple(decision.slot_items) else "conflict")
    mine = [waited for waited in state.waiting if waited.reaction.request_id == request_id]
    state = replace(
        state,
        ledger=_with_row(state, request_id, row_of(decision, memory), memory),
        waiting=tuple(waited for waited in state.waiting if waited.reaction.request_id != request_id),
        served={**state.served, **_served_after(decision)},
        cursor=cursor_of(state, decision, memory),
    )
    lessons: tuple[Lesson, ...] = ()
    for early in mine:
        step = _fold_reaction(state, early.reaction, early.at_ms, memory, hiding)
        state, lessons = step.state, lessons + step.lessons
    return Folded(state, lessons, "adopted")


def _with_row(state: UserState, request_id: str, row: LedgerRow, memory: MemoryPolicy) -> dict[str, LedgerRow]:
    """The ledger with one more row. Beyond `open_max` the oldest takes only what is in the log by now.

    It stays until the clock has passed that: so what is credited does not depend on which topic was read first.
    """
    ledger = {**state.ledger, request_id: row}
    surplus = len(ledger) - memory.open_max
    for old_id, old in islice(state.ledger.items(), max(surplus, 0)):
        if old.until_ms > row.at_ms:
            ledger[old_id] = replace(old, until_ms=row.at_ms)
    return ledger


def _fold_reaction(
    state: UserState, reaction: Reaction, at_ms: int, memory: MemoryPolicy, hiding: Collection[str]
) -> Folded:
    """Credit a reaction to its slot if it has one, and enter an action into the history in any case."""
    if not isinstance(reaction, Seen) and reaction.action in hiding:
        state = _hide(state, reaction, at_ms, memory)
    if isinstance(reaction, Organic):
        known = _remember(state, reaction, at_ms, memory)
        return known if known.outcome == "duplicate" else _find(known, reaction, at_ms, memory)
    row = state.ledger.get(reaction.request_id)
    if row is None:
        done = _wait(state, reaction, at_ms, memory)
    elif at_ms > row.until_ms or row.items[reaction.slot : reaction.slot + 1] != (reaction.item,):
        done = Folded(state, (), "dropped" if isinstance(reaction, Seen) else "organic")
    elif isinstance(reaction, Seen):
        done = _see(state, row, reaction, at_ms, memory)
    else:
        done = _act(state, row, reaction, at_ms, memory)
    if isinstance(reaction, Seen) or done.outcome == "duplicate":
        return done
    known = _remember(done.state, reaction, at_ms, memory)
    outcome = known.outcome if done.outcome == "organic" else done.outcome
    return Folded(known.state, done.lessons + known.lessons, outcome)


def _see(state: UserState, row: LedgerRow, seen: Seen, at_ms: int, memory: MemoryPolicy) -> Folded:
    bit = 1 << seen.slot
    if row.seen & bit:
        return Folded(state, (), "duplicate")
    lessons = tuple(
        [
            _view_lesson(row, seen.slot, action, 1.0 if row.acted.get(action, 0) & bit else 0.0, 1.0, None)
            for action in row.actions
        ]
    )
    row = replace(row, seen=row.seen | bit, tallies=_with_lessons(row, seen.slot, lessons))
    shadows = lessons_of_slot(row, seen.slot)
    if memory.views_max:
        views = latest(state.views, Viewed(at_ms, seen.event_id, seen.item), memory.views_max)
        state = replace(state, views=views)
    done = Folded(_with_open(state, seen.request_id, row), (*lessons, *shadows), "credited")
    return _learn(done, row, lessons_of_view(row, seen.slot), memory)


def _act(state: UserState, row: LedgerRow, acted: Acted, at_ms: int, memory: MemoryPolicy) -> Folded:
    bit = 1 << acted.slot
    before = row.acted.get(acted.action, 0)
    if before & bit:
        return Folded(state, (), "duplicate")
    counts = bool(row.seen & bit) and acted.action in row.actions
    delay_ms = max(at_ms - row.at_ms, 0)
    lessons = (_view_lesson(row, acted.slot, acted.action, 1.0, 0.0, delay_ms),) if counts else ()
    bits = {**row.acted, acted.action: before | bit}
    row = replace(row, acted=bits, tallies=_with_lessons(row, acted.slot, lessons))
    row, shadows = lessons_of_action(row, acted.item, acted.action)
    done = Folded(_with_open(state, acted.request_id, row), (*lessons, *shadows), "credited" if counts else "noted")
    liking = row.weighed.liking if row.weighed else ()
    liked = [action for action in liking if row.acted.get(action, 0) & bit]
    return _learn(done, row, lessons_of_like(row, acted.slot), memory) if liked == [acted.action] else done


def _find(known: Folded, reaction: Organic, at_ms: int, memory: MemoryPolicy) -> Folded:
    """What an organic action says of the user's last decision, if that listed or considered the item."""
    before = [item for item in known.state.ledger.items() if item[1].at_ms <= at_ms <= item[1].until_ms]
    if not before:
        return known
    request_id, row = max(before, key=lambda item: item[1].at_ms)
    row, shadows = lessons_of_action(row, reaction.item, reaction.action)
    if row.listed is not None:
        known = Folded(_with_open(known.state, request_id, row), known.lessons + shadows, known.outcome)
    if row.weighed is None or reaction.action not in row.weighed.liking:
        return known
    return _learn(known, row, lessons_of_choice(row, reaction.item), memory)


def _learn(done: Folded, row: LedgerRow | None, taught: tuple[WeightLesson, ...], memory: MemoryPolicy) -> Folded:
    """The same with what a reaction says of the weights, to the user's own and to everybody's."""
    if row is None or row.weighed is None or not taught:
        return done
    own = done.state.weights
    for lesson in taught:
        own = learned(own, lesson, memory.weights_half_life_ms, full=row.weighed.full)
    return Folded(replace(done.state, weights=own), done.lessons + taught, done.outcome)


def _view_lesson(
    row: LedgerRow, slot: int, action: str, successes: float, exposure: float, delay_ms: int | None
) -> ViewLesson:
    return ViewLesson((row.pools[slot], action), row.ranks[slot], successes, exposure, row.at_ms, delay_ms)


def _with_lessons(row: LedgerRow, slot: int, lessons: tuple[ViewLesson, ...]) -> Mapping[str, tuple[Tally, ...]]:
    """The sums of a row with what was learned of one slot."""
    if not lessons:
        return row.tallies
    pool, weight = row.pools[slot], row.weights[slot]
    tallies = list(row.tallies.get(pool) or [NOTHING] * len(row.actions))
    for lesson in lessons:
        place = row.actions.index(lesson.cell[1])
        tallies[place] = tallies[place].plus(lesson.successes, weight * lesson.exposure)
    return {**row.tallies, pool: tuple(tallies)}


def _with_open(state: UserState, request_id: str, row: LedgerRow) -> UserState:
    return replace(state, ledger={**state.ledger, request_id: row})


def _remember(state: UserState, reaction: Acted | Organic, at_ms: int, memory: MemoryPolicy) -> Folded:
    """Enter a reaction into the history: the `history_max` latest by (event time, event id)."""
    entry = Reacted(at_ms, reaction.event_id, reaction.item, reaction.action)
    full = len(state.history) >= memory.history_max
    if any(old.event_id == entry.event_id for old in state.history) or (full and entry < state.history[0]):
        return Folded(state, (), "duplicate")
    place = bisect(state.history, entry)
    before = state.history[:place]
    history = (*before, entry, *state.history[place:])[-memory.history_max :]
    return Folded(
        replace(state, history=history),
        (ReactionLesson(entry.item, entry.action, before, at_ms, len(before)),),
        "organic",
    )


def latest(known: tuple[E, ...], entry: E, most: int) -> tuple[E, ...]:
    """The `most` greatest of a sorted set and one more: the same in whichever order they came."""
    if entry in known:
        return known
    entries = list(known)
    insort(entries, entry)
    return tuple(entries[-most:])


def _hide(state: UserState, reaction: Acted | Organic, at_ms: int, memory: MemoryPolicy) -> UserState:
    """Remember a reaction that hides something, once for its event, whatever its item was or whose."""
    if any(old.event_id == reaction.event_id for old in state.hidden):
        return state
    entry = Reacted(at_ms, reaction.event_id, reaction.item, reaction.action)
    return replace(state, hidden=latest(state.hidden, entry, memory.hidden_max))


def _wait(state: UserState, reaction: Seen | Acted, at_ms: int, memory: MemoryPolicy) -> Folded:
    """Keep a reaction until its decision comes; the one that has waited longest makes room."""
    if any(_same(waited.reaction, reaction) for waited in state.waiting):
        return Folded(state, (), "duplicate")
    waiting = (*state.waiting, Waiting(at_ms, reaction))[-memory.waiting_max :]
    return Folded(replace(state, waiting=waiting), (), "waiting")


def _same(one: Seen | Acted, other: Seen | Acted) -> bool:
    """Whether two reactions say the same of one slot."""
    return (
        type(one) is type(other)
        and (one.request_id, one.slot, one.item) == (other.request_id, other.slot, other.item)
        and getattr(one, "action", None) == getattr(other, "action", None)
    )
