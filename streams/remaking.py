"""What is made of a worker's partitions beside their turns: copies, and states without what was quarantined."""

import asyncio
import logging
import time
from functools import partial

from streams.backups import NoGroundError, back_up
from streams.beside import Beside
from streams.broker import KafkaError, LostError, Producer
from streams.ownership import RETRY_SECONDS, STOP_SECONDS, Held, Ownership
from streams.settings import Settings
from streams.store_folder import StoreError
from streams.telling import alert
from streams.undo import Open, State, fold_anew, put_in_place

log = logging.getLogger(__name__)


class Remaking:
    """Of the partitions that are owned."""

    def __init__(self, settings: Settings, ownership: Ownership, producer: Producer) -> None:
        """`go_on` between two turns."""
        self._settings = settings
        self._ownership = ownership
        self._producer = producer
        self._copying = Beside("a copy of the state", self._copy, lambda _: None)
        self._copied_at = time.monotonic()
        self._stopping = False

    async def stop(self) -> None:
        """End soon what is being made."""
        self._stopping = True
        await self._copying.end()
        self._copying.close()
        remaking = [held.remaking for held in self._ownership.owned.values() if held.remaking is not None]
        for task in remaking:
            task.cancel()
        if remaking:
            await asyncio.wait(remaking, timeout=STOP_SECONDS)

    def go_on(self) -> None:
        """Copy the stores now and then, and fold again what holds a quarantine, beside the turns."""
        now = time.monotonic()
        due = bool(self._ownership.owned) and now >= self._copied_at + self._settings.backup_every_ms / 1000.0
        if due and not self._copying.busy:
            self._copied_at = now
        self._copying.go_on(due=due)
        if not self._copying.busy:  # a state takes another one's place while nobody copies it
            self._undo_what_is_unfolded()

    def _copy(self) -> None:
        for held in list(self._ownership.owned.values()):
            erased_ms = max(held.partition.exclusions.erased.values(), default=-1)
            at_ms, kept_ms = held.partition.position.clock_ms, self._settings.retention_ms
            back_up(held.store, at_ms, kept_ms, erased_ms, lambda: not self._stopping)

    def _undo_what_is_unfolded(self) -> None:
        for number, held in self._ownership.owned.items():
            if held.remaking is not None and held.remaking.done():
                if not held.remaking.cancelled():
                    held.remaking.result()
                held.remaking = None
            if held.remaking is None and held.partition.exclusions.unfolded:
                held.remaking = asyncio.create_task(self._undo(number, held))

    async def _undo(self, number: int, held: Held) -> None:
        """Fold a partition again, and go on with that, if it is still ours then."""

        def ours() -> bool:
            return self._ownership.owned.get(number) is held

        old, of_store = (held.partition, held.store), partial(self._ownership.partition_of, number)
        try:
            new = await fold_anew(self._settings, old, of_store, self._ownership.consumer, ours)
        except NoGroundError as error:
            await alert(self._producer, "quarantine-refused", str(error), partition=number)
            held.partition.give_up_oldest()
            held.unkept = True
            return
        except (KafkaError, StoreError) as error:
            log.warning("partition %d could not be folded again, trying later: %r", number, error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        try:
            await self._put_in_place(number, held, old, new, of_store)
        except (KafkaError, StoreError) as error:
            log.warning("partition %d could not be folded again, it is taken over anew: %r", number, error)

    async def _put_in_place(self, number: int, held: Held, old: State, new: State, of_store: Open) -> None:
        """Go on with the new state of a partition; if that fails half-way, with what the newest checkpoint says."""

        def ours() -> bool:
            return self._ownership.owned.get(number) is held

        try:
            if ours():
                await held.checkpoints.whole(new[1], old[1])
            async with self._ownership.turning:
                if ours():
                    self._ownership.keep()
                if ours():  # and the old state could be kept
                    held.partition, held.store = await put_in_place(self._settings, old, new, of_store)
                    held.checkpoints.paused = False
                    log.info("partition %d is without what was quarantined", number)
        except LostError as error:
            held.checkpoints.lost = str(error)
        except BaseException:
            if ours():
                self._ownership.let_go([number])
            raise
        finally:
            new[1].close()
