"""Where fresh items and different values are lost on their way to the page, by rule, as a pool's record says it.

The stages are what a pool ranked before filters, what these left of it, what it offered once rules had thinned its
list, what was read of that, and what was placed.
"""

from collections.abc import Sequence

from blending.types import ItemArray
from engine.caps import OLDER, Grouping, Values, limiting
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
    rules = list(limiting(policy).items())
    if not rules:
        return {}
    allowed, listed = _rows(grouping, ranked), _rows(grouping, offered)
    placed = [row for row, verdict in zip(listed, verdicts, strict=False) if verdict == "p"]
    stages = ([*_rows(grouping, passed), *allowed], allowed, listed, listed[: len(verdicts)], placed)
    return {
        name: [_count(rows, place, fresh=isinstance(rule, FreshRule)) for rows in stages]
        for place, (name, rule) in enumerate(rules)
    }


def _rows(grouping: Grouping, numbers: ItemArray) -> list[Values]:
    return [grouping.of(number) for number in numbers.tolist()]


def _count(rows: Sequence[Values], place: int, *, fresh: bool) -> int:
    if fresh:
        return sum(OLDER not in row[place] for row in rows)
    return len({value for row in rows for value in row[place]})
