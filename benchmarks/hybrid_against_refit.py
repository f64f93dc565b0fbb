"""What is lost, and what is saved, when only a user's weights learn online and the items' features do not.

Ratings of a low-rank world. A factorisation of the first half makes the items' features and the prior of weights.
Then ratings come in one by one: the hybrid adds each to its user's sums and solves for that user's weights, and a
refit after every batch, begun at the last one, makes all features and all weights anew of all ratings so far. The
experiment is that of Crankshaw et al., "The missing piece in complex analytics: low latency, scalable model
management and serving with Velox" (CIDR 2015). `--json` prints one document.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from time import process_time
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from blending.types import FloatArray, IntArray
from engine.weights import Sums, add_valued, no_sums, packed, posterior

SEED = 20161111
USERS, ITEMS, FEATURES = 2_000, 300, 8
OFFLINE, ONLINE, HELD = 30, 15, 20  # ratings of each user: before, one by one, and never seen
NOISE = 0.5  # standard deviation of a rating, where what is rated has 1
BATCH = 256  # ratings between refits, as many as a worker takes at once
FIRST_SWEEPS, SWEEPS = 30, 3  # of alternating least squares: at first, and where the last fit is begun at


class Ratings(NamedTuple):
    """Who rated what: users and items (n,), values (n,), and `truth` (n,), the values without their noise."""

    users: IntArray
    items: IntArray
    values: FloatArray
    truth: FloatArray

    def part(self, which: slice) -> "Ratings":
        """Some of them."""
        return Ratings(self.users[which], self.items[which], self.values[which], self.truth[which])


class Factors(NamedTuple):
    """Weights (USERS, FEATURES) and features (ITEMS, FEATURES)."""

    weights: FloatArray
    features: FloatArray

    def scores(self, of: Ratings) -> FloatArray:
        """What they say of the ratings' items to their users."""
        return np.asarray((self.weights[of.users] * self.features[of.items]).sum(axis=1), np.float64)


class Hybrid:
    """Features and a prior as they were fitted, and sums of every user's ratings on them."""

    def __init__(self, fitted: Factors, offline: Ratings) -> None:
        """The prior is the mean and the covariance of the users' fitted weights."""
        self.features = fitted.features
        self.variance = float(np.mean((offline.values - fitted.scores(offline)) ** 2))
        self.weights = fitted.weights.copy()
        self.prior = (
            packed(np.asarray(np.linalg.inv(np.cov(self.weights.T)), np.float64)),
            self.weights.mean(axis=0),
        )
        self.sums = [no_sums(FEATURES) for _ in range(USERS)]
        for user, item, value in zip(offline.users, offline.items, offline.values, strict=True):
            self._add(self.sums[user], item, value)
        for user in range(USERS):
            self._solve(user)

    def learn(self, ratings: Ratings) -> None:
        """One by one, with the user's weights ready after each."""
        for user, item, value in zip(ratings.users, ratings.items, ratings.values, strict=True):
            self._add(self.sums[user], item, value)
            self._solve(user)

    @property
    def factors(self) -> Factors:
        """The weights as they are, on the features."""
        return Factors(self.weights, self.features)

    def _add(self, sums: Sums, item: int, value: float) -> None:
        add_valued(*sums, self.features[item], value, self.variance, 1.0, True)

    def _solve(self, user: int) -> None:
        self.weights[user] = posterior(*self.prior, *self.sums[user]).mean


def world(seed: int) -> tuple[Ratings, Ratings, Ratings]:
    """Ratings before, one by one in random order, and held back, no user's of the same item twice."""
    random = np.random.default_rng(seed)
    tastes, kinds = random.normal(size=(USERS, FEATURES)), random.normal(size=(ITEMS, FEATURES)) / FEATURES**0.5
    items = np.array([random.permutation(ITEMS)[: OFFLINE + ONLINE + HELD] for _ in range(USERS)])

    def ratings(first: int, last: int) -> Ratings:
        users = np.repeat(np.arange(USERS), last - first)
        of = items[:, first:last].ravel()
        truth = (tastes[users] * kinds[of]).sum(axis=1)
        values = truth + NOISE * random.normal(size=truth.size)
        order = random.permutation(truth.size)
        return Ratings(users[order], of[order], values[order], truth[order])

    return ratings(0, OFFLINE), ratings(OFFLINE, OFFLINE + ONLINE), ratings(OFFLINE + ONLINE, items.shape[1])


def factorised(ratings: Ratings, start: Factors, sweeps: int) -> Factors:
    """Alternating least squares with the ridge of a standard normal prior, both sides solved in one call each."""
    weights, features = start
    for _ in range(sweeps):
        weights = _solved(ratings.users, features[ratings.items], ratings.values, USERS)
        features = _solved(ratings.items, weights[ratings.users], ratings.values, ITEMS)
    return Factors(_solved(ratings.users, features[ratings.items], ratings.values, USERS), features)


def _solved(groups: IntArray, x: FloatArray, y: FloatArray, size: int) -> FloatArray:
    """The ridge regression of each group's y (n,) on its x (n, FEATURES): (size, FEATURES)."""
    order = np.argsort(groups, kind="stable")
    x, y, bounds = x[order], y[order], np.searchsorted(groups[order], np.arange(size + 1))
    ridge = NOISE**2 * np.eye(FEATURES)
    made = np.empty((size, FEATURES, FEATURES)), np.empty((size, FEATURES, 1))
    for group in range(size):
        own = x[bounds[group] : bounds[group + 1]]
        made[0][group] = own.T @ own + ridge
        made[1][group, :, 0] = own.T @ y[bounds[group] : bounds[group + 1]]
    return np.asarray(np.linalg.solve(*made)[..., 0], np.float64)


def first_fit(seed: int, offline: Ratings) -> Factors:
    """The factorisation of what came before."""
    random = np.random.default_rng(seed)
    start = Factors(random.normal(size=(USERS, FEATURES)), random.normal(size=(ITEMS, FEATURES)) / FEATURES**0.5)
    return factorised(offline, start, FIRST_SWEEPS)


def both(*parts: Ratings) -> Ratings:
    """All of them."""
    return Ratings(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def error(found: Factors, held: Ratings) -> float:
    """Root mean square error of the ratings held back."""
    return rms(held.values - found.scores(held))


def rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def compared(seed: int) -> dict[str, object]:
    """Errors and seconds a rating of both, in turn, after each batch; ratios with their quartiles."""
    offline, online, held = world(seed)
    fitted = first_fit(seed, offline)
    hybrid = Hybrid(fitted, offline)
    stale, errors, times = error(fitted, held), [], []
    for last in range(BATCH, online.users.size + 1, BATCH):
        started = process_time()
        hybrid.learn(online.part(slice(last - BATCH, last)))
        learned = process_time()
        fitted = factorised(both(offline, online.part(slice(0, last))), fitted, SWEEPS)
        refitted = process_time()
        errors.append((error(hybrid.factors, held), error(fitted, held)))
        times.append(((learned - started) / BATCH, refitted - learned))
    loss = [one / other for one, other in errors]
    of_truth = rms(held.truth - hybrid.factors.scores(held)) / rms(held.truth - fitted.scores(held))
    a_batch = sorted(refit / BATCH / one for one, refit in times)
    return {
        "ratings": {"offline": offline.users.size, "online": online.users.size, "batch": BATCH},
        "error": {"before": stale, "hybrid": errors[-1][0], "refit": errors[-1][1], "least possible": NOISE},
        "error_ratio": {
            "median": median(loss),
            "last": loss[-1],
            "greatest": max(loss),
            "last, without noise": of_truth,
        },
        "hybrid_us": 1e6 * median(one for one, _ in times),
        "refit_ms": 1e3 * median(refit for _, refit in times),
        "refit_a_batch_over_hybrid": [a_batch[len(a_batch) * part // 4] for part in (2, 1, 3)],
        "refit_a_rating_over_hybrid": BATCH * median(a_batch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    found = compared(given.seed)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(name, value)


if __name__ == "__main__":
    main()
