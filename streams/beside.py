"""Work that takes long, made in a thread beside the loop of turns and switched to between two of them."""

import asyncio
import logging
import time
from asyncio import Future
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

PAUSE_SECONDS = 30.0  # after it has failed

R = TypeVar("R")


class Beside(Generic[R]):
    """One kind of work, one piece at a time, always in the same thread.

    What such work needs for a moment, each thread that ever did it would keep for ever. That it fails is said, and
    changes nothing: it is tried again later.
    """

    def __init__(
        self, name: str, work: Callable[[], R], then: Callable[[R], None], drop: Callable[[R], None] | None = None
    ) -> None:
        """`then` takes a result between two turns, `drop` one that is not wanted any more."""
        self._name = name
        self._work = work
        self._then = then
        self._drop = drop
        self._pool = ThreadPoolExecutor(1, name)
        self._made: Future[R] | None = None
        self._not_before = 0.0

    @property
    def busy(self) -> bool:
        """Whether a piece is being made, or waits to be taken."""
        return self._made is not None

    def go_on(self, *, due: bool) -> None:
        """Take what is made; begin a piece if one is `due`. Raises what `then` raises."""
        if self._made is None:
            if due and time.monotonic() >= self._not_before:
                self._made = asyncio.get_running_loop().run_in_executor(self._pool, self._work)
            return
        if not self._made.done():
            return
        made, self._made = self._made, None
        error = made.exception()
        if error is None:
            self._then(made.result())
        else:
            log.error("%s failed, and is tried again later: %r", self._name, error)
            self._not_before = time.monotonic() + PAUSE_SECONDS

    async def end(self) -> None:
        """Wait for the piece that is being made, and drop it."""
        made, self._made = self._made, None
        if made is None:
            return
        await asyncio.wait({made})
        if made.exception() is None and self._drop is not None:
            self._drop(made.result())

    def close(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False)
