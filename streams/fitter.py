"""The one author of population versions: it reads the sums of all partitions, fits them, and publishes the fit."""

import asyncio
import logging

import msgspec
from msgspec.structs import replace

from engine.policy import Policy
from engine.population import fit
from engine.population_record import record_of, shortlisted
from engine.sums_record import SumsRecord, merged
from streams.broker import KafkaError, Producer, whole_topic
from streams.facts import FactsReader
from streams.failpoints import passing
from streams.messages import Message
from streams.settings import Settings
from streams.sizes import fitting

log = logging.getLogger(__name__)

POLL_MS = 200
RETRY_SECONDS = 5.0
VERSIONS_KEPT = 2  # of the population; an older one is taken out of its topic


class Fits:
    """Which population version is to be fitted next, and of which sums."""

    def __init__(self, partitions: int) -> None:
        """Of a product with so many partitions."""
        self._partitions = partitions
        self._sums: dict[int, SumsRecord] = {}
        self._published = -1
        self._fitted: list[int] | None = None  # the log records of each partition that the last fit was made of

    def take(self, record: SumsRecord) -> None:
        """Sums of a partition; older ones than are known are of an owner that did not know it was one no more."""
        known = self._sums.get(record.partition)
        if known is None or record.version >= known.version:
            self._sums[record.partition] = record

    def due(self, published: int) -> tuple[list[SumsRecord], int] | None:
        """The newest version that every partition has passed, and the sums that each had there.

        None where `published` or a later one is it, or nothing was learned since the last. A partition whose sums
        are of a later version already is waited for: the others will come to that one.
        """
        records = [record for _, record in sorted(self._sums.items())]
        if not records:
            return None
        version = min(record.version for record in records)
        together = len(records) == self._partitions and all(record.since <= version for record in records)
        if not together or version <= max(published, self._published) or _taught(records) == self._fitted:
            return None
        return records, version

    def done(self, records: list[SumsRecord], version: int) -> None:
        """This version of these sums is published."""
        self._fitted = _taught(records)
        self._published = version


def _taught(records: list[SumsRecord]) -> list[int]:
    return [record.records for record in records]


_sums = msgspec.json.Decoder(SumsRecord)  # made before there are threads, as in streams/partition.py


class Fitter:
    """Fits version k when every partition has passed it, once, from the sums that each had there."""

    def __init__(self, settings: Settings, facts: FactsReader, producer: Producer, partitions: int) -> None:
        """Of a cluster with so many partitions."""
        self._settings = settings
        self._facts = facts
        self._producer = producer
        self._fits = Fits(partitions)

    async def run(self) -> None:
        """Go on until cancelled, after a pause where something fails."""
        while True:
            try:
                await self._read()
            except KafkaError as error:
                log.warning("the fitter got no answer, and begins anew: %r", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("the fitter failed, and begins anew")
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        consumer, _ = await whole_topic(self._settings, "sums")
        try:
            while True:
                fetched = await consumer.getmany(timeout_ms=POLL_MS)
                newest = [records[-1].value for records in fetched.values() if records[-1].value]
                for value in newest:
                    await self._take(value)
                if newest:
                    await self._fit()
        finally:
            await consumer.stop()

    async def _take(self, value: bytes) -> None:
        try:
            self._fits.take(await asyncio.to_thread(_sums.decode, value))
        except msgspec.DecodeError as error:
            log.error("sums that cannot be read are left out: %s", error)

    async def _fit(self) -> None:
        """Publish the version that is due, if one is."""
        due = self._fits.due(self._facts.facts.population.version)
        if due is None:
            return
        records, version = due
        await self._facts.read_policies()  # the one in force at that time is to be known
        value = await asyncio.to_thread(fitted, records, self._facts.revisions.before(version), version)
        passing("before-population")
        await (await self._producer.send(Message("population", str(version).encode(), value)))
        passing("after-population")
        self._fits.done(records, version)
        for old in sorted(self._facts.versions - {version})[: 1 - VERSIONS_KEPT]:
            await self._producer.send(Message("population", str(old).encode(), None))


def fitted(records: list[SumsRecord], policy: Policy, version: int) -> bytes:
    """The population version of these sums, as it is published."""
    population = replace(fit(merged(records), policy), version=version)
    record = record_of(population)
    return fitting(lambda most: shortlisted(record, most), policy.population.neighbours_max)
