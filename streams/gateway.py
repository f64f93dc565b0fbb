"""An engine that is a cluster: what clients ask a worker over HTTP goes into topics, and answers come out of them.

Any worker takes what is of any user. A request goes into `requests`, and its decision is awaited in `feeds`, of
which every gateway reads the end; a request that is refused comes back as a dead letter.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Erase, ItemUpdate, Quarantine, Reaction, Request, Seen
from engine.pools import check_request
from engine.revisions import Revision, Revisions, StaleError
from streams.answers import RECENT_MS, Answers, Identity, decided
from streams.asking import BusyError, Change, Erased, Ordered, UnavailableError, check_slots
from streams.broker import Consumer, KafkaError, Place, Producer, partition_of, since
from streams.codec import encode
from streams.embedded import tried
from streams.facts import FactsReader, message_of
from streams.messages import Message
from streams.orders import RAW
from streams.settings import Settings
from streams.telling import alert
from streams.topics import retention_ms

log = logging.getLogger(__name__)

POLL_MS = 200
ANSWER_SECONDS_MAX = 10.0  # for a decision; a worker may have to take the user's partition over first
LOOK_SECONDS = 2.0  # after which it is looked for, in case that it was made long ago
FINDING_MAX = 2  # who look through `feeds` at a time
FIND_SECONDS_MAX = 10.0  # for a decision of long ago


class Gateway:
    """Asks the workers of a cluster."""

    def __init__(self, settings: Settings, facts: FactsReader, partitions: int) -> None:
        """Of topics with so many partitions; `start` connects."""
        self.trouble: str | None = "it is reading the end of feeds"
        self._settings = settings
        self._facts = facts
        self._partitions = partitions
        self._feeds, self._forgotten = settings.topic("feeds"), settings.topic("erased")
        self._producer = Producer(settings)
        self._reader: Consumer | None = None
        self._answers = Answers(facts.revisions.policy.memory.window_ms)
        self._finding = asyncio.Semaphore(FINDING_MAX)
        self._waiting = 0
        self._kept_ms: int | None = None

    async def start(self) -> None:
        """Connect, and read what was answered lately."""
        self._kept_ms = await asyncio.to_thread(retention_ms, self._settings, RAW)
        await self._producer.start()
        lately = _before_now(RECENT_MS)
        from_ms = {Place(self._feeds, number): lately for number in range(self._partitions)}
        from_ms |= {Place(self._settings.topic("dead-letters"), 0): lately, Place(self._forgotten, 0): 0}
        self._reader, ends = await since(self._settings, from_ms)
        for place, end in ends.items():
            while await self._reader.position(place) < end:
                await self._read()
        self.trouble = None

    async def run(self) -> None:
        """Go on reading until cancelled."""
        while True:
            await self._read()

    async def stop(self) -> None:
        """Disconnect; nobody waits any more."""
        self.trouble = "it is ending"
        self._answers.cancel()
        for client in (self._reader, self._producer):
            if client is not None:
                await client.stop()

    # What clients ask.

    async def ask(self, request: Request) -> Decision:
        """The decision of a request, as soon as a worker has made it; the same one if it has one already."""
        check_request(request, self.revisions.policy, self.revisions.retired)
        identity = (request.user, request.request_id)
        made = self._answers.at_hand(identity, _before_now(0)) or await self._asked(request, identity)
        check_slots(request, made.request.slots)
        return made

    async def _asked(self, request: Request, identity: Identity) -> Decision:
        """Send a request and wait for its decision; of one that was made long ago nobody says so: look for it."""
        done = self._answers.wait(identity)
        try:
            with self._counted():
                (place,) = await self._sent([Message("requests", request.user.encode(), encode(request))])
                self._answers.stands_at(place.partition, place.offset, done)
                for seconds in (LOOK_SECONDS, ANSWER_SECONDS_MAX - LOOK_SECONDS):
                    with suppress(TimeoutError):
                        return await asyncio.wait_for(asyncio.shield(done), seconds)
                    if (found := await self._looked_for(*identity)) is not None:
                        return found
        finally:
            self._answers.go(identity, done)
        raise UnavailableError("no worker has answered in time; ask again with the same id")

    async def report(self, reactions: Sequence[Reaction]) -> None:
        """Send reactions; they are with all replicas when this returns. Those that were sent twice count once."""
        for reaction in reactions:
            if not isinstance(reaction, Seen):
                self.revisions.check_action(reaction.action)
        with self._counted():
            await self._sent(
                [Message("feedback", reaction.user.encode(), encode(reaction)) for reaction in reactions]
            )

    async def put(self, items: Sequence[ItemUpdate]) -> None:
        """Send what is known of items; workers read it a moment later."""
        with self._counted():
            await self._sent([Message("items", update.item.encode(), encode(update)) for update in items])

    async def erase(self, user: str) -> Erased:
        """Order it; the user's worker obeys when it reads it."""
        (place,) = await self._sent([Message("feedback", user.encode(), encode(Erase(user=user)))])
        self._answers.forget(user, place.timestamp)
        lapse = None if self._kept_ms is None else place.timestamp + self._kept_ms
        return Erased(user, place.timestamp, lapse)

    async def quarantine(self, what: Quarantine) -> Ordered:
        """Order it; workers obey when they read it."""
        numbers = [None] if what.user is not None else list(range(self._partitions))
        key = None if what.user is None else what.user.encode()
        places = await self._sent([Message("feedback", key, encode(what), partition=number) for number in numbers])
        return Ordered(len(places), max(place.timestamp for place in places))

    @property
    def revisions(self) -> Revisions:
        """The policies that this worker knows, the one in force last."""
        return self._facts.revisions

    async def refuse_policy(self, why: str, reason: str) -> None:
        """Say where an operator looks that a policy was refused."""
        said = f"{why}: refused, revision {self.revisions.number} stays in force: {reason}"
        await alert(self._producer, "policy-refused", said)

    async def apply(self, change: Change) -> Revision:
        """Send it, and wait until this worker has read it; the others do a moment sooner or later."""
        if change.policy.version == self.revisions.policy.version:
            return self.revisions.history[-1]
        try:
            record = change.record(self.revisions.number)
            self.revisions.check(record)
            await asyncio.to_thread(tried, change.policy)
        except StaleError:
            raise  # it may be as good as the other one
        except InputError as error:
            await self.refuse_policy(change.why, str(error))
            raise
        await self._sent([message_of(record)])
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await self._facts.until(lambda: self.revisions.number >= record.number)
        if self.revisions.number < record.number:
            raise UnavailableError("the policy was sent, and this worker has not read it yet")
        for taken in self.revisions.history:
            if (taken.number, taken.version) == (record.number, record.version):
                return taken
        raise StaleError(f"somebody else was faster, and revision {record.number} is another policy")

    async def find(self, user: str, request_id: str) -> Decision | None:
        """A decision that still takes reactions; one of long ago has to be looked for in `feeds`."""
        known = self._answers.at_hand((user, request_id), _before_now(0))
        if known is not None:
            return known
        with self._counted():
            return await self._looked_for(user, request_id)

    async def _looked_for(self, user: str, request_id: str) -> Decision | None:
        """The decision of an id, from as far back as it would still take reactions; a few look at a time."""
        place = Place(self._feeds, partition_of(user.encode(), self._partitions))
        window_ms = self.revisions.policy.memory.window_ms
        try:
            async with asyncio.timeout(FIND_SECONDS_MAX), self._finding:
                reader, ends = await since(self._settings, {place: _before_now(window_ms)})
                try:
                    found = await _found(reader, ends, user, request_id)
                finally:
                    await reader.stop()
        except TimeoutError:
            raise UnavailableError("feeds could not be looked through in time; ask again later") from None
        except KafkaError as error:
            raise UnavailableError(f"feeds cannot be read: {error!r}") from error
        return found if found is not None and self._answers.counts(found) else None

    def gauges(self) -> dict[str, float]:
        """What an operator watches, by name."""
        return {
            "ready": float(self.trouble is None),
            "waiting": self._waiting,
            "policy_revision": self.revisions.number,
        }

    async def _sent(self, messages: Sequence[Message]) -> list[Any]:
        """Send messages, and where each stands; they are acknowledged by all replicas in sync."""
        if self.trouble:
            raise UnavailableError(self.trouble)
        try:
            return await asyncio.gather(*[await self._producer.send(message) for message in messages])
        except KafkaError as error:
            raise UnavailableError(f"Kafka does not take it: {error!r}") from error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count who waits. Raises BusyError where it would be too many."""
        if self._waiting >= self._settings.http_pending_max:
            raise BusyError(f"{self._waiting} requests are waiting already")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    # What comes back.

    async def _read(self) -> None:
        assert self._reader is not None
        try:
            fetched = await self._reader.getmany(timeout_ms=POLL_MS)
        except KafkaError as error:
            log.warning("feeds could not be read, trying again: %r", error)
            return
        for place, records in fetched.items():
            for record in records:
                if place.topic == self._feeds:
                    self._answers.take_decision(record)
                elif place.topic == self._forgotten:
                    self._answers.take_erased(record)
                else:
                    self._answers.take_letter(record)


async def _found(reader: Consumer, ends: dict[Place, int], user: str, request_id: str) -> Decision | None:
    """The first decision of this id, up to where the partition ended."""
    ((place, end),) = ends.items()
    while await reader.position(place) < end:
        for records in (await reader.getmany(place, timeout_ms=POLL_MS)).values():
            for record in records:
                decision = decided(record.value) if record.key == user.encode() else None
                if decision is not None and decision.request.request_id == request_id:
                    return decision
    return None


def _before_now(ms: int) -> int:
    return round(1000 * time.time()) - ms
