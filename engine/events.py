"""What enters the engine: requests, and the three kinds of reaction to a feed."""

from typing import TypeAlias

from msgspec import Struct

SCHEMA = 1  # version of every event and decision
ID_LENGTH_MAX = 256
CONTEXT_MAX = 32
SLOTS_MAX = 1000  # of any feed; a policy may allow fewer
TS_MS_MAX = 2**53  # beyond it JSON's readers do not agree on a whole number; the year is 287396 by then


def check_ids(*ids: str) -> None:
    """Raise ValueError unless every id has 1 to ID_LENGTH_MAX characters."""
    for name in ids:
        if not 0 < len(name) <= ID_LENGTH_MAX:
            raise ValueError(f"an id must have 1 to {ID_LENGTH_MAX} characters, not {len(name)}")


def check_schema(schema: int) -> None:
    """Raise ValueError for a schema version that this build does not read."""
    if schema != SCHEMA:
        raise ValueError(f"schema version {schema} is not known; this build reads version {SCHEMA}")


def check_time(ts_ms: int | None) -> None:
    """Raise ValueError for a time that no clock can show."""
    if ts_ms is not None and not 0 <= ts_ms <= TS_MS_MAX:
        raise ValueError(f"ts_ms counts milliseconds since the epoch, so it is from 0 to {TS_MS_MAX}")


class Request(Struct, frozen=True, tag_field="kind", tag="request", kw_only=True):
    """Somebody wants a feed of `slots` items. (user, request_id) is the identity of the decision.

    `candidates` are the items, best first, of the pools that the policy calls external; one that is not named did
    not answer in time. `context` says where and when it is asked. `continues` is the request id of the page before
    this one, for the next page of the same feed.
    """

    request_id: str
    user: str
    slots: int
    candidates: dict[str, list[str]] = {}
    context: dict[str, str] = {}
    continues: str | None = None
    ts_ms: int | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse a request that cannot be answered."""
        check_schema(self.schema)
        check_ids(self.request_id, self.user)
        check_time(self.ts_ms)
        if not 1 <= self.slots <= SLOTS_MAX:
            raise ValueError(f"a feed has 1 to {SLOTS_MAX} slots, not {self.slots}")
        for pool, items in self.candidates.items():
            check_ids(pool, *items)
        if len(self.context) > CONTEXT_MAX:
            raise ValueError(f"a context has at most {CONTEXT_MAX} keys, not {len(self.context)}")
        for key, value in self.context.items():
            if not (0 < len(key) <= ID_LENGTH_MAX and len(value) <= ID_LENGTH_MAX):
                raise ValueError(f"keys and values of a context have at most {ID_LENGTH_MAX} characters")
        if self.continues is not None:
            check_ids(self.continues)
            if self.continues == self.request_id:
                raise ValueError("a page cannot continue itself")


class _OfSlot(Struct, frozen=True, tag_field="kind", kw_only=True):
    event_id: str
    user: str
    request_id: str
    slot: int
    item: str
    ts_ms: int | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        check_schema(self.schema)
        check_ids(self.event_id, self.user, self.request_id, self.item)
        check_time(self.ts_ms)
        if not 0 <= self.slot < SLOTS_MAX:
            raise ValueError(f"slots count from 0 to {SLOTS_MAX - 1}, so {self.slot} is none")


class Seen(_OfSlot, frozen=True, tag="seen"):
    """The user saw the item in this slot (0 is the first). Only this makes exposure."""


class Acted(_OfSlot, frozen=True, tag="acted", kw_only=True):
    """The user did something with the item in this slot."""

    action: str

    def __post_init__(self) -> None:
        """Refuse an action without a name."""
        super().__post_init__()
        check_ids(self.action)


class Organic(Struct, frozen=True, tag_field="kind", tag="organic", kw_only=True):
    """The user did something with an item that no feed of ours had put there."""

    event_id: str
    user: str
    item: str
    action: str
    ts_ms: int | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse empty ids."""
        check_schema(self.schema)
        check_ids(self.event_id, self.user, self.item, self.action)
        check_time(self.ts_ms)


class Tick(Struct, frozen=True, tag_field="kind", tag="tick", kw_only=True):
    """Moves the clock of a partition whose users are silent. A worker writes it; it has no user and no key."""

    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema."""
        check_schema(self.schema)


class Switch(Struct, frozen=True, tag_field="kind", tag="switch", kw_only=True):
    """From here on the partition is folded by this revision of the policy. A worker writes it, without a key."""

    number: int
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema."""
        check_schema(self.schema)


class Erase(Struct, frozen=True, tag_field="kind", tag="erase", kw_only=True):
    """Forget a user: all that stands before this in the log. An operator writes it, with the user as its key."""

    user: str
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse an empty id."""
        check_schema(self.schema)
        check_ids(self.user)


class Quarantine(Struct, frozen=True, tag_field="kind", tag="quarantine", kw_only=True):
    """Take the reactions of a time out of what was learned: of one user, or of all in the partition it stands in.

    Both ends belong to it; times are the log's, in milliseconds since the epoch. Without an end it ends where it
    stands.
    """

    from_ms: int
    to_ms: int | None = None
    user: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse times that no clock can show, or none at all between them."""
        check_schema(self.schema)
        check_ids(*([] if self.user is None else [self.user]))
        check_time(self.from_ms)
        check_time(self.to_ms)
        if self.to_ms is not None and self.from_ms > self.to_ms:
            raise ValueError(f"a quarantine from {self.from_ms} to {self.to_ms} holds no time")


class ItemUpdate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that is known of an item; a later update of the same item takes the place of this one.

    `available_ms` is when it may first be shown (null: at once); `blocked` says that it may not be.
    A field that is not known is refused: what else there is to say belongs into `attributes`.
    """

    item: str
    attributes: dict[str, str | int | float | bool | list[str]] = {}
    creator: str | None = None
    published_ms: int | None = None
    available_ms: int | None = None
    blocked: bool = False
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse empty ids."""
        check_schema(self.schema)
        check_ids(self.item, *([] if self.creator is None else [self.creator]))
        if beside := sorted(self.attributes.keys() & {"item", "creator"}):
            raise ValueError(f"{beside[0]} belongs beside attributes, not into them: rules look for it there")


Reaction: TypeAlias = Seen | Acted | Organic
Event: TypeAlias = Request | Reaction
