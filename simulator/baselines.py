"""What the blend is compared with: the single pools, a random slate, and the plain blends.

Each answers the same requests from the same candidates, and learns from its own slates only.
"""

from typing import NamedTuple, Protocol

import numpy as np

from blending.blend import Rules, blend
from blending.posterior import Beta, updated
from blending.randomness import key_of
from blending.returns import returns_table
from blending.sampling import bits_at
from engine.policy import BlendPolicy, Policy
from engine.pools import Gathered

REWARD = np.ones(1)
PLAIN = ("random", "uniform", "fixed_ratio", "global_thompson", "naive_thompson")  # names that are no pool's
WEAK_PRIOR = (1.0, 19.0)  # a view in twenty is followed by an action, believed as firmly as twenty views


class Slate(NamedTuple):
    """Item numbers, and the pool of each slot; both of the feed's length."""

    items: list[int]
    pools: list[int]


class Asked(NamedTuple):
    """One request as a baseline sees it: `size` items are known so far."""

    request: str
    user: str
    slots: int
    size: int
    gathered: Gathered


class Baseline(Protocol):
    """A policy to compare with."""

    def slate(self, asked: Asked) -> Slate:
        """Fill the slots."""

    def learn(self, user: str, slate: Slate, hit: int | None) -> None:
        """The user saw the slate and liked the item in slot `hit`, or none of it."""


class SinglePool:
    """One pool alone."""

    def __init__(self, pool: int) -> None:
        """Take the pool at this place of the policy."""
        self._pool = pool

    def slate(self, asked: Asked) -> Slate:
        """The top of the pool's list."""
        items = asked.gathered.rankings[self._pool].items[: asked.slots].tolist()
        return Slate(items, [self._pool] * len(items))

    def learn(self, user: str, slate: Slate, hit: int | None) -> None:
        """Nothing."""


class Random:
    """Any items that the user has not reacted to."""

    def __init__(self, seed: int) -> None:
        """Draw with this seed."""
        self._seed = seed

    def slate(self, asked: Asked) -> Slate:
        """Draw without replacement, by rejection."""
        excluded = set(asked.gathered.visitor.excluded.tolist())
        wanted = min(asked.slots, asked.size - len(excluded))
        key = key_of(self._seed, "random", asked.user, asked.request)
        items: dict[int, None] = {}
        counter = 0
        while len(items) < wanted:
            item = int(bits_at(key, np.uint64(counter)) % np.uint64(asked.size))
            counter += 1
            if item not in excluded:
                items[item] = None
        return Slate(list(items), [])

    def learn(self, user: str, slate: Slate, hit: int | None) -> None:
        """Nothing."""


class Uniform:
    """Every slot from a pool drawn at random: the plain mix."""

    def __init__(self, seed: int) -> None:
        """Draw with this seed."""
        self._seed = seed

    def slate(self, asked: Asked) -> Slate:
        """Draw a pool per slot; one with nothing new left is not drawn."""
        lists = [iter(ranking.items.tolist()) for ranking in asked.gathered.rankings]
        open_pools = list(range(len(lists)))
        key = key_of(self._seed, "uniform", asked.user, asked.request)
        slate: dict[int, int] = {}
        counter = 0
        while len(slate) < asked.slots and open_pools:
            pool = open_pools[int(bits_at(key, np.uint64(counter)) % np.uint64(len(open_pools)))]
            counter += 1
            item = next((item for item in lists[pool] if item not in slate), None)
            if item is None:
                open_pools.remove(pool)
            else:
                slate[item] = pool
        return Slate(list(slate), list(slate.values()))

    def learn(self, user: str, slate: Slate, hit: int | None) -> None:
        """Nothing."""


class Thompson:
    """A Beta posterior per pool on a weak prior, for everybody together or for each user alone."""

    def __init__(self, name: str, settings: BlendPolicy, pools: int, *, per_user: bool) -> None:
        """Start every posterior at the weak prior."""
        self._name = name
        self._seed = settings.seed
        self._prior = Beta(*(np.full((pools, 1), parameter) for parameter in WEAK_PRIOR))
        self._per_user = per_user
        self._evidence: dict[str, np.ndarray] = {}  # user -> (2, pools, 1) of successes and exposure

    def _of(self, user: str) -> np.ndarray:
        shape = (2, *self._prior.alpha.shape)
        return self._evidence.setdefault(user if self._per_user else "", np.zeros(shape))

    def slate(self, asked: Asked) -> Slate:
        """Blend as the engine does, with this posterior."""
        posterior = updated(self._prior, *self._of(asked.user))
        key = key_of(self._seed, self._name, asked.user, asked.request)
        lists = asked.gathered.lists
        made = blend(posterior, Rules(REWARD, returns_table(asked.slots, 1.0)), lists, key)
        return Slate(lists.items[made.slot_pools, made.slot_ranks].tolist(), made.slot_pools.tolist())

    def learn(self, user: str, slate: Slate, hit: int | None) -> None:
        """Count every slot as seen, and the hit."""
        evidence = self._of(user)
        for pool in slate.pools:
            evidence[1, pool, 0] += 1.0
        if hit is not None:
            evidence[0, slate.pools[hit], 0] += 1.0


class FixedRatio:
    """The policy's own ratios, whoever asks: what a blend falls back to."""

    def __init__(self, policy: Policy) -> None:
        """Take the ratios of this policy."""
        self._seed = policy.blend.seed
        self._ratios = np.array([pool.ratio for pool in policy.pools.values()])
        self._nothing = Beta(*np.ones((2, self._ratios.size, 1)))

    def slate(self, asked: Asked) -> Slate:
        """Shares in proportion to the ratios, by Webster's method."""
        lists = asked.gathered.lists
        rules = Rules(REWARD, returns_table(asked.slots, None), mode="fixed", fallback=self._ratios)
        made = blend(self._nothing, rules, lists, key_of(self._seed, "fixed_ratio", asked.user, asked.request))
        return Slate(lists.items[made.slot_pools, made.slot_ranks].tolist(), made.slot_pools.tolist())

    def learn(self, user: str, slate: Slate, hit: int | None) -> None:
        """Nothing."""


def baselines(policy: Policy) -> dict[str, Baseline]:
    """All of them by name; a single pool has the name it has in the policy."""
    pools, settings = list(policy.pools), policy.blend
    return {
        "random": Random(settings.seed),
        **{name: SinglePool(place) for place, name in enumerate(pools)},
        "uniform": Uniform(settings.seed),
        "fixed_ratio": FixedRatio(policy),
        "global_thompson": Thompson("global_thompson", settings, len(pools), per_user=False),
        "naive_thompson": Thompson("naive_thompson", settings, len(pools), per_user=True),
    }
