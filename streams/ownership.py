"""Taking over partitions and letting go of them, as the group says.

A partition is taken over in a task of its own, beside the turns of those that are ours already: its store is
brought to where its topics end, then it gets its turns. Whoever takes it over fences the owner before; an owner
that finds itself fenced, or was asleep for longer than its session, lets go and waits until the group gives it
something anew.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from engine.errors import InputError
from streams.broker import (
    Consumer,
    ConsumerRecord,
    KafkaError,
    Place,
    Producer,
    Rebalanced,
    group_member,
)
from streams.checkpoints import Checkpoints
from streams.facts import FactsReader
from streams.messages import Input
from streams.partition import Partition
from streams.recovery import refold, store_of
from streams.sending import send
from streams.settings import Settings
from streams.store import PartitionStore
from streams.store_folder import StoreDamagedError, StoreError, StoreFullError
from streams.telling import INPUTS, alert, tell_offsets
from streams.topics import topic_ids
from streams.undo import erased_of

log = logging.getLogger(__name__)

TOPICS: tuple[Input, ...] = ("requests", "feedback", "feeds")  # that a partition's state is made of
STOP_SECONDS = 0.8  # for each step of leaving
RETRY_SECONDS = 1.0  # after the broker refused something
ROOM_SECONDS = 2.0  # between two looks whether the disk has room again


class Held:
    """A partition that is ours: its state, the store and the checkpoints it is kept in, records that wait."""

    def __init__(self, partition: Partition, store: PartitionStore, checkpoints: Checkpoints) -> None:
        """As it is now, with nothing at hand."""
        self.partition = partition
        self.store = store
        self.checkpoints = checkpoints
        self.pending: dict[str, deque[ConsumerRecord]] = {name: deque() for name in INPUTS}
        self.unkept = False  # it has turns that are acknowledged and not yet written
        self.remaking: asyncio.Task[None] | None = None  # a state that is to take the place of this one
        # Since the latest reaction, the latest tick, and since it was told by which policy it is folded.
        self.quiet_since = self.ticked = time.monotonic()
        self.switched, self.told_policy = 0.0, 0


class Ownership(Rebalanced):  # type: ignore[misc]  # it has no type hints
    """Which partitions this worker has. `turning` is held while records and state belong together."""

    def __init__(self, settings: Settings, facts: FactsReader, producer: Producer, partitions: int) -> None:
        """Of topics with so many partitions."""
        self.owned: dict[int, Held] = {}
        self.assigned: dict[int, int] = {}  # how many times the group had spoken when it gave us each
        self.turning = asyncio.Lock()
        self.consumer: Consumer = group_member(settings, self, INPUTS)
        self._settings = settings
        self._facts = facts
        self._producer = producer
        self._partitions = partitions
        self._spoken = 0
        self._recovering: dict[int, asyncio.Task[None]] = {}
        self._ids: asyncio.Task[dict[str, str]] | None = None
        self._without_room: dict[int, float] = {}  # partitions of which it is said, and when to try again
        self._ending: set[asyncio.Task[None]] = set()

    # What the group tells us.

    async def on_partitions_revoked(self, revoked: Iterable[Place]) -> None:
        """Let go of partitions between two turns."""
        lost = {place.partition for place in revoked}
        for number in lost:
            self.assigned.pop(number, None)
        async with self.turning:
            await self.put_away(lost & self.owned.keys())

    async def on_partitions_assigned(self, assigned: Iterable[Place]) -> None:
        """Remember what is ours now; what is not ours already is taken over."""
        places = set(assigned)
        numbers = [{at.partition for at in places if at.topic == self._settings.topic(name)} for name in INPUTS]
        assert numbers[0] == numbers[1], "requests and feedback of one partition must have one owner"
        self._spoken += 1
        self.assigned = dict.fromkeys(numbers[0], self._spoken)
        # Records of a partition that is not taken over yet would make those of others wait in the client.
        self.consumer.pause(*(place for place in places if place.partition not in self.owned))
        self._ids = None

    # Taking over.

    async def take_over(self) -> None:
        """Begin to take over what is ours by the group. Raises InputError for what somebody has to mend."""
        for number, task in list(self._recovering.items()):
            if task.done():
                del self._recovering[number]
                task.result()
        for number, held in self.owned.items():
            if held.checkpoints.lost is not None:
                await self.leave(f"partition {number} is another's: {held.checkpoints.lost}")
                return
        now = time.monotonic()
        waiting = {number for number, until in self._without_room.items() if now < until}
        for number in self.assigned.keys() - self.owned.keys() - self._recovering.keys() - waiting:
            self._recovering[number] = asyncio.create_task(self._recover(number, self.assigned[number]))

    async def _recover(self, number: int, spoken: int) -> None:
        """Take over a partition, again and again until it is done or no longer ours."""

        def wanted() -> bool:
            return self.assigned.get(number) == spoken

        while wanted():
            try:
                held = await self._recovered(number, wanted)
            except StoreDamagedError as error:
                log.warning("partition %d is taken over anew: %s", number, error)
            except StoreFullError as error:
                self._wait_for_room(number, error)
                return
            except KafkaError as error:
                log.warning("partition %d could not be taken over, trying again: %r", number, error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                async with self.turning:
                    if wanted():
                        self._own(number, held)
                    else:  # lost meanwhile; what was folded again is kept
                        self._close(held)
                return

    async def _recovered(self, number: int, wanted: Callable[[], bool]) -> Held:
        """A partition with all that its topics hold now."""
        checkpoints = Checkpoints(self._settings, number)
        store: PartitionStore | None = None
        try:
            await checkpoints.start()

            async def damaged(said: str, aside: Path) -> None:
                told = (
                    f"partition {number} comes back from its checkpoint, its old store is kept as {aside}: {said}"
                )
                await alert(self._producer, "store-damaged", told, partition=number, folder=str(aside))

            await self._facts.read_policies()  # what the partition was folded by
            store, unnoted = await store_of(self._settings, number, damaged)
            partition = await asyncio.to_thread(self.partition_of, number, store)
            for user, at_ms in (await erased_of(self._settings, number)).items():
                partition.forget(user, at_ms)
            await self._refuse_other_topics(partition, store)
            if unnoted:
                await checkpoints.whole(store)
            await self._pass_over_lost(partition, ("feeds", "feedback"))
            await self._facts.read_policies()
            await refold(partition, self._settings, lambda messages: send(self._producer, messages), wanted)
            await self._pass_over_lost(partition, ("requests",))
        except BaseException:
            if store is not None:
                store.close()
            await checkpoints.stop()
            raise
        return Held(partition, store, checkpoints)

    def partition_of(self, number: int, store: PartitionStore) -> Partition:
        """The partition of a store."""
        return Partition(
            number,
            self._facts.revisions,
            store,
            partitions=self._partitions,
            value_bytes_max=self._settings.value_bytes_max,
            users_cached=self._settings.users_cached,
        )

    def _own(self, number: int, held: Held) -> None:
        position = held.partition.position
        for topic, offset in (("requests", position.requests), ("feedback", position.feedback)):
            place = Place(self._settings.topic(topic), number)
            self.consumer.seek(place, offset)
            self.consumer.resume(place)
        held.quiet_since = held.ticked = time.monotonic()
        self.owned[number] = held
        log.info("partition %d is taken over at %s", number, position)

    async def _refuse_other_topics(self, partition: Partition, store: PartitionStore) -> None:
        """Raise InputError where a topic is not the one that the state was made of."""
        known, ids = store.topic_ids(), await self._topic_ids()
        remedy = (
            f"the topic was made anew, so remove {self._settings.state_folder} and delete topic "
            f"{self._settings.topic('checkpoints')} to begin anew, or give another topic_prefix"
        )
        for name, number in known.items():
            if ids.get(name, number) != number:
                raise InputError(
                    f"the state of partition {partition.number} is of topic {self._settings.topic(name)} with the "
                    f"id {number} and it has {ids[name]}: {remedy}"
                )
        seen = {
            Place(self._settings.topic(name), partition.number): offset
            for name, offset in partition.position.offsets().items()
        }
        for place, end in (await self.consumer.end_offsets(list(seen))).items():
            if seen[place] > end:
                raise InputError(
                    f"the state of partition {partition.number} has seen {place.topic} up to offset {seen[place]} "
                    f"and it ends at {end}: {remedy}"
                )
        if ids and ids != known:
            store.keep_topic_ids(ids)

    async def _topic_ids(self) -> dict[str, str]:
        """Looked up once for all partitions that the group gave us together. Raises KafkaError."""
        if self._ids is None:
            self._ids = asyncio.create_task(asyncio.to_thread(topic_ids, self._settings, TOPICS))
        try:
            return await asyncio.shield(self._ids)
        except InputError as error:  # this worker had its answers before, so the broker will be back
            self._ids = None
            raise KafkaError(str(error)) from error

    async def _pass_over_lost(self, partition: Partition, topics: Iterable[Input]) -> None:
        """Say loudly where a topic no longer holds what the state has not seen, and go on behind it."""
        offsets = partition.position.offsets()
        places = {Place(self._settings.topic(name), partition.number): name for name in topics}
        for place, first in (await self.consumer.beginning_offsets(list(places))).items():
            name = places[place]
            if offsets[name] >= first:
                continue
            told = (
                f"partition {partition.number} has not seen {place.topic} from offset {offsets[name]} to before "
                f"{first}, and neither a store nor a checkpoint has it: the topic keeps its records for too short"
            )
            values = {"topic": place.topic, "from_offset": offsets[name], "to_offset": first}
            await alert(self._producer, "history-lost", told, partition=partition.number, **values)
            partition.pass_over(name, first)
            partition.commit()  # so that it is said once

    # Keeping, and letting go.

    def keep(self) -> None:
        """Write what the turns since the last time have changed; all of it is acknowledged."""
        for number, held in list(self.owned.items()):
            if held.unkept:
                held.unkept = False
                try:
                    held.partition.commit()
                    self._without_room.pop(number, None)
                except StoreError as error:
                    self.let_go_of_broken(number, error)

    def go_on_with_checkpoints(self) -> None:
        """Begin those that are due."""
        for number, held in list(self.owned.items()):
            try:
                held.checkpoints.go_on(held.store)
            except StoreError as error:
                self.let_go_of_broken(number, error)

    def let_go_of_broken(self, number: int, error: StoreError) -> None:
        """Drop a partition whose store is no use; it is taken over as after a kill."""
        if isinstance(error, StoreFullError):
            self._wait_for_room(number, error)
        else:
            log.warning("partition %d is let go, and taken over anew: %s", number, error)
        self.let_go([number])

    def _wait_for_room(self, number: int, error: StoreError) -> None:
        """Say it once for each time that room is lost."""
        if number not in self._without_room:
            log.error("partition %d is let go until there is room, and nothing of it is lost: %s", number, error)
        self._without_room[number] = time.monotonic() + ROOM_SECONDS

    async def put_away(self, numbers: Iterable[int]) -> None:
        """Keep everything, make a last checkpoint, tell the broker how far we came, and close the stores."""
        self.keep()
        leaving = [self.owned[number] for number in numbers if number in self.owned]
        positions = [(held.partition.number, held.partition.position.offsets()) for held in leaving]
        last = [asyncio.ensure_future(held.checkpoints.last(held.store)) for held in leaving]
        telling = asyncio.ensure_future(tell_offsets(self.consumer, self._settings, positions))
        done, late = await asyncio.wait({*last, telling}, timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
        for task in done:
            with suppress(StoreError):  # it is met again by whoever opens the store
                task.result()
        self.let_go([held.partition.number for held in leaving])

    def let_go(self, numbers: Iterable[int]) -> None:
        """Close the stores of partitions; what they have not kept is dropped."""
        for number in list(numbers):
            if number in self.owned:
                self._close(self.owned.pop(number))

    def _close(self, held: Held) -> None:
        if held.remaking is not None and held.remaking is not asyncio.current_task():
            held.remaking.cancel()  # it reads what is closed here
        held.checkpoints.cancel()
        held.store.close()
        ending = asyncio.create_task(held.checkpoints.stop())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def leave(self, why: str) -> None:
        """Let go of everything and join the group anew, so that what we have next is what it gave us knowingly."""
        log.warning("%s; this worker lets go of its partitions and joins the group anew", why)
        async with self.turning:
            self.assigned.clear()
            self.let_go(list(self.owned))
            self.consumer.subscribe([self._settings.topic(name) for name in INPUTS], listener=self)

    async def stop(self) -> None:
        """Keep everything, and leave the group; without a broker, just leave."""
        for task in self._recovering.values():
            task.cancel()
        if self._recovering:
            await asyncio.wait(self._recovering.values(), timeout=STOP_SECONDS)
        await self.put_away(list(self.owned))
        with suppress(TimeoutError):
            await asyncio.wait_for(self.consumer.stop(), STOP_SECONDS)
        if self._ending:
            await asyncio.wait(set(self._ending), timeout=STOP_SECONDS)
