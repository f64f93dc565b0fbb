"""What a decision remembers of the candidates that the personal pool ranked, so that likes can be learned from."""

import numpy as np

from blending.blend import Blend
from engine.decision import Considered
from engine.feature_kernels import placed_first
from engine.learning import bytes_of
from engine.policy import Policy
from engine.pools import Gathered
from engine.state import UserState


def considered_of(gathered: Gathered, made: Blend, state: UserState, policy: Policy) -> Considered | None:
    """The candidates of the page's slots, then the best of the others, `[weights] remembered` in all."""
    weighing = gathered.weighing
    if weighing is None:
        return None
    settings = policy.weights
    shown = gathered.lists.items[made.slot_pools, made.slot_ranks]
    kept, placed = placed_first(weighing.items, shown, settings.remembered)
    x, etas, flag = weighing.x[kept], weighing.etas[kept], weighing.layout.placed
    x[:placed, flag] = 1.0
    etas[:placed] += weighing.weights[flag]
    items = gathered.names(weighing.items[kept])
    return Considered(
        pool=policy.personal or "",
        layout=weighing.layout.key,
        theta=gathered.facts.items.theta,
        items=items,
        revisions=gathered.facts.catalogue.revisions(items),
        x=bytes_of(x),
        etas=np.round(etas, 4).tolist(),  # more digits are noise
        seen_weight=settings.seen_weight,
        full=sum(state.served.values()) >= settings.full_after_slots,
    )
