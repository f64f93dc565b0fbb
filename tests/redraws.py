"""Requests that can be decided once, and again with other draws: what the tests of propensities share."""

from typing import Any

import numpy as np
from arms import SEED
from hypothesis import strategies as st
from msgspec import UNSET

from blending.blend import Blend, Page, Rules, blend, fallen, intended, lists_of
from blending.delay import Delay
from blending.kernels import offering
from blending.posterior import Beta
from blending.randomness import key_of
from blending.returns import returns_table
from engine.cap_record import Cap, tables_of
from engine.decision import Decision, PoolPart, verdict_letters
from engine.events import Request
from engine.page import slot_rules


class Case:
    """A request, what pools believe and offer, what its page keeps to, and the decision that came of it."""

    def __init__(self, alpha: Any, beta: Any, lists: list[str], slots: int, **more: Any) -> None:
        """Items have one letter; `more` are rewards, delta (None: Webster's), draws, epsilon, temperature.

        And mode, order and fallback; floors, caps and before, numbers by pool; pinned, pairs of slot and pool;
        groups, the numbers of each item's, and most, how many of each a page may hold.
        """
        self.posterior = Beta(*(np.array(given, float).reshape(len(lists), -1) for given in (alpha, beta)))
        self.delta, self.slots, self.items = more.get("delta", 1.0), slots, lists
        before = more.get("before", [0] * len(lists))
        self.start = sum(before)
        self.rules = Rules(
            np.array(more.get("rewards", [1.0])),
            returns_table(self.start + slots, self.delta),
            more.get("temperature", 1.0),
            more.get("epsilon", 0.0),
            slots if more.get("draws") == "slot" else 1,
            more.get("mode", "drawn"),
            np.array(more.get("fallback", [1.0] * len(lists)), float),
            more.get("order", "greedy"),
        )
        self.lists = lists_of([np.array([ord(item) for item in items[:slots]], np.int32) for items in lists])
        limits = [before, more.get("floors", [0] * len(lists)), more.get("caps", [slots] * len(lists))]
        self.pinned = more.get("pinned", [])
        pins = np.full(slots if self.pinned else 0, -1, np.int64)
        for slot, pool in self.pinned:
            pins[slot] = pool
        free = not {"before", "floors", "caps"} & more.keys()
        self.groups: dict[str, list[int]] = more.get("groups", {})
        self.caps = []
        if self.groups:
            numbers = [number for row in self.groups.values() for number in row]
            width = max(map(len, self.groups.values()))
            self.caps = [Cap("alike", more["most"], width, [str(number) for number in range(max(numbers) + 1)])]
        entries = [[self.groups.get(item, []) for item in items[:slots]] for items in lists]
        groups, rooms = tables_of(self.caps, entries, max(map(len, entries)))
        limited = np.array(limits, np.int64)[:, : 0 if free else None].copy()
        self.page = Page(limited, pins, self.start, groups, rooms)

    def made(self, name: str) -> Blend:
        """The blend of a request of this name."""
        return blend(self.posterior, self.rules, self.lists, key_of(SEED, "ann", name), self.page)

    def decision(self, name: str = "monday") -> Decision:
        """The record of that blend."""
        made, actions = self.made(name), self.rules.rewards.size
        letters = [verdict_letters(row) for row in made.verdicts]
        wished = intended(made, self.rules, self.lists, key_of(SEED, "ann", name), self.page)
        limits = self.page.limits.T.tolist() or [(0, 0, None)] * len(self.items)
        none = [0] * len(self.items)
        return Decision(
            request=Request(request_id=name, user="ann", slots=self.slots),
            feed=name,
            start=self.start,
            at_ms=0,
            policy_version="",
            population_version=0,
            seed=SEED,
            temperature=self.rules.temperature,
            epsilon=self.rules.epsilon,
            delta=self.delta,
            mode=self.rules.mode,
            order=self.rules.order,
            cohort="",
            levels=[1.0] * actions,
            explored=made.explored,
            newcomer=False,
            actions=[str(action) for action in range(actions)],
            rewards=self.rules.rewards.tolist(),
            pools=[
                PoolPart(
                    pool=f"pool-{pool}",
                    alpha=self.posterior.alpha[pool].tolist(),
                    beta=self.posterior.beta[pool].tolist(),
                    strength=[2.0] * actions,
                    fallback=float(self.rules.fallback[pool]),
                    rates=made.rates[:, pool].tolist(),
                    delays=[Delay(1.0, 1.0)] * actions,
                    served=0,
                    stock=int(self.lists.stock[pool]),
                    filtered=0,
                    intended=int(wished[pool]),
                    realised=read.count("p"),
                    items=list(self.items[pool][: len(read)]),
                    verdicts=read,
                    before=limits[pool][0],
                    floor=limits[pool][1],
                    cap=limits[pool][2],
                    groups=[self.groups.get(item, []) for item in self.items[pool][: len(read)]]
                    if self.caps
                    else [],
                )
                for pool, read in enumerate(letters)
            ],
            pinned=self.pinned,
            degraded=[],
            slot_items=[self.items[pool][rank] for pool, rank in made.placed.T.tolist()],
            slot_pools=made.slot_pools.tolist(),
            slot_rules=slot_rules(made, self.page, self.rules.order, none, fallen(made, self.rules, self.lists)),
            considered=None,
            caps=self.caps or UNSET,
            slot_offers=offering(*self.lists, made.placed).tolist(),
        )

    def counts(self, redraws: int) -> np.ndarray:
        """How often each slot went to each pool when the true lists were blended with other keys."""
        counts = np.zeros((self.slots, len(self.items)), np.int64)
        for number in range(redraws):
            pools = self.made(f"again {number}").slot_pools
            counts[np.arange(pools.size), pools] += 1
        return counts


@st.composite
def conditions(draw: st.DrawFn, stock: list[int], slots: int) -> dict[str, Any]:
    """Limits, pins and another mode or order; floors and pins that can be kept where no item is shared."""
    pools = len(stock)
    owners = draw(st.lists(st.integers(0, pools - 1), max_size=slots))
    floors = [min(owners.count(pool), stock[pool], slots) for pool in range(pools)]
    places = draw(st.permutations(range(slots)))
    owned = [pool for pool in range(pools) for _ in range(floors[pool])]
    numbers = st.lists(st.integers(0, slots), min_size=pools, max_size=pools)
    return {
        "before": draw(st.lists(st.integers(0, 2), min_size=pools, max_size=pools)),
        "floors": floors,
        "caps": [max(floor, cap) for floor, cap in zip(floors, draw(numbers), strict=True)],
        "pinned": [at for at in zip(places, owned, strict=False) if draw(st.booleans())],
        "mode": draw(st.sampled_from(["drawn", "expected", "fixed"])),
        "order": draw(st.sampled_from(["greedy", "spread", "rounded"])),
        "fallback": draw(numbers),
    }


@st.composite
def cases(draw: st.DrawFn, *, conditioned: bool = True) -> Case:
    """Any posterior and rules; lists over few items, so that they are short, empty and share items."""
    pools, actions, slots = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 6))
    size = pools * actions
    numbers = st.lists(st.floats(0.6, 300.0), min_size=size, max_size=size)
    alpha, beta = (np.reshape(draw(numbers), (pools, actions)) for _ in range(2))
    alphabet = "abcdefghij"
    disjoint = draw(st.booleans())
    lists = []
    for pool in range(pools):
        letters = "".join(chr(ord("A") + 10 * pool + n) for n in range(10)) if disjoint else alphabet
        lists.append("".join(draw(st.lists(st.sampled_from(letters), unique=True, max_size=8))))
    more: dict[str, Any] = {}
    if conditioned and draw(st.booleans()):
        more = draw(conditions([len(items) for items in lists], slots))
    return Case(
        alpha,
        beta,
        lists,
        slots,
        rewards=draw(st.sampled_from([[1.0, -2.0], [-1.0, -3.0], [2.0, 5.0]]))[:actions],
        delta=draw(st.sampled_from([None, 1.0, 0.85])),
        draws=draw(st.sampled_from(["feed", "slot"])),
        epsilon=draw(st.sampled_from([0.0, 0.02, 0.5])),
        temperature=draw(st.sampled_from([0.06, 1.0])),
        **more,
    )
