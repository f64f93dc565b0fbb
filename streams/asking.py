"""What an engine is to those who ask it, and how it says no."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from engine.decision import Decision
from engine.errors import InputError
from engine.events import ItemUpdate, Quarantine, Reaction, Request
from engine.policy import Policy
from engine.revisions import PolicyRecord, Revision, Revisions, Source, StaleError, next_record


class UnavailableError(Exception):
    """The engine cannot answer now; the message says why. Nothing of what was asked is half done."""


class BusyError(Exception):
    """More is waiting than is allowed."""


class ConflictError(InputError):
    """The request id has another decision already."""


def check_slots(request: Request, slots: int) -> None:
    """Raise ConflictError where a request's id has a decision of another number of slots than it asks for."""
    if request.slots != slots:
        raise ConflictError(
            f"request {request.request_id} of user {request.user} has a decision of {slots} slots already, so it "
            f"cannot have one of {request.slots}"
        )


class Erased(Struct, frozen=True):
    """A user that is forgotten, up to this log time. Raw logs hold it until `logs_lapse_ms`, None if for ever."""

    user: str
    erased_ms: int
    logs_lapse_ms: int | None


class Ordered(Struct, frozen=True):
    """An order for so many partitions stands in their topics, at this log time in milliseconds since the epoch."""

    partitions: int
    at_ms: int


class Change(Struct, frozen=True):
    """A policy that is to be in force from now on; who wants it, and why.

    `after` is the number of the revision that it was made to follow, None whatever that is; `restores` that of an
    earlier one that it is.
    """

    policy: Policy
    who: str
    why: str
    after: int | None = None
    source: Source = "command"
    restores: int | None = None

    def check(self, revisions: Revisions) -> None:
        """Raise InputError where it would be refused, before anything of it is run."""
        if self.policy.version != revisions.policy.version:
            revisions.check(self.record(revisions.number))

    def record(self, newest: int) -> PolicyRecord:
        """As it stands in topic `policy`, where the newest revision has this number. Raises InputError."""
        if self.after not in (None, newest):
            raise StaleError(f"it was made to follow revision {self.after}, and revision {newest} is in force")
        return next_record(self.policy, newest, self.who, self.why, self.source, self.restores)


class Engine(Protocol):
    """Every method may raise UnavailableError or BusyError, and InputError for what the policy refuses."""

    trouble: str | None  # why it cannot answer now

    async def ask(self, request: Request) -> Decision:
        """The decision of a request; the same one if it has one already. Raises ConflictError."""

    async def report(self, reactions: Sequence[Reaction]) -> None:
        """Take reactions, all or none; they are safe when this returns."""

    async def put(self, items: Sequence[ItemUpdate]) -> None:
        """Take what is known of items, all or none; they are safe when this returns."""

    async def find(self, user: str, request_id: str) -> Decision | None:
        """A decision that still takes reactions; None where there is none."""

    async def erase(self, user: str) -> Erased:
        """Forget a user."""

    async def quarantine(self, what: Quarantine) -> Ordered:
        """Leave reactions of a time out of what was learned; soon, the state is as if they had not come."""

    async def apply(self, change: Change) -> Revision:
        """Put a policy into force. Raises InputError where it is refused, and then the old one stays."""

    async def refuse_policy(self, why: str, reason: str) -> None:
        """Say where an operator looks that a policy was refused."""

    @property
    def revisions(self) -> Revisions:
        """The policies, the one in force last."""

    def gauges(self) -> dict[str, float]:
        """What an operator watches, by name."""
