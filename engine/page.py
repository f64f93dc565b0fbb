"""What a page keeps to whatever was drawn: pinned and required slots, floors and caps; and what had to give way."""

from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct

from blending.blend import Blend, Order, Page
from blending.order import NONE
from blending.types import BoolArray, FloatArray, IntArray
from engine.policy import Policy
from engine.pool_policy import PoolPolicy

Rule = Literal["pinned", "required", "floor", "cap", "item_cap", "fresh", "posterior"]
LEAST = 1e-9  # a share times a number of slots may miss the whole number that it is by its last bits


class Degraded(Struct, frozen=True, array_like=True):
    """A rule that this page could not keep: how many slots it `wanted` for the pool (a cap: at most), and `got`.

    "item_cap" and "fresh" are of `pool`'s name among the policy's rules: the most items that were to share a value,
    or the fewest that were to be fresh, and how many were.

    "posterior" is of no pool: beliefs were not fit to be drawn from, so the page is the fixed-ratio blend.
    """

    rule: Rule
    pool: str
    wanted: int
    got: int


class Wanted(NamedTuple):
    """What the policy wants of a page, in slots by pool, all int64: whatever stock there is.

    `pinned` (slots,) is the pool that each slot is pinned to, -1 for none. `nothing` says that no pool is promised
    or denied a part of this page.
    """

    pinned: IntArray
    required: IntArray
    floors: IntArray
    caps: IntArray
    nothing: bool = False


def wanted_of(
    policy: Policy, slots: int, start: int, views: FloatArray, long_run: IntArray, *, first: bool
) -> Wanted:
    """What the policy wants of a page of `slots` slots, after `start` of the same feed.

    `views` (pools,) is the user's own examined exposure of each pool; `long_run` (pools,) what long-run shares ask
    of this page; `first` says that it is the user's first page.
    """
    pools = list(policy.pools.values())
    if not (policy.guarantees if first else policy.guarantees_later):
        zeros = np.zeros(len(policy.pools), np.int64)
        return Wanted(np.full(slots, NONE, np.int64), zeros, zeros, zeros + slots, nothing=True)
    pinned = np.full(slots, NONE, np.int64)
    for number, pool in enumerate(pools):
        own = [slot - start for slot in pool.pinned if 0 <= slot - start < slots]
        pinned[own] = number
    if first:
        floors = _first_floors(pools, slots)
    else:
        floors = [_floor(pool, slots, seen) for pool, seen in zip(pools, views.tolist(), strict=True)]
    return Wanted(
        pinned,
        np.array([pool.required for pool in pools], np.int64),
        np.maximum(np.array(floors, np.int64), long_run),
        np.array([int(pool.cap * slots + LEAST) for pool in pools], np.int64),
    )


def _first_floors(pools: list[PoolPolicy], slots: int) -> list[int]:
    """Floors of a user's first page: shares of it, but one slot at least, which the largest make room for."""
    floors = [max(int(pool.floor * slots + LEAST), int(pool.floor > 0.0)) for pool in pools]
    while sum(floors) > slots and max(floors) > 1:
        _, _, largest = max((floor, -pools[number].priority, number) for number, floor in enumerate(floors))
        floors[largest] -= 1
    return floors


def _floor(pool: PoolPolicy, slots: int, views: float) -> int:
    """Slots of a floor that fades with views: floor * floor_views / (floor_views + views) of the page."""
    if pool.floor_views == 0.0:
        return 0
    return int(pool.floor * pool.floor_views / (pool.floor_views + views) * slots + LEAST)


def page_of(policy: Policy, wanted: Wanted, stock: IntArray, before: IntArray, start: int) -> Page:
    """The conditions that can be kept with this stock (pools,), after `before` (pools,) items in earlier pages.

    What a pool is guaranteed is at most its stock. Where guarantees need more slots than the page has, those of the
    lowest priority give way first, of equals the pool that the policy names last. A cap never undoes a guarantee.
    """
    pinned = wanted.pinned.copy()
    left = stock.copy()
    for slot, pool in enumerate(pinned.tolist()):
        if pool != NONE and left[pool] == 0:
            pinned[slot] = NONE
        elif pool != NONE:
            left[pool] -= 1
    own = np.bincount(pinned[pinned != NONE], minlength=stock.size)
    floors = np.minimum(np.maximum(wanted.required, wanted.floors), stock)
    surplus = int(np.maximum(floors - own, 0).sum()) - int((pinned == NONE).sum())
    priorities = [pool.priority for pool in policy.pools.values()]
    for pool in sorted(range(stock.size), key=lambda pool: (priorities[pool], -pool)):
        given_up = min(max(surplus, 0), max(int(floors[pool] - own[pool]), 0))
        floors[pool] -= given_up
        surplus -= given_up
    caps = np.maximum(wanted.caps, np.maximum(floors, own))
    free = not (floors.any() or before.any()) and bool((caps >= pinned.size).all())
    limits = np.zeros((3, 0), np.int64) if free else np.array([before, floors, caps])
    return Page(limits, pinned if own.any() else pinned[:0], start)


def degraded_of(policy: Policy, wanted: Wanted, stock: IntArray, made: Blend) -> list[Degraded]:
    """The rules that the page does not keep, for want of stock or of slots."""
    if wanted.nothing:
        return []
    names = list(policy.pools)
    got = np.bincount(made.slot_pools, minlength=stock.size)
    honoured = wanted.pinned[: made.slot_pools.size] == made.slot_pools
    found: list[Degraded] = []
    for pool, name in enumerate(names):
        pins = int(np.count_nonzero(wanted.pinned == pool))
        kept = int(np.count_nonzero(honoured & (made.slot_pools == pool)))
        if kept < pins:
            found.append(Degraded("pinned", name, pins, kept))
        rule: Rule = "required" if wanted.required[pool] >= wanted.floors[pool] else "floor"
        least = max(int(wanted.required[pool]), int(wanted.floors[pool]))
        if got[pool] < least:
            found.append(Degraded(rule, name, least, int(got[pool])))
        elif got[pool] > max(int(wanted.caps[pool]), least, pins):
            found.append(Degraded("cap", name, int(wanted.caps[pool]), int(got[pool])))
    return found


def slot_rules(made: Blend, page: Page, order: Order, required: list[int], fell: BoolArray) -> str:
    """Why each slot has its pool, a letter each.

    p pinned, r required, f floor; else x mixed at random, b by the fallback (`fell`), d by what was drawn.
    """
    plain = ["x" if made.explored else "b" if back else "d" for back in fell.tolist()]
    if not made.plan.size:
        return "".join(plain)
    pins = page.pinned if page.pinned.size else np.full(made.slot_pools.size, NONE, np.int64)
    planned = order == "greedy" and not made.explored
    given = np.bincount(pins[pins != NONE], minlength=len(required)).tolist()
    letters = []
    for slot, pool in enumerate(made.slot_pools.tolist()):
        if pins[slot] == pool:
            letters.append("p")
        elif planned and made.plan[slot] == pool:
            given[pool] += 1
            letters.append("r" if given[pool] <= required[pool] else "f")
        else:
            letters.append(plain[slot])
    return "".join(letters)
