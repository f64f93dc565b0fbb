"""The traffic that `feedloom serve` keeps in its data folder, or a cluster in its topics, as it was.

Records say when they entered the log, to the millisecond, and a decision names the version of the
population that it was made with. So users are folded again by the log's time, every version that a decision names
is fitted again as the server fitted it, and where the same decision could be made again of what is known then, of
the same lists and, to CLOSE, the same beliefs, all of it is known. Others were made of records that have lapsed,
between two records of one moment, or of what was taken out since; of these only what the decision says is known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from engine.believed import UnknownError
from engine.catalogue import CatalogueWriter
from engine.decision import Decision, posterior_of
from engine.errors import InputError
from engine.events import ItemUpdate, Reaction, Request, Switch
from engine.facts import Facts
from engine.fold import close_due, fold
from engine.policy import Policy
from engine.pools import Gathered
from engine.population import Population, Sums, fit
from engine.population_record import PopulationRecord, population_of
from engine.serve import serve
from engine.state import Lesson, UserState
from engine.sums_record import record_of
from streams.exclusions import ErasedFact
from streams.fitter import fitted
from streams.kept_log import TOPICS, KeptLog
from streams.local_topics import LocalTopics
from streams.log import Unwritten
from streams.past import Input, Traffic, gathered_anew, unlike
from streams.settings import Settings
from streams.tools import records
from streams.topics import partition_count

CLOSE = 1e-6  # relative, of two beliefs that are the same but for the order of sums
POPULATIONS_KEPT = 4  # a decision's version may be older than the newest

_populations = msgspec.json.Decoder(PopulationRecord)


class KeptPast:
    """What a server knew."""

    def __init__(self, log: KeptLog, versions: list[int]) -> None:
        """`versions` of the population are those that decisions name, rising."""
        self._log = log
        self._revisions = log.revisions
        self._policies = [log.revisions.before(began_ms) for began_ms in log.began]  # that partitions are folded by
        self._versions = versions
        self._states: dict[str, UserState] = {}
        self._sums = [Sums() for _ in range(log.partitions)]
        self._due: list[tuple[int, str]] = []
        self._catalogue = CatalogueWriter()
        self._populations: dict[int, Population] = {0: fit(Sums(), log.revisions.at(0))}
        self._facts: dict[tuple[int, str], Facts] = {}

    def state(self, user: str) -> UserState:
        """A user's state now."""
        return self._states.get(user, UserState())

    def known_from(self, user: str) -> int:
        """From which time on no reaction of a user has lapsed."""
        part = self._log.part_of(user)
        return self._log.began[part] if self._log.lapsed[part] else 0

    def inputs(self) -> Iterator[Input]:
        """The records of the log; where a partition switched to another policy, it is folded by that from there."""
        for part, one in self._log.inputs(*TOPICS):
            if isinstance(one.value, Switch):
                self._policies[part] = self._revisions.resumed(one.value.number)
            else:
                yield one

    def gathered(self, request: Request, record: Decision, at_ms: int) -> Gathered:
        """What the pools offered. Raises UnknownError where the decision would be another now."""
        self._pass(at_ms)
        population = self._populations.get(record.population_version)
        policy = self._revisions.made_under(record.policy_version)
        if population is None or policy.version != record.policy_version:
            raise UnknownError
        facts = self._facts_of(population, policy)
        gathered = gathered_anew(self.state(request.user), request, facts, at_ms)
        if unlike(record, gathered) is not None:
            raise UnknownError
        known, made = posterior_of(record), posterior_of(serve(self.state(request.user), request, gathered, at_ms))
        if not (np.allclose(known.alpha, made.alpha, CLOSE) and np.allclose(known.beta, made.beta, CLOSE)):
            raise UnknownError
        return gathered

    def _facts_of(self, population: Population, policy: Policy) -> Facts:
        """The facts of a version under a policy, with all items."""
        catalogue, place = self._catalogue.version(), (population.version, policy.version)
        known = self._facts.get(place)
        if known is None or known.catalogue is not catalogue:
            if len(self._facts) > POPULATIONS_KEPT:
                self._facts.clear()
            known = self._facts[place] = Facts(policy, population, catalogue)
        return known

    def put(self, update: ItemUpdate, at_ms: int) -> None:
        """An item's record."""
        self._catalogue.put(update, at_ms)

    def adopt(self, request: Request, record: Decision, at_ms: int) -> None:
        """A decision."""
        self._pass(at_ms)
        policy = self._revisions.made_under(record.policy_version)
        folded = fold(self.state(request.user), record, at_ms, policy.memory, policy.hides)
        self._fold(request.user, folded.state, folded.lessons, at_ms)
        if folded.outcome == "adopted":
            heappush(self._due, (at_ms + policy.memory.window_ms, request.user))

    def react(self, reaction: Reaction, at_ms: int) -> None:
        """A reaction."""
        self._pass(at_ms)
        policy = self._policies[self._log.part_of(reaction.user)]
        folded = fold(self.state(reaction.user), reaction, at_ms, policy.memory, policy.hides)
        self._fold(reaction.user, folded.state, folded.lessons, at_ms)

    def _fold(self, user: str, state: UserState, lessons: tuple[Lesson, ...], at_ms: int) -> None:
        self._states[user] = state
        if lessons:
            part = self._log.part_of(user)
            self._sums[part].absorb(lessons, at_ms, self._policies[part])

    def _pass(self, at_ms: int) -> None:
        """Let time pass: what is due closes, and versions that decisions name are fitted at their moment."""
        while self._versions and self._versions[0] <= at_ms:
            version = self._versions.pop(0)
            if version:
                self._close(version)
                self._fit(version)
        self._close(at_ms)

    def _close(self, at_ms: int) -> None:
        while self._due and self._due[0][0] < at_ms:
            _, user = heappop(self._due)
            memory = self._policies[self._log.part_of(user)].memory
            state, lessons = close_due(self.state(user), at_ms, memory)
            self._fold(user, state, lessons, at_ms)

    def _fit(self, version: int) -> None:
        policy = self._revisions.before(version)
        for sums in self._sums:
            sums.at_ms = version
        records = [record_of(sums, number, 0, version, policy) for number, sums in enumerate(self._sums)]
        self._populations[version] = population_of(_populations.decode(fitted(records, policy, version)))
        for old in sorted(self._populations)[:-POPULATIONS_KEPT]:
            del self._populations[old]


@contextmanager
def cluster_traffic(settings: Settings) -> Iterator[Traffic]:
    """What a cluster's topics hold now, copied into a folder for as long as it is asked about.

    What was kept of a user before it was erased is not copied.
    """
    erased: dict[bytes, int] = {}
    for one in records(settings, "erased", "earliest"):
        if one.key and one.value:
            erased[one.key] = msgspec.json.decode(one.value, type=ErasedFact).at_ms
    with TemporaryDirectory(prefix="feedloom-") as folder:
        topics = LocalTopics(Path(folder), partition_count(settings, "feedback"), settings.segment_bytes)
        try:
            for topic in ("policy", *TOPICS):
                for (number, at_ms), together in groupby(
                    records(settings, topic, "earliest"), lambda one: (one.partition, one.timestamp)
                ):
                    of_users = topic not in ("policy", "items")
                    copied = [one for one in together if not of_users or at_ms >= erased.get(one.key, 0)]
                    if not copied:
                        continue
                    if not topics.log(topic, number).end:
                        topics.log(topic, number).advance(copied[0].offset)  # it says whether any have lapsed
                    rows = [Unwritten(one.key, one.value, tuple(one.headers)) for one in copied]
                    topics.append(topic, number, rows, at_ms)
        finally:
            topics.close()
        yield kept_traffic(Path(folder))


def kept_traffic(folder: Path) -> Traffic:
    """What a server has kept, also while it runs. Raises InputError for a folder that is none, or has no feed."""
    log = KeptLog(folder)
    feeds, versions, policy, delta = 0, set[int](), "", 1.0
    for _, one in log.inputs("feeds"):
        if isinstance(one.value, Decision):
            feeds, policy = feeds + 1, one.value.policy_version
            delta = one.value.delta or 1.0
            versions.add(one.value.population_version)
    if not feeds:
        raise InputError(f"{folder} holds no feed")
    past = KeptPast(log, sorted(versions))
    return Traffic(log.revisions.made_under(policy), past, feeds, delta, past.inputs)
