"""f(x): what is known of each candidate of a request, as numbers in [-1, 1]; one definition to learn and to serve.

Each is computed from a population version, the embeddings, the catalogue and the user's latest reactions; none from
an item's id or its place in a file. What is missing is 0, and has a presence feature or a value below the least
present one beside it. Parts are of the greatest among the candidates of the request, so no outlier of another
request or item outside it is a scale.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from blending.types import BoolArray, FloatArray, IntArray, ItemArray
from engine.catalogue import EMPTY, Catalogue, Token
from engine.feature_kernels import REACTIONS, put_bases, put_gated, put_presence, put_ranks, round_to_steps
from engine.policy import Policy

# name -> its group, which `[weights] without` may leave out; the order is that of the features
BASES = {
    "near": "near",
    "near_log": "near",
    "together_log": "together",
    "successor_log": "successors",
    "last_near_log": "near",
    "embedding": "embeddings",
    "recent_embedding": "embeddings",
    "recent_embedding_log": "embeddings",
    "popularity": "popularity",
    "trend": "trends",
    "trend_log": "trends",
    "fast_log": "trends",
    "faster_log": "trends",
    "starts": "starts",
    "starts_log": "starts",
    "rate": "rate",
    "affinity": "affinity",
    "affinity_popularity": "affinity",
    "factor": "factors",
    "factor_log": "factors",
}
# What a feature counts for depends on what is known of the user: these stand a second time, times a gate.
GATED = {
    "history": (
        "near",
        "near_log",
        "together_log",
        "popularity",
        "rate",
        "recent_embedding",
        "factor",
        "factor_log",
    ),
    "fresh": ("near", "near_log", "successor_log", "popularity", "recent_embedding"),
    "nobody": ("starts", "starts_log", "fast_log", "rate", "trend_log"),
    "early": ("near_log", "last_near_log", "popularity", "fast_log", "successor_log"),
}
GATE_OF = np.array([gate for gate, bases in enumerate(GATED.values()) for _ in bases])
BASE_OF = np.array([list(BASES).index(base) for bases in GATED.values() for base in bases])
BEHAVIOUR = (
    "near",
    "together",
    "successors",
    "popularity",
    "trends",
    "starts",
    "rate",
    "factors",
)  # groups of reactions alone
PRESENCE = ("reacted_to", "described")  # somebody has reacted to the item; it has attributes
ALWAYS = ("bias", "placed")  # `placed` is 0 when candidates are ranked, and 1 of what the feed then held
HISTORY_FULL = 20.0  # reactions at which the gate `history` is 1
FRESH_MS = 60_000.0  # since the last reaction, at which the gate `fresh` is half
EARLY = 6.0  # reactions after which the gate `early` is 1 / e


class Layout(NamedTuple):
    """What the features of a policy are: `names` and `groups` (d,), and a `key` of both that goes with sums.

    `tokens` are the attributes that are features, in the order of these, which come last.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    tokens: tuple[Token, ...]
    kept: FloatArray
    key: str

    def of_groups(self, groups: Sequence[str]) -> FloatArray:
        """1 for the features of these groups, 0 for the others, (d,)."""
        return np.array([float(group in groups) for group in self.groups])

    @property
    def placed(self) -> int:
        """Where the feature `placed` stands."""
        return self.names.index("placed")


class Raw(NamedTuple):
    """What features are made of: `columns` has an entry per item of the population, float64 (15, items).

    They are what is near, near to the last reaction, together, a successor, the inner products with the user's
    vector and the recent one, likes, the three trends, starts, and reactions (`feature_kernels` numbers them); then
    the affinity, exp of this times log of likes, and the products of factors. `past` is how many reactions are
    known, `since_ms` how long ago the last one was. `described`, (items,), marks items that have attributes;
    `ranks` has the list of each other pool.
    """

    columns: FloatArray
    described: BoolArray
    past: int
    since_ms: float
    ranks: Sequence[ItemArray]


@cache
def _layout(pools: tuple[str, ...], without: tuple[str, ...], tokens: tuple[Token, ...]) -> Layout:
    groups = list(BASES.values())
    names = list(BASES)
    for gate, bases in GATED.items():
        names += [f"{base} × {gate}" for base in bases]
        groups += [BASES[base] for base in bases]
    names += [*PRESENCE, *ALWAYS, *(f"rank in {pool}" for pool in pools)]
    groups += ["", "", "", "", *["pools"] * len(pools)]
    names += [f"{name}: {value}" for name, value in tokens]
    groups += ["attributes"] * len(tokens)
    kept = np.array([float(group not in without) for group in groups])
    key = blake2b("\0".join([*names, "", *without]).encode(), digest_size=6).hexdigest()
    return Layout(tuple(names), tuple(groups), tokens, kept, key)


def layout_of(policy: Policy, catalogue: Catalogue = EMPTY) -> Layout:
    """What the features are under a policy: among them a rank for each of its pools but the personal one.

    The attributes among them are the first of the catalogue, sorted: in which order they came does not matter.
    """
    others = tuple(name for name in policy.pools if name != policy.personal)
    first = catalogue.names[: min(policy.weights.attributes, catalogue.tokens)]
    return _layout(others, policy.weights.without, tuple(sorted(first)))


def features_of(raw: Raw, candidates: IntArray, layout: Layout, attributes: FloatArray) -> FloatArray:
    """f(x) of the candidates, item numbers (m,): (m, d) as they are served, in whole STEPS.

    `attributes` (m, tokens) are 1 where a candidate has one of the layout's tokens, else 0. Numbers beyond the
    population's are of items that it does not know: their ranks and attributes are all that is known of them.
    """
    x = np.zeros((candidates.size, len(layout.names)))
    put_bases(raw.columns, candidates, x)
    gates = gates_of(raw.past, raw.since_ms)
    put_gated(np.array([gates[gate] for gate in GATED]), GATE_OF, BASE_OF, x, len(BASES))
    at = len(BASES) + len(BASE_OF)
    put_presence(raw.columns[REACTIONS], raw.described, candidates, x, at)
    at += len(PRESENCE)
    x[:, at] = 1.0
    at += len(ALWAYS)
    for ranking in raw.ranks:
        put_ranks(ranking, candidates, x, at)
        at += 1
    x[:, at:] = attributes
    round_to_steps(x, layout.kept)
    return x


def gates_of(past: int, since_ms: float) -> dict[str, float]:
    """The gates for a user with so many known reactions, the last one so long ago."""
    return {
        "history": min(past, HISTORY_FULL) / HISTORY_FULL,
        "fresh": 1.0 / (1.0 + max(since_ms, 0.0) / FRESH_MS) if past else 0.0,
        "nobody": float(past == 0),
        "early": float(np.exp(-past / EARLY)) if past else 0.0,
    }
