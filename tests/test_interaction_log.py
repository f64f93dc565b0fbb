import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from time import process_time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from feedloom.interaction_log import CATEGORY_VALUES_MAX, item_updates, read_items, read_log
from simulator.interactions import Interaction

# Every example overwrites the one file of the test.
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.csv"


def problem(read: Callable[[], object]) -> str:
    """What the reader says, in one short line; nothing if it took the file."""
    try:
        read()
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (any other error must come through)
        assert len(str(error)) < 1000  # noqa: PT017
        return str(error)
    return ""


def refused(path: Path, content: str | bytes, positive: str | None = None) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = problem(lambda: read_log(path, positive))
    assert str(path) in message
    return message


def read(path: Path, content: str, positive: str | None = None) -> list[Interaction]:
    path.write_text(content, encoding="utf-8", newline="")
    return read_log(path, positive)


def times(path: Path, *cells: str) -> list[int]:
    return [row.at_ms for row in read(path, "user,item,timestamp\n" + "".join(f"u,i,{c}\n" for c in cells))]


def positives(path: Path, positive: str) -> list[bool]:
    rows = "u,i,1,5,tap\nu,i,2,3,buy\nu,i,3,4,tap\n"
    return [row.positive for row in read(path, "user,item,timestamp,value,kind\n" + rows, positive)]


def test_rows_come_by_time_and_rows_of_one_time_as_in_the_file(log: Path) -> None:
    rows = read(log, "user,item,timestamp\na,1,20\nb,2,10\nc,3,20\nd,4,10.0\n")
    assert [row.user for row in rows] == ["b", "d", "a", "c"]


def test_columns_stand_in_any_order_and_further_ones_are_allowed(log: Path) -> None:
    rows = read(log, "colour,timestamp,item,user\nred,7,i,u\n")
    assert rows == [Interaction("u", "i", 7000, "like", positive=True)]


def test_tabs_separate_if_the_header_has_them(log: Path) -> None:
    assert read(log, "user\titem\ttimestamp\na,b\tc\t1\n")[0].user == "a,b"


def test_a_byte_order_mark_and_windows_line_ends_and_blank_lines_are_no_harm(log: Path) -> None:
    assert len(read(log, "\ufeffuser,item,timestamp\r\nu,i,1\r\n\r\nu,j,2\r\n\r\n")) == 2


def test_a_timestamp_is_seconds_milliseconds_or_iso_8601(log: Path) -> None:
    assert times(log, "881250949", "881250949.5", "881250949000") == [881250949000] * 2 + [881250949500]
    assert times(log, "1997-12-04T15:55:49", "1997-12-04T15:55:49Z") == [881250949000] * 2
    assert times(log, "1997-12-04 16:55:49.25+01:00", "1997-12-04") == [881193600000, 881250949250]
    assert times(log, "99999999999", "1e11", "0") == [0, 100_000_000_000, 99_999_999_999_000]


@pytest.mark.parametrize("cell", ["nan", "inf", "-1", "", "soon", "1_000", "1e15", "9999-12-31"])
def test_a_timestamp_that_says_no_time_is_refused_with_its_line(log: Path, cell: str) -> None:
    assert "line 3: timestamp" in refused(log, f"user,item,timestamp\nu,i,1\nu,i,{cell}\n")


def test_a_row_without_a_value_is_taken_as_long_as_nothing_asks_for_it(log: Path) -> None:
    log.write_text("user,item,timestamp,value\nu,i,1,\nu,j,2,5\n")
    assert len(read_log(log, None)) == 2
    assert "line 2" in refused(log, log.read_text(), "value>=4")


@pytest.mark.parametrize("cell", ["nan", "inf", "x", "1_0", "1e999"])
def test_a_value_that_is_no_finite_number_is_refused_with_its_line(log: Path, cell: str) -> None:
    assert "line 2: value" in refused(log, f"user,item,timestamp,value\nu,i,1,{cell}\n")


def test_empty_ids_are_refused_with_their_line(log: Path) -> None:
    assert "line 2: the user is empty" in refused(log, "user,item,timestamp\n,i,1\n")
    assert "line 3: the item is empty" in refused(log, "user,item,timestamp\nu,i,1\nu,,1\n")


def test_rows_that_are_not_positive_are_rated_and_the_others_keep_their_action(log: Path) -> None:
    rows = "user,item,timestamp,value,action\nu,i,1,5,buy\nu,i,2,1,buy\nu,i,3,1,\n"
    assert [row.action for row in read(log, rows, "value>=4")] == ["buy", "rated", "rated"]
    assert "line 4: the action is empty" in refused(log, rows)
    rows = "user,item,timestamp,value\nu,i,1,5\nu,i,2,1\n"
    assert [row.action for row in read(log, rows, "value>=4")] == ["like", "rated"]


@pytest.mark.parametrize(
    ("positive", "expected"),
    [
        ("value>=4", [True, False, True]),
        (" value  <= 4.0 ", [False, True, True]),
        ("value>4", [True, False, False]),
        ("value< 4", [False, True, False]),
        ("value == 4e0", [False, False, True]),
        ("value!=4", [True, True, False]),
        ("kind==tap", [True, False, True]),
        ("kind != tap", [False, True, False]),
    ],
)
def test_positive_compares_numbers_and_text(log: Path, positive: str, expected: list[bool]) -> None:
    assert positives(log, positive) == expected


@pytest.mark.parametrize("positive", ["", "value", "value=4", ">=4", "value>=", "value>=x", "value<nan", "x>1"])
def test_a_positive_that_cannot_be_used_is_refused(log: Path, positive: str) -> None:
    assert "--positive" in problem(lambda: positives(log, positive))


def test_a_positive_that_no_row_meets_is_refused(log: Path) -> None:
    assert "No row" in refused(log, "user,item,timestamp,value\nu,i,1,1\n", "value>=4")


def test_a_column_compared_as_a_number_must_be_one_in_every_row(log: Path) -> None:
    rows = "user,item,timestamp,score\nu,i,1,5\nu,i,2,high\n"
    assert "line 3: score 'high'" in refused(log, rows, "score>=4")
    assert "line 3: score 'high'" in refused(log, rows, "score==5")


def test_missing_columns_are_named_beside_those_found(log: Path) -> None:
    message = refused(log, "user,thing,when\nu,i,1\n")
    assert "no column 'item', 'timestamp'; found 'user', 'thing', 'when'" in message


def test_a_column_twice_is_refused(log: Path) -> None:
    assert "two columns 'item'" in refused(log, "user,item,timestamp,item\nu,i,1,i\n")


def test_a_file_without_rows_is_refused(log: Path) -> None:
    assert "is empty" in refused(log, "")
    assert "is empty" in refused(log, b"\xef\xbb\xbf\r\n")
    assert "no rows" in refused(log, "user,item,timestamp\n\n")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in problem(lambda: read_log(tmp_path / "none.csv", None))
    assert "directory" in problem(lambda: read_log(tmp_path, None))


def test_bytes_that_are_no_text_are_refused_with_their_line(log: Path) -> None:
    assert "line 3: not UTF-8" in refused(log, b"user,item,timestamp\nu,i,1\nu,\xff,2\n")
    assert "line 2: not UTF-8" in refused(log, b"\xef\xbb\xbfuser,item,timestamp\n\xff,i,2\n")
    assert "line 2: a NUL byte" in refused(log, b"user,item,timestamp\nu,\0,1\n")


@pytest.mark.parametrize("row", ["u,i", "u,i,1,2", "u"])
def test_a_row_of_another_width_is_refused_with_its_line(log: Path, row: str) -> None:
    assert "line 3: " in refused(log, f"user,item,timestamp\nu,i,1\n{row}\n")


def test_an_unclosed_quote_does_not_swallow_the_rest_of_the_file(log: Path) -> None:
    message = refused(log, 'user,item,timestamp\nu,i,1\nu,"i,2\nu,i,3\n')
    assert "line 3: this cannot be read as CSV (unexpected end of data)" in message


def test_a_long_field_is_refused_in_short(log: Path) -> None:
    assert "9999…" in refused(log, "user,item,timestamp\nu,i," + "9" * 10_000 + "\n")
    message = refused(log, "user,item,timestamp\n" + "u" * 200_000 + ",i,1\n")
    assert "line 2: this cannot be read as CSV (field larger than field limit" in message


def test_lines_are_counted_as_an_editor_counts_them_where_a_field_holds_a_line_end(log: Path) -> None:
    assert "line 4: " in refused(log, 'user,item,timestamp\n"u\nv",i,1\nu,i,never\n')


def test_a_hundred_thousand_rows_take_under_a_second(log: Path) -> None:
    log.write_text("user,item,timestamp,value\n" + "u17,i4711,881250949,4\n" * 100_000, encoding="utf-8")
    start = process_time()
    assert len(read_log(log, "value>=4")) == 100_000
    assert process_time() - start < 1  # measured: 0.3 s


@ONE_FILE
@given(st.binary())
@example(b"user,item,timestamp\n\r\r\n\n")
def test_any_bytes_are_read_or_refused_in_one_line(log: Path, content: bytes) -> None:
    log.write_bytes(content)
    problem(lambda: read_log(log, None))
    problem(lambda: read_items(log))


@ONE_FILE
@given(st.lists(st.sampled_from([*'u,i1"\n\r\t|\0\u2028\x85é', "nan", "2020-01-01"])), st.text())
def test_any_rows_and_any_positive_are_read_or_refused(log: Path, rest: list[str], positive: str) -> None:
    log.write_text("user,item,timestamp,value\n" + "".join(rest), encoding="utf-8", newline="")
    problem(lambda: read_log(log, positive))
    problem(lambda: read_log(log, "value" + positive))


@ONE_FILE
@given(st.lists(st.one_of(st.text(max_size=30), st.datetimes().map(str), st.floats().map(str)), min_size=1))
def test_any_timestamp_is_read_or_refused_in_one_line(log: Path, cells: list[str]) -> None:
    write(log, [("u", "i", cell) for cell in cells])
    problem(lambda: read_log(log, None))


@ONE_FILE
@given(st.lists(st.tuples(IDS, IDS, st.integers(0, 99)), min_size=1))
def test_ids_of_any_kind_come_back_in_order_of_time(log: Path, rows: list[tuple[str, str, int]]) -> None:
    write(log, rows)
    found = [(row.user, row.item, row.at_ms // 1000) for row in read_log(log, None)]
    assert found == sorted(rows, key=lambda row: row[2])


def test_an_item_has_the_values_between_the_bars_of_each_column(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('title,item,genre\n"Turning, The",7,Drama|War\nHeat,8,\n', encoding="utf-8")
    heat = {"title": ["Heat"], "genre": []}
    assert read_items(path) == {"7": {"title": ["Turning, The"], "genre": ["Drama", "War"]}, "8": heat}


def test_an_attribute_with_too_many_values_is_no_category_of_items() -> None:
    items = {str(n): {"title": [f"T{n}"], "genre": ["x", str(n % 7)], "empty": []} for n in range(1001)}
    assert CATEGORY_VALUES_MAX == 1000
    assert [(of.item, of.attributes) for of in item_updates(items)] == [
        (str(n), {"genre": ["x", str(n % 7)]}) for n in range(1001)
    ]
    del items["0"]
    assert item_updates(items)[0].attributes == {"title": ["T1"], "genre": ["x", "1"]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("item,genre\n7,War\n8,War\n7,Drama\n", "line 4: item '7' was given in line 2"),
        ("item,genre\n,War\n", "line 2: the item is empty"),
        (f"item,genre\n{257 * 'i'},War\n", "line 2: the item has 257 characters; at most 256 are taken"),
        ("id,genre\n7,War\n", "line 1: no column 'item'"),
        ("item,genre\n", "no rows"),
    ],
)
def test_items_that_cannot_be_used_are_refused(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "items.csv"
    path.write_text(content, encoding="utf-8")
    assert expected in problem(lambda: read_items(path))


def write(path: Path, rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(("user", "item", "timestamp"))
        writer.writerows(rows)
