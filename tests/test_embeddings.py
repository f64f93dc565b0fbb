"""Item vectors: against plain formulas, against the truth of small worlds, and where there is nothing to learn."""

from functools import cache

import numpy as np
import pytest
from arms import SEED
from msgspec.structs import replace
from planted_items import World, conditioned, dense_sweeps, objective, planted, tokens_of

from engine.offline import attributes
from engine.offline.attributes import RELIABLE, TOKEN_RIDGE, believed, expected, learned, no_tokens
from engine.offline.embeddings import START_SIZE, Embeddings, Training, by_row, factorised, trained
from engine.offline.kernels import invert
from engine.weight_translation import translation

SMALL = Training(dimensions=6)


@cache
def world() -> World:
    print(f"seed {SEED}")
    return planted(np.random.default_rng(SEED))


@cache
def embeddings() -> Embeddings:
    return learned_of(world())


def learned_of(told: World, first: int | None = None, previous: Embeddings | None = None) -> Embeddings:
    """What the first reactions teach."""
    return trained(told.users[:first], told.items[:first], told.liked[:first], told.tokens, SMALL, previous)


def both_ways(told: World) -> tuple:
    shape = told.scores.shape
    by_user = by_row(told.users, told.items, told.liked, shape)
    return by_user, by_row(told.items, told.users, told.liked, shape[::-1])


def auc(scores: np.ndarray, better: np.ndarray) -> float:
    """The chance that one of the better ones has the greater score."""
    ranks = np.empty(scores.size)
    ranks[np.argsort(scores)] = np.arange(scores.size)
    count = better.sum()
    return float((ranks[better].sum() - count * (count - 1) / 2) / (count * (scores.size - count)))


def test_a_cell_counts_once_and_is_liked_if_it_ever_was() -> None:
    rows, columns = np.array([2, 0, 2, 2, 0]), np.array([1, 3, 1, 0, 3])
    table = by_row(rows, columns, np.array([True, False, False, False, False]), (4, 5))
    assert table.starts.tolist() == [0, 1, 1, 3, 3]
    assert table.columns.tolist() == [3, 0, 1]
    assert table.liked.tolist() == [False, False, True]


@pytest.mark.parametrize("dimensions", [1, 3, 8, 13])
def test_sweeps_are_those_of_a_regression_over_all_cells(dimensions: int) -> None:
    random = np.random.default_rng(SEED)
    how = Training(dimensions=dimensions, ridge=0.7)
    users, items, liked = random.integers(0, 30, 300), random.integers(0, 20, 300), random.random(300) < 0.4
    by_user, by_item = by_row(users, items, liked, (31, 22)), by_row(items, users, liked, (22, 31))
    start = random.normal(size=(22, dimensions))
    for found, plain in zip(
        factorised(by_user, by_item, start, 3, how), dense_sweeps(by_user, start, 31, 3, how), strict=True
    ):
        assert np.abs(found - plain).max() < 1e-8


def test_no_sweep_makes_the_fit_worse_and_a_warm_start_is_ahead_of_a_cold_one() -> None:
    told = world()
    by_user, by_item = both_ways(told)
    before = learned_of(told, -1000)  # all but the last users
    cold = 0.1 * np.random.default_rng(SEED).normal(size=(len(by_item.starts) - 1, SMALL.dimensions))
    warm = before.factors.astype(np.float64)
    values = {
        name: [
            objective(by_user, *factorised(by_user, by_item, start, sweeps, SMALL), SMALL) for sweeps in (1, 2, 3)
        ]
        for name, start in (("cold", cold), ("warm", warm))
    }
    for steps in values.values():
        assert steps == sorted(steps, reverse=True)
    assert (np.array(values["warm"]) <= values["cold"]).all()


def test_a_user_is_fitted_as_training_would_with_the_items_held() -> None:
    told, found = world(), embeddings()
    by_user, _ = both_ways(told)
    factors = found.factors.astype(np.float64)
    plain, _ = dense_sweeps(by_user, factors, len(by_user.starts) - 1, 1, SMALL)
    for user in (0, 7, 40):
        own = slice(by_user.starts[user], by_user.starts[user + 1])
        fitted = found.user_vector(factors[by_user.columns[own]], by_user.liked[own])
        assert np.abs(fitted - plain[user]).max() < 1e-5  # the gram is of factors in double precision
    nobody = found.user_vector(np.zeros((0, SMALL.dimensions)), np.zeros(0, np.bool_))
    assert not nobody.any()


@pytest.mark.parametrize(("part", "least"), [("known", 0.8), ("cold", 0.6)])
def test_likes_of_what_was_not_shown_are_foretold(part: str, least: float) -> None:
    """AUC of the better half: .5 by chance. Over five seeds .89 to .91 of known items, .73 to .81 of cold."""
    told = world()
    by_user, by_item = both_ways(told)
    start = START_SIZE * np.random.default_rng(SMALL.seed).normal(size=(len(by_item.starts) - 1, SMALL.dimensions))
    users = factorised(by_user, by_item, start, SMALL.sweeps, SMALL)[0]
    users /= np.linalg.norm(users, axis=1)[:, None]
    reactions = np.diff(by_item.starts)
    hidden = ~told.shown & (reactions >= 40 if part == "known" else reactions == 0)
    found, truth = (users @ embeddings().theta.T)[hidden], told.scores[hidden]
    assert auc(found, truth > np.median(truth)) > least


def test_the_same_reactions_in_any_order_give_the_same_bits() -> None:
    told, found = world(), embeddings()
    order = np.random.default_rng(SEED).permutation(np.append(np.arange(told.users.size), np.arange(500)))
    again = trained(told.users[order], told.items[order], told.liked[order], told.tokens, SMALL)
    for one, other in (
        (found.theta, again.theta),
        (found.variance, again.variance),
        (found.factors, again.factors),
    ):
        assert one.dtype == np.float32
        assert one.tobytes() == other.tobytes()


def test_a_matrix_is_inverted_from_its_upper_triangle() -> None:
    random = np.random.default_rng(SEED)
    for size in (0, 1, 2, 7, 30):
        rows = random.normal(size=(size + 5, size))
        matrix, found = rows.T @ rows + np.eye(size), np.empty((size, size))
        invert(np.triu(matrix), found)
        assert np.abs(found - np.linalg.inv(matrix)).max(initial=0.0) < 1e-10


def test_what_is_believed_is_the_joint_normal_distribution_conditioned() -> None:
    """With items of no, one and several tokens, told twice or not, with and without reactions."""
    random = np.random.default_rng(SEED)
    lists = [random.integers(0, 9, random.integers(1, 4)).tolist() for _ in range(60)]
    tokens = tokens_of(lists)
    reactions = random.integers(0, 60, 60) * (random.random(60) < 0.7)
    observed = np.where(reactions[:, None] > 0, random.normal(size=(60, 3)), 0.0)
    model = learned(tokens, observed, reactions.astype(np.float64))
    assert model.known.tolist() == list(range(9))
    once = tokens_of([sorted(set(one)) for one in lists])
    vectors, variances = conditioned(once, model.mean, observed, reactions, (RELIABLE, TOKEN_RIDGE))
    found = believed(model, tokens, observed, reactions.astype(np.float64))
    assert np.abs(found.vectors - vectors).max() < 1e-8
    assert np.abs(found.variances - model.residual * variances).max() < 1e-8
    cold = expected(model, tokens)
    assert np.abs((found.vectors - cold.vectors)[reactions == 0]).max() < 1e-12


def test_the_truth_lies_where_it_is_believed_to_be() -> None:
    """95 % intervals of known and cold items, and of those of unseen tokens, from vectors with noise of 1 / n.

    3,600, 4,800 and 3,600 numbers, those of an item or a token alike: the bounds are over five standard errors.
    """
    random = np.random.default_rng(SEED)
    items, dimensions, tau = 1000, 12, 0.15
    lists = [random.integers(0, 20, 2).tolist() for _ in range(items - 300)] + [[99]] * 300
    effects = tau / np.sqrt(TOKEN_RIDGE) * random.normal(size=(20, dimensions))
    truth = 0.1 + tau * random.normal(size=(items, dimensions))
    for item, own in enumerate(lists):
        each = set(own)
        truth[item] += sum(effects[one] for one in each) / np.sqrt(len(each)) if each != {99} else 0.0
    truth[-300:] += tau / np.sqrt(TOKEN_RIDGE) * random.normal(size=(300, dimensions))  # each a token of its own
    reactions = np.where(np.arange(items) < 300, random.integers(1, 200, items), 0).astype(np.float64)
    reactions[300:400] = 3.0
    noise = tau * np.sqrt(RELIABLE / np.maximum(reactions, 1.0))[:, None] * random.normal(size=truth.shape)
    observed = np.where(reactions[:, None] > 0, truth + noise, 0.0)
    tokens = tokens_of(lists)
    model = learned(tokens, observed, reactions)
    assert 0.8 < model.residual / tau**2 < 1.2
    found = believed(model, tokens, observed, reactions)
    inside = np.abs(found.vectors - truth) < 1.96 * np.sqrt(found.variances)[:, None]
    cold, unseen = slice(400, 700), slice(700, 1000)
    for part, least in ((slice(0, 400), 0.92), (cold, 0.92), (unseen, 0.90)):
        assert least < inside[part].mean() < 0.98
    assert found.variances[cold].min() > found.variances[:400].max()
    assert found.variances[unseen].min() > found.variances[cold].mean()
    guessed = np.linalg.norm(found.vectors - truth, axis=1)
    assert guessed[cold].mean() < np.linalg.norm(model.mean - truth[cold], axis=1).mean()


def test_an_item_nobody_met_is_embedded_by_its_tokens() -> None:
    told, found = world(), embeddings()
    for item in (280, 290, 299):
        own = told.tokens.tokens[told.tokens.starts[item] : told.tokens.starts[item + 1]]
        vector, variance = found.embed(own)
        assert vector.tobytes() == found.theta[item].tobytes()
        assert variance == pytest.approx(float(found.variance[item]))
        assert np.abs(vector).sum() > 0.0
    assert np.linalg.norm(found.theta, axis=1).max() <= 1.0 + 1e-6
    known = np.bincount(told.items, minlength=300)
    cold = expected(found.attributes, told.tokens).variances
    ever = found.factors.any(axis=1)
    assert not ever[-20:].any()
    assert (found.variance < cold - 1e-6)[ever].all()
    assert np.allclose(found.variance[~ever], cold[~ever])
    sure, rare = known > 80, (known > 0) & (known < 15)
    assert np.linalg.norm(found.theta[rare], axis=1).mean() < 0.9 * np.linalg.norm(found.theta[sure], axis=1).mean()


def test_tokens_never_seen_say_nothing() -> None:
    found = embeddings()
    none = found.embed(np.zeros(0, np.int64))
    unseen = found.embed(np.array([12, 1_000_000]))
    for vector, variance in (none, unseen):
        assert vector.tobytes() == found.attributes.mean.astype(np.float32).tobytes()
        assert variance == pytest.approx(found.attributes.whole)
    vector, variance = found.embed(np.array([3, 500]))
    assert found.embed(np.array([3]))[1] < variance < none[1]
    told = world()
    known = np.bincount(told.items, minlength=300).astype(np.float64)
    bare = trained(told.users, told.items, told.liked, no_tokens(300), SMALL)
    assert np.allclose(bare.theta[-20:], bare.attributes.mean, atol=1e-7)
    directions = (
        bare.attributes.mean + (bare.theta - bare.attributes.mean) * ((known + RELIABLE) / known.clip(1))[:, None]
    )
    assert np.allclose(known @ directions / known.sum(), bare.attributes.mean, atol=1e-5)


def test_of_too_many_tokens_the_rarest_count_as_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "TOKENS_MAX", 2)
    tokens = tokens_of([[0, 5], [5, 7], [7], [5, 2], []])
    model = learned(tokens, np.random.default_rng(SEED).normal(size=(5, 3)), np.full(5, 10.0))
    assert model.known.tolist() == [5, 7]
    found = expected(model, tokens)
    assert np.array_equal(found.vectors[0], found.vectors[3])
    assert found.variances[4] == model.whole


NOBODY = np.zeros(0, np.int64)


@pytest.mark.parametrize(
    ("users", "items", "liked", "lists"),
    [
        pytest.param([], [], [], [], id="no items"),
        pytest.param([], [], [], [[], [1], [1, 2]], id="no reactions"),
        pytest.param([0], [1], [True], [[], [1], [1, 2]], id="one reaction"),
        pytest.param([0, 0, 0], [0, 1, 2], [True, False, True], [[0], [1], []], id="one user"),
        pytest.param([0, 1, 2], [0, 0, 0], [True, True, True], [[3]], id="one item"),
        pytest.param([0, 1, 2], [0, 1, 0], [False, False, False], [[3], [4], [5]], id="no likes"),
        pytest.param([7, 7, 9], [0, 2, 2], [True, False, True], [[], [], []], id="no tokens"),
    ],
)
def test_where_there_is_little_to_learn_there_is_a_vector_and_a_variance(
    users: list[int], items: list[int], liked: list[bool], lists: list[list[int]]
) -> None:
    """Twice: from nothing, and from what the first time came of it."""
    told = np.array(users, np.int64), np.array(items, np.int64), np.array(liked, np.bool_)
    first = trained(*told, tokens_of(lists), SMALL)
    second = trained(*told, tokens_of([*lists, [1]]), SMALL, first)
    assert (first.version, second.version, first.translation) == (1, 2, None)
    for found in (first, second):
        assert found.theta.shape == (len(found.variance), SMALL.dimensions)
        assert np.isfinite(found.theta).all()
        assert np.isfinite(found.variance).all()
        assert (found.variance > 0.0).all()
        vector, variance = found.embed(np.array([1]))
        assert np.isfinite(vector).all()
        assert 0.0 < variance < 1.0
    assert second.translation is None or np.isfinite(second.translation.matrix).all()


def correlation(before: np.ndarray, after: np.ndarray) -> float:
    """Of the scores of items, for each of many users; the mean."""
    return float(np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(before.T, after.T, strict=True)]))


def test_translated_users_score_as_before_and_stale_ones_at_random() -> None:
    """At least .998 after training with 1 % more from a turned start; in the design .9987, and -.10 when stale."""
    told = world()
    some = np.arange(told.users.size) % 100 > 0
    how = Training(dimensions=6, sweeps=40)  # until hardly anything moves but for what is new
    old = trained(told.users[some], told.items[some], told.liked[some], told.tokens, how)
    turn = np.kron(np.eye(3), [[0.0, 1.0], [-1.0, 0.0]])  # by a right angle in each of three planes
    turned = replace(
        old, theta=(old.theta @ turn).astype(np.float32), factors=(old.factors @ turn).astype(np.float32)
    )
    new = learned_of(told, previous=turned)
    reactions = np.bincount(told.items, minlength=300).astype(np.float64)
    by = translation(old.theta.astype(np.float64), new.theta.astype(np.float64), reactions)
    users, known = np.random.default_rng(SEED).normal(size=(6, 200)), reactions > 0
    before = old.theta[known] @ users
    assert correlation(before, new.theta[known] @ (by.matrix @ users)) >= 0.998
    assert abs(correlation(before, new.theta[known] @ users)) < 0.2
    assert new.translation is not None
    assert correlation(turned.theta[known] @ users, new.theta[known] @ (new.translation.matrix @ users)) >= 0.998


def test_other_dimensions_are_trained_anew_and_translated() -> None:
    told, old = world(), embeddings()
    new = trained(told.users, told.items, told.liked, told.tokens, Training(dimensions=12), old)
    assert new.theta.shape == (300, 12)
    assert new.translation is not None
    assert new.translation.matrix.shape == (12, 6)
    users = np.random.default_rng(SEED).normal(size=(6, 200))
    assert correlation(old.theta @ users, new.theta @ (new.translation.matrix @ users)) > 0.95


def test_numbers_without_a_meaning_are_refused() -> None:
    for wrong in ({"dimensions": 0}, {"sweeps": 0}, {"warm_sweeps": 0}, {"ridge": 0.0}, {"liked_weight": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            Training(**wrong)
