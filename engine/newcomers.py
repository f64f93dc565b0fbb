"""What users' first slots say of a pool, by cohort: sums for the mean of its prior, tails for how far users differ.

Old terms count less, by the half-life of a cohort; each is weighted forward from a landmark, so that sums stay
sums.
"""

from math import exp2

from msgspec import Struct

from blending.hierarchy import Tails, extend, no_tails
from engine.evidence import HALF_LIVES_MAX
from engine.state import PriorLesson, Tally, Taught


class NewcomersRecord(Struct, frozen=True, array_like=True):
    """`Newcomers` as data; the tails end with their last entry that is not 0."""

    half_life_ms: int
    most: int
    landmark_ms: int
    successes: float
    exposure: float
    successes_tail: list[float]
    failures_tail: list[float]
    exposure_tail: list[float]


class Newcomers:
    """Running sums of one (cohort, pool, action) over all newcomers."""

    def __init__(self, landmark_ms: int, half_life_ms: int, most: int) -> None:
        """Count at most the first `most` views of a user in the tails."""
        self.landmark_ms = landmark_ms
        self.successes = 0.0
        self.exposure = 0.0
        self.tails = no_tails(most)
        self._half_life_ms = half_life_ms

    def add(self, lesson: PriorLesson) -> None:
        """Count what a closed decision taught."""
        weight = self._weight(lesson.at_ms)
        before, after = lesson.before, lesson.after
        self.successes += weight * (after.successes - before.successes)
        self.exposure += weight * lesson.exposure
        extend(self.tails, (before.successes, before.exposure), (after.successes, after.exposure), weight)

    def _weight(self, at_ms: int) -> float:
        """The weight of a term of this moment, after moving the landmark if the term is too far from it."""
        self.landmark_ms, factor, weight = forward(self.landmark_ms, at_ms, self._half_life_ms)
        if factor != 1.0:
            self.successes *= factor
            self.exposure *= factor
            for tail in self.tails:
                tail[:] *= factor
        return weight

    def at(self, now_ms: int) -> Tally:
        """S and E as they count at a moment."""
        factor = faded(self.landmark_ms, now_ms, self._half_life_ms)
        return Tally(factor * self.successes, factor * self.exposure)

    def tails_at(self, now_ms: int, most: int) -> Tails:
        """The tails as they count at a moment, of this length."""
        factor = faded(self.landmark_ms, now_ms, self._half_life_ms)
        tails = no_tails(most)
        for tail, own in zip(tails, self.tails, strict=True):
            tail[: own.size] = factor * own[:most]
        return tails

    def exported(self) -> NewcomersRecord:
        """These sums as data."""
        tails = [tail[: int(tail.nonzero()[0].max(initial=-1)) + 1].tolist() for tail in self.tails]
        most = self.tails.exposure.size
        return NewcomersRecord(self._half_life_ms, most, self.landmark_ms, self.successes, self.exposure, *tails)

    def merge(self, record: NewcomersRecord) -> None:
        """Add what another partition exported."""
        weight = self._weight(record.landmark_ms)
        self.successes += weight * record.successes
        self.exposure += weight * record.exposure
        parts = (record.successes_tail, record.failures_tail, record.exposure_tail)
        for tail, part in zip(self.tails, parts, strict=True):
            tail[: len(part)] += [weight * amount for amount in part[: tail.size]]


def forward(landmark_ms: int, at_ms: int, half_life_ms: int) -> tuple[int, float, float]:
    """The landmark for a term of a moment, moved if it is too far; factor of older terms; weight of the term."""
    since = (at_ms - landmark_ms) / half_life_ms
    if since > HALF_LIVES_MAX:
        return at_ms, exp2(-min(since, 1000.0)), 1.0
    return landmark_ms, 1.0, exp2(max(since, -1000.0))


def faded(landmark_ms: int, now_ms: int, half_life_ms: int) -> float:
    """What sums that are weighted from a landmark count at a moment."""
    return exp2(min((landmark_ms - now_ms) / half_life_ms, 0.0))


def plus(old: Taught, term: Tally, level: float, at_ms: int, half_life_ms: int) -> Taught:
    """What a user has taught, and a term of this moment more, at this level of the user."""
    landmark_ms, factor, weight = forward(old.landmark_ms, at_ms, half_life_ms)
    return Taught(
        old.successes + term.successes,
        old.leveled_exposure + level * term.exposure,
        factor * old.weighted_successes + weight * term.successes,
        factor * old.weighted_exposure + weight * term.exposure,
        landmark_ms,
    )


def taught_at(taught: Taught, now_ms: int, half_life_ms: int) -> Tally:
    """A user's part in S and E as they count at a moment."""
    factor = faded(taught.landmark_ms, now_ms, half_life_ms)
    return Tally(factor * taught.weighted_successes, factor * taught.weighted_exposure)
