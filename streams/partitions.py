"""The loop of turns: records of the partitions that are ours become decisions and state, sent before they are kept.

A turn answers requests first, then folds reactions of one partition, so that neither waits long for the other. What
a turn decides is acknowledged in `feeds` before anything of it is kept; if that fails, what is in memory is dropped
and folded again from the store and from what `feeds` holds. A few turns are kept at a time, in one write batch for
each partition.
"""

import asyncio
import logging
import time
from contextlib import suppress

from engine.events import Switch, Tick
from streams.broker import ConsumerRecord, KafkaError, Place, Producer, plain
from streams.codec import encode
from streams.facts import FactsReader
from streams.failpoints import passing
from streams.fitter import Fitter
from streams.messages import Message
from streams.ownership import RETRY_SECONDS, STOP_SECONDS, Ownership
from streams.partition import NotYetKnownError, Partition, version_at
from streams.remaking import Remaking
from streams.sending import acknowledged, on_their_way, send
from streams.settings import Settings
from streams.store_folder import StoreError
from streams.telling import alert, tell_lag, tell_metric, tell_offsets

log = logging.getLogger(__name__)

WAIT_MS = 50  # for records, when there are none
REFUSED_SECONDS = 10.0  # that a refused policy is remembered by who is not to tell of it
TICK_SECONDS = 0.5  # at least, between two ticks of one partition


class AnotherOwnerError(KafkaError):  # type: ignore[misc]  # it has no type hints
    """In `feeds` stands something that we have not written."""


class StalledError(KafkaError):  # type: ignore[misc]  # it has no type hints
    """We stood still for longer than our session."""


class Partitions:
    """The partitions that this worker owns."""

    def __init__(self, settings: Settings, facts: FactsReader, partitions: int) -> None:
        """Of topics with so many partitions."""
        self._settings = settings
        self._facts = facts
        self._partitions = partitions
        self._producer = Producer(settings)
        self._ownership = Ownership(settings, facts, self._producer, partitions)
        self._owned = self._ownership.owned
        self._remaking = Remaking(settings, self._ownership, self._producer)
        self._next = 0  # of the partitions whose reactions are turned
        self._kept_at = 0.0
        self._looped_at = time.monotonic()
        self._offsets_due = self._lags_due = 0.0
        self._fitter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the group."""
        await self._producer.start()
        await self._ownership.consumer.start()

    async def run(self) -> None:
        """Turn until cancelled; a cancellation waits for the end of the turn, if it comes soon."""
        self._looped_at = time.monotonic()
        while True:
            await self._leave_after_a_stall()
            await self._ownership.take_over()
            self._remaking.go_on()
            self._fit_if_ours()
            await self._tell_refused()
            await self._fetch()
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
        if self._fitter is not None:
            self._fitter.cancel()
        await self._remaking.stop()
        await self._ownership.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._producer.stop(), STOP_SECONDS)

    async def _leave_after_a_stall(self) -> None:
        """After a pause longer than a session others may own our partitions: what is at hand is ours no more."""
        paused = self._paused()
        self._looped_at = time.monotonic()
        if self._ownership.assigned and paused > self._settings.session_ms / 1000.0:
            await self._ownership.leave(f"this worker stood still for {paused:.1f} s")

    def _paused(self) -> float:
        return time.monotonic() - self._looped_at

    def _fit_if_ours(self) -> None:
        """The owner of partition 0 is the fitter."""
        if self._fitter is None and 0 in self._owned:
            fitter = Fitter(self._settings, self._facts, self._producer, self._partitions)
            self._fitter = asyncio.create_task(fitter.run())
        elif self._fitter is not None and 0 not in self._owned:
            self._fitter.cancel()
            self._fitter = None

    async def _tell_refused(self) -> None:
        """Say which policies were refused: the owner of partition 0, or each worker would; and what fails here."""
        refused, unusable = self._facts.refused, self._facts.unusable
        self._facts.refused, self._facts.unusable = [], []
        for said in unusable:
            await alert(self._producer, "policy-unusable", said)
        if 0 not in self._owned:  # whoever has it tells; nobody may have it for a moment
            recently = time.monotonic() - REFUSED_SECONDS
            self._facts.refused = [one for one in refused if one.at > recently] + self._facts.refused
            return
        for offset, reason, _ in refused:
            kept = self._facts.revisions.number
            said = f"the policy at offset {offset} is refused and revision {kept} stays in force: {reason}"
            await alert(self._producer, "policy-refused", said, offset=offset, revision=kept)

    async def _fetch(self) -> None:
        """Get records for what has none at hand; wait for some if nothing has any."""
        if not self._owned:
            await asyncio.sleep(WAIT_MS / 1000.0)  # for partitions
        queues = {
            Place(self._settings.topic(name), number): (name, number, records)
            for number, held in self._owned.items()
            for name, records in held.pending.items()
        }
        empty = [place for place, (_, _, records) in queues.items() if not records]
        if not empty:
            return
        waiting = len(empty) == len(queues)
        try:
            fetched = await self._ownership.consumer.getmany(*empty, timeout_ms=WAIT_MS if waiting else 0)
        except KafkaError as error:
            log.warning("nothing could be fetched, trying again: %r", error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        for place, records in fetched.items():
            name, number, queue = queues[place]
            held = self._owned.get(number)
            if held is None or held.pending[name] is not queue:
                continue  # it was lost while we waited
            queue.extend(records)
            if name == "feedback":
                held.quiet_since = time.monotonic()

    async def _turn(self) -> None:
        async with self._ownership.turning:
            if not await self._worked():
                return
            now = time.monotonic()
            unkept = any(held.unkept for held in self._owned.values())
            if unkept and now >= self._kept_at + self._keep_after():
                self._ownership.keep()
                passing("after-batch")
                self._kept_at = now
            self._ownership.go_on_with_checkpoints()
        if now >= self._offsets_due:
            self._offsets_due = now + self._settings.offsets_every_ms / 1000.0
            positions = [(number, held.partition.position.offsets()) for number, held in self._owned.items()]
            await tell_offsets(self._ownership.consumer, self._settings, positions)
        if now >= self._lags_due:
            self._lags_due = now + self._settings.lags_every_ms / 1000.0
            await self._tell_metrics()
        await self._tick(now)

    async def _worked(self) -> bool:
        """One turn of work; False if it had to be dropped."""
        touched: set[int] = set()
        try:
            await self._work(touched)
        except BaseException as error:
            # Half of it may have been sent: what is in memory of these partitions is no longer what they are.
            self._ownership.let_go(touched)
            if not isinstance(error, KafkaError | StoreError):
                raise
            log.warning("a turn was not acknowledged; its partitions are folded again: %r", error)
            if not isinstance(error, AnotherOwnerError | StalledError | StoreError):
                await asyncio.sleep(RETRY_SECONDS)
            return False
        for number in touched:
            self._owned[number].unkept = True
        return True

    async def _work(self, touched: set[int]) -> None:
        """Requests of all partitions, reactions of the next; acknowledged, then ready to be kept."""
        facts = self._facts.facts
        messages: list[Message] = []
        for number, held in self._owned.items():
            for record in self._taken("requests", number, self._settings.requests_per_turn):
                touched.add(number)
                messages += held.partition.answer(plain(record), facts)
        # A decision in `feeds` says that all requests before it are dealt with: so dead letters go before it.
        await self._send([message for message in messages if message.topic == "dead-letters"])
        self._refuse_after_a_stall()
        decided = await on_their_way(self._producer, [m for m in messages if m.topic == "feeds"])
        messages = []
        turned = self._next_with_reactions()
        if turned is not None:
            touched.add(turned)
            records = self._taken("feedback", turned, self._settings.reactions_per_turn)
            try:
                for record in records:
                    messages += await self._reacted(self._owned[turned].partition, record, records[-1].timestamp)
            except StoreError:
                await acknowledged(decided)  # or what is folded again would not see them, and decide once more
                raise
        rest = await on_their_way(self._producer, messages)
        passing("before-acknowledgement")
        self._note_offsets(await acknowledged(decided + rest))
        if decided or rest:
            passing("after-acknowledgement")

    async def _reacted(self, partition: Partition, record: ConsumerRecord, last_ms: int) -> list[Message]:
        """Fold a reaction; what it names may stand in `policy` by now, and not have been read."""
        try:
            return partition.react(plain(record), last_ms, sure=False)
        except NotYetKnownError:
            await self._facts.read_policies()
            return partition.react(plain(record), last_ms)

    async def _send(self, messages: list[Message]) -> None:
        await send(self._producer, messages)

    def _refuse_after_a_stall(self) -> None:
        """What was decided before a pause longer than a session is another's to decide."""
        if self._paused() > self._settings.session_ms / 1000.0:
            raise StalledError(f"this worker stood still for {self._paused():.1f} s in the middle of a turn")

    def _note_offsets(self, offsets: list[tuple[Message, int]]) -> None:
        """Where decisions stand in `feeds`: one behind the other, as long as nobody else writes there."""
        for message, offset in offsets:
            if message.topic == "feeds" and message.partition is not None:
                partition = self._owned[message.partition].partition
                if offset != partition.position.feeds:
                    raise AnotherOwnerError(
                        f"in feeds of partition {message.partition} our decision stands at {offset} instead of "
                        f"{partition.position.feeds}: somebody else wrote there"
                    )
                partition.sent(offset + 1)

    def _keep_after(self) -> float:
        """How many seconds to wait for the next write batch: longer where more than a turn is waiting."""
        waiting = max((len(queue) for held in self._owned.values() for queue in held.pending.values()), default=0)
        busy = waiting >= self._settings.reactions_per_turn
        return (self._settings.keep_busy_ms if busy else self._settings.keep_every_ms) / 1000.0

    def _taken(self, topic: str, number: int, most: int) -> list[ConsumerRecord]:
        pending = self._owned[number].pending[topic]
        return [pending.popleft() for _ in range(min(most, len(pending)))]

    def _next_with_reactions(self) -> int | None:
        """The partitions take turns."""
        numbers = [number for number, held in self._owned.items() if held.pending["feedback"]]
        if not numbers:
            return None
        self._next += 1
        return numbers[self._next % len(numbers)]

    async def _tell_metrics(self) -> None:
        """Of each partition how many records wait, and what its last checkpoint took."""
        for number, held in list(self._owned.items()):
            offsets = held.partition.position.offsets()
            await tell_lag(self._ownership.consumer, self._producer, self._settings, number, offsets)
            made = held.checkpoints
            if made.keys:
                await tell_metric(
                    self._producer, "checkpoint", partition=number, keys=made.keys, ms=round(1000 * made.seconds)
                )

    async def _tick(self, now: float) -> None:
        """Move the clock of partitions whose users are silent, so that what is due closes and versions go on.

        By the log's own time, as far as it is known: a tick is due when a population version is. And write into
        `feedback` from where on a partition is folded by the policy in force.
        """
        for number, held in list(self._owned.items()):
            if held.partition.position.policy != held.told_policy:
                held.told_policy = held.partition.position.policy
                await tell_metric(self._producer, "policy", partition=number, revision=held.told_policy)
            if held.partition.outdated and now >= held.switched + TICK_SECONDS:
                held.switched = now
                switch = Switch(number=self._facts.revisions.number)
                with suppress(KafkaError):
                    await self._producer.send(Message("feedback", None, encode(switch), partition=number))
            position = held.partition.position
            log_ms = position.clock_ms + round(1000 * (now - held.quiet_since))
            if (
                version_at(log_ms, self._facts.facts.policy) > position.version
                and now >= held.ticked + TICK_SECONDS
            ):
                held.ticked = now
                with suppress(KafkaError):  # the next one will do
                    await self._producer.send(Message("feedback", None, encode(Tick()), partition=number))
