"""The facts that all workers share: read whole from their topics, and switched whole."""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from engine.catalogue import CatalogueWriter
from engine.errors import InputError
from engine.facts import Facts
from engine.policy import Policy
from engine.population import Population, Sums, fit
from engine.population_record import PopulationRecord, population_of
from streams.broker import Consumer, ConsumerRecord, whole_topic
from streams.codec import decode_item
from streams.settings import Settings

log = logging.getLogger(__name__)

POLL_MS = 500

_populations = msgspec.json.Decoder(PopulationRecord)  # made before there are threads, as in streams/partition.py


class FactsReader:
    """Keeps the newest facts. A micro-batch takes `facts` once, so it never straddles a change."""

    def __init__(self, settings: Settings, policy: Policy) -> None:
        """Begin with a population that has seen nothing, and no item."""
        self.facts = Facts(policy, fit(Sums(), policy))
        self.versions: set[int] = set()  # of the population, that stand in its topic
        self._settings = settings
        self._catalogue = CatalogueWriter()
        self._consumer: Consumer | None = None

    async def start(self) -> None:
        """Read all there is."""
        self._consumer, ends = await whole_topic(self._settings, "population", "items")
        for place, end in ends.items():
            while await self._consumer.position(place) < end:
                await self._read()

    async def run(self) -> None:
        """Go on reading until cancelled."""
        while True:
            await self._read()

    async def stop(self) -> None:
        """Let go of the topics."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _read(self) -> None:
        """Take what has come; what cannot be used leaves what was known before."""
        assert self._consumer is not None
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        come: dict[str, list[ConsumerRecord]] = {}
        for place, records in fetched.items():
            come.setdefault(place.topic, []).extend(records)
        population = await self._newest(come.get(self._settings.topic("population"), []))
        await asyncio.to_thread(take_items, self._catalogue, come.get(self._settings.topic("items"), []))
        catalogue = self._catalogue.version()
        if population is not self.facts.population or catalogue is not self.facts.catalogue:
            self.facts = Facts(self.facts.policy, population, catalogue, known=self.facts.items)

    async def _newest(self, records: Sequence[ConsumerRecord]) -> Population:
        """The newest version of the population."""
        for record in records:
            self._note(record.key, there=bool(record.value))
        known, policy = self.facts.population, self.facts.policy
        values = [record.value for record in records if record.value]
        if not values:
            return known
        try:
            newest = await asyncio.to_thread(_populations.decode, values[-1])
            return (
                await asyncio.to_thread(population_of, newest, policy) if newest.version > known.version else known
            )
        except (msgspec.DecodeError, InputError) as error:
            log.error("a population version is not used: %s", error)
            return known

    def _note(self, key: bytes | None, *, there: bool) -> None:
        if key and key.isdigit():
            (self.versions.add if there else self.versions.discard)(int(key))


def take_items(catalogue: CatalogueWriter, records: Sequence[ConsumerRecord]) -> None:
    """Put what records of `items` say into the catalogue; a record without a value removes its item.

    What cannot be used is left out, and said once for all of them.
    """
    errors = []
    for record in records:
        try:
            _take_item(catalogue, record.key, record.value)
        except InputError as error:
            errors.append(f"offset {record.offset}: {error}")
    if errors:
        log.error("item updates left out: %d, of which the first at %s", len(errors), errors[0])


def _take_item(catalogue: CatalogueWriter, key: bytes | None, value: bytes | None) -> None:
    if key is None:
        raise InputError("the key is missing: records of items must have the item as their key")
    if value is None:
        catalogue.remove(key.decode(errors="replace"))
        return
    update = decode_item(value)
    if key != update.item.encode():
        raise InputError(f"the key is not the item's id: records of item {update.item!r} must have it as their key")
    catalogue.put(update)
