"""Large tables: sums of many users at once, and the best of many items, against plain numpy."""

import numpy as np
import pytest
from arms import SEED
from hypothesis import given
from hypothesis import strategies as st
from weight_terms import Term

from engine.lanes import LANES
from engine.slab_kernels import ROWS_AHEAD, add_seen_rows, best_scored
from engine.slabs import LINE_BYTES, slab

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_a_slab_begins_at_a_cache_line(kind: type) -> None:
    for shape in ((1, 16), (7, 2, 16), (1000, 64)):
        table = slab(shape, kind)
        assert (table.shape, table.dtype) == (shape, kind)
        assert table.ctypes.data % LINE_BYTES == 0
        assert table.flags.c_contiguous
        assert not table.any()


@given(seeds, st.integers(0, 40), st.integers(1, 40))
def test_a_batch_of_users_adds_what_its_terms_add_one_by_one(seed: int, events: int, features: int) -> None:
    """Users come once or often; what is too large is clipped and what is not finite is refused, as one by one."""
    random = np.random.default_rng(seed)
    sums, users = slab((9, 2, features), np.float64), np.sort(random.integers(0, 9, events))
    x, etas = random.uniform(-1, 1, (events, features)), random.normal(0, 2, events)
    y, weights = random.integers(0, 2, events).astype(np.float64), random.uniform(-1, 1, events)
    for values in (x, etas, y, weights):
        strange = random.random(values.shape) < 0.02
        values[strange] = random.choice([np.nan, np.inf, -np.inf, 1e9, -1e300], int(strange.sum()))
    want = np.zeros((9, 2, features))
    refused = 0
    diagonal = [row * (row + 3) // 2 for row in range(features)]
    for event, user in enumerate(users):
        term = Term("seen", (x[event], float(etas[event]), float(y[event])), float(weights[event]), full=False)
        precision, moment = np.zeros(features * (features + 1) // 2), want[user, 1].copy()
        refused += not term.add((precision, moment))
        want[user, 0] += precision[diagonal]
        want[user, 1] = moment
    assert add_seen_rows(sums, users, x, etas, y, weights) == refused
    assert np.allclose(sums, want, rtol=1e-12, atol=1e-12)


@given(seeds, st.integers(0, 2 * ROWS_AHEAD + 9), st.integers(0, 30), st.sampled_from([np.float32, np.float16]))
def test_the_best_are_those_of_a_stable_sort(seed: int, count: int, most: int, kind: type) -> None:
    """Of scores that many share: features are few whole numbers, so that no order of a sum rounds them."""
    random = np.random.default_rng(seed)
    table = slab((200, 2 * LANES), kind)
    table[:] = random.integers(-2, 3, table.shape)
    candidates, weights = random.integers(0, 200, count), random.integers(-2, 3, 2 * LANES).astype(np.float32)
    scores, best = np.empty(count, np.float32), np.full(most, -1)
    stored = table.view(np.uint16) if kind is np.float16 else table
    filled = best_scored(stored, candidates, weights, scores, best)
    assert (scores == table[candidates].astype(np.float32) @ weights).all()
    want = np.argsort(-scores, kind="stable")[:most]
    assert filled == want.size
    assert (best[:filled] == want).all()


def test_scores_are_summed_in_16_lanes_that_are_halved() -> None:
    """The order of the sum is fixed, so that every machine finds the same bits."""
    random = np.random.default_rng(SEED)
    table, weights = slab((50, 64), np.float32), random.normal(size=64).astype(np.float32)
    table[:] = random.normal(size=table.shape)
    scores, best = np.empty(50, np.float32), np.empty(1, np.int64)
    best_scored(table, np.arange(50), weights, scores, best)
    lanes = np.zeros((50, LANES), np.float32)
    for first in range(0, 64, LANES):
        lanes += table[:, first : first + LANES] * weights[first : first + LANES]
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    assert (scores == lanes[:, 0]).all()


def test_what_is_not_a_number_is_never_among_the_best() -> None:
    table = slab((4, LANES), np.float32)
    table[:, 0] = [1.0, np.nan, 3.0, 2.0]
    best = np.full(4, -1)
    weights = np.ones(LANES, np.float32)
    assert best_scored(table, np.arange(4), weights, np.empty(4, np.float32), best) == 3
    assert best.tolist() == [2, 3, 0, -1]
