"""`feedloom users erase`, `feedloom state rollback` and `state quarantine`: what an engine is to forget."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from engine.errors import InputError
from engine.events import Erase, Quarantine
from feedloom.kafka_commands import bootstrap_option, chosen_settings, json_option, show_document, since_ms, time_ms
from streams.orders import FolderTarget, KafkaTarget, ServerTarget

Command = Callable[..., None]
Target = KafkaTarget | ServerTarget | FolderTarget

TARGETS = [
    click.option("--url", help="A running `feedloom serve`, such as http://127.0.0.1:8080."),
    click.option(
        "--data", type=click.Path(path_type=Path), metavar="DIR", help="Its data, when it is not running."
    ),
    bootstrap_option,
    click.option("--yes", is_flag=True, help="Do not ask."),
    json_option,
]


def of_a_target(command: Command) -> Command:
    """Give a command the options that say which engine is meant: without any, the workers of the settings."""
    for option in reversed(TARGETS):
        command = option(command)
    return command


@click.group()
def users() -> None:
    """What an engine knows of a user."""


@users.command("erase")
@click.argument("user")
@of_a_target
def erase_command(user: str, **options: Any) -> None:
    """Forget USER: state, what is cached or copied of it, and every re-fold; raw logs lapse by the date printed.

    What USER does from now on is learned as of somebody new.
    """
    made(lambda: Erase(user=user))
    target = target_of(options)
    confirmed(f"forget all that is known of user {user}", yes=options["yes"])
    done = target.erase(user)
    if options["as_json"]:
        show_document(done)
        return
    lapse = "never, by their topics' settings" if done.logs_lapse_ms is None else date_of(done.logs_lapse_ms)
    click.echo(f"user {user} is forgotten up to {date_of(done.erased_ms)}; raw logs lapse: {lapse}")


@click.group()
def state() -> None:
    """What an engine has learned."""


@state.command("rollback")
@click.option("--to", "to", required=True, metavar="TIME", help="After which no reaction is to count.")
@of_a_target
def rollback_command(to: str, **options: Any) -> None:
    """Learn again without any reaction that came after TIME until now, while serving goes on.

    TIME is in milliseconds since the epoch, or ISO 8601 (UTC unless it says otherwise), or a duration such as 90s,
    15m, 1h or 7d ago; it is the log's time. Feeds that were served stay facts; reactions from now on count.
    """
    leave_out(read_time("--to", to) + 1, None, None, options)


@state.command("quarantine")
@click.option("--from", "since", required=True, metavar="TIME", help="The first moment that is left out.")
@click.option("--to", "until", required=True, metavar="TIME", help="The last one.")
@click.option("--user", help="Only what this user did.")
@of_a_target
def quarantine_command(since: str, until: str, user: str | None, **options: Any) -> None:
    """Learn again without the reactions of a time, while serving goes on. TIME is as for `rollback`."""
    leave_out(read_time("--from", since), read_time("--to", until), user, options)


def leave_out(from_ms: int, to_ms: int | None, user: str | None, options: dict[str, Any]) -> None:
    """Order a quarantine, and say so."""
    what = made(lambda: Quarantine(from_ms=from_ms, to_ms=to_ms, user=user))
    target = target_of(options)
    whose = "all reactions" if user is None else f"the reactions of user {user}"
    span = f"from {date_of(from_ms)} to {'now' if to_ms is None else date_of(to_ms)}"
    confirmed(f"leave out {whose} {span} for good", yes=options["yes"])
    done = target.quarantine(what)
    if options["as_json"]:
        show_document(done)
    else:
        click.echo(f"{done.partitions} partition{'s'[: done.partitions != 1]} will be without {whose} {span}")


def made(make: Callable[[], Any]) -> Any:
    """An order, or what is wrong with it in a sentence."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error


def target_of(options: dict[str, Any]) -> Target:
    """The engine that the options name. Raises InputError where they name two."""
    url, data, bootstrap = options["url"], options["data"], options["bootstrap"]
    if sum(given is not None for given in (url, data, bootstrap)) > 1:
        raise InputError("give one of --url, --data and --bootstrap")
    settings = chosen_settings(bootstrap)
    if url is not None:
        return ServerTarget(url, settings)
    if data is not None:
        return FolderTarget(data, settings)
    return KafkaTarget(settings)


def confirmed(what: str, *, yes: bool) -> None:
    """Ask on a terminal; what is forgotten does not come back."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"{what}?", abort=True, err=True)


def read_time(option: str, text: str) -> int:
    """Log time in milliseconds since the epoch. Raises InputError for what is none."""
    at_ms = time_ms(text)
    at_ms = since_ms(text) if at_ms is None else at_ms
    if at_ms is None:
        raise InputError(
            f"{option} {text!r} is no time: give milliseconds, an ISO 8601 time, or a duration ago such as 15m"
        )
    return at_ms


def date_of(at_ms: int) -> str:
    """A time as people read it."""
    return datetime.fromtimestamp(at_ms / 1000.0, UTC).isoformat(timespec="milliseconds")
