"""Groups that items are in by the rules that limit a page: one for each value of a cap, one for all that is old."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from engine.catalogue import Catalogue
from engine.rules import CapRule, FreshRule, RulePolicy, values_of

KNOWN_MAX = 1 << 20  # items whose groups are remembered; those beyond them are looked up each time
OLDER = "older"  # the group of what a freshness floor leaves out


class Group(NamedTuple):
    """A value by the rule in this place among the limiting ones."""

    place: int
    value: str


def limiting(rules: Mapping[str, RulePolicy]) -> dict[str, CapRule | FreshRule]:
    """The rules that limit what a page holds together, by name."""
    return {name: rule for name, rule in rules.items() if isinstance(rule, CapRule | FreshRule)}


class Groups:
    """The groups of one catalogue's items, numbered as they are met; `names` are the groups by number."""

    def __init__(self, rules: Mapping[str, RulePolicy], catalogue: Catalogue) -> None:
        """No item has been looked at."""
        self._rules: Sequence[CapRule | FreshRule] = list(limiting(rules).values())
        self._ageing = [(at, rule) for at, rule in enumerate(self._rules) if isinstance(rule, FreshRule)]
        self._catalogue = catalogue
        self._numbers: dict[Group, int] = {}
        self._known: dict[str, tuple[tuple[int, ...], int | None]] = {}
        self.names: list[Group] = []

    def of(self, items: Iterable[str], at_ms: int) -> list[tuple[int, ...]]:
        """The groups of items at this time: of each those of the caps by rule, then those of freshness floors."""
        known, look_up = self._known.get, self._look_up
        if not self._ageing:
            return [(known(item) or look_up(item))[0] for item in items]
        return [self._with_age(*(known(item) or look_up(item)), at_ms) for item in items]

    def _look_up(self, item: str) -> tuple[tuple[int, ...], int | None]:
        """The groups of an item by the caps, and when it was published."""
        update = self._catalogue.get(item)
        groups = [
            Group(place, value)
            for place, rule in enumerate(self._rules)
            if isinstance(rule, CapRule)
            for value in values_of(item, update, rule.attribute)
        ]
        found = tuple(map(self._number, groups)), None if update is None else update.published_ms
        if len(self._known) < KNOWN_MAX:
            self._known[item] = found
        return found

    def _with_age(self, groups: tuple[int, ...], published_ms: int | None, at_ms: int) -> tuple[int, ...]:
        for place, rule in self._ageing:
            if published_ms is None or at_ms - published_ms >= rule.younger_ms:
                groups = (*groups, self._number(Group(place, OLDER)))
        return groups

    def _number(self, group: Group) -> int:
        number = self._numbers.setdefault(group, len(self.names))
        if number == len(self.names):
            self.names.append(group)
        return number
