"""The worker, hosted by Faust: `faust -A streams.worker worker`, or `feedloom worker`.

Two services of ours stand in the app, on Faust's own Kafka client: `FactsService` reads what all workers share,
`PartitionsService` is this worker's part of the group over requests and feedback. Faust's own consumer, whose one
group would split the shared topics too, is not started.
"""

import asyncio
from contextlib import suppress

import faust
from faust.app.base import BootStrategy
from mode import Service

from engine.policy import Policy
from streams.facts import FactsReader
from streams.partitions import Partitions
from streams.policy_file import read_policy
from streams.settings import read_settings
from streams.topics import check


class OurServicesOnly(BootStrategy):  # type: ignore[misc]  # Faust's types are not exported
    """No consumer, producer or web server of Faust's own."""

    enable_kafka = False
    enable_web = False


class App(faust.App):  # type: ignore[misc]
    """A Faust app that hosts services."""

    BootStrategy = OurServicesOnly


settings = read_settings()
policy = read_policy(settings.policy) if settings.policy else Policy()
facts = FactsReader(settings, policy)
app = App(
    settings.group,
    broker=[f"kafka://{address}" for address in settings.bootstrap.split(",")],
    datadir=str(settings.state_folder / "faust"),
    web_enabled=False,
    worker_redirect_stdouts=False,
)


@app.service
class FactsService(Service):  # type: ignore[misc]
    """Reads the shared facts: whole before anything is answered, then as they change."""

    async def on_start(self) -> None:
        """Read all there is."""
        await facts.start()

    @Service.task
    async def _run(self) -> None:
        await facts.run()

    async def on_stop(self) -> None:
        """Let go of the topic."""
        await facts.stop()


@app.service
class PartitionsService(Service):  # type: ignore[misc]
    """Turns this worker's partitions."""

    async def on_start(self) -> None:
        """Join the group."""
        partitions = await asyncio.to_thread(check, settings)
        self.partitions = Partitions(settings, policy, facts, partitions)
        await self.partitions.start()
        self._running = asyncio.create_task(self.partitions.run())
        self._running.add_done_callback(self._ended)

    def _ended(self, running: "asyncio.Task[None]") -> None:
        """A worker that cannot go on says so and ends; another one takes its partitions."""
        if not running.cancelled() and (error := running.exception()):
            self.add_future(self.crash(error))

    async def on_stop(self) -> None:
        """Finish the turn, then leave."""
        self._running.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._running
        await self.partitions.stop()
