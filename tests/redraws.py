"""Requests that can be decided once, and again with other draws: what the tests of propensities share."""

from typing import Any

import numpy as np
from arms import SEED
from hypothesis import strategies as st

from blending.blend import Rules, blend, lists_of
from blending.delay import Delay
from blending.posterior import Beta
from blending.randomness import key_of
from blending.returns import returns_table
from engine.decision import Decision, PoolPart, verdict_letters
from engine.events import Request


class Case:
    """A request, what pools believe and offer, and the decision that came of it."""

    def __init__(self, alpha: Any, beta: Any, lists: list[str], slots: int, **more: Any) -> None:
        """Items have one letter; `more` are rewards, delta (None: Webster's), draws, epsilon, temperature."""
        self.posterior = Beta(*(np.array(given, float).reshape(len(lists), -1) for given in (alpha, beta)))
        self.delta, self.slots, self.items = more.get("delta", 1.0), slots, lists
        draws = slots if more.get("draws") == "slot" else 1
        rewards = np.array(more.get("rewards", [1.0]))
        returns = returns_table(slots, self.delta)
        self.rules = Rules(rewards, returns, more.get("temperature", 1.0), more.get("epsilon", 0.0), draws)
        self.lists = lists_of([np.array([ord(item) for item in items[:slots]], np.int32) for items in lists])

    def made(self, name: str) -> Any:
        """The blend of a request of this name."""
        return blend(self.posterior, self.rules, self.lists, key_of(SEED, "ann", name))

    def decision(self, name: str = "monday") -> Decision:
        """The record of that blend."""
        made, actions = self.made(name), self.rules.rewards.size
        letters = [verdict_letters(row) for row in made.verdicts]
        return Decision(
            request=Request(request_id=name, user="ann", slots=self.slots),
            at_ms=0,
            policy_version="",
            population_version=0,
            seed=SEED,
            temperature=self.rules.temperature,
            epsilon=self.rules.epsilon,
            delta=self.delta,
            explored=made.explored,
            newcomer=False,
            actions=[str(action) for action in range(actions)],
            rewards=self.rules.rewards.tolist(),
            pools=[
                PoolPart(
                    pool=f"pool-{pool}",
                    alpha=self.posterior.alpha[pool].tolist(),
                    beta=self.posterior.beta[pool].tolist(),
                    rates=made.rates[:, pool].tolist(),
                    delays=[Delay(1.0, 1.0)] * actions,
                    served=0,
                    stock=int(self.lists.stock[pool]),
                    filtered=0,
                    intended=int(made.intended[pool]),
                    realised=read.count("p"),
                    items=list(self.items[pool][: len(read)]),
                    verdicts=read,
                )
                for pool, read in enumerate(letters)
            ],
            slot_items=[
                self.items[pool][rank]
                for pool, rank in zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)
            ],
            slot_pools=made.slot_pools.tolist(),
        )

    def counts(self, redraws: int) -> np.ndarray:
        """How often each slot went to each pool when the true lists were blended with other keys."""
        counts = np.zeros((self.slots, len(self.items)), np.int64)
        for number in range(redraws):
            pools = self.made(f"again {number}").slot_pools
            counts[np.arange(pools.size), pools] += 1
        return counts


@st.composite
def cases(draw: st.DrawFn) -> Case:
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
    )
