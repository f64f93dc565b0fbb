"""Lists that do not repeat themselves: each pool's is put into the order of maximal marginal relevance.

Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing
summaries", SIGIR 1998. The next item of a list is the one with the largest (1 - w) relevance - w likeness to that
above which is most like it. Relevance falls evenly from 1 to 0 down the list, as pools' scores are comparable with
nothing; likeness is the cosine of two sets of values, |A ∩ B| / √(|A| |B|).
"""

from collections.abc import Sequence

import numpy as np

from blending.types import ItemArray
from engine.facts import Facts
from engine.kernels import marginal_order
from engine.rules import DiverseRule, values_of


def diversified(items: ItemArray, rule: DiverseRule, facts: Facts, strangers: Sequence[str]) -> ItemArray:
    """A ranking in the order of the rule; `strangers` are the items with numbers beyond the population's."""
    rows = [_values(number, rule, facts, strangers) for number in items.tolist()]
    numbers: dict[str, int] = {}
    table = np.full((len(rows), max((len(row) for row in rows), default=0)), -1, np.int64)
    for entry, row in zip(table, rows, strict=True):
        entry[: len(row)] = [numbers.setdefault(value, len(numbers)) for value in row]
    found: ItemArray = items[marginal_order(table, rule.weight)]
    return found


def _values(number: int, rule: DiverseRule, facts: Facts, strangers: Sequence[str]) -> tuple[str, ...]:
    """What an item has for the rule's attribute, looked up once of each item that the population knows."""
    found = facts.compared.get(number)
    if found is None:
        size = facts.population.size
        item = facts.population.items[number] if number < size else strangers[number - size]
        found = values_of(item, facts.catalogue.get(item), rule.attribute)
        if number < size:
            facts.compared[number] = found
    return found
