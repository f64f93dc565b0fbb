"""The worker, hosted by Faust: `faust -A streams.worker worker`, or `feedloom worker`.

Two services of ours stand in the app, on Faust's own Kafka client: `FactsService` reads what all workers share,
`PartitionsService` is this worker's part of the group over requests and feedback. Faust's own consumer, whose one
group would split the shared topics too, is not started.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from aiohttp import web
from mode import Service

from engine.errors import InputError
from streams.embedded import warm_up
from streams.facts import FactsReader, publishing
from streams.gateway import Gateway
from streams.hosting import ServicesApp, addresses, quiet_clients, refusals, refuse
from streams.listening import listening, refuse_open_host
from streams.login import is_refusal
from streams.partitions import Partitions
from streams.permissions import HTTP_WORKER, WORKER, ready
from streams.policy_watch import policy_of_file
from streams.security import refused
from streams.settings import read_settings
from streams.topics import check

# States are values without cycles, and many: looking for cycles in them is a fifth of the time of a reaction.
gc.set_threshold(50_000, 20, 100)
# The fitter works in a thread: requests get the interpreter back from it ten times as soon as by default.
sys.setswitchinterval(0.0005)
quiet_clients()
log = logging.getLogger(__name__)
settings = read_settings()
facts = FactsReader(settings, policy_of_file(settings.policy) if settings.policy else None)
app = ServicesApp(settings.group, broker=addresses(settings), web_enabled=False, worker_redirect_stdouts=False)


class Hosted(Service):
    """A service whose work goes on until the worker stops; if it fails, so does the worker."""

    _work: "asyncio.Task[None] | None" = None

    async def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with this beside everything else."""
        self._work = asyncio.create_task(work)
        self._work.add_done_callback(self._ended)

    def _ended(self, work: "asyncio.Task[None]") -> None:
        """A worker that cannot go on says so and ends; another one takes its partitions."""
        error = None if work.cancelled() else work.exception()
        if isinstance(error, Exception) and is_refusal(error):
            error = refused(settings, error)
        if isinstance(error, InputError):
            refuse(error)
        elif error is not None:
            log.error("the worker cannot go on", exc_info=error)
            self.add_future(self.crash(error))

    async def end(self) -> None:
        """Let the work come to its end."""
        if self._work is None:
            return
        self._work.cancel()
        with suppress(asyncio.CancelledError, Exception):  # what it failed of has been said
            await self._work


@app.service
class FactsService(Hosted):
    """Reads the shared facts: whole before anything is answered, then as they change."""

    async def on_start(self) -> None:
        """Read all there is, if that is allowed."""
        try:
            await asyncio.to_thread(ready, settings, WORKER if settings.http_port is None else HTTP_WORKER)
        except InputError as error:
            refuse(error)
            return
        try:
            await facts.start()
        except InputError as error:
            refuse(error)
            return
        await self.begin(facts.run())

    async def on_stop(self) -> None:
        """Let go of the topics."""
        await self.end()
        await facts.stop()


@app.service
class PolicyFileService(Hosted):
    """Publishes what changes in the policy file, if the settings name one."""

    async def on_start(self) -> None:
        """Watch it."""
        if not refusals and settings.policy is not None:
            await self.begin(publishing(settings, facts, settings.policy))

    async def on_stop(self) -> None:
        """Look no more."""
        await self.end()


@app.service
class PartitionsService(Hosted):
    """Turns this worker's partitions."""

    partitions: Partitions | None = None

    async def on_start(self) -> None:
        """Be ready to answer, then join the group."""
        if refusals:
            return
        number = await asyncio.to_thread(check, settings)
        await asyncio.to_thread(warm_up, facts.facts.policy)
        self.partitions = Partitions(settings, facts, number)
        await self.partitions.start()
        await self.begin(self.partitions.run())

    async def on_stop(self) -> None:
        """Finish the turn, then leave."""
        await self.end()
        if self.partitions is not None:
            await self.partitions.stop()


@app.service
class HttpService(Hosted):
    """Answers HTTP, if the settings say where."""

    gateway: Gateway | None = None
    runner: web.AppRunner | None = None

    async def on_start(self) -> None:
        """Read what was answered lately, and listen."""
        if refusals or settings.http_port is None:
            return
        try:
            refuse_open_host(settings.http_host, settings)
            number = await asyncio.to_thread(check, settings)
            self.gateway = Gateway(settings, facts, number)
            await self.gateway.start()
            self.runner = await listening(self.gateway, settings, settings.http_host, settings.http_port)
        except InputError as error:
            refuse(error)
            return
        await self.begin(self.gateway.run())

    async def on_stop(self) -> None:
        """Let go of clients, then of the topics."""
        if self.runner is not None:
            await self.runner.cleanup()
        await self.end()
        if self.gateway is not None:
            await self.gateway.stop()
