"""`serve`: make a decision of what the pools offer, what is known of the user, and the shared facts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from blending.blend import WHOLE, Blend, Mode, Page, Rules, blend, fallen, intended
from blending.kernels import offering
from blending.posterior import Beta, capped, updated
from blending.randomness import key_of
from blending.returns import returns_table
from blending.types import FloatArray, IntArray
from engine.caps import (
    Fitted,
    Grouping,
    Limit,
    as_offered,
    fitted,
    given_way,
    least_given_way,
    limits_of,
    ranked_of,
    recorded,
)
from engine.considered import considered_of
from engine.decision import Decision, PoolPart, draws_of_slots, read_of, verdict_letters
from engine.errors import InputError
from engine.events import SLOTS_MAX, Request
from engine.evidence import NOTHING, evidence_at, session_at
from engine.facts import Facts, cohort_of
from engine.long_run import rounded_floors
from engine.page import Degraded, degraded_of, page_of, slot_rules, wanted_of
from engine.policy import Policy
from engine.pools import Gathered
from engine.priors import mixed_chance, prior_for
from engine.stages import stages_of
from engine.state import Cell, Cursor, Tally, UserState

MODES: Mapping[str, Mode] = {"feed": "drawn", "slot": "drawn", "mean": "expected", "fixed": "fixed"}


class Tried(NamedTuple):
    """A page that was tried: what limited it, what was offered, what it kept to, and what came of it."""

    limits: list[Limit]
    offer: Fitted
    page: Page
    made: Blend

    @property
    def length(self) -> int:
        """How many slots it fills."""
        return self.made.slot_pools.size


class Beliefs(NamedTuple):
    """What a page is made with, by pool.

    `mode` says where utilities come from, `epsilon` how likely the feed is mixed at random. `posterior` and
    `strength`, that of its prior, are (pools, actions); `fallback` and `before`, the pool's items in earlier pages,
    are (pools,).
    """

    cohort: str
    mode: Mode
    epsilon: float
    levels: FloatArray
    posterior: Beta
    strength: FloatArray
    fallback: FloatArray
    before: IntArray


def serve(state: UserState, request: Request, gathered: Gathered, at_ms: int) -> Decision:
    """Blend what was gathered into one page, by the facts it was gathered from; `at_ms` is the log's time.

    The pools' posteriors are the population's prior updated with the user's own evidence; a page that goes on from
    another has that page's posteriors and draw. Where beliefs are not fit to be drawn from, the page is the blend
    of fixed ratios. Raises InputError when a feed would have more slots than any may, on all its pages.
    """
    facts = gathered.facts
    policy, settings = facts.policy, facts.policy.blend
    cursor = cursor_for(state, request, policy, at_ms)
    start = len(cursor.items) if cursor else 0
    if start + request.slots > SLOTS_MAX:
        raise InputError(f"a feed has at most {SLOTS_MAX} slots on all its pages: begin a new one")
    first = not any(state.served.values())
    own = _table(policy, evidence_at(state, at_ms, policy.memory, facts.delays))
    cohort = cohort_of(policy, request.context, first=first)
    beliefs = _continued(cursor) if cursor else _beliefs(state, cohort, own, facts, at_ms)
    views = np.fmax.reduce(own[1], axis=1, initial=0.0)  # what is not a number counts as nothing
    long_run = rounded_floors(policy, facts.population.floors, request.slots, request.user, request.request_id)
    wanted = wanted_of(policy, request.slots, start, views, long_run, first=first)
    conditions = start > 0 or not wanted.nothing
    feed = cursor.feed if cursor else request.request_id
    key = key_of(settings.seed, request.user, feed)
    rules = _rules(facts, beliefs, start + request.slots, request.slots)
    unfit = beliefs.mode != MODES[settings.draw]  # of the page before
    limited = limits_of(policy, request.slots)
    grouping = Grouping(facts, gathered.strangers, at_ms)
    rankings = [ranking.items for ranking in gathered.rankings]
    ranked = ranked_of(rankings, grouping) if limited else None

    def attempt(limits: list[Limit]) -> Tried:
        nonlocal beliefs, rules, unfit
        offer = as_offered(rankings, gathered.lists)
        if ranked is not None:
            offer = fitted(ranked, limits, len(limited), request.slots)
        page = WHOLE
        if conditions:
            page = page_of(policy, wanted, offer.lists.stock, beliefs.before, start)
        page = page._replace(groups=offer.groups, rooms=offer.rooms)
        try:
            made = blend(beliefs.posterior, rules, offer.lists, key, page)
        except ValueError:
            unfit = True
            beliefs = _without(beliefs, policy)
            rules = rules._replace(mode=beliefs.mode, fallback=beliefs.fallback, draws=1)
            made = blend(beliefs.posterior, rules, offer.lists, key, page)
        return Tried(limits, offer, page, made)

    tried = least_given_way(limited, request.slots, attempt)
    limits, offer, page, made = tried
    stages = stages_of(policy, grouping, gathered.rankings, offer, made.verdicts)
    if ranked is not None:
        offered = zip(gathered.rankings, offer.rankings, strict=True)
        gathered = gathered._replace(
            rankings=[of._replace(items=items) for of, items in offered], lists=offer.lists
        )
    wished = intended(made, rules, gathered.lists, key, page)
    caps, groups = recorded(offer, ranked, limits, read_of(made)) if ranked and limits else (UNSET, [])
    parts = _parts(state, request, beliefs, tried, gathered, wished, groups, stages)
    placed = gathered.lists.items[made.slot_pools, made.slot_ranks]
    slots = zip(made.slot_pools.tolist(), made.slot_ranks.tolist(), strict=True)
    return Decision(
        request=replace(request, candidates={}) if request.candidates else request,
        feed=feed,
        start=start,
        at_ms=at_ms,
        policy_version=policy.version,
        population_version=facts.population.version,
        seed=settings.seed,
        temperature=rules.temperature,
        epsilon=rules.epsilon,
        delta=_delta(facts),
        mode=rules.mode,
        order=rules.order,
        cohort=beliefs.cohort,
        levels=[float(f"{level:.4g}") for level in beliefs.levels.tolist()],  # more digits are noise
        explored=made.explored,
        newcomer=sum(state.served.values()) < settings.newcomer_slots,
        actions=list(policy.rewards),
        rewards=list(policy.rewards.values()),
        pools=parts,
        pinned=[(slot, pool) for slot, pool in enumerate(page.pinned.tolist()) if pool >= 0],
        degraded=([Degraded("posterior", "", 0, 0)] if unfit else [])
        + degraded_of(policy, wanted, gathered.lists.stock, made)
        + given_way(policy, grouping, placed),
        slot_items=[parts[pool].items[rank] for pool, rank in slots],
        slot_pools=made.slot_pools.tolist(),
        slot_rules=slot_rules(
            made, page, rules.order, wanted.required.tolist(), fallen(made, rules, gathered.lists)
        ),
        slot_offers=offering(*gathered.lists, made.placed).tolist(),
        considered=considered_of(gathered, made, state, policy),
        arms=dict(gathered.arms) or UNSET,
        caps=caps,
    )


def cursor_for(state: UserState, request: Request, policy: Policy, at_ms: int) -> Cursor | None:
    """Where this request goes on: the user's last page, if it names that, and neither time nor policy forbid it."""
    cursor = state.cursor
    if cursor is None or request.continues != cursor.request_id:
        return None
    return cursor if at_ms <= cursor.until_ms and cursor.policy_version == policy.version else None


def _continued(cursor: Cursor) -> Beliefs:
    """What the page before was made with."""
    pools = cursor.pools
    return Beliefs(
        cursor.cohort,
        cursor.mode,
        cursor.epsilon,
        np.array(cursor.levels),
        Beta(np.array([pool.alpha for pool in pools]), np.array([pool.beta for pool in pools])),
        np.array([pool.strength for pool in pools]),
        np.array([pool.fallback for pool in pools]),
        np.array([pool.given for pool in pools], np.int64),
    )


def _beliefs(state: UserState, cohort: str, own: FloatArray, facts: Facts, at_ms: int) -> Beliefs:
    """What is believed for a feed's first page; `own` are the user's S and E, (2, pools, actions)."""
    policy, settings = facts.policy, facts.policy.blend
    prior, levels = prior_for(state, facts, cohort, own)
    posterior, strength = updated(prior, *own), prior.alpha + prior.beta
    if settings.session_strength > 0.0:
        session = _table(policy, session_at(state, at_ms, policy.memory, facts.delays))
        known = capped(posterior, settings.session_strength)
        strength *= (known.alpha + known.beta) / (posterior.alpha + posterior.beta)
        posterior = updated(known, *session)
    expected = (prior.mean * np.array(list(policy.rewards.values()))).sum(axis=1)
    fallback = _ratios(policy)
    if settings.draw != "fixed" and (expected > 0.0).any():
        fallback = np.round(np.maximum(expected / expected.max(), 0.0), 6)  # of the best pool's, and short
    before = np.zeros(len(policy.pools), np.int64)
    epsilon = mixed_chance(state, facts)
    return Beliefs(cohort, MODES[settings.draw], epsilon, levels, posterior, strength, fallback, before)


def _without(beliefs: Beliefs, policy: Policy) -> Beliefs:
    """What is left where beliefs cannot be drawn from: the policy's ratios, and posteriors that say nothing."""
    flat = np.ones(beliefs.strength.shape)
    ratios = _ratios(policy)
    levels = np.ones(beliefs.levels.shape)
    posterior = Beta(flat, flat)
    return beliefs._replace(mode="fixed", levels=levels, posterior=posterior, strength=2.0 * flat, fallback=ratios)


def _ratios(policy: Policy) -> FloatArray:
    return np.array([pool.ratio for pool in policy.pools.values()], np.float64)


def _rules(facts: Facts, beliefs: Beliefs, given: int, slots: int) -> Rules:
    """How utilities become slots, of a page after which `given` slots of the feed are given."""
    policy, settings = facts.policy, facts.policy.blend
    return Rules(
        np.array(list(policy.rewards.values())),
        returns_table(given, _delta(facts)),
        settings.temperature,
        beliefs.epsilon,
        draws_of_slots(slots) if settings.draw == "slot" and beliefs.mode == "drawn" else 1,
        beliefs.mode,
        beliefs.fallback,
        settings.order,
    )


def _delta(facts: Facts) -> float | None:
    if facts.policy.blend.returns == "fitted":
        return facts.population.delta
    return None if facts.policy.blend.returns == "webster" else 1.0


def _table(policy: Policy, evidence: Mapping[Cell, Tally]) -> FloatArray:
    """S and E as an array of shape (2, pools, actions)."""
    tallies = [[evidence.get((pool, action), NOTHING) for action in policy.rewards] for pool in policy.pools]
    return np.array(
        [[[t.successes for t in row] for row in tallies], [[t.exposure for t in row] for row in tallies]]
    )


def _parts(
    state: UserState,
    request: Request,
    beliefs: Beliefs,
    tried: Tried,
    gathered: Gathered,
    wished: IntArray,
    groups: list[list[list[int]]],
    stages: list[dict[str, list[int]]],
) -> list[PoolPart]:
    """Each pool's part of the record, in the policy's order."""
    facts, slots, page, made = gathered.facts, request.slots, tried.page, tried.made
    policy, population, delays, shadow = facts.policy, facts.population, facts.delays, facts.policy.blend.shadow
    strength = np.round(beliefs.strength, 3).tolist()  # to be read, and short: the posterior has it to the last bit
    alpha, beta, rates = (table.tolist() for table in (*beliefs.posterior, made.rates.swapaxes(0, 1)))
    fallback, before, wishes = (column.tolist() for column in (beliefs.fallback, beliefs.before, wished))
    parts = []
    for pool, (name, ranking) in enumerate(zip(policy.pools, gathered.rankings, strict=True)):
        verdicts = verdict_letters(made.verdicts[pool])
        _, floor, cap = page.limits[:, pool].tolist() if page.limits.size else (0, 0, slots)
        parts.append(
            PoolPart(
                pool=name,
                alpha=alpha[pool],
                beta=beta[pool],
                strength=strength[pool],
                fallback=fallback[pool],
                rates=rates[pool],
                delays=[delays[name, action] for action in policy.actions],
                served=state.served.get(name, 0),
                stock=ranking.items.size,
                filtered=ranking.filtered,
                intended=wishes[pool],
                realised=verdicts.count("p"),
                items=gathered.names(ranking.items[: len(verdicts)]),
                verdicts=verdicts,
                before=before[pool],
                floor=floor,
                cap=cap if cap < slots else None,
                missing=ranking.missing,
                listed=gathered.names(ranking.items) if shadow else [],
                listed_views=population.shadow_views.get(name, 0) if shadow else 0,
                filtered_by=dict(ranking.reasons),
                thinned=tried.offer.thinned[pool],
                groups=groups[pool] if groups else [],
                reordered=ranking.reordered,
                stages=stages[pool],
            )
        )
    return parts
