"""`feedloom dead-letters`: look at records that could not be used, and send them back when the cause is mended."""

import re
import shutil
import sys
from base64 import b64encode
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from engine.errors import InputError
from feedloom.kafka_commands import (
    bootstrap_option,
    chosen_settings,
    json_option,
    longest,
    print_columns,
    quiet_pipe,
    show_document,
    start_of,
)
from streams.dead_letters import SOURCES, Letter, Outcome, Wanted, letters, resend, sorted_out
from streams.settings import Settings
from streams.values import Keyed, keyed

Command = Callable[..., None]

COLUMNS = ("letter", "when", "from", "key", "sent back", "reason", "value")
REASON_WIDTH = 60
VALUE_WIDTH_MIN = 20
FILTERS = [
    click.option("--topic", type=click.Choice(SOURCES), help="Only letters of records of this topic."),
    click.option("--reason", metavar="TEXT", help="Only letters whose reason has this in it."),
    click.option("--user", help="Only letters with this key."),
    click.option(
        "--from",
        "start",
        default="earliest",
        show_default=True,
        help="earliest, ts=TIME or last=DURATION, as `tail` has it: when it became a letter.",
    ),
    click.option(
        "--offset", "places", metavar="P:N", multiple=True, help="The letter at this place; may be repeated."
    ),
    click.option("--max", "most", type=click.IntRange(1), help="Of all these the newest so many."),
]


def filters(command: Command) -> Command:
    """Give a command the options that choose letters."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at records that could not be used, and send them back when what was wrong is mended."""


@dead_letters.command("list")
@filters
@bootstrap_option
@json_option
def list_command(bootstrap: str | None, *, as_json: bool, **given: Any) -> None:
    """Show dead letters, the newest last: where the record stood, when and why, and how its value begins."""
    found = letters(chosen_settings(bootstrap), wanted_of(**given))
    with quiet_pipe():
        if as_json:
            show_document({"letters": [document(letter) for letter in found]})
        elif found:
            print_letters(found)
        else:
            click.echo("no letters")


@dead_letters.command("resend")
@filters
@click.option(
    "--value", "file", type=click.Path(path_type=Path), help="Send what is in this file; with one --offset."
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before more than one letter is sent.")
@bootstrap_option
@json_option
def resend_command(
    file: Path | None, bootstrap: str | None, *, dry_run: bool, yes: bool, as_json: bool, **given: Any
) -> None:
    """Send dead letters back to the topic they came from, with their own key and bytes.

    A record without a key goes to the partition it was in, the others where their key belongs. With --value the
    letter's value is that of the file, checked and keyed as `send` does it.

    What is sent names its letter in the header feedloom.resent-from, and a receipt in dead-letters says that it was
    sent; a record is not sent twice, however many letters there are of it. If this command is killed, at most 100
    letters that were sent have no receipt yet and are sent once more the next time. That is harmless: a reaction is
    credited once, and a request has one decision.

    Letters that hold only the beginning of a record, and those of feeds, are named and not sent. Exit 0: all are
    sent, now or before; 1: some could not be; 2: bad usage.
    """
    settings, wanted = chosen_settings(bootstrap), wanted_of(**given)
    chosen = letters(settings, wanted)
    mended = mended_value(settings, chosen, wanted, file)
    to_send, outcomes = sorted_out(chosen, mended)
    if not dry_run and len(to_send) > 1 and not yes:
        confirm(to_send, asking=sys.stdin.isatty() and sys.stdout.isatty() and not as_json)
    if dry_run:
        outcomes += [Outcome(letter) for letter in to_send]
    elif to_send:
        outcomes += resend(settings, to_send, wanted.start, mended)
    outcomes.sort(key=lambda outcome: (outcome.letter.partition, outcome.letter.offset))
    not_tried = len(chosen) - len(outcomes)
    show_outcomes(outcomes, not_tried, as_json=as_json)
    if not_tried or any(outcome.problem for outcome in outcomes):
        sys.exit(1)


def wanted_of(*, start: str, places: Sequence[str], **given: Any) -> Wanted:
    """The filters of the command line. Raises InputError for a place that is none."""
    for place in places:
        if not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,18}", place):
            raise InputError(
                f"--offset {place!r} is no place: give partition and offset, as `list` shows them: 0:17"
            )
    return Wanted(start=start_of(start), places=frozenset(places), **given)


def mended_value(settings: Settings, chosen: Sequence[Letter], wanted: Wanted, file: Path | None) -> Keyed | None:
    """What is in the file, as `send` would take it for the topic of the only letter."""
    if file is None:
        return None
    if len(wanted.places) != 1:
        raise InputError("--value mends one letter: name it with one --offset")
    (letter,) = chosen
    if letter.origin.topic not in SOURCES:
        return None  # it is refused for that
    value = file.read_bytes().strip()
    most = longest(letter.origin.topic, settings)
    if len(value) > most:
        raise InputError(f"{file} is longer than {most:,} bytes")
    try:
        return keyed(letter.origin.topic, value)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def confirm(to_send: Sequence[Letter], *, asking: bool) -> None:
    """Ask somebody at a terminal, who sees what would be sent; tell everybody else what to give."""
    topics = Counter(letter.origin.topic for letter in to_send)
    told = " and ".join(f"{number} to {topic}" for topic, number in topics.items())
    if not asking:
        raise InputError(f"this would send {told}: look with --dry-run, then give --yes")
    print_letters(to_send)
    click.confirm(f"Send {told}?", abort=True)


def show_outcomes(outcomes: Sequence[Outcome], not_tried: int, *, as_json: bool) -> None:
    """Say of each letter what became of it, and how many there were of each kind."""
    if as_json:
        show_document({"letters": [outcome_document(outcome) for outcome in outcomes], "not_tried": not_tried})
        return
    for outcome in outcomes:
        click.echo(f"{outcome.letter.place}  {in_words(outcome)}")
    kinds = Counter(kind_of(outcome) for outcome in outcomes)
    kinds["not tried, after one that could not be sent"] += not_tried
    click.echo(", ".join(f"{number} {kind}" for kind, number in kinds.items() if number) or "no letters")


def kind_of(outcome: Outcome) -> str:
    """Which of four things became of a letter."""
    if outcome.problem is not None:
        return "refused"
    if outcome.to is None:
        return "would be sent"
    return "sent" if outcome.sent else "not sent again"


def in_words(outcome: Outcome) -> str:
    """What became of a letter."""
    origin = outcome.letter.origin
    words = {
        "refused": f"is not sent: {outcome.problem}",
        "would be sent": f"would be sent to {origin.topic}",
        "sent": f"is sent: {outcome.to}",
        "not sent again": f"is not sent again: {outcome.to}",
    }
    return words[kind_of(outcome)]


def outcome_document(outcome: Outcome) -> dict[str, object]:
    """What became of a letter, for a program."""
    shown: dict[str, object] = {"letter": outcome.letter.place, "became": kind_of(outcome)}
    shown |= {"to": outcome.to} if outcome.to is not None else {}
    return shown | ({"problem": outcome.problem} if outcome.problem is not None else {})


def document(letter: Letter) -> dict[str, object]:
    """A letter, for a program; a key that is not UTF-8 is in base64, and so is a value that does not begin so."""
    origin = letter.origin
    shown: dict[str, object] = {
        "letter": letter.place,
        "at_ms": letter.at_ms,
        "topic": origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
        "reason": letter.reason,
        "bytes": letter.value_bytes,
        "cut_from_bytes": letter.cut_from,
        "resent_to": letter.resent_to,
    }
    for name, data in (("key", origin.key), ("beginning", letter.beginning)):
        try:
            shown[name] = None if data is None else beginning_of(data, whole=name == "key")
        except UnicodeDecodeError:
            shown[f"{name}_base64"] = b64encode(data or b"").decode()
    return shown


def beginning_of(data: bytes, *, whole: bool) -> str:
    """The text of some bytes, of a beginning without a character that is cut. Raises UnicodeDecodeError."""
    return getincrementaldecoder("utf-8")().decode(data, final=whole)


def print_letters(found: Sequence[Letter]) -> None:
    """A table as wide as the terminal."""
    rows = [row(letter) for letter in found]
    taken = [max(map(len, column)) + 2 for column in zip(COLUMNS[:-1], *(row[:-1] for row in rows), strict=True)]
    room = max(shutil.get_terminal_size((200, 0)).columns - sum(taken), VALUE_WIDTH_MIN)
    print_columns([COLUMNS, *((*row[:-1], cut(row[-1], room)) for row in rows)])


def row(letter: Letter) -> tuple[str, ...]:
    """The cells of a letter. What comes from the record cannot write over the terminal."""
    origin = letter.origin
    return (
        letter.place,
        when(letter.at_ms),
        f"{origin.topic} {origin.partition}:{origin.offset}",
        "" if origin.key is None else printable(origin.key.decode(errors="backslashreplace")),
        "" if letter.resent_to is None else letter.resent_to,
        cut(printable(letter.reason), REASON_WIDTH),
        printable(letter.beginning.decode(errors="backslashreplace")),
    )


def when(at_ms: int) -> str:
    """A time in UTC, to the second; the number where it is beyond all calendars."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(at_ms)


def printable(text: str) -> str:
    """The text with escapes for what a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"
