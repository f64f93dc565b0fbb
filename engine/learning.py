"""How likes become weights: the user's own sums, the population's, and the two priors that are made of these.

Every term is linearised at the score that was served (`engine.weight_kernels`), so sums take terms in any order.
A like is a choice among the candidates that the decision remembers; a view without one says a little against it.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from blending.types import FloatArray
from engine.evidence import HALF_LIVES_MAX
from engine.feature_kernels import STEPS
from engine.policy import WeightsPolicy
from engine.state import LedgerRow, UserWeights, WeightLesson
from engine.weight_kernels import add_choice, add_scaled, add_seen
from engine.weights import (
    Sums,
    faded,
    forward,
    move_landmark,
    no_sums,
    packed,
    posterior,
)

RIDGE_OWN = 1e-3  # least precision of a user's own weights around the population's, per like of its strength


@cache
def _diagonal(features: int) -> FloatArray:
    """The packed unit matrix."""
    return packed(np.eye(features))


class PopulationWeights(NamedTuple):
    """What is believed of anybody's weights: `mean` (d,), and the packed `precision` of a user's around it.

    It comes of so many `choices`, which count as so many `likes` now that they have faded.
    """

    layout: str
    choices: int
    likes: float
    mean: FloatArray
    precision: FloatArray


class WeightSumsRecord(Struct, frozen=True, array_like=True):
    """`WeightSums` as data."""

    layout: str
    landmark_ms: int
    half_life_ms: int
    choices: int
    likes: float
    precision: list[float]
    moment: list[float]


def bytes_of(rows: FloatArray) -> bytes:
    """Features (candidates, d) as records keep them: int8, in whole STEPS, which they are served in."""
    return np.rint(rows * STEPS).astype(np.int8).tobytes()


def rows_of(data: bytes, candidates: int) -> FloatArray:
    """The same features again, float64 (candidates, d)."""
    return np.frombuffer(data, np.int8).reshape(candidates, -1) / STEPS


def add_lesson(sums: Sums, lesson: WeightLesson, weight: float, *, full: bool) -> bool:
    """Add a term; False, and nothing added, if a number in it is not finite."""
    rows = rows_of(lesson.x, len(lesson.etas))
    weight *= lesson.weight
    if lesson.kind == "choice":
        return add_choice(*sums, rows, np.array(lesson.etas), lesson.chosen, weight, full)
    if lesson.kind == "seen":
        return add_seen(*sums, rows[0], lesson.etas[0], 0.0, weight, full)
    add_scaled(sums.moment, rows[0], weight)  # all that a term's y adds
    return True


def learned(known: UserWeights | None, lesson: WeightLesson, half_life_ms: int, *, full: bool) -> UserWeights:
    """A user's own sums with a term more; of two layouts that of the later decisions is kept."""
    if known is not None and known.layout != lesson.layout and lesson.at_ms < known.landmark_ms:
        return known
    if known is None or known.layout != lesson.layout:
        features = len(lesson.x) // len(lesson.etas)
        sums, landmark_ms = no_sums(features), lesson.at_ms
    else:
        sums = Sums(np.frombuffer(known.precision).copy(), np.frombuffer(known.moment).copy())
        landmark_ms = known.landmark_ms
    landmark_ms, weight = _moved(sums, landmark_ms, lesson.at_ms, half_life_ms)
    add_lesson(sums, lesson, weight, full=full)
    return UserWeights(lesson.layout, landmark_ms, sums.precision.tobytes(), sums.moment.tobytes())


def _moved(sums: Sums, landmark_ms: int, at_ms: int, half_life_ms: int) -> tuple[int, float]:
    """The landmark for a term of this moment, moved if it is too far, and the term's weight."""
    since = (at_ms - landmark_ms) / half_life_ms
    if since <= HALF_LIVES_MAX:
        return landmark_ms, forward(max(since, -1000.0))
    move_landmark(sums, since)
    return at_ms, 1.0


class WeightSums:
    """The sums of everybody's terms. One writer owns them."""

    def __init__(self) -> None:
        """Start with no terms."""
        self.layout = ""
        self.choices = 0
        self.likes = 0.0
        self._sums = no_sums(1)
        self._landmark_ms = 0

    def add(self, lesson: WeightLesson, half_life_ms: int) -> None:
        """Add a term. Sums of other features are let go of, but a term of a decision before these is refused."""
        if self.layout != lesson.layout:
            if self.layout and lesson.at_ms < self._landmark_ms:
                return
            self._begin(lesson.layout, len(lesson.x) // len(lesson.etas), lesson.at_ms)
        weight = self._weight(lesson.at_ms, half_life_ms)
        if add_lesson(self._sums, lesson, weight, full=True) and lesson.kind == "choice":
            self.choices += 1
            self.likes += weight

    def _begin(self, layout: str, features: int, landmark_ms: int) -> None:
        self.layout, self.choices, self.likes = layout, 0, 0.0
        self._sums, self._landmark_ms = no_sums(features), landmark_ms

    def _weight(self, at_ms: int, half_life_ms: int) -> float:
        before = self._landmark_ms
        self._landmark_ms, weight = _moved(self._sums, before, at_ms, half_life_ms)
        if self._landmark_ms != before:
            self.likes *= faded((at_ms - before) / half_life_ms)
        return weight

    def at(self, now_ms: int, settings: WeightsPolicy) -> PopulationWeights | None:
        """What these sums make of everybody's weights; None before any term.

        The mean is the posterior of a prior N(0, 1 / ridge). A user's own weights are believed to be as near to it
        as `strength` likes would bring them: the information of so many average likes is their prior's precision.
        """
        if not self.layout:
            return None
        features = self._sums.moment.size
        scale = faded((now_ms - self._landmark_ms) / settings.population_half_life_ms)
        ridge = settings.ridge * _diagonal(features)
        mean = posterior(ridge, np.zeros(features), *self._sums, scale=scale).mean
        likes = scale * self.likes
        per_like = scale * self._sums.precision / max(likes, 1.0)
        precision = settings.strength * (per_like + RIDGE_OWN * _diagonal(features))
        return PopulationWeights(self.layout, self.choices, likes, mean, precision)

    def exported(self, half_life_ms: int) -> WeightSumsRecord:
        """These sums as data."""
        precision, moment = (part.tolist() for part in self._sums)
        numbers = self._landmark_ms, half_life_ms, self.choices, self.likes
        return WeightSumsRecord(self.layout, *numbers, precision, moment)

    def merge(self, record: WeightSumsRecord) -> None:
        """Add what another partition exported; of two layouts, the one that came first stays."""
        if not record.layout:
            return
        if not self.layout:
            self._begin(record.layout, len(record.moment), record.landmark_ms)
        if record.layout != self.layout:
            return
        weight = self._weight(record.landmark_ms, record.half_life_ms)
        self.choices += record.choices
        self.likes += weight * record.likes
        self._sums.precision[:] += weight * np.array(record.precision)
        self._sums.moment[:] += weight * np.array(record.moment)


def no_weights(layout: str, features: int, settings: WeightsPolicy) -> PopulationWeights:
    """What is believed before any term: nothing but the ridge."""
    precision = settings.strength * settings.ridge * _diagonal(features)
    return PopulationWeights(layout, 0, 0.0, np.zeros(features), precision)


def lessons_of_view(row: LedgerRow, slot: int) -> tuple[WeightLesson, ...]:
    """What a view says of the weights."""
    return _of_slot(row, slot, "seen") if row.weighed and row.weighed.seen_weight > 0.0 else ()


def lessons_of_like(row: LedgerRow, slot: int) -> tuple[WeightLesson, ...]:
    """What a like of the item in a slot says: that it was liked, and chosen among what was considered."""
    weighed = row.weighed
    if weighed is None:
        return ()
    liked = _of_slot(row, slot, "liked") if weighed.seen_weight > 0.0 else ()
    return (*lessons_of_choice(row, row.items[slot]), *liked)


def lessons_of_choice(row: LedgerRow, item: str) -> tuple[WeightLesson, ...]:
    """What the like of an item says, if the decision considered it, placed or not."""
    weighed = row.weighed
    if weighed is None or item not in weighed.items:
        return ()
    chosen = weighed.items.index(item)
    return (WeightLesson("choice", weighed.layout, weighed.x, weighed.etas, chosen, 1.0, row.at_ms),)


def _of_slot(row: LedgerRow, slot: int, kind: str) -> tuple[WeightLesson, ...]:
    weighed = row.weighed
    assert weighed is not None
    if row.items[slot] not in weighed.items:
        return ()
    place = weighed.items.index(row.items[slot])
    size = len(weighed.x) // len(weighed.items)
    x, eta = weighed.x[place * size : (place + 1) * size], weighed.etas[place]
    weight = weighed.seen_weight
    return (WeightLesson(kind, weighed.layout, x, (eta,), 0, weight, row.at_ms),)  # type: ignore[arg-type]
