"""The shared facts of a decision as one value, and what they say of pools as tables."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from blending.delay import Delay, prior_delay
from blending.types import FloatArray, IntArray
from engine.catalogue import EMPTY, Catalogue
from engine.experiments import Setting, setting_of
from engine.features import Layout, layout_of
from engine.groups import Groups
from engine.item_table import NO_ITEMS, ItemTable, item_table
from engine.offline.embeddings import Embeddings
from engine.policy import NEW, Policy
from engine.population import Population
from engine.rules import BlockRule, of_kind, values_of
from engine.state import Cell, CohortCell, Tally

# Of facts, whatever arms users are in: none may set anything that they are made of.
TABLES = ("items", "layout", "places", "delays", "newcomers", "shadow", "alike", "_restricted")


def cohort_of(policy: Policy, context: Mapping[str, str], *, first: bool) -> str:
    """The cohort of a request: what the policy's key of its context says, and whether it is a user's first page."""
    value = context.get(policy.blend.cohort_by, "")
    named = value if value in policy.blend.cohorts else ""
    return f"{named} {NEW}".strip() if first else named


def cohorts_of(policy: Policy) -> list[str]:
    """All cohorts that requests of a policy may belong to."""
    return [name for value in ("", *policy.blend.cohorts) for name in (value, f"{value} {NEW}".strip())]


class Facts(Struct, frozen=True, dict=True):
    """The shared facts of one decision, handed over as one value.

    `known` may be the `items` of earlier facts, which saves looking at the same items again.
    """

    policy: Policy
    population: Population
    catalogue: Catalogue = EMPTY
    embeddings: Embeddings | None = None
    known: ItemTable = NO_ITEMS
    retired: frozenset[str] = frozenset()

    def under(self, arms: Mapping[str, str]) -> "Facts":
        """These facts for a user who is in these arms, by experiment: with the policy that they make."""
        setting = setting_of(self.policy.experiments, arms)
        if not setting:
            return self
        made = self._by_setting.get(setting)
        if made is None:
            made = self._by_setting[setting] = replace(self, policy=self.policy.by_setting[setting])
            made.__dict__.update((name, getattr(self, name)) for name in TABLES)
        return made

    @cached_property
    def _by_setting(self) -> "dict[Setting, Facts]":
        return {}

    @cached_property
    def items(self) -> ItemTable:
        """What catalogue and embeddings say of the population's items."""
        return item_table(self.population, self.catalogue, self.embeddings, self.known)

    @cached_property
    def layout(self) -> Layout:
        """What the features of candidates are."""
        return layout_of(self.policy, self.catalogue)

    def barred(self, at_ms: int) -> IntArray:
        """The numbers of items that may not be shown at this time, int64, sorted."""
        numbers, from_ms = self._restricted
        return numbers[from_ms > at_ms]

    @cached_property
    def blocked_values(self) -> dict[str, frozenset[str]]:
        """What each block list of the policy names."""
        return {name: frozenset(rule.values) for name, rule in of_kind(self.policy.rules, BlockRule).items()}

    @cached_property
    def blocked(self) -> dict[str, IntArray]:
        """The numbers of the items that each block list bars, int64, sorted."""
        found = {}
        for name, rule in of_kind(self.policy.rules, BlockRule).items():
            values = self.blocked_values[name]
            hit = (
                number
                for number, item in enumerate(self.population.items[: self.population.size])
                if not values.isdisjoint(values_of(item, self.catalogue.get(item), rule.attribute))
            )
            found[name] = np.fromiter(hit, np.int64)
        return found

    @cached_property
    def of_creator(self) -> dict[str, list[int]]:
        """The numbers of each creator's items."""
        found: dict[str, list[int]] = {}
        for number, item in enumerate(self.population.items[: self.population.size]):
            update = self.catalogue.get(item)
            if update is not None and update.creator is not None:
                found.setdefault(update.creator, []).append(number)
        return found

    @cached_property
    def groups(self) -> Groups:
        """The groups that items are in by the rules that limit a page, as far as they have been looked up."""
        return Groups(self.policy.rules, self.catalogue)

    @cached_property
    def compared(self) -> dict[int, tuple[str, ...]]:
        """By item number its values for the rule of diversity, as `engine.diversity` has looked them up."""
        return {}

    @cached_property
    def places(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Where cohorts, pools and actions stand in the tables."""
        policy = self.policy
        cohorts, pools, actions = (
            {name: at for at, name in enumerate(names)}
            for names in (cohorts_of(policy), policy.pools, policy.rewards)
        )
        return cohorts, pools, actions

    @cached_property
    def delays(self) -> dict[Cell, Delay]:
        """How long actions take, by (pool, action), as the population knows it now."""
        unknown, known = prior_delay(self.policy.memory.window_ms), self.population.delays
        cells = [(pool, action) for pool in self.policy.pools for action in self.policy.actions]
        return {cell: known.get(cell, unknown) for cell in cells}

    @cached_property
    def newcomers(self) -> FloatArray:
        """S and E of all newcomers, shape (cohorts, 2, pools, actions)."""
        return self._table(self.population.newcomers)

    @cached_property
    def shadow(self) -> FloatArray:
        """S and E of all pools' own lists, shape (cohorts, 2, pools, actions)."""
        return self._table(self.population.shadow)

    @cached_property
    def alike(self) -> FloatArray:
        """How many views' worth users are alike, (cohorts, pools, actions); infinite where nothing is known."""
        cohorts, pools, actions = self.places
        table = np.full((len(cohorts), 1, len(pools), len(actions)), np.inf)
        for cell, strength in self.population.strengths.items():
            self._put(table, cell, strength)
        return table[:, 0]

    @cached_property
    def _restricted(self) -> tuple[IntArray, IntArray]:
        """Numbers of the items that may not be shown at any time, sorted, and from when they may."""
        numbered = [(self.population.number(item), at) for item, at in self.catalogue.restricted.items()]
        known = sorted((number, from_ms) for number, from_ms in numbered if number is not None)
        table = np.array(known, np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _table(self, tallies: Mapping[CohortCell, Tally]) -> FloatArray:
        """S and E of each cell that the policy has, shape (cohorts, 2, pools, actions)."""
        cohorts, pools, actions = self.places
        table = np.zeros((len(cohorts), 2, len(pools), len(actions)))
        for cell, tally in tallies.items():
            self._put(table, cell, tally)
        return table

    def _put(self, table: FloatArray, cell: tuple[str, str, str], value: Tally | float) -> None:
        """Put a value into its cell, if the policy has it."""
        cohorts, pools, actions = self.places
        cohort, pool, action = cell
        if cohort in cohorts and pool in pools and action in actions:
            of_cell = table[cohorts[cohort], :, pools[pool], actions[action]]
            if isinstance(value, Tally):
                of_cell[0], of_cell[1] = value.successes, value.exposure
            else:
                of_cell[:] = value
