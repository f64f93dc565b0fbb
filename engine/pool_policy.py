"""One arm of the bandit as a policy has it: where its candidates come from, and what it is guaranteed."""

import re

from msgspec import Struct

from engine.events import SLOTS_MAX

POOL_KINDS = (
    "popular",
    "trending",
    "fresh",
    "similar",
    "successor",
    "affinity",
    "personal",
    "random",
    "external",
)
PLUG_IN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
AMOUNT_MAX = 1e9  # of a ratio, and of views
POOL_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


class PoolPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """`[pools.NAME]`: one arm of the bandit, where its candidates come from, and what it is guaranteed.

    Shares are of a page: of N slots, floor(share * N). A floor fades with what is known of the pool: after E views
    of the user's own it is floor * floor_views / (floor_views + E), and a user's first page has one slot at least.
    """

    kind: str  # popular, trending, fresh, similar, successor, affinity, personal, random, external, or
    # "module:Class" of a pool of your own
    ratio: float = 1.0  # its part of the fixed-ratio blend, which is also the fail-safe
    floor: float = 0.0  # share that it has at least
    floor_views: float = 0.0  # of the pool by the user, after which half its floor is left; 0: first page only
    required: int = 0  # slots of every page that it has at least, whatever is known
    cap: float = 1.0  # share that it has at most, where others can fill the page
    share: float = 0.0  # of all views in the long run that it has at least: floors follow what is missing
    pinned: tuple[int, ...] = ()  # slots that are its own, counted from 0
    priority: int = 0  # where guarantees do not fit a page, those of the lowest give way first

    def __post_init__(self) -> None:
        """Refuse kinds and shares that are none."""
        if self.kind not in POOL_KINDS and not PLUG_IN.fullmatch(self.kind):
            raise ValueError(f'kind is one of {", ".join(POOL_KINDS)}, or "module:Class", not {self.kind!r}')
        if not 0.0 <= self.floor <= self.cap <= 1.0:
            raise ValueError("floor and cap must be shares, with 0 <= floor <= cap <= 1")
        if not 0.0 <= self.share <= self.cap:
            raise ValueError("share must be from 0 to cap")
        for name in ("ratio", "floor_views"):
            if not 0.0 <= getattr(self, name) <= AMOUNT_MAX:
                raise ValueError(f"{name} must be from 0 to {AMOUNT_MAX:.0e}")
        if not all(0 <= number < SLOTS_MAX for number in (self.required, *self.pinned)):
            raise ValueError(f"required and pinned must be from 0 to {SLOTS_MAX - 1}, as slots are")
