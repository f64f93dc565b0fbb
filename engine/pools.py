"""Where candidates come from: the port of all pools, those that ship, and `gather`, which asks them.

A pool ranks items for one user and leaves out what it is told to; it never sees another pool's list, and
its scores are compared with nobody's. A new pool is a class here and a line in `KINDS`.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np

from blending.blend import Lists, lists_of
from blending.types import IntArray, ItemArray
from engine.errors import InputError
from engine.events import Request
from engine.facts import Facts
from engine.kernels import first_allowed, top_neighbours
from engine.policy import PoolKind
from engine.population import Population
from engine.state import UserState


class Visitor(NamedTuple):
    """A user as the pools see them, in item numbers.

    `recent` int64: items liked lately, latest first, none twice; `excluded` int64, sorted: items not to be offered.
    """

    recent: IntArray
    excluded: IntArray


class Ranking(NamedTuple):
    """A pool's answer: item numbers int32, best first, and how many better ones were left out as excluded.

    `missing` says that it did not answer in time: it has no stock then, and that says nothing about it.
    """

    items: ItemArray
    filtered: int
    missing: bool = False


class Pool(Protocol):
    """The port. `rank` returns at most `most` items, none twice and none excluded, by its input alone."""

    def rank(self, visitor: Visitor, population: Population, most: int) -> Ranking:
        """Rank this pool's items for a visitor."""


class Popular:
    """What was liked most often."""

    def rank(self, visitor: Visitor, population: Population, most: int) -> Ranking:
        """Rank by number of likes, older items first among equals."""
        return Ranking(*first_allowed(population.popular, visitor.excluded, most))


class Fresh:
    """What appeared last."""

    def rank(self, visitor: Visitor, population: Population, most: int) -> Ranking:
        """Rank by first appearance, the newest first."""
        return Ranking(*first_allowed(population.fresh, visitor.excluded, most))


class Similar:
    """What was liked together with what the user liked lately (item-item collaborative filtering)."""

    def rank(self, visitor: Visitor, population: Population, most: int) -> Ranking:
        """Rank by the sum of cosines over the recent likes, older items first among equals."""
        lists = [population.neighbours[item] for item in visitor.recent.tolist()]
        if not lists:
            return Ranking(np.zeros(0, np.int32), 0)
        return Ranking(
            *top_neighbours(
                np.concatenate([neighbours.items for neighbours in lists]),
                np.concatenate([neighbours.counts for neighbours in lists]),
                np.array([neighbours.items.size for neighbours in lists], np.int64),
                visitor.recent,
                population.likes,
                visitor.excluded,
                most,
            )
        )


KINDS: Mapping[PoolKind, Pool] = {"popular": Popular(), "similar": Similar(), "fresh": Fresh()}
AS_NAMED: Mapping[str, Pool] = {}  # no pool is replaced


NOBODY = Visitor(np.zeros(0, np.int64), np.zeros(0, np.int64))


class Gathered(NamedTuple):
    """What the pools of the policy offer one request, in the policy's order.

    Item numbers from `population.size` on are those of `strangers`: items of the request's own candidates that
    this population version does not know.
    """

    facts: Facts
    visitor: Visitor
    rankings: list[Ranking]
    lists: Lists  # the rankings as one table
    strangers: list[str]


def visitor_of(state: UserState, facts: Facts, shown: Iterable[str] = ()) -> Visitor:
    """Translate a user's history into the item numbers of this population version.

    An item that the user has reacted to is not offered again, nor one that earlier pages have `shown`; one that
    this version does not know cannot be.
    """
    population, likes = facts.population, facts.policy.likes
    numbered = ((population.number(entry.item), entry.action) for entry in state.history)
    known = [(item, action) for item, action in numbered if item is not None]
    earlier = [item for item in map(population.number, shown) if item is not None]
    liked = dict.fromkeys(item for item, action in reversed(known) if action in likes)
    recent = list(islice(liked, facts.policy.population.recent_likes))
    return Visitor(
        np.array(recent, np.int64),
        np.unique(np.array([*(item for item, _ in known), *earlier], np.int64)),
    )


def gather(state: UserState, request: Request, facts: Facts, replaced: Mapping[str, Pool] = AS_NAMED) -> Gathered:
    """Ask every pool of the policy for candidates, and take the request's own for the external ones.

    A page that continues the user's last feed is offered nothing that stands in that feed. Pools in `replaced` are
    asked in the place of the policy's own of that name, which is how a simulation breaks one.

    As many as slots are enough for any outcome: every entry that is read of a list ends in the feed, placed by
    this pool or by another. Raises InputError for candidates of a pool that the policy does not call external.
    """
    policy, population, most = facts.policy, facts.population, request.slots
    external = {name for name, pool in policy.pools.items() if pool.kind == "external"}
    unknown = sorted(request.candidates.keys() - external)
    if unknown:
        raise InputError(
            f"the request brings candidates for {unknown[0]!r}, which is no external pool of the policy"
        )
    cursor = state.cursor
    shown = frozenset(cursor.items if cursor and request.continues == cursor.request_id else ())
    shipped = {name: KINDS[pool.kind] for name, pool in policy.pools.items() if pool.kind != "external"}
    asked = {**shipped, **replaced}
    visitor = visitor_of(state, facts, shown) if asked else NOBODY
    strangers: dict[str, int] = {}
    rankings = []
    for name in policy.pools:
        if name in asked:
            rankings.append(asked[name].rank(visitor, population, most))
        else:
            brought = request.candidates.get(name)
            items = [item for item in dict.fromkeys(brought or ()) if item not in shown]
            left_out = len(set(brought or ())) - len(items)
            rankings.append(Ranking(_numbers(items[:most], population, strangers), left_out, brought is None))
    lists = lists_of([ranking.items for ranking in rankings])
    return Gathered(facts, visitor, rankings, lists, list(strangers))


def _numbers(items: list[str], population: Population, strangers: dict[str, int]) -> ItemArray:
    """Numbers of a request's own candidates; `strangers` gains those that have none yet."""
    numbers = []
    for item in items:
        number = population.number(item)
        if number is None:
            number = population.size + strangers.setdefault(item, len(strangers))
        numbers.append(number)
    return np.array(numbers, np.int32)
