"""`feedloom serve`: the durable embedded engine behind HTTP, in one process and one folder."""

import asyncio
import gc
import logging
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from engine.errors import InputError
from engine.policy import Policy
from feedloom.worker_command import LEVELS
from streams.policy_file import read_policy
from streams.settings import Settings, read_settings

log = logging.getLogger(__name__)

YOUNG_SECONDS = 0.1  # between two looks for cycles in what is new


@click.command("serve")
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR", help="All that it keeps.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes one that is free."
)
@click.option("--policy", type=click.Path(path_type=Path), metavar="FILE", help="The defaults are in policy.toml.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="INFO", show_default=True, help="Least that is logged."
)
def serve_command(data: Path, host: str, port: int, policy: Path | None, log_level: str) -> None:
    """Serve feeds over HTTP from this process and folder alone: no broker, and nothing is lost by a kill.

    GET /openapi.json says what may be asked. Until FEEDLOOM_API_KEY is set, only this machine is answered. SIGTERM
    ends it after the current turn.
    """
    settings = read_settings()
    import_module("streams.listening").refuse_open_host(host, settings)
    path = policy or settings.policy
    chosen = policy_to_begin_with(path, data) if path else None
    logging.basicConfig(level=log_level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    unhurried()
    asyncio.run(serve(data, host, port, chosen, replace(settings, policy=path)))


def policy_to_begin_with(path: Path, data: Path) -> Policy | None:
    """What the file says; None where it is refused and another one is in force, which stays. Raises InputError."""
    try:
        return read_policy(path)
    except InputError as error:
        if not any((data / "log" / "policy-0").glob("*.log")):
            raise
        click.echo(f"feedloom: {error}; the policy that is in force stays", err=True)
        return None


def unhurried() -> None:
    """Let nothing stand in the way of a request for long: fits give way, and cycles are looked for apart."""
    gc.disable()
    sys.setswitchinterval(0.0005)


async def collect_cycles(engine: Any) -> None:
    """Look for cycles in what is new, ten times a second, until cancelled.

    States have none, and a fit, whose objects are millions, has none either: looking through these took 70 ms each
    ten seconds, which was the p99 of feeds. So nobody looks while a fit is made, nor ever at what it has made.
    """
    made = False
    while True:
        await asyncio.sleep(YOUNG_SECONDS)
        if engine.fitting:
            made = True
        elif made:
            made = False
            gc.freeze()
        else:
            gc.collect(0)


async def serve(data: Path, host: str, port: int, policy: Policy | None, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises InputError where folder or address cannot be had."""
    durable, http = import_module("streams.durable"), import_module("streams.listening")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    engine = durable.DurableEngine(data, policy, settings)
    try:
        runner = await http.listening(engine, settings, host, port)
        click.echo(http.address_of(runner))
        working, ending = asyncio.create_task(live(engine, policy or Policy())), asyncio.create_task(ended.wait())
        await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        await runner.cleanup()  # it answers who has asked
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working  # or raise what it ended of
    finally:
        engine.stop()


async def live(engine: Any, policy: Policy) -> None:
    """Answer, until cancelled: what is compiled first need not be waited for later."""
    await asyncio.to_thread(import_module("streams.embedded").warm_up, policy)
    log.info("reading what the topics hold")
    collecting = asyncio.create_task(collect_cycles(engine))
    try:
        await engine.run()
    finally:
        collecting.cancel()
