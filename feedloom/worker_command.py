"""`feedloom worker`: the worker with its settings on the command line."""

import os
from importlib import import_module

import click

from streams.settings import PREFIX, read_settings
from streams.topics import check

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
    for name in FLAGS:
        if given[name] is not None:
            os.environ[PREFIX + name.upper()] = str(given[name])
    check(read_settings())  # before anything is started: what is wrong is one sentence
    faust = import_module("faust")
    hosted = import_module("streams.worker")  # it reads the settings when it is imported
    try:
        faust.Worker(hosted.app, loglevel=log_level).execute_from_commandline()
    except SystemExit:
        if hosted.refusals:
            raise hosted.refusals[0] from None
        raise
