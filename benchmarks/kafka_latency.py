"""How long a feed takes under an open load, and how long until a reaction shows in the next feed."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parent.parent))

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from kafka_load import Feed, LoadError, Record, feeds_consumer, liked, reactions_to, read_feed, request_of, seen

from streams.settings import Settings

USERS = 2_000
READERS_MAX = 400  # who are in the middle of a feed at once
WARM_SECONDS = 2.0  # of a load, which are not counted
ANSWER_SECONDS_MAX = 60.0
LANES = 5  # of probes, one after another with pauses, so that a slow worker is not buried in them
PAUSE_SECONDS = 0.2
PROBE_SECONDS, PROBE_SHARE = 0.004, 0.05  # between two requests of a probe, at least; of its age, if that is more
PROBE_SECONDS_MAX = 5.0
CATCH_UP_SECONDS_MAX = 60.0
BESIDE_SECONDS_MAX = 600.0  # longer than all probes together
ALPHA_STEP = 0.5  # a success adds 1 to alpha; nothing else that happens meanwhile moves it so far


class Client:
    """Sends requests and reactions, and notes when the first feed to each request arrives."""

    def __init__(
        self, settings: Settings, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, seed: int
    ) -> None:
        """Use `client` to have one that listens."""
        self._settings, self._consumer, self._producer = settings, consumer, producer
        self._random = Random(seed)
        self._sent = 0
        self.asked: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self.listeners: dict[str, Callable[[Feed, float], None]] = {}  # by user
        self.reading: deque[Iterator[Record]] = deque()

    async def listen(self) -> None:
        """Note what arrives, for ever."""
        while True:
            batches = await self._consumer.getmany(timeout_ms=1000)
            now = perf_counter()
            for record in (record for batch in batches.values() for record in batch):
                self._note(read_feed(record.value), now)

    def _note(self, feed: Feed, now: float) -> None:
        request_id = feed.request.request_id
        if request_id in self.took or request_id not in self.asked:
            return
        self.took[request_id] = now - self.asked[request_id]
        listener = self.listeners.get(feed.request.user)
        if listener:
            listener(feed, now)
        elif len(self.reading) < READERS_MAX:
            self.reading.append(reactions_to(feed, self._random))

    async def ask(self, user: str, due: float) -> str:
        """Send a request that was due at a moment."""
        request_id = f"r{self._sent}"
        self._sent += 1
        self.asked[request_id] = due
        record = request_of(user, request_id, self._random)
        await self._producer.send(self._settings.topic("requests"), record.value, record.key)
        return request_id

    async def react(self, record: Record) -> None:
        """Send a reaction."""
        await self._producer.send(self._settings.topic("feedback"), record.value, record.key)

    async def ask_somebody(self, due: float) -> None:
        """Send a request of one of the users."""
        await self.ask(f"user-{self._random.randrange(USERS)}", due)

    async def react_somebody(self, due: float) -> None:  # noqa: ARG002 - reactions are not timed
        """Send the next reaction of one of the readers, in turn."""
        while self.reading:
            reader = self.reading.popleft()
            record = next(reader, None)
            if record is not None:
                self.reading.append(reader)
                await self.react(record)
                return

    async def answered(self) -> None:
        """Return when every request has its feed."""
        end = perf_counter() + ANSWER_SECONDS_MAX
        while len(self.took) < len(self.asked):
            if perf_counter() > end:
                raise LoadError(f"{len(self.took)} of {len(self.asked)} requests were answered")
            await asyncio.sleep(0.01)


@asynccontextmanager
async def client(settings: Settings, seed: int) -> AsyncIterator[Client]:
    """A client whose worker answers: it has had a feed for a request of many users."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, acks=1, linger_ms=0)
    await producer.start()
    async with feeds_consumer(settings) as consumer:
        one = Client(settings, consumer, producer, seed)
        listening = asyncio.create_task(one.listen())
        for _ in range(64):  # so that every partition has one
            await one.ask_somebody(perf_counter())
        await one.answered()
        try:
            yield one
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await producer.stop()


async def paced(per_s: float, seconds: float, act: Callable[[float], Awaitable[None]]) -> None:
    """Do something at a rate by the clock, whatever became of what was done before."""
    begun = perf_counter()
    for number in range(int(per_s * seconds)):
        due = begun + number / per_s
        wait = due - perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        await act(due)


async def latencies_ms(one: Client, requests_per_s: int, reactions_per_s: int, seconds: float) -> list[float]:
    """From the moment that a request was due to its feed's arrival, with reactions going in beside it."""
    begun = perf_counter()
    total = WARM_SECONDS + seconds
    await asyncio.gather(
        paced(requests_per_s, total, one.ask_somebody), paced(reactions_per_s, total, one.react_somebody)
    )
    await one.answered()
    counted = begun + WARM_SECONDS
    return [1000 * took for request_id, took in one.took.items() if one.asked[request_id] >= counted]


async def caught_up_ms(one: Client) -> float:
    """How far behind its reactions the worker is: how long one takes to show that goes in now."""
    return 1000 * await _probe(one, "marker", CATCH_UP_SECONDS_MAX)


async def freshness_ms(
    one: Client, probes: int, requests_per_s: int = 100, reactions_per_s: int = 400
) -> list[float]:
    """From sending a liked view to the arrival of the first feed whose posterior has it, under a moderate load."""
    took: list[float] = []

    async def lane(number: int) -> None:
        for probe in range(number, probes, LANES):
            took.append(1000 * await _probe(one, f"probe-{probe}", PROBE_SECONDS_MAX))
            await asyncio.sleep(PAUSE_SECONDS)

    beside = asyncio.gather(
        paced(requests_per_s, BESIDE_SECONDS_MAX, one.ask_somebody),
        paced(reactions_per_s, BESIDE_SECONDS_MAX, one.react_somebody),
    )
    await asyncio.gather(*(lane(number) for number in range(LANES)))
    beside.cancel()
    await asyncio.gather(beside, return_exceptions=True)
    return took


async def _probe(one: Client, user: str, seconds_max: float) -> float:
    """One user likes the first slot of a first feed, and asks again every few milliseconds until it shows.

    What does not show in time has taken `seconds_max`.
    """
    loop = asyncio.get_running_loop()
    first: asyncio.Future[Feed] = loop.create_future()
    shown: asyncio.Future[float] = loop.create_future()

    def look(feed: Feed, now: float) -> None:
        if not first.done():
            first.set_result(feed)
        elif alpha(feed) > alpha(first.result()) + ALPHA_STEP and not shown.done():
            shown.set_result(now)

    def alpha(feed: Feed) -> float:
        return feed.pools[first.result().slot_pools[0]].alpha[0]

    one.listeners[user] = look
    await one.ask(user, perf_counter())
    feed = await asyncio.wait_for(first, ANSWER_SECONDS_MAX)
    begun = perf_counter()
    await one.react(seen(feed, 0))
    await one.react(liked(feed, 0))
    while not shown.done():
        if perf_counter() > begun + seconds_max:
            return seconds_max
        await one.ask(user, perf_counter())
        # A user who asked all the time would have so many open decisions that the first one had to close.
        await asyncio.wait([shown], timeout=max(PROBE_SECONDS, PROBE_SHARE * (perf_counter() - begun)))
    return shown.result() - begun
