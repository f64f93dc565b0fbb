"""What a slot would have held without the rule that filled it, from the decision's record alone."""

from typing import NamedTuple

from blending.blend import blend
from blending.kernels import FLOOR
from blending.order import NONE
from engine.decision import Decision, conditions_of, lists_read, posterior_of, rules_of


class Instead(NamedTuple):
    """A pool by its place in the record, and the item, None where its list was not read that far."""

    pool: int
    item: str | None


def without_rule(record: Decision, slot: int) -> Instead | None:
    """The slot of the same page, by the same draw, if its pin, floor or mixing at random were not there.

    None where what was drawn filled it, or where it would be empty. A floor is taken away with all its slots.
    """
    letter, pool = record.slot_rules[slot], record.slot_pools[slot]
    rules, page = rules_of(record), conditions_of(record)
    if letter == "x":
        rules = rules._replace(epsilon=0.0)
    elif letter == "p":
        pinned = page.pinned.copy()
        pinned[slot] = NONE
        page = page._replace(pinned=pinned)
    elif letter in "rf":
        limits = page.limits.copy()
        limits[FLOOR, pool] = 0
        page = page._replace(limits=limits)
    else:
        return None
    made = blend(posterior_of(record), rules, lists_read(record), record.key, page)
    if slot >= made.slot_pools.size:
        return None
    instead, rank = int(made.slot_pools[slot]), int(made.slot_ranks[slot])
    items = record.pools[instead].items
    return Instead(instead, items[rank] if rank < len(items) else None)
