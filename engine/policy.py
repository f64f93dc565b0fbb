"""Every behaviour constant, as typed data. The defaults are these types' own; a policy file changes them."""

import math
import re
from functools import cached_property
from hashlib import blake2b
from typing import Literal

import msgspec
from msgspec import Struct, field

PoolKind = Literal["popular", "similar", "fresh"]
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
POOLS_MAX = 32
ACTIONS_MAX = 32


class PoolPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[pools.NAME]`: one arm of the bandit, and where its candidates come from."""

    kind: PoolKind


class ActionPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[actions.NAME]`: what a user may do with an item, and what that is worth.

    Actions with a positive reward make an item liked: they move popularity and neighbours. Rewards stay
    outside the counts, so changing one re-scores all of history.
    """

    reward: float

    def __post_init__(self) -> None:
        """Refuse a reward that is not a finite number."""
        if not math.isfinite(self.reward):
            raise ValueError("reward must be a finite number")


class BlendPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[blend]`: how pools compete for slots."""

    seed: int = 0  # of all draws
    base_successes: float = 1.0  # Beta prior of a pool that nobody has seen yet
    base_failures: float = 19.0
    prior_strength: float = 2000.0  # at most so many views' worth of the population is a new user's prior

    def __post_init__(self) -> None:
        """Refuse a prior that is not a distribution."""
        for name in ("base_successes", "base_failures", "prior_strength"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number above 0")


class PopulationPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[population]`: what is learned across users, and how often it is fitted."""

    every_records: int = 1  # a new version each so many log records
    top_max: int = 2000  # length of the top lists
    neighbours_max: int = 200  # length of an item's list of neighbours
    recent_likes: int = 20  # of a user: pairs are counted with these, and `similar` starts from these

    def __post_init__(self) -> None:
        """Refuse lists of no length."""
        _at_least_one(self, "every_records", "top_max", "neighbours_max", "recent_likes")


class LimitsPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: the bounds of a user's state and of a request."""

    slots_max: int = 100
    history_max: int = 1000  # reactions remembered, the latest by event time
    waiting_max: int = 100  # reactions that came before their decision
    request_horizon_ms: int = 86_400_000  # how long a decision takes reactions and its id is remembered

    def __post_init__(self) -> None:
        """Refuse bounds of nothing."""
        _at_least_one(self, "slots_max", "history_max", "waiting_max", "request_horizon_ms")


def _at_least_one(table: Struct, *names: str) -> None:
    for name in names:
        if getattr(table, name) < 1:
            raise ValueError(f"{name} must be at least 1")


class Policy(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The whole policy. A table that a file leaves out is as here; `pools` and `actions` are given whole."""

    pools: dict[str, PoolPolicy] = field(
        default_factory=lambda: {
            "popular": PoolPolicy("popular"),
            "similar": PoolPolicy("similar"),
            "fresh": PoolPolicy("fresh"),
        }
    )
    actions: dict[str, ActionPolicy] = field(
        default_factory=lambda: {"like": ActionPolicy(1.0), "rated": ActionPolicy(0.0)}
    )
    blend: BlendPolicy = BlendPolicy()
    population: PopulationPolicy = PopulationPolicy()
    limits: LimitsPolicy = LimitsPolicy()

    def __post_init__(self) -> None:
        """Refuse what could not make a feed."""
        _check_names("pools", self.pools, POOLS_MAX)
        _check_names("actions", self.actions, ACTIONS_MAX)
        if not any(action.reward > 0 for action in self.actions.values()):
            raise ValueError(
                "actions must hold at least one with a reward above 0, or nothing can be learned"
            )

    @cached_property
    def rewarded(self) -> dict[str, float]:
        """The actions that the bandit learns from, and their rewards."""
        return {name: action.reward for name, action in self.actions.items() if action.reward != 0}

    @cached_property
    def likes(self) -> frozenset[str]:
        """The actions that make an item liked."""
        return frozenset(name for name, action in self.actions.items() if action.reward > 0)

    @cached_property
    def version(self) -> str:
        """A short hash of everything in it: the same policy has the same version anywhere."""
        return blake2b(msgspec.json.encode(self), digest_size=6).hexdigest()


def _check_names(table: str, names: dict[str, PoolPolicy] | dict[str, ActionPolicy], most: int) -> None:
    if not 0 < len(names) <= most:
        raise ValueError(f"{table} must hold 1 to {most} names, not {len(names)}")
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"{table}.{name}: a name is lower-case letters, digits and _, at most 32")
