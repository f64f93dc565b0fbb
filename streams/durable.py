"""The embedded engine as clients meet it: many ask at a time, one turn answers them together.

A turn takes what is waiting, requests first and then some reactions, so that neither waits long for the other, and
acknowledges all of it at once. With `fsync = "always"` it is on the disk itself by then; with "interval" it is a
moment later, and a power cut can take what was acknowledged in that moment; a kill of the process takes nothing.
Where the disk refuses, nothing is acknowledged, and the engine begins anew from what is there as soon as it can.
"""

import asyncio
import logging
import math
import time
from asyncio import Future, Task
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from engine.decision import Decision
from engine.errors import InputError
from engine.events import ItemUpdate, Quarantine, Reaction, Request, Seen
from engine.policy import Policy
from engine.pools import check_request
from streams.asking import BusyError, Erased, Ordered, UnavailableError
from streams.local_partitions import Anew, Fit, LocalPartitions
from streams.local_topics import LocalTopics, wall_ms
from streams.settings import Settings
from streams.store_folder import StoreError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # after the disk refused something
TICK_SECONDS = 0.5  # between two looks at whether a clock has to be moved
TIDY_SECONDS = 60.0  # between two looks at what has lapsed

FAILURES = (OSError, StoreError)  # of the disk

T = TypeVar("T")
R = TypeVar("R")


class Lane(Generic[T, R]):
    """Those who wait for one kind of answer, the first to come first; a turn answers some of them together."""

    def __init__(
        self,
        answer: Callable[[list[T]], Sequence[R | InputError]],
        most: int,
        weight: Callable[[T], int] = lambda _: 1,
    ) -> None:
        """A turn takes at least one of them, and no more when those that it took weigh so much."""
        self.waiting: deque[tuple[T, Future[R]]] = deque()
        self._answer = answer
        self._most = most
        self._weight = weight
        self._taken: list[tuple[T, Future[R]]] = []
        self._outcomes: Sequence[R | InputError] = ()

    def come(self, given: T) -> "Future[R]":
        """One more; the future is its answer."""
        done: Future[R] = asyncio.get_running_loop().create_future()
        self.waiting.append((given, done))
        return done

    def turn(self) -> bool:
        """Answer some, and tell nobody yet; whether there were any."""
        weight = 0
        while self.waiting and weight < self._most:
            self._taken.append(self.waiting.popleft())
            weight += self._weight(self._taken[-1][0])
        if self._taken:
            self._outcomes = self._answer([given for given, _ in self._taken])
        return bool(self._taken)

    def settle(self) -> None:
        """Tell those who were answered, if they are still there."""
        for (_, done), outcome in zip(self._taken, self._outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, InputError):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
        self._taken, self._outcomes = [], ()

    def refuse(self, trouble: str) -> None:
        """Tell everybody that there is no answer."""
        for _, done in (*self._taken, *self.waiting):
            if not done.done():
                done.set_exception(UnavailableError(trouble))
        self._taken, self._outcomes = [], ()
        self.waiting.clear()


class DurableEngine:
    """Answers requests and learns from reactions, over topics in a folder."""

    def __init__(self, folder: Path, policy: Policy, settings: Settings, wall: Callable[[], int] = wall_ms) -> None:
        """Raises InputError where the folder cannot be had; `run` makes it answer."""
        self.topics = LocalTopics(folder, settings.partitions, settings.segment_bytes, wall)
        self.partitions = LocalPartitions(self.topics, policy, settings)
        self.trouble: str | None = "it is reading what its topics hold"  # why it does not answer
        self._policy = policy
        self._settings = settings
        self._asks = Lane(self.partitions.answer, settings.requests_per_turn)
        self._puts = Lane(self._put, settings.reactions_per_turn, len)
        self._reports = Lane(self._react, settings.reactions_per_turn, len)
        self._erasures = Lane(self._erase, 1)
        self._quarantines = Lane(self._quarantine, 1)
        self._lanes: Sequence[Lane[Any, Any]] = (
            self._puts,
            self._asks,
            self._reports,
            self._erasures,
            self._quarantines,
        )
        self._wake = asyncio.Event()
        # Always the same thread: what a fit needs for a moment, each thread would keep for ever.
        self._fitter = ThreadPoolExecutor(1, "fit")
        self._fitting: Future[Fit | None] | None = None
        self._undoing: Task[Anew | None] | None = None
        self._copying: Task[None] | None = None
        self._unsynced: OSError | None = None
        self._kept_at = self._ticked_at = self._tidied_at = self._backed_up_at = time.monotonic()

    # What clients ask.

    async def ask(self, request: Request) -> Decision:
        """The decision of a request; the same one if it has one already.

        Raises InputError for what the policy refuses, and where the id has another decision; UnavailableError and
        BusyError.
        """
        check_request(request, self._policy)
        return await self._answered(self._asks, request)

    async def report(self, reactions: Sequence[Reaction]) -> None:
        """Take reactions, all or none. Raises InputError for an action without a policy, and as `ask` does."""
        for reaction in reactions:
            if not isinstance(reaction, Seen) and reaction.action not in self._policy.actions:
                raise InputError(
                    f'the policy does not name action {reaction.action!r}: add [actions."{reaction.action}"]'
                )
        await self._answered(self._reports, reactions)

    async def put(self, items: Sequence[ItemUpdate]) -> None:
        """Take what is known of items, all or none; the next request sees it. Raises as `ask` does."""
        await self._answered(self._puts, items)

    async def erase(self, user: str) -> Erased:
        """Forget a user: state, copies of it, and what is at hand. Raises as `ask` does."""
        at_ms = await self._answered(self._erasures, user)
        return Erased(user, at_ms, at_ms + self._settings.retention_ms)

    async def quarantine(self, what: Quarantine) -> Ordered:
        """Leave reactions of a time out of what was learned, soon. Raises as `ask` does."""
        return await self._answered(self._quarantines, what)

    async def find(self, user: str, request_id: str) -> Decision | None:
        """A decision that still takes reactions; None where there is none. Raises UnavailableError."""
        if self.trouble:
            raise UnavailableError(self.trouble)
        return self.partitions.find(user, request_id)

    def gauges(self) -> dict[str, float]:
        """What an operator watches, by name."""
        return {
            "ready": float(self.trouble is None),
            "waiting": self.waiting,
            "population_version": self.partitions.facts.population.version,
            "items": self.partitions.facts.catalogue.updates,
            "log_bytes": self.topics.size,
        }

    @property
    def waiting(self) -> int:
        """How many clients wait for the next turns."""
        return sum(len(lane.waiting) for lane in self._lanes)

    async def _answered(self, lane: Lane[T, R], given: T) -> R:
        if self.trouble:
            raise UnavailableError(self.trouble)
        if self.waiting >= self._settings.http_pending_max:
            raise BusyError(f"{self.waiting} requests are waiting already")
        done = lane.come(given)
        self._wake.set()
        return await done

    # What a turn does.

    def _put(self, puts: list[Sequence[ItemUpdate]]) -> list[None]:
        self.partitions.put([item for items in puts for item in items])
        return [None] * len(puts)

    def _react(self, reports: list[Sequence[Reaction]]) -> list[None]:
        self.partitions.react([reaction for reactions in reports for reaction in reactions])
        return [None] * len(reports)

    def _erase(self, users: list[str]) -> list[int]:
        self._backed_up_at = -math.inf  # copies that hold them are gone: it is time for new ones
        return [self.partitions.erase(user) for user in users]

    def _quarantine(self, orders: list[Quarantine]) -> list[Ordered]:
        return [self.partitions.quarantine(what) for what in orders]

    # Living.

    async def run(self) -> None:
        """Fold what is in the topics, then answer, until cancelled."""
        await self._recover()
        syncing = asyncio.create_task(self._sync_now_and_then())
        try:
            await self._run()
        finally:
            syncing.cancel()
            await self._drop_work()

    def stop(self) -> None:
        """When `run` has ended: keep everything, and let go of the folder."""
        self._fail("it is ending")
        with suppress(*FAILURES):  # it is folded again
            self.partitions.keep()
        self.partitions.close()
        self.topics.close()
        self._fitter.shutdown(wait=False)

    async def _recover(self) -> None:
        """Begin from what is on the disk, as soon as that can be done."""
        await self._drop_work()
        while True:
            try:
                await self._to_the_end(self.partitions.recover)
            except FAILURES as error:
                log.error("the engine cannot begin, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.trouble = None
                return

    async def _to_the_end(self, work: Callable[[], None]) -> None:
        """Do it in a thread; where we are cancelled, make it end soon and wait for that."""
        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self.partitions.halted = True
            await asyncio.wait({working})
            working.exception()  # it is told by now that it is not wanted
            raise

    async def _run(self) -> None:
        """Turn until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.keep_every_ms / 1000.0)
            self._wake.clear()
            try:
                await self._turn()
                self._now_and_then()
            except FAILURES as error:
                log.error("the disk refused a turn; what it held is not acknowledged: %s", error)
                self._fail(f"the disk refuses: {error}")
                await self._recover()
            if self.waiting:
                self._wake.set()
            await asyncio.sleep(0)  # others may read and write sockets now

    async def _turn(self) -> None:
        """Answer some of those who wait; tell them when all of it is where it has to be."""
        if self._unsynced is not None:
            error, self._unsynced = self._unsynced, None
            raise error
        turned = [lane.turn() for lane in self._lanes]
        if any(turned) and self._settings.fsync == "always":
            await asyncio.to_thread(self.topics.sync)
        for lane in self._lanes:
            lane.settle()

    def _now_and_then(self) -> None:
        """What need not be done in every turn."""
        now = time.monotonic()
        if now >= self._kept_at + self._settings.keep_every_ms / 1000.0:
            self._kept_at = now
            self.partitions.keep()
        if now >= self._ticked_at + TICK_SECONDS:
            self._ticked_at = now
            self.partitions.tick()
            self._fit()
            self._undo()
        if now >= self._tidied_at + TIDY_SECONDS:
            self._tidied_at = now
            self.topics.tidy(self.topics.now_ms() - self._settings.retention_ms)
        if self._copying is None and now >= self._backed_up_at + self._settings.backup_every_ms / 1000.0:
            self._backed_up_at = now
            self._copying = asyncio.create_task(asyncio.to_thread(self.partitions.back_up))
        if self._copying is not None and self._copying.done():
            self._copying.result()
            self._copying = None
            if self._backed_up_at < 0:  # somebody was erased while it was made
                self.partitions.forget_backups()

    def _fit(self) -> None:
        """Serve from the version that was fitted, or look for one that is due, beside everything else."""
        if self._fitting is None:
            self._fitting = asyncio.get_running_loop().run_in_executor(self._fitter, self.partitions.due_fit)
        elif self._fitting.done():
            fit, self._fitting = self._fitting.result(), None
            if fit is not None:
                self.partitions.publish(fit)

    def _undo(self) -> None:
        """Fold again what holds a quarantine, beside everything else, and go on with that when it is made."""
        if self._undoing is None:
            if self.partitions.unfolded:
                self._undoing = asyncio.create_task(asyncio.to_thread(self.partitions.fold_anew))
        elif self._undoing.done():
            anew, self._undoing = self._undoing.result(), None
            if anew is not None:
                self.partitions.switch(anew)

    async def _drop_work(self) -> None:
        """Wait for what is made beside everything else, which is not to take long, and drop it."""
        self.partitions.halted = True
        fitting, undoing, copying = self._fitting, self._undoing, self._copying
        self._fitting = self._undoing = self._copying = None
        for work in (fitting, undoing, copying):
            if work is not None:
                await asyncio.wait({work})
                if not work.cancelled():
                    work.exception()  # what it was for begins anew
        if undoing is not None and not undoing.cancelled() and undoing.exception() is None:
            self.partitions.drop(undoing.result())
        self.partitions.halted = False

    async def _sync_now_and_then(self) -> None:
        """Put the logs on the disk itself, by `fsync = "interval"`."""
        while self._settings.fsync == "interval":
            await asyncio.sleep(self._settings.fsync_every_ms / 1000.0)
            try:
                await asyncio.to_thread(self.topics.sync)
            except OSError as error:
                self._unsynced = error  # for the next turn
                self._wake.set()

    def _fail(self, trouble: str) -> None:
        """Answer nobody until this is over."""
        self.trouble = trouble
        for lane in self._lanes:
            lane.refuse(trouble)
