"""What is remembered of one user: evidence per pool and action, open decisions, and the reactions made."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from blending.blend import Mode
from blending.delay import Delay
from engine.events import Acted, Seen

Cell: TypeAlias = tuple[str, str]  # (pool, action)
CohortCell: TypeAlias = tuple[str, str, str]  # (cohort, pool, action)

# gc=False: no value here can be part of a cycle, and there are many.


class Tally(Struct, frozen=True, gc=False, array_like=True):
    """S and E of one (pool, action): examined views followed by the action, and examined views."""

    successes: float = 0.0
    exposure: float = 0.0

    def plus(self, successes: float, exposure: float) -> "Tally":
        """The sum."""
        return Tally(self.successes + successes, self.exposure + exposure)


class ClosedTally(Struct, frozen=True, gc=False, array_like=True):
    """S and E of closed decisions, each term weighted by 2 to the half-lives between a landmark and its moment.

    The landmark is a moment: a time of the log, and how many of the user's slots were the pool's by then.
    """

    successes: float
    exposure: float
    landmark_ms: int
    served: int


class Taught(Struct, frozen=True, gc=False, array_like=True):
    """What a user has taught the population of one (cohort, pool, action).

    S as it was counted, and E at the user's level: what it would take others to act as often. Then S and E weighted
    by 2 to the half-lives of a cohort between a landmark and their moment.
    """

    successes: float
    leveled_exposure: float
    weighted_successes: float
    weighted_exposure: float
    landmark_ms: int


class Weighed(Struct, frozen=True, gc=False, array_like=True):
    """The candidates of a decision that it remembers with their features, to learn from likes.

    `x` are the features as they were served, int8 steps (items, features), and `etas` the scores; `layout` is
    what the features are (`engine.features.Layout`). `liking` are the actions that are likes; a view without one
    counts `seen_weight`; `full` says whether correlations of the user's own weights are kept.
    """

    layout: str
    items: tuple[str, ...]
    x: bytes
    etas: tuple[float, ...]
    liking: tuple[str, ...]
    seen_weight: float
    full: bool


class Listed(Struct, frozen=True, gc=False, array_like=True):
    """The pools' own lists in a decision, for shadow evidence (`engine.shadow`).

    `items` and `views`, by pool, are the top of its list and how many views of such lists had been counted by then;
    a view of an item counts `delta` to the power of its place. `taken` by action holds the items of the lists that
    it was done to: each once, whatever is delivered again.
    """

    delta: float
    items: Mapping[str, tuple[str, ...]]
    views: Mapping[str, int]
    taken: Mapping[str, tuple[str, ...]] = {}


class UserWeights(Struct, frozen=True, gc=False, array_like=True):
    """A user's own sums (`engine.weights.Sums`) as float64 bytes, each term weighted forward from a landmark."""

    layout: str
    landmark_ms: int
    precision: bytes
    moment: bytes


class LedgerRow(Struct, frozen=True, gc=False, array_like=True):
    """An open decision: what stood in each slot, and what is known of it so far.

    It takes reactions that enter the log until `until_ms`; `slots` is how many were asked for. `weights` is what a
    view of each slot counts; `delays` by pool has an entry per action; `served` by pool is how many of the user's
    slots it had been given with these; `cohort` and `levels` (by action) are those of the decision's priors. `seen`
    is a bit set over slots; `acted` holds one per action that was taken. A bit is set once, whatever is delivered
    again: this is the dedupe. `tallies` by pool, an entry per action, are the sums over the bits that are set.
    `listed` are the pools' own lists, None without shadow evidence.
    """

    at_ms: int
    until_ms: int
    slots: int
    items: tuple[str, ...]
    pools: tuple[str, ...]
    ranks: tuple[int, ...]
    weights: tuple[float, ...]
    actions: tuple[str, ...]
    delays: Mapping[str, tuple[Delay, ...]]
    served: Mapping[str, int]
    newcomer: bool
    cohort: str
    levels: tuple[float, ...]
    weighed: Weighed | None = None
    seen: int = 0
    acted: Mapping[str, int] = {}
    tallies: Mapping[str, tuple[Tally, ...]] = {}
    listed: Listed | None = None


class Reacted(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One reaction in a user's history, ordered by (event time, event id)."""

    at_ms: int
    event_id: str
    item: str
    action: str


class Viewed(Struct, frozen=True, gc=False, array_like=True, order=True):
    """One view of an item in a feed, ordered by (event time, event id)."""

    at_ms: int
    event_id: str
    item: str


class Waiting(Struct, frozen=True, gc=False, array_like=True):
    """A reaction that came before its decision."""

    at_ms: int
    reaction: Seen | Acted


class PoolBelief(Struct, frozen=True, gc=False, array_like=True):
    """What a page was made with, of one pool: `PoolPart` says what each is. `given` are its items in all pages."""

    alpha: list[float]
    beta: list[float]
    strength: list[float]
    fallback: float
    given: int


class Cursor(Struct, frozen=True, gc=False, array_like=True):
    """Where the user's last feed ended: what its next page goes on with.

    `request_id` is its last page's, `feed` its first page's, which all draws come of; `mode` says where utilities
    come from, as in a decision; `items` are those of all pages.
    """

    request_id: str
    feed: str
    until_ms: int
    policy_version: str
    cohort: str
    mode: Mode
    levels: list[float]
    epsilon: float
    items: tuple[str, ...]
    pools: tuple[PoolBelief, ...]


class UserState(Struct, frozen=True, gc=False, kw_only=True):
    """A user's state: a value. `fold` makes the next one; nothing in it is ever changed in place.

    `closed` is the evidence of closed decisions by (pool, action); `ledger` holds the open ones by request id,
    oldest first; `history` is sorted; `served` counts the slots of all decisions by pool; `taught` is
    what the population's evidence of newcomers holds of this user; `cursor` is where the last feed ended;
    `weights` are the user's own. `hidden` are reactions that hide something and `views` what was seen, both sorted.
    """

    closed: Mapping[Cell, ClosedTally] = {}
    ledger: Mapping[str, LedgerRow] = {}
    history: tuple[Reacted, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    served: Mapping[str, int] = {}
    taught: Mapping[CohortCell, Taught] = {}
    cursor: Cursor | None = None
    weights: UserWeights | None = None
    hidden: tuple[Reacted, ...] = ()
    views: tuple[Viewed, ...] = ()


class ViewLesson(Struct, frozen=True, gc=False, array_like=True, tag="view"):
    """What the population learns at once from a view or an action: counts by rank, and how long it took.

    `rank` is the item's place among those of its pool in the feed. `at_ms` is the decision's time; `delay_ms`
    is how long after it the action came, None for a view without one.
    """

    cell: Cell
    rank: int
    successes: float
    exposure: float
    at_ms: int
    delay_ms: int | None


class PriorLesson(Struct, frozen=True, gc=False, array_like=True, tag="prior"):
    """What the population's prior learns from a newcomer's closed decision of one (cohort, pool, action).

    The user's S, and E at the user's level, went from `before` to `after`, and E itself grew by `exposure`; `at_ms`
    is the decision's time.
    """

    cell: CohortCell
    before: Tally
    after: Tally
    exposure: float
    at_ms: int


class ReactionLesson(Struct, frozen=True, gc=False, array_like=True, tag="reaction"):
    """What the population learns of an item: somebody whose earlier reactions are `before` did this with it.

    `earlier` is how many those were; `before` may hold only the latest.
    """

    item: str
    action: str
    before: tuple[Reacted, ...]
    at_ms: int
    earlier: int


class WeightLesson(Struct, frozen=True, gc=False, array_like=True, tag="weight"):
    """What a reaction says of the weights: `x` int8 steps (candidates, features) and their scores, as served.

    A "choice" is of the candidate in place `chosen`; "seen" and "liked" are of one candidate, and say that it was
    seen, and that it was liked; they count `weight`. `at_ms` is the decision's time.
    """

    kind: Literal["choice", "seen", "liked"]
    layout: str
    x: bytes
    etas: tuple[float, ...]
    chosen: int
    weight: float
    at_ms: int


class ShadowLesson(Struct, frozen=True, gc=False, array_like=True, tag="shadow"):
    """What a reaction says of pools' own lists, shown or not.

    `clocks`, an entry per pool, are how many views of its lists the decision knew of. `viewed` are the pools of
    which one more listed item counts as seen, `weight` how much that counts; `won`, an entry per action, are those
    of which a seen one was acted on.
    """

    cohort: str
    actions: tuple[str, ...]
    pools: tuple[str, ...]
    clocks: tuple[int, ...]
    viewed: tuple[str, ...]
    won: tuple[tuple[str, ...], ...]
    weight: float


Lesson = ViewLesson | PriorLesson | ReactionLesson | WeightLesson | ShadowLesson
