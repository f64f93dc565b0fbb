"""A small world of users and items with true vectors, and plain formulas of what is learned there."""

from typing import NamedTuple

import numpy as np

from engine.offline.attributes import Tokens
from engine.offline.embeddings import Reactions, Training


class World(NamedTuple):
    """Who liked what of what was shown: `scores` (users, items) are the true ones; the tokens make half of them."""

    users: np.ndarray
    items: np.ndarray
    liked: np.ndarray
    tokens: Tokens
    scores: np.ndarray
    shown: np.ndarray


def tokens_of(lists: list[list[int]]) -> Tokens:
    """The tokens of items, given one list for each."""
    starts = np.cumsum([0, *(len(one) for one in lists)])
    return Tokens(starts, np.array([token for one in lists for token in one], np.int64))


def planted(random: np.random.Generator, users: int = 250, items: int = 300, rank: int = 6) -> World:
    """Items of one of 12 tokens; each is shown to a share of the users of its own, the last 20 to nobody."""
    token = random.integers(0, 12, items)
    vectors = random.normal(size=(12, rank))[token] + random.normal(size=(items, rank))
    scores = random.normal(size=(users, rank)) @ vectors.T
    shown = random.random((users, items)) < random.uniform(0.02, 0.6, items)
    shown[:, -20:] = False
    seen, which = np.nonzero(shown)
    liked = random.random(seen.size) < 1.0 / (1.0 + np.exp(1.0 - 1.5 * scores[seen, which]))
    return World(seen, which, liked, tokens_of([[int(one)] for one in token]), scores, shown)


def cells(table: Reactions, shape: tuple[int, int], how: Training) -> tuple[np.ndarray, np.ndarray]:
    """The weight and the target of each cell of a table."""
    weights, targets = np.ones(shape), np.zeros(shape)
    rows = np.repeat(np.arange(shape[0]), np.diff(table.starts))
    weights[rows, table.columns] += np.where(table.liked, how.liked_weight, how.disliked_weight)
    targets[rows, table.columns] = table.liked
    return weights, targets


def objective(table: Reactions, users: np.ndarray, items: np.ndarray, how: Training) -> float:
    """What alternating least squares minimises, over all cells of (users, items)."""
    weights, targets = cells(table, (len(users), len(items)), how)
    return float(
        (weights * (targets - users @ items.T) ** 2).sum() + how.ridge * ((users**2).sum() + (items**2).sum())
    )


def dense_sweeps(
    table: Reactions, start: np.ndarray, users: int, sweeps: int, how: Training
) -> tuple[np.ndarray, np.ndarray]:
    """Alternating least squares with a regression over all columns for each row."""
    weights, targets = cells(table, (users, len(start)), how)
    ridge = how.ridge * np.eye(start.shape[1])

    def solved(others: np.ndarray, c: np.ndarray, t: np.ndarray) -> np.ndarray:
        rows = [
            np.linalg.solve((others.T * one) @ others + ridge, others.T @ (one * to))
            for one, to in zip(c, t, strict=True)
        ]
        return np.array(rows)

    theirs, items = np.zeros((users, start.shape[1])), start
    for _ in range(sweeps):
        theirs = solved(items, weights, targets)
        items = solved(theirs, weights.T, targets.T)
    return theirs, items


def conditioned(
    tokens: Tokens, mean: np.ndarray, observed: np.ndarray, reactions: np.ndarray, ratios: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The mixed model's posterior by conditioning the joint normal distribution of all items, with tau^2 = 1.

    `ratios` are RELIABLE and TOKEN_RIDGE. All tokens have an effect here, also those that no known item has.
    """
    reliable, ridge = ratios
    items = len(observed)
    design = np.zeros((items, int(tokens.tokens.max()) + 1))
    for item in range(items):
        own = tokens.tokens[tokens.starts[item] : tokens.starts[item + 1]]
        design[item, own] = 1.0 / np.sqrt(max(own.size, 1))
    prior = design @ design.T / ridge + np.eye(items)
    known = reactions > 0
    gain = np.linalg.solve(prior[np.ix_(known, known)] + np.diag(reliable / reactions[known]), prior[known]).T
    vectors = mean + gain @ (observed[known] - mean)
    return vectors, np.diag(prior - gain @ prior[known])
