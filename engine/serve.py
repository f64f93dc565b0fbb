"""`serve`: make a decision of what the pools offer, what is known of the user, and the shared facts."""

import numpy as np
from msgspec.structs import replace

from blending.blend import Blend, Rules, blend
from blending.posterior import Beta, updated
from blending.randomness import key_of
from blending.returns import returns_table
from engine.decision import Decision, PoolPart, verdict_letters
from engine.errors import InputError
from engine.events import Request
from engine.evidence import NOTHING, evidence_at
from engine.pools import Facts, Gathered
from engine.state import UserState


def serve(state: UserState, request: Request, gathered: Gathered, at_ms: int) -> Decision:
    """Blend what was gathered into one feed, by the facts it was gathered from; `at_ms` is the log's time.

    The pools' posteriors are the population's prior updated with the user's own evidence. Raises InputError
    when the request wants more slots than the policy allows.
    """
    facts = gathered.facts
    policy, settings, population = facts.policy, facts.policy.blend, facts.population
    if request.slots > settings.slots_max:
        raise InputError(f"a feed has at most {settings.slots_max} slots by the policy, not {request.slots}")
    delta = None if settings.returns == "webster" else population.delta
    posterior = _posterior(state, facts, at_ms)
    rules = Rules(
        np.array(list(policy.rewarded.values())),
        returns_table(request.slots, delta),
        settings.temperature,
        settings.epsilon,
        request.slots if settings.draw == "slot" else 1,
    )
    made = blend(posterior, rules, gathered.lists, key_of(settings.seed, request.user, request.request_id))
    parts = _parts(posterior, made, gathered)
    slots = zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)
    return Decision(
        request=replace(request, candidates={}) if request.candidates else request,
        at_ms=at_ms,
        policy_version=policy.version,
        population_version=population.version,
        seed=settings.seed,
        temperature=settings.temperature,
        epsilon=settings.epsilon,
        delta=delta,
        explored=made.explored,
        newcomer=state.slots_served < settings.newcomer_slots,
        actions=list(policy.rewarded),
        rewards=list(policy.rewarded.values()),
        pools=parts,
        slot_items=[parts[pool].items[rank] for pool, rank in slots],
        slot_pools=made.slot_pools.tolist(),
    )


def _posterior(state: UserState, facts: Facts, at_ms: int) -> Beta:
    evidence = evidence_at(state, at_ms, facts.policy.memory)
    own = [
        [evidence.get((pool, action), NOTHING) for action in facts.policy.rewarded] for pool in facts.policy.pools
    ]
    table = np.array([[(tally.successes, tally.exposure) for tally in row] for row in own])
    return updated(facts.population.prior, table[..., 0], table[..., 1])


def _parts(posterior: Beta, made: Blend, gathered: Gathered) -> list[PoolPart]:
    """Each pool's part of the record, in the policy's order."""
    population = gathered.facts.population
    parts = []
    for pool, (name, ranking) in enumerate(zip(gathered.facts.policy.pools, gathered.rankings, strict=True)):
        verdicts = verdict_letters(made.verdicts[pool])
        read = ranking.items[: len(verdicts)].tolist()
        parts.append(
            PoolPart(
                pool=name,
                alpha=posterior.alpha[pool].tolist(),
                beta=posterior.beta[pool].tolist(),
                rates=made.rates[:, pool].tolist(),
                delays=population.delays[pool],
                stock=ranking.items.size,
                filtered=ranking.filtered,
                intended=int(made.intended[pool]),
                realised=verdicts.count("p"),
                items=[
                    population.items[number]
                    if number < population.size
                    else gathered.strangers[number - population.size]
                    for number in read
                ],
                verdicts=verdicts,
            )
        )
    return parts
