"""Rules about items: who may not be shown, how many alike a page may hold, and what is shown too often.

A rule is `[rules.NAME]` in a policy, and its `kind` says which of these types it is. What an item is comes from the
catalogue: its `attribute` is "item" for its id, "creator", or the name of an attribute of the product's.
"""

import re
from collections.abc import Mapping
from typing import TypeAlias, TypeVar

from msgspec import Struct

from engine.events import SLOTS_MAX, ItemUpdate

RULES_MAX = 32
VALUES_MAX = 10_000  # of one block list
RULE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
REACTED, SHOWN, CATALOGUE, HIDDEN = "reacted", "shown", "catalogue", "hidden"
REASONS = (REACTED, SHOWN, CATALOGUE, HIDDEN)  # why items are left out beside rules, which have other names


class BlockRule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="block"):
    """Items that are never shown. What was learned of them stays as it is: nothing is taken for a dislike."""

    attribute: str  # "item", "creator" or one of the catalogue's
    values: tuple[str, ...]  # whole numbers and truths as text: "7", "true"

    def __post_init__(self) -> None:
        """Refuse a list that is too long."""
        if len(self.values) > VALUES_MAX:
            raise ValueError(
                f"values holds at most {VALUES_MAX} texts, not {len(self.values)}: block by an attribute"
            )


class CapRule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cap"):
    """At most `most` items of a page share a value, whichever pools place them; an item counts for each it has.

    Where the page would be short, the cap of the lowest priority gives way first, no further than it must.
    """

    attribute: str  # "item", "creator" or one of the catalogue's
    most: int  # items of a page that share a value
    priority: int = 0  # where a page would be short, the lowest gives way first
    strict: bool = False  # whether it never gives way, and the page is shorter

    def __post_init__(self) -> None:
        """Refuse a cap of nothing, and one of what a page holds once anyhow."""
        if self.attribute == "item":
            raise ValueError('attribute must not be "item": a feed holds every item once')
        if not 1 <= self.most <= SLOTS_MAX:
            raise ValueError(f"most must be from 1 to {SLOTS_MAX}")


class FreshRule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fresh"):
    """At least `least` slots of a page hold items that were published less than `younger_ms` ago.

    So at most all others hold older ones, or ones without `published_ms`. It gives way as a cap does.
    """

    least: int  # slots of a page
    younger_ms: int  # since `published_ms` of an item
    priority: int = 0  # where a page would be short, the lowest gives way first
    strict: bool = False  # whether slots stay empty that would hold older items

    def __post_init__(self) -> None:
        """Refuse a floor of nothing."""
        if not (1 <= self.least <= SLOTS_MAX and self.younger_ms >= 1):
            raise ValueError(f"least must be from 1 to {SLOTS_MAX}, and younger_ms at least 1")


class SeenRule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="seen"):
    """What a user saw so often without acting on it is not offered again before some of these views are older.

    `[memory] views_max` says how many views of a user are remembered.
    """

    times: int  # views of an item
    within_ms: int  # that count

    def __post_init__(self) -> None:
        """Refuse a rule that bars what nobody has seen."""
        if self.times < 1 or self.within_ms < 1:
            raise ValueError("times and within_ms must be at least 1")


class DiverseRule(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="diverse"):
    """Each pool's list is put into the order of maximal marginal relevance before lists are blended."""

    attribute: str  # "item", "creator" or one of the catalogue's; the more values are the same, the more alike
    weight: float  # of being unlike what stands above, beside the rank: 0 keeps the order

    def __post_init__(self) -> None:
        """Refuse a weight that is no share."""
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError("weight must be from 0 to 1")


RulePolicy: TypeAlias = BlockRule | CapRule | FreshRule | SeenRule | DiverseRule
R = TypeVar("R", bound=RulePolicy)


def of_kind(rules: Mapping[str, RulePolicy], kind: type[R]) -> dict[str, R]:
    """The rules of one kind, by name, in the policy's order."""
    return {name: rule for name, rule in rules.items() if isinstance(rule, kind)}


def check_rules(rules: Mapping[str, RulePolicy], views_max: int) -> None:
    """Raise ValueError for too many rules, names that mean something else, and fatigue without remembered views."""
    if len(rules) > RULES_MAX:
        raise ValueError(f"rules must hold at most {RULES_MAX} names, not {len(rules)}")
    for name in rules:
        if not RULE_NAME.fullmatch(name) or name in REASONS:
            taken = ", ".join(REASONS)
            raise ValueError(f"rules.{name}: a name is lower-case letters, digits and _, at most 32, not {taken}")
    if len(of_kind(rules, DiverseRule)) > 1:
        raise ValueError(f'one rule at most is of kind "diverse", not {" and ".join(of_kind(rules, DiverseRule))}')
    if of_kind(rules, SeenRule) and not views_max:
        raise ValueError('a rule of kind "seen" needs [memory] views_max above 0: how many views are remembered')


def values_of(item: str, update: ItemUpdate | None, attribute: str) -> tuple[str, ...]:
    """What an item has for an attribute, as texts, none twice; nothing where nothing is known."""
    if attribute == "item":
        return (item,)
    if update is None:
        return ()
    if attribute == "creator":
        return () if update.creator is None else (update.creator,)
    value = update.attributes.get(attribute)
    if isinstance(value, list):
        return tuple(dict.fromkeys(value))
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return () if value is None else (str(value),)
