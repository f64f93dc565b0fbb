"""What experiments have shown: users' feeds and rewards by arm and cohort, out of reactions and decisions."""

from typing import NamedTuple

import numpy as np
from msgspec import Struct

from blending.types import FloatArray
from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, Erase, Quarantine
from engine.experiments import ExperimentPolicy
from engine.offline.comparisons import Difference, difference, sample_ratio_chance, strayed
from engine.policy import Policy

MISMATCH_CHANCE = 1e-3  # of a sample ratio: below it the users are not those that the shares would have given
EFFECT = 0.1  # of the reward per feed: the difference that intervals for any time look for


class ArmResult(Struct, frozen=True):
    """What an arm's users had: `reward_per_feed` is null without feeds, `difference` is from the control.

    `share` is the part of the experiment's users that the policy gives it.
    """

    arm: str
    share: float
    users: int
    feeds: int
    reward_per_feed: float | None
    difference: Difference | None


class ExperimentResult(Struct, frozen=True):
    """What an experiment has shown. `cohorts` are the same figures of the feeds of each cohort.

    Intervals of one table hold together with probability 1 - alpha: those of `arms`, and those of all `cohorts`.
    `mixed` users were given feeds of several arms, and are left out. `mismatch` says in words which arm has not the
    users that its share would have given it, null where the chance of that is no less than MISMATCH_CHANCE.
    """

    experiment: str
    layer: str
    alpha: float
    arms: list[ArmResult]
    cohorts: dict[str, list[ArmResult]]
    mixed: int
    sample_ratio_chance: float
    mismatch: str | None


class _Action(NamedTuple):
    slot: int
    item: str
    action: str
    at_ms: int
    partition: int


class Outcomes:
    """What users did, then what they were given: all of feedback is taken before the first decision."""

    def __init__(self, policy: Policy) -> None:
        """Of the policy's experiments; a feed is worth its actions' rewards by this policy, in every arm."""
        self._policy = policy
        self._actions: dict[tuple[str, str], list[_Action]] = {}  # by user and request
        self._erased: dict[str, int] = {}  # users, and up to when they are forgotten
        self._left_out: list[tuple[int, int, int, str | None]] = []  # partition, both ends, user if it is of one
        self._decided: dict[tuple[str, str], int] = {}  # when
        self._arms: dict[str, dict[str, set[str]]] = {name: {} for name in policy.experiments}  # by user
        self._totals: dict[str, dict[tuple[str, str], list[float]]] = {name: {} for name in policy.experiments}

    def react(self, reaction: object, at_ms: int, partition: int = 0) -> None:
        """Take a record of feedback, with its log time."""
        if isinstance(reaction, Acted):
            done = _Action(reaction.slot, reaction.item, reaction.action, at_ms, partition)
            self._actions.setdefault((reaction.user, reaction.request_id), []).append(done)
        elif isinstance(reaction, Erase):
            self._erased[reaction.user] = at_ms
        elif isinstance(reaction, Quarantine):
            end_ms = at_ms if reaction.to_ms is None else reaction.to_ms
            self._left_out.append((partition, reaction.from_ms, end_ms, reaction.user))

    def decide(self, decision: Decision) -> None:
        """Take a decision. Raises InputError if it names an arm that the policy does not have."""
        identity = user, _ = decision.request.user, decision.request.request_id
        first_ms = self._decided.get(identity)
        again = first_ms is not None and decision.at_ms <= first_ms + self._policy.memory.window_ms
        if again or decision.at_ms <= self._erased.get(user, -1) or not decision.arms:
            return
        self._decided[identity] = decision.at_ms
        reward = self._reward(decision)
        for name, arm in decision.arms.items():
            experiment = self._policy.experiments.get(name)
            if experiment is None or user in experiment.users:
                continue
            if arm not in experiment.arms:
                raise InputError(
                    f"request {identity[1]} of user {user} is in an arm {arm!r} of experiment {name}, which the "
                    "policy does not have: give the policy that it was served by"
                )
            self._arms[name].setdefault(user, set()).add(arm)
            totals = self._totals[name].setdefault((user, decision.cohort), [0.0, 0.0])
            totals[0] += reward
            totals[1] += decision.start == 0

    def results(self, alpha: float) -> list[ExperimentResult]:
        """What each experiment of the policy has shown until now; 1 - alpha is the confidence of a table."""
        return [self._result(name, of, alpha) for name, of in self._policy.experiments.items()]

    def _reward(self, decision: Decision) -> float:
        """What was done with the items of a page in its window, each action of a slot once."""
        done = set()
        for did in self._actions.get((decision.request.user, decision.request.request_id), ()):
            shown = did.slot < len(decision.slot_items) and decision.slot_items[did.slot] == did.item
            late = did.at_ms > decision.at_ms + self._policy.memory.window_ms
            if shown and not late and not self._is_left_out(did, decision.request.user):
                done.add((did.slot, did.action))
        return sum(self._policy.rewards.get(action, 0.0) for _, action in sorted(done))

    def _is_left_out(self, did: _Action, user: str) -> bool:
        return any(
            partition == did.partition and from_ms <= did.at_ms <= to_ms and whose in (None, user)
            for partition, from_ms, to_ms, whose in self._left_out
        )

    def _result(self, name: str, experiment: ExperimentPolicy, alpha: float) -> ExperimentResult:
        arm_of = {user: next(iter(arms)) for user, arms in self._arms[name].items() if len(arms) == 1}
        totals = {place: found for place, found in self._totals[name].items() if place[0] in arm_of}
        whole: dict[str, list[float]] = {}
        by_cohort: dict[str, dict[str, list[float]]] = {}
        for (user, cohort), (reward, feeds) in totals.items():
            known = whole.setdefault(user, [0.0, 0.0])
            known[0] += reward
            known[1] += feeds
            by_cohort.setdefault(cohort, {})[user] = [reward, feeds]
        compared = alpha / (len(experiment.arms) - 1)
        arms = _arm_results(experiment, whole, arm_of, compared)
        users, shares = np.array([arm.users for arm in arms]), np.array([arm.share for arm in arms])
        chance = sample_ratio_chance(users, shares)
        mismatch = None
        if chance < MISMATCH_CHANCE:
            arm = arms[int(np.abs(strayed(users, shares)).argmax())]
            mismatch = (
                f"arm {arm.arm} has {arm.users:,} of {users.sum():,} users, where its share gives "
                f"{arm.share * users.sum():,.0f}, of which the chance is {chance:.1g}"
            )
        return ExperimentResult(
            experiment=name,
            layer=experiment.layer or name,
            alpha=alpha,
            arms=arms,
            cohorts={
                cohort: _arm_results(experiment, by_cohort[cohort], arm_of, compared / len(by_cohort))
                for cohort in sorted(by_cohort)
            },
            mixed=len(self._arms[name]) - len(arm_of),
            sample_ratio_chance=chance,
            mismatch=mismatch,
        )


def _arm_results(
    experiment: ExperimentPolicy, totals: dict[str, list[float]], arm_of: dict[str, str], alpha: float
) -> list[ArmResult]:
    """The figures of each arm, from its users' rewards and feeds."""
    rows: dict[str, list[list[float]]] = {arm: [] for arm in experiment.arms}
    for user, found in sorted(totals.items()):
        rows[arm_of[user]].append(found)
    tables = {arm: np.array(of_arm, np.float64).reshape(-1, 2) for arm, of_arm in rows.items()}
    control = next(iter(tables.values()))
    return [
        ArmResult(
            arm,
            experiment.shares[arm],
            len(table),
            int(table[:, 1].sum()),
            _per_feed(table),
            None if table is control else difference(table, control, alpha, EFFECT),
        )
        for arm, table in tables.items()
    ]


def _per_feed(table: FloatArray) -> float | None:
    reward, feeds = table.sum(axis=0)
    return float(reward / feeds) if feeds else None
