"""Where fresh items and different values are lost on their way to the page, by rule, as a pool's record says it.

The stages are what a pool ranked before filters, what these left of it, what it offered once rules had thinned its
list, what was read of that, and what was placed.
"""

from collections import Counter
from collections.abc import Sequence

from blending.types import ItemArray
from engine.caps import Grouping
from engine.groups import limiting
from engine.policy import Policy
from engine.rules import FreshRule

STAGES = ("ranked", "allowed", "offered", "read", "placed")


def stages_of(
    policy: Policy, grouping: Grouping, passed: ItemArray, ranked: ItemArray, offered: ItemArray, verdicts: str
) -> dict[str, list[int]]:
    """By limiting rule a number for each of STAGES: how many items were fresh, or how many values items had.

    `passed` are the items that filters left out, `ranked` what they left, as far as the list was made of it,
    `offered` the list, and `verdicts` those on its entries that were read (`engine.decision.VERDICTS`).
    """
    rules = limiting(policy.rules)
    if not rules:
        return {}
    allowed, listed = grouping.of(ranked), grouping.of(offered)
    placed = [row for row, verdict in zip(listed, verdicts, strict=False) if verdict == "p"]
    stages = ([*grouping.of(passed), *allowed], allowed, listed, listed[: len(verdicts)], placed)
    counted = [_counts(rows, grouping) for rows in stages]
    return {
        name: [
            len(rows) - items[place] if isinstance(rule, FreshRule) else values[place]
            for rows, (items, values) in zip(stages, counted, strict=True)
        ]
        for place, (name, rule) in enumerate(rules.items())
    }


def _counts(rows: Sequence[tuple[int, ...]], grouping: Grouping) -> tuple[Counter[int], Counter[int]]:
    """By place of a rule how many mentions its groups have, and how many groups are mentioned."""
    mentions = Counter(group for row in rows for group in row)
    items: Counter[int] = Counter()
    for group, count in mentions.items():
        items[grouping.names[group].place] += count
    return items, Counter(grouping.names[group].place for group in mentions)
