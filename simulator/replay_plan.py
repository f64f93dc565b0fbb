"""How a log is replayed: the clock, what is scored, and which further runs there are."""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import InputError
from engine.policy import GROUPS, Policy

OWN = "own"  # the part that is users' own weights: without it all have the population's
Clock = Literal["strict", "event"]


class Break(Struct, frozen=True):
    """From the row at `part` of the log on, a pool's list is a random one."""

    pool: str
    part: float

    def __post_init__(self) -> None:
        """Refuse a break that leaves nothing before it or behind it."""
        if not 0.0 < self.part < 1.0:
            raise ValueError(f"a pool breaks at a part of the log between 0 and 1, not {self.part}")


class ReplayPlan(Struct, frozen=True):
    """The protocol of a backtest.

    The event's own time says that something was rated then. So by the strict clock a request comes at the time of
    the row before, which is the last thing that was known; by the other it comes at the event's.
    """

    train_fraction: float = 0.2  # first part of the rows, not scored
    slots: int = 10
    batch: int = 256  # inputs of a micro-batch
    clock: Clock = "strict"
    shuffle_within_ms: int | None = None  # a second run without the order inside sessions with gaps up to this
    broken: Break | None = None  # a further run in which a pool breaks
    ablate: str | None = None  # a further run without a part of what ranks the personal pool

    def check(self, policy: Policy) -> None:
        """Raise InputError where the plan does not go with the policy."""
        if not 0.0 <= self.train_fraction < 1.0:
            raise InputError(f"--train-fraction is a part of the log, from 0 to below 1, not {self.train_fraction}")
        if self.slots > policy.blend.slots_max:
            raise InputError(f"--slots is at most {policy.blend.slots_max} by the policy ([blend] slots_max)")
        if self.broken and self.broken.pool not in policy.pools:
            raise InputError(
                f"--break names the pool {self.broken.pool!r}, which the policy does not have: "
                f"choose one of {', '.join(policy.pools)}"
            )
        if self.ablate is not None:
            without(policy, self.ablate)


def without(policy: Policy, part: str) -> Policy:
    """The policy without a group of features, or users' own weights. Raises InputError if it has no such part."""
    parts = (OWN, *GROUPS)
    if part not in parts:
        raise InputError(f"--ablate takes one of {', '.join(parts)}, not {part!r}")
    if policy.personal is None:
        raise InputError("--ablate leaves out a part of a personal pool's ranking, and the policy has no such pool")
    if part == OWN:
        return replace(policy, weights=replace(policy.weights, own=False))
    return replace(policy, weights=replace(policy.weights, without=(*policy.weights.without, part)))
