"""Features of candidates: each against plain formulas, within its bounds, and nothing from ids or file order."""

import numpy as np
import pytest

from engine import feature_kernels as kernels
from engine.features import BASES, GATED, PRESENCE, Layout, Raw, features_of, layout_of
from engine.policy import GROUPS, Policy, WeightsPolicy
from engine.pool_policy import PoolPolicy

POOLS = {"popular": PoolPolicy("popular"), "mine": PoolPolicy("personal"), "theirs": PoolPolicy("external")}
POLICY = Policy(pools=POOLS)
LAYOUT = layout_of(POLICY)
PLACE = {name: at for at, name in enumerate(LAYOUT.names)}
ITEMS = 30


def served(raw: Raw, candidates: np.ndarray, layout: Layout) -> np.ndarray:
    """Features without indicators of attributes."""
    return features_of(raw, candidates, layout, np.zeros((candidates.size, 0)))


def raw_of(random: np.random.Generator, past: int = 7, since_ms: float = 30_000.0) -> Raw:
    """Random columns in which a third of the numbers are missing."""
    columns = random.gamma(1.0, 2.0, (kernels.COLUMNS, ITEMS)) * (random.random((kernels.COLUMNS, ITEMS)) > 1 / 3)
    columns[kernels.AFFINITY] = random.uniform(-1.0, 1.0, ITEMS)
    columns[kernels.EMBEDDING] -= 1.0
    columns[kernels.REACTIONS] = columns[kernels.LIKES] + random.integers(0, 3, ITEMS)
    ranks = [random.permutation(ITEMS)[:8].astype(np.int32), np.array([3, ITEMS + 1], np.int32)]
    return Raw(columns, random.random(ITEMS) > 0.5, past, since_ms, ranks)


def oracle(raw: Raw, candidates: list[int]) -> np.ndarray:
    """The same in plain numpy, a column after another."""
    known = [item for item in candidates if item < ITEMS]

    def part(values: np.ndarray) -> np.ndarray:
        greatest = max(max((values[item] for item in known), default=0.0), 0.0)
        scaled = [values[item] / greatest if greatest > 0 else values[item] for item in known]
        return np.clip(np.array(scaled), -1.0, 1.0)

    def log(values: np.ndarray) -> np.ndarray:
        parts = part(values)
        return np.where(parts > 0, 1 + np.log((np.maximum(parts, 1e-300) + 0.01) / 1.01) / 4.7, 0.0)

    c, likes = raw.columns, raw.columns[kernels.LIKES]
    inside = np.array(known, np.int64)
    bases = {
        "near": part(c[kernels.NEAR]),
        "near_log": log(c[kernels.NEAR]),
        "together_log": log(c[kernels.TOGETHER]),
        "successor_log": log(c[kernels.SUCCESSOR]),
        "last_near_log": log(c[kernels.LAST_NEAR]),
        "embedding": part(c[kernels.EMBEDDING]),
        "recent_embedding": part(c[kernels.RECENT_EMBEDDING]),
        "recent_embedding_log": log(c[kernels.RECENT_EMBEDDING]),
        "popularity": part(np.log1p(likes)),
        "trend": part(np.log1p(c[kernels.TREND])),
        "trend_log": log(c[kernels.TREND]),
        "fast_log": log(c[kernels.FAST]),
        "faster_log": log(c[kernels.FASTER]),
        "starts": part(c[kernels.STARTS]),
        "starts_log": log(c[kernels.STARTS]),
        "rate": (likes[inside] + 2) / (c[kernels.REACTIONS][inside] + 4),
        "affinity": c[kernels.AFFINITY][inside],
        "affinity_popularity": log(c[kernels.LIKED_AFFINITY]),
        "factor": part(c[kernels.FACTOR]),
        "factor_log": log(c[kernels.FACTOR]),
    }
    gates = {
        "history": min(raw.past, 20) / 20,
        "fresh": 1 / (1 + raw.since_ms / 60_000) if raw.past else 0.0,
        "nobody": float(raw.past == 0),
        "early": np.exp(-raw.past / 6) if raw.past else 0.0,
    }
    columns = [bases[name] for name in BASES]
    columns += [gates[gate] * bases[name] for gate, names in GATED.items() for name in names]
    columns += [(c[kernels.REACTIONS][inside] > 0) * 1.0, raw.described[inside] * 1.0]
    x = np.zeros((len(candidates), len(LAYOUT.names)))
    x[[item < ITEMS for item in candidates], : len(columns)] = np.stack(columns, axis=1)
    x[:, PLACE["bias"]] = 1.0
    for pool, ranking in zip(("popular", "theirs"), raw.ranks, strict=True):
        for rank, item in enumerate(ranking.tolist()):
            for place, candidate in enumerate(candidates):
                if candidate == item:
                    x[place, PLACE[f"rank in {pool}"]] = 1 / np.sqrt(1 + rank)
    return x


@pytest.mark.parametrize("past", [0, 1, 7, 40])
@pytest.mark.parametrize("seed", range(5))
def test_features_are_what_plain_formulas_say(seed: int, past: int) -> None:
    """Items that the population does not know have their ranks and the bias alone."""
    random = np.random.default_rng(seed)
    raw = raw_of(random, past)
    candidates = [*random.permutation(ITEMS)[:12].tolist(), ITEMS + 1]
    x = served(raw, np.array(candidates, np.int64), LAYOUT)
    plain = oracle(raw, candidates)
    close = np.abs(plain * 127.0 % 1.0 - 0.5) < 1e-9  # to half a step, which may be rounded up or down
    np.testing.assert_array_equal(np.rint(127.0 * x), np.rint(127.0 * plain) * ~close + np.rint(127.0 * x) * close)
    assert np.abs(x).max() <= 1.0


def test_every_feature_has_a_name_and_a_group_that_can_be_left_out() -> None:
    """Leaving a group out leaves its features at 0 and the others as they are; sums of the two never meet."""
    raw = raw_of(np.random.default_rng(3))
    candidates = np.arange(10)
    whole = served(raw, candidates, LAYOUT)
    left_out = set()
    for group in sorted({*GROUPS} - {"attributes"}):  # of which there are none without a catalogue
        layout = layout_of(Policy(pools=POOLS, weights=WeightsPolicy(without=(group,))))
        x = served(raw, candidates, layout)
        gone = np.flatnonzero(layout.kept == 0.0)
        assert gone.size > 0
        assert not x[:, gone].any()
        np.testing.assert_array_equal(np.delete(x, gone, axis=1), np.delete(whole, gone, axis=1))
        assert layout.key != LAYOUT.key
        left_out |= set(gone.tolist())
    assert {LAYOUT.names[at] for at in range(len(LAYOUT.names)) if at not in left_out} == {
        *PRESENCE,
        "bias",
        "placed",
    }


def test_items_are_told_apart_by_what_is_known_of_them_alone() -> None:
    """Renumbering the items permutes the features and changes nothing else."""
    random = np.random.default_rng(4)
    raw = raw_of(random)
    number = random.permutation(ITEMS)
    columns, described = np.empty_like(raw.columns), np.empty_like(raw.described)
    columns[:, number], described[number] = raw.columns, raw.described
    ranks = [number[raw.ranks[0]].astype(np.int32), np.array([number[3], ITEMS + 1], np.int32)]
    candidates = np.arange(10)
    again = served(Raw(columns, described, raw.past, raw.since_ms, ranks), number[candidates], LAYOUT)
    np.testing.assert_array_equal(again, served(raw, candidates, LAYOUT))


def test_presence_with_nothing_differs_from_absence() -> None:
    """The least that is near has a logarithm above 0; what is not near at all has 0."""
    raw = raw_of(np.random.default_rng(5))
    raw.columns[kernels.NEAR] = 0.0
    raw.columns[kernels.NEAR, :3] = 1.0, 1e-12, 0.0
    near = served(raw, np.arange(3), LAYOUT)[:, PLACE["near_log"]]
    assert near[0] > near[1] > near[2] == 0.0


@pytest.mark.parametrize("huge", [1e6, 1e30, 1e300])
def test_one_outlier_bounds_a_column_and_leaves_the_others_features_alone(huge: float) -> None:
    """It is the greatest of its column in this request; a request without it as a candidate does not notice."""
    raw = raw_of(np.random.default_rng(6))
    before = served(raw, np.arange(1, 9), LAYOUT)
    raw.columns[kernels.TREND, 0] = huge
    x = served(raw, np.arange(9), LAYOUT)
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 1.0
    assert (x[:, PLACE["trend_log"]] >= 0.0).all()
    np.testing.assert_array_equal(served(raw, np.arange(1, 9), LAYOUT), before)
