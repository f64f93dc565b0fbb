"""One blend: draw from the posteriors, turn rates into utilities, give out the slots."""

from typing import Literal, NamedTuple

import numpy as np

from blending.kernels import BEFORE, CAP, FLOOR, allocate, blended, intended_counts
from blending.order import NONE, floor_plans, rounded, spread_plans
from blending.posterior import Beta
from blending.sampling import PARAMETER_MAX, PARAMETER_MIN, PLAN_STREAM, tie_breaks, uniforms_of
from blending.types import BoolArray, FloatArray, IntArray, ItemArray
from blending.utilities import DRAWN, EXPECTED, FIXED, believed, fallen_slots

Mode = Literal["drawn", "expected", "fixed"]
Order = Literal["greedy", "spread", "rounded"]
MODES: dict[Mode, int] = {"drawn": DRAWN, "expected": EXPECTED, "fixed": FIXED}
NO_PLAN, NO_LIMITS = np.zeros(0, np.int64), np.zeros((3, 0), np.int64)
NO_GROUPS = np.zeros((0, 0, 0), np.int32)


class Lists(NamedTuple):
    """What the pools offer. `items` (pools, longest list) int32, best first; `stock` (pools,) their lengths.

    Items are opaque integers; the same integer in two lists is the same item.
    """

    items: ItemArray
    stock: IntArray


class Rules(NamedTuple):
    """How utilities become slots.

    `rewards` (actions,) may be negative. `returns` (slots so far and of this page,) is h(n), what a pool's next
    item is worth after n of its items. `temperature` c divides both Beta parameters: the variance is about c times
    as large, below 1 the blend is bolder. With probability `epsilon` a feed is mixed at random instead, each slot
    from any pool that is open. `draws` is 1, one belief for the whole feed, or the number of slots, one for each; a
    page of one slot has the feed's.

    `mode` says where utilities come from: posterior draws, posterior means, or nowhere but the fallback. `fallback`
    (pools,) takes their place, as shares, where no pool with items has a utility above 0; None is equal shares.

    `order` is "greedy", the best pool first; "spread", as many slots for each pool as that gives it, but evenly
    over the page; or "rounded", shares in proportion to utility, rounded at random so that they are right in the
    mean, and spread. The last two plan a page, so its beginning depends on its length.
    """

    rewards: FloatArray
    returns: FloatArray
    temperature: float = 1.0
    epsilon: float = 0.0
    draws: int = 1
    mode: Mode = "drawn"
    fallback: FloatArray | None = None
    order: Order = "greedy"


class Page(NamedTuple):
    """What a page has to keep to, and where it goes on.

    `limits` (3, pools) are each pool's items in earlier pages of the feed, how many slots of this page it must have
    and how many it may; (3, 0) is none, nothing and all. `pinned` (slots,) is the pool that has a slot, or -1;
    empty is none. `start` is how many slots earlier pages hold.

    `groups` (pools, longest list, width) int32 are the groups that each entry of the lists is in, -1 for none, and
    `rooms` (groups,) how many items of each the page may hold at most; (0, 0, 0) and (0,) is none.
    """

    limits: IntArray = NO_LIMITS
    pinned: IntArray = NO_PLAN
    start: int = 0
    groups: ItemArray = NO_GROUPS
    rooms: IntArray = NO_PLAN

    @property
    def reach(self) -> int:
        """How many entries are read of a list for each slot at most, if none holds more of a group than its room.

        What is read stands in the feed or is of a full group. Full groups have as many items in the feed as room,
        a list has no more of them than that, and each item in the feed is of `width` groups at most.
        """
        width: int = self.groups.shape[2]
        return max(1, width)


WHOLE = Page()  # a feed of one page, without conditions


class Blend(NamedTuple):
    """A blend and everything it was made from.

    `rates` (draws, pools, actions) are the draws, or the means; `explored` whether the feed was mixed at random;
    `placed` (2, feed length) each slot's pool and place in that pool's list; `verdicts` (pools, longest list) is 0
    unread, 1 placed, 2 duplicate, 3 of a full group. `plan` (slots,) is the pool that was to have each slot, -1 for
    none, or empty.
    """

    rates: FloatArray
    explored: bool
    placed: IntArray
    verdicts: IntArray
    plan: IntArray

    @property
    def slot_pools(self) -> IntArray:
        """The pool of each slot, shape (feed length,)."""
        pools: IntArray = self.placed[0]
        return pools

    @property
    def slot_ranks(self) -> IntArray:
        """Where its item stood in the list of that pool, counted from 0; shape (feed length,)."""
        ranks: IntArray = self.placed[1]
        return ranks


def lists_of(rankings: list[ItemArray]) -> Lists:
    """Pad rankings of different lengths into one table."""
    lengths = [ranking.size for ranking in rankings]
    stock = np.array(lengths, np.int64)
    items = np.full((len(rankings), max(lengths, default=0)), -1, np.int32)
    for row, ranking in zip(items, rankings, strict=True):
        row[: ranking.size] = ranking
    return Lists(items, stock)


def tempered(posterior: Beta, rules: Rules, pools: int) -> Beta:
    """What rates are drawn from: both parameters divided by the temperature, (pools, actions).

    Raises ValueError unless the posterior has this shape and every parameter that comes out is from
    PARAMETER_MIN to PARAMETER_MAX.
    """
    _check_shape(posterior, rules, pools)
    alpha, beta = posterior.alpha / rules.temperature, posterior.beta / rules.temperature
    parameters = np.concatenate((alpha, beta), axis=None)
    if not (parameters.min() >= PARAMETER_MIN and parameters.max() <= PARAMETER_MAX):
        raise _unfit()
    return Beta(alpha, beta)


def _check_shape(posterior: Beta, rules: Rules, pools: int) -> None:
    shape = (pools, rules.rewards.size)
    if not (min(shape) > 0 and posterior.alpha.shape == posterior.beta.shape == shape):
        raise ValueError(f"a blend of {shape[0]} pools and {shape[1]} actions needs a posterior of that shape")


def _unfit() -> ValueError:
    return ValueError(f"a Beta posterior needs parameters from {PARAMETER_MIN} to {PARAMETER_MAX}")


def equal_shares(pools: int) -> FloatArray:
    """The fallback of rules that name none."""
    return np.ones(pools)


def fallback_of(rules: Rules, pools: int) -> FloatArray:
    """The fallback of these rules, shape (pools,)."""
    return equal_shares(pools) if rules.fallback is None else rules.fallback


def blend(posterior: Beta, rules: Rules, lists: Lists, key: np.uint64, page: Page = WHOLE) -> Blend:
    """Thompson sampling over pools, for a page of `rules.returns.size` slots less those of earlier pages.

    The utility of a pool is the reward-weighted sum of its drawn rates. Floors and caps hold where stock that no
    other pool offers allows, and pins where lists share nothing, or the pool's is long enough for every slot; caps
    give way where a slot would stay empty. Raises ValueError as `tempered` does.
    """
    pools = lists.stock.size
    _check_shape(posterior, rules, pools)
    alpha, beta, temperature = posterior.alpha, posterior.beta, rules.temperature
    rewards, returns, draws, mode = rules.rewards, rules.returns, rules.draws, MODES[rules.mode]
    fallback = fallback_of(rules, pools)
    slots = returns.size - page.start
    plan = page.pinned
    if page.limits.size and page.limits[FLOOR].any():
        plan = floor_plans(pinned_of(page, slots), page.limits[FLOOR], uniforms_of(key, PLAN_STREAM, 1, pools))[0]
    rates = np.empty((draws if rules.mode == "drawn" else 1, *alpha.shape))
    placed, verdicts = np.empty((2, slots), np.int64), np.empty(lists.items.shape, np.int64)
    length, explored = blended(
        alpha,
        beta,
        temperature,
        rewards,
        returns,
        fallback,
        mode,
        rules.epsilon,
        *lists,
        page.limits,
        page.groups,
        page.rooms,
        plan,
        page.pinned,
        page.start,
        rates,
        placed,
        verdicts,
        key,
    )
    if length < 0:
        raise _unfit()
    if explored:
        plan = page.pinned
    elif rules.order != "greedy":
        utilities, fell = believed(
            alpha / temperature, beta / temperature, rewards, fallback, lists.stock, mode, page.start, key, rates
        )
        ties, nowhere = tie_breaks(pools, key), np.empty((0, 0))

        def given_out(items: ItemArray, groups: ItemArray, plan: IntArray) -> int:
            head = (utilities, fell, ties, returns, items, lists.stock, page.limits, groups, page.rooms, plan)
            return allocate(*head, slots, False, page.start, key, nowhere, placed, verdicts)

        counts = np.zeros(pools, np.int64)
        if rules.order == "spread":
            # By stock alone: what lists share is not known of entries that the page in the end does not read, nor
            # which groups these are in.
            distinct = np.arange(lists.items.size, dtype=np.int32).reshape(lists.items.shape)
            counts = np.bincount(placed[0, : given_out(distinct, NO_GROUPS, plan)], minlength=pools)
        uniforms = uniforms_of(key, PLAN_STREAM, 1, 3 * pools + 1)
        plan = planned(rules, lists, page, counts[None], utilities[:1], uniforms)[0]
        length = given_out(lists.items, page.groups, plan)
    return Blend(rates, explored, placed[:, :length], verdicts, plan)


def intended(made: Blend, rules: Rules, lists: Lists, key: np.uint64, page: Page = WHOLE) -> IntArray:
    """How many slots of the page each pool would get by utilities alone, if none ever ran out; shape (pools,)."""
    pools = lists.stock.size
    fallback = fallback_of(rules, pools)
    before = page.limits[BEFORE] if page.limits.size else np.zeros(pools, np.int64)
    slots = rules.returns.size - page.start
    return intended_counts(
        made.rates, rules.rewards, rules.returns, fallback, lists.stock, MODES[rules.mode], before, slots, key
    )


def fallen(made: Blend, rules: Rules, lists: Lists) -> BoolArray:
    """In which slots of the page the fallback took the place of utilities; shape (feed length,)."""
    return fallen_slots(made.rates, rules.rewards, lists.stock, MODES[rules.mode], made.slot_pools.size)


def pinned_of(page: Page, slots: int) -> IntArray:
    """The pool that each slot is pinned to, -1 for none; shape (slots,)."""
    return page.pinned if page.pinned.size else np.full(slots, NONE, np.int64)


def planned(
    rules: Rules, lists: Lists, page: Page, counts: IntArray, utilities: FloatArray, uniforms: FloatArray
) -> IntArray:
    """Whole plans for pages that are spread or rounded, one for each sample; (samples, slots).

    `counts` (samples, pools) is what greedy allocation gives each pool; `utilities` (samples, pools) what shares
    are in proportion to; `uniforms` (samples, 3 * pools + 1).
    """
    pools = lists.stock.size
    pinned = pinned_of(page, rules.returns.size - page.start)
    taken = np.bincount(pinned[pinned >= 0], minlength=pools)
    if rules.order == "rounded":
        low, high = taken, np.maximum(lists.stock, taken)
        if page.limits.size:
            low = np.maximum(np.minimum(page.limits[FLOOR], lists.stock), taken)
            high = np.maximum(np.minimum(page.limits[CAP], lists.stock), low)
        if high.sum() < pinned.size:  # where a slot would stay empty, pools are full to their caps and get more
            low, high = high, np.maximum(lists.stock, high)
        counts = rounded(np.maximum(utilities, 0.0), low, high, pinned.size, uniforms[:, -1].copy())
    return spread_plans(pinned, np.maximum(counts - taken, 0), uniforms[:, pools : 3 * pools].copy())
