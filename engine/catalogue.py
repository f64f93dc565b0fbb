"""What the product says of its items: updates that come one by one, and versions of them that never change."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from blending.types import IntArray
from engine.events import TS_MS_MAX, ItemUpdate

TOKENS_MAX = 64  # of an item; what it says beyond them is not read
VOCABULARY_MAX = 1 << 20  # tokens of all items; what comes new beyond them is none
NEVER_MS = TS_MS_MAX + 1
REPLACED_MIN = 1024  # updates that were replaced are let go when they are more than this and than the items

Token = tuple[str, str]  # an attribute's name, and a value of it
NO_TOKENS: IntArray = np.zeros(0, np.int32)


class Entry(NamedTuple):
    """An update of one item, None where it was removed.

    `number` counts the updates of all items, `revision` those of this one; `tokens` are int32. `before` is the
    entry that it took the place of, which versions from before speak of.
    """

    number: int
    revision: int
    update: ItemUpdate | None
    tokens: IntArray
    before: "Entry | None"


class Catalogue(Struct, frozen=True, eq=False):
    """One version: what was said of all items by the first `updates` updates.

    `entries` and `names`, the tokens by their number, only ever grow; this version speaks of the first `tokens` of
    these. `restricted` says from when an item may be shown; others may at any time.
    """

    updates: int
    entries: Mapping[str, Entry]
    tokens: int
    names: list[Token]
    restricted: Mapping[str, int]

    def get(self, item: str) -> ItemUpdate | None:
        """What is known of an item, None where nothing is."""
        entry = self._entry(item)
        return entry.update if entry else None

    def revisions(self, items: Iterable[str]) -> list[int]:
        """How many times each of these items was put since it was last unknown; 0 if it is."""
        return [entry.revision if (entry := self._entry(item)) else 0 for item in items]

    def tokens_of(self, item: str) -> IntArray:
        """The numbers of an item's categorical attributes, int32, none twice; of an unknown item there are none."""
        entry = self._entry(item)
        return entry.tokens if entry else NO_TOKENS

    def barred(self, item: str, at_ms: int) -> bool:
        """Whether an item may not be shown at this time, because it is blocked or not available yet."""
        return self.restricted.get(item, 0) > at_ms

    def _entry(self, item: str) -> Entry | None:
        entry = self.entries.get(item)
        while entry is not None and entry.number >= self.updates:
            entry = entry.before
        return entry


EMPTY = Catalogue(0, {}, 0, [], {})


class CatalogueWriter:
    """Takes updates, and gives out versions. There is one writer; readers each hold a version."""

    def __init__(self) -> None:
        """Begin with no item."""
        self._updates = 0
        self._entries: dict[str, Entry] = {}
        self._replaced = 0  # updates in `_entries` that only older versions speak of
        self._names: list[Token] = []
        self._number_of: dict[Token, int] = {}
        self._restricted: dict[str, int] = {}
        self._newly_restricted = False
        self._version = EMPTY

    def put(self, update: ItemUpdate, at_ms: int = 0) -> None:
        """Take an update in the place of what was known of its item.

        At `at_ms` and later it will be asked for: what is available then is available for good.
        """
        before = self._entries.get(update.item)
        revision = before.revision + 1 if before else 1
        tokens = self._tokens(update)
        self._enter(update.item, Entry(self._updates, revision, update, tokens, before))
        from_ms = NEVER_MS if update.blocked else min(update.available_ms or 0, NEVER_MS)
        self._restrict(update.item, from_ms if from_ms > at_ms else 0)

    def remove(self, item: str) -> None:
        """Forget an item."""
        before = self._entries.get(item)
        if before is not None and before.update is not None:
            self._enter(item, Entry(self._updates, 0, None, NO_TOKENS, before))
            self._restrict(item, 0)

    def version(self) -> Catalogue:
        """What was said until now; the same value until something is said."""
        if self._updates != self._version.updates:
            restricted = dict(self._restricted) if self._newly_restricted else self._version.restricted
            self._newly_restricted = False
            tokens = len(self._names)
            self._version = Catalogue(self._updates, self._entries, tokens, self._names, restricted)
        return self._version

    def _enter(self, item: str, entry: Entry) -> None:
        self._entries[item] = entry
        self._updates += 1
        self._replaced += entry.before is not None
        if self._replaced > max(REPLACED_MIN, len(self._entries)):
            # A new table: older versions keep theirs, with what they speak of.
            known = self._entries.items()
            self._entries = {name: of._replace(before=None) for name, of in known if of.update is not None}
            self._replaced = 0

    def _restrict(self, item: str, from_ms: int) -> None:
        if self._restricted.get(item, 0) == from_ms:
            return
        self._newly_restricted = True
        if from_ms:
            self._restricted[item] = from_ms
        else:
            del self._restricted[item]

    def _tokens(self, update: ItemUpdate) -> IntArray:
        numbers = (self._number(token) for token in islice(dict.fromkeys(_tokens_of(update)), TOKENS_MAX))
        return np.array([number for number in numbers if number is not None], np.int32)

    def _number(self, token: Token) -> int | None:
        """The number of a token; a new one has the next, if there is room."""
        number = self._number_of.get(token)
        if number is None and len(self._names) < VOCABULARY_MAX:
            number = self._number_of[token] = len(self._names)
            self._names.append(token)
        return number


def _tokens_of(update: ItemUpdate) -> Iterator[Token]:
    """The categorical attributes of an item; a number is none."""
    for name, value in update.attributes.items():
        if isinstance(value, bool):
            yield name, "true" if value else "false"
        elif isinstance(value, str):
            yield name, value
        elif isinstance(value, list):
            yield from ((name, one) for one in value)
