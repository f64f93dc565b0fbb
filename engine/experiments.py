"""Experiments: which arms a user is in, by salted hashes of the user's id alone, and the policy that arms make."""

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate, combinations, product
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from blending.randomness import key_of
from engine.events import check_ids

if TYPE_CHECKING:
    from engine.policy import Policy

BUCKETS = 1000  # of a layer
EXPERIMENTS_MAX = 32
ARMS_MAX = 16
TESTERS_MAX = 1000
COMBINATIONS_MAX = 512  # of arms that set something, over all layers: each is a whole policy
SHARE_MAX = 1e6
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# What is decided anew for every feed. What is learned across users, or kept of them, is everybody's, in every arm.
SETTABLE = {
    "pools": ("ratio", "floor", "floor_views", "required", "cap", "pinned", "priority"),
    "actions": ("reward",),
    "blend": (
        "prior_strength",
        "session_strength",
        "temperature",
        "epsilon",
        "epsilon_known",
        "draw",
        "order",
        "returns",
    ),
    "weights": ("own", "temperature", "ready_likes", "depth"),
    "rules": ("most", "least", "younger_ms", "times", "within_ms", "weight", "priority", "strict"),
}
NAMED = ("pools", "actions", "rules")  # tables of tables: their keys are TABLE.NAME.KEY

Setting: TypeAlias = tuple[tuple[str, str], ...]  # (experiment, arm) of those that set something
Value: TypeAlias = bool | int | float | str | list[int]


class ArmPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[experiments.NAME.arms.ARM]`: a part of an experiment's users, and what is other for them."""

    share: float = 1.0  # of the experiment's users, beside the shares of its other arms
    alone: bool = False  # whether its users are in no other experiment
    set: dict[str, Value] = {}  # keys of the policy, such as "blend.draw", and their values here

    def __post_init__(self) -> None:
        """Refuse shares that are none, and keys that no arm may set."""
        if not 0.0 < self.share <= SHARE_MAX:
            raise ValueError(f"share must be above 0 and at most {SHARE_MAX:.0e}")
        for path in self.set:
            table, name, key = _parts(path)
            if bool(name) != (table in NAMED) or key not in SETTABLE.get(table, ()):
                raise ValueError(
                    f"an arm cannot set {path!r}, only what is decided for each feed: {', '.join(_settable())}"
                )


class ExperimentPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[experiments.NAME]`: a comparison of arms, the first of which is the control.

    A user's place in a layer is a hash of the layer's name and the user's id, and so independent of every other
    layer's; the arm is a hash of the experiment's name and the user's id. An experiment of another name gives its
    users to arms anew.
    """

    arms: dict[str, ArmPolicy]  # 2 at least, the first of which is the control
    layer: str = ""  # the experiments of one layer share its users out among them; "": a layer of its own
    buckets: tuple[int, int] = (0, BUCKETS)  # of its layer's: from the first of these to before the second
    users: dict[str, str] = {}  # whoever tries an arm, and which: wherever their hashes put them

    def __post_init__(self) -> None:
        """Refuse what gives nothing to compare."""
        if not 2 <= len(self.arms) <= ARMS_MAX:
            raise ValueError(f"arms must hold 2 to {ARMS_MAX} names, not {len(self.arms)}")
        for name in (*self.arms, *([self.layer] if self.layer else [])):
            check_name(name)
        if not 0 <= self.buckets[0] <= self.buckets[1] <= BUCKETS:
            raise ValueError(f"buckets must be two numbers from 0 to {BUCKETS}, the lower one first")
        if len(self.users) > TESTERS_MAX:
            raise ValueError(f"users must hold at most {TESTERS_MAX}, not {len(self.users)}")
        check_ids(*self.users)
        for user, arm in self.users.items():
            if arm not in self.arms:
                raise ValueError(f"users: {user!r} is given the arm {arm!r}, which there is not")

    @property
    def shares(self) -> dict[str, float]:
        """Each arm's share of the experiment's users, by arm; they add up to 1."""
        whole = sum(arm.share for arm in self.arms.values())
        return {name: arm.share / whole for name, arm in self.arms.items()}

    def drawn(self, name: str, user: str) -> str:
        """The arm of a user in this experiment, of this name."""
        place, uppers = int(key_of(0, "arm", name, user)) / 2**64, accumulate(self.shares.values())
        inside = (arm for arm, upper in zip(self.arms, uppers, strict=True) if place < upper)
        return next(inside, list(self.arms)[-1])  # rounding may leave a rest


def check_name(name: str) -> None:
    """Raise ValueError for what cannot be the name of an experiment, a layer or an arm."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r}: a name is lower-case letters, digits, _ and -, at most 32")


def bucket_of(layer: str, user: str) -> int:
    """A user's place in a layer, from 0 to below BUCKETS."""
    return int(key_of(0, "layer", layer, user)) % BUCKETS


def arms_of(experiments: Mapping[str, ExperimentPolicy], user: str) -> dict[str, str]:
    """The arm of each experiment that a user is in; a pure function of the experiments and the user's id.

    Whoever tries an arm is in it, and in no other experiment of that layer by hash.
    """
    tried = {name: of.users[user] for name, of in experiments.items() if user in of.users}
    layers = {layer_of(name, experiments[name]) for name in tried}
    found = {}
    for name, of in experiments.items():
        layer = layer_of(name, of)
        if name in tried:
            found[name] = tried[name]
        elif layer not in layers and of.buckets[0] <= bucket_of(layer, user) < of.buckets[1]:
            found[name] = of.drawn(name, user)
    alone = [name for name, arm in found.items() if experiments[name].arms[arm].alone]
    return {name: found[name] for name in found if name in tried or alone in ([], [name])}


def layer_of(name: str, experiment: ExperimentPolicy) -> str:
    """The layer of an experiment of this name."""
    return experiment.layer or name


def setting_of(experiments: Mapping[str, ExperimentPolicy], arms: Mapping[str, str]) -> Setting:
    """The arms among these that set something."""
    return tuple((name, arm) for name, arm in arms.items() if experiments[name].arms[arm].set)


def policies_by_setting(policy: "Policy") -> "dict[Setting, Policy]":
    """The policy under every combination of arms that a user can be in, itself where no arm sets anything.

    All are of the version of `policy`, and have no experiments. Raises ValueError where experiments get into each
    other's way, or where a combination is no policy.
    """
    _check_together(policy.experiments)
    layers: dict[str, list[Setting]] = {}
    for name, of in policy.experiments.items():
        settings = layers.setdefault(layer_of(name, of), [()])
        settings += [((name, arm),) for arm, other in of.arms.items() if other.set]
    count = prod(map(len, layers.values()))
    if count > COMBINATIONS_MAX:
        raise ValueError(f"experiments: their arms make {count} policies together, at most {COMBINATIONS_MAX}")
    order = {name: place for place, name in enumerate(policy.experiments)}
    found = {}
    for parts in product(*layers.values()):
        setting = tuple(sorted((arm for part in parts for arm in part), key=lambda arm: order[arm[0]]))
        found[setting] = _policy_under(policy, setting) if setting else policy
    return found


def _check_together(experiments: Mapping[str, ExperimentPolicy]) -> None:
    """Refuse experiments of one layer that share users, and those of two layers that set the same."""
    for name in experiments:
        check_name(name)
    lonely = [name for name, of in experiments.items() if any(arm.alone for arm in of.arms.values())]
    if len(lonely) > 1:
        raise ValueError(f"one experiment at most has an arm that is alone, not {' and '.join(lonely)}")
    for (name, of), (other, against) in combinations(experiments.items(), 2):
        if layer_of(name, of) != layer_of(other, against):
            both = sorted(_keys(of) & _keys(against))
            if both:
                raise ValueError(
                    f"experiments {name} and {other} both set {both[0]!r}, and users can be in both: give them one "
                    "layer, which shares its buckets out"
                )
        elif max(of.buckets[0], against.buckets[0]) < min(of.buckets[1], against.buckets[1]):
            raise ValueError(f"experiments {name} and {other} share buckets of their layer: each needs its own")
        elif shared := sorted(of.users.keys() & against.users.keys()):
            raise ValueError(f"user {shared[0]!r} tries experiments {name} and {other}, which are of one layer")


def _keys(experiment: ExperimentPolicy) -> set[str]:
    return {path for arm in experiment.arms.values() for path in arm.set}


def _policy_under(policy: "Policy", setting: Setting) -> "Policy":
    """The policy with what these arms set. Raises ValueError, naming them, where that is none."""
    where = " with ".join(f"experiments.{name}.arms.{arm}" for name, arm in setting)
    changes: dict[str, dict[str, dict[str, Value]]] = {}  # by table and name, "" of tables without
    for experiment, arm in setting:
        for path, value in policy.experiments[experiment].arms[arm].set.items():
            table, name, key = _parts(path)
            changes.setdefault(table, {}).setdefault(name, {})[key] = value
    try:
        tables = {table: _changed(getattr(policy, table), named, table) for table, named in changes.items()}
        made = replace(policy, **tables, experiments={})
        if made.likes != policy.likes:
            raise ValueError("a reward keeps its sign, because it says what everybody's likes are")
        if made.blend.returns == "fitted" != policy.blend.returns:
            raise ValueError('blend.returns is "fitted" in an arm only where it is so for everybody')
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    made.__dict__["version"] = policy.version
    return made


def _changed(table: Any, named: dict[str, dict[str, Value]], title: str) -> Any:
    """A table of a policy with other values. Raises ValueError for values and names that it cannot have."""
    if title not in NAMED:
        return msgspec.convert({**msgspec.to_builtins(table), **named[""]}, type(table))
    for name in named:
        if name not in table:
            raise ValueError(f"there is no {title}.{name}")
    others = {
        name: msgspec.convert({**msgspec.to_builtins(table[name]), **values}, type(table[name]))
        for name, values in named.items()
    }
    return {**table, **others}


def _parts(path: str) -> tuple[str, str, str]:
    """Table, name and key of a path; the name is empty where there is none."""
    table, _, rest = path.partition(".")
    name, _, key = rest.rpartition(".")
    return table, name, key


def _settable() -> Iterator[str]:
    for table, keys in SETTABLE.items():
        for key in keys:
            yield f"{table}.NAME.{key}" if table in NAMED else f"{table}.{key}"
