"""A population version as data: what the fitter publishes and every worker reads."""

import numpy as np
from msgspec import Struct
from msgspec.structs import astuple, replace

from blending.delay import Delay
from blending.types import FloatArray, IntArray, ItemArray
from engine.events import SCHEMA, check_schema
from engine.item_tallies import HALF_LIVES_MS, ItemStatistics, damping_of
from engine.learning import PopulationWeights
from engine.population import Population
from engine.relations import Neighbours
from engine.state import Cell, CohortCell, Tally
from engine.weights import packed_size


class StatisticsRecord(Struct, frozen=True):
    """What is counted in `ItemStatistics`, as data: an entry per item in each column."""

    reactions: list[float]
    followed: list[float]
    fading: list[list[float]]


class WeightsRecord(Struct, frozen=True):
    """`PopulationWeights` as data."""

    layout: str
    choices: int
    likes: float
    mean: list[float]
    precision: list[float]


class PopulationRecord(Struct, frozen=True, tag_field="kind", tag="population", kw_only=True):
    """One version. Items in lists are places in `items`; `delays` are by (pool, action).

    `neighbours` has for each item the others most often liked with it, and how often; `near` and `successors` have
    the same of what was reacted to near it and after it, weighted (`engine.relations`). `weights` is null without a
    personal pool, and before anything was learned of it.
    """

    version: int
    records: int
    items: list[str]
    likes: list[int]
    popular: list[int]
    fresh: list[int]
    neighbours: list[tuple[list[int], list[int]]]
    near: list[tuple[list[int], list[int]]]
    successors: list[tuple[list[int], list[int]]]
    statistics: StatisticsRecord
    weights: WeightsRecord | None
    at_ms: int
    newcomers: list[tuple[CohortCell, Tally]]
    strengths: list[tuple[CohortCell, float]]
    shadow: list[tuple[CohortCell, Tally]]
    shadow_views: dict[str, int]
    delta: float
    delays: list[tuple[Cell, Delay]]
    floors: dict[str, float] = {}
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, and lists of items that are not there."""
        check_schema(self.schema)
        size = len(self.items)
        lists = [*self.neighbours, *self.near, *self.successors]
        sizes = {len(column) for column in (self.likes, self.neighbours, self.near, self.successors)}
        statistics = self.statistics
        sizes |= {len(column) for column in (statistics.reactions, statistics.followed, *statistics.fading)}
        if sizes != {size} or len(statistics.fading) != len(HALF_LIVES_MS):
            raise ValueError("a population needs likes, neighbours and statistics for every item")
        listed = [*self.popular, *self.fresh, *(item for items, _ in lists for item in items)]
        if listed and not 0 <= min(listed) <= max(listed) < size:
            raise ValueError("a population lists an item that it does not name")
        if any(len(items) != len(counts) for items, counts in lists):
            raise ValueError("a population needs a count for every neighbour")
        if self.weights and len(self.weights.precision) != packed_size(len(self.weights.mean)):
            raise ValueError("a population needs a precision for every pair of weights")


def record_of(population: Population) -> PopulationRecord:
    """This version as data."""
    return PopulationRecord(
        version=population.version,
        records=population.records,
        items=population.items[: population.size],
        likes=population.likes.tolist(),
        popular=population.popular.tolist(),
        fresh=population.fresh.tolist(),
        neighbours=_pairs(population.neighbours),
        near=_pairs(population.near),
        successors=_pairs(population.successors),
        statistics=_statistics_record(population.statistics),
        weights=_weights_record(population.weights) if population.weights else None,
        at_ms=population.at_ms,
        newcomers=sorted(population.newcomers.items()),
        strengths=sorted(population.strengths.items()),
        shadow=sorted(population.shadow.items()),
        shadow_views=dict(population.shadow_views),
        delta=population.delta,
        delays=sorted(population.delays.items()),
        floors=dict(population.floors),
    )


def shortlisted(record: PopulationRecord, most: int) -> PopulationRecord:
    """The same version with at most so many neighbours of each item, so that it fits into a message."""

    def first(lists: list[tuple[list[int], list[int]]]) -> list[tuple[list[int], list[int]]]:
        return [(items[:most], counts[:most]) for items, counts in lists]

    lists = first(record.neighbours), first(record.near), first(record.successors)
    return replace(record, neighbours=lists[0], near=lists[1], successors=lists[2])


def population_of(record: PopulationRecord) -> Population:
    """The version that a record describes."""
    return Population(
        version=record.version,
        records=record.records,
        size=len(record.items),
        items=record.items,
        number_of={item: number for number, item in enumerate(record.items)},
        likes=np.array(record.likes, np.int64),
        popular=_items(record.popular),
        fresh=_items(record.fresh),
        neighbours=_lists(record.neighbours),
        near=_lists(record.near),
        successors=_lists(record.successors),
        statistics=_statistics(record.statistics),
        weights=_weights(record.weights) if record.weights else None,
        at_ms=record.at_ms,
        newcomers=dict(record.newcomers),
        strengths=dict(record.strengths),
        shadow=dict(record.shadow),
        shadow_views=record.shadow_views,
        delta=record.delta,
        delays=dict(record.delays),
        floors=record.floors,
    )


def _items(numbers: list[int]) -> ItemArray:
    return np.array(numbers, np.int32)


def _counts(numbers: list[int]) -> IntArray:
    return np.array(numbers, np.int64)


def _floats(numbers: list[float] | list[list[float]]) -> FloatArray:
    return np.array(numbers, np.float64)


def _statistics_record(statistics: ItemStatistics) -> StatisticsRecord:
    columns = statistics.reactions, statistics.followed, statistics.fading
    return StatisticsRecord(*(column.tolist() for column in columns))


def _statistics(record: StatisticsRecord) -> ItemStatistics:
    reactions, followed, fading = (_floats(column) for column in astuple(record))
    return ItemStatistics(reactions, followed, fading, damping_of(reactions))


def _weights_record(weights: PopulationWeights) -> WeightsRecord:
    numbers = weights.choices, weights.likes
    return WeightsRecord(weights.layout, *numbers, weights.mean.tolist(), weights.precision.tolist())


def _weights(record: WeightsRecord) -> PopulationWeights:
    numbers = record.choices, record.likes
    return PopulationWeights(record.layout, *numbers, _floats(record.mean), _floats(record.precision))


def _pairs(lists: list[Neighbours]) -> list[tuple[list[int], list[int]]]:
    return [(row.items.tolist(), row.counts.tolist()) for row in lists]


def _lists(pairs: list[tuple[list[int], list[int]]]) -> list[Neighbours]:
    return [Neighbours(_items(items), _counts(counts)) for items, counts in pairs]
