"""The embedded engine as clients meet it: many ask at a time, one turn answers them together.

A turn takes what is waiting, requests first and then some reactions, so that neither waits long for the other, and
acknowledges all of it at once. With `fsync = "always"` it is on the disk itself by then; with "interval" it is a
moment later, and a power cut can take what was acknowledged in that moment; a kill of the process takes nothing.
Where the disk refuses, nothing is acknowledged, and the engine begins anew from what is there as soon as it can.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.decision import Decision
from engine.errors import InputError
from engine.events import ItemUpdate, Quarantine, Reaction, Request, Seen
from engine.policy import Policy
from engine.pools import check_request
from engine.revisions import Revision, Revisions, StaleError
from streams.asking import BusyError, Change, Erased, Ordered, UnavailableError
from streams.beside import Beside
from streams.embedded import tried
from streams.lane import Lane, R, T
from streams.local_partitions import LocalPartitions
from streams.local_topics import TIDY_MS, LocalTopics, wall_ms
from streams.policy_watch import changes
from streams.settings import Settings
from streams.store_folder import StoreError

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # after the disk refused something
TICK_SECONDS = 0.5  # between two looks at whether a clock has to be moved

FAILURES = (OSError, StoreError)  # of the disk


class DurableEngine:
    """Answers requests and learns from reactions, over topics in a folder."""

    def __init__(
        self, folder: Path, policy: Policy | None, settings: Settings, wall: Callable[[], int] = wall_ms
    ) -> None:
        """Raises InputError where the folder cannot be had; `run` makes it answer. `policy` is what a file says."""
        self.topics = LocalTopics(folder, settings.partitions, settings.segment_bytes, wall)
        self.partitions = LocalPartitions(self.topics, policy, settings)
        self.trouble: str | None = "it is reading what its topics hold"  # why it does not answer
        self._settings = settings
        self._asks = Lane(self.partitions.answer, settings.requests_per_turn)
        self._puts = Lane(self._put, settings.reactions_per_turn, len)
        self._reports = Lane(self._react, settings.reactions_per_turn, len)
        self._erasures = Lane(self._erase, 1)
        self._quarantines = Lane(self._quarantine, 1)
        self._changes = Lane(self._apply, 1)
        self._lanes: Sequence[Lane[Any, Any]] = (
            self._puts,
            self._asks,
            self._reports,
            self._erasures,
            self._quarantines,
            self._changes,
        )
        self._wake = asyncio.Event()
        self._fits = Beside("a fit", self.partitions.shared.due_fit, self.partitions.shared.publish)
        self._undoing = Beside(
            "a state without what was quarantined",
            self.partitions.fold_anew,
            self.partitions.switch,
            self.partitions.drop,
        )
        self._copying = Beside("a copy of the state", self.partitions.back_up, lambda _: None)
        self._disk = ThreadPoolExecutor(1, "log")  # nothing that takes long stands before a sync
        self._unsynced: Exception | None = None
        self._kept_at = self._ticked_at = self._tidied_at = self._backed_up_at = time.monotonic()

    # What clients ask.

    async def ask(self, request: Request) -> Decision:
        """The decision of a request; the same one if it has one already.

        Raises InputError for what the policy refuses, and where the id has another decision; UnavailableError and
        BusyError.
        """
        self._refuse_in_trouble()
        check_request(request, self.revisions.policy, self.revisions.retired)
        return await self._answered(self._asks, request)

    async def report(self, reactions: Sequence[Reaction]) -> None:
        """Take reactions, all or none. Raises InputError for an action without a policy, and as `ask` does."""
        self._refuse_in_trouble()
        for reaction in reactions:
            if not isinstance(reaction, Seen):
                self.revisions.check_action(reaction.action)
        await self._answered(self._reports, reactions)

    async def put(self, items: Sequence[ItemUpdate]) -> None:
        """Take what is known of items, all or none; the next request sees it. Raises as `ask` does."""
        await self._answered(self._puts, items)

    async def erase(self, user: str) -> Erased:
        """Forget a user: state, copies of it, and what is at hand. Raises as `ask` does."""
        at_ms = await self._answered(self._erasures, user)
        return Erased(user, at_ms, self.topics.lapse_ms(at_ms, self._settings.retention_ms))

    async def quarantine(self, what: Quarantine) -> Ordered:
        """Leave reactions of a time out of what was learned, soon. Raises as `ask` does."""
        return await self._answered(self._quarantines, what)

    async def apply(self, change: Change) -> Revision:
        """Put a policy into force, from the next turn on. Raises InputError where it is refused; and as `ask`."""
        self._refuse_in_trouble()
        try:
            change.check(self.revisions)
            await asyncio.to_thread(tried, change.policy)  # so that nobody waits for what it has not used before
            return await self._answered(self._changes, change)
        except StaleError:
            raise  # it may be as good as the other one
        except InputError as error:
            await self.refuse_policy(change.why, str(error))
            raise

    async def refuse_policy(self, why: str, reason: str) -> None:
        """Say where an operator looks that a policy was refused."""
        said = f"{why}: refused, revision {self.revisions.number} stays in force: {reason}"
        if self.trouble:  # the topics are being read
            log.error("policy-refused: %s", said)
            return
        with suppress(*FAILURES):
            self.partitions.alert("policy-refused", said)

    @property
    def revisions(self) -> Revisions:
        """The policies, the one in force last."""
        return self.partitions.shared.revisions

    async def find(self, user: str, request_id: str) -> Decision | None:
        """A decision that still takes reactions; None where there is none. Raises UnavailableError."""
        self._refuse_in_trouble()
        try:
            return self.partitions.find(user, request_id)
        except StoreError as error:
            raise UnavailableError(f"the disk refuses: {error}") from error

    def gauges(self) -> dict[str, float]:
        """What an operator watches, by name."""
        return {
            "ready": float(self.trouble is None),
            "waiting": self.waiting,
            "policy_revision": self.revisions.number,
            "population_version": self.partitions.shared.facts.population.version,
            "items": self.partitions.shared.facts.catalogue.updates,
            "log_bytes": self.topics.size,
        }

    @property
    def fitting(self) -> bool:
        """Whether a population version is being made."""
        return self._fits.busy

    @property
    def waiting(self) -> int:
        """How many clients wait for the next turns."""
        return sum(len(lane.waiting) for lane in self._lanes)

    def _refuse_in_trouble(self) -> None:
        """Raise UnavailableError before anything is judged by policies that may not be read yet."""
        if self.trouble:
            raise UnavailableError(self.trouble)

    async def _answered(self, lane: Lane[T, R], given: T) -> R:
        self._refuse_in_trouble()
        if self.waiting >= self._settings.http_pending_max:
            raise BusyError(f"{self.waiting} requests are waiting already")
        done = lane.come(given)
        self._wake.set()
        return await done

    # What a turn does.

    def _put(self, puts: list[Sequence[ItemUpdate]]) -> list[None]:
        self.partitions.shared.put([item for items in puts for item in items])
        return [None] * len(puts)

    def _react(self, reports: list[Sequence[Reaction]]) -> list[None]:
        self.partitions.react([reaction for reactions in reports for reaction in reactions])
        return [None] * len(reports)

    def _erase(self, users: list[str]) -> list[int]:
        return [self.partitions.erase(user) for user in users]

    def _quarantine(self, orders: list[Quarantine]) -> list[Ordered]:
        return [self.partitions.quarantine(what) for what in orders]

    def _apply(self, changes: list[Change]) -> list[Revision | InputError]:
        return [self._applied(change) for change in changes]

    def _applied(self, change: Change) -> Revision | InputError:
        try:
            return self.partitions.apply(change.record(self.revisions.number))
        except InputError as error:
            return error

    # Living.

    async def run(self) -> None:
        """Fold what is in the topics, then answer, until cancelled."""
        await self._recover()
        beside = [asyncio.create_task(self._sync_now_and_then())]
        if self._settings.policy is not None:
            beside.append(asyncio.create_task(self._follow(self._settings.policy)))
        try:
            await self._run()
        except Exception as error:
            self.trouble = f"it has failed: {error!r}"  # and what is in memory is not to be trusted
            raise
        finally:
            for task in beside:
                task.cancel()
            await self._end_work()

    def stop(self) -> None:
        """When `run` has ended: keep everything, unless it was in trouble, and let go of the folder."""
        healthy = self.trouble is None
        self._fail("it is ending")
        if healthy:
            with suppress(*FAILURES):  # it is folded again
                self.partitions.keep()
        self.partitions.close()
        self.topics.close()
        for work in (self._fits, self._undoing, self._copying):
            work.close()
        self._disk.shutdown(wait=False)

    async def _recover(self) -> None:
        """Begin from what is on the disk, as soon as that can be done."""
        await self._end_work()
        while True:
            try:
                await self._to_the_end(self.partitions.recover)
            except FAILURES as error:
                log.error("the engine cannot begin, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._unsynced = None
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
            await self._synced()
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
            self.partitions.tell_damage()
            self._go_on_beside(now)
        if now >= self._tidied_at + TIDY_MS / 1000.0:
            self._tidied_at = now
            self.topics.tidy(self._settings.retention_ms)

    def _go_on_beside(self, now: float) -> None:
        """Take what is made beside the turns, and begin what is due."""
        self._fits.go_on(due=True)
        # A state takes another one's place while nobody copies it.
        if not self._copying.busy:
            self._undoing.go_on(due=self.partitions.unfolded)
        copy = now >= self._backed_up_at + self._settings.backup_every_ms / 1000.0 or self.partitions.owes_copies
        if copy and not self._copying.busy:
            self._backed_up_at = now
        self._copying.go_on(due=copy)

    async def _follow(self, path: Path) -> None:
        """Put each policy into force that its file comes to hold; what cannot be is said, and the old one stays."""
        why = f"{path.name} has changed"
        async for found in changes(path):
            try:
                if isinstance(found, InputError):
                    await self.refuse_policy(why, str(found))
                elif self.partitions.news.is_new(found, self.revisions):
                    await self.apply(Change(found, "feedloom serve", why, source="file"))
            except Exception as error:  # noqa: BLE001  whatever it is, the next change is looked at
                log.error("the policy file is not put into force until it changes again: %s", error)

    async def _end_work(self) -> None:
        """Let what is made beside the turns end soon, and drop it."""
        self.partitions.halted = True
        for work in (self._fits, self._undoing, self._copying):
            await work.end()
        self.partitions.halted = False

    async def _synced(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, self.topics.sync)

    async def _sync_now_and_then(self) -> None:
        """Put the logs on the disk itself, by `fsync = "interval"`."""
        while self._settings.fsync == "interval":
            await asyncio.sleep(self._settings.fsync_every_ms / 1000.0)
            if self.trouble:
                continue
            try:
                await self._synced()
            except Exception as error:  # noqa: BLE001  whatever it is, the next turn must not acknowledge anything
                self._unsynced = error
                self._wake.set()

    def _fail(self, trouble: str) -> None:
        """Answer nobody until this is over."""
        self.trouble = trouble
        for lane in self._lanes:
            lane.refuse(trouble)
