"""How near the order-free sums come to an exact fit, and how often their intervals hold the truth.

The seeds are fixed. A test says how likely a right program would fail with another seed; together those of this
file stay below 1e-5.
"""

import numpy as np
import pytest
from arms import SEED
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit

from engine.weights import Weights, add_seen, add_valued, no_sums, packed, posterior, score_variances, scores

Z = float(stats.norm.isf(1e-7))  # a mean strays by so many standard errors once in ten million times
AT = (50, 300, 1000)  # events
# Root mean square error of scores as measured in the design of this engine, with 32 weights of sd 1 and a base
# rate near .12: of the order-free sums and of the exact Laplace fit.
PUBLISHED = np.array([[0.998, 0.724, 0.512], [0.992, 0.714, 0.498]])


def exact(x: np.ndarray, y: np.ndarray, prior_mean: np.ndarray) -> np.ndarray:
    """The mode of the posterior of a logistic regression on the prior N(prior_mean, I)."""

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        off, eta = w - prior_mean, x @ w
        return 0.5 * off @ off + np.logaddexp(0, eta).sum() - y @ eta, off + x.T @ (expit(eta) - y)

    return minimize(loss, prior_mean, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x


def features_of(random: np.random.Generator, count: int, size: int) -> np.ndarray:
    """A constant and features of falling size, as a factorisation's do; scores have sd 1.1."""
    sizes = 0.95 ** np.arange(size)
    x = random.normal(size=(count, size)) * 1.12 * sizes / np.linalg.norm(sizes)
    x[:, 0] = 0.3
    return x


def lived(random: np.random.Generator) -> np.ndarray:
    """A user of 1,000 events: the errors of both, (2, len(AT)), and how often 95 % intervals hold, (1, len(AT))."""
    size = 32
    prior_mean, prior_precision = np.zeros(size), packed(np.eye(size))
    prior_mean[0] = -2.4 / 0.3
    truth = prior_mean + random.normal(size=size)
    x, other = features_of(random, AT[-1], size), features_of(random, 300, size)
    y = (random.random(AT[-1]) < expit(x @ truth)).astype(np.float64)
    sums, served = no_sums(size), Weights(prior_mean, prior_precision)
    found = []
    for event in range(AT[-1]):
        assert add_seen(*sums, x[event], float(x[event] @ served.mean), y[event], 1.0, True)
        if (event + 1) % 10 == 0:
            served = posterior(prior_precision, prior_mean, *sums)
        if event + 1 in AT:
            off = scores(other, served.mean - truth)
            fit = exact(x[: event + 1], y[: event + 1], prior_mean)
            held = np.abs(off) < 1.96 * np.sqrt(score_variances(other, served))
            found.append((np.sqrt((off**2).mean()), np.sqrt(((other @ (fit - truth)) ** 2).mean()), held.mean()))
    return np.array(found).T


def test_order_free_sums_come_near_the_exact_fit_as_published() -> None:
    """At most 1.05 times the exact fit's error, but for Z standard errors of paired users; and the published row.

    Its world is not known but for what is said above, so that ours may differ by .03 besides. False alarm: 12e-7.
    """
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    found = np.array([lived(random) for _ in range(60)])
    print(found.mean(axis=0))
    errors = np.abs(found[:, :2].mean(axis=0) - PUBLISHED)
    standard = found[:, :2].std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (errors < 0.03 + Z * standard).all(), found.mean(axis=0)
    over = found[:, 0] - 1.05 * found[:, 1]
    assert (over.mean(axis=0) < Z * over.std(axis=0, ddof=1) / np.sqrt(len(found))).all(), over.mean(axis=0)
    assert (found[:, 2].mean(axis=0) > 0.9).all()


def logistic_off(random: np.random.Generator, events: int) -> float:
    """By how many standard deviations a score is off for a new user of a logistic world."""
    size, sd = 8, 0.4
    prior_mean, prior_precision = np.zeros(size), packed(np.eye(size) / sd**2)
    prior_mean[0] = -1.5
    truth = prior_mean + sd * random.normal(size=size)
    x = random.uniform(-1, 1, (events + 1, size))
    x[:, 0] = 1.0
    y = (random.random(events) < expit(x[:-1] @ truth)).astype(np.float64)
    sums, served = no_sums(size), posterior(prior_precision, prior_mean, *no_sums(size))
    for event in range(events):
        if event % 5 == 0:
            served = posterior(prior_precision, prior_mean, *sums)
        assert add_seen(*sums, x[event], float(x[event] @ served.mean), y[event], 1.0, True)
    return off(posterior(prior_precision, prior_mean, *sums), x[-1:], truth)


def linear_off(random: np.random.Generator, events: int) -> float:
    """The same for a new user of a linear world."""
    size, noise = 8, 0.7
    prior_mean, prior_precision = np.ones(size), packed(np.eye(size))
    truth = prior_mean + random.normal(size=size)
    x = random.uniform(-1, 1, (events + 1, size))
    y = x[:-1] @ truth + noise * random.normal(size=events)
    sums = no_sums(size)
    for event in range(events):
        assert add_valued(*sums, x[event], y[event], noise**2, 1.0, True)
    return off(posterior(prior_precision, prior_mean, *sums), x[-1:], truth)


def off(found: Weights, x: np.ndarray, truth: np.ndarray) -> float:
    return float((scores(x, found.mean - truth) / np.sqrt(score_variances(x, found)))[0])


@pytest.mark.parametrize(
    ("one", "events"), [(linear_off, 10), (linear_off, 60), (logistic_off, 30), (logistic_off, 120)]
)
def test_intervals_of_95_percent_cover_in_a_world_where_the_model_is_right(one, events: int) -> None:
    """Of 4,000 users one interval each, so that they are independent: between .92 and .98 of them hold.

    A true coverage between .94 and .96 gives a false alarm with the binomial probability below; all four: 4e-6.
    With other seeds .942 of 8,000 and .949 of 20,000 logistic intervals held, after 120 and 30 events.
    """
    print(f"seed {SEED}")
    users = 4_000
    assert stats.binom.cdf(0.92 * users, users, 0.94) + stats.binom.sf(0.98 * users, users, 0.96) < 1e-6
    random = np.random.default_rng(SEED)
    held = np.array([abs(one(random, events)) < 1.96 for _ in range(users)])
    print(held.mean())
    assert 0.92 <= held.mean() <= 0.98
