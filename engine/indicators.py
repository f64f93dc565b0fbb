"""Which of a layout's attributes the candidates of a request have: what a user's taste is learned of."""

from collections.abc import Sequence

import numpy as np

from blending.types import FloatArray, IntArray
from engine.facts import Facts
from engine.features import Layout


def indicators(candidates: IntArray, strangers: Sequence[str], layout: Layout, facts: Facts) -> FloatArray:
    """1 where a candidate, (m,), has one of the layout's tokens, else 0: (m, tokens).

    Numbers beyond the population's are places in `strangers`, of which the catalogue alone knows something.
    """
    found = np.zeros((candidates.size, len(layout.tokens)))
    if not layout.tokens:
        return found
    names = facts.catalogue.names[: len(layout.tokens)]
    column = np.array([layout.tokens.index(name) for name in names], np.int64)
    size = facts.population.size
    known = np.flatnonzero(candidates < size)
    starts, tokens = facts.items.starts, facts.items.tokens
    firsts = starts[candidates[known]]
    lengths = starts[candidates[known] + 1] - firsts
    rows = [np.repeat(known, lengths)]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    numbers = [tokens[np.repeat(firsts, lengths) + within]]
    for place in np.flatnonzero(candidates >= size).tolist():
        own = facts.catalogue.tokens_of(strangers[candidates[place] - size])
        rows.append(np.full(own.size, place, np.int64))
        numbers.append(own.astype(np.int64))
    row, number = np.concatenate(rows), np.concatenate(numbers)
    there = number < column.size
    found[row[there], column[number[there]]] = 1.0
    return found
