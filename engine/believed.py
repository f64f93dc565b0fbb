"""A page by another policy out of a decision's record alone: what was believed, and what was read of each list.

So it can be where the policy differs only in what acts after beliefs: rewards, how they are drawn and mixed, the
returns model, the order of a page, and what its pools are guaranteed. What was not read of a list is taken to be
items that nobody else lists, as in propensities.
"""

import numpy as np
from msgspec.structs import replace

from engine.decision import Decision, draws_of_slots
from engine.experiments import arms_of, setting_of
from engine.groups import limiting
from engine.page import page_of, wanted_of
from engine.policy import BlendPolicy, Policy
from engine.serve import MODES
from engine.what_if import lists_alike

BELIEVING = ("base_successes", "base_failures", "prior_strength", "session_strength", "cohort_by", "cohorts")
GUARANTEES = ("floor", "floor_views", "required", "cap", "share", "pinned", "priority")


class UnknownError(Exception):
    """What a feed was made of is not known any more, so it says nothing; the message says what is not."""


def as_believed(record: Decision, recorded: Policy, policy: Policy) -> Decision:
    """The first page `record`, made under `recorded`, by `policy`: its beliefs, rules and limits.

    What the page holds stays as recorded: only its distribution is the policy's. Raises UnknownError where that
    needs more than the record holds.
    """
    if not lists_alike(policy, recorded):
        raise UnknownError("other lists of the pools cannot be known")
    recorded, policy = _of_user(recorded, record), _of_user(policy, record)
    for key in BELIEVING:
        if getattr(policy.blend, key) != getattr(recorded.blend, key):
            raise UnknownError(f"beliefs by another blend.{key} cannot be known")
    if limiting(policy.rules):
        raise UnknownError("lists that rules limit were not read far enough")
    if record.mode != MODES[recorded.blend.draw]:
        raise UnknownError("beliefs were not fit to be drawn from")
    moved = policy.rewards != recorded.rewards or policy.blend.draw != recorded.blend.draw
    if moved and min(policy.rewards.values()) < 0.0:
        raise UnknownError("shares where every pool is worth less than nothing cannot be known")
    actions = _places(record, policy)
    draws = draws_of_slots(record.request.slots) if policy.blend.draw == "slot" else 1
    fixed = policy.blend.draw == "fixed"
    parts = [
        replace(
            part,
            alpha=[part.alpha[at] for at in actions],
            beta=[part.beta[at] for at in actions],
            strength=[part.strength[at] for at in actions],
            delays=[part.delays[at] for at in actions],
            rates=[[0.0] * len(actions)] * draws,
            fallback=pool.ratio if fixed else part.fallback,
        )
        for part, pool in zip(record.pools, policy.pools.values(), strict=True)
    ]
    made = replace(
        record,
        temperature=policy.blend.temperature,
        epsilon=_epsilon(record, recorded.blend, policy.blend),
        delta=_delta(record, recorded.blend, policy.blend),
        mode=MODES[policy.blend.draw],
        order=policy.blend.order,
        actions=list(policy.rewards),
        levels=[record.levels[at] for at in actions],
        rewards=list(policy.rewards.values()),
        pools=parts,
    )
    if _guarantees(policy) == _guarantees(recorded):
        return made
    return _limited(made, record, recorded, policy)


def _of_user(policy: Policy, record: Decision) -> Policy:
    """The policy with the arms of the decision's user."""
    arms = arms_of(policy.experiments, record.request.user)
    return policy.by_setting.get(setting_of(policy.experiments, arms), policy)


def _places(record: Decision, policy: Policy) -> list[int]:
    """Where the policy's actions stand in the record."""
    new = next((action for action in policy.rewards if action not in record.actions), None)
    if new is not None:
        raise UnknownError(f"what was believed of action {new!r} was not recorded")
    return [record.actions.index(action) for action in policy.rewards]


def _epsilon(record: Decision, recorded: BlendPolicy, asked: BlendPolicy) -> float:
    """`engine.priors.mixed_chance`, as far from `epsilon` to `epsilon_known` as the record's."""
    known, least = min(recorded.epsilon_known, recorded.epsilon), min(asked.epsilon_known, asked.epsilon)
    if (recorded.epsilon, known) == (asked.epsilon, least):
        return record.epsilon
    if least == asked.epsilon:
        return asked.epsilon
    if known == recorded.epsilon:
        raise UnknownError("how much is known of the pools does not show in an epsilon that stays")
    return least + (asked.epsilon - least) * (record.epsilon - known) / (recorded.epsilon - known)


def _delta(record: Decision, recorded: BlendPolicy, asked: BlendPolicy) -> float | None:
    """The returns model."""
    if asked.returns == recorded.returns:
        return record.delta
    if asked.returns == "fitted":
        raise UnknownError("the fitted returns model was not recorded")
    return None if asked.returns == "webster" else 1.0


def _guarantees(policy: Policy) -> list[tuple[object, ...]]:
    return [tuple(getattr(pool, key) for key in GUARANTEES) for pool in policy.pools.values()]


def _limited(made: Decision, record: Decision, recorded: Policy, policy: Policy) -> Decision:
    """The page with what the policy guarantees its pools.

    What is examined of a user's own is the posterior's strength without the prior's.
    """
    first = not any(part.served for part in record.pools)
    if any(pool.share for pool in (*policy.pools.values(), *recorded.pools.values())):
        raise UnknownError("what pools lack of their long-run shares was not recorded")
    if not first and policy.blend.session_strength and any(pool.floor_views for pool in policy.pools.values()):
        raise UnknownError("floors fade with views that a session hides")
    exposed = [np.add(part.alpha, part.beta) - part.strength for part in record.pools]
    views = np.array([max(0.0, *of_pool) for of_pool in exposed])
    slots, none = record.request.slots, np.zeros(len(record.pools), np.int64)
    wanted = wanted_of(policy, slots, 0, views, none, first=first)
    stock = np.array([part.stock for part in record.pools], np.int64)
    page = page_of(policy, wanted, stock, none, 0)
    limits = page.limits if page.limits.size else np.array([none, none, none + slots])
    parts = [
        replace(part, floor=floor, cap=cap)
        for part, floor, cap in zip(made.pools, *limits[1:].tolist(), strict=True)
    ]
    pinned = [(slot, pool) for slot, pool in enumerate(page.pinned.tolist()) if pool >= 0]
    return replace(made, pools=parts, pinned=pinned)
