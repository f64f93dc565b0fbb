"""The facts that all workers share: read whole from their topics, and switched whole."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.catalogue import CatalogueWriter
from engine.errors import InputError
from engine.facts import Facts
from engine.policy import Policy
from engine.population import Population, Sums, fit
from engine.population_record import PopulationRecord, population_of
from engine.revisions import PolicyRecord, Revisions, next_record
from streams.broker import Consumer, ConsumerRecord, KafkaError, Place, Producer, whole_topic
from streams.codec import decode_item
from streams.embedded import tried
from streams.messages import Message
from streams.policy_watch import FileNews, changes
from streams.sending import acknowledged, on_their_way, send
from streams.settings import Settings
from streams.telling import alert

log = logging.getLogger(__name__)

POLL_MS = 500

_populations = msgspec.json.Decoder(PopulationRecord)  # made before there are threads, as in streams/partition.py


class Refused(NamedTuple):
    """A record of topic `policy` that is not in force, and why."""

    offset: int
    reason: str
    at: float  # the process's own clock, in seconds


def message_of(record: PolicyRecord) -> Message:
    """A revision on its way to topic `policy`."""
    return Message("policy", record.key.encode(), msgspec.json.encode(record))


class FactsReader:
    """Keeps the newest facts. A micro-batch takes `facts` once, so it never straddles a change."""

    def __init__(self, settings: Settings, said: Policy | InputError | None) -> None:
        """Begin with a population that has seen nothing. `said` is what a file says, or why it says nothing."""
        policy = said if isinstance(said, Policy) else None
        first = policy or Policy()
        own = policy.plug_ins if policy else frozenset[str]()
        self.revisions = Revisions(first, own | settings.plug_in_kinds)
        self.news = FileNews(policy)
        self._said = said
        self.facts = Facts(first, fit(Sums(), first))
        self.refused: list[Refused] = []  # that came since `start`, until somebody tells
        self.unusable: list[str] = []  # what is in force and no use here, until it is told
        self._tried = 0  # the revision that was tried last
        self._policies_to = 0  # the next offset of topic `policy`
        self._has_read = asyncio.Condition()
        self.versions: set[int] = set()  # of the population, that stand in its topic
        self._settings = settings
        self._catalogue = CatalogueWriter()
        self._consumer: Consumer | None = None

    async def start(self) -> None:
        """Read all there is, and see to it that there is a policy."""
        self._consumer, ends = await whole_topic(self._settings, "policy", "population", "items")
        for place, end in ends.items():
            while await self._consumer.position(place) < end:
                await self._read()
        self.refused.clear()  # it was told when it came
        await self._begin_policy()

    async def _begin_policy(self) -> None:
        """Put what the file says into force, if nobody has ever said it; or the defaults, if there is nothing.

        Raises InputError where no feed can be made by what is in force.
        """
        if isinstance(self._said, InputError):
            if not self.revisions.number:
                raise self._said
            log.error("%s; the policy that is in force stays", self._said)
        elif self.news.due(self.revisions):
            newest = self.revisions.number
            why = "the file has changed" if newest else "the first policy"
            policy = self.news.policy or self.revisions.policy
            record = next_record(policy, newest, "feedloom worker", why, "file")
            producer = Producer(self._settings)
            await producer.start()
            try:
                ((_, offset),) = await acknowledged(await on_their_way(producer, [message_of(record)]))
            finally:
                await producer.stop()
            while self._policies_to <= offset:
                await self._read()
        if self.news.policy and self.news.policy.version != self.revisions.policy.version:
            log.warning("the policy file is not what is in force: `feedloom policy apply` puts it there")
        if self.unusable:
            raise InputError(self.unusable[0])

    async def read_policies(self) -> None:
        """Return when all is read that stands in `policy` now."""
        assert self._consumer is not None
        place = Place(self._settings.topic("policy"), 0)
        end = (await self._consumer.end_offsets([place]))[place]
        await self.until(lambda: self._policies_to >= end)

    async def until(self, done: Callable[[], bool]) -> None:
        """Return when what was read makes it so; `run` reads."""
        async with self._has_read:
            await self._has_read.wait_for(done)

    async def run(self) -> None:
        """Go on reading until cancelled."""
        while True:
            await self._read()
            async with self._has_read:
                self._has_read.notify_all()

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
        policy = await self._take_policies(come.get(self._settings.topic("policy"), []))
        population = await self._newest(come.get(self._settings.topic("population"), []))
        await asyncio.to_thread(take_items, self._catalogue, come.get(self._settings.topic("items"), []))
        catalogue = self._catalogue.version()
        known = self.facts
        now, before = (policy, population, catalogue), (known.policy, known.population, known.catalogue)
        if any(one is not other for one, other in zip(now, before, strict=True)):
            self.facts = Facts(policy, population, catalogue, known=known.items, retired=self.revisions.retired)
            if policy is not known.policy:
                log.info("feeds are made by revision %d of the policy", self._tried)

    async def _take_policies(self, records: Sequence[ConsumerRecord]) -> Policy:
        """The policy to make feeds by: the one in force, or the one before where that fails here."""
        for record in records:
            self._policies_to = record.offset + 1
            try:
                self.revisions.take(record.value or b"", record.timestamp)
            except InputError as error:
                log.error("offset %d of topic %s is refused: %s", record.offset, record.topic, error)
                self.refused.append(Refused(record.offset, str(error), time.monotonic()))
        if self.revisions.number == self._tried:
            return self.facts.policy
        self._tried, policy = self.revisions.number, self.revisions.policy
        try:
            await asyncio.to_thread(tried, policy)  # so that no request waits for what is new in it
        except InputError as error:
            self.unusable.append(f"revision {self._tried} of the policy is in force and fails here: {error}")
            return self.facts.policy
        return policy

    async def _newest(self, records: Sequence[ConsumerRecord]) -> Population:
        """The newest version of the population."""
        for record in records:
            self._note(record.key, there=bool(record.value))
        known = self.facts.population
        values = [record.value for record in records if record.value]
        if not values:
            return known
        try:
            newest = await asyncio.to_thread(_populations.decode, values[-1])
            return await asyncio.to_thread(population_of, newest) if newest.version > known.version else known
        except msgspec.DecodeError as error:
            log.error("a population version is not used: %s", error)
            return known

    def _note(self, key: bytes | None, *, there: bool) -> None:
        if key and key.isdigit():
            (self.versions.add if there else self.versions.discard)(int(key))


async def publishing(settings: Settings, facts: FactsReader, path: Path) -> None:
    """Publish each policy that its file comes to hold; what cannot be read is said, and the old one stays."""
    producer = Producer(settings)
    await producer.start()
    try:
        async for found in changes(path):
            try:
                if isinstance(found, InputError):
                    raise found
                if not facts.news.is_new(found, facts.revisions):
                    continue
                newest, why = facts.revisions.number, f"{path.name} has changed"
                record = next_record(found, newest, "feedloom worker", why, "file")
                await send(producer, [message_of(record)])
            except InputError as error:
                await alert(producer, "policy-refused", f"the policy file is not put into force: {error}")
            except KafkaError as error:
                log.error("the policy file cannot be published, until it changes again: %r", error)
    finally:
        await producer.stop()


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
