"""What another policy would have done with one request of a log, and how what was shown speaks of it."""

from typing import Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from blending.blend import Lists
from blending.placement import placement_of
from blending.propensity import propensities_of
from blending.randomness import key_of
from blending.types import FloatArray, IntArray
from engine.decision import Decision, conditions_of, posterior_of, rules_of
from engine.events import Request
from engine.facts import Facts
from engine.offline.off_policy import NOTHING
from engine.policy import Policy
from engine.pools import Gathered, gather
from engine.serve import serve
from engine.state import UserState

Match = Literal["pool", "item"]
# Keys that say what is learned, or that need it learned otherwise: a log holds what its own policy learned.
LEARNED = ("memory", "population", "embeddings")
LEARNED_BLEND = ("slots_max", "newcomer_slots", "shadow")


class Evidence(NamedTuple):
    """One feed of a log under another policy.

    `made` is the page that the policy would have made. `kinds` (slots,) is what the log's page held, by pool, or 0
    where items are matched, and `ratios` (slots,) how likely that was under the policy over how likely in the log.
    `chances` (slots, kinds) are the policy's, `logged` the log's own, and `beyond` how many slots' worth of the
    former the log could not have shown. `shares` (2, kinds of pools) are expected slots in the log, then under the
    policy.
    """

    made: Decision
    kinds: IntArray
    ratios: FloatArray
    chances: FloatArray
    logged: FloatArray
    beyond: float
    shares: FloatArray


def with_what_was_learned(policy: Policy, recorded: Policy) -> tuple[Policy, list[str]]:
    """The policy as it can be asked about, and the keys in which it is as recorded, not as it says."""
    kept = [
        f"{table}.{key}"
        for table, keys in (*((name, None) for name in LEARNED), ("blend", LEARNED_BLEND))
        for key in keys or getattr(policy, table).__struct_fields__
        if getattr(getattr(policy, table), key) != getattr(getattr(recorded, table), key)
    ]
    blend = replace(policy.blend, **{key: getattr(recorded.blend, key) for key in LEARNED_BLEND})
    tables = {name: getattr(recorded, name) for name in LEARNED}
    return replace(policy, blend=blend, **tables), kept


def lists_alike(policy: Policy, recorded: Policy) -> bool:
    """Whether the pools of both would list the same items for the same request."""

    def listing(one: Policy) -> tuple[object, ...]:
        personal = one.pools.get(one.personal or "")
        promised = personal is not None and bool(personal.floor or personal.required or personal.pinned)
        kinds = [(name, pool.kind) for name, pool in one.pools.items()]
        return kinds, one.weights, one.likes, one.blend.seed, promised

    return listing(policy) == listing(recorded)


def evidence_of(
    state: UserState,
    request: Request,
    record: Decision,
    gathered: Gathered,
    facts: Facts,
    match: Match,
    samples: int,
) -> Evidence:
    """What a first page of a feed says of the policy of `facts`.

    `state`, `request` and `gathered` are those that the page, `record`, was made of; chances that are not exact are
    of `samples` redraws. With a record whose epsilon is 1, its chances are those of feeds mixed at random. Raises
    ValueError where the record could not be a decision, InputError where the policy refuses the request.
    """
    if match == "pool":
        offered = gathered._replace(facts=facts)
    else:
        offered = gather(state, request, facts, record.at_ms)
    made = serve(state, request, offered, record.at_ms)
    key = key_of(record.seed, request.user, request.request_id, "what-if")
    kinds = {part.pool: number for number, part in enumerate(record.pools)}
    for part in made.pools:
        kinds.setdefault(part.pool, len(kinds))
    both = (record, gathered.lists), (made, _renumbered(offered, gathered))
    if match == "pool":
        tables = [_by_pool(page, lists, samples, key, kinds, request.slots) for page, lists in both]
        held = np.array(record.slot_pools, np.int64)
        chances = pools = np.array(tables)
    else:
        found = [_placed(page, lists, samples, key, kinds, request.slots) for page, lists in both]
        pools = np.array([by_pool for by_pool, _, _ in found])
        items = np.unique(np.concatenate([listed for _, listed, _ in found]))
        chances = np.zeros((2, request.slots, items.size))
        for table, (_, listed, by_item) in zip(chances, found, strict=True):
            table[:, np.searchsorted(items, listed)] = by_item
        held = np.searchsorted(items, _shown(record, gathered))
    slots = np.arange(held.size)
    there, then = chances[0, slots, held], chances[1, slots, held]
    ratios = np.zeros(request.slots)
    # What stood there although no redraw showed it is taken to be as likely as one more redraw.
    ratios[: held.size] = then / np.where(there > 0.0, there, 1.0 / (samples + 1))
    beyond = float(chances[1][chances[0] == 0.0].sum())
    shown = np.full(request.slots, NOTHING, np.int64)
    shown[: held.size] = held if match == "pool" else 0
    if match == "item":
        chances = chances.sum(axis=2, keepdims=True)
    return Evidence(made, shown, ratios, chances[1], chances[0], beyond, pools.sum(axis=1))


def _by_pool(
    record: Decision, lists: Lists, samples: int, key: np.uint64, kinds: dict[str, int], slots: int
) -> FloatArray:
    """How likely each kind was to have each slot, (slots, kinds)."""
    found = propensities_of(posterior_of(record), rules_of(record), lists, samples, key, conditions_of(record))
    return _spread(found.chances, record, kinds, slots)


def _placed(
    record: Decision, lists: Lists, samples: int, key: np.uint64, kinds: dict[str, int], slots: int
) -> tuple[FloatArray, IntArray, FloatArray]:
    """The same, the items of the lists, rising, and how likely each was to stand in each slot."""
    found = placement_of(posterior_of(record), rules_of(record), lists, samples, key, conditions_of(record))
    return _spread(found.pools, record, kinds, slots), found.items.astype(np.int64), found.chances


def _spread(table: FloatArray, record: Decision, kinds: dict[str, int], slots: int) -> FloatArray:
    """A table by the record's pools as one by kinds, of a whole page."""
    wide = np.zeros((slots, len(kinds)))
    wide[: len(table), [kinds[part.pool] for part in record.pools]] = table
    return wide


def _renumbered(offered: Gathered, gathered: Gathered) -> Lists:
    """The lists of `offered`, items that no version knows numbered as in `gathered`, or after those."""
    size = gathered.facts.population.size
    numbers = {name: size + number for number, name in enumerate(gathered.strangers)}
    if offered.strangers == gathered.strangers:
        return offered.lists
    own = [numbers.setdefault(name, size + len(numbers)) for name in offered.strangers]
    items = offered.lists.items.copy()
    unknown = items >= size
    items[unknown] = np.array(own, np.int32)[items[unknown] - size]
    return Lists(items, offered.lists.stock)


def _shown(record: Decision, gathered: Gathered) -> IntArray:
    """The numbers of the items of a page. Raises ValueError where the pools did not offer them."""
    population = gathered.facts.population
    strangers = {name: population.size + number for number, name in enumerate(gathered.strangers)}
    numbers = []
    for item in record.slot_items:
        number = population.number(item)
        number = strangers.get(item) if number is None else number
        if number is None:
            raise ValueError(f"item {item} was in no pool's list")
        numbers.append(number)
    return np.array(numbers, np.int64)
