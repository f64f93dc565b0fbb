"""Sums of a user's weights: what the loops add, in which order, what they refuse, and what is read from them."""

from itertools import pairwise

import numpy as np
import pytest
from arms import SEED
from hypothesis import given
from hypothesis import strategies as st
from weight_terms import Term, added, prior_of, terms_of

from engine.evidence import HALF_LIVES_MAX
from engine.weight_kernels import FEATURE_MAX, SCORE_MAX, VALUE_MAX, WEIGHT_MAX
from engine.weights import (
    FEATURES_MAX,
    Sums,
    Weights,
    drawn,
    faded,
    forward,
    move_landmark,
    no_sums,
    packed,
    posterior,
    score_variances,
    scores,
    symmetric,
    unpacked,
)

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 64)


def read(sums: Sums, prior: tuple[np.ndarray, np.ndarray]) -> Weights:
    return posterior(*prior, *sums)


def same(one: Sums, other: Sums) -> bool:
    """To rounding, of the greatest number in each."""
    return all(
        np.allclose(a, b, rtol=1e-11, atol=1e-11 * (1 + np.abs(b).max())) for a, b in zip(one, other, strict=True)
    )


def smallest(triangle: np.ndarray) -> float:
    """The smallest eigenvalue of a packed symmetric matrix."""
    return float(np.linalg.eigvalsh(symmetric(triangle))[0])


@given(seeds, sizes)
def test_sums_are_those_of_the_formulas(seed: int, features: int) -> None:
    terms = terms_of(np.random.default_rng(seed), features, 12)
    plain = [term.plain() for term in terms]
    want = Sums(sum(one.precision for one in plain), sum(one.moment for one in plain))
    assert same(added(terms, features), want)


@given(seeds, sizes)
def test_a_choice_of_one_or_of_many_with_any_scores_counts_differences_only(seed: int, features: int) -> None:
    random = np.random.default_rng(seed)
    x, etas = random.uniform(-1, 1, (40, features)), random.normal(size=40)
    alone, lifted = no_sums(features), no_sums(features)
    assert Term("choice", (x[:1], etas[:1], 0)).add(alone)
    assert not alone.precision.any()
    assert not alone.moment.any()
    assert Term("choice", (x, etas + 1e6, 7)).add(lifted)
    assert np.allclose(lifted.moment, added([Term("choice", (x, etas, 7))], features).moment, atol=1e-8)


def test_a_diagonal_term_touches_the_diagonal_alone() -> None:
    terms = terms_of(np.random.default_rng(SEED), 7, 9, full=False)
    matrix = symmetric(added(terms, 7).precision)
    assert (matrix == np.diag(np.diag(matrix))).all()
    full = added([term._replace(full=True) for term in terms], 7)
    assert np.allclose(np.diag(matrix), np.diag(symmetric(full.precision)))
    assert np.allclose(added(terms, 7).moment, full.moment)


@given(seeds, sizes)
def test_a_posterior_is_that_of_plain_algebra(seed: int, features: int) -> None:
    random = np.random.default_rng(seed)
    prior, sums = prior_of(random, features), added(terms_of(random, features, 60), features)
    scale = float(random.uniform(0, 2))
    found = posterior(*prior, *sums, scale)
    whole = symmetric(prior[0]) + scale * symmetric(sums.precision)
    assert np.allclose(found.mean, np.linalg.solve(whole, symmetric(prior[0]) @ prior[1] + scale * sums.moment))
    assert np.allclose(unpacked(found.factor), np.linalg.cholesky(whole))
    rows = random.uniform(-1, 1, (int(random.integers(0, 150)), features))
    assert np.allclose(scores(rows, found.mean), rows @ found.mean)
    variances = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(whole), rows)
    assert np.allclose(score_variances(rows, found), variances)


def test_without_terms_a_posterior_is_the_prior() -> None:
    prior = prior_of(np.random.default_rng(SEED), 24)
    found = read(no_sums(24), prior)
    assert np.allclose(found.mean, prior[1])
    assert np.allclose(unpacked(found.factor), np.linalg.cholesky(symmetric(prior[0])))


@given(seeds, st.integers(1, 24))
def test_draws_are_made_of_normals_by_the_factor(seed: int, features: int) -> None:
    random = np.random.default_rng(seed)
    found = read(added(terms_of(random, features, 30), features), prior_of(random, features))
    normals = random.normal(size=features)
    want = found.mean + np.linalg.solve(unpacked(found.factor).T, normals)
    assert np.allclose(drawn(found, normals), want)


def test_draws_have_the_posteriors_covariance() -> None:
    """Turning the normals' unit vectors into draws gives the covariance exactly: A A' with A = factor'^-1."""
    random = np.random.default_rng(SEED)
    found = read(added(terms_of(random, 32, 200), 32), prior_of(random, 32))
    ways = np.array([drawn(found, unit) - found.mean for unit in np.eye(32)])
    factor = unpacked(found.factor)
    assert np.allclose(ways.T @ ways, np.linalg.inv(factor @ factor.T))


@given(seeds)
def test_weights_do_not_mind_the_order_of_terms(seed: int) -> None:
    random = np.random.default_rng(seed)
    prior, terms = prior_of(random, 32), terms_of(random, 32, 80)
    want = read(added(terms, 32), prior).mean
    shuffled = [terms[at] for at in random.permutation(80)]
    assert np.abs(read(added(shuffled, 32), prior).mean - want).max() < 1e-9
    parts = [added(shuffled[first::3], 32) for first in range(3)]
    merged = Sums(sum(part.precision for part in parts), sum(part.moment for part in parts))
    assert np.abs(read(merged, prior).mean - want).max() < 1e-9


@given(seeds)
def test_a_term_that_is_taken_back_leaves_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    prior, terms = prior_of(random, 32), terms_of(random, 32, 60)
    sums = added([terms[at] for at in random.permutation(60)], 32)
    for at in random.permutation(30):
        assert terms[at].add(sums, -1.0)
    assert np.abs(read(sums, prior).mean - read(added(terms[30:], 32), prior).mean).max() < 1e-9


@given(seeds)
def test_old_terms_fade_alike_in_any_order_with_any_landmarks(seed: int) -> None:
    """Terms at t in half-lives, from -900 to 900, read at 900: the weights of the formula, 2**(t - 900)."""
    random = np.random.default_rng(seed)
    prior, terms, half_lives = prior_of(random, 16), terms_of(random, 16, 60), random.uniform(-900, 900, 60)
    half_lives[:20] = random.uniform(895, 900, 20)
    plain = added(
        [term._replace(weight=term.weight * 2.0 ** (at - 900)) for term, at in zip(terms, half_lives, strict=True)],
        16,
    )
    for _ in range(2):
        sums, landmark = no_sums(16), -600.0
        for at in random.permutation(60):
            if half_lives[at] - landmark > HALF_LIVES_MAX:
                moved = float(half_lives[at] - random.uniform(0, HALF_LIVES_MAX))
                moved = max(moved, landmark)
                move_landmark(sums, moved - landmark)
                landmark = moved
            weight = terms[at].weight * forward(half_lives[at] - landmark)
            assert terms[at]._replace(weight=weight).add(sums)
        found = posterior(*prior, *sums, faded(900 - landmark))
        assert np.abs(found.mean - read(plain, prior).mean).max() < 1e-9


def test_a_landmark_far_away_leaves_the_prior_and_nothing_overflows() -> None:
    prior, sums = prior_of(np.random.default_rng(SEED), 8), added(terms_of(np.random.default_rng(SEED), 8, 30), 8)
    want = read(no_sums(8), prior)
    assert np.allclose(posterior(*prior, *sums, faded(1e9)).mean, want.mean)
    move_landmark(sums, 1e9)
    assert not sums.precision.any()
    assert not sums.moment.any()
    assert faded(-5.0) == 1.0
    assert forward(-1e9) == 0.0
    for broken in (
        lambda: move_landmark(sums, -1.0),
        lambda: forward(HALF_LIVES_MAX + 1),
        lambda: no_sums(FEATURES_MAX + 1),
    ):
        with pytest.raises(AssertionError):
            broken()


def test_forgetting_never_leaves_less_than_the_prior() -> None:
    """Wind-up: 3,000 steps with one direction of eight seen, of which a filter without anchor forgets the others.

    That filter's precision, faded with its prior, ends with an eigenvalue below 1e-12; ours keeps the prior's.
    """
    random, kept = np.random.default_rng(SEED), 0.99
    prior = prior_of(random, 8)
    least, sums, naive = smallest(prior[0]), no_sums(8), symmetric(prior[0])
    x = random.uniform(-1, 1, 8)
    for _ in range(3_000):
        move_landmark(sums, -np.log2(kept))
        assert Term("valued", (x, float(random.normal()), 1.0)).add(sums)
        naive = kept * naive + np.outer(x, x)
    factor = unpacked(read(sums, prior).factor)
    assert np.linalg.eigvalsh(factor @ factor.T)[0] >= least * (1 - 1e-12)
    assert np.linalg.eigvalsh(naive)[0] < 1e-12


@given(seeds, st.integers(1, 48))
def test_evidence_only_adds_to_the_priors_precision(seed: int, features: int) -> None:
    random = np.random.default_rng(seed)
    prior, sums = prior_of(random, features), added(terms_of(random, features, 40), features)
    factor = unpacked(read(sums, prior).factor)
    assert np.linalg.eigvalsh(factor @ factor.T)[0] >= smallest(prior[0]) * (1 - 1e-12)
    eigenvalues = np.linalg.eigvalsh(symmetric(sums.precision))
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


BROKEN = (np.nan, np.inf, -np.inf)


def test_a_term_that_is_not_finite_is_refused_whole() -> None:
    random = np.random.default_rng(SEED)
    sums = added(terms_of(random, 5, 9), 5)
    before = Sums(*(values.copy() for values in sums))
    x, many, etas = random.uniform(-1, 1, 5), random.uniform(-1, 1, (4, 5)), random.normal(size=4)
    refused = [Term("choice", (many, etas, at)) for at in (-1, 4)] + [Term("choice", (many, etas[:3], 1))]
    refused += [Term("valued", (x, 1.0, variance)) for variance in (0.0, -1.0)]
    for bad in BROKEN:
        for place in range(5):
            x_bad, many_bad = x.copy(), many.copy()
            x_bad[place] = many_bad[place % 4, place] = bad
            refused += [Term("seen", (x_bad, 0.1, 1.0)), Term("valued", (x_bad, 0.1, 1.0))]
            refused += [Term("choice", (many_bad, etas, 1))]
        refused += [Term("seen", (x, bad, 1.0)), Term("seen", (x, 0.1, bad)), Term("seen", (x, 0.1, 1.0), bad)]
        refused += [
            Term("valued", (x, bad, 1.0)),
            Term("valued", (x, 0.1, bad)),
            Term("valued", (x, 0.1, 1.0), bad),
        ]
        refused += [Term("choice", (many, np.array([0.1, bad, 0.0, 1.0]), 1)), Term("choice", (many, etas, 1), bad)]
    refused += [Term("seen", (x, 0.1, 1.0), 2 * WEIGHT_MAX)]
    for term in refused:
        for full in (True, False):
            assert not term._replace(full=full).add(sums)
    assert all((now == then).all() for now, then in zip(sums, before, strict=True))


def test_no_finite_input_makes_anything_but_finite_weights() -> None:
    random = np.random.default_rng(SEED)
    prior = prior_of(random, 12)
    huge = [1e6, 1e30, 1e300, np.finfo(np.float64).max, 5e-324]
    rows, normals = random.uniform(-1, 1, (70, 12)), random.normal(size=12)
    for full in (True, False):
        sums = no_sums(12)
        for _ in range(300):
            x = random.choice(huge, (6, 12)) * random.choice([-1, 1], (6, 12))
            eta, y = (float(value) for value in random.choice(huge, 2) * random.choice([-1, 1], 2))
            etas = random.choice(huge, 6) * random.choice([-1, 1], 6)
            assert Term("seen", (x[0], eta, y), full=full).add(sums)
            assert Term("seen", (x[0], 0.3, y), full=full).add(sums)
            assert Term("valued", (x[1], y, float(random.choice(huge[:4]))), full=full).add(sums)
            assert Term("valued", (x[1], y, 0.01), full=full).add(sums)
            assert Term("choice", (x, etas, 2), full=full).add(sums)
            assert Term("choice", (x, random.normal(size=6), 2), full=full).add(sums)
            found = read(sums, prior)
            assert np.isfinite(found.factor).all()
            assert np.isfinite(drawn(found, normals)).all()
            variances = score_variances(rows, found)
            assert np.isfinite(variances).all()
            assert (variances >= 0).all()
    for heavy in (WEIGHT_MAX, -WEIGHT_MAX):
        for _ in range(100):
            assert Term("seen", (rows[0], 0.0, 1.0), heavy).add(sums)
            assert np.isfinite(sums.precision).all()


@pytest.mark.parametrize(
    ("term", "clipped"),
    [
        (("seen", (np.array([0.5, 1e9]), 1e9, 7.0)), ("seen", (np.array([0.5, FEATURE_MAX]), SCORE_MAX, 1.0))),
        (
            ("valued", (np.array([-1e9, 1.0]), -1e9, 1.0)),
            ("valued", (np.array([-FEATURE_MAX, 1.0]), -VALUE_MAX, 1.0)),
        ),
        (
            ("choice", (np.array([[1e9, 0.0], [0.0, 1.0]]), np.array([0.0, 1.0]), 0)),
            ("choice", (np.array([[FEATURE_MAX, 0.0], [0.0, 1.0]]), np.array([0.0, 1.0]), 0)),
        ),
    ],
)
def test_what_is_too_large_counts_as_the_largest(term: tuple, clipped: tuple) -> None:
    assert same(added([Term(*term)], 2), Term(*clipped).plain())


def test_packing_goes_by_rows_of_the_lower_triangle() -> None:
    matrix = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert packed(matrix).tolist() == [1, 2, 4, 3, 5, 6]
    assert (symmetric(packed(matrix)) == matrix).all()
    assert (unpacked(packed(matrix)) == np.tril(matrix)).all()
    assert all(b > a for a, b in pairwise(no_sums(size).precision.size for size in range(1, 65)))
