"""What-if: recorded traffic again, as it was, and beside every feed the one that another policy would have made.

Decisions and reactions of the log are folded as they are, so every user and every version of the population is what
it was when the feed was asked for. What the other policy makes is looked at, and never folded.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from blending.types import FloatArray, IntArray
from engine.believed import UnknownError, as_believed
from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, ItemUpdate, Organic, Request, Seen
from engine.facts import Facts
from engine.offline.off_policy import NOTHING, Chosen, Logged
from engine.offline.verdict import Observed
from engine.policy import Policy
from engine.what_if import (
    Evidence,
    Match,
    Matching,
    UnsupportedError,
    evidence_as_believed,
    evidence_of,
    lists_alike,
    with_what_was_learned,
)
from streams.past import Traffic

COHORTS_MAX = 64  # that are told apart
OTHERS = "(others)"


class Question(NamedTuple):
    """The policy that is asked about, and how.

    `cohort_by` is the key of a request's context that feeds are told apart by; without it, by the policy's cohorts.
    Feeds of before `since_ms`, log time, say nothing.
    """

    policy: Policy
    how: Matching
    cohort_by: str = ""
    since_ms: int = 0


def asked_of(recorded: Policy, policy: Policy, match: Match | None) -> tuple[Match, Policy, list[str]]:
    """How a log of one policy can be asked about another: by pools or items, with what keys as they were recorded.

    Raises InputError for what cannot be matched by pools, UnsupportedError for candidates that the log lacks.
    """
    new = sorted(policy.external - recorded.external)
    if new:
        raise UnsupportedError(f"the log has no candidates for the external pool {new[0]!r}, which is new")
    usable, kept = with_what_was_learned(policy, recorded)
    alike = lists_alike(usable, recorded)
    if match == "pool" and not alike:
        raise InputError("the pools of both policies list other items, so match by item: leave out --match pool")
    return match or ("pool" if alike else "item"), usable, kept


class WhatIf:
    """Reads a log once, and keeps what it says of one policy."""

    def __init__(self, traffic: Traffic, question: Question) -> None:
        """Before the first record. `question` is asked as `asked_of` says."""
        self._traffic = traffic
        self._past = traffic.past
        self._question = question
        self._facts: Facts | None = None
        self._requests: dict[tuple[str, str], Request] = {}
        self._feeds: dict[tuple[str, str], int] = {}
        self._reactions: list[tuple[int, Mapping[str, int]]] = []
        self._evidence: list[Evidence] = []
        self._records: list[tuple[str, str, float, bool]] = []  # user, cohort, weight, explored
        self._later_pages = 0
        self._unknown = Counter[str]()  # by reason

    def read(self, advance: Callable[[], object] = lambda: None) -> Observed:
        """All of a log; `advance` is called after every feed. Raises InputError for one that is not whole."""
        for one in self._traffic.inputs():
            value = one.value
            try:
                if isinstance(value, ItemUpdate):
                    self._past.put(value, one.at_ms)
                elif isinstance(value, Request):
                    self._requests[value.user, value.request_id] = value
                elif isinstance(value, Decision):
                    self._decided(value, one.at_ms)
                    advance()
                elif isinstance(value, Seen | Acted | Organic):
                    self._past.react(value, one.at_ms)
                    if not isinstance(value, Organic):
                        self._reacted(value.user, value.request_id)
            except (ValueError, IndexError, ArithmeticError) as error:
                raise InputError(f"{one.place}: {error}") from error
        return self._observed()

    def _decided(self, record: Decision, at_ms: int) -> None:
        """A feed of the log: what it says of the policy, then its fold."""
        user, request_id = record.request.user, record.request.request_id
        request = self._requests.pop((user, request_id), None)
        if request is None and self._past.known_from(user) is None:
            raise InputError(f"request {request_id} of user {user} was decided and never asked")
        if at_ms < self._question.since_ms:
            pass
        elif record.start:
            self._later_pages += 1
        elif record.slot_items and (record.explored or not self._question.how.explored_only):
            try:
                self._ask(request, record, at_ms)
            except UnknownError as error:
                self._unknown[str(error)] += 1
        self._past.adopt(request or record.request, record, at_ms)
        self._reacted(user, request_id)

    def _ask(self, request: Request | None, record: Decision, at_ms: int) -> None:
        """Keep what a feed says. Raises UnknownError where it says nothing."""
        question, user, request_id = self._question, record.request.user, record.request.request_id
        if record.policy_version != self._traffic.policy.version:
            raise UnknownError("they were made by another policy")
        if request_id in self._past.state(user).ledger:
            raise UnknownError("they were made twice")
        if at_ms < (self._past.known_from(user) or 0):
            raise UnknownError("reactions to them have lapsed")
        found = self._evidence_of(request, record, at_ms)
        self._feeds[user, request_id] = len(self._evidence)
        self._evidence.append(found)
        weight = 1.0 / record.epsilon if question.how.explored_only else 1.0
        key = question.cohort_by
        cohort = record.request.context.get(key, "") if key else found.cohort
        self._records.append((user, cohort, weight, record.explored))
        self._reactions.append((0, {}))

    def _evidence_of(self, request: Request | None, record: Decision, at_ms: int) -> Evidence:
        """By what was known, or where that is not known any more, by what the record says of it."""
        question = self._question
        if request is not None:
            try:
                gathered = self._past.gathered(request, record, at_ms)
            except UnknownError:
                pass
            else:
                facts = self._asked_facts(gathered.facts)
                state = self._past.state(request.user)
                return evidence_of(state, request, record, gathered, facts, question.how)
        made = as_believed(record, self._traffic.policy, question.policy)
        return evidence_as_believed(record, made, question.how)

    def _asked_facts(self, facts: Facts) -> Facts:
        """The same facts under the policy that is asked about; a version of them is made once."""
        known = self._facts
        if (
            known is None
            or known.population is not facts.population
            or known.catalogue is not facts.catalogue
            or known.embeddings is not facts.embeddings
        ):
            policy = self._question.policy
            known = Facts(policy, facts.population, facts.catalogue, facts.embeddings, facts.items)
            self._facts = known
        return known

    def _reacted(self, user: str, request_id: str) -> None:
        """Keep what a feed has earned until now; its row is gone when its window has passed."""
        feed, row = self._feeds.get((user, request_id)), self._past.state(user).ledger.get(request_id)
        if feed is not None and row is not None:
            self._reactions[feed] = row.seen, row.acted

    def _observed(self) -> Observed:
        """What was kept, as arrays."""
        if not self._evidence:
            raise UnsupportedError(self._silence())
        evidence = self._evidence
        slots = max(one.kinds.size for one in evidence)
        kinds = max(one.chances.shape[2] for one in evidence)
        names = list(dict.fromkeys([*self._traffic.policy.pools, *self._question.policy.pools]))
        cohorts, cohort_of = self._cohorts()
        users = {user: number for number, user in enumerate(dict.fromkeys(user for user, _, _, _ in self._records))}
        shape = (len(evidence), slots)
        shown, rewards, worth = np.full(shape, NOTHING, np.int64), np.zeros(shape), np.zeros(shape)
        ratios, (chances, worths) = np.zeros((2, *shape)), np.zeros((2, 2, *shape, kinds))
        for feed, one in enumerate(evidence):
            held = one.kinds.size
            shown[feed, :held], ratios[:, feed, :held], chances[:, feed, :held] = one.kinds, one.ratios, one.chances
            worth[feed, :held], worths[:, feed, :held] = one.worth, one.worths
            rewards[feed, :held] = self._rewards(feed, held)
        logged = Logged(
            np.array([users[user] for user, _, _, _ in self._records], np.int64),
            cohort_of,
            np.array([weight for _, _, weight, _ in self._records]),
            shown,
            rewards,
            worth,
        )
        beyond = np.array([one.beyond for one in evidence])
        return Observed(
            logged,
            Chosen(ratios[0], chances[0], worths[0], beyond[:, 0]),
            Chosen(ratios[1], chances[1], worths[1], beyond[:, 1]),
            np.array([one.shares for one in evidence]),
            names,
            cohorts,
            self._later_pages,
            dict(self._unknown.most_common()),
            sum(explored for _, _, _, explored in self._records),
        )

    def _silence(self) -> str:
        """Why no feed speaks."""
        if self._unknown:
            reasons = "; ".join(f"{count:,}: {reason}" for reason, count in self._unknown.most_common())
            return f"no feed of the log speaks of the policy ({reasons}): ask about later feeds, or a nearer policy"
        if self._question.how.explored_only:
            return "no feed of the log was mixed at random: record with a larger epsilon, or leave out --only"
        return "the log has no first page of a feed since then: record more, or ask from an earlier time"

    def _cohorts(self) -> tuple[list[str], IntArray]:
        """The names of cohorts, and the number of each feed's; beyond COHORTS_MAX the smallest are one."""
        own = [cohort for _, cohort, _, _ in self._records]
        largest = [name for name, _ in Counter(own).most_common()]
        names = sorted(largest[:COHORTS_MAX])
        number = {name: at for at, name in enumerate(names)}
        if len(largest) > len(names):
            names.append(OTHERS)
        return names, np.array([number.get(name, COHORTS_MAX) for name in own], np.int64)

    def _rewards(self, feed: int, slots: int) -> FloatArray:
        """What each slot earned by the rewards of the policy that is asked about: views that were acted on."""
        seen, acted = self._reactions[feed]
        earned = np.zeros(slots)
        for action, reward in self._question.policy.rewards.items():
            bits = acted.get(action, 0) & seen
            for slot in range(slots):
                earned[slot] += reward * (bits >> slot & 1)
        return earned
