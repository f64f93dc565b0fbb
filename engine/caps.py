"""Caps across pools: at most so many items of a page share a value, whichever pools place them.

Each pool's list is what it would show by itself under the caps, and the allocator passes over what would go beyond
them together with the others. A floor of fresh items is a cap on all older ones. Where the page would be short, the
caps of the lowest priority give way, no further than they must.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from blending.blend import NO_GROUPS, NO_PLAN, Lists, lists_of
from blending.types import IntArray, ItemArray
from engine.cap_record import Cap
from engine.facts import Facts
from engine.groups import OLDER, limiting
from engine.kernels import own_lists
from engine.page import Degraded
from engine.policy import Policy
from engine.rules import CapRule

DEPTH = 8  # times as many items as slots are asked of each pool where rules thin or reorder its list


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
        for place, (name, rule) in enumerate(limiting(policy.rules).items())
    ]


class Grouping:
    """The groups of a request's items by their numbers."""

    def __init__(self, facts: Facts, strangers: Sequence[str], at_ms: int) -> None:
        """`strangers` are the items with numbers beyond the population's; `at_ms` says what is young."""
        self._facts, self._strangers, self._at_ms = facts, strangers, at_ms
        self.names = facts.groups.names

    def of(self, numbers: ItemArray) -> list[tuple[int, ...]]:
        """The groups of items, by their numbers in `names`."""
        items, size, strangers = self._facts.population.items, self._facts.population.size, self._strangers
        names = (items[number] if number < size else strangers[number - size] for number in numbers.tolist())
        return self._facts.groups.of(names, self._at_ms)


class Ranked(NamedTuple):
    """What the pools rank for a request, entry after entry, with the groups of each.

    Pool p has the entries from `ends[p]` to before `ends[p + 1]`. Entry e is in the groups from `starts[e]` to
    before `starts[e + 1]` of `groups`; group g is of the rule in place `places[g]` and has the value `values[g]`.
    """

    items: ItemArray
    ends: IntArray
    starts: IntArray
    groups: IntArray
    places: IntArray
    values: list[str]


def ranked_of(rankings: Sequence[ItemArray], grouping: Grouping) -> Ranked:
    """Rankings as one table, with their groups in numbers of their own."""
    items = np.concatenate(rankings)
    rows = grouping.of(items)
    flat = np.fromiter(chain.from_iterable(rows), np.int64)
    present, groups = np.unique(flat, return_inverse=True)
    names = [grouping.names[number] for number in present.tolist()]
    return Ranked(
        items,
        np.cumsum([0, *(ranking.size for ranking in rankings)], dtype=np.int64),
        np.cumsum([0, *map(len, rows)], dtype=np.int64),
        groups.astype(np.int64),
        np.array([name.place for name in names], np.int64),
        [name.value for name in names],
    )


class Fitted(NamedTuple):
    """What pools offer a page under the caps in force.

    `widths` are by limit the most groups that an entry has, `thinned` by pool and rule how many entries were left
    out; `groups` and `rooms` are as in `blending.blend.Page`.
    """

    rankings: list[ItemArray]
    lists: Lists
    widths: list[int]
    groups: ItemArray
    rooms: IntArray
    thinned: list[dict[str, int]]


def as_offered(rankings: Sequence[ItemArray], lists: Lists) -> Fitted:
    """What pools offer where no rule limits it; `lists` are the rankings as one table."""
    return Fitted(list(rankings), lists, [], NO_GROUPS, NO_PLAN, [{} for _ in rankings])


def fitted(ranked: Ranked, limits: Sequence[Limit], rules: int, slots: int) -> Fitted:
    """The lists as each pool would show them by itself, as long as any outcome of the page may need.

    `limits` are in force, of as many `rules` as the policy has that limit.
    """
    most = np.full(rules, -1, np.int64)
    for limit in limits:
        most[limit.place] = limit.most
    kept, sizes, thinned, groups, widths = own_lists(
        ranked.ends, ranked.starts, ranked.groups, ranked.places, most, slots
    )
    rankings = [ranked.items[row[:size]] for row, size in zip(kept, sizes.tolist(), strict=True)]
    return Fitted(
        rankings,
        lists_of(rankings),
        widths[most >= 0].tolist(),
        groups if groups.size else NO_GROUPS,
        most[ranked.places] if groups.size else NO_PLAN,
        [{limit.rule: int(row[limit.place]) for limit in limits if row[limit.place]} for row in thinned],
    )


def recorded(
    made: Fitted, ranked: Ranked, limits: Sequence[Limit], read: Sequence[int]
) -> tuple[list[Cap], list[list[list[int]]]]:
    """The caps in force, and by pool the groups of each of the first `read` entries of its list."""
    if not made.groups.size:
        rows: list[list[list[int]]] = [[[] for _ in range(length)] for length in read]
    else:
        rows = [
            [[group for group in entry if group >= 0] for entry in row[:length].tolist()]
            for row, length in zip(made.groups, read, strict=True)
        ]
    met = list(dict.fromkeys(group for row in rows for entry in row for group in entry))
    met.sort(key=lambda group: int(ranked.places[group]))  # and as they were met within a rule
    numbers = {group: number for number, group in enumerate(met)}
    caps = [
        Cap(limit.rule, limit.most, width, [ranked.values[g] for g in met if ranked.places[g] == limit.place])
        for limit, width in zip(limits, made.widths, strict=True)
    ]
    return caps, [[[numbers[group] for group in entry] for entry in row] for row in rows]


def given_way(policy: Policy, grouping: Grouping, placed: ItemArray) -> list[Degraded]:
    """The rules that a page of these items does not keep, with the most or least that it should hold."""
    rules = limiting(policy.rules)
    if not rules:
        return []
    found = []
    held = Counter(grouping.names[group] for row in grouping.of(placed) for group in row)
    for place, (name, rule) in enumerate(rules.items()):
        if isinstance(rule, CapRule):
            most = max((count for group, count in held.items() if group.place == place), default=0)
            if most > rule.most:
                found.append(Degraded("item_cap", name, rule.most, most))
        else:
            fresh = placed.size - held[place, OLDER]  # type: ignore[index]  # a group is a pair
            if fresh < rule.least:
                found.append(Degraded("fresh", name, rule.least, fresh))
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
