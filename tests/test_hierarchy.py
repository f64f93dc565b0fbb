"""Tails are counts, their fit is the beta-binomial's maximum, and its intervals hold what they say they hold.

Random numbers are seeded; a bound is exact, or derived where it stands.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import betaln, expit, logit

from blending.hierarchy import (
    CENTRE_VIEWS,
    Fitted,
    Prior,
    Tails,
    extend,
    fitted,
    log_likelihood,
    log_posterior,
    no_tails,
    shrunk,
)
from blending.types import FloatArray

Users = tuple[np.ndarray, np.ndarray]  # S and E of each user

MOST = 200
PRIOR = Prior(mean=0.1, strength=20.0, strength_sd=2.0, strength_max=5000.0)
BELIEVED = (PRIOR.mean, np.log(PRIOR.strength), PRIOR.strength_sd, np.log(PRIOR.strength_max))


def generator(seed: int) -> np.random.Generator:
    print(f"seed {seed}")
    return np.random.Generator(np.random.PCG64(seed))


def simulated(random: np.random.Generator, alpha: float, beta: float, users: int, views: float) -> Users:
    exposure = np.minimum(random.poisson(views, users), MOST)
    return random.binomial(exposure, random.beta(alpha, beta, users)), exposure


def tails_of(users: Users, most: int = MOST) -> Tails:
    tails = no_tails(most)
    for S, E in zip(*users, strict=True):
        extend(tails, (0.0, 0.0), (S, E))
    return tails


def plus(*parts: Tails) -> Tails:
    return Tails(*(np.sum(column, axis=0) for column in zip(*parts, strict=True)))


def assert_same(found: Tails, expected: Sequence[FloatArray]) -> None:
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


def filled(amounts: np.ndarray, most: int = MOST) -> FloatArray:
    """Each amount x fills [0, x); the sum of what is filled of each [k, k + 1)."""
    return np.clip(np.asarray(amounts, float)[:, None] - np.arange(most), 0.0, 1.0).sum(axis=0)


def direct(users: Users, x: float, y: float) -> float:
    """The beta-binomial log-likelihood, user by user."""
    S, E = users
    a, b = expit(x) * np.exp(y), expit(-x) * np.exp(y)
    return float((betaln(a + S, b + E - S) - betaln(a, b)).sum())


def direct_posterior(users: Users, x: float, y: float) -> float:
    believed = CENTRE_VIEWS * (PRIOR.mean * np.log(expit(x)) + (1.0 - PRIOR.mean) * np.log(expit(-x)))
    believed += stats.norm.logpdf(y, np.log(PRIOR.strength), PRIOR.strength_sd)
    return direct(users, x, y) + float(believed)


def test_tails_of_whole_numbers_are_counts() -> None:
    S, E = simulated(generator(1), 1.0, 3.0, 300, 60.0)
    k = np.arange(MOST)
    counts = [(amount[:, None] > k).sum(axis=0) for amount in (S, E - S, E)]
    assert np.array(tails_of((S, E))).tolist() == np.array(counts).tolist()


def test_tails_are_the_same_in_any_order_over_any_increments_and_merged() -> None:
    """Each of 40 users goes its own way to its S and E, S sometimes alone; three partitions see a part each."""
    random = generator(2)
    increments, ends = [], []
    for _ in range(40):
        E = np.cumsum(random.exponential(3.0, 12) * random.integers(0, 2, 12))
        S = np.maximum.accumulate(E * random.random(12))
        path = [(0.0, 0.0), *zip(S.tolist(), E.tolist(), strict=True)]
        increments += list(pairwise(path))
        ends.append(path[-1])
    partitions = [no_tails(MOST) for _ in range(3)]
    for at in random.permutation(len(increments)):
        extend(partitions[random.integers(3)], *increments[at])
    S, E = np.array(ends).T
    assert_same(plus(*partitions), [filled(S), filled(E - S), filled(E)])


def test_a_weight_scales_what_is_added_and_a_negative_one_takes_it_back() -> None:
    tails = no_tails(5)
    extend(tails, (0.5, 1.5), (1.25, 3.0), 2.0)
    assert_same(tails, [[1.0, 0.5, 0, 0, 0], [0.0, 1.5, 0, 0, 0], [0.0, 1.0, 2.0, 0, 0]])
    extend(tails, (0.5, 1.5), (1.25, 3.0), -2.0)
    assert_same(tails, no_tails(5))


def test_a_success_that_comes_after_its_view_takes_a_failure_back() -> None:
    tails = no_tails(3)
    extend(tails, (0, 0), (0, 2))
    extend(tails, (0, 2), (1, 2))
    assert_same(tails, tails_of((np.array([1]), np.array([2])), 3))


def test_where_successes_outgrow_views_they_are_the_views() -> None:
    tails = no_tails(3)
    extend(tails, (0, 0), (2, 1.5))
    assert_same(tails, [[1, 1, 0], [0, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize("amount", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("place", range(5))
def test_what_is_not_an_amount_is_refused_and_nothing_is_counted(place: int, amount: float) -> None:
    numbers = [1.0, 2.0, 3.0, 4.0, 1.0]
    numbers[place] = amount
    tails = no_tails(5)
    if place == 4 and amount < 0.0:
        return  # a weight may be negative
    with pytest.raises(ValueError, match="never go down"):
        extend(tails, (numbers[0], numbers[1]), (numbers[2], numbers[3]), numbers[4])
    assert not np.array(tails).any()


@pytest.mark.parametrize(("before", "after"), [((2.0, 5.0), (1.0, 5.0)), ((1.0, 5.0), (1.0, 4.0))])
def test_nothing_goes_down(before: tuple[float, float], after: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="never go down"):
        extend(no_tails(5), before, after)


def test_a_user_of_a_million_views_weighs_as_much_as_one_whose_views_all_count() -> None:
    """However the straight way to 300,000 of 1,000,000 is cut: it is (60, 200)."""
    expected = [filled(np.array([x])) for x in (60, 140, 200)]
    assert_same(tails_of((np.array([300_000]), np.array([1_000_000]))), expected)
    tails, at = no_tails(MOST), (0.0, 0.0)
    for E in (0.5, 90.0, 199.0, 200.5, 1000.0, 1e6):
        extend(tails, at, (0.3 * E, E))
        at = 0.3 * E, E
    assert_same(tails, expected)


def test_tails_that_are_each_cut_at_most_would_say_that_users_do_not_differ() -> None:
    S, E = generator(3).binomial(400, generator(4).beta(1.0, 1.0, 50)), np.full(50, 400)
    naive = Tails(filled(S), filled(E - S), filled(E))
    assert fitted(naive, PRIOR).strength == pytest.approx(PRIOR.strength_max)
    assert fitted(tails_of((S, E)), PRIOR).strength < 10.0


CASES: dict[str, Callable[[], Users]] = {
    "many": lambda: simulated(generator(11), 3.0, 57.0, 500, 80.0),
    "few": lambda: simulated(generator(12), 3.0, 57.0, 8, 30.0),
    "different": lambda: simulated(generator(13), 0.7, 1.1, 200, 40.0),
    "rare": lambda: simulated(generator(14), 0.5, 200.0, 300, 60.0),
    "short": lambda: simulated(generator(15), 2.0, 8.0, 400, 2.0),
    "alike": lambda: simulated(generator(16), 2e4, 8e4, 40, 30.0),
    "one": lambda: (np.array([3]), np.array([50])),
    "nobody acted": lambda: (np.zeros(30, int), np.full(30, 40)),
    "all acted": lambda: (np.full(30, 40), np.full(30, 40)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_tails_say_what_the_likelihood_says_user_by_user(case: str) -> None:
    users = CASES[case]()
    for x, y in ((-3.0, 4.0), (0.2, 0.0), (2.0, 7.0)):
        expected = direct(users, x, y)
        assert log_likelihood(*tails_of(users), x, y)[0] == pytest.approx(expected, rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_the_likelihood_user_by_user(case: str) -> None:
    """Central differences of steps h = 1e-3, extrapolated from 2h: of order h⁴, and 1e-13 / h² of rounding."""
    users = CASES[case]()
    here = np.array([-1.5, 2.5])

    def value(*step: float) -> float:
        return direct_posterior(users, *(here + step))

    def differences(h: float) -> np.ndarray:
        l_x, l_y = value(h, 0) - value(-h, 0), value(0, h) - value(0, -h)
        l_xx, l_yy = (value(h, 0) + value(-h, 0) - 2 * value(0, 0)), (value(0, h) + value(0, -h) - 2 * value(0, 0))
        l_xy = value(h, h) + value(-h, -h) - value(h, -h) - value(-h, h)
        return np.array([l_x / (2 * h), l_y / (2 * h), l_xx / h**2, l_xy / (4 * h**2), l_yy / h**2])

    expected = (4.0 * differences(1e-3) - differences(2e-3)) / 3.0
    found = np.array(log_posterior(*tails_of(users), BELIEVED, *here)[1:])
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5 + 1e-7 * abs(value(0, 0)))


@pytest.mark.parametrize("case", CASES)
def test_what_is_found_is_the_maximum(case: str) -> None:
    """Nelder and Mead, who know no derivative, on the likelihood user by user; from the best of a grid."""
    users = CASES[case]()
    bounds = [(-15.0, 15.0), (0.0, np.log(PRIOR.strength_max))]

    def loss(place: np.ndarray) -> float:
        return -direct_posterior(users, *place)

    start = min((np.array([x, y]) for x in np.linspace(-12, 12, 25) for y in np.linspace(0, 8, 9)), key=loss)
    options = {"xatol": 1e-8, "fatol": 1e-11, "maxiter": 4000}
    best = optimize.minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=options).x
    found = fitted(tails_of(users), PRIOR)
    expected = [expit(best[0]), np.exp(best[1])]
    assert [found.mean, found.strength] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("start", [1.0, 5.0, 100.0, 1e4, 1e6])
def test_the_maximum_is_found_from_anywhere(start: float) -> None:
    """A prior of 1,000 standard deviations on the logarithm moves nothing by 1e-4 of itself."""
    tails = tails_of(CASES["many"]())
    vague = Prior(0.1, start, 1000.0, 1e7)
    near = fitted(tails, vague._replace(strength=60.0))
    assert fitted(tails, vague)[:4] == pytest.approx(near[:4], rel=1e-4)


def by_moments(users: Users) -> float:
    """The strength from the variance between users: MATHS, "Prior by empirical Bayes"."""
    S, E = users[0].astype(float), users[1].astype(float)
    m, V = S.sum() / E.sum(), E.size
    W, spread = (E * (S / E - m) ** 2).sum(), m * (1.0 - m)
    rho = (W - spread * (V - 1)) / (spread * (E.sum() - (E**2).sum() / E.sum() - (V - 1)))
    return float(1.0 / rho - 1.0)


def distance(found: Fitted, alpha: float, beta: float) -> float:
    """How many standard deviations Beta(alpha, beta) is away, in the worse of logit mean and log strength."""
    in_logit = (logit(found.mean) - np.log(alpha / beta)) / found.logit_sd
    in_strength = np.log(found.strength / (alpha + beta)) / found.log_strength_sd
    return float(max(abs(in_logit), abs(in_strength)))


def test_two_thousand_users_show_what_they_come_from() -> None:
    """Beta(3, 57) within 4.9 standard deviations, that is a false alarm in a million draws.

    Another draw of 2,000 users gave (3.08, 59.9), and (3.21, 62.7) by moments; two draws differ by sqrt(2) as much.
    The moments of this draw are as far from its maximum as 6 of their own deviations, over 100 bootstraps, allow.
    """
    random = generator(21)
    users = simulated(random, 3.0, 57.0, 2000, 100.0)
    found = fitted(tails_of(users), PRIOR)
    print(found)
    assert distance(found, 3.0, 57.0) < 4.9
    assert distance(found, 3.08, 59.9) < 4.9 * np.sqrt(2)
    assert distance(found, 3.21, 62.7) < 4.9 * np.sqrt(2)
    drawn = [random.integers(0, 2000, 2000) for _ in range(100)]
    deviation = np.std([np.log(by_moments((users[0][d], users[1][d]))) for d in drawn])
    assert abs(np.log(by_moments(users) / found.strength)) < 6.0 * deviation


@pytest.mark.parametrize(("alpha", "beta", "views"), [(3.0, 57.0, 100.0), (1.0, 9.0, 30.0)])
def test_intervals_of_95_percent_hold_the_truth_19_times_of_20(alpha: float, beta: float, views: float) -> None:
    """400 populations of 150 users. The counts are binomial; the bound's false alarm is 1e-6 if it is 95 %.

    The curvature is exact for large populations alone: of these, 1.5 % more may be on either side.
    """
    random = generator(31)
    hits = np.zeros(2, int)
    sets, slack = 400, 0.015
    for _ in range(sets):
        found = fitted(tails_of(simulated(random, alpha, beta, 150, views)), PRIOR)
        truths = ((found.mean_interval(), alpha / (alpha + beta)), (found.strength_interval(), alpha + beta))
        hits += [low <= truth <= high for (low, high), truth in truths]
    print(hits / sets)
    low, high = stats.binom.ppf(5e-7, sets, 0.95 - slack), stats.binom.ppf(1 - 5e-7, sets, 0.95 + slack)
    assert ((low <= hits) & (hits <= high)).all(), hits


def test_users_who_do_not_differ_are_as_strong_as_the_prior_allows() -> None:
    users = generator(41).binomial(100, 0.05, 2000), np.full(2000, 100)
    found = fitted(tails_of(users), PRIOR._replace(strength_max=500.0))
    assert found.strength == pytest.approx(500.0)
    low, high = found.strength_interval()
    assert 0.0 < low < 500.0 < high
    assert distance(found, 25.0, 475.0) < 4.9


def test_of_nobody_is_known_what_was_believed() -> None:
    """And how well: one view at the rate .1 has the information .1 × .9 on the logit."""
    for tails in (no_tails(MOST), no_tails(0)):
        expected = [0.1, 20.0, 1.0 / np.sqrt(0.09 * CENTRE_VIEWS), 2.0, 0.0]
        assert fitted(tails, PRIOR) == pytest.approx(expected, abs=1e-12)


def test_of_first_views_alone_the_mean_is_known_and_the_strength_is_not() -> None:
    found = fitted(tails_of((np.repeat([0, 1], [900, 100]), np.ones(1000)), 1), PRIOR)
    assert [found.mean, found.strength, found.log_strength_sd] == pytest.approx([0.1, 20.0, 2.0], rel=1e-6)


numbers = st.floats(0.0, 1e15) | st.floats(-1.0, 1e-3) | st.just(0.0)
columns = st.lists(numbers, min_size=1, max_size=6)
priors = st.builds(
    Prior, st.floats(1e-6, 1 - 1e-6), st.floats(1e-3, 1e9), st.floats(1e-3, 1e3), st.floats(1.0, 1e9)
)


@given(columns, columns, columns, priors)
def test_whatever_the_tails_hold_the_fit_is_finite_and_within_bounds(
    successes: list[float], failures: list[float], exposure: list[float], prior: Prior
) -> None:
    found = fitted(Tails(np.array(successes), np.array(failures), np.array(exposure)), prior)
    assert np.isfinite(found).all()
    assert 0.0 < found.mean < 1.0
    assert 1.0 <= found.strength <= prior.strength_max * (1 + 1e-12)
    assert min(found.logit_sd, found.log_strength_sd) > 0.0
    for low, high in (found.mean_interval(), found.strength_interval()):
        assert 0.0 <= low <= high


entries = st.lists(st.floats(0.0, 1e4), min_size=1, max_size=6).map(np.array)


@given(entries, entries, entries, st.floats(0.0, 8.0))
def test_whatever_the_tails_hold_what_is_found_is_no_worse_than_where_the_search_began(
    successes: FloatArray, failures: FloatArray, exposure: FloatArray, y: float
) -> None:
    tails = Tails(successes, failures, exposure)
    prior = PRIOR._replace(strength=float(np.exp(y)), strength_sd=10.0)
    believed = (prior.mean, y, prior.strength_sd, np.log(prior.strength_max))
    acted, not_acted = successes.sum() + CENTRE_VIEWS * prior.mean, failures.sum() + CENTRE_VIEWS * (1 - prior.mean)
    began = log_posterior(*tails, believed, np.log(acted / not_acted), y)[0]
    found = fitted(tails, prior)
    ended = log_posterior(*tails, believed, logit(found.mean), np.log(found.strength))[0]
    assert ended >= began - 1e-9 * np.abs(began)


@pytest.mark.parametrize("field", Prior._fields)
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_what_is_not_a_prior_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match="not a prior"):
        fitted(no_tails(1), PRIOR._replace(**{field: value}))


def test_a_cohort_is_joined_by_users_who_are_like_everybody() -> None:
    own, everybody = tails_of(CASES["few"]()), tails_of(CASES["many"]())
    joined = shrunk(own, everybody, 25.0)
    assert joined.exposure[0] == pytest.approx(own.exposure[0] + 25.0)
    assert_same(joined, [mine + theirs * 25.0 / 500 for mine, theirs in zip(own, everybody, strict=True)])


def test_a_new_cohort_is_like_everybody_but_less_sure() -> None:
    everybody = tails_of(CASES["many"]())
    new, known = fitted(shrunk(no_tails(MOST), everybody, 50.0), PRIOR), fitted(everybody, PRIOR)
    assert distance(new, known.alpha, known.beta) < 1.0  # the prior's pull
    assert new.logit_sd == pytest.approx(np.sqrt(500 / 50) * known.logit_sd, rel=0.1)


@pytest.mark.parametrize("most", [0, MOST])
def test_where_there_is_nobody_a_cohort_stays_as_it_is(most: int) -> None:
    own = tails_of(CASES["few"](), most)
    joined = shrunk(own, no_tails(most), 25.0)
    assert_same(joined, own)
    extend(joined, (0, 0), (1, 1))
    assert_same(own, tails_of(CASES["few"](), most))  # it has arrays of its own


def test_alpha_and_beta_are_the_mean_and_strength() -> None:
    found = Fitted(0.05, 60.0, 0.1, 0.1, 0.0)
    assert [found.alpha, found.beta] == pytest.approx([3.0, 57.0])
