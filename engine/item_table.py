"""What items are, by their numbers in a population version: their categories, and their vectors."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from blending.types import BoolArray, FloatArray, IntArray
from engine.catalogue import Catalogue
from engine.offline.attributes import Tokens
from engine.offline.embeddings import Embeddings
from engine.population import Population


class ItemTable(NamedTuple):
    """Columns with an entry per item, and the versions of catalogue and embeddings that they are of.

    The tokens of item i are `tokens[starts[i] : starts[i + 1]]`, and `described`, bool (items,), says whether there
    are any; `vectors` and `factors`, float64 (items, d), and the `variances` of the former, (items,), are None
    before any embeddings were trained. Factors are 0 of items that these have not met.
    """

    updates: int
    theta: int
    starts: IntArray
    tokens: IntArray
    described: BoolArray
    vectors: FloatArray | None
    factors: FloatArray | None
    variances: FloatArray | None


NO_ITEMS = ItemTable(0, 0, np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.bool_), None, None, None)


def tokens_of(items: Iterable[str], catalogue: Catalogue) -> Tokens:
    """The categories of items, one item's after another's."""
    rows = [catalogue.tokens_of(item) for item in items]
    starts = np.cumsum([0, *(row.size for row in rows)], dtype=np.int64)
    return Tokens(starts, np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64))


def item_table(
    population: Population, catalogue: Catalogue, embeddings: Embeddings | None, known: ItemTable
) -> ItemTable:
    """The table of a population version; an earlier one saves looking at the same items again."""
    theta = embeddings.version if embeddings else 0
    size = known.starts.size - 1
    if (known.updates, known.theta) != (catalogue.updates, theta) or size > population.size:
        known, size = NO_ITEMS._replace(updates=catalogue.updates, theta=theta), 0
    if size == population.size and (embeddings is None or known.vectors is not None):
        return known
    added = tokens_of(population.items[size : population.size], catalogue)
    starts = np.concatenate([known.starts, known.starts[-1] + added.starts[1:]])
    tokens, described = np.concatenate([known.tokens, added.tokens]), np.diff(starts) > 0
    if embeddings is None:
        return ItemTable(catalogue.updates, theta, starts, tokens, described, None, None, None)
    vectors = np.zeros((population.size, embeddings.theta.shape[1]))
    factors, variances = np.zeros(vectors.shape), np.zeros(population.size)
    if known.vectors is not None and known.factors is not None and known.variances is not None:
        vectors[:size], factors[:size], variances[:size] = known.vectors, known.factors, known.variances
    trained = min(len(embeddings.theta), population.size)
    if size < trained:
        new = slice(size, trained)
        vectors[new], factors[new] = embeddings.theta[new], embeddings.factors[new]
        variances[new] = embeddings.variance[new]
    for item in range(max(size, trained), population.size):
        vectors[item], variances[item] = embeddings.embed(tokens[starts[item] : starts[item + 1]])
    return ItemTable(catalogue.updates, theta, starts, tokens, described, vectors, factors, variances)
