"""Terms of a user's weights: what the compiled sums are given, and the same sums in plain numpy."""

from typing import Any, NamedTuple

import numpy as np

from engine.weights import Sums, add_choice, add_seen, add_valued, no_sums, packed


class Term(NamedTuple):
    """A call of one of the three kernels; `given` is what it takes between the sums and the weight."""

    kind: str
    given: tuple[Any, ...]
    weight: float = 1.0
    full: bool = True

    def add(self, sums: Sums, times: float = 1.0) -> bool:
        """Through the compiled loop."""
        added = {"seen": add_seen, "choice": add_choice, "valued": add_valued}[self.kind]
        return added(*sums, *self.given, times * self.weight, self.full)

    def plain(self) -> Sums:
        """The formulas, in numpy."""
        square, moment = {"seen": _seen, "choice": _choice, "valued": _valued}[self.kind](*self.given)
        return Sums(self.weight * packed(square if self.full else np.diag(np.diag(square))), self.weight * moment)


def _seen(x: np.ndarray, eta: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-eta))
    return p * (1 - p) * np.outer(x, x), (y - p) * x + p * (1 - p) * eta * x


def _choice(x: np.ndarray, etas: np.ndarray, chosen: int) -> tuple[np.ndarray, np.ndarray]:
    p = np.exp(etas - etas.max())
    p /= p.sum()
    mean = p @ x
    return x.T @ (p[:, None] * x) - np.outer(mean, mean), x[chosen] - mean + (p * (etas - p @ etas)) @ (x - mean)


def _valued(x: np.ndarray, y: float, variance: float) -> tuple[np.ndarray, np.ndarray]:
    return np.outer(x, x) / variance, y * x / variance


def terms_of(random: np.random.Generator, features: int, count: int, full: bool | None = None) -> list[Term]:
    """Terms of all kinds and weights; full ones and diagonal ones unless it is said which."""
    terms = []
    for number in range(count):
        weight = float(random.uniform(0.1, 1.5))
        both = bool(random.integers(2)) if full is None else full
        x = random.uniform(-1, 1, (int(random.integers(1, 9)), features))
        kind = ("seen", "choice", "valued")[number % 3]
        given = {
            "seen": (x[0], float(random.normal(0, 2)), float(random.integers(2))),
            "choice": (x, random.normal(0, 2, len(x)), int(random.integers(len(x)))),
            "valued": (x[0], float(random.normal()), float(random.uniform(0.2, 2))),
        }[kind]
        terms.append(Term(kind, given, weight, both))
    return terms


def added(terms: list[Term], features: int) -> Sums:
    """The sums of the terms in their order, each of which is taken."""
    sums = no_sums(features)
    assert all(term.add(sums) for term in terms)
    return sums


def prior_of(random: np.random.Generator, features: int) -> tuple[np.ndarray, np.ndarray]:
    """A prior's packed precision, of smallest eigenvalue at least .5, and its mean."""
    root = random.normal(size=(features, features)) / np.sqrt(features)
    return packed(root @ root.T + 0.5 * np.eye(features)), random.normal(size=features)
