"""The decision record: a feed together with everything it was made from, and the proof that it was."""

from collections import Counter
from itertools import pairwise

import numpy as np
from msgspec import UNSET, Struct, UnsetType

from blending.blend import NO_LIMITS, Blend, Lists, Mode, Order, Page, Rules, blend, intended
from blending.delay import Delay
from blending.order import NONE
from blending.posterior import Beta
from blending.randomness import key_of
from blending.returns import returns_table
from blending.types import IntArray
from engine.cap_record import Cap, tables_of
from engine.events import SCHEMA, SLOTS_MAX, Request, check_ids, check_schema
from engine.page import Degraded

VERDICTS = "?pdc"  # of an entry that was read: placed, duplicate of what another pool placed, capped by a rule


class PoolPart(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One pool's part in a decision. `alpha`, `beta`, `strength` and `delays` have an entry per action.

    `strength` is how many views the prior is worth that the user's own evidence updated; `fallback` the pool's
    share where no utility is above 0. `rates` are the draws, an entry per action for each: one draw for the whole
    feed, or one for each slot (`draws_of_slots`). `delays` are what views will be matured by; `served` is how many
    of the user's slots were this pool's before. `items` is the prefix of the pool's list that was read, `verdicts`
    a letter for each. `stock` says how many items it offered, `filtered` how many it left out because the user had
    already reacted to them, earlier pages hold them or the catalogue bars them, `intended` how many slots utilities
    alone would have given it, `realised` how many it got. `before` are its items in earlier pages; `floor` and
    `cap` how many slots of this one it had to get and could (null: all); `missing` says that it did not answer in
    time. `listed` is the whole of its list for shadow evidence, empty without, and `listed_views` how many views of
    its lists that had counted by then. `filtered_by` counts what was left out by reason where a policy has rules or
    hides, and `thinned` by rule what its own list would have had too many of. `groups` are those of each entry that
    was read, numbered as in the decision's `caps`; `reordered` says that a rule of diversity has put the list into
    another order than the pool's own. `stages` has for each rule that limits a page the numbers of
    `engine.stages.STAGES`. What is left out is 0, null, false or empty.
    """

    pool: str
    alpha: list[float]
    beta: list[float]
    strength: list[float]
    fallback: float
    rates: list[list[float]]
    delays: list[Delay]
    served: int
    stock: int
    filtered: int
    intended: int
    realised: int
    items: list[str]
    verdicts: str
    before: int = 0
    floor: int = 0
    cap: int | None = None
    missing: bool = False
    listed: list[str] = []
    listed_views: int = 0
    filtered_by: dict[str, int] = {}
    thinned: dict[str, int] = {}
    groups: list[list[int]] = []
    reordered: bool = False
    stages: dict[str, list[int]] = {}

    def __post_init__(self) -> None:
        """Refuse a list that is not the one that was read."""
        if self.listed and (len(self.listed) != self.stock or self.listed[: len(self.items)] != self.items):
            raise ValueError(f"pool {self.pool} was read of another list than it listed")


class Considered(Struct, frozen=True, kw_only=True):
    """Candidates that the decision remembers, to learn from: those of its slots, then the best others.

    `x` are their features as they were served, int8 steps (items, features); `layout` says which
    (`engine.features.layout_of`). `etas` are the scores of x, `placed` included. `pool` is the personal one,
    `theta` the version of the embeddings, `revisions` are those of the items in the catalogue, 0 of unknown ones. A
    view without a like counts `seen_weight`; `full` says whether correlations of the user's own weights are kept.
    """

    pool: str
    layout: str
    theta: int
    items: list[str]
    revisions: list[int]
    x: bytes
    etas: list[float]
    seen_weight: float
    full: bool

    def __post_init__(self) -> None:
        """Refuse columns that do not fit together."""
        items = len(self.items)
        if not (items == len(self.etas) == len(self.revisions) and (not items or len(self.x) % items == 0)):
            raise ValueError("the candidates of a decision do not fit their features")


class Decision(Struct, frozen=True, tag_field="kind", tag="decision", kw_only=True):
    """One page of a feed. `slot_items` and `slot_pools` (indices into `pools`) have an entry per slot.

    `request` is as it was asked, without its candidates: what was read of them is in `pools`. `feed` is the request
    id of the feed's first page, which draws come of, and `start` how many slots earlier pages hold. `at_ms` is the
    log's time of the request; `rewards` has an entry per action. `delta` is the returns model that slots were given
    by, null for Webster's; `mode` and `order` are those of `blending.blend.Rules`. `cohort` is the one that the
    priors are of, taken at the user's `levels`, an entry per action. `explored` says that the feed was mixed at
    random, `newcomer` that the population's prior will learn from it. `pinned` are (slot, pool) pairs; `degraded`
    are the rules that could not be kept. `slot_rules` has a letter per slot (`engine.page.slot_rules`),
    `slot_offers` the pools that offered its item, as bits: 1 is the first pool. `considered` is null without a
    personal pool. `arms` are the user's of the policy's experiments, by experiment; `caps` are the rules that
    limited what the page holds together. Both are left out where there are none.
    """

    request: Request
    feed: str
    start: int
    at_ms: int
    policy_version: str
    population_version: int
    seed: int
    temperature: float
    epsilon: float
    delta: float | None
    mode: Mode
    order: Order
    cohort: str
    levels: list[float]
    explored: bool
    newcomer: bool
    actions: list[str]
    rewards: list[float]
    pools: list[PoolPart]
    pinned: list[tuple[int, int]]
    degraded: list[Degraded]
    slot_items: list[str]
    slot_pools: list[int]
    slot_rules: str
    slot_offers: list[int]
    considered: Considered | None
    arms: dict[str, str] | UnsetType = UNSET
    caps: list[Cap] | UnsetType = UNSET
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, and columns that do not fit together."""
        check_schema(self.schema)
        actions = len(self.actions)
        if not len(self.levels) == len(self.rewards) == actions > 0 < len(self.pools):
            raise ValueError("a decision needs pools, actions, and a reward for each action")
        check_ids(self.feed)
        columns = {len(self.slot_items), len(self.slot_pools), len(self.slot_rules), len(self.slot_offers)}
        slots = self.request.slots
        if not (len(columns) == 1 and max(columns) <= slots and 0 <= self.start <= SLOTS_MAX - slots):
            raise ValueError("a decision's slots do not fit its request")
        if not all(0 <= slot < slots and 0 <= pool < len(self.pools) for slot, pool in self.pinned):
            raise ValueError("a decision pins a slot or a pool that it does not have")
        if not all(0 <= pool < len(self.pools) for pool in self.slot_pools):
            raise ValueError("a slot of the decision has a pool that it does not name")
        self._check_parts()
        pins = Counter(pool for _, pool in self.pinned)
        if sum(max(part.floor, pins[number]) for number, part in enumerate(self.pools)) > slots:
            raise ValueError("a decision guarantees more slots than it has")

    def _check_parts(self) -> None:
        """Refuse parts that do not fit the decision."""
        actions, slots = len(self.actions), self.request.slots
        entries_max, capped = slots * self.reach, bool(self.caps)
        for part in self.pools:
            if not len(part.alpha) == len(part.beta) == len(part.strength) == len(part.delays) == actions:
                raise ValueError(f"pool {part.pool} does not have numbers for every action")
            if not len(part.items) == len(part.verdicts) <= part.stock <= entries_max:
                raise ValueError(f"pool {part.pool} has a list that does not fit")
            if len(part.groups) != (len(part.items) if capped else 0):
                raise ValueError(f"pool {part.pool} does not have groups for every entry")
            if not (0 <= part.before <= self.start and 0 <= part.floor <= slots and 0 <= (part.cap or 0) <= slots):
                raise ValueError(f"pool {part.pool} has limits that do not fit")

    @property
    def reach(self) -> int:
        """How many entries of a list its caps need for each slot at most, as `blending.blend.Page` says."""
        return max(1, sum(cap.width for cap in self.caps or ()))

    @property
    def key(self) -> np.uint64:
        """The key of every draw of this decision."""
        return key_of(self.seed, self.request.user, self.feed)


class Rebuilt(Struct, frozen=True):
    """A decision made again from its record; `rates`, `intended` and `verdicts` by pool, as in its parts."""

    rates: list[list[list[float]]]
    explored: bool
    intended: list[int]
    verdicts: list[str]
    slot_items: list[str]
    slot_pools: list[int]


def rebuild(record: Decision) -> Rebuilt:
    """Make the decision again from its record alone: the same draws and the same slots, bit for bit.

    Only what was read of each list is in the record, which is enough: the same draws read no further. Raises
    ValueError or IndexError when they do, or when the record could not be a decision.
    """
    rules, lists, page = rules_of(record), lists_read(record), conditions_of(record)
    made = blend(posterior_of(record), rules, lists, record.key, page)
    return Rebuilt(
        made.rates.swapaxes(0, 1).tolist(),
        made.explored,
        intended(made, rules, lists, record.key, page).tolist(),
        [verdict_letters(row) for row in made.verdicts],
        _items_of(made, record),
        made.slot_pools.tolist(),
    )


def posterior_of(record: Decision) -> Beta:
    """What was believed of the pools, shape (pools, actions)."""
    return Beta(
        np.array([part.alpha for part in record.pools], np.float64),
        np.array([part.beta for part in record.pools], np.float64),
    )


def draws_of_slots(slots: int) -> int:
    """How many draws a page of one for each slot has: at least two, so that it is no page of one for the feed.

    A feed may be asked for slot by slot. Each is a draw of its own then, and not the feed's first again.
    """
    return max(slots, 2)


def rules_of(record: Decision) -> Rules:
    """How utilities became slots. Raises ValueError unless there is one draw, or one for each slot."""
    draws = len(record.pools[0].rates)
    if draws not in (1, draws_of_slots(record.request.slots)):
        raise ValueError(f"{draws} draws are neither one for the feed nor one for each slot")
    return Rules(
        np.array(record.rewards, np.float64),
        returns_table(record.start + record.request.slots, record.delta),
        record.temperature,
        record.epsilon,
        draws,
        record.mode,
        np.array([part.fallback for part in record.pools], np.float64),
        record.order,
    )


def conditions_of(record: Decision) -> Page:
    """What the page had to keep to."""
    slots, limits = record.request.slots, NO_LIMITS
    if any(part.before or part.floor or part.cap is not None for part in record.pools):
        caps = [slots if part.cap is None else part.cap for part in record.pools]
        before, floors = zip(*((part.before, part.floor) for part in record.pools), strict=True)
        limits = np.array([before, floors, caps], np.int64)
    pinned = np.full(slots if record.pinned else 0, NONE, np.int64)
    for slot, pool in record.pinned:
        pinned[slot] = pool
    longest = max(part.stock for part in record.pools)
    groups, rooms = tables_of(record.caps or (), [part.groups for part in record.pools], longest)
    return Page(limits, pinned, record.start, groups, rooms)


def verdict_letters(verdicts: IntArray) -> str:
    """The verdicts on the entries of one list that were read."""
    return "".join([VERDICTS[verdict] for verdict in verdicts.tolist() if verdict])  # what was not read comes last


def read_of(made: Blend) -> list[int]:
    """How many entries were read of each list."""
    counts: list[int] = np.count_nonzero(made.verdicts, axis=1).tolist()
    return counts


def lists_read(record: Decision) -> Lists:
    """The lists as long as they were; each entry that was not read is an item that nobody else offers."""
    numbers: dict[str, int] = {}
    items = np.full((len(record.pools), max(part.stock for part in record.pools)), -1, np.int32)
    for row, part in zip(items, record.pools, strict=True):
        row[: len(part.items)] = [numbers.setdefault(item, len(numbers)) for item in part.items]
    fresh = len(numbers)
    for row, part in zip(items, record.pools, strict=True):
        unread = part.stock - len(part.items)
        row[len(part.items) : part.stock] = range(fresh, fresh + unread)
        fresh += unread
    return Lists(items, np.array([part.stock for part in record.pools], np.int64))


def _items_of(made: Blend, record: Decision) -> list[str]:
    slots = zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)
    return [record.pools[pool].items[rank] for pool, rank in slots]


def difference(record: Decision) -> str | None:
    """What differs between a record and its rebuilding, in words; None when nothing does."""
    name = f"request {record.request.request_id} of user {record.request.user}"
    try:
        again = rebuild(record)
    except (ValueError, IndexError) as error:
        return f"{name} cannot be rebuilt: {error}"
    for place, part in enumerate(record.pools):
        for what, there, made in (
            ("rates", part.rates, again.rates[place]),
            ("intended", part.intended, again.intended[place]),
            ("verdicts", part.verdicts, again.verdicts[place]),
            ("realised", part.realised, again.verdicts[place].count("p")),
        ):
            if there != made:
                return f"{name}: pool {part.pool} has {what} {there}, made again {made}"
    if record.considered and (misplaced := _misplaced(record, record.considered)):
        return f"{name}: {misplaced}"
    for what in ("explored", "slot_pools", "slot_items"):
        if getattr(record, what) != getattr(again, what):
            return f"{name}: {what} is {getattr(record, what)}, made again {getattr(again, what)}"
    return None


def _misplaced(record: Decision, considered: Considered) -> str | None:
    """An entry of the personal pool's list that its score puts elsewhere, in words; None when there is none.

    Entries that were read all stand in the feed, so all their scores have `placed` in them.
    """
    etas = dict(zip(considered.items, considered.etas, strict=True))
    for part in record.pools:
        if part.pool == considered.pool and not part.reordered:
            for before, after in pairwise(part.items):
                if etas.get(before, 0.0) < etas.get(after, 0.0):
                    return f"pool {part.pool} has {after} after {before}, and a greater score for it"
    return None
