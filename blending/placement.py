"""How likely each item was to stand in each slot of a feed's first page, by redraws of the whole page.

`blending.propensity` says whose a slot is, exactly where it can. What stands there also depends on how many of the
pool's items came before, and on what the lists share.
"""

from typing import NamedTuple

import numpy as np

from blending.blend import MODES, WHOLE, Lists, Page, Rules, blend, fallback_of, pinned_of, tempered
from blending.kernels import FLOOR
from blending.order import floor_plans
from blending.posterior import Beta
from blending.redraws import redrawn_items
from blending.sampling import PLAN_STREAM, bits_at, uniforms_of
from blending.types import FloatArray, IntArray, ItemArray


class Placement(NamedTuple):
    """Chances of the slots: `pools` (slots, pools), and `chances` (slots, items) of `items`, int32, rising.

    `worths` (slots, pools) are the former times what the pool's item is worth there, after those before it.
    """

    pools: FloatArray
    worths: FloatArray
    items: ItemArray
    chances: FloatArray


class Redrawing(NamedTuple):
    """How pages are drawn again: `columns` (pools, longest list) of items, and what the k-th of a pool is worth."""

    samples: int
    key: np.uint64
    columns: IntArray
    worth: FloatArray
    explored: bool


def places_of(slot_pools: IntArray) -> IntArray:
    """How many items of its own pool stand before each slot, (slots,)."""
    alike = slot_pools[:, None] == slot_pools
    return np.asarray(np.tril(alike, -1).sum(axis=1), np.int64)


def placement_of(
    posterior: Beta,
    rules: Rules,
    lists: Lists,
    samples: int,
    key: np.uint64,
    page: Page = WHOLE,
    delta: float = 1.0,
) -> Placement:
    """The chances of a blend, given everything but its draw; `key` seeds the redraws.

    Of the `samples` each part, mixed at random or not, has what epsilon says, but a quarter at least. The k-th item
    of a pool on the page, from 0, is worth `delta` ** k.

    Raises ValueError for a page that goes on from another, for fewer than one sample, and as `tempered` does.
    """
    if page.start:
        raise ValueError("where items stand on a later page is not known")
    if samples < 1:
        raise ValueError(f"Monte Carlo needs at least one sample, not {samples}")
    believed = tempered(posterior, rules, lists.stock.size)
    real = np.arange(lists.items.shape[1]) < lists.stock[:, None]
    items = np.unique(lists.items[real])
    columns = np.minimum(np.searchsorted(items, lists.items), max(items.size - 1, 0)).astype(np.int64)
    slots = rules.returns.size
    by_pool, by_worth = np.zeros((2, slots, lists.stock.size))
    by_item = np.zeros((slots, items.size))
    worth = delta ** np.arange(slots, dtype=np.float64)
    for part, explored in ((1.0 - rules.epsilon, False), (rules.epsilon, True)):
        if part > 0.0:
            given = Redrawing(max(samples // 4, round(part * samples), 1), key, columns, worth, explored)
            pools, placed, worths = _part(believed, rules, lists, page, given)
            by_pool += part / given.samples * pools
            by_item += part / given.samples * placed
            by_worth += part / given.samples * worths
    return Placement(by_pool, by_worth, items, by_item)


def _part(
    believed: Beta, rules: Rules, lists: Lists, page: Page, given: Redrawing
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sums over redraws that are mixed at random or not: by pool, by item, and by pool what it is worth."""
    samples, key, columns, worth, explored = given
    slots, pools, wide = rules.returns.size, lists.stock.size, int(columns.max(initial=-1)) + 1
    if rules.order != "greedy" and not explored:
        (by_pool, by_worth), by_item = np.zeros((2, slots, pools)), np.zeros((slots, wide))
        plain = rules._replace(temperature=1.0, epsilon=0.0)
        for sample in range(samples):
            made = blend(believed, plain, lists, np.uint64(bits_at(key, np.uint64(sample))), page)
            filled = np.arange(made.slot_pools.size)
            by_pool[filled, made.slot_pools] += 1.0
            by_worth[filled, made.slot_pools] += worth[places_of(made.slot_pools)]
            by_item[filled, columns[made.slot_pools, made.slot_ranks]] += 1.0
        return by_pool, by_item, by_worth
    plans = page.pinned[None]
    if page.limits.size and page.limits[FLOOR].any() and not explored:
        uniforms = uniforms_of(key, PLAN_STREAM, samples, pools)
        plans = floor_plans(pinned_of(page, slots), page.limits[FLOOR], uniforms)
    return redrawn_items(
        *believed,
        rules.rewards,
        rules.returns,
        fallback_of(rules, pools),
        MODES[rules.mode],
        1 if explored else rules.draws,
        *lists,
        page.limits,
        page.groups,
        page.rooms,
        plans,
        explored,
        columns,
        wide,
        worth,
        samples,
        key,
    )
