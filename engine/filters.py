"""What one request is not offered, and why: reactions, earlier pages, catalogue, block lists, hides and fatigue.

Pools leave it out of what they rank, so nothing that may not be shown takes a place in a list. Nothing here is
learned from, and nothing here looks at what was learned.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from blending.types import IntArray, ItemArray
from engine.facts import Facts
from engine.rules import CATALOGUE, HIDDEN, SHOWN, BlockRule, SeenRule, of_kind, values_of
from engine.state import UserState

NOBODYS: frozenset[str] = frozenset()


class Filter(NamedTuple):
    """What is left out for one user at one moment.

    Items that earlier pages have `shown`, `hidden` items and `creators`, and by rule what the user is `tired` of.
    """

    at_ms: int
    shown: frozenset[str] = NOBODYS
    hidden: frozenset[str] = NOBODYS
    creators: frozenset[str] = NOBODYS
    tired: Mapping[str, frozenset[str]] = {}

    def reason(self, item: str, facts: Facts) -> str | None:
        """Why an item is not offered, None if it is; of several reasons the first."""
        if item in self.shown:
            return SHOWN
        if facts.catalogue.barred(item, self.at_ms):
            return CATALOGUE
        update = facts.catalogue.get(item) if self.creators or facts.blocked_values else None
        for name, rule in of_kind(facts.policy.rules, BlockRule).items():
            if not facts.blocked_values[name].isdisjoint(values_of(item, update, rule.attribute)):
                return name
        if item in self.hidden or (update is not None and update.creator in self.creators):
            return HIDDEN
        return next((name for name, items in self.tired.items() if item in items), None)

    def numbers(self, facts: Facts) -> dict[str, IntArray]:
        """The same of all items that the population knows: their numbers by reason, int64."""
        of_creators = [facts.of_creator.get(creator, ()) for creator in self.creators]
        hidden = _known(self.hidden, facts)
        return {
            SHOWN: _known(self.shown, facts),
            CATALOGUE: facts.barred(self.at_ms),
            **facts.blocked,
            HIDDEN: np.array([*hidden.tolist(), *(number for row in of_creators for number in row)], np.int64),
            **{name: _known(items, facts) for name, items in self.tired.items()},
        }


def filter_of(state: UserState, facts: Facts, at_ms: int, shown: frozenset[str] = NOBODYS) -> Filter:
    """What is left out for a user at this time of the log, beside what the user has reacted to."""
    policy = facts.policy
    if not policy.filters:
        return Filter(at_ms, shown)
    updates = [facts.catalogue.get(one.item) for one in state.hidden if policy.hides.get(one.action) == "creator"]
    return Filter(
        at_ms,
        shown,
        frozenset(one.item for one in state.hidden if one.action in policy.hides),
        frozenset(update.creator for update in updates if update is not None and update.creator is not None),
        {name: _tired(state, rule, at_ms) for name, rule in of_kind(policy.rules, SeenRule).items()},
    )


def _tired(state: UserState, rule: SeenRule, at_ms: int) -> frozenset[str]:
    """What the user saw as often as the rule allows, within its time, and has not reacted to."""
    views = Counter(view.item for view in state.views if view.at_ms > at_ms - rule.within_ms)
    often = {item for item, times in views.items() if times >= rule.times}
    return frozenset(often.difference(entry.item for entry in state.history))


def _known(items: frozenset[str], facts: Facts) -> IntArray:
    numbers = (facts.population.number(item) for item in items)
    return np.array([number for number in numbers if number is not None], np.int64)


class Excluded(NamedTuple):
    """What a request is not offered: item numbers int64, sorted, and of each the first reason by its place."""

    numbers: IntArray
    reasons: IntArray
    names: tuple[str, ...]

    def counted(self, passed: ItemArray) -> dict[str, int]:
        """How many of these items, all excluded, there are for each reason; none that is 0."""
        counts = np.bincount(self.reasons[np.searchsorted(self.numbers, passed)], minlength=len(self.names))
        return {name: count for name, count in zip(self.names, counts.tolist(), strict=True) if count}


NOTHING = Excluded(np.zeros(0, np.int64), np.zeros(0, np.int64), ())


def excluded_of(numbers: Mapping[str, IntArray]) -> Excluded:
    """Item numbers by reason, together."""
    some = {name: one for name, one in numbers.items() if one.size}
    if not some:
        return NOTHING
    sizes = [one.size for one in some.values()]
    found, first = np.unique(np.concatenate(list(some.values())), return_index=True)
    return Excluded(found, np.repeat(np.arange(len(sizes)), sizes)[first], tuple(some))
