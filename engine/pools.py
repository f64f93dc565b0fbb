"""Where candidates come from: the port of all pools, the three that ship, and `gather`, which asks them.

A pool ranks items for one user and leaves out what it is told to; it never sees another pool's list, and
its scores are compared with nobody's. A new pool is a class here and a line in `KINDS`.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from msgspec import Struct

from blending.blend import Lists, lists_of
from blending.types import IntArray, ItemArray
from engine.kernels import first_allowed, top_neighbours
from engine.policy import Policy, PoolKind
from engine.population import Population
from engine.state import UserState


class Facts(Struct, frozen=True):
    """The shared facts of one decision, handed over as one value."""

    policy: Policy
    population: Population


class Visitor(NamedTuple):
    """A user as the pools see them, in item numbers.

    `recent` int64: items liked lately, latest last; `excluded` int64, sorted: items not to be offered.
    """

    recent: IntArray
    excluded: IntArray


class Ranking(NamedTuple):
    """A pool's answer: item numbers int32, best first, and how many better ones were left out as excluded."""

    items: ItemArray
    filtered: int


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


class Gathered(NamedTuple):
    """What the pools of the policy offer one request, in the policy's order."""

    visitor: Visitor
    rankings: list[Ranking]
    lists: Lists  # the rankings as one table


def visitor_of(state: UserState, facts: Facts) -> Visitor:
    """Translate a user's history into the item numbers of this population version.

    An item that the user has reacted to is not offered again; one that this version does not know cannot be.
    """
    population, likes = facts.population, facts.policy.likes
    known = [(population.number_of.get(entry.item, population.size), entry.action) for entry in state.history]
    known = [(item, action) for item, action in known if item < population.size]
    liked = [item for item, action in known if action in likes]
    return Visitor(
        np.array(liked[-facts.policy.population.recent_likes :], np.int64),
        np.unique(np.array([item for item, _ in known], np.int64)),
    )


def gather(state: UserState, slots: int, facts: Facts) -> Gathered:
    """Ask every pool of the policy for candidates.

    Twice as many as slots are enough for any outcome: of a list's entries, the other pools can have placed at
    most one per slot.
    """
    visitor = visitor_of(state, facts)
    pools = facts.policy.pools.values()
    rankings = [KINDS[pool.kind].rank(visitor, facts.population, 2 * slots) for pool in pools]
    return Gathered(visitor, rankings, lists_of([ranking.items for ranking in rankings]))
