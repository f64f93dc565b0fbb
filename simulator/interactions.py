"""One line of somebody's log, as the backtest reads it."""

from msgspec import Struct

NOT_POSITIVE = "rated"  # the action of rows that only teach; it earns nothing unless a policy says so


class Interaction(Struct, frozen=True):
    """A user did something with an item.

    `positive` says whether the backtest asks for a feed before it (and scores whether the item is in it);
    the others only teach, as organic events. `at_ms` is the event's own time in milliseconds since the epoch.
    """

    user: str
    item: str
    at_ms: int
    action: str
    positive: bool
