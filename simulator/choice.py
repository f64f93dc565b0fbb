"""How a simulated user goes through a feed: which slots are seen, and which of them are acted on.

An attraction is the probability that an item is acted on when it is looked at alone. Every model takes the
random numbers from its caller, `uniforms` of shape (slots, 2) in [0, 1): column 0 decides on acting and
column 1 on looking. Two feeds that meet the same numbers are therefore compared without the noise of the
draw. Every model also states its probabilities in closed form.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

ACT, LOOK = 0, 1  # columns of the uniforms
COLUMNS = 2


class Outcome(NamedTuple):
    """What happened to every slot; both of shape (slots,)."""

    seen: BoolArray
    acted: BoolArray


class Choice(Protocol):
    """A model of choice. Attractions have shape (slots,) and lie strictly between 0 and 1."""

    def react(self, attractions: FloatArray, uniforms: FloatArray) -> Outcome:
        """One walk through the feed."""

    def seen_probability(self, attractions: FloatArray) -> FloatArray:
        """The probability of each slot that it is seen, shape (slots,)."""

    def acted_probability(self, attractions: FloatArray) -> FloatArray:
        """The probability of each slot that it is acted on, shape (slots,)."""


@dataclass(frozen=True)
class PositionBased:
    """Slot j is seen with probability `examination[j]`, and then acted on with its attraction.

    The position-based model: P(act on j) = κ_j θ_j, each slot by itself. A feed may be shorter than κ.
    Raises ValueError unless 1 >= κ_0 >= κ_1 >= ... > 0: the best order is known for such κ only.
    """

    examination: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse an examination that is no probability or grows with the slot."""
        falling = tuple(sorted(self.examination, reverse=True)) == self.examination
        if not (self.examination and falling and self.examination[0] <= 1.0 and self.examination[-1] > 0.0):
            raise ValueError(f"examination must fall, from at most 1 and not to 0: {self.examination}")

    def react(self, attractions: FloatArray, uniforms: FloatArray) -> Outcome:
        """Each slot by itself."""
        seen = uniforms[:, LOOK] < self.seen_probability(attractions)
        return Outcome(seen, seen & (uniforms[:, ACT] < attractions))

    def seen_probability(self, attractions: FloatArray) -> FloatArray:
        """κ, of the first slots."""
        return np.array(self.examination[: attractions.size])

    def acted_probability(self, attractions: FloatArray) -> FloatArray:
        """κ θ."""
        return self.seen_probability(attractions) * attractions


@dataclass(frozen=True)
class Cascade:
    """The user looks from the top down, and may leave after every slot.

    After a slot without an action the next is looked at with probability `persistence` η; after an action
    with η (1 - `stop`). stop 1 is the cascade of at most one action, stop 0 ignores what was found. Raises
    ValueError for what is no probability.
    """

    persistence: float
    stop: float

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not (0.0 <= self.persistence <= 1.0 and 0.0 <= self.stop <= 1.0):
            raise ValueError(f"not probabilities: {self}")

    def react(self, attractions: FloatArray, uniforms: FloatArray) -> Outcome:
        """Slot by slot. The number LOOK of a slot decides whether the user goes on below it."""
        wants = (uniforms[:, ACT] < attractions).tolist()
        going_on = uniforms[:, LOOK].tolist()
        seen = 0
        for wanted, number in zip(wants, going_on, strict=True):
            seen += 1
            if number >= self._go_on(wanted):
                break
        is_seen = np.arange(len(wants)) < seen
        return Outcome(is_seen, is_seen & np.array(wants, np.bool_))

    def _go_on(self, acted: float) -> float:
        """η (1 - stop · acted), where `acted` may also be a probability."""
        return self.persistence * (1.0 - self.stop * acted)

    def seen_probability(self, attractions: FloatArray) -> FloatArray:
        """The product of η (1 - stop · θ_i) over the slots i above."""
        above = self.persistence * (1.0 - self.stop * attractions[:-1])
        return np.cumprod(np.concatenate([np.ones(min(1, attractions.size)), above]))

    def acted_probability(self, attractions: FloatArray) -> FloatArray:
        """P(seen) θ: whether a slot is acted on does not depend on how the user came to it."""
        return self.seen_probability(attractions) * attractions


@dataclass(frozen=True)
class Logit:
    """The user sees the whole feed and acts on one slot of it or on none (multinomial logit).

    P(act on j) = w_j / (1 + Σ w) with w = θ / (1 - θ), the weight of no choice being 1. So an item that is
    the whole feed is acted on with probability θ, as in the other models, and in a longer feed the items
    take from each other.
    """

    def react(self, attractions: FloatArray, uniforms: FloatArray) -> Outcome:
        """A race: of exponential times with rates w and 1, j is the first with probability w_j / (1 + Σ w).

        Each slot has its own time, so that the others' draws stay the same when one item is exchanged. No
        choice takes the first slot's LOOK, which nothing else needs here.
        """
        with np.errstate(divide="ignore"):  # a number 0 is a time 0, also where it is the lowest of all
            times = -np.log1p(-uniforms[:, ACT]) * (1.0 - attractions) / attractions
        acted = np.zeros(attractions.size, np.bool_)
        first = int(times.argmin())
        acted[first] = times[first] < -np.log1p(-uniforms[0, LOOK])
        return Outcome(np.ones_like(acted), acted)

    def seen_probability(self, attractions: FloatArray) -> FloatArray:
        """Ones."""
        return np.ones(attractions.size)

    def acted_probability(self, attractions: FloatArray) -> FloatArray:
        """Of j, w_j / (1 + Σ w)."""
        weights = attractions / (1.0 - attractions)
        return np.asarray(weights / (1.0 + weights.sum()))
