"""The funnel: how many items each pool ranked, and at which stage they were lost on their way to a slot."""

from collections.abc import Iterable

from msgspec import Struct, field

from engine.decision import Decision, PoolPart
from engine.stages import STAGES


class PoolFunnel(Struct):
    """One pool in all feeds that were counted.

    What it ranked is what filters left out (`filtered`, of which `filtered_by` has the reasons that are known),
    what its own list would have had too many of by a rule (`thinned`), and what it `offered`: entries that were not
    read before the page was full, duplicates of what another pool had placed, entries of which the page had as many
    as a rule allows (`capped`), and what was placed. `rules` has for each of them a number for each of
    `engine.stages.STAGES`: fresh items, or different values.
    """

    ranked: int = 0
    filtered: int = 0
    filtered_by: dict[str, int] = field(default_factory=dict)
    thinned: dict[str, int] = field(default_factory=dict)
    offered: int = 0
    unread: int = 0
    duplicates: int = 0
    capped: int = 0
    placed: int = 0
    rules: dict[str, list[int]] = field(default_factory=dict)

    def add(self, part: PoolPart) -> None:
        """Count one feed."""
        read = len(part.verdicts)
        self.ranked += part.filtered + sum(part.thinned.values()) + part.stock
        self.filtered += part.filtered
        self.offered += part.stock
        self.unread += part.stock - read
        self.duplicates += part.verdicts.count("d")
        self.capped += part.verdicts.count("c")
        self.placed += part.realised
        for counts, more in ((self.filtered_by, part.filtered_by), (self.thinned, part.thinned)):
            for name, count in more.items():
                counts[name] = counts.get(name, 0) + count
        for name, stages in part.stages.items():
            before = self.rules.get(name, [0] * len(STAGES))
            self.rules[name] = [one + other for one, other in zip(before, stages, strict=True)]


class Funnel(Struct):
    """All pools by name; `slots` were asked for in all `feeds`, and `empty` of them stayed so.

    `degraded` counts by "rule name" the pages that could not keep a rule.
    """

    feeds: int = 0
    slots: int = 0
    empty: int = 0
    pools: dict[str, PoolFunnel] = field(default_factory=dict)
    degraded: dict[str, int] = field(default_factory=dict)

    def add(self, decision: Decision) -> None:
        """Count one feed."""
        self.feeds += 1
        self.slots += decision.request.slots
        self.empty += decision.request.slots - len(decision.slot_items)
        for part in decision.pools:
            self.pools.setdefault(part.pool, PoolFunnel()).add(part)
        for one in decision.degraded:
            name = f"{one.rule} {one.pool}".rstrip()
            self.degraded[name] = self.degraded.get(name, 0) + 1


def funnel(decisions: Iterable[Decision]) -> Funnel:
    """Count these feeds."""
    found = Funnel()
    for decision in decisions:
        found.add(decision)
    return found
