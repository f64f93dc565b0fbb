"""Where candidates come from: the port of all pools, those that ship, and `gather`, which asks them.

A pool ranks items for one user and leaves out what it is told to; it never sees another pool's list, and
its scores are compared with nobody's. A pool of your own is a class, and `kind = "module:Class"` in a policy.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import NamedTuple, Protocol

import numpy as np

from blending.blend import Lists, lists_of
from blending.sampling import uniforms_of
from blending.types import FloatArray, IntArray, ItemArray
from engine.caps import DEPTH
from engine.diversity import diversified
from engine.errors import InputError
from engine.events import Request
from engine.experiments import arms_of
from engine.facts import Facts
from engine.feature_kernels import join_top
from engine.filters import Filter, filter_of
from engine.groups import limiting
from engine.item_tallies import TREND
from engine.kernels import first_allowed, top_neighbours
from engine.personal import (
    NOTHING_LISTED,
    Weighing,
    affinity_of,
    liked_affinity,
    successors_of,
    weigh,
)
from engine.policy import Policy
from engine.population import Population
from engine.rules import DiverseRule, of_kind
from engine.state import UserState
from engine.visitor import NOBODY, Visitor, visitor_of


class Ranking(NamedTuple):
    """A pool's answer: item numbers int32, best first, and how many better ones were left out as excluded.

    `missing` says that it did not answer in time: it has no stock then, and that says nothing about it. `passed`
    are the items that were left out, if the pool says so; `reasons` counts them where a policy has rules for it.
    `reordered` says that a rule has put the list into another order than the pool's.
    """

    items: ItemArray
    filtered: int
    missing: bool = False
    passed: ItemArray = NOTHING_LISTED
    reasons: Mapping[str, int] = {}
    reordered: bool = False


def without(items: ItemArray, passed: ItemArray) -> Ranking:
    """The ranking of these items, before which those were left out."""
    return Ranking(items, passed.size, passed=passed)


class Pool(Protocol):
    """The port. `rank` returns at most `most` items, none twice and none excluded, by its input alone."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank this pool's items for a visitor."""


@cache
def plugged_in(kind: str) -> Pool:
    """The pool of a policy's `kind = "module:Class"`, made once. Raises InputError where there is none."""
    module, _, name = kind.partition(":")
    try:
        of = getattr(import_module(module), name)
        if not (isinstance(of, type) and callable(getattr(of, "rank", None))):
            raise InputError(f"the pool {kind!r} is no class with a method rank(visitor, facts, most)")
        pool: Pool = of()
    except (Exception, SystemExit) as error:  # whatever the module raises
        raise (
            error if isinstance(error, InputError) else InputError(f"the pool {kind!r} cannot be had: {error!r}")
        ) from error
    return pool


class Popular:
    """What was liked most often."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank by number of likes, older items first among equals."""
        return without(*first_allowed(facts.population.popular, visitor.excluded, most))


class Fresh:
    """What appeared last."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank by first appearance, the newest first."""
        return without(*first_allowed(facts.population.fresh, visitor.excluded, most))


class Similar:
    """What was liked together with what the user liked lately (item-item collaborative filtering)."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank by the sum of cosines over the recent likes, older items first among equals."""
        population = facts.population
        lists = [population.neighbours[item] for item in visitor.recent.tolist()]
        if not lists:
            return Ranking(np.zeros(0, np.int32), 0)
        return without(
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


class Trending:
    """What was liked most of late: a like counts half after the half-life of `engine.item_tallies.TREND`."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank by likes that fade."""
        return _best(facts.population.statistics.fading[TREND], visitor, most)


class Successor:
    """What others reacted to right after what the user reacted to last."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank by the sum over the latest reactions, the k-th for 1 / k."""
        return _best(successors_of(visitor.past, facts.population), visitor, most)


class Affinity:
    """What has the attributes that the user likes more often than others do, and is liked by many."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank by affinity times the logarithm of likes."""
        return _best(liked_affinity(affinity_of(visitor.past, facts), facts.population), visitor, most)


class Random:
    """Any item: what tells how good the others are."""

    def rank(self, visitor: Visitor, facts: Facts, most: int) -> Ranking:
        """Rank the catalogue by random bits of the request."""
        bits = uniforms_of(visitor.key, 0, 1, facts.population.size)[0]
        return _best(bits, visitor, most)


def _best(scores: FloatArray, visitor: Visitor, most: int) -> Ranking:
    """The `most` items with the largest scores above 0 that may be offered, older items first among equals."""
    barred = np.zeros(scores.size, np.uint8)
    barred[visitor.excluded] = 1
    best = np.empty(min(most, scores.size), np.int64)
    filled = join_top(scores, best.size, barred, best, 0) if best.size else 0
    theirs = scores[visitor.excluded]
    better = theirs > 0.0
    if filled == most:  # else all are better than what is missing
        last = best[filled - 1]
        better &= (theirs > scores[last]) | ((theirs == scores[last]) & (visitor.excluded < last))
    return without(best[:filled].astype(np.int32), visitor.excluded[better].astype(np.int32))


KINDS: Mapping[str, Pool] = {
    "popular": Popular(),
    "trending": Trending(),
    "fresh": Fresh(),
    "similar": Similar(),
    "successor": Successor(),
    "affinity": Affinity(),
    "random": Random(),
}
AS_NAMED: Mapping[str, Pool] = {}  # no pool is replaced


def pools_of(policy: Policy) -> dict[str, Pool]:
    """The pools of a policy that are asked by name: all but the external ones and the personal one."""
    asked = {name: pool.kind for name, pool in policy.pools.items() if pool.kind not in {"external", "personal"}}
    return {name: KINDS[kind] if kind in KINDS else plugged_in(kind) for name, kind in asked.items()}


PERSONAL_FIRST = Ranking(np.zeros(0, np.int32), 0)  # stands where the personal pool's is to come


class Gathered(NamedTuple):
    """What the pools of the policy offer one request, in the policy's order.

    Item numbers from `population.size` on are those of `strangers`: items of the request's own candidates that
    this population version does not know. `arms` are the user's, by experiment, and `facts` have the policy that
    they make.
    """

    facts: Facts
    visitor: Visitor
    rankings: list[Ranking]
    lists: Lists  # the rankings as one table
    strangers: list[str]
    weighing: Weighing | None = None  # of the personal pool, if the policy has one
    arms: Mapping[str, str] = {}

    def names(self, numbers: ItemArray | IntArray) -> list[str]:
        """The names of items by their numbers."""
        items, size, strangers = self.facts.population.items, self.facts.population.size, self.strangers
        return [items[number] if number < size else strangers[number - size] for number in numbers.tolist()]


def check_request(request: Request, policy: Policy, retired: frozenset[str] = frozenset()) -> None:
    """Raise InputError for what a policy refuses of anybody: too many slots, or candidates of its own pools.

    Those of `retired` pools, which an earlier policy had, are left out.
    """
    if request.slots > policy.blend.slots_max:
        raise InputError(f"a feed has at most {policy.blend.slots_max} slots by the policy, not {request.slots}")
    unknown = sorted(request.candidates.keys() - policy.external - retired) if request.candidates else []
    if unknown:
        raise InputError(
            f"the request brings candidates for {unknown[0]!r}, which is no external pool of the policy"
        )


def gather(
    state: UserState, request: Request, facts: Facts, at_ms: int, replaced: Mapping[str, Pool] = AS_NAMED
) -> Gathered:
    """Ask every pool of the policy for candidates, and take the request's own for the external ones.

    Here the user's arms of experiments are found; the policy that they make holds for the request from here on.

    `at_ms` is the log's time. The personal pool comes last: it ranks what the others list, beside its own sources.

    A page that continues the user's last feed is offered nothing that stands in that feed. Pools in `replaced` are
    asked in the place of the policy's own of that name, which is how a simulation breaks one. What the catalogue
    bars at `at_ms`, the log's time, is offered by none; at 0 that is all that ever had to wait.

    As many as slots are enough for any outcome: every entry that is read of a list ends in the feed, placed by
    this pool or by another. Where rules thin or reorder lists, pools are asked for DEPTH times as many. Raises
    InputError as `check_request` does.
    """
    arms = arms_of(facts.policy.experiments, request.user)
    facts = facts.under(arms)
    policy = facts.policy
    most = request.slots * (DEPTH if policy.thins else 1)
    check_request(request, policy, facts.retired)
    cursor = state.cursor
    shown = frozenset(cursor.items if cursor and request.continues == cursor.request_id else ())
    asked = {**pools_of(policy), **replaced}
    personal = None if policy.personal in asked else policy.personal
    left_out = filter_of(state, facts, at_ms, shown)
    visitor = visitor_of(state, request, facts, at_ms, left_out) if asked or personal else NOBODY
    strangers: dict[str, int] = {}
    rankings = []
    for name in policy.pools:
        if name in asked:
            own = ":" in policy.pools[name].kind
            rank = _own_rank if own else _rank
            rankings.append(rank(name, asked[name], visitor, facts, most))
        elif name == personal:
            rankings.append(PERSONAL_FIRST)
        else:
            rankings.append(_brought(request.candidates.get(name), left_out, facts, strangers, most))
    weighing = None
    if personal is not None:
        others = [
            ranking.items[: request.slots]
            for name, ranking in zip(policy.pools, rankings, strict=True)
            if name != personal
        ]
        names = request.user, request.request_id
        weighing = weigh(
            visitor.past, state.weights, visitor.excluded, others, facts, at_ms, names, list(strangers)
        )
        if _is_ready(facts, weighing.layout.key, others, request.slots):
            best = weighing.items[:most].astype(np.int32)
            rankings[list(policy.pools).index(personal)] = Ranking(best, 0)
    for rule in of_kind(policy.rules, DiverseRule).values():
        orders = [diversified(ranking.items, rule, facts, list(strangers)) for ranking in rankings]
        rankings = [of._replace(items=items, reordered=True) for of, items in zip(rankings, orders, strict=True)]
    if policy.thins and not limiting(policy.rules):
        rankings = [ranking._replace(items=ranking.items[: request.slots]) for ranking in rankings]
    lists = lists_of([ranking.items for ranking in rankings])
    return Gathered(facts, visitor, rankings, lists, list(strangers), weighing, arms)


def _rank(_: str, pool: Pool, visitor: Visitor, facts: Facts, most: int) -> Ranking:
    ranking = pool.rank(visitor, facts, most)
    if visitor.reasons is None:
        return ranking
    return ranking._replace(reasons=visitor.reasons.counted(ranking.passed))


def _brought(
    brought: list[str] | None, left_out: Filter, facts: Facts, strangers: dict[str, int], most: int
) -> Ranking:
    """The request's own candidates for a pool, the first of each, without those that are left out."""
    items, passed, reasons = [], [], Counter[str]()
    for item in dict.fromkeys(brought or ()):
        reason = left_out.reason(item, facts)
        if reason is None:
            items.append(item)
        else:
            reasons[reason] += 1
            passed.append(item)
    numbers = _numbers(items[:most], facts.population, strangers)
    if not facts.policy.filters:
        return Ranking(numbers, len(passed), brought is None)
    over = _numbers(passed, facts.population, strangers)
    return Ranking(numbers, len(passed), brought is None, over, dict(reasons))


def _own_rank(name: str, pool: Pool, visitor: Visitor, facts: Facts, most: int) -> Ranking:
    """What a pool of somebody's own answers. Raises InputError for what the port forbids, or if it fails."""
    try:
        ranking = pool.rank(visitor, facts, most)
    except Exception as error:
        raise InputError(f"the pool {name!r} failed: {error!r}") from error
    return _checked(name, ranking, visitor, facts.population.size, most)


def _checked(name: str, ranking: Ranking, visitor: Visitor, size: int, most: int) -> Ranking:
    """What a pool of somebody's own answered. Raises InputError where the port forbids it."""
    items = np.asarray(getattr(ranking, "items", None))
    fits = items.ndim == 1 and items.size <= most and (not items.size or items.dtype.kind in "iu")
    if fits and items.size:
        inside = items.min() >= 0 and items.max() < size
        fits = inside and np.unique(items).size == items.size and not np.isin(items, visitor.excluded).any()
    if not fits:
        raise InputError(
            f"the pool {name!r} broke its port: it answers with a Ranking of at most {most} item numbers below "
            f"{size}, none twice and none excluded"
        )
    return ranking._replace(items=items.astype(np.int32))


def _is_ready(facts: Facts, layout: str, others: list[ItemArray], slots: int) -> bool:
    """Whether the personal pool offers anything: not before it has learned, if others can fill the page.

    What it earned untrained would be held against it long after it has learned. Where the policy guarantees it a
    part of the page it is ready at once.
    """
    policy, weights = facts.policy, facts.population.weights
    learned = weights.choices if weights is not None and weights.layout == layout else 0
    own = policy.pools[policy.personal] if policy.personal else None
    promised = own is not None and bool(own.floor or own.required or own.pinned)
    if promised or learned >= policy.weights.ready_likes:
        return True
    return len({item for ranking in others for item in ranking.tolist()}) < slots


def _numbers(items: list[str], population: Population, strangers: dict[str, int]) -> ItemArray:
    """Numbers of a request's own candidates; `strangers` gains those that have none yet."""
    numbers = []
    for item in items:
        number = population.number(item)
        if number is None:
            number = population.size + strangers.setdefault(item, len(strangers))
        numbers.append(number)
    return np.array(numbers, np.int32)
