"""What is remembered of one user: evidence per pool and action, open decisions, and the reactions made."""

from collections.abc import Mapping

from msgspec import Struct

from engine.events import Acted, Seen


class Tally(Struct, frozen=True, array_like=True):
    """S and E of one (pool, action): examined views followed by the action, and examined views."""

    successes: float = 0.0
    exposure: float = 0.0


class LedgerRow(Struct, frozen=True, array_like=True):
    """An open decision: what stood in each slot, and what is known of it so far.

    `seen` is a bit set over slots; `acted` holds one per action that was taken. A bit is set once, whatever
    is delivered again: this is the dedupe.
    """

    at_ms: int
    items: tuple[str, ...]
    pools: tuple[str, ...]
    actions: tuple[str, ...]
    seen: int = 0
    acted: Mapping[str, int] = {}


class Reacted(Struct, frozen=True, array_like=True, order=True):
    """One reaction in a user's history, ordered by (event time, event id)."""

    at_ms: int
    event_id: str
    item: str
    action: str


class Waiting(Struct, frozen=True, array_like=True):
    """A reaction that came before its decision."""

    at_ms: int
    reaction: Seen | Acted


class UserState(Struct, frozen=True, kw_only=True):
    """A user's state: a value. `fold` makes the next one; nothing in it is ever changed in place.

    `evidence` is by pool, then action; `ledger` by request id, oldest first; `history` is sorted.
    """

    evidence: Mapping[str, Mapping[str, Tally]] = {}
    ledger: Mapping[str, LedgerRow] = {}
    history: tuple[Reacted, ...] = ()
    waiting: tuple[Waiting, ...] = ()


class EvidenceLesson(Struct, frozen=True):
    """What the population learns of a pool: an amount to add to S and E of (pool, action)."""

    pool: str
    action: str
    successes: float
    exposure: float


class ReactionLesson(Struct, frozen=True):
    """What the population learns of an item: somebody who had the history `before` did this with it."""

    item: str
    action: str
    before: tuple[Reacted, ...]


Lesson = EvidenceLesson | ReactionLesson
