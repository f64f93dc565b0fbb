"""Why each slot of a feed holds what it holds, from the decision's record alone."""

from collections import Counter

from msgspec import Struct

from blending.propensity import Method, Propensities
from engine.counterfactual import without_rule
from engine.decision import Decision
from engine.page import Degraded
from engine.propensities import propensities

RULES = {  # the letters of `engine.page.slot_rules`
    "p": "pin",
    "r": "required slots",
    "f": "floor",
    "x": "mixing at random",
    "b": "fallback",
    "d": "draw",
}


class Belief(Struct, frozen=True):
    """The posterior of one action of a pool, before the temperature.

    `prior_share` is the part of it that is the cohort's: of a prior of s views, s / (s + the user's own).
    """

    action: str
    alpha: float
    beta: float
    mean: float
    prior_share: float


class Otherwise(Struct, frozen=True):
    """What a slot would have held without its rule; the item is null where its list was not read that far."""

    pool: str
    item: str | None


class SlotWhy(Struct, frozen=True):
    """One slot. Slots and ranks count from 0; `rank` is the item's place in the list of the pool that placed it.

    `rule` is what gave the slot to its pool, `without_rule` what it would have held else (null where it was the
    draw), `offered_by` all pools whose lists held the item. `utility` is what was drawn for the pool, the sum of
    its actions' rewards times drawn rates, or its share of the fallback; `propensity` how likely its pool was,
    whatever was drawn, null where that is not known.
    """

    slot: int
    item: str
    pool: str
    rank: int
    rule: str
    without_rule: Otherwise | None
    offered_by: list[str]
    utility: float
    posterior: list[Belief]
    propensity: float | None
    error: float | None


class PoolWhy(Struct, frozen=True):
    """One pool. `intended` is how many slots utilities alone would have given it, `realised` how many it got.

    `floor` and `cap` are how many it had to get and could (null: all); `missing` says that it did not answer in
    time. `duplicates` counts its entries that another pool had placed, `filtered` what it left out because the user
    had reacted to it; `propensities` and `errors` have an entry per slot. `capped` counts its entries of which the
    page had as many as a rule allows, and `filtered_by` and `thinned` are those of the record.
    """

    pool: str
    posterior: list[Belief]
    stock: int
    filtered: int
    intended: int
    realised: int
    duplicates: int
    floor: int
    cap: int | None
    missing: bool
    propensities: list[float] | None
    errors: list[float] | None
    capped: int
    filtered_by: dict[str, int]
    thinned: dict[str, int]


class CapWhy(Struct, frozen=True):
    """A rule that limited the page: at most `most` items of each group; `full` are those that it has as many of."""

    rule: str
    most: int
    full: list[str]


class Explanation(Struct, frozen=True):
    """One decision in words and numbers. `method` and `samples` say how the propensities were found.

    `feed` is the request of its first page, and `start` how many slots earlier pages hold. `arms` are the user's,
    by experiment.
    """

    request_id: str
    user: str
    arms: dict[str, str]
    feed: str
    start: int
    at_ms: int
    cohort: str
    mode: str
    order: str
    degraded: list[Degraded]
    caps: list[CapWhy]
    explored: bool
    epsilon: float
    temperature: float
    delta: float | None
    method: Method | None
    samples: int
    slots: list[SlotWhy]
    pools: list[PoolWhy]


def explanation(record: Decision) -> Explanation:
    """Everything that a record says of its slots. Raises ValueError for one that could not be a decision."""
    found = _likely(record)
    return Explanation(
        record.request.request_id,
        record.request.user,
        record.arms or {},
        record.feed,
        record.start,
        record.at_ms,
        record.cohort,
        record.mode,
        record.order,
        record.degraded,
        _caps(record),
        record.explored,
        record.epsilon,
        record.temperature,
        record.delta,
        None if found is None else found.method,
        0 if found is None else found.samples,
        [_slot(record, slot, found) for slot in range(len(record.slot_items))],
        [_pool(record, pool, found) for pool in range(len(record.pools))],
    )


def _likely(record: Decision) -> Propensities | None:
    """The propensities; those of a later page are not known where its feed began by rules that are not its own."""
    try:
        return propensities(record)
    except ValueError:
        if record.start:
            return None
        raise


def _caps(record: Decision) -> list[CapWhy]:
    held = Counter(
        group
        for part in record.pools
        for groups, verdict in zip(part.groups, part.verdicts, strict=False)
        if verdict == "p"
        for group in groups
    )
    found, first = [], 0
    for cap in record.caps or ():
        full = [value for number, value in enumerate(cap.values, first) if held[number] >= cap.most]
        found.append(CapWhy(cap.rule, cap.most, full))
        first += len(cap.values)
    return found


def _slot(record: Decision, slot: int, found: Propensities | None) -> SlotWhy:
    pool, item = record.slot_pools[slot], record.slot_items[slot]
    part = record.pools[pool]
    drawn = part.rates[slot % len(part.rates)]
    instead = without_rule(record, slot)
    return SlotWhy(
        record.start + slot,
        item,
        part.pool,
        part.items.index(item),
        RULES[record.slot_rules[slot]],
        None if instead is None else Otherwise(record.pools[instead.pool].pool, instead.item),
        [offer.pool for place, offer in enumerate(record.pools) if record.slot_offers[slot] >> place & 1],
        part.fallback
        if record.slot_rules[slot] == "b"
        else sum(rate * reward for rate, reward in zip(drawn, record.rewards, strict=True)),
        _beliefs(record, pool),
        None if found is None else float(found.chances[slot, pool]),
        None if found is None else float(found.errors[slot, pool]),
    )


def _pool(record: Decision, pool: int, found: Propensities | None) -> PoolWhy:
    part = record.pools[pool]
    return PoolWhy(
        part.pool,
        _beliefs(record, pool),
        part.stock,
        part.filtered,
        part.intended,
        part.realised,
        part.verdicts.count("d"),
        part.floor,
        part.cap,
        part.missing,
        None if found is None else found.chances[:, pool].tolist(),
        None if found is None else found.errors[:, pool].tolist(),
        part.verdicts.count("c"),
        part.filtered_by,
        part.thinned,
    )


def _beliefs(record: Decision, pool: int) -> list[Belief]:
    part = record.pools[pool]
    return [
        Belief(action, alpha, beta, alpha / (alpha + beta), min(strength / (alpha + beta), 1.0))
        for action, alpha, beta, strength in zip(record.actions, part.alpha, part.beta, part.strength, strict=True)
    ]
