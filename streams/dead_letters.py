"""Dead letters: which there are, and sending them back to where they came from.

What is sent back names its letter in a header. Behind it a receipt goes to `dead-letters`, an empty record that
names where the letter's record stood: who has a receipt is not sent again, however many letters there are of it.
Receipts are written when what was sent is acknowledged, so after a kill in between one batch is sent once more.
"""

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from kafka.errors import KafkaError
from msgspec import Struct
from msgspec.structs import replace

from engine.errors import InputError
from streams.failpoints import passing
from streams.security import refused
from streams.settings import Settings
from streams.tools import DELIVERY_SECONDS_MAX, Start, producing, records
from streams.topics import partition_count
from streams.values import Keyed

LETTERS = "dead-letters"
SOURCES = ("requests", "feedback", "feeds")
ORIGIN = ("feedloom.topic", "feedloom.partition", "feedloom.offset")  # headers of letters and of receipts
RESENT_FROM = "feedloom.resent-from"  # header of what is sent back: where its letter stands
RESENT_TO = "feedloom.resent-to"  # header of a receipt: where what was sent back stands
BATCH = 100  # letters sent and not yet acknowledged
BEGINNING_BYTES_MAX = 200  # of a value, to be looked at


class Origin(Struct, frozen=True):
    """The record that could not be used: where it stood, and its key."""

    topic: str
    partition: int
    offset: int
    key: bytes | None


class Letter(Struct, frozen=True):
    """One letter. `value_bytes` is its length, and `cut_from` that of its record if it is only the beginning.

    `resent_to` is where its record was sent, as topic, partition and offset, if it was.
    """

    partition: int
    offset: int
    at_ms: int
    origin: Origin
    reason: str
    value_bytes: int
    beginning: bytes
    cut_from: int | None = None
    resent_to: str | None = None

    @property
    def place(self) -> str:
        """Where it stands in `dead-letters`."""
        return f"{self.partition}:{self.offset}"


class Wanted(Struct, frozen=True):
    """Which letters: all that are left by every filter, and of these the newest so many."""

    start: Start = "earliest"
    topic: str | None = None
    reason: str | None = None  # a part of it, in capitals or not
    user: str | None = None
    places: frozenset[str] = frozenset()  # of letters; none are all
    most: int | None = None

    def includes(self, letter: Letter) -> bool:
        """Whether every filter leaves it."""
        return (
            self.topic in (None, letter.origin.topic)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and (self.user is None or letter.origin.key == self.user.encode())
            and (not self.places or letter.place in self.places)
        )


class Outcome(Struct, frozen=True):
    """What became of a letter.

    It is `sent` now, `to` a place; or not again, and `to` says where its record is or which letter has it too; or
    there is a `problem`; or nothing has become of it yet.
    """

    letter: Letter
    to: str | None = None
    problem: str | None = None
    sent: bool = False


def letters(settings: Settings, wanted: Wanted) -> list[Letter]:
    """The letters that are wanted, the newest last. Raises InputError for a place where none is."""
    found: deque[Letter] = deque(maxlen=wanted.most)
    receipts: dict[Origin, str] = {}
    for record in records(settings, LETTERS, wanted.start):
        headers = dict(record.headers)
        origin = _origin(record.key, headers)
        if origin is None:
            continue  # somebody else's
        if RESENT_TO in headers:
            receipts[origin] = headers[RESENT_TO].decode(errors="replace")
            continue
        letter = _letter(record, headers, origin)
        if wanted.includes(letter):
            found.append(letter)
    missing = wanted.places - {letter.place for letter in found}
    if missing:
        raise InputError(f"no letter is at {', '.join(sorted(missing))}, or the other filters leave it out")
    return [replace(letter, resent_to=receipts.get(letter.origin)) for letter in found]


def _origin(key: bytes | None, headers: dict[str, bytes]) -> Origin | None:
    try:
        topic, partition, offset = (headers[name].decode() for name in ORIGIN)
        return Origin(topic, int(partition), int(offset), key)
    except (KeyError, ValueError):
        return None


def _letter(record: Any, headers: dict[str, bytes], origin: Origin) -> Letter:
    value, cut_from = record.value or b"", headers.get("feedloom.cut-from-bytes", b"").decode(errors="replace")
    return Letter(
        record.partition,
        record.offset,
        record.timestamp,
        origin,
        headers.get("feedloom.reason", b"").decode(errors="replace"),
        len(value),
        value[:BEGINNING_BYTES_MAX],
        int(cut_from) if cut_from.isdecimal() else None,
    )


def sorted_out(chosen: Collection[Letter], mended: Keyed | None = None) -> tuple[list[Letter], list[Outcome]]:
    """The letters that can be sent, the first of each record; and of the others, why they are not.

    `mended` goes in place of what the only letter holds.
    """
    to_send: dict[Origin, Letter] = {}
    rest = []
    for letter in chosen:
        if letter.resent_to is not None:
            rest.append(Outcome(letter, letter.resent_to))
        elif letter.origin in to_send:
            rest.append(Outcome(letter, f"the same record as {to_send[letter.origin].place}"))
        elif (problem := _problem(letter, mended)) is not None:
            rest.append(Outcome(letter, problem=problem))
        else:
            to_send[letter.origin] = letter
    return list(to_send.values()), rest


def _problem(letter: Letter, mended: Keyed | None) -> str | None:
    """Why a letter cannot be sent."""
    if letter.origin.topic == "feeds":
        return "workers alone write to feeds: send the request again, and it is answered again"
    if letter.origin.topic not in SOURCES:
        return f"it is of topic {letter.origin.topic}, to which nothing is sent back"
    if letter.cut_from is not None and mended is None:
        return f"it is cut from {letter.cut_from:,} bytes: send the record itself again, or give --value"
    return None


def resend(
    settings: Settings, to_send: Collection[Letter], start: Start, mended: Keyed | None = None
) -> Iterator[Outcome]:
    """Send letters back with their own key and bytes, or what is `mended` in place of the only one.

    It ends after a batch of which something could not be sent; what comes behind it is not tried.
    """
    by_place = {letter.place: letter for letter in to_send}
    for topic in {letter.origin.topic for letter in to_send}:
        partition_count(settings, topic)  # else it is missing
    with closing(records(settings, LETTERS, start)) as found, producing(settings) as producer:
        chosen = (
            (by_place[place], record)
            for record in found
            if (place := f"{record.partition}:{record.offset}") in by_place
        )
        while batch := list(islice(chosen, BATCH)):
            outcomes = _sent(settings, producer, batch, mended)
            passing("before-receipts")
            _write_receipts(settings, producer, outcomes)
            yield from outcomes
            if any(outcome.problem for outcome in outcomes):
                return


def _sent(
    settings: Settings, producer: Any, batch: Collection[tuple[Letter, Any]], mended: Keyed | None
) -> list[Outcome]:
    """Send a batch, and wait for all of it."""
    pending: list[tuple[Letter, Any]] = []
    for letter, record in batch:
        key, value = record.key, record.value or b""
        if mended is not None:
            key, value = None if mended.key is None else mended.key.encode(), mended.value
        # Who has a key goes where it belongs, which may be the reason why this is a letter.
        partition = letter.origin.partition if key is None else None
        headers = [(RESENT_FROM, letter.place.encode())]
        topic = settings.topic(letter.origin.topic)
        try:
            pending.append((letter, producer.send(topic, value, key, headers=headers, partition=partition)))
        except KafkaError as error:
            pending.append((letter, error))
    return [_outcome(settings, letter, sent) for letter, sent in pending]


def _outcome(settings: Settings, letter: Letter, sent: Any) -> Outcome:
    """What became of it, once that is known."""
    try:
        if isinstance(sent, KafkaError):
            raise sent
        where = sent.get(DELIVERY_SECONDS_MAX)
    except KafkaError as error:
        return Outcome(letter, problem=str(refused(settings, error)))
    return Outcome(letter, f"{letter.origin.topic} {where.partition}:{where.offset}", sent=True)


def _write_receipts(settings: Settings, producer: Any, outcomes: Collection[Outcome]) -> None:
    """Say in `dead-letters` what was sent, and wait until it stands there."""
    written = []
    for outcome in outcomes:
        if outcome.sent and outcome.to is not None:
            origin = outcome.letter.origin
            names = (*ORIGIN, RESENT_FROM, RESENT_TO)
            texts = (origin.topic, origin.partition, origin.offset, outcome.letter.place, outcome.to)
            headers = [(name, str(text).encode()) for name, text in zip(names, texts, strict=True)]
            written.append(producer.send(settings.topic(LETTERS), b"", origin.key, headers=headers))
    for receipt in written:
        receipt.get(DELIVERY_SECONDS_MAX)
