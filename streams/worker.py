"""The worker, hosted by Faust: `faust -A streams.worker worker`, or `feedloom worker`.

Two services of ours stand in the app, on Faust's own Kafka client: `FactsService` reads what all workers share,
`PartitionsService` is this worker's part of the group over requests and feedback. Faust's own consumer, whose one
group would split the shared topics too, is not started.
"""

import asyncio
import logging
from pathlib import Path

import faust
from faust.app.base import BootStrategy
from mode import Service

from engine.errors import InputError
from engine.policy import Policy
from streams.facts import FactsReader
from streams.partitions import Partitions
from streams.policy_file import read_policy
from streams.settings import read_settings
from streams.topics import check

log = logging.getLogger(__name__)


class OurServicesOnly(BootStrategy):  # type: ignore[misc]  # Faust's types are not exported
    """No consumer, producer or web server of Faust's own."""

    enable_kafka = False
    enable_web = False


settings = read_settings()
policy: Policy = read_policy(settings.policy) if settings.policy else Policy()
facts = FactsReader(settings, policy)
app = faust.App(
    settings.group,
    broker=[f"kafka://{address}" for address in settings.bootstrap.split(",")],
    datadir=str(Path(settings.state_folder) / "faust"),
    web_enabled=False,
)
app.BootStrategy = OurServicesOnly


@app.service
class FactsService(Service):  # type: ignore[misc]
    """Reads the shared facts: whole before anything is answered, then as they change."""

    async def on_start(self) -> None:
        """Refuse topics that would lose or mix up users, then read all facts."""
        try:
            self.partitions = await asyncio.to_thread(check, settings)
        except InputError as error:
            log.critical("%s", error)
            raise SystemExit(2) from error
        await facts.start()

    @Service.task
    async def _run(self) -> None:
        await facts.run()

    async def on_stop(self) -> None:
        """Let go of the topic."""
        await facts.stop()
