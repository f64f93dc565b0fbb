"""Faust, as our processes use it: apps without folders, quiet clients, and an end in order that says why."""

import logging
import signal
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.types.auth import CredentialsT

from engine.errors import InputError
from streams.login import is_refusal
from streams.security import client_options, refused
from streams.seldom import Seldom
from streams.settings import Settings

log = logging.getLogger(__name__)
refusals: list[InputError] = []  # why this process ended, if it did so by itself


class App(faust.App):
    """A Faust app without tables."""

    async def on_first_start(self) -> None:
        """Make no folders: Faust keeps no tables here."""


class OurServicesOnly(BootStrategy):
    """No consumer, producer or web server of Faust's own."""

    enable_kafka = False
    enable_web = False


class ServicesApp(App):
    """A Faust app that hosts services."""

    BootStrategy = OurServicesOnly


class Worker(faust.Worker):
    """Faust's worker; where brokers refuse a client of Faust's something, it says what is missing as it ends."""

    def __init__(self, app: faust.App, settings: Settings, **options: Any) -> None:
        super().__init__(app, **options)
        self._settings = settings
        logging.setLogRecordFactory(_without_refusals_traces)

    def _crash(self, reason: BaseException) -> None:
        """Take note of why a service crashed."""
        if isinstance(reason, Exception) and is_refusal(reason) and not refusals:
            _say(refused(self._settings, reason))
        super()._crash(reason)


def _without_refusals_traces(*args: Any, **options: Any) -> logging.LogRecord:
    """A record of the log as it would be, but a refusal in one line: where in a client it was met mends nothing."""
    record = logging.LogRecord(*args, **options)
    error = record.exc_info[1] if record.exc_info else None
    if is_refusal(error):
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {error}", (), None
    return record


def quiet_clients() -> None:
    """The Kafka clients' ways are of no interest while they go well; without a broker they repeat themselves."""
    for name in ("aiokafka", "kafka"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("aiokafka")]:
        logging.getLogger(name).addFilter(Seldom())


def addresses(settings: Settings) -> list[str]:
    """The brokers to begin with, as Faust names them."""
    return [f"kafka://{address}" for address in settings.bootstrap.split(",")]


def credentials(settings: Settings) -> CredentialsT | None:
    """The same options as all our clients have, for Faust's own; None where there is nothing to show."""
    options = client_options(settings)
    context = options.get("ssl_context")
    if "sasl_mechanism" not in options:
        return None if context is None else faust.SSLCredentials(context)
    return faust.SASLCredentials(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        mechanism=options["sasl_mechanism"],
        ssl_context=context,
    )


def refuse(error: InputError) -> None:
    """End this process in order: somebody has to mend what the error says."""
    _say(error)
    signal.raise_signal(signal.SIGTERM)


def _say(error: InputError) -> None:
    log.critical("%s", error)
    refusals.append(error)
