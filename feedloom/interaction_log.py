"""Reads somebody's log and item list from CSV; whatever cannot be used is refused with its line."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import StringIO
from math import isfinite, isnan, nan
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import InputError
from engine.events import ID_LENGTH_MAX, ItemUpdate
from simulator.interactions import NOT_POSITIVE, Interaction

Cells = list[str]
Comparison = Callable[[Any, Any], bool]

LOG_COLUMNS = ("user", "item", "timestamp")
EPOCH_MS_MIN = 1e11  # as seconds this is the year 5138, as milliseconds 1973
AT_MS_END = 1e14  # the year 5138; beyond it stand micro- and nanoseconds since the epoch
TIME_FORM = "give seconds or milliseconds since the epoch, or ISO 8601"
CREATOR = "creator"  # the column whose values rules know as creators
CATEGORY_VALUES_MAX = 1000  # of an attribute; one with more, such as a title, is no category
SHOWN_CHARACTERS = 60  # of a bad cell, in a message

COMPARISONS: dict[str, Comparison] = {">=": ge, "<=": le, "==": eq, "!=": ne, ">": gt, "<": lt}
CONDITION_FORM = "COLUMN OP VALUE with OP one of >= <= > < == !="
CONDITION = re.compile(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*", re.DOTALL)


class CellError(ValueError):
    """A row cannot be used; the message says why, and whoever knows the line adds it."""


class Table(NamedTuple):
    """A CSV file: column name -> position; the rows with the line each begins on (the header is line 1)."""

    path: Path
    columns: dict[str, int]
    rows: Iterator[tuple[int, Cells]]


def read_log(path: Path, positive: str | None) -> list[Interaction]:
    """Every row of a log, sorted by (timestamp, file row).

    The file is CSV in UTF-8, separated by commas, or by tabs if its header has tabs. Columns, in any order:
    user, item, timestamp[, value][, action]; more are allowed. Blank lines are passed over. Ids are strings.
    A timestamp is a number of seconds since the epoch, or of milliseconds if it is 1e11 or more, or a date
    in ISO 8601 (with its dashes; UTC unless it says otherwise).

    `positive` is COLUMN OP VALUE with OP one of >= <= > < == !=; numbers are compared as numbers, and
    == and != compare text if VALUE is none. Without it every row is positive. The action of a positive row
    is its `action`, or 'like' without that column; every other row is 'rated'.

    Raises InputError if anything in the file or in `positive` cannot be used: nothing is left out silently.
    """
    table = _open_table(path, LOG_COLUMNS)
    interactions = _collect(table, _row_reader(table, positive))
    if positive is not None and not any(row.positive for row in interactions):
        raise InputError(f"No row of {path} is positive by {_shown(positive)}: change --positive.")
    interactions.sort(key=lambda row: row.at_ms)  # a stable sort: rows of one time stay in file order
    return interactions


def read_items(path: Path) -> dict[str, dict[str, list[str]]]:
    """Item id -> attribute -> values, from CSV with the column item; every other column is an attribute.

    `|` separates the values of a cell; an empty cell has none. Raises InputError if the file cannot be used
    or has an item twice.
    """
    table = _open_table(path, ("item",))
    line_of: dict[str, int] = {}
    items: dict[str, dict[str, list[str]]] = {}
    for line, cells in table.rows:
        item = cells[table.columns["item"]]
        if not item:
            raise _bad_line(path, line, "the item is empty; give it an id")
        if len(item) > ID_LENGTH_MAX:
            raise _bad_line(path, line, f"the item has {len(item)} characters; at most {ID_LENGTH_MAX} are taken")
        if item in items:
            raise _bad_line(path, line, f"item {_shown(item)} was given in line {line_of[item]}; keep one")
        line_of[item] = line
        items[item] = {name: _values(cells[at]) for name, at in table.columns.items() if name != "item"}
    if not items:
        raise InputError(f"{path} has a header but no rows: add one row for each item.")
    return items


def item_updates(items: Mapping[str, Mapping[str, list[str]]]) -> list[ItemUpdate]:
    """What `read_items` found as updates, with the attributes that say what kind of item it is.

    The column `creator` is the item's creator. An attribute of more than CATEGORY_VALUES_MAX different values tells
    items apart, and is left out.
    """
    values: dict[str, set[str]] = {}
    for attributes in items.values():
        for name, given in attributes.items():
            values.setdefault(name, set()).update(given)
    categories = {name for name, found in values.items() if len(found) <= CATEGORY_VALUES_MAX}
    return [
        ItemUpdate(
            item=item,
            attributes={name: given for name, given in of.items() if given and name in categories - {CREATOR}},
            creator=next(iter(of.get(CREATOR, ())), None),
        )
        for item, of in items.items()
    ]


def _values(cell: str) -> list[str]:
    return [value for value in cell.split("|") if value]


def _collect(table: Table, read_row: Callable[[Cells], Interaction]) -> list[Interaction]:
    interactions = []
    for line, cells in table.rows:
        try:
            interactions.append(read_row(cells))
        except CellError as error:
            raise _bad_line(table.path, line, str(error)) from None
    if not interactions:
        raise InputError(f"{table.path} has a header but no rows: add one row for each interaction.")
    return interactions


def _row_reader(table: Table, positive: str | None) -> Callable[[Cells], Interaction]:
    user_at, item_at, time_at = (table.columns[name] for name in LOG_COLUMNS)
    value_at, action_at = table.columns.get("value"), table.columns.get("action")
    is_positive = _condition(table, positive)

    def read_row(cells: Cells) -> Interaction:
        if value_at is not None and cells[value_at]:
            _finite(cells[value_at], "value")
        user, item = _filled(cells[user_at], "user"), _filled(cells[item_at], "item")
        liked = is_positive(cells)
        action = NOT_POSITIVE
        if liked:
            action = "like" if action_at is None else _filled(cells[action_at], "action")
        return Interaction(user, item, _at_ms(cells[time_at].strip()), action, liked)

    return read_row


def _condition(table: Table, positive: str | None) -> Callable[[Cells], bool]:
    if positive is None:
        return lambda _: True
    match = CONDITION.fullmatch(positive)
    if match is None:
        raise InputError(f"--positive {_shown(positive)} is not {CONDITION_FORM}: write it like 'value>=4'.")
    column, comparison, value = match.groups()
    if column not in table.columns:
        found = _listed(table.columns)
        raise InputError(f"--positive: {table.path} has no column {_shown(column)}: choose one of {found}.")
    at, bound, compare = table.columns[column], _number(value), COMPARISONS[comparison]
    if isfinite(bound):
        return lambda cells: compare(_finite(cells[at], column), bound)
    if comparison not in ("==", "!="):
        raise InputError(f"--positive: {_shown(value)} is not a finite number: {comparison} needs one.")
    return lambda cells: compare(cells[at], value)


def _filled(cell: str, column: str) -> str:
    if not cell:
        raise CellError(f"the {column} is empty; give every row one")
    if len(cell) > ID_LENGTH_MAX:
        raise CellError(f"the {column} has {len(cell)} characters; at most {ID_LENGTH_MAX} are taken")
    return cell


def _finite(cell: str, column: str) -> float:
    number = _number(cell)
    if not isfinite(number):
        raise CellError(f"{column} {_shown(cell)} is not a finite number; correct it or leave the row out")
    return number


def _number(text: str) -> float:
    """The number, or NaN where there is none; float() alone would also read 1_000."""
    try:
        return nan if "_" in text else float(text)
    except ValueError:
        return nan


def _at_ms(cell: str) -> int:
    number = _number(cell)
    if isnan(number):
        number = _iso_ms(cell)
    elif number < EPOCH_MS_MIN:
        number *= 1000
    if not 0 <= number < AT_MS_END:
        raise CellError(f"timestamp {_shown(cell)} is not within the years 1970 to 5138; {TIME_FORM}")
    return round(number)


def _iso_ms(cell: str) -> float:
    try:
        date = datetime.fromisoformat(cell)
    except ValueError:
        raise CellError(f"timestamp {_shown(cell)} is neither number nor date; {TIME_FORM}") from None
    return 1000 * (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _open_table(path: Path, needed: tuple[str, ...]) -> Table:
    rows = _numbered_rows(path, _read_text(path))
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    twice = [name for at, name in enumerate(names) if name in names[:at]]
    if twice:
        raise _bad_line(path, 1, f"there are two columns {_shown(twice[0])}; rename one")
    missing = [name for name in needed if name not in names]
    if missing:
        found = _listed(names) or "none"
        raise _bad_line(path, 1, f"no column {_listed(missing)}; found {found}; name them in the header")
    return Table(path, {name: at for at, name in enumerate(names)}, _of_width(path, rows, len(names)))


def _numbered_rows(path: Path, text: str) -> Iterator[tuple[int, Cells]]:
    source = StringIO(text, newline="")
    delimiter = "\t" if "\t" in source.readline() else ","
    source.seek(0)
    # strict: otherwise a quote that is never closed would swallow the rest of the file without a word
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise _bad_line(path, line, f"this cannot be read as CSV ({error}); check its quotes") from None


def _of_width(path: Path, rows: Iterator[tuple[int, Cells]], width: int) -> Iterator[tuple[int, Cells]]:
    for line, cells in rows:
        if len(cells) == width:
            yield line, cells
        elif cells:
            raise _bad_line(path, line, f"{len(cells)} of {width} fields; give it those of the header")


def _read_text(path: Path) -> str:
    data = _read_bytes(path)
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError(f"{path} is empty: give a CSV file with a header and rows.")
    if b"\0" in data:
        raise _bad_line(path, _line_of(data, data.index(b"\0")), "a NUL byte; save the file as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_line(path, _line_of(error.object, error.start), "not UTF-8; save it as UTF-8") from None


def _line_of(data: bytes, position: int) -> int:
    return len((data[:position] + b".").splitlines())


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a CSV file.") from None


def _bad_line(path: Path, line: int, problem: str) -> InputError:
    return InputError(f"{path}, line {line}: {problem}.")


def _shown(text: str) -> str:
    """A text as one short line, whatever is in it."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def _listed(names: Iterable[str]) -> str:
    shown = ", ".join(repr(name) for name in names)
    return shown if len(shown) <= 4 * SHOWN_CHARACTERS else shown[: 4 * SHOWN_CHARACTERS] + "…"
