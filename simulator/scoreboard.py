"""What a backtest counts: hits, discounted gain and slot shares, with intervals that resample users."""

import numpy as np
from msgspec import Struct

from blending.types import FloatArray

RANKS_SCORED = 10  # every figure is "at 10", whatever the length of the feed
FIRST_LIKES = 5
BOOTSTRAPS = 1000
WINDOWS = 40  # points of a curve in the report


class Figures(Struct, frozen=True):
    """What one policy reached. The bounds are the 2.5 % and 97.5 % points of a bootstrap over users.

    `first_five_*` looks only at each user's first five positive events and is None where none was scored.
    """

    hit_at_10: float
    hit_at_10_low: float
    hit_at_10_high: float
    ndcg_at_10: float
    ndcg_at_10_low: float
    ndcg_at_10_high: float
    first_five_hit: float | None
    first_five_hit_low: float | None
    first_five_hit_high: float | None


class Paired(Struct, frozen=True):
    """feedloom's hit@10 less another policy's on the same feeds, and its standard error, paired by user."""

    difference: float
    standard_error: float


class Reached(Struct, frozen=True):
    """What a policy reached over some of the requests."""

    hit_at_10: float
    ndcg_at_10: float


class Broken(Struct, frozen=True):
    """feedloom's figures where a pool broke, over the last fifth of all requests.

    `hit_at_10_first_2_percent` is of the requests right after the break, as many as are 2 % of all;
    `share_last_fifth` is the broken pool's share of the slots.
    """

    pool: str
    hit_at_10_last_fifth: float
    ndcg_at_10_last_fifth: float
    hit_at_10_first_2_percent: float
    share_last_fifth: float


class Ablation(Struct, frozen=True):
    """feedloom's figures without a part of what ranks its personal pool, and what it lacks to those with it."""

    part: str
    hit_at_10: float
    ndcg_at_10: float
    feedloom_minus: Paired


class Summary(Struct, frozen=True):
    """The JSON document of `backtest` and `demo`.

    `feedloom_minus` has every other policy. `views_to_personal` is by pool and action how many of a user's own
    views weigh as much as the prior of a known user: the share of the prior after n views is s / (s + n).
    `us_per_slate` is what a feed takes, in microseconds, with its part of all fits and trainings; `feeds_per_s`
    counts what is learned of the reactions too. `seconds` are those of all runs. `order_shuffled`, `broken` and
    `ablation` are of further runs, None where not asked for.
    """

    dataset: str
    scored: int
    policies: dict[str, Figures]
    feedloom_minus: dict[str, Paired]
    pool_share: dict[str, float]
    views_to_personal: dict[str, dict[str, float]]
    seconds: float
    feeds_per_s: float
    us_per_slate: float
    digest: str
    order_shuffled: Reached | None = None
    broken: Broken | None = None
    ablation: Ablation | None = None


class Timeline(Struct, frozen=True):
    """Curves over the log: window w ends at request number `ends[w]`; NaN where nothing was scored."""

    ends: list[int]
    hit_at_10: dict[str, list[float]]
    pool_share: dict[str, list[float]]


class ExampleSlot(Struct, frozen=True):
    """One slot of the last feed, for people to look at."""

    item: str
    pool: str


class Backtest(Struct, frozen=True):
    """All that a backtest leaves behind."""

    summary: Summary
    timeline: Timeline
    example_user: str
    example: list[ExampleSlot]


class Scoreboard:
    """Counts while a backtest runs. A request has a number from 0; only some are scored."""

    def __init__(self, policies: list[str], pools: list[str], requests: int) -> None:
        """Room for `requests` feeds of every policy."""
        self._pools = pools
        self._hits = {name: np.zeros(requests) for name in policies}
        self._gains = {name: np.zeros(requests) for name in policies}
        self._slots = np.zeros((requests, len(pools)))
        self._users = np.zeros(requests, np.int64)
        self._scored = np.zeros(requests, bool)
        self._early = np.zeros(requests, bool)

    def asked(self, request: int, user: int, likes_before: int, *, scored: bool) -> None:
        """A user who has had `likes_before` positive events asks for a feed."""
        self._users[request] = user
        self._scored[request] = scored
        self._early[request] = scored and likes_before < FIRST_LIKES

    def found(self, request: int, policy: str, slot: int | None) -> None:
        """The item stood in this slot of the policy's feed (0 is the first), or nowhere."""
        if slot is not None and slot < RANKS_SCORED:
            self._hits[policy][request] = 1.0
            self._gains[policy][request] = 1.0 / np.log2(slot + 2)

    def placed(self, request: int, slot_pools: list[int]) -> None:
        """Feedloom gave its slots to these pools."""
        self._slots[request] = np.bincount(slot_pools, minlength=len(self._pools))

    def figures(self, seed: int) -> dict[str, Figures]:
        """Every policy's figures. All are resampled with the same users, so they can be compared."""
        users = int(self._users.max(initial=0)) + 1
        columns = [self._scored, self._early]
        for name, hits in self._hits.items():
            columns += [hits * self._scored, self._gains[name] * self._scored, hits * self._early]
        sums = np.stack(
            [np.bincount(self._users, column, minlength=users) for column in columns],
            axis=1,
            dtype=np.float64,
        )
        samples = np.concatenate([sums.sum(axis=0, keepdims=True), _resampled(sums, seed)])
        with np.errstate(invalid="ignore"):  # 0 / 0 where nobody's first five were scored
            over = np.where(np.arange(samples.shape[1] - 2) % 3 == 2, samples[:, 1:2], samples[:, 0:1])
            values = samples[:, 2:] / over
        return {name: _figures(values[:, 3 * place : 3 * place + 3]) for place, name in enumerate(self._hits)}

    def minus(self, policy: str) -> dict[str, Paired]:
        """Every other policy's hit@10 taken from this one's: a ratio of sums over users, its error linearised."""
        return {name: self.minus_hits(policy, self._hits[name]) for name in sorted(self._hits.keys() - {policy})}

    def hits(self, policy: str) -> FloatArray:
        """1 for each request whose item stood in the policy's feed, else 0."""
        return self._hits[policy]

    def minus_hits(self, policy: str, hits: FloatArray) -> Paired:
        """A policy's hit@10 less that of these hits on the same requests."""
        users = int(self._users.max(initial=0)) + 1
        asked = np.bincount(self._users, self._scored, users)
        gained = np.bincount(self._users, (self._hits[policy] - hits) * self._scored, users)
        difference = float(gained.sum() / asked.sum())
        error = float(np.sqrt(((gained - difference * asked) ** 2).sum()) / asked.sum())
        return Paired(difference, error)

    def reached(self, policy: str, first: int, end: int | None = None) -> Reached:
        """A policy's means over the requests from `first` to before `end`, scored or not."""
        hits, gains = self._hits[policy][first:end], self._gains[policy][first:end]
        return Reached(float(hits.mean()), float(gains.mean()))

    def pool_share(self, last: float) -> dict[str, float]:
        """Each pool's share of feedloom's slots over the last part (a fraction) of the requests."""
        given = self._slots[int(len(self._slots) * (1 - last)) :].sum(axis=0)
        return dict(zip(self._pools, (given / max(given.sum(), 1.0)).tolist(), strict=True))

    def timeline(self) -> Timeline:
        """The curves of the report."""
        ends = np.unique(np.linspace(0, len(self._slots), WINDOWS + 1).astype(np.int64))[1:]
        window = np.searchsorted(ends, np.arange(len(self._slots)), side="right")

        def per_window(column: FloatArray) -> FloatArray:
            return np.bincount(window, column, minlength=ends.size).astype(np.float64)

        with np.errstate(invalid="ignore"):  # NaN where a window has nothing scored
            scored = per_window(self._scored)
            hits = {name: (per_window(hits * self._scored) / scored).tolist() for name, hits in self._hits.items()}
            slots = per_window(self._slots.sum(axis=1))
            share = {pool: (per_window(self._slots[:, at]) / slots).tolist() for at, pool in enumerate(self._pools)}
        return Timeline(ends.tolist(), hits, share)


def _resampled(sums: FloatArray, seed: int) -> FloatArray:
    """Column sums of `sums` (users, columns) over BOOTSTRAPS samples of users with replacement."""
    random = np.random.Generator(np.random.PCG64(seed))
    users = sums.shape[0]
    drawn = (np.bincount(random.integers(0, users, users), minlength=users) for _ in range(BOOTSTRAPS))
    return np.stack([times.astype(np.float64) @ sums for times in drawn])


def _figures(values: FloatArray) -> Figures:
    """Of (1 + BOOTSTRAPS, 3) values of hit, gain and early hit; the first row is the estimate."""
    hit, gain, early = (_with_interval(column) for column in values.T)
    return Figures(*hit, *gain, *(None if np.isnan(value) else value for value in early))


def _with_interval(values: FloatArray) -> tuple[float, float, float]:
    """The estimate and its interval, of the samples that have something to count (the others are NaN)."""
    if np.isnan(values[0]):
        return np.nan, np.nan, np.nan
    low, high = np.nanquantile(values[1:], (0.025, 0.975)).tolist()
    return float(values[0]), low, high
