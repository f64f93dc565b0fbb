"""What another policy would have done with one request of a log, and how what was shown speaks of it."""

from typing import Literal, NamedTuple

import numpy as np
from msgspec.structs import fields, replace

from blending.blend import Lists
from blending.placement import Placement, placement_of, places_of
from blending.propensity import propensities_of
from blending.randomness import key_of
from blending.types import FloatArray, IntArray
from engine.decision import Decision, conditions_of, lists_read, posterior_of, rules_of
from engine.errors import InputError
from engine.events import Request
from engine.experiments import arms_of
from engine.facts import Facts
from engine.groups import limiting
from engine.offline.off_policy import NOTHING
from engine.policy import BlendPolicy, Policy
from engine.pool_policy import PoolPolicy
from engine.pools import Gathered, gather
from engine.serve import serve
from engine.state import UserState

Match = Literal["pool", "item"]
SAMPLES = 1024  # redraws of a page: a chance of .02 has a standard error of .0044
# Keys that say what is learned, or that need it learned otherwise: a log holds what its own policy learned.
LEARNED = ("memory", "population", "embeddings")
LEARNED_BLEND = ("slots_max", "newcomer_slots", "shadow")
# Keys that give out slots, and do not move a pool's list.
SHARES = ("ratio", "floor", "floor_views", "required", "cap", "share", "pinned", "priority")
BLENDING = (
    "base_successes",
    "base_failures",
    "prior_strength",
    "session_strength",
    "cohort_by",
    "cohorts",
    "temperature",
    "epsilon",
    "epsilon_known",
    "draw",
    "order",
    "returns",
    "delta_one_chance",
)


class UnsupportedError(InputError):
    """A log cannot speak of a policy, whatever the log holds; the message says why."""


UNREAD_FROM = 1 << 30  # numbers of items that nobody read, far beyond those of any population


class Matching(NamedTuple):
    """What makes a slot of two policies the same, and where its chances come from.

    `explored_only` says that a feed came into the log by being mixed at random. `samples` is the number of redraws
    where chances are not exact. Further items of a pool on a page are worth `delta` times as much each: the log's
    own returns model, which an estimate may lean on and need not believe.
    """

    match: Match
    explored_only: bool = False
    samples: int = SAMPLES
    delta: float = 1.0


class Evidence(NamedTuple):
    """One feed of a log under the log's policy and another one, rows 0 and 1 of what has both.

    `cohort` is the other policy's. `kinds` (slots,) is what the log's page held, by pool, or 0
    where items are matched; `ratios` (2, slots) how likely that was over how likely it was in the log, and
    `chances` (2, slots, kinds) those of all kinds; `worth` (slots,) and `worths` (2, slots, kinds) are the same
    times what the returns model says. `beyond` (2,) is how many slots' worth of it the log could not have shown,
    `shares` (2, pools) how many slots each pool can expect.
    """

    cohort: str
    kinds: IntArray
    ratios: FloatArray
    chances: FloatArray
    worth: FloatArray
    worths: FloatArray
    beyond: FloatArray
    shares: FloatArray


def with_what_was_learned(policy: Policy, recorded: Policy) -> tuple[Policy, list[str]]:
    """The policy as it can be asked about, and the keys in which it is as recorded, not as it says.

    Actions are in the log's order; those of its actions that are worth nothing are named by both.
    """
    kept = [
        f"{table}.{key}"
        for table, keys in (*((name, None) for name in LEARNED), ("blend", LEARNED_BLEND))
        for key in keys or getattr(policy, table).__struct_fields__
        if getattr(getattr(policy, table), key) != getattr(getattr(recorded, table), key)
    ]
    kept += [f"pools.{name}.share" for name, pool in policy.pools.items() if pool.share != _share(name, recorded)]
    pools = {
        name: replace(pool, share=min(_share(name, recorded), pool.cap)) for name, pool in policy.pools.items()
    }
    blend = replace(policy.blend, **{key: getattr(recorded.blend, key) for key in LEARNED_BLEND})
    tables = {name: getattr(recorded, name) for name in LEARNED}
    nothing = {name: action for name, action in recorded.actions.items() if not action.reward}
    known = {name: {**nothing, **policy.actions}.get(name) for name in recorded.actions}
    actions = {**{name: action for name, action in known.items() if action}, **policy.actions}
    return replace(policy, pools=pools, actions=actions, blend=blend, **tables), kept


def _share(name: str, recorded: Policy) -> float:
    """The long-run share of a pool in the log, which its floors there come of."""
    return recorded.pools[name].share if name in recorded.pools else 0.0


def lists_alike(policy: Policy, recorded: Policy) -> bool:
    """Whether the pools of both would list the same items for the same request.

    So it is where they differ only in what gives out slots: anything else may move a list.
    """
    return _listing(policy) == _listing(recorded)


def _listing(policy: Policy) -> tuple[object, ...]:
    """A policy without what only gives out slots; pools in their order."""
    pools = [(name, replace(pool, **_defaults(PoolPolicy, SHARES))) for name, pool in policy.pools.items()]
    personal = policy.pools.get(policy.personal or "")
    promised = personal is not None and bool(personal.floor or personal.required or personal.pinned)
    blend = replace(policy.blend, **_defaults(BlendPolicy, BLENDING))
    left = [name for name in policy.__struct_fields__ if name not in {"pools", "actions", "blend", "experiments"}]
    listed = {f"pools.{policy.personal}.{key}" for key in ("floor", "required", "pinned")}
    paths = {path for of in policy.experiments.values() for arm in of.arms.values() for path in arm.set}
    moved = any(path in listed or path.startswith("weights.") for path in paths)
    tables = [getattr(policy, name) for name in left]
    return pools, policy.likes, blend, tables, promised, policy.experiments if moved else None


def _defaults(kind: type[PoolPolicy] | type[BlendPolicy], names: tuple[str, ...]) -> dict[str, object]:
    """The defaults of these fields."""
    return {one.name: one.default for one in fields(kind) if one.name in names}


def evidence_of(
    state: UserState,
    request: Request,
    record: Decision,
    gathered: Gathered,
    facts: Facts,
    how: Matching,
) -> Evidence:
    """What a first page of a feed says of the policy of `facts`.

    `state`, `request` and `gathered` are those that the page, `record`, was made of. Raises ValueError where it
    could not be a decision, InputError where the policy refuses the request.
    """
    if how.match == "pool":
        arms = arms_of(facts.policy.experiments, request.user)
        offered = gathered._replace(facts=facts.under(arms), arms=arms)
    else:
        brought = {name: items for name, items in request.candidates.items() if name in facts.policy.external}
        request = replace(request, candidates=brought)
        offered = gather(state, request, facts, record.at_ms)
    made = serve(state, request, offered, record.at_ms)
    numbers = _Numbers(gathered)
    lists = gathered.lists
    if limiting(gathered.facts.policy.rules):
        lists = numbers.of_read(record)
    of_made = numbers.of_read(made) if limiting(offered.facts.policy.rules) else numbers.of_offered(offered)
    held = np.array([numbers.of(item) for item in record.slot_items], np.int64)
    return _evidence((record, lists), (made, of_made), held, how)


def evidence_as_believed(record: Decision, made: Decision, how: Matching) -> Evidence:
    """The same of a feed of which only the record is known; `made` is `engine.believed.as_believed` of it."""
    lists = lists_read(record)
    slots = zip(record.slot_pools, record.slot_items, strict=True)
    held = [lists.items[pool, record.pools[pool].items.index(item)] for pool, item in slots]
    return _evidence((record, lists), (made, lists), np.array(held, np.int64), how)


def _evidence(
    logged: tuple[Decision, Lists], asked: tuple[Decision, Lists], items_held: IntArray, how: Matching
) -> Evidence:
    """What a page says of another one, each with its lists; `items_held` are the numbers of its items by slot."""
    (record, lists), (made, _) = logged, asked
    request = record.request
    key = key_of(record.seed, request.user, request.request_id, "what-if")
    kinds = {part.pool: number for number, part in enumerate(record.pools)}
    for part in made.pools:
        kinds.setdefault(part.pool, len(kinds))
    pages = [logged, asked]
    if how.explored_only:
        pages.append((replace(record, epsilon=1.0), lists))
    found = [_placed(page, lists, how, key, kinds) for page, lists in pages]
    pools, held = np.array([one.pools for one in found]), np.array(record.slot_pools, np.int64)
    worth, worths = np.zeros(request.slots), np.array([one.worths for one in found[:2]])
    worth[: held.size] = how.delta ** places_of(held)
    chances = pools
    if how.match == "item":
        items = np.unique(np.concatenate([one.items for one in found]))
        chances = np.zeros((len(found), request.slots, items.size))
        for table, one in zip(chances, found, strict=True):
            table[:, np.searchsorted(items, one.items)] = one.chances
        held = np.searchsorted(items, items_held)
    log = chances[2 if how.explored_only else 0]
    slots = np.arange(held.size)
    there = log[slots, held]
    ratios = np.zeros((2, request.slots))
    # What stood there although no redraw showed it is taken to be as likely as one more redraw.
    ratios[:, : held.size] = chances[:2, slots, held] / np.where(there > 0.0, there, 1.0 / (how.samples + 1))
    if not how.explored_only:
        ratios[0, : held.size] = 1.0
    if np.array_equal(chances[0], chances[1]):  # also where redraws missed what stood there
        ratios[1] = ratios[0]
    shown = np.full(request.slots, NOTHING, np.int64)
    shown[: held.size] = held if how.match == "pool" else 0
    beyond = np.where(log == 0.0, chances[:2], 0.0).sum(axis=(1, 2))
    chances = chances[:2]
    if how.match == "item":
        chances, worths = chances.sum(axis=2, keepdims=True), worths.sum(axis=2, keepdims=True)
    return Evidence(made.cohort, shown, ratios, chances, worth, worths, beyond, pools[:2].sum(axis=1))


def _placed(record: Decision, lists: Lists, how: Matching, key: np.uint64, kinds: dict[str, int]) -> Placement:
    """How likely each kind of pool, and each item if these are matched, was to have each slot of a whole page."""
    given = posterior_of(record), rules_of(record), lists, how.samples, key, conditions_of(record)
    if how.match == "pool" and how.delta == 1.0:
        chances = propensities_of(*given).chances[: record.request.slots]
        found = Placement(chances, chances, lists.items[:0, 0], np.zeros((0, 0)))
    else:
        found = placement_of(*given, delta=how.delta)
    columns = [kinds[part.pool] for part in record.pools]
    pools, worths = np.zeros((2, record.request.slots, len(kinds)))
    pools[: len(found.pools), columns], worths[: len(found.pools), columns] = found.pools, found.worths
    return found._replace(pools=pools, worths=worths)


class _Numbers:
    """Item numbers of one request, the same for every policy: a population's, then those of unknown items."""

    def __init__(self, gathered: Gathered) -> None:
        """As the log's pools have them."""
        self._number = gathered.facts.population.number
        self._size = gathered.facts.population.size
        self._strangers = {name: self._size + at for at, name in enumerate(gathered.strangers)}
        self._unread = UNREAD_FROM

    def of(self, item: str) -> int:
        """An item's number, a new one if it has none."""
        number = self._number(item)
        return self._strangers.setdefault(item, self._size + len(self._strangers)) if number is None else number

    def of_offered(self, offered: Gathered) -> Lists:
        """The lists that pools offer."""
        items = offered.lists.items.copy()
        unknown = items >= self._size
        own = np.array([self.of(name) for name in offered.strangers], np.int32)
        items[unknown] = own[items[unknown] - self._size]
        return Lists(items, offered.lists.stock)

    def of_read(self, record: Decision) -> Lists:
        """The lists of a page that rules thinned, as far as they were read; what was not is an item of its own."""
        lists = lists_read(record)
        items = lists.items.copy()
        for row, part in zip(items, record.pools, strict=True):
            row[: len(part.items)] = [self.of(item) for item in part.items]
            unread = part.stock - len(part.items)
            row[len(part.items) : part.stock] = np.arange(self._unread, self._unread + unread)
            self._unread += unread
        return Lists(items, lists.stock)
