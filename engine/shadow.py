"""Shadow evidence: what each pool's own list would have earned, whoever's items stood in the feed.

It is counted as if every pool had had the page to itself. A view of slot k is a view of the k-th item of each list
that goes so far, and counts less by satiation as the k-th item of a pool in a feed does. An action on an item, in
the feed or found elsewhere, counts for every pool that listed it at a place that was seen. So pools that are not
shown stay known, and the fall of one that breaks is seen beside what the others would have earned meanwhile. None
of it is evidence of what was shown, which is kept apart.

A term's weight is its own: each decision holds how many views of a pool's lists had been counted before it, and
those are the clock that evidence of the pool grows old by.
"""

from msgspec import Struct
from msgspec.structs import replace

from engine.decision import Decision
from engine.newcomers import faded, forward
from engine.state import CohortCell, LedgerRow, Listed, ShadowLesson, Tally


def listed_of(decision: Decision) -> Listed | None:
    """What the ledger keeps of the pools' own lists, None where the decision does not hold them."""
    parts = [part for part in decision.pools if part.listed]
    if not parts:
        return None
    lists = {part.pool: tuple(part.listed) for part in parts}
    delta = 1.0 if decision.delta is None else decision.delta
    return Listed(delta, lists, {part.pool: part.listed_views for part in parts})


def lessons_of_slot(row: LedgerRow, slot: int) -> tuple[ShadowLesson, ...]:
    """What the first view of a slot says of every list that goes so far."""
    listed = row.listed
    if listed is None:
        return ()
    items = {pool: items[slot] for pool, items in listed.items.items() if slot < len(items)}
    won = tuple(
        tuple(pool for pool, item in items.items() if item in listed.taken.get(action, ()))
        for action in row.actions
    )
    return _lessons(row, listed, tuple(items), won, listed.delta**slot)


def lessons_of_action(row: LedgerRow, item: str, action: str) -> tuple[LedgerRow, tuple[ShadowLesson, ...]]:
    """The row once this was done to an item of its lists, and what it says of those that had it where it was seen.

    Done again it says nothing: an action on an item is counted once a decision, by whichever way it came.
    """
    listed = row.listed
    if listed is None or action not in row.actions or item in listed.taken.get(action, ()):
        return row, ()
    places = {pool: items.index(item) for pool, items in listed.items.items() if item in items}
    if not places:
        return row, ()
    taken = {**listed.taken, action: (*listed.taken.get(action, ()), item)}
    pools = tuple(pool for pool, place in places.items() if row.seen >> place & 1)
    won = tuple(pools if name == action else () for name in row.actions)
    return replace(row, listed=replace(listed, taken=taken)), _lessons(row, listed, (), won, 0.0)


def _lessons(
    row: LedgerRow, listed: Listed, viewed: tuple[str, ...], won: tuple[tuple[str, ...], ...], weight: float
) -> tuple[ShadowLesson, ...]:
    pools = tuple(dict.fromkeys((*viewed, *(pool for one in won for pool in one))))
    if not pools:
        return ()
    clocks = tuple(listed.views[pool] for pool in pools)
    return (ShadowLesson(row.cohort, row.actions, pools, clocks, viewed, won, weight),)


class ShadowRecord(Struct, frozen=True, array_like=True):
    """`ShadowSums` of one pool as data."""

    pool: str
    half_life_views: int
    landmark: int
    views: int
    cells: list[tuple[CohortCell, Tally]]


class _PoolSums:
    """Running sums of one pool: views of its lists, and S and E of each cell, weighted forward from a landmark."""

    def __init__(self, landmark: int, half_life_views: int) -> None:
        self.landmark = landmark  # a number of views
        self.half_life_views = half_life_views
        self.views = 0
        self.cells: dict[CohortCell, list[float]] = {}

    def weight(self, clock: int) -> float:
        """The weight of a term of this moment, after moving the landmark if the term is too far from it."""
        self.landmark, factor, weight = forward(self.landmark, clock, self.half_life_views)
        if factor != 1.0:
            for amounts in self.cells.values():
                amounts[:] = [factor * amount for amount in amounts]
        return weight

    def add(self, cell: CohortCell, successes: float, exposure: float) -> None:
        """Count a weighted term."""
        amounts = self.cells.setdefault(cell, [0.0, 0.0])
        amounts[0] += successes
        amounts[1] += exposure


class ShadowSums:
    """Running sums of shadow evidence over all users, by pool and by (cohort, pool, action)."""

    def __init__(self) -> None:
        self._pools: dict[str, _PoolSums] = {}

    def add(self, lesson: ShadowLesson, half_life_views: int) -> None:
        """Count what a reaction said of lists."""
        viewed = frozenset(lesson.viewed)
        for pool, clock in zip(lesson.pools, lesson.clocks, strict=True):
            sums = self._pools.get(pool)
            if sums is None:
                sums = self._pools[pool] = _PoolSums(clock, half_life_views)
            weight, seen = sums.weight(clock), pool in viewed
            sums.views += seen
            for action, won in zip(lesson.actions, lesson.won, strict=True):
                sums.add((lesson.cohort, pool, action), weight * (pool in won), weight * lesson.weight * seen)

    @property
    def views(self) -> dict[str, int]:
        """How many views of each pool's lists have been counted: its clock."""
        return {pool: sums.views for pool, sums in self._pools.items()}

    def now(self) -> dict[CohortCell, Tally]:
        """S and E as they count now, by (cohort, pool, action)."""
        return {
            cell: Tally(factor * successes, factor * exposure)
            for sums in self._pools.values()
            for factor in [faded(sums.landmark, sums.views, sums.half_life_views)]
            for cell, (successes, exposure) in sums.cells.items()
        }

    def exported(self) -> list[ShadowRecord]:
        """These sums as data, by pool."""
        records = []
        for pool, sums in sorted(self._pools.items()):
            cells = [(cell, Tally(*amounts)) for cell, amounts in sorted(sums.cells.items())]
            records.append(ShadowRecord(pool, sums.half_life_views, sums.landmark, sums.views, cells))
        return records

    def merge(self, record: ShadowRecord) -> None:
        """Add what another partition exported."""
        sums = self._pools.setdefault(record.pool, _PoolSums(record.landmark, record.half_life_views))
        weight = sums.weight(record.landmark)
        sums.views += record.views
        for cell, tally in record.cells:
            sums.add(cell, weight * tally.successes, weight * tally.exposure)
