"""`serve`: make a decision of what the pools offer, what is known of the user, and the shared facts."""

import numpy as np

from blending.blend import Blend, blend
from blending.posterior import Beta, updated
from blending.randomness import key_of
from engine.decision import VERDICTS, Decision, PoolPart
from engine.events import Request
from engine.policy import Policy
from engine.pools import Facts, Gathered, Ranking
from engine.state import Tally, UserState


def serve(state: UserState, request: Request, gathered: Gathered, facts: Facts, at_ms: int) -> Decision:
    """Blend the gathered rankings into one feed; `at_ms` is the log's time of the request.

    The pools' posteriors are the population's prior updated with the user's own evidence. Raises ValueError
    when the request wants more slots than the policy allows.
    """
    policy = facts.policy
    if request.slots > policy.limits.slots_max:
        raise ValueError(f"a feed has at most {policy.limits.slots_max} slots here, not {request.slots}")
    rewards = policy.rewarded
    posterior = _posterior(state, policy, facts.population.prior)
    key = key_of(policy.blend.seed, request.user, request.request_id)
    made = blend(posterior, np.array(list(rewards.values())), gathered.lists, request.slots, key)
    parts = _parts(list(policy.pools), posterior, made, gathered.rankings, facts.population.items)
    slot_pools = made.slot_pools.tolist()
    slots = zip(slot_pools, made.slot_ranks.tolist(), strict=True)
    return Decision(
        request=request,
        at_ms=at_ms,
        policy_version=policy.version,
        population_version=facts.population.version,
        seed=policy.blend.seed,
        actions=list(rewards),
        rewards=list(rewards.values()),
        pools=parts,
        slot_items=[parts[pool].items[rank] for pool, rank in slots],
        slot_pools=slot_pools,
    )


def _posterior(state: UserState, policy: Policy, prior: Beta) -> Beta:
    own = [
        [state.evidence.get(pool, {}).get(action, Tally()) for action in policy.rewarded]
        for pool in policy.pools
    ]
    tallies = np.array([[(tally.successes, tally.exposure) for tally in row] for row in own])
    return updated(prior, tallies[..., 0], tallies[..., 1])


def _parts(
    names: list[str], posterior: Beta, made: Blend, rankings: list[Ranking], items: list[str]
) -> list[PoolPart]:
    parts = []
    for pool, (name, ranking) in enumerate(zip(names, rankings, strict=True)):
        verdicts = made.verdicts[pool][: np.count_nonzero(made.verdicts[pool])].tolist()
        parts.append(
            PoolPart(
                pool=name,
                alpha=posterior.alpha[pool].tolist(),
                beta=posterior.beta[pool].tolist(),
                rates=made.rates[pool].tolist(),
                stock=ranking.items.size,
                filtered=ranking.filtered,
                intended=int(made.intended[pool]),
                realised=verdicts.count(1),
                items=[items[number] for number in ranking.items[: len(verdicts)].tolist()],
                verdicts="".join(VERDICTS[verdict] for verdict in verdicts),
            )
        )
    return parts
