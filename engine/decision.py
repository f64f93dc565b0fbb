"""The decision record: a feed together with everything it was made from, and the proof that it was."""

import numpy as np
from msgspec import Struct

from blending.blend import Blend, blend, lists_of
from blending.posterior import Beta
from blending.randomness import key_of
from engine.events import SCHEMA, Request, check_schema

VERDICTS = "?pd"  # of an entry that was read: p placed, d duplicate of an item that another pool placed


class PoolPart(Struct, frozen=True, kw_only=True):
    """One pool's part in a decision. `alpha`, `beta` and `rates` have an entry per action of the decision.

    `items` is the prefix of the pool's list that was read, `verdicts` a letter for each. `stock` says how
    many items it offered, `filtered` how many it left out because the user had already reacted to them,
    `intended` how many slots utilities alone would have given it, `realised` how many it got.
    """

    pool: str
    alpha: list[float]
    beta: list[float]
    rates: list[float]
    stock: int
    filtered: int
    intended: int
    realised: int
    items: list[str]
    verdicts: str


class Decision(Struct, frozen=True, tag_field="kind", tag="decision", kw_only=True):
    """One feed. `slot_items` and `slot_pools` (indices into `pools`) have an entry per slot.

    `at_ms` is the log's time of the request; `rewards` has an entry per action.
    """

    request: Request
    at_ms: int
    policy_version: str
    population_version: int
    seed: int
    actions: list[str]
    rewards: list[float]
    pools: list[PoolPart]
    slot_items: list[str]
    slot_pools: list[int]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, and columns that do not fit together."""
        check_schema(self.schema)
        if len(self.slot_items) != len(self.slot_pools) or len(self.actions) != len(self.rewards):
            raise ValueError("a decision's columns differ in length")

    @property
    def key(self) -> np.uint64:
        """The key of every draw of this decision."""
        return key_of(self.seed, self.request.user, self.request.request_id)


class Rebuilt(Struct, frozen=True):
    """A decision made again from its record."""

    rates: list[list[float]]
    slot_items: list[str]
    slot_pools: list[int]


def rebuild(record: Decision) -> Rebuilt:
    """Make the decision again from its record alone: the same draws and the same slots, bit for bit.

    Only what was read of each list is in the record, which is enough: the same draws read no further.
    """
    numbers: dict[str, int] = {}
    rankings = [
        np.array([numbers.setdefault(item, len(numbers)) for item in part.items], np.int32)
        for part in record.pools
    ]
    posterior = Beta(
        np.array([part.alpha for part in record.pools], np.float64),
        np.array([part.beta for part in record.pools], np.float64),
    )
    rewards = np.array(record.rewards, np.float64)
    again = blend(posterior, rewards, lists_of(rankings), record.request.slots, record.key)
    return Rebuilt(again.rates.tolist(), items_of(again, record), again.slot_pools.tolist())


def items_of(made: Blend, record: Decision) -> list[str]:
    """The item in each slot of a blend of this record's lists."""
    slots = zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)
    return [record.pools[pool].items[rank] for pool, rank in slots]


def difference(record: Decision) -> str | None:
    """What differs between a record and its rebuilding, in words; None when nothing does."""
    try:
        again = rebuild(record)
    except (ValueError, IndexError) as error:
        return f"request {record.request.request_id} cannot be rebuilt: {error}"
    for part, rates in zip(record.pools, again.rates, strict=True):
        if part.rates != rates:
            return f"request {record.request.request_id}: pool {part.pool} drew {rates}, not {part.rates}"
    if (again.slot_items, again.slot_pools) != (record.slot_items, record.slot_pools):
        return (
            f"request {record.request.request_id}: the slots are {again.slot_items}, not {record.slot_items}"
        )
    return None
