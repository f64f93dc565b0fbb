"""What the partitions of an embedded engine share: items, policies, and population versions that it fits itself."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from engine.catalogue import Catalogue, CatalogueWriter
from engine.errors import InputError
from engine.events import ItemUpdate
from engine.facts import Facts
from engine.item_table import ItemTable
from engine.policy import Policy
from engine.population import Population, Sums, fit
from engine.population_record import PopulationRecord, population_of
from engine.revisions import PolicyRecord, Revision, Revisions
from engine.sums_record import SumsRecord
from streams.codec import encode
from streams.facts import take_items
from streams.fitter import VERSIONS_KEPT, Fits, fitted
from streams.local_topics import LocalTopics
from streams.log import LogRecord, Unwritten

log = logging.getLogger(__name__)

# Made here, and not when threads first need them at once: msgspec does not bear that.
_populations = msgspec.json.Decoder(PopulationRecord)
_sums = msgspec.json.Decoder(SumsRecord)


class Fit(NamedTuple):
    """A population version, and what it was fitted of."""

    records: list[SumsRecord]
    version: int
    value: bytes
    population: Population
    items: ItemTable


class LocalFacts:
    """The newest facts; a turn takes `facts` as one value."""

    def __init__(self, topics: LocalTopics, first: Policy, plug_ins: frozenset[str]) -> None:
        """Of these topics; `read` reads them. The `first` policy counts where they hold none."""
        self.revisions = Revisions(first, plug_ins)
        self._plug_ins = plug_ins
        self.facts = Facts(first, fit(Sums(), first))
        self._topics = topics
        self._first = first
        self._catalogue = CatalogueWriter()
        self._fits = Fits(topics.partitions)
        self._new_sums: list[bytes] = []
        self._versions: list[int] = []  # that stand in the topic

    def read(self) -> None:
        """Begin from what the topics hold."""
        self._catalogue = CatalogueWriter()
        for chunk in self._topics.log("items").read():
            take_items(self._catalogue, chunk)
        revisions = Revisions(self._first, self._plug_ins)
        for chunk in self._topics.log("policy").read():
            for record in chunk:
                with suppress(InputError):  # it was refused when it came
                    revisions.take(record.value or b"", record.at_ms)
        self.revisions = revisions
        policy = revisions.policy
        self.facts = Facts(policy, fit(Sums(), policy), self._catalogue.version(), retired=revisions.retired)
        versions = self._latest("population", 0)
        self._versions = sorted(int(key) for key, value in versions.items() if key.isdigit() and value)
        if self._versions:
            population = self._readable(versions[str(self._versions[-1]).encode()])
            if population is not None:
                self.facts = self._changed(population=population)
        self._fits = Fits(self._topics.partitions)
        of_partitions = (self._latest("sums", number) for number in range(self._topics.partitions))
        self._new_sums = [value for latest in of_partitions for value in latest.values()]

    def _latest(self, topic: str, number: int) -> dict[bytes, bytes]:
        """The latest value of each key."""
        latest: dict[bytes, bytes] = {}
        for chunk in self._topics.log(topic, number).read():
            for record in chunk:
                latest[record.key or b""] = record.value or b""
        return latest

    def put(self, items: Sequence[ItemUpdate]) -> None:
        """Append what is known of items; the next request sees it."""
        rows = [Unwritten(update.item.encode(), encode(update)) for update in items]
        at_ms = self._topics.now_ms()
        first = self._topics.append("items", 0, rows, at_ms)
        take_items(self._catalogue, [LogRecord(first + n, at_ms, row.key, row.value) for n, row in enumerate(rows)])
        self.facts = self._changed(catalogue=self._catalogue.version())

    def apply(self, record: PolicyRecord) -> Revision:
        """Append a revision of the policy; the next request sees it.

        Raises InputError where it is refused, and then nothing is appended.
        """
        value, at_ms = msgspec.json.encode(record), self._topics.now_ms()
        if self.revisions.take(value, at_ms):
            self._topics.append("policy", 0, [Unwritten(record.key.encode(), value)], at_ms)
            self.facts = self._changed(policy=self.revisions.policy)
        return self.revisions.history[-1]

    def _changed(
        self,
        policy: Policy | None = None,
        population: Population | None = None,
        catalogue: Catalogue | None = None,
        known: ItemTable | None = None,
    ) -> Facts:
        """The facts with something new."""
        facts = self.facts
        return Facts(
            policy or facts.policy,
            population or facts.population,
            catalogue or facts.catalogue,
            known=known or facts.items,
            retired=self.revisions.retired,
        )

    def take_sums(self, value: bytes) -> None:
        """A partition has passed a version."""
        self._new_sums.append(value)

    def due_fit(self) -> Fit | None:
        """The population version that is due, fitted and ready to be served from; None where none is.

        It takes long, and may run in a thread beside everything but another call of itself.
        """
        values, self._new_sums = self._new_sums, []
        for value in values:
            try:
                self._fits.take(_sums.decode(value))
            except msgspec.DecodeError as error:
                log.error("sums that cannot be read are left out: %s", error)
        due = self._fits.due(self.facts.population.version)
        if due is None:
            return None
        value = fitted(due[0], self.revisions.before(due[1]), due[1])
        population = self._readable(value)
        if population is None:
            return None
        return Fit(*due, value, population, self._changed(population=population).items)

    def publish(self, made: Fit | None) -> None:
        """Append a population version, and take out those that nobody needs; the next request sees it."""
        if made is None:
            return
        kept = [*self._versions, made.version][-VERSIONS_KEPT:]
        gone = [Unwritten(str(old).encode(), None) for old in self._versions if old not in kept]
        new = Unwritten(str(made.version).encode(), made.value)
        self._topics.append("population", 0, [*gone, new], self._topics.now_ms())
        self._versions = kept
        self._fits.done(made.records, made.version)
        self.facts = self._changed(population=made.population, known=made.items)

    def _readable(self, value: bytes) -> Population | None:
        """A population version as it is published, or None where it is of no use now."""
        try:
            return population_of(_populations.decode(value))
        except msgspec.DecodeError as error:
            log.error("a population version is not used: %s", error)
            return None
