"""What `feedloom bench` calls of users' weights and of scoring: ours, and the same work done with other libraries.

What is learned of a user, and what is known of items, lies in tables far greater than the caches; ours and a peer's
go over them so that a row is seldom met again soon. Batches are as a worker has them: many users, sorted.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from blending.types import FloatArray, IntArray
from engine.slab_kernels import add_seen_rows, best_scored
from engine.slabs import slab
from engine.weights import add_valued, no_sums, packed, posterior
from feedloom.bench_peers import SEED, Call, Comparison, Duel

EVENTS, USERS, NARROW = 256, 500_000, 32  # of a batch; of the table, 256 MB; features of a user
WIDE = 64  # features of a full matrix and of an item
ITEMS, CANDIDATES, BEST = 1_000_000, 500, 25
DIAGONAL, FULL, SCORE = f"{EVENTS} updates, diagonal", "update, full", f"score {CANDIDATES} of 1M"
VW_BATCHES, RIVER_BATCHES = 100, 20  # the texts and the models that are made before the clock starts
VW_OPTIONS = "--quiet -b 24 --loss_function logistic -q uf --ignore_linear u --ignore_linear f --noconstant"


class Batch(NamedTuple):
    """Seen slots: x (EVENTS, NARROW), served scores, what came of them (0 or 1), and weights, all (EVENTS,)."""

    x: FloatArray
    etas: FloatArray
    y: FloatArray
    weights: FloatArray


def weight_rows(missing: Sequence[str], end: ExitStack) -> list[Comparison]:
    """The rows of the peers that are not `missing`; what a peer holds is let go at the `end`."""
    makers: list[tuple[dict[str, Callable[..., Comparison]], Callable[[], Any]]] = [
        ({"vw": partial(_vw_row, end=end), "river": _river_row}, our_diagonal),
        ({"padasip": _padasip_row, "river": _river_full_row}, our_full),
        ({"implicit": _implicit_row, "faiss": _faiss_row}, Items),
    ]
    rows = []
    for of_peers, ours in makers:
        there = [make for peer, make in of_peers.items() if peer not in missing]
        if there:
            shared = ours()  # tables are large, and made for a peer only
            rows += [make(shared) for make in there]
    return rows


def batch() -> Batch:
    """What the events of every batch say."""
    random = np.random.default_rng(SEED)
    x = random.uniform(-1, 1, (EVENTS, NARROW))
    return Batch(x, random.normal(size=EVENTS), (random.random(EVENTS) < 0.2).astype(np.float64), np.ones(EVENTS))


def batches_of_users() -> list[IntArray]:
    """All users in batches, each in order: no user comes again before all others have."""
    shuffled = np.random.default_rng(SEED).permutation(USERS)
    return [np.sort(shuffled[first : first + EVENTS]) for first in range(0, USERS - EVENTS + 1, EVENTS)]


def our_diagonal() -> Call:
    """The compiled update of a batch of users' diagonal sums."""
    sums, users = slab((USERS, 2, NARROW), np.float64), cycle(batches_of_users())
    sums[:] = 1.0  # so that no page of it is new
    events = batch()
    return lambda _: add_seen_rows(sums, next(users), *events)


def our_full() -> Call:
    """The compiled update of the full sums of one user."""
    sums, events = no_sums(WIDE), cycle(outcomes())
    return lambda _: add_valued(*sums, *next(events), 1.0, 1.0, True)


def our_reading() -> Call:
    """The weights and the Cholesky factor of a user's full sums."""
    sums, prior = no_sums(WIDE), (packed(np.eye(WIDE)), np.zeros(WIDE))
    for x, y in outcomes():
        add_valued(*sums, x, y, 1.0, 1.0, True)
    return lambda _: posterior(*prior, *sums)


def outcomes() -> list[tuple[FloatArray, float]]:
    """Features (WIDE,) and an outcome, a few times."""
    random = np.random.default_rng(SEED)
    return [(random.uniform(-1, 1, WIDE), float(random.normal())) for _ in range(4 * WIDE)]


class Items:
    """Features of all items in float16, and for the peers in float32: 128 and 256 MB.

    With weights (WIDE,) float32, and candidates to cycle through.
    """

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        self.table, self.half = slab((ITEMS, WIDE), np.float32), slab((ITEMS, WIDE), np.float16)
        some = random.normal(size=(ITEMS // 100, WIDE)).astype(np.float16)
        for table in (self.table, self.half):
            table.reshape(100, *some.shape)[:] = some  # quicker than so many random numbers
        self.weights = random.normal(size=WIDE).astype(np.float32)
        self.candidates = [random.integers(0, ITEMS, CANDIDATES) for _ in range(1_000)]

    def ours(self) -> Call:
        """The compiled scores and their best."""
        return self._best(self.half.view(np.uint16))

    def ours_of_floats(self) -> Call:
        """The same from float32."""
        return self._best(self.table)

    def theirs(self, best: Callable[[np.ndarray, IntArray], object]) -> Call:
        """A peer's, which is given the candidates."""
        given = cycle(self.candidates)
        return lambda _: best(self.table, next(given))

    def _best(self, table: np.ndarray) -> Call:
        given, weights = cycle(self.candidates), self.weights
        scores, best = np.empty(CANDIDATES, np.float32), np.empty(BEST, np.int64)

        def call(_: np.uint64) -> IntArray:
            best_scored(table, next(given), weights, scores, best)
            return best

        return call


def _vw_row(ours: Call, end: ExitStack) -> Comparison:
    learner: Any = import_module("vowpalwabbit").Workspace(f"{VW_OPTIONS} --random_seed {SEED}")
    end.callback(learner.finish)
    x, _, y, _ = batch()
    features = [" ".join(f"{name}:{value:.4f}" for name, value in enumerate(row)) for row in x]
    texts = [
        [f"{2 * y[event] - 1:g} |u {user} |f {features[event]}" for event, user in enumerate(users)]
        for users in batches_of_users()[:VW_BATCHES]
    ]
    examples = [[learner.example(text) for text in of_batch] for of_batch in texts[:RIVER_BATCHES]]
    end.callback(lambda: [learner.finish_example(one) for of_batch in examples for one in of_batch])

    def learn(given: Any, _: np.uint64) -> None:
        for one in next(given):
            learner.learn(one)

    given = cycle(texts)
    for _ in texts:  # so that no page of its table is new either
        learn(given, np.uint64(0))
    return Comparison(
        DIAGONAL,
        "vw",
        Duel(ours, partial(learn, given)),
        f"{EVENTS} users' events, {NARROW} features: `{VW_OPTIONS.removeprefix('--quiet ')}`, from text; less: no "
        "variance that can be added up or taken back; more: it predicts before it learns, which ours is told, and "
        f"its weights are ready, which ours divides when they are read; of {VW_BATCHES * EVENTS:,} users in turn",
        "with its examples parsed before, it takes",
        Duel(ours, partial(learn, cycle(examples))),
    )


def _river_row(ours: Call) -> Comparison:
    make = import_module("river.linear_model").LogisticRegression
    x, _, y, _ = batch()
    events = [(dict(enumerate(row)), int(outcome)) for row, outcome in zip(x.tolist(), y, strict=True)]
    models: list[list[Any]] = [[make() for _ in events] for _ in range(RIVER_BATCHES)]
    given = cycle(models)

    def learn(_: np.uint64) -> None:
        for model, event in zip(next(given), events, strict=True):
            model.learn_one(*event)

    for _ in models:
        learn(np.uint64(0))
    return Comparison(
        DIAGONAL,
        "river",
        Duel(ours, learn),
        f"a LogisticRegression of {NARROW} features for each user; less: stochastic gradient, no variance; more: "
        f"it predicts before it learns; of {RIVER_BATCHES * EVENTS:,} users in turn",
    )


def _padasip_row(ours: Call) -> Comparison:
    learner: Any = import_module("padasip.filters").FilterRLS(WIDE, mu=0.999)
    given = cycle(outcomes())

    def learn(_: np.uint64) -> None:
        x, y = next(given)
        learner.adapt(y, x)

    return Comparison(
        FULL,
        "padasip",
        Duel(ours, learn),
        f"recursive least squares of {WIDE} features; ours adds to its sums; more: its weights are ready after "
        "each event, where ours are solved for when they are read, once for many events",
        "such a reading, with Cholesky's factor, takes",
        Duel(ours, our_reading()),
    )


def _river_full_row(ours: Call) -> Comparison:
    learner: Any = import_module("river.linear_model").BayesianLinearRegression()
    given = cycle([(dict(enumerate(x.tolist())), y) for x, y in outcomes()])
    return Comparison(
        FULL,
        "river",
        Duel(ours, lambda _: learner.learn_one(*next(given))),
        f"BayesianLinearRegression of {WIDE} features; more: its weights are ready after each event",
    )


def _implicit_row(items: Items) -> Comparison:
    topk = import_module("implicit.cpu.topk").topk
    rows, weights = np.empty((CANDIDATES, WIDE), np.float32), items.weights[None, :]

    def best(table: np.ndarray, candidates: IntArray) -> object:
        np.take(table, candidates, axis=0, out=rows, mode="clip")
        return topk(rows, weights, BEST, num_threads=1)

    theirs = items.theirs(best)
    return Comparison(
        SCORE,
        "implicit",
        Duel(items.ours(), theirs),
        f"its topk of the best {BEST}, with {WIDE} features in float32, on rows that numpy's take gathers into one "
        "place, which is the fastest way to it; ours reads float16, which it is made for, and sums in float32",
        "where ours reads float32 too, it takes",
        Duel(items.ours_of_floats(), theirs),
    )


def _faiss_row(items: Items) -> Comparison:
    library = import_module("faiss")
    library.omp_set_num_threads(1)  # others would spin while it is our turn
    scores = np.empty(CANDIDATES, np.float32)
    products, place = library.fvec_inner_products_by_idx, library.swig_ptr
    given = place(scores), place(items.weights), place(items.table)

    def best(_: np.ndarray, candidates: IntArray) -> IntArray:
        products(*given, place(candidates), WIDE, 1, CANDIDATES)
        most = np.argpartition(scores, CANDIDATES - BEST)[CANDIDATES - BEST :]
        return np.asarray(most[np.argsort(-scores[most])])

    theirs = items.theirs(best)
    return Comparison(
        SCORE,
        "faiss",
        Duel(items.ours(), theirs),
        f"its fvec_inner_products_by_idx, in float32, then numpy's argpartition and argsort of the best {BEST}",
        "where ours reads float32 too, it takes",
        Duel(items.ours_of_floats(), theirs),
    )
