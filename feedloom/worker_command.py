"""`feedloom worker`: the worker with its settings on the command line; and how any app that Faust hosts is run."""

import os
from collections.abc import Mapping
from importlib import import_module

import click

from streams.permissions import WORKER, Needs, ready
from streams.settings import PREFIX, read_settings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FLAGS = ("bootstrap", "topic_prefix", "group", "state_folder", "policy")  # settings that have a flag of their own


@click.command("worker")
@click.option("--bootstrap", metavar="HOST:PORT,…", help="Brokers to begin with.")
@click.option("--topic-prefix", help="What every topic's name begins with.")
@click.option("--group", help="The consumer group of all workers of one product.")
@click.option("--state", "state_folder", metavar="DIR", help="Where the state of this worker's partitions is kept.")
@click.option("--policy", metavar="FILE", help="TOML file; the defaults are in policy.toml.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="INFO", show_default=True, help="Least that is logged."
)
def worker(log_level: str, **given: str | None) -> None:
    """Answer requests and learn from feedback, for the partitions that the group gives this worker.

    What is not given comes from FEEDLOOM_* variables and settings.toml. SIGTERM ends it after the current turn.
    """
    run_hosted("streams.worker", WORKER, given, log_level)


def run_hosted(module: str, needs: Needs, given: Mapping[str, str | None], log_level: str) -> None:
    """Run the app of a module until it is told to end; what is given goes before all other settings."""
    for name in FLAGS:
        if given.get(name) is not None:
            os.environ[PREFIX + name.upper()] = str(given[name])
    settings = read_settings()
    if settings.http_port is not None:
        import_module("streams.listening").refuse_open_host(settings.http_host, settings)
    ready(settings, needs)  # before anything is started: what is wrong is one sentence
    hosted = import_module(module)  # it reads the settings when it is imported
    hosting = import_module("streams.hosting")
    try:
        hosting.Worker(hosted.app, settings, loglevel=log_level).execute_from_commandline()
    except SystemExit:
        if hosting.refusals:
            raise hosting.refusals[0] from None
        raise
