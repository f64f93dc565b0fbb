"""The workers' group: takes over partitions, turns their records, and sends before it keeps.

A turn answers requests first, then folds reactions of one partition, so that neither waits long for the other. What
a turn decides is acknowledged in `feeds` before anything of it is kept; if that fails, what is in memory is dropped
and folded again from the store and from what `feeds` holds. A few turns are kept at a time, in one write batch for
each partition.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

import msgspec

from engine.errors import InputError
from engine.events import Tick
from engine.policy import Policy
from streams.broker import (
    Consumer,
    ConsumerRecord,
    KafkaError,
    Place,
    Producer,
    Rebalanced,
    group_member,
    plain,
)
from streams.codec import encode
from streams.facts import FactsReader
from streams.failpoints import passing
from streams.fitter import Fitter
from streams.partition import Message, Partition, version_at
from streams.recovery import refold
from streams.settings import Settings
from streams.store import PartitionStore

log = logging.getLogger(__name__)

INPUTS = ("requests", "feedback")
WAIT_MS = 50  # for records, when there are none
STOP_SECONDS = 0.8  # for each step of leaving
TICK_SECONDS = 0.5  # at least, between two ticks of one partition
RETRY_SECONDS = 1.0  # after the broker refused something


Sent = tuple[Message, "asyncio.Future[object]"]


class Partitions(Rebalanced):  # type: ignore[misc]  # it has no type hints
    """The partitions that this worker owns."""

    def __init__(self, settings: Settings, policy: Policy, facts: FactsReader, partitions: int) -> None:
        """Of topics with so many partitions."""
        self.owned: dict[int, Partition] = {}
        self._settings = settings
        self._policy = policy
        self._facts = facts
        self._partitions = partitions
        self._producer = Producer(settings)
        self._requests = settings.topic("requests")
        self._feedback = settings.topic("feedback")
        self._consumer: Consumer = group_member(settings, self, INPUTS)
        self._stores: dict[int, PartitionStore] = {}
        self._assigned: set[int] = set()
        self._pending: dict[Place, deque[ConsumerRecord]] = {}
        self._quiet_since: dict[int, float] = {}  # since the latest reaction came
        self._ticked: dict[int, float] = {}
        self._turning = asyncio.Lock()  # held while records and state belong together
        self._next = 0  # of the partitions whose reactions are turned
        self._unkept: set[int] = set()  # partitions with turns that are acknowledged and not yet written
        self._kept_at = 0.0
        self._looped_at = time.monotonic()
        self._offsets_due = self._lags_due = 0.0
        self._fitter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the group."""
        await self._producer.start()
        await self._consumer.start()

    async def run(self) -> None:
        """Turn until cancelled; a cancellation waits for the end of the turn, if it comes soon."""
        while True:
            await self._take_over()
            await self._fetch()
            self._drop_after_a_stall()
            turn = asyncio.ensure_future(self._turn())
            try:
                await asyncio.shield(turn)
            except asyncio.CancelledError:
                await asyncio.wait({turn}, timeout=STOP_SECONDS)
                turn.cancel()  # if it is not acknowledged by now: it drops what it did, which is folded again later
                await asyncio.wait({turn})
                raise

    async def stop(self) -> None:
        """Keep everything, tell the broker how far we came, and leave the group; without a broker, just leave."""
        self._keep()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._tell_offsets(), STOP_SECONDS)
        self._let_go(list(self.owned))
        for client in (self._consumer, self._producer):
            with suppress(TimeoutError):
                await asyncio.wait_for(client.stop(), STOP_SECONDS)

    def _drop_after_a_stall(self) -> None:
        """After a pause longer than a session others may own our partitions: what is at hand is ours no more."""
        now = time.monotonic()
        if self.owned and now - self._looped_at > self._settings.session_ms / 1000.0:
            log.warning(
                "this worker stood still for %.1f s; its partitions are taken over anew", now - self._looped_at
            )
            self._unkept.clear()
            self._let_go(list(self.owned))
        self._looped_at = now

    # What the group tells us.

    async def on_partitions_revoked(self, revoked: Iterable[Place]) -> None:
        """Let go of partitions between two turns."""
        lost = {place.partition for place in revoked}
        self._assigned -= lost
        async with self._turning:
            self._keep()
            await self._tell_offsets()
            self._let_go(lost & self.owned.keys())

    async def on_partitions_assigned(self, assigned: Iterable[Place]) -> None:
        """Remember what is ours now; the next turn takes it over."""
        places = set(assigned)
        requests = {place.partition for place in places if place.topic == self._requests}
        feedback = {place.partition for place in places if place.topic == self._feedback}
        assert requests == feedback, "requests and feedback of one partition must have one owner"
        self._assigned = requests

    # Taking over and letting go.

    async def _take_over(self) -> None:
        for number in sorted(self._assigned - self.owned.keys()):
            try:
                async with self._turning:
                    await self._recover(number)
            except KafkaError as error:
                log.warning("partition %d could not be taken over, trying again: %r", number, error)
                await asyncio.sleep(RETRY_SECONDS)
        if 0 in self.owned and self._fitter is None:
            fitter = Fitter(self._settings, self._facts, self._producer, self._partitions)
            self._fitter = asyncio.create_task(fitter.run())

    async def _recover(self, number: int) -> None:
        """Open a partition's store, and fold what it has not seen of `feeds` and `feedback`."""
        store = await asyncio.to_thread(PartitionStore, self._settings.state_folder / f"partition-{number}")
        try:
            partition = Partition(
                number,
                self._policy,
                store,
                partitions=self._partitions,
                value_bytes_max=self._settings.value_bytes_max,
                users_cached=self._settings.users_cached,
            )
            await self._refuse_other_topics(partition)
            await refold(partition, self._settings, self._sent, lambda: number in self._assigned)
        except BaseException:
            store.close()
            raise
        if number not in self._assigned:  # lost meanwhile; what was folded again is kept
            store.close()
            return
        position = partition.position
        for topic, offset in ((self._requests, position.requests), (self._feedback, position.feedback)):
            self._consumer.seek(Place(topic, number), offset)
            self._pending[Place(topic, number)] = deque()
        self._stores[number], self.owned[number] = store, partition
        self._quiet_since[number] = self._ticked[number] = self._looped_at = time.monotonic()
        log.info("partition %d is taken over at %s", number, position)

    async def _refuse_other_topics(self, partition: Partition) -> None:
        """Raise InputError where a topic ends before what the store has seen of it: it is not the same topic."""
        seen = {
            Place(self._settings.topic(name), partition.number): offset
            for name, offset in partition.position.offsets().items()
        }
        for place, end in (await self._consumer.end_offsets(list(seen))).items():
            if seen[place] > end:
                raise InputError(
                    f"the state of partition {partition.number} has seen {place.topic} up to offset {seen[place]} "
                    f"and it ends at {end}: the topic was made anew, so remove {self._settings.state_folder}"
                )

    def _let_go(self, numbers: Iterable[int]) -> None:
        """Close the stores of partitions; what they have not kept is dropped."""
        for number in list(numbers):
            del self.owned[number]
            self._stores.pop(number).close()
            for topic in (self._requests, self._feedback):
                self._pending.pop(Place(topic, number), None)
        if self._fitter is not None and 0 not in self.owned:
            self._fitter.cancel()
            self._fitter = None

    # Turning.

    async def _fetch(self) -> None:
        """Get records for what has none at hand; wait for some if nothing has any."""
        if not self._pending:
            await asyncio.sleep(WAIT_MS / 1000.0)  # for partitions
        empty = [place for place, records in self._pending.items() if not records]
        if not empty:
            return
        waiting = len(empty) == len(self._pending)
        try:
            fetched = await self._consumer.getmany(*empty, timeout_ms=WAIT_MS if waiting else 0)
        except KafkaError as error:
            log.warning("nothing could be fetched, trying again: %r", error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        for place, records in fetched.items():
            if place in self._pending:  # else it was lost while we waited
                self._pending[place].extend(records)
                if place.topic == self._feedback:
                    self._quiet_since[place.partition] = time.monotonic()

    async def _turn(self) -> None:
        async with self._turning:
            touched: set[int] = set()
            try:
                await self._work(touched)
            except BaseException as error:
                # Half of it may have been sent: what is in memory of these partitions is no longer what they are.
                self._unkept -= touched
                self._let_go(touched & self.owned.keys())
                if not isinstance(error, KafkaError):
                    raise
                log.warning("a turn was not acknowledged; its partitions are folded again: %r", error)
                await asyncio.sleep(RETRY_SECONDS)
                return
            now = time.monotonic()
            if self._unkept and now >= self._kept_at + self._keep_after():
                self._keep()
                self._kept_at = now
        if now >= self._offsets_due:
            self._offsets_due = now + self._settings.offsets_every_ms / 1000.0
            await self._tell_offsets()
        if now >= self._lags_due:
            self._lags_due = now + self._settings.lags_every_ms / 1000.0
            await self._tell_lags()
        await self._tick(now)

    async def _work(self, touched: set[int]) -> None:
        """Requests of all partitions, reactions of the next; acknowledged, then kept."""
        facts = self._facts.facts
        messages: list[Message] = []
        for number, partition in self.owned.items():
            for record in self._taken(self._requests, number, self._settings.requests_per_turn):
                touched.add(number)
                messages += partition.answer(plain(record), facts)
        # A decision in `feeds` says that all requests before it are dealt with: so dead letters go before it.
        await self._sent([message for message in messages if message.topic == "dead-letters"])
        decided = await self._on_their_way([message for message in messages if message.topic == "feeds"])
        messages = []
        turned = self._next_with_reactions()
        if turned is not None:
            touched.add(turned)
            records = self._taken(self._feedback, turned, self._settings.reactions_per_turn)
            for record in records:
                messages += self.owned[turned].react(plain(record), records[-1].timestamp)
        rest = await self._on_their_way(messages)
        passing("before-acknowledgement")
        await self._acknowledged(decided + rest)
        if decided or rest:
            passing("after-acknowledgement")
        self._unkept |= touched

    def _keep_after(self) -> float:
        """How many seconds to wait for the next write batch: longer where more than a turn is waiting."""
        busy = max(map(len, self._pending.values())) >= self._settings.reactions_per_turn
        return (self._settings.keep_busy_ms if busy else self._settings.keep_every_ms) / 1000.0

    def _keep(self) -> None:
        """Write what the turns since the last time have changed; all of it is acknowledged."""
        for number in sorted(self._unkept):
            self.owned[number].commit()
        self._unkept.clear()
        passing("after-batch")

    def _taken(self, topic: str, number: int, most: int) -> list[ConsumerRecord]:
        pending = self._pending[Place(topic, number)]
        return [pending.popleft() for _ in range(min(most, len(pending)))]

    def _next_with_reactions(self) -> int | None:
        """The partitions take turns."""
        numbers = [number for number in self.owned if self._pending[Place(self._feedback, number)]]
        if not numbers:
            return None
        self._next += 1
        return numbers[self._next % len(numbers)]

    async def _on_their_way(self, messages: Sequence[Message]) -> list[Sent]:
        sent = []
        for message in messages:
            try:
                sent.append((message, await self._producer.send(message)))
            except KafkaError as error:
                _pass_over(message, error)
        if sent:
            await asyncio.sleep(0)  # so that the client writes them before we go on
        return sent

    async def _acknowledged(self, sent: Sequence[Sent]) -> None:
        """Wait for all of them. Raises the first KafkaError, after what became of each is known."""
        if not sent:
            return
        results = await asyncio.gather(*(future for _, future in sent), return_exceptions=True)
        for (message, _), result in zip(sent, results, strict=True):
            if isinstance(result, BaseException):
                _pass_over(message, result)
            elif message.topic == "feeds" and message.partition is not None:
                self.owned[message.partition].sent(getattr(result, "offset", -1) + 1)

    async def _sent(self, messages: Sequence[Message]) -> None:
        await self._acknowledged(await self._on_their_way(messages))

    # What others read of us.

    async def _tell_offsets(self) -> None:
        """For lag tools alone: where we go on is in the stores."""
        offsets = {}
        for number, partition in self.owned.items():
            offsets[Place(self._requests, number)] = partition.position.requests
            offsets[Place(self._feedback, number)] = partition.position.feedback
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:
            log.info("the broker was not told our offsets: %r", error)

    async def _tell_lags(self) -> None:
        """How many records of a partition wait to be turned."""
        for number in list(self.owned):
            if number not in self.owned:  # let go while we sent
                continue
            lags = {name: self._lag(Place(self._settings.topic(name), number)) for name in INPUTS}
            value = {"name": "lag", "partition": number, **lags}
            with suppress(KafkaError):  # the next one will do
                await self._producer.send(Message("metrics", b"lag", msgspec.json.encode(value)))

    def _lag(self, place: Place) -> int:
        position = self.owned[place.partition].position
        ours = position.requests if place.topic == self._requests else position.feedback
        return max((self._consumer.highwater(place) or 0) - ours, 0)

    async def _tick(self, now: float) -> None:
        """Move the clock of partitions whose users are silent, so that what is due closes and versions go on.

        By the log's own time, as far as it is known: a tick is due when a population version is.
        """
        for number, partition in list(self.owned.items()):
            position = partition.position
            log_ms = position.clock_ms + round(1000 * (now - self._quiet_since[number]))
            if version_at(log_ms, self._policy) > position.version and now >= self._ticked[number] + TICK_SECONDS:
                self._ticked[number] = now
                with suppress(KafkaError):  # the next one will do
                    await self._producer.send(Message("feedback", None, encode(Tick()), partition=number))


def _pass_over(message: Message, error: BaseException) -> None:
    """Raise what a message could not be sent for; but sums are sent again with the next version."""
    if message.topic != "sums" or not isinstance(error, KafkaError):
        raise error
    log.error("the sums of partition %s are not published: %r", message.partition, error)
