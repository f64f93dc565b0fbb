"""Where fresh items and different values are lost on their way to the page, by rule, as a pool's record says it.

The stages are what a pool ranked before filters, what these left of it, what it offered once rules had thinned its
list, what was read of that, and what was placed.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from blending.kernels import PLACED
from blending.types import IntArray
from engine.caps import Fitted, Grouping
from engine.groups import limiting
from engine.policy import Policy
from engine.pools import Ranking
from engine.rules import FreshRule

STAGES = ("ranked", "allowed", "offered", "read", "placed")


def stages_of(
    policy: Policy, grouping: Grouping, rankings: Sequence[Ranking], offer: Fitted, verdicts: IntArray
) -> list[dict[str, list[int]]]:
    """By pool and limiting rule a number for each of STAGES: how many items were fresh, or how many values.

    `rankings` are what the pools ranked, which counts as far as their lists in the `offer` were made of it;
    `verdicts` (pools, longest list) are those on the entries of these.
    """
    rules = limiting(policy.rules)
    if not rules:
        return [{} for _ in rankings]
    found = []
    for of, offered, thinned, row in zip(rankings, offer.rankings, offer.thinned, verdicts, strict=True):
        allowed = grouping.of(of.items[: offered.size + sum(thinned.values())])
        listed = grouping.of(offered)
        placed = grouping.of(offered[row[: offered.size] == PLACED])
        read = listed[: int(np.count_nonzero(row))]
        stages = ([*grouping.of(of.passed), *allowed], allowed, listed, read, placed)
        counted = [_counts(rows, grouping) for rows in stages]
        found.append(
            {
                name: [
                    len(rows) - items[place] if isinstance(rule, FreshRule) else values[place]
                    for rows, (items, values) in zip(stages, counted, strict=True)
                ]
                for place, (name, rule) in enumerate(rules.items())
            }
        )
    return found


def _counts(rows: Sequence[tuple[int, ...]], grouping: Grouping) -> tuple[Counter[int], Counter[int]]:
    """By place of a rule how many mentions its groups have, and how many groups are mentioned."""
    mentions = Counter(group for row in rows for group in row)
    items: Counter[int] = Counter()
    for group, count in mentions.items():
        items[grouping.names[group].place] += count
    return items, Counter(grouping.names[group].place for group in mentions)
