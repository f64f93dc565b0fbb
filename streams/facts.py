"""The facts that all workers share: read whole from their topics, and switched whole."""

import asyncio
import logging

import msgspec

from engine.errors import InputError
from engine.facts import Facts
from engine.policy import Policy
from engine.population import Sums, fit
from engine.population_record import PopulationRecord, population_of
from streams.broker import Consumer, whole_topic
from streams.settings import Settings

log = logging.getLogger(__name__)

POLL_MS = 500


class FactsReader:
    """Keeps the newest facts. A micro-batch takes `facts` once, so it never straddles a change."""

    def __init__(self, settings: Settings, policy: Policy) -> None:
        """Begin with a population that has seen nothing."""
        self.facts = Facts(policy, fit(Sums(), policy))
        self.versions: set[int] = set()  # of the population, that stand in its topic
        self._settings = settings
        self._consumer: Consumer | None = None

    async def start(self) -> None:
        """Read all there is."""
        self._consumer, ends = await whole_topic(self._settings, "population")
        for place, end in ends.items():
            while await self._consumer.position(place) < end:
                await self._read()

    async def run(self) -> None:
        """Go on reading until cancelled."""
        while True:
            await self._read()

    async def stop(self) -> None:
        """Let go of the topic."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _read(self) -> None:
        """Take the newest of what has come; what cannot be used leaves the old one."""
        assert self._consumer is not None
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        newest = [record for records in fetched.values() for record in records]
        for record in newest:
            self._note(record.key, there=bool(record.value))
        values = [record.value for record in newest if record.value]
        if not values:
            return
        policy = self.facts.policy
        try:
            record = await asyncio.to_thread(msgspec.json.decode, values[-1], type=PopulationRecord)
            if record.version > self.facts.population.version:
                self.facts = Facts(policy, await asyncio.to_thread(population_of, record, policy))
        except (msgspec.DecodeError, InputError) as error:
            log.error("a population version is not used: %s", error)

    def _note(self, key: bytes | None, *, there: bool) -> None:
        if key and key.isdigit():
            (self.versions.add if there else self.versions.discard)(int(key))
