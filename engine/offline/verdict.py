"""The verdict of a what-if: who is shown what, what it would have earned, and whether the log can say so."""

from typing import NamedTuple

import numpy as np
from msgspec import Struct

from blending.types import BoolArray, FloatArray
from engine.offline.off_policy import (
    METHODS,
    Chosen,
    Estimate,
    Logged,
    Method,
    Support,
    mean_of,
    scores_of,
    support_of,
)

HEADLINE: Method = "dr"
COHORT_USERS_MIN = 30.0  # effective, of a cohort that may be called the worst hit


class Observed(NamedTuple):
    """All feeds of a log that speak of a policy, in the log's order.

    `recorded` and `asked` are what the log's policy and the one that is asked about would show; `shares` (feeds, 2,
    pools) are slots that are expected of either. `pools` and `cohorts` name the numbers. `later_pages` is how many
    pages went on from others and were left out, `unknown` how many say nothing, by reason; `explored` says how many
    of the feeds were mixed at random.
    """

    logged: Logged
    recorded: Chosen
    asked: Chosen
    shares: FloatArray
    pools: list[str]
    cohorts: list[str]
    later_pages: int
    unknown: dict[str, int]
    explored: int


class Limits(NamedTuple):
    """Below what support a log says nothing: effective users, and the part of the new pages it could not show."""

    users_min: float = 50.0
    beyond_max: float = 0.05


class Reward(Struct, frozen=True):
    """Reward per feed by the asked policy's rewards: of the log's policy, of the asked one, and their difference.

    The difference is paired, of the same feeds. `relative` is it as a part of the log's.
    """

    recorded: Estimate
    asked: Estimate
    difference: Estimate
    relative: float | None


class Cohort(Struct, frozen=True):
    """A part of the feeds: shares of slots by pool, reward, and what that rests on.

    The reward's intervals hold for all cohorts together.
    """

    cohort: str
    recorded_shares: dict[str, float]
    asked_shares: dict[str, float]
    reward: Reward
    support: Support


class Verdict(Struct, frozen=True):
    """What a log says of a policy. `refused` says why it says nothing, null where it does.

    `reward` is by the method `headline`, `methods` by every one. `worst` is the cohort that loses the largest part
    of its reward, among those with enough users; null without any. `reasons` say why feeds are `unknown`.
    """

    refused: str | None
    headline: Method
    reward: Reward
    methods: dict[Method, Reward]
    support: Support
    explored: int
    later_pages: int
    unknown: int
    reasons: dict[str, int]
    recorded_shares: dict[str, float]
    asked_shares: dict[str, float]
    cohorts: list[Cohort]
    worst: str | None


def verdict_of(observed: Observed, limits: Limits = Limits()) -> Verdict:  # noqa: B008  it is a constant
    """Judge a policy by a log."""
    logged = observed.logged
    everything = np.ones(logged.users.size, np.bool_)
    pairs = {
        method: (scores_of(logged, observed.recorded, method), scores_of(logged, observed.asked, method))
        for method in METHODS
    }
    methods = {method: _reward(logged, *pair, everything) for method, pair in pairs.items()}
    support = support_of(logged, observed.asked)
    cohorts = []
    for number, name in enumerate(observed.cohorts):
        part = logged.cohorts == number
        reward = _reward(logged, *pairs[HEADLINE], part, among=len(observed.cohorts))
        own = support_of(logged, observed.asked, part)
        cohorts.append(Cohort(name, *_shares(observed, part), reward, own))
    judged = [
        (cohort.reward.relative, cohort.cohort)
        for cohort in cohorts
        if cohort.reward.relative is not None and cohort.support.effective_users >= COHORT_USERS_MIN
    ]
    return Verdict(
        refused=_refused(support, limits),
        headline=HEADLINE,
        reward=methods[HEADLINE],
        methods=methods,
        support=support,
        explored=observed.explored,
        later_pages=observed.later_pages,
        unknown=sum(observed.unknown.values()),
        reasons=observed.unknown,
        recorded_shares=_shares(observed, everything)[0],
        asked_shares=_shares(observed, everything)[1],
        cohorts=cohorts,
        worst=min(judged)[1] if judged else None,
    )


def _refused(support: Support, limits: Limits) -> str | None:
    """Why a log says nothing of a policy."""
    if support.beyond > limits.beyond_max:
        return (
            f"{support.beyond:.1%} of what the policy would show, the log had no chance of showing, and at most "
            f"{limits.beyond_max:.1%} may be: record with a larger epsilon, or try the policy on real traffic"
        )
    if support.effective_users < limits.users_min:
        return (
            f"the log speaks of the policy like {support.effective_users:.1f} users, and {limits.users_min:g} are "
            "the least: record more, with a larger epsilon, or ask about a policy that is nearer to the log's"
        )
    return None


def _reward(logged: Logged, recorded: FloatArray, asked: FloatArray, part: BoolArray, among: int = 1) -> Reward:
    before, difference = mean_of(recorded, logged, part, among), mean_of(asked - recorded, logged, part, among)
    relative = difference.mean / before.mean if before.mean > 0.0 else None
    return Reward(before, mean_of(asked, logged, part, among), difference, relative)


def _shares(observed: Observed, part: BoolArray) -> tuple[dict[str, float], dict[str, float]]:
    """Shares of slots by pool, expected of the log's policy and of the other one."""
    weights = np.where(part, observed.logged.weights, 0.0)
    sums = (weights[:, None, None] * observed.shares).sum(axis=0)
    recorded, asked = (sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-12)).tolist()
    names = observed.pools
    return dict(zip(names, recorded, strict=True)), dict(zip(names, asked, strict=True))
