"""One judge for every engine: what a single-threaded reference makes of the topics is what the stores hold.

`feeds` and `feedback` are [(log time, value)] in the order of their topics, `states` what the stores hold by user.
Every request has one decision that counts, the first of its id, and every decision follows from its own record.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import pytest
from reference_refold import Reference

from engine.decision import Decision, difference
from engine.events import Acted, Erase, Organic, Quarantine, Seen
from engine.evidence import evidence_at
from engine.fold import close_due
from engine.policy import MemoryPolicy
from engine.state import Tally, UserState

Timed = Sequence[tuple[int, object]]


def kept(feeds: Timed, feedback: Timed) -> tuple[Timed, Timed]:
    """Without what was erased, which is all of a user up to that log time, or quarantined."""
    erased = {value.user: at_ms for at_ms, value in feedback if isinstance(value, Erase)}
    bad = [value for _, value in feedback if isinstance(value, Quarantine)]
    decisions = [row for row in feeds if row[1].at_ms > erased.get(row[1].request.user, -1)]
    reactions = [
        (at_ms, value)
        for at_ms, value in feedback
        if isinstance(value, Seen | Acted | Organic)
        and at_ms > erased.get(value.user, -1)
        and not any(what.from_ms <= at_ms <= what.to_ms and what.user in (None, value.user) for what in bad)
    ]
    return decisions, reactions


def judge(
    feeds: Timed,
    feedback: Timed,
    states: Mapping[str, UserState],
    memory: MemoryPolicy,
    asked: Iterable[tuple[str, str]] = (),
) -> None:
    """`asked` are the (user, request id) that must have been decided."""
    decisions = [value for _, value in feeds]
    assert all(isinstance(decision, Decision) for decision in decisions)
    for decision in decisions:
        assert difference(decision) is None
    decided = {(decision.request.user, decision.request.request_id) for decision in decisions}
    missing = set(asked) - decided
    assert not missing, f"{len(missing)} of {len(set(asked))} have no decision, such as {sorted(missing)[:3]}"
    now_ms = max((at_ms for at_ms, _ in [*feeds, *feedback]), default=0) + 10 * memory.window_ms
    feeds, reactions = kept(feeds, feedback)
    reference = Reference(
        feeds,
        reactions,
        window_ms=memory.window_ms,
        half_life_ms=memory.half_life_ms,
        half_life_slots=memory.half_life_slots,
        history_max=memory.history_max,
    )
    assert states.keys() >= reference.served.keys() | {user for user, kept in reference.history.items() if kept}
    for user, state in states.items():
        closed, _ = close_due(state, now_ms, memory)
        assert closed.ledger == {}
        same(evidence_at(closed, now_ms, memory), reference.evidence(user, now_ms))
        taught = {cell: Tally(of.successes, of.leveled_exposure) for cell, of in closed.taught.items()}
        same(taught, reference.taught(user))
        assert [msgspec.structs.astuple(entry) for entry in closed.history] == reference.history.get(user, [])
        assert closed.served == reference.served[user]


def same(found: Mapping, wanted: Mapping) -> None:
    """Sums to 1e-9, in the cells that hold anything."""
    assert {cell for cell, tally in found.items() if tally.exposure} == wanted.keys()
    for cell, (successes, exposure) in wanted.items():
        assert found[cell].successes == pytest.approx(successes, abs=1e-9)
        assert found[cell].exposure == pytest.approx(exposure, abs=1e-9)
