"""`serve`: make a decision of what the pools offer, what is known of the user, and the shared facts."""

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from blending.blend import Blend, Rules, blend
from blending.delay import Delay
from blending.posterior import Beta, capped, updated
from blending.randomness import key_of
from blending.returns import returns_table
from blending.types import FloatArray
from engine.decision import Decision, PoolPart, verdict_letters
from engine.errors import InputError
from engine.events import Request
from engine.evidence import NOTHING, evidence_at
from engine.pools import Facts, Gathered
from engine.state import Cell, Tally, UserState


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
    parts = _parts(state, posterior, made, gathered)
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
        newcomer=sum(state.served.values()) < settings.newcomer_slots,
        actions=list(policy.rewarded),
        rewards=list(policy.rewarded.values()),
        pools=parts,
        slot_items=[parts[pool].items[rank] for pool, rank in slots],
        slot_pools=made.slot_pools.tolist(),
    )


def prior_for(state: UserState, facts: Facts) -> Beta:
    """What is believed of the pools before the user's own evidence, shape (pools, actions).

    The population's posterior from everybody else's first slots, at most `prior_strength` views strong: sure of
    the mean as far as the others have shown it, never so sure that a user could not leave it. What the user
    taught the population is taken out, or it would count twice.
    """
    settings, population = facts.policy.blend, facts.population
    others = _table(facts, population.newcomers) - _table(facts, state.taught)
    exposure = np.maximum(others[1], 0.0)  # below 0 where this version is older than what the user taught
    base = np.ones_like(exposure)
    prior = updated(
        Beta(settings.base_successes * base, settings.base_failures * base),
        np.clip(others[0], 0.0, exposure),
        exposure,
    )
    return capped(prior, settings.prior_strength)


def _posterior(state: UserState, facts: Facts, at_ms: int) -> Beta:
    own = evidence_at(state, at_ms, facts.policy.memory, _delays(facts))
    return updated(prior_for(state, facts), *_table(facts, own))


def _delays(facts: Facts) -> dict[Cell, Delay]:
    """How long actions take, as the population knows it now."""
    policy = facts.policy
    return {
        (pool, action): delay
        for pool, delays in zip(policy.pools, facts.population.delays, strict=True)
        for action, delay in zip(policy.rewarded, delays, strict=True)
    }


def _table(facts: Facts, evidence: Mapping[Cell, Tally]) -> FloatArray:
    """S and E as an array of shape (2, pools, actions)."""
    policy = facts.policy
    tallies = [[evidence.get((pool, action), NOTHING) for action in policy.rewarded] for pool in policy.pools]
    return np.array(
        [[[t.successes for t in row] for row in tallies], [[t.exposure for t in row] for row in tallies]]
    )


def _parts(state: UserState, posterior: Beta, made: Blend, gathered: Gathered) -> list[PoolPart]:
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
                served=state.served.get(name, 0),
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
