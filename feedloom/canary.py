"""A policy that a part of the users try first: kept if it is surely no worse than a guardrail, else taken back."""

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from engine.errors import InputError
from engine.experiments import ArmPolicy, ExperimentPolicy
from engine.offline.experiments import ExperimentResult
from engine.policy import Policy
from engine.revisions import differences

PREFIX, CONTROL, ARM = "canary-", "control", "canary"
MISMATCH_CHANCE = 1e-6  # of a sample ratio: it is looked at often

Look = Callable[[Policy], ExperimentResult | None]  # None where another policy is in force by now


class Canary(NamedTuple):
    """How a policy is tried: by this part of the users, for so long, looked at so often.

    It is taken back once it is sure to earn less than (1 - guardrail) times the reward per feed of the others, and
    kept at the end if it is sure to earn more than that. Sure is what holds however often it is looked at
    (`engine.offline.comparisons`).
    """

    part: float
    guardrail: float
    seconds: float
    every_seconds: float
    alpha: float = 0.05


class Verdict(NamedTuple):
    """Whether the policy is kept, and why; `over` says that another one is in force already."""

    kept: bool
    reason: str
    over: bool = False


def is_canary(policy: Policy) -> bool:
    """Whether a part of the users tries something by this policy."""
    return any(name.startswith(PREFIX) for name in policy.experiments)


def tried_by_some(old: Policy, new: Policy, part: float, name: str) -> Policy:
    """The old policy with an experiment of this name whose one arm is the new one; other names, other users.

    Raises InputError where they differ in what is not decided for each feed, or a canary is under way.
    """
    if is_canary(old):
        raise InputError("a canary is under way already: `feedloom policy rollback` ends it")
    changed = {key: value for key, _, value in differences(old, new)}
    try:
        if missing := [key for key, value in changed.items() if value is None]:
            raise ValueError(f"{missing[0]} would not be there")
        canary = msgspec.convert({"share": part, "set": changed}, ArmPolicy)
        arms = {CONTROL: ArmPolicy(share=1.0 - part), ARM: canary}
        return replace(old, experiments={**old.experiments, name: ExperimentPolicy(arms=arms)})
    except (ValueError, msgspec.ValidationError) as error:
        raise InputError(f"a part of the users cannot try this, apply it to all: {error}") from error


def watched(tried: Policy, how: Canary, look: Look, told: Callable[[str], None]) -> Verdict:
    """Look at what the canary shows until it is sure to be worse, or its time is over."""
    end = time.monotonic() + how.seconds
    while True:
        time.sleep(max(0.0, min(how.every_seconds, end - time.monotonic())))
        found = look(tried)
        if found is None:
            return Verdict(kept=False, reason="another policy was put into force meanwhile, and stays", over=True)
        verdict, said = judged(found, how.guardrail, last=time.monotonic() >= end)
        told(said)
        if verdict is not None:
            return verdict


def judged(result: ExperimentResult, guardrail: float, *, last: bool) -> tuple[Verdict | None, str]:
    """The verdict, None if it is to go on, and what was seen in words."""
    control, canary = result.arms
    difference = canary.difference
    if result.mismatch and result.sample_ratio_chance < MISMATCH_CHANCE:
        return Verdict(kept=False, reason=result.mismatch), result.mismatch
    if difference is None or control.reward_per_feed is None:
        said = f"{canary.users} users of {canary.users + control.users} so far: too few to tell"
        return (Verdict(kept=False, reason=said) if last else None), said
    least = -guardrail * abs(control.reward_per_feed)
    low, high = difference.at_any_time
    said = (
        f"{canary.users:,} users earn {difference.estimate:+.4f} [{low:+.4f}, {high:+.4f}] a feed beside "
        f"{control.reward_per_feed:.4f} of {control.users:,}; the guardrail is {least:+.4f}"
    )
    if high < least:
        return Verdict(kept=False, reason="it is worse than the guardrail"), said
    if not last:
        return None, said
    if low > least:
        return Verdict(kept=True, reason="it is no worse than the guardrail"), said
    return Verdict(kept=False, reason="it was not shown to be no worse than the guardrail"), said
