"""Running counts behind two fits of the population: by rank within a feed, and of how long actions took."""

import numpy as np

from blending.delay import Delay, fitted_delay

GROUPS = 8  # of one window, by which actions whose views are still young are told apart
OLD = -1  # the group of all decisions whose window has passed, in what is exported
INSTANT_MS = 1000  # an action within a second of its feed came at once


class RankTallies:
    """Successes and examined views of the k-th item of a pool in its feed; lists with an entry per rank."""

    def __init__(self) -> None:
        self.successes: list[float] = []
        self.exposure: list[float] = []

    def add(self, rank: int, successes: float, exposure: float) -> None:
        """Count a view or an action."""
        self._make_room(rank + 1)
        self.successes[rank] += successes
        self.exposure[rank] += exposure

    def merge(self, successes: list[float], exposure: list[float]) -> None:
        """Add the counts of another partition."""
        for rank, amounts in enumerate(zip(successes, exposure, strict=True)):
            self.add(rank, *amounts)

    def _make_room(self, ranks: int) -> None:
        missing = ranks - len(self.exposure)
        if missing > 0:
            self.successes += [0.0] * missing
            self.exposure += [0.0] * missing


class DelayTallies:
    """Number and total delay of the actions on one arm, grouped by their decision's time.

    A group keeps to a part of the window; those whose whole window has passed are one. So the size is bounded
    whatever the length of the log.
    """

    def __init__(self, window_ms: int) -> None:
        """Count for decisions that take reactions for so long."""
        self._window_ms = window_ms
        self._width_ms = max(window_ms // GROUPS, 1)
        self._instant = 0.0
        self._old = (0.0, 0.0)
        self._young: dict[int, tuple[float, float]] = {}  # number of the group -> (count, total delay)

    def add(self, at_ms: int, delay_ms: int) -> None:
        """Count an action that came `delay_ms` after its decision of `at_ms`."""
        if delay_ms < INSTANT_MS:
            self._instant += 1.0
            return
        group = at_ms // self._width_ms
        count, total_ms = self._young.get(group, (0.0, 0.0))
        self._young[group] = (count + 1.0, total_ms + delay_ms)

    def exported(self) -> tuple[float, list[tuple[int, float, float]]]:
        """Actions at once, and (group, count, total delay) of the others; OLD is the group of the old ones."""
        return self._instant, [(OLD, *self._old), *((group, *tally) for group, tally in self._young.items())]

    def merge(self, instant: float, groups: list[tuple[int, float, float]]) -> None:
        """Add what another partition exported."""
        self._instant += instant
        for group, count, total_ms in groups:
            if group == OLD:
                self._old = (self._old[0] + count, self._old[1] + total_ms)
            else:
                known = self._young.get(group, (0.0, 0.0))
                self._young[group] = (known[0] + count, known[1] + total_ms)

    def fitted(self, now_ms: int) -> Delay:
        """The delay at this moment of the log."""
        observed = {group: now_ms - (group + 0.5) * self._width_ms for group in self._young}
        for group in [group for group, observed_ms in observed.items() if observed_ms >= self._window_ms]:
            count, total_ms = self._young.pop(group)
            self._old = (self._old[0] + count, self._old[1] + total_ms)
        groups = [(max(observed[group], 0.5 * self._width_ms), *tally) for group, tally in self._young.items()]
        table = np.array([(float(self._window_ms), *self._old), *groups])
        return fitted_delay(table[:, 0].copy(), table[:, 1].copy(), table[:, 2], self._instant, self._window_ms)
