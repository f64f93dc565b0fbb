"""A world whose users each like items of a few kinds, and one day of others: its truth, and its users.

An item has one attribute of each of `traits`. What a user likes of each trait is drawn for that user alone, and all
of it changes at once in a feed of the user's own, about the middle of the run, to what was not liked before.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulator.choice import COLUMNS, Choice, FloatArray, Outcome
from simulator.users import Stream
from simulator.worlds import LOGARITHMIC, SLOTS

SWITCH_SPREAD = 0.1  # of all feeds: a user's switch is so far from the middle at most
TASTE, ITEM, LISTED = 1, 2, 3  # what random numbers of a seed are for

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tastes:
    """The truth. An item's attraction to a user is the logistic function of a score.

    items: of the catalogue, `new` not counted.
    traits: names of an item's attributes, each of `values` values, of which a user likes `liked`.
    base: score of an item that a user likes nothing of.
    gains: what each trait adds, in the order of the traits, where its value is liked.
    quality: standard deviation of what an item is better than others, whoever sees it.
    feeds: of each user.
    choice: the model of how a feed is gone through.
    """

    name: str = "tastes"
    items: int = 384
    traits: tuple[str, ...] = ("kind",)
    values: int = 16
    liked: int = 4
    base: float = -3.0
    gains: tuple[float, ...] = (3.0,)
    quality: float = 0.3
    feeds: int = 160
    slots: int = SLOTS
    choice: Choice = field(default=LOGARITHMIC)

    def values_of(self, seed: int) -> IntArray:
        """Every item's value of each trait, (items, traits)."""
        random = np.random.default_rng((seed, ITEM))
        grid = np.stack([np.arange(self.items) // self.values**at % self.values for at in range(len(self.traits))])
        return random.permutation(grid.T)

    def qualities_of(self, seed: int) -> FloatArray:
        """What each item is better than others, (items,)."""
        found: FloatArray = self.quality * np.random.default_rng((seed, ITEM, 1)).standard_normal(self.items)
        return found

    def attributes(self, values: IntArray) -> dict[str, str | int | float | bool | list[str]]:
        """What a product says of an item with these values, (traits,)."""
        return {trait: f"{trait}-{value}" for trait, value in zip(self.traits, values.tolist(), strict=True)}


class TasteUser:
    """One user. Its reactions are a function of (seed, user, feed, items of the slots)."""

    def __init__(self, world: Tastes, seed: int, user: int) -> None:
        """`seed` of the run and number of the user, both at least 0."""
        self._world = world
        self._stream = Stream(seed, user)
        random = np.random.default_rng((seed, TASTE, user))
        spread = round(SWITCH_SPREAD * world.feeds)
        # The first feed of the new taste.
        self.switch = world.feeds // 2 + int(random.integers(-spread, spread + 1))
        orders = [random.permutation(world.values) for _ in world.traits]
        self._liked = [
            [np.isin(np.arange(world.values), order[first : first + world.liked]) for order in orders]
            for first in (0, world.liked)
        ]

    def likes(self, feed: int, values: IntArray) -> npt.NDArray[np.bool_]:
        """Which traits of items with these values (n, traits) are liked in this feed, (n, traits)."""
        liked = self._liked[int(feed >= self.switch)]
        return np.stack([of[values[:, at]] for at, of in enumerate(liked)], axis=1)

    def attractions(self, feed: int, values: IntArray, qualities: FloatArray) -> FloatArray:
        """The attractions in this feed of items with these values (n, traits) and qualities (n,)."""
        scores = self._world.base + self.likes(feed, values) @ np.array(self._world.gains) + qualities
        found: FloatArray = 1.0 / (1.0 + np.exp(-scores))
        return found

    def react(self, feed: int, attractions: FloatArray) -> Outcome:
        """What the user does with a feed whose slots have these attractions, (slots,)."""
        return self._world.choice.react(attractions, self._stream.of_feed(feed, attractions.size, COLUMNS))


def listed(seed: int, user: int, feed: int, items: int, most: int) -> list[int]:
    """What the product lists by itself for a feed: different items of so many, at random."""
    random = np.random.default_rng((seed, LISTED, user, feed))
    chosen: list[int] = random.choice(items, size=min(most, items), replace=False).tolist()
    return chosen
