"""Caps across pools: at most so many items of a page share a value, whichever pools place them.

Each pool's list is what it would show by itself under the caps, and the allocator passes over what would go beyond
them together with the others. A floor of fresh items is a cap on all older ones. Where the page would be short, the
cap of the lowest priority gives way, no further than it must.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from blending.blend import NO_GROUPS, NO_PLAN, Lists, lists_of
from blending.types import IntArray, ItemArray
from engine.cap_record import Cap
from engine.facts import Facts
from engine.page import Degraded
from engine.policy import Policy
from engine.rules import CapRule, FreshRule, values_of

DEPTH = 8  # times as many items as slots are asked of each pool where rules thin or reorder its list
OLDER = "older"  # the group of what a freshness floor leaves out
Values: TypeAlias = tuple[tuple[str, ...], ...]  # an item's by rule


class Limit(NamedTuple):
    """What a rule allows of a page: its place among the rules that limit, and `most` items of each group."""

    place: int
    rule: str
    most: int
    priority: int
    strict: bool


def limits_of(policy: Policy, slots: int) -> list[Limit]:
    """What the policy's caps and freshness floors allow of a page, in its order."""
    return [
        Limit(
            place,
            name,
            min(rule.most, slots) if isinstance(rule, CapRule) else max(slots - rule.least, 0),
            rule.priority,
            rule.strict,
        )
        for place, (name, rule) in enumerate(limiting(policy).items())
    ]


def limiting(policy: Policy) -> dict[str, CapRule | FreshRule]:
    """The rules that limit what a page holds together, by name."""
    return {name: rule for name, rule in policy.rules.items() if isinstance(rule, CapRule | FreshRule)}


class Grouping:
    """The values that items have by each limiting rule, looked up once each."""

    def __init__(self, facts: Facts, strangers: Sequence[str], at_ms: int) -> None:
        """`strangers` are the items whose numbers begin where the population's end; `at_ms` says what is young."""
        self._facts, self._strangers, self._at_ms = facts, strangers, at_ms
        self._rules = list(limiting(facts.policy).values())
        self._ageing = any(isinstance(rule, FreshRule) for rule in self._rules)

    def of(self, number: int) -> Values:
        """The values of an item, a tuple per rule."""
        known, size = self._facts.grouped, self._facts.population.size
        found = known.get(number)
        if found is None:
            item = self._facts.population.items[number] if number < size else self._strangers[number - size]
            update = self._facts.catalogue.get(item)
            values = tuple(
                values_of(item, update, rule.attribute) if isinstance(rule, CapRule) else () for rule in self._rules
            )
            found = values, None if update is None else update.published_ms
            if number < size:
                known[number] = found
        values, published_ms = found
        if not self._ageing:
            return values
        return tuple(
            (OLDER,) if isinstance(rule, FreshRule) and not self._is_young(published_ms, rule) else one
            for one, rule in zip(values, self._rules, strict=True)
        )

    def _is_young(self, published_ms: int | None, rule: FreshRule) -> bool:
        return published_ms is not None and self._at_ms - published_ms < rule.younger_ms


class Fitted(NamedTuple):
    """What pools offer a page under caps in force.

    `rows` are the values of each entry, `widths` by limit the most that an entry has, `thinned` by pool and rule
    how many entries were left out; `groups` and `rooms` are as in `blending.blend.Page`.
    """

    rankings: list[ItemArray]
    lists: Lists
    rows: list[list[Values]]
    widths: list[int]
    groups: ItemArray
    rooms: IntArray
    thinned: list[dict[str, int]]


def as_offered(rankings: Sequence[ItemArray], lists: Lists) -> Fitted:
    """What pools offer where no rule limits it; `lists` are the rankings as one table."""
    return Fitted(list(rankings), lists, [], [], NO_GROUPS, NO_PLAN, [{} for _ in rankings])


def fitted(rankings: Sequence[ItemArray], limits: Sequence[Limit], grouping: Grouping, slots: int) -> Fitted:
    """The lists as each pool would show them by itself, as long as any outcome of the page may need."""
    values = [[grouping.of(number) for number in ranking.tolist()] for ranking in rankings]
    widths = [max((len(one[limit.place]) for row in values for one in row), default=0) for limit in limits]
    enough = slots * max(1, sum(widths))
    kept: list[list[int]] = []
    thinned: list[dict[str, int]] = []
    for row in values:
        places, left_out = _alone(row, limits, enough)
        kept.append(places)
        thinned.append(left_out)
    shown = [ranking[places] for ranking, places in zip(rankings, kept, strict=True)]
    rows = [[row[place] for place in places] for row, places in zip(values, kept, strict=True)]
    lists = lists_of(shown)
    groups, rooms = _table(rows, limits, sum(widths), lists.items.shape[1])
    return Fitted(shown, lists, rows, widths, groups, rooms, thinned)


def _alone(row: list[Values], limits: Sequence[Limit], enough: int) -> tuple[list[int], dict[str, int]]:
    """Which entries a pool would show by itself, and how many it leaves out by rule: the first that is full."""
    held: Counter[tuple[int, str]] = Counter()
    kept: list[int] = []
    left_out: dict[str, int] = {}
    for place, values in enumerate(row):
        if len(kept) == enough:
            break
        full = next((of for of in limits if any(held[of.place, one] >= of.most for one in values[of.place])), None)
        if full is None:
            kept.append(place)
            held.update((limit.place, one) for limit in limits for one in values[limit.place])
        else:
            left_out[full.rule] = left_out.get(full.rule, 0) + 1
    return kept, left_out


def _table(
    rows: list[list[Values]], limits: Sequence[Limit], width: int, longest: int
) -> tuple[ItemArray, IntArray]:
    """The groups of each entry by number, and the room of each group."""
    if not width:
        return NO_GROUPS, NO_PLAN
    numbers: dict[tuple[int, str], int] = {}
    rooms: list[int] = []
    groups = np.full((len(rows), longest, width), -1, np.int32)
    for pool, row in enumerate(rows):
        for rank, values in enumerate(row):
            place = 0
            for limit in limits:
                for value in values[limit.place]:
                    number = numbers.setdefault((limit.place, value), len(rooms))
                    if number == len(rooms):
                        rooms.append(limit.most)
                    groups[pool, rank, place] = number
                    place += 1
    return groups, np.array(rooms, np.int64)


def recorded(made: Fitted, limits: Sequence[Limit], read: Sequence[int]) -> tuple[list[Cap], list[list[list[int]]]]:
    """The caps in force, and by pool the groups of each of the first `read` entries of its list."""
    rows = [row[:length] for row, length in zip(made.rows, read, strict=True)]
    caps: list[Cap] = []
    numbers: dict[tuple[int, str], int] = {}
    for limit, width in zip(limits, made.widths, strict=True):
        values = list(dict.fromkeys(value for row in rows for one in row for value in one[limit.place]))
        for value in values:
            numbers[limit.place, value] = len(numbers)
        caps.append(Cap(limit.rule, limit.most, width, values))
    groups = [
        [[numbers[limit.place, value] for limit in limits for value in one[limit.place]] for one in row]
        for row in rows
    ]
    return caps, groups


def given_way(policy: Policy, grouping: Grouping, placed: Sequence[int]) -> list[Degraded]:
    """The rules that a page of these item numbers does not keep, with the most or least that it should hold."""
    found = []
    rows = [grouping.of(number) for number in placed] if policy.thins else []
    for place, (name, rule) in enumerate(limiting(policy).items()):
        held = Counter(value for row in rows for value in row[place])
        if isinstance(rule, CapRule):
            most = max(held.values(), default=0)
            if most > rule.most:
                found.append(Degraded("item_cap", name, rule.most, most))
        elif len(placed) - held[OLDER] < rule.least:
            found.append(Degraded("fresh", name, rule.least, len(placed) - held[OLDER]))
    return found


class Attempt(Protocol):
    """A page that was tried."""

    @property
    def length(self) -> int:
        """How many slots it fills."""


A = TypeVar("A", bound=Attempt)


def least_given_way(limits: list[Limit], slots: int, attempt: Callable[[list[Limit]], A]) -> A:
    """The page under these limits or, where it is short because of them, under as much of them as fills it.

    `attempt` makes a page under limits. Strict ones never give way. The others are taken up by priority, of equals
    the one that the policy names first, and each is widened to what leaves the page as long as without it.
    """
    found = attempt(limits)
    soft = sorted((limit for limit in limits if not limit.strict), key=lambda limit: (-limit.priority, limit.place))
    if found.length == slots or not soft:
        return found
    kept = [limit for limit in limits if limit.strict]
    widest = attempt(kept)
    if widest.length <= found.length:
        return found
    found = widest
    for limit in soft:
        low, high = limit.most, slots  # room for all slots is as good as no limit
        while low < high:
            most = limit.most if low == limit.most else (low + high) // 2
            tried = attempt(in_order([*kept, limit._replace(most=most)]))
            if tried.length < widest.length:
                low = most + 1
            else:
                found, high = tried, most
        if high < slots:
            kept.append(limit._replace(most=high))
    return found


def in_order(limits: list[Limit]) -> list[Limit]:
    """Limits in the policy's order."""
    return sorted(limits, key=lambda limit: limit.place)
