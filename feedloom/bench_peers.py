"""What `feedloom bench` calls: our blend, the same work done with other libraries, and a call that does nothing.

All stand on the same counts. Each library is given what is fastest for it: before the clock starts, the texts
for VW are written and lists are Python lists.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from blending.blend import WHOLE, Rules, blend, equal_shares, lists_of
from blending.compiled import compiled
from blending.kernels import blended
from blending.posterior import Beta
from blending.returns import returns_table
from blending.types import FloatArray, IntArray, ItemArray
from blending.utilities import DRAWN, drawn_utilities
from simulator.peers import VowpalWabbit

Call = Callable[[np.uint64], object]  # takes the key of its draws; a peer has random numbers of its own

SLOTS = 25
DRAW, FEED = "blend draw", f"{SLOTS}-slot feed"
SEED = 1
CATALOGUE, CANDIDATES = 100, 40  # items of all pools and of each: two lists share 16 on average
VIEWS = 200  # of each pool
SUCCESSES = np.array([[24, 6, 4], [20, 8, 3], [16, 4, 2], [12, 5, 5], [8, 2, 1]])  # (pools, actions), of the views
REWARDS = np.array([1.0, 2.0, -1.0])  # as of a like, a purchase and a hide
POOLS, ACTIONS = SUCCESSES.shape


class Duel(NamedTuple):
    """Two calls that are timed in turn."""

    ours: Call
    theirs: Call


class Comparison(NamedTuple):
    """A row to be. `note` says what the peer does less or more; `aside` is a second duel, for the note."""

    name: str
    peer: str
    duel: Duel
    note: str
    aside_note: str = ""
    aside: Duel | None = None


def our_draw(actions: int = ACTIONS) -> Call:
    """The compiled draw of every pool's utility."""
    results = np.empty((1, POOLS, actions)), np.empty((1, POOLS))
    return partial(drawn_utilities, *posterior(actions), REWARDS[:actions].copy(), *results)


def our_feed() -> Call:
    """The compiled blend of a feed: one draw for all slots, shared out by Webster's h(n)."""
    return partial(blended, *arguments())


def our_call() -> Call:
    """The same through `blending.blend.blend`, which looks after the arguments."""
    rules = Rules(rewards=REWARDS, returns=returns_table(SLOTS, None))
    return partial(blend, posterior(), rules, lists_of(rankings()))


def arguments() -> tuple[Any, ...]:
    """What `blended` takes, but for the key."""
    given = (REWARDS, returns_table(SLOTS, None), equal_shares(POOLS), DRAWN, 0.0)
    lists, page = lists_of(rankings()), (WHOLE.limits, WHOLE.groups, WHOLE.rooms, WHOLE.pinned, WHOLE.pinned)
    results = np.empty((1, POOLS, ACTIONS)), np.empty((2, SLOTS), np.int64), np.empty(lists.items.shape, np.int64)
    return (*posterior(), 1.0, *given, *lists, *page, 0, *results)


def posterior(actions: int = ACTIONS) -> Beta:
    """What the counts say of the first `actions` actions on the prior Beta(1, 1), which MABWiser and river have."""
    seen = SUCCESSES[:, :actions].astype(np.float64)
    return Beta(1.0 + seen, 1.0 + VIEWS - seen)


def rankings() -> list[ItemArray]:
    """A list of each pool, best first, from one catalogue."""
    random = np.random.default_rng(SEED)
    return [random.permutation(CATALOGUE)[:CANDIDATES].astype(np.int32) for _ in range(POOLS)]


def merged(pick: Callable[[], int], lists: Sequence[Sequence[int]], slots: int) -> list[int]:
    """Items of a feed: for each slot the next of the picked pool's list that no other slot holds.

    Each list holds at least `slots` different items, so that none runs out.
    """
    placed: dict[int, None] = {}  # the fastest set that keeps its order
    reading = [iter(ranking) for ranking in lists]
    for _ in range(slots):
        for item in reading[pick()]:
            if item not in placed:
                placed[item] = None
                break
    return list(placed)


def shares(utilities: Sequence[float], returns: Sequence[float]) -> Callable[[], int]:
    """Picks the pool whose utility * h(items given) is largest, each time with one more given to it."""
    values, given = list(utilities), [0] * len(utilities)

    def pick() -> int:
        pool = values.index(max(values))
        given[pool] += 1
        if utilities[pool] > 0.0 and given[pool] < len(returns):
            values[pool] = utilities[pool] * returns[given[pool]]
        return pool

    return pick


def rewards_of(action: int) -> tuple[list[int], list[int]]:
    """The counts of an action as a pool and a reward for each view, in random order: (pools, rewards)."""
    pairs = [(pool, int(view < SUCCESSES[pool, action])) for pool in range(POOLS) for view in range(VIEWS)]
    shuffled = [pairs[at] for at in np.random.default_rng(SEED).permutation(len(pairs))]
    return [pool for pool, _ in shuffled], [reward for _, reward in shuffled]


def mabwiser_rows() -> list[Comparison]:
    """Of MABWiser, a Thompson sampling library."""
    library = import_module("mabwiser.mab")
    bandits: list[Any] = []
    for action in range(ACTIONS):
        bandits.append(library.MAB(list(range(POOLS)), library.LearningPolicy.ThompsonSampling(), seed=SEED))
        bandits[-1].fit(*rewards_of(action))
    first, lists = bandits[0], [ranking.tolist() for ranking in rankings()]
    returns, rewards = returns_table(SLOTS, None).tolist(), REWARDS.tolist()

    def utilities() -> list[float]:
        rates = [bandit.predict_expectations() for bandit in bandits]
        weighed = list(zip(rewards, rates, strict=True))
        return [sum(reward * rate[pool] for reward, rate in weighed) for pool in range(POOLS)]

    def draw(_: np.uint64) -> int:
        drawn = utilities()
        return drawn.index(max(drawn))

    def one_action(_: np.uint64) -> int:
        return int(first.predict())

    def feed(_: np.uint64) -> list[int]:
        return merged(first.predict, lists, SLOTS)

    def feed_of_one_draw(_: np.uint64) -> list[int]:
        return merged(shares(utilities(), returns), lists, SLOTS)

    return [
        Comparison(
            DRAW,
            "mabwiser",
            Duel(our_draw(), draw),
            f"Thompson sampling too: a bandit for each of the {ACTIONS} actions (predict_expectations), weighed by "
            "the rewards in Python; ours leaves every pool's utility and rates",
            "with one action and one predict()",
            Duel(our_draw(1), one_action),
        ),
        Comparison(
            FEED,
            "mabwiser + merge",
            Duel(our_feed(), feed_of_one_draw),
            f"Thompson sampling too, the same work: one draw of all {ACTIONS} actions, weighed by the rewards and "
            "shared out by h(n); less: no verdicts and no feed of its own, h(n), merge and dedupe are plain Python",
            "with a predict() for each slot, as its documentation has it (of one action, no h(n)),",
            Duel(our_feed(), feed),
        ),
    ]


def river_rows() -> list[Comparison]:
    """Of river.bandit."""
    library = import_module("river.bandit")
    bandits: list[Any] = []
    for action in range(ACTIONS):
        reward = import_module("river.proba").Beta()
        bandits.append(library.ThompsonSampling(reward_obj=reward, seed=SEED))
        for pool, value in zip(*rewards_of(action), strict=True):
            bandits[-1].update(pool, value)
    first, lists, pools = bandits[0], [ranking.tolist() for ranking in rankings()], list(range(POOLS))

    def draw(_: np.uint64) -> list[int]:
        return [bandit.pull(pools) for bandit in bandits]

    def one_action(_: np.uint64) -> int:
        return int(first.pull(pools))

    def feed(_: np.uint64) -> list[int]:
        return merged(partial(first.pull, pools), lists, SLOTS)

    return [
        Comparison(
            DRAW,
            "river",
            Duel(our_draw(), draw),
            f"Thompson sampling too: a bandit for each of the {ACTIONS} actions draws as many rates as ours; less: "
            "pull() tells only the best pool of each action, so that nothing is weighed by the rewards",
            "with one action and one pull()",
            Duel(our_draw(1), one_action),
        ),
        Comparison(
            FEED,
            "river",
            Duel(our_feed(), feed),
            "Thompson sampling too; more: pull() draws anew for each slot, where ours draws once; less: one "
            f"action of {ACTIONS}, no h(n), no verdicts, and no feed: merge and dedupe are ours, in plain Python",
        ),
    ]


def vw_rows(end: ExitStack) -> list[Comparison]:
    """Of Vowpal Wabbit, whose models are let go at the `end`."""
    workspace = import_module("vowpalwabbit").Workspace
    bandit: Any = workspace(f"{VowpalWabbit.OPTIONS} --random_seed {SEED}")
    slates: Any = workspace(f"--slates --quiet --random_seed {SEED}")
    for held in (bandit, slates):
        end.callback(held.finish)
    pools = [f"| pool_{pool}" for pool in range(POOLS)]
    for pool, reward in zip(*rewards_of(0), strict=True):
        bandit.learn([f"0:{-reward}:{1 / POOLS} {of}" if at == pool else of for at, of in enumerate(pools)])
    one = "\n".join(pools)
    actions = [f"slates action {slot} {of}" for slot in range(SLOTS) for of in pools]
    slate = "\n".join(["slates shared |", *actions, *["slates slot |"] * SLOTS])

    def draw(_: np.uint64) -> object:
        return bandit.predict(one)

    def feed(_: np.uint64) -> object:
        return slates.predict(slate)

    return [
        Comparison(
            DRAW,
            "vw",
            Duel(our_draw(), draw),
            "not Thompson sampling; less: squarecb's probabilities of the pools from a regression on one action of "
            f"{ACTIONS}, no posterior, and nothing is drawn; more: it could take a context, and reads text",
        ),
        Comparison(
            FEED,
            "vw slates",
            Duel(our_feed(), feed),
            f"not Thompson sampling; less: only the pool of each of {SLOTS} slots, from a regression (untrained, "
            "which is as fast), no posterior, no merge, no dedupe; more: it could take a context, and reads text",
        ),
    ]


def nop_rows() -> list[Comparison]:
    """Of calls that do nothing."""
    says = "a compiled call that takes the same and does nothing"
    nothing = np.empty((1, POOLS, ACTIONS)), np.empty((1, POOLS))
    return [
        Comparison(DRAW, "nop", Duel(our_draw(), partial(_no_draw, *posterior(), REWARDS, *nothing)), says),
        Comparison(
            FEED,
            "nop",
            Duel(our_feed(), partial(_no_feed, *arguments())),
            says,
            "the public blend(), which checks its arguments and makes arrays for its results, takes",
            Duel(our_feed(), our_call()),
        ),
    ]


@compiled
def _no_draw(
    _alpha: FloatArray,
    _beta: FloatArray,
    _rewards: FloatArray,
    _rates: FloatArray,
    _utilities: FloatArray,
    _key: np.uint64,
) -> None:
    return


@compiled
def _no_feed(
    _alpha: FloatArray,
    _beta: FloatArray,
    _temperature: float,
    _rewards: FloatArray,
    _returns: FloatArray,
    _fallback: FloatArray,
    _mode: int,
    _epsilon: float,
    _items: ItemArray,
    _stock: IntArray,
    _limits: IntArray,
    _groups: ItemArray,
    _rooms: IntArray,
    _plan: IntArray,
    _pinned: IntArray,
    _start: int,
    _rates: FloatArray,
    _placed: IntArray,
    _verdicts: IntArray,
    _key: np.uint64,
) -> tuple[int, bool]:
    return 0, False
