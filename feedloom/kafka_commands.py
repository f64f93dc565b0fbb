"""The commands of an operator with a Kafka cluster: `topics`, `send`, `tail` and `schemas`."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import click
import msgspec
from msgspec.structs import replace

from engine.errors import InputError
from streams.local_tail import tail_folder
from streams.settings import Settings, read_settings
from streams.tools import RECORD_BYTES_MAX, LineError, Start, read_lines, send, tail
from streams.topics import MEBIBYTE, TOPICS, TopicRow, create, describe
from streams.values import TYPES, keyed, loosely_keyed, schema

TOPIC = click.Choice([spec.name for spec in TOPICS])
UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
NAMED_STARTS: dict[str, Start] = {"earliest": "earliest", "latest": "latest"}
AT_MS_END = 1 << 63  # Kafka counts milliseconds in 64 bits
COLUMNS = ("topic", "partitions", "replication", "cleanup", "timestamp", "begin", "end")

bootstrap_option = click.option(
    "--bootstrap",
    metavar="HOST:PORT,…",
    help="Brokers to begin with; default: FEEDLOOM_BOOTSTRAP, or the settings file's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


@click.group()
def topics() -> None:
    """Make Feedloom's topics on a Kafka cluster, or look at them."""


@topics.command("create")
@click.option(
    "--partitions", type=click.IntRange(1), default=4, show_default=True, help="Parts that users are divided into."
)
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True, help="Copies of each record.")
@bootstrap_option
@json_option
def create_command(partitions: int, replication: int, bootstrap: str | None, *, as_json: bool) -> None:
    """Make the topics that are missing, and set the options of those that are there."""
    done = create(chosen_settings(bootstrap), partitions, replication)
    if as_json:
        show_document(done)
        return
    for topic in done.made:
        click.echo(f"made {topic}")
    for topic, options in done.repaired.items():
        click.echo(f"set {', '.join(f'{name}={value}' for name, value in options.items())} on {topic}")
    if done.there:
        click.echo(f"{len(done.there)} topics were there as wanted")


@topics.command("describe")
@bootstrap_option
@json_option
def describe_command(bootstrap: str | None, *, as_json: bool) -> None:
    """Show every topic as it is; exit 1 if a worker would refuse one."""
    rows = describe(chosen_settings(bootstrap))
    if as_json:
        show_document({"topics": rows})
    else:
        print_rows(rows)
    if any(row.problem for row in rows):
        sys.exit(1)


@click.command("send")
@click.argument("topic", metavar="TOPIC", type=TOPIC)
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--raw", is_flag=True, help="Send the lines as they are, valid or not.")
@click.option("--stream", "as_lines_come", is_flag=True, help="Send each line when it comes; end at a bad one.")
@bootstrap_option
@json_option
def send_command(
    topic: str, file: IO[bytes], bootstrap: str | None, *, raw: bool, as_lines_come: bool, as_json: bool
) -> None:
    """Send the JSON lines of FILE (default: standard input) to TOPIC, keyed by user, or item.

    Every line is checked before the first is sent: a bad one is named, and nothing is sent.
    """
    settings = chosen_settings(bootstrap)
    bytes_max = RECORD_BYTES_MAX if raw else longest(topic, settings)
    name = getattr(file, "name", "-")
    place = "standard input" if name in ("-", "<stdin>") else name
    key_of = partial(loosely_keyed if raw else keyed, topic)
    read = partial(read_lines, place=place, bytes_max=bytes_max, read=key_of)
    try:
        with nullcontext(file) if as_lines_come else checked(file, read) as source:
            sent = send(settings, topic, read(source))
    except LineError as error:
        done = "what came before it was" if as_lines_come else "nothing was"
        raise InputError(f"{error}; {done} sent") from error
    show_sent(settings.topic(topic), sent, as_json=as_json)


def show_sent(topic: str, sent: dict[int, int], *, as_json: bool) -> None:
    """Say how many records went to which partition."""
    total = sum(sent.values())
    if as_json:
        show_document({"topic": topic, "sent": total, "partitions": sent})
        return
    parts = ", ".join(f"{count} to partition {partition}" for partition, count in sent.items())
    click.echo(f"sent {total} to {topic}{f': {parts}' if parts else ''}")


@click.command("tail")
@click.argument("topic", metavar="TOPIC", type=TOPIC)
@click.option(
    "--from", "start", default="earliest", show_default=True, help="earliest, latest, ts=TIME or last=DURATION."
)
@click.option("--follow/--no-follow", help="Wait for more, or end with what is there.  [default: --no-follow]")
@click.option("--max", "records_max", type=click.IntRange(1), help="End after so many records.")
@click.option("--user", help="Only records that are keyed by this user.")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Of `feedloom serve`, running or not.")
@bootstrap_option
@json_option
def tail_command(
    topic: str,
    start: str,
    records_max: int | None,
    user: str | None,
    data: Path | None,
    bootstrap: str | None,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    """Print the records of TOPIC as JSON lines, each in an envelope that says where it stands.

    TIME is in milliseconds since the epoch, or ISO 8601 (UTC unless it says otherwise); DURATION is such as 90s,
    15m, 1h or 7d.
    """
    if as_json and follow and records_max is None:
        raise InputError("--json prints one document, which --follow would never end: give --max or leave one out")
    if data is not None and (follow or bootstrap is not None):
        raise InputError("--data reads what a folder holds now: leave out --follow and --bootstrap")
    settings, at = chosen_settings(bootstrap), start_of(start)
    read = tail_folder(data, topic, at, user) if data else tail(settings, topic, at, follow=follow, user=user)
    with quiet_pipe(), closing(read) as records:
        chosen = islice(records, records_max)
        if as_json:
            show_document({"records": list(chosen)})
            return
        for record in chosen:
            click.echo(msgspec.json.encode(record))


@click.command("schemas")
@click.argument("topic", metavar="[NAME]", type=click.Choice(list(TYPES)), required=False)
@click.option("--json", is_flag=True, expose_value=False, help="It is one JSON document in any case.")
def schemas_command(topic: str | None) -> None:
    """Print the JSON Schema of the values of a topic, or of all topics by name."""
    with quiet_pipe():
        show_document(schema(topic) if topic else {"topics": {name: schema(name) for name in TYPES}})


COMMANDS = (topics, send_command, tail_command, schemas_command)


def chosen_settings(bootstrap: str | None) -> Settings:
    """The settings of this process, with the brokers of the command line if there are any."""
    settings = read_settings()
    if bootstrap is None:
        return settings
    if not bootstrap:
        raise InputError("--bootstrap is empty: give host:port of a broker")
    return replace(settings, bootstrap=bootstrap)


def longest(topic: str, settings: Settings) -> int:
    """How many bytes a value may have, for a worker to take it or for Kafka to."""
    if topic in ("requests", "feedback"):
        return settings.value_bytes_max
    return next(spec.value_bytes_max for spec in TOPICS if spec.name == topic) or MEBIBYTE


@contextmanager
def checked(file: IO[bytes], read: Callable[[IO[bytes]], Iterator[object]]) -> Iterator[IO[bytes]]:
    """The file, or a copy of what can be read only once, from its beginning after all of it has been read well."""
    with nullcontext(file) if file.seekable() else SpooledTemporaryFile(max_size=RECORD_BYTES_MAX) as source:
        if source is not file:
            shutil.copyfileobj(file, source)
            source.seek(0)
        for _ in read(source):
            pass
        source.seek(0)
        yield source


def start_of(text: str) -> Start:
    """Where `tail` begins: `earliest`, `latest`, or log time in milliseconds since the epoch."""
    if text in NAMED_STARTS:
        return NAMED_STARTS[text]
    kind, _, value = text.partition("=")
    at_ms = time_ms(value) if kind == "ts" else since_ms(value) if kind == "last" else None
    if at_ms is None or not 0 <= at_ms < AT_MS_END:
        raise InputError(
            f"--from {text!r} is no place: give earliest, latest, ts= and milliseconds or an ISO 8601 time, "
            "or last= and a duration such as 90s, 15m, 1h or 7d"
        )
    return at_ms


def time_ms(text: str) -> int | None:
    """The milliseconds of a number or of a date; None if it is neither."""
    if re.fullmatch(r"[0-9]{1,19}", text):
        return int(text)
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(1000 * (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())


def since_ms(duration: str) -> int | None:
    """When something so long ago was; None if this is no duration."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", duration)
    if match is None:
        return None
    return max(0, round(1000 * time.time()) - int(match[1]) * UNIT_MS[match[2]])


def print_rows(rows: list[TopicRow]) -> None:
    """A table, and below it the problems."""
    print_columns([COLUMNS, *(tuple(map(str, msgspec.structs.astuple(row)[: len(COLUMNS)])) for row in rows)])
    for of in rows:
        if of.problem:
            click.echo(f"{of.topic} {of.problem}")


def print_columns(cells: Sequence[Sequence[str]]) -> None:
    """Rows of cells, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        words = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(words).rstrip())


def show_document(document: Any) -> None:
    """One JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(document)).decode())


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without a word when the reader of stdout has gone, as `| head` does."""
    try:
        yield
    except BrokenPipeError:
        # What Python still has to write at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
