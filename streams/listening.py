"""Listening for HTTP: at an address that may be reached, by those who may reach it."""

import logging

from aiohttp import web

from engine.errors import InputError
from streams.asking import Engine
from streams.http import application, is_loopback
from streams.settings import Settings

CLOSE_SECONDS = 2.0  # for clients that are being answered when it ends

log = logging.getLogger(__name__)


async def listening(engine: Engine, settings: Settings, host: str, port: int) -> web.AppRunner:
    """A server that takes connections until its `cleanup`. Raises InputError for an address that cannot be had."""
    runner = web.AppRunner(application(engine, settings), access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    log.info("listening on %s", address_of(runner))
    return runner


def address_of(runner: web.AppRunner) -> str:
    """Where a server listens."""
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def refuse_open_host(host: str, settings: Settings) -> None:
    """Raise InputError for an address that others can reach, as long as there is no key that they would have."""
    if settings.api_key is None and not is_loopback(host):
        raise InputError(f"host {host} is open to others: set FEEDLOOM_API_KEY first, which clients have to show")
