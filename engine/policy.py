"""Every behaviour constant, as typed data. The defaults are these types' own; a policy file changes them."""

import math
from functools import cached_property
from hashlib import blake2b
from typing import Literal

import msgspec
from msgspec import Struct, field

from engine.experiments import EXPERIMENTS_MAX, ExperimentPolicy, Setting, policies_by_setting
from engine.pool_policy import POOL_NAME, PoolPolicy
from engine.rules import BlockRule, CapRule, DiverseRule, FreshRule, RulePolicy, SeenRule, check_rules, of_kind

ACTION_LENGTH_MAX = 64
POOLS_MAX = 32
COHORTS_MAX = 64
CELLS_MAX = 4096  # of cohorts, pools and actions: what newcomers taught of each is published with every version
COHORT_LENGTH_MAX = 64
NEW = "new"  # after a cohort's name: of its users, those who have not been given a page yet
ACTIONS_MAX = 32
SCALE_MIN, SCALE_MAX = 1e-3, 1e9  # of priors and the temperature
SEED_END = 2**63
DIMENSIONS_MAX = 512  # of item vectors
COUNT_MAX = 1_000_000  # of what is listed
DURATION_MAX = 2**62  # of half-lives, in milliseconds, slots or views, and of what is kept of a user
BOUNDS = ("_ms", "_slots", "_views", "_records", "history_max", "open_max", "waiting_max", "hidden_max")
SESSIONS_IN_WINDOW = 8  # half-lives of a session in a window, after which what leaves it counts less than 1 / 256
PERSONAL_POOLS_MAX = 16  # other pools whose ranks are features of a personal one
ATTRIBUTES_MAX = 16  # attributes that are features each
PERSONAL_FREE = 21  # features that are left for other pools' ranks and for attributes
Order = Literal["greedy", "spread", "rounded"]
# Features of a candidate come in these groups; `engine.features` says which.
GROUPS = (
    "near",
    "together",
    "successors",
    "embeddings",
    "factors",
    "popularity",
    "trends",
    "starts",
    "rate",
    "affinity",
    "pools",
    "attributes",
)


class ActionPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[actions.NAME]`: what a user may do with an item, and what that is worth.

    Actions with a positive reward make an item liked: they move popularity and neighbours. Rewards stay
    outside the counts, so changing one re-scores all of history.
    """

    reward: float  # what it is worth; below 0 for what is not wanted
    hides: Literal["", "item", "creator"] = ""  # whether the user is shown no more of the item, or of its creator

    def __post_init__(self) -> None:
        """Refuse a reward that is not a finite number."""
        if not math.isfinite(self.reward):
            raise ValueError("reward must be a finite number")


class BlendPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[blend]`: how pools compete for slots."""

    seed: int = 0  # of all draws
    slots_max: int = 100  # of one request
    base_successes: float = 10.0  # successes of the Beta prior of a pool that nobody has seen yet
    base_failures: float = 120.0  # the failures of that prior
    prior_strength: float = 2000.0  # at most so many views' worth of the population is a user's prior
    newcomer_slots: int = 1000  # a user's first slots, the only ones that the population's prior learns from
    session_strength: float = 0.0  # a session's prior is the user, at most so many views strong; 0: no sessions
    cohort_by: str = ""  # key of a request's context that says which cohort it belongs to
    cohorts: tuple[str, ...] = ()  # its values that have a prior of their own; all others share one
    temperature: float = 0.06  # times the variance of the draws; below 1 the blend is bolder
    epsilon: float = 0.02  # chance of a feed mixed at random, where others have not shown what pools are worth
    epsilon_known: float = 0.005  # chance of a feed mixed at random, where they have
    draw: Literal["feed", "slot", "mean", "fixed"] = "feed"  # of beliefs: one for a whole feed, one for each slot,
    # none but their means, or none at all: the pools' ratios
    order: Order = "greedy"  # the best first; "spread" evenly; "rounded": shares right in the mean, spread
    returns: Literal["fitted", "winner", "webster"] = "fitted"  # worth of a pool's next item in a feed
    delta_one_chance: float = 0.6  # fitted: belief before any data that a further item is worth as much
    shadow: bool = False  # whether priors come of what every pool's own list would have earned, shown or not

    def __post_init__(self) -> None:
        """Refuse a prior that is not a distribution, and other numbers without a meaning."""
        self._check_levels()
        for name in ("base_successes", "base_failures", "prior_strength", "temperature"):
            if not SCALE_MIN <= getattr(self, name) <= SCALE_MAX:
                raise ValueError(f"{name} must be from {SCALE_MIN} to {SCALE_MAX:.0e}")
        if not 0 <= self.seed < SEED_END:
            raise ValueError("seed must be from 0 to below 2**63")
        _at_least_one(self, "slots_max", "newcomer_slots")
        for name in ("epsilon", "epsilon_known"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
        if not 0 < self.delta_one_chance < 1:
            raise ValueError("delta_one_chance must be above 0 and below 1")

    def _check_levels(self) -> None:
        """Refuse cohorts without a key, and what else does not go together."""
        if not (self.session_strength == 0 or SCALE_MIN <= self.session_strength <= SCALE_MAX):
            raise ValueError(f"session_strength must be 0 or from {SCALE_MIN} to {SCALE_MAX:.0e}")
        if len(set(self.cohorts)) != len(self.cohorts) or not len(self.cohorts) <= COHORTS_MAX:
            raise ValueError(f"cohorts must hold at most {COHORTS_MAX} names, none twice")
        for name in self.cohorts:
            if not 0 < len(name) <= COHORT_LENGTH_MAX or name != name.strip() or name.split()[-1] == NEW:
                raise ValueError(
                    f"cohorts: a name has 1 to {COHORT_LENGTH_MAX} characters, no blank at either end, and "
                    f'"{NEW}" is not its last word, unlike {name!r}'
                )
        if bool(self.cohort_by) != bool(self.cohorts):
            raise ValueError("cohort_by and cohorts need each other: a key of the context, and its values")
        if self.draw == "slot" and self.order == "rounded":
            raise ValueError('order "rounded" shares a page out by one belief, so draw must not be "slot"')


class PopulationPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[population]`: what is learned across users, and how often it is fitted."""

    every_records: int = 256  # embedded: a new version each so many log records, and at each of the first so many
    every_ms: int = 10_000  # over Kafka: a new version each so many milliseconds of the log's time
    top_max: int = 2000  # length of the top lists
    neighbours_max: int = 400  # length of an item's list of neighbours
    recent_likes: int = 10  # of a user: pairs are counted with these, and `similar` starts from these
    recent_reactions: int = 50  # of a user: what is near in time, and what follows what, is counted with these

    def __post_init__(self) -> None:
        """Refuse lists of no length."""
        _at_least_one(self, "every_records", "every_ms", "top_max", "neighbours_max")
        _at_least_one(self, "recent_likes", "recent_reactions")


class MemoryPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[memory]`: what is kept of a user, and for how long."""

    window_ms: int = 86_400_000  # how long a decision takes reactions, and its id is remembered
    half_life_ms: int = 864_000_000  # after which a user's evidence counts half
    half_life_slots: int = 400  # slots that its pool was given since, after which evidence counts half too
    session_half_life_ms: int = 1_800_000  # after which what a user just did counts half, in a session
    cohort_half_life_ms: int = 5_184_000_000  # after which what newcomers taught of the pools counts half
    weights_half_life_ms: int = 5_184_000_000  # after which what a like said of a user's weights counts half
    shadow_half_life_views: int = 2_500  # of its lists by all, after which shadow evidence of a pool counts half
    history_max: int = 1000  # reactions remembered, the latest by event time
    open_max: int = 500  # decisions that take reactions; the oldest close early
    waiting_max: int = 500  # reactions that came before their decision
    hidden_max: int = 1000  # reactions that hide something, the latest by event time
    views_max: int = 0  # views remembered for rules of kind "seen", the latest by event time

    def __post_init__(self) -> None:
        """Refuse bounds of nothing."""
        _at_least_one(
            self,
            "window_ms",
            "half_life_ms",
            "half_life_slots",
            "session_half_life_ms",
            "cohort_half_life_ms",
            "weights_half_life_ms",
            "shadow_half_life_views",
            "history_max",
            "open_max",
            "waiting_max",
            "hidden_max",
        )
        if not 0 <= self.views_max <= DURATION_MAX:
            raise ValueError(f"views_max must be at least 0 and at most {DURATION_MAX:,}")


def _at_least_one(table: Struct, *names: str) -> None:
    for name in names:
        most = DURATION_MAX if name.endswith(BOUNDS) else COUNT_MAX
        if not 1 <= getattr(table, name) <= most:
            raise ValueError(f"{name} must be at least 1 and at most {most:,}")


class WeightsPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[weights]`: how a `personal` pool ranks what the others offer, and what it learns of every like."""

    own: bool = True  # whether users have weights of their own beside the population's
    strength: float = 300.0  # likes' worth of the population that a user's own weights are pulled to it by
    ridge: float = 0.3  # precision of the population's weights before any data, around 0
    population_half_life_ms: int = 7_776_000_000  # after which what a like said of everybody's weights counts half
    temperature: float = 0.0  # times the variance of the draw of a user's weights; 0: their mean
    ready_likes: int = 1000  # that everybody's weights come of; before, the pool only fills what others cannot
    seen_weight: float = 0.1  # of a view without a like, beside a like
    remembered: int = 32  # candidates that a decision remembers with their features, to learn from
    full_after_slots: int = 50  # of a user, after which correlations of the weights are kept too
    depth: int = 30  # items that are taken of each source of candidates
    attributes: int = 0  # of the catalogue's, the first so many are a feature each: users learn a weight for each
    without: tuple[str, ...] = ()  # groups of features that are left out

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        for name in ("strength", "ridge"):
            if not SCALE_MIN <= getattr(self, name) <= SCALE_MAX:
                raise ValueError(f"{name} must be from {SCALE_MIN} to {SCALE_MAX:.0e}")
        for name, most in (("temperature", SCALE_MAX), ("seen_weight", 1.0)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from 0 to {most:g}")
        _at_least_one(self, "population_half_life_ms", "remembered", "depth")
        for name in ("full_after_slots", "ready_likes"):
            if not 0 <= getattr(self, name) <= DURATION_MAX:
                raise ValueError(f"{name} must be at least 0 and at most {DURATION_MAX:,}")
        if not 0 <= self.attributes <= ATTRIBUTES_MAX:
            raise ValueError(f"attributes must be from 0 to {ATTRIBUTES_MAX}")
        unknown = sorted(set(self.without) - set(GROUPS))
        if unknown:
            raise ValueError(f"without names {unknown[0]!r}, which is none of {', '.join(GROUPS)}")


class EmbeddingsPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[embeddings]`: item vectors learned offline from everybody's reactions."""

    every_reactions: int = 4000  # embedded: trained anew each so many reactions; 0: never
    dimensions: int = 24  # of an item's vector

    def __post_init__(self) -> None:
        """Refuse vectors of no length."""
        if not 1 <= self.dimensions <= DIMENSIONS_MAX:
            raise ValueError(f"dimensions must be from 1 to {DIMENSIONS_MAX}")
        if not 0 <= self.every_reactions <= DURATION_MAX:
            raise ValueError(f"every_reactions must be at least 0 and at most {DURATION_MAX:,}")


class Policy(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The whole policy. A table that a file leaves out is as here; `pools` and `actions` are given whole."""

    pools: dict[str, PoolPolicy] = field(
        default_factory=lambda: {
            "popular": PoolPolicy("popular", floor=0.1),
            "similar": PoolPolicy("similar", floor=0.1),
            "personal": PoolPolicy("personal"),
            "fresh": PoolPolicy("fresh"),
        }
    )
    actions: dict[str, ActionPolicy] = field(default_factory=lambda: {"like": ActionPolicy(1.0)})
    blend: BlendPolicy = BlendPolicy()
    population: PopulationPolicy = PopulationPolicy()
    memory: MemoryPolicy = MemoryPolicy()
    weights: WeightsPolicy = WeightsPolicy()
    embeddings: EmbeddingsPolicy = EmbeddingsPolicy()
    rules: dict[str, RulePolicy] = {}
    experiments: dict[str, ExperimentPolicy] = {}

    def __post_init__(self) -> None:
        """Refuse what could not make a feed, in any arm of an experiment."""
        for table, names, most in (("pools", self.pools, POOLS_MAX), ("actions", self.actions, ACTIONS_MAX)):
            if not 0 < len(names) <= most:
                raise ValueError(f"{table} must hold 1 to {most} names, not {len(names)}")
        for name in self.pools:
            if not POOL_NAME.fullmatch(name):
                raise ValueError(f"pools.{name}: a name is lower-case letters, digits and _, at most 32")
        self._check_personal()
        self._check_guarantees()
        check_rules(self.rules, self.memory.views_max)
        session_max_ms = self.memory.window_ms // SESSIONS_IN_WINDOW
        if self.blend.session_strength > 0 and self.memory.session_half_life_ms > session_max_ms:
            raise ValueError(
                f"session_half_life_ms must be at most an eighth of window_ms, {session_max_ms}: sessions are made "
                "of open decisions"
            )
        for name in self.actions:
            if not 0 < len(name) <= ACTION_LENGTH_MAX:
                raise ValueError(f"actions.{name}: a name has 1 to {ACTION_LENGTH_MAX} characters")
        if not any(action.reward > 0 for action in self.actions.values()):
            raise ValueError("actions must hold at least one with a reward above 0, or nothing can be learned")
        if len(self.experiments) > EXPERIMENTS_MAX:
            raise ValueError(f"experiments must hold at most {EXPERIMENTS_MAX}, not {len(self.experiments)}")
        _ = self.by_setting  # made now, so that nobody's request meets a combination of arms that is no policy

    def _check_personal(self) -> None:
        """Refuse a second personal pool, and more features than a user's weights may have."""
        personal = [name for name, pool in self.pools.items() if pool.kind == "personal"]
        if len(personal) > 1:
            raise ValueError(f"one pool at most is personal, not {' and '.join(personal)}: they would be the same")
        if personal and len(self.pools) > 1 + PERSONAL_POOLS_MAX:
            raise ValueError(f"a personal pool stands beside at most {PERSONAL_POOLS_MAX} others")
        if personal and len(self.pools) - 1 + self.weights.attributes > PERSONAL_FREE:
            raise ValueError(
                f"[weights] attributes and the pools beside a personal one are at most {PERSONAL_FREE}"
            )

    def _check_guarantees(self) -> None:
        """Refuse guarantees that no page could keep."""
        for name in ("floor", "share"):
            total = sum(getattr(pool, name) for pool in self.pools.values())
            if total > 1.0 + 1e-9:
                raise ValueError(f"the {name}s of all pools add up to {total:g}, and a page has one share of 1")
        pinned = [slot for pool in self.pools.values() for slot in pool.pinned]
        if len(set(pinned)) != len(pinned):
            raise ValueError("pinned must not give one slot twice")
        cells = 2 * (1 + len(self.blend.cohorts)) * len(self.pools) * len(self.actions)
        if cells > CELLS_MAX:
            raise ValueError(f"cohorts, pools and actions make {cells} priors, at most {CELLS_MAX} are kept")
        if not any(pool.ratio > 0 for pool in self.pools.values()):
            raise ValueError("one pool at least needs a ratio above 0")

    @cached_property
    def rewards(self) -> dict[str, float]:
        """Of all actions. One of 0 is counted like any other: its history is there when it is worth something."""
        return {name: action.reward for name, action in self.actions.items()}

    @cached_property
    def hides(self) -> dict[str, str]:
        """The actions that hide something, and what: "item" or "creator"."""
        return {name: action.hides for name, action in self.actions.items() if action.hides}

    @cached_property
    def filters(self) -> bool:
        """Whether items are left out by rules or hides, so that decisions say how many and why."""
        return bool(self.hides or of_kind(self.rules, BlockRule) or of_kind(self.rules, SeenRule))

    @cached_property
    def thins(self) -> bool:
        """Whether rules thin or reorder the lists of pools, so that these are asked for more."""
        return any(isinstance(rule, CapRule | FreshRule | DiverseRule) for rule in self.rules.values())

    @cached_property
    def personal(self) -> str | None:
        """The name of the personal pool, if there is one."""
        return next((name for name, pool in self.pools.items() if pool.kind == "personal"), None)

    @cached_property
    def guarantees(self) -> bool:
        """Whether any pool is promised or denied a part of a page."""
        return any(
            pool.floor or pool.required or pool.pinned or pool.cap < 1.0 or pool.share
            for pool in self.pools.values()
        )

    @cached_property
    def guarantees_later(self) -> bool:
        """Whether that is so of other pages than a user's first."""
        return any(
            (pool.floor and pool.floor_views) or pool.required or pool.pinned or pool.cap < 1.0 or pool.share
            for pool in self.pools.values()
        )

    @cached_property
    def plug_ins(self) -> frozenset[str]:
        """The kinds of pools that are somebody's own."""
        return frozenset(pool.kind for pool in self.pools.values() if ":" in pool.kind)

    @cached_property
    def external(self) -> frozenset[str]:
        """The names of the pools whose candidates requests bring."""
        return frozenset(name for name, pool in self.pools.items() if pool.kind == "external")

    @cached_property
    def likes(self) -> frozenset[str]:
        """The actions that make an item liked."""
        return frozenset(name for name, action in self.actions.items() if action.reward > 0)

    @cached_property
    def by_setting(self) -> "dict[Setting, Policy]":
        """The policy that users are served by, by the arms they are in that set something."""
        return policies_by_setting(self)

    @cached_property
    def version(self) -> str:
        """A short hash of everything in it: the same policy has the same version anywhere."""
        return blake2b(msgspec.json.encode(self), digest_size=6).hexdigest()
