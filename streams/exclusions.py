"""What a partition leaves out of its state for good: users who were erased, and reactions of a bad time.

Both stand in `feedback`, behind what they leave out: so they never lapse before it does, and every fold of the
topic meets them. An erased user is forgotten where the record is met. A quarantine cannot be taken out of sums that
hold it already: it waits until the partition was folded again without it.
"""

from msgspec import Struct
from msgspec.structs import replace

from engine.events import Quarantine
from engine.state import UserState

NOBODY = UserState()


class ErasedFact(Struct, frozen=True):
    """On topic `erased`: a user, and the log time up to which it is forgotten in its partition."""

    user: str
    partition: int
    at_ms: int


class Quarantined(Struct, frozen=True, array_like=True):
    """A quarantine, and whether the state is without it; `offset` is where it stands in `feedback`."""

    offset: int
    what: Quarantine
    folded: bool


class Exclusions(Struct, frozen=True, array_like=True):
    """Erased users with the log time up to which they are, and quarantines in their order. A value."""

    erased: dict[str, int] = {}
    quarantined: tuple[Quarantined, ...] = ()

    def hold(self, user: str, at_ms: int) -> bool:
        """Whether a reaction of this user and time is left out."""
        if at_ms <= self.erased.get(user, -1):
            return True
        return any(
            one.what.from_ms <= at_ms <= (one.what.to_ms or 0) and one.what.user in (None, user)
            for one in self.quarantined
        )

    @property
    def unfolded(self) -> bool:
        """Whether the state holds reactions that are to be left out."""
        return any(not one.folded for one in self.quarantined)

    def with_erased(self, user: str, at_ms: int) -> "Exclusions":
        """The same, and this user."""
        return replace(self, erased={**self.erased, user: max(at_ms, self.erased.get(user, -1))})

    @property
    def oldest_unfolded(self) -> Quarantined:
        """The quarantine whose time begins first, of those that the state still holds."""
        return min((one for one in self.quarantined if not one.folded), key=lambda one: one.what.from_ms)

    def with_quarantine(self, offset: int, what: Quarantine, at_ms: int) -> "Exclusions":
        """The same, and this quarantine, unless it is known. Without an end it ends where its record stands."""
        if any(one.offset == offset for one in self.quarantined):
            return self
        if what.to_ms is None:
            what = replace(what, to_ms=max(at_ms, what.from_ms))
        return replace(self, quarantined=(*self.quarantined, Quarantined(offset, what, folded=False)))

    def without_oldest(self) -> "Exclusions":
        """The same, where nothing can be done about the oldest that waits."""
        oldest = self.oldest_unfolded
        done = tuple(replace(one, folded=True) if one is oldest else one for one in self.quarantined)
        return replace(self, quarantined=done)

    def all_folded(self) -> "Exclusions":
        """The same, for a state that is made without any of it."""
        return replace(self, quarantined=tuple(replace(one, folded=True) for one in self.quarantined))


def forgotten(state: UserState, at_ms: int) -> UserState:
    """What is left of a user who was erased at this log time: decisions made since, and nothing else."""
    ledger = {request_id: row for request_id, row in state.ledger.items() if row.at_ms > at_ms}
    if not ledger:
        return NOBODY
    cursor = state.cursor if state.cursor and state.cursor.request_id in ledger else None
    return UserState(ledger=ledger, served=state.served, cursor=cursor)
