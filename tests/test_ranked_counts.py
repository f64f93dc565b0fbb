"""Rows of counters that stay sorted, against a dictionary of counters sorted when read."""

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.ranked_counts import RankedCounts

SEED = 20161111

Pairs = list[tuple[int, int]]
pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 11)), max_size=12)
batches = st.lists(pairs, max_size=12)


def bump(table: RankedCounts, batch: Pairs) -> None:
    """One call with these (row, column) pairs."""
    columns = np.array(batch, np.int64).reshape(-1, 2)
    table.bump(columns[:, 0].copy(), columns[:, 1].copy())


def counted(made_of: list[Pairs]) -> RankedCounts:
    """A table after these calls."""
    table = RankedCounts()
    for batch in made_of:
        bump(table, batch)
    return table


def plain_rows(made_of: list[Pairs]) -> dict[int, Pairs]:
    """Each row as (item, count), sorted by count down and item up."""
    rows: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for batch in made_of:
        for row, column in batch:
            rows[row][column] += 1
    return {row: sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])) for row, counts in rows.items()}


def row_of(table: RankedCounts, row: int, most: int = 1000) -> Pairs:
    """A row as (item, count)."""
    items, counts = table.top(row, most)
    return list(zip(items.tolist(), counts.tolist(), strict=True))


def rows_of(table: RankedCounts) -> list[Pairs]:
    """All rows that the strategies above can fill, and one more."""
    return [row_of(table, row) for row in range(6)]


@given(batches)
def test_rows_equal_counters_sorted_by_count_after_every_call(made_of: list[Pairs]) -> None:
    table = RankedCounts()
    for number, batch in enumerate(made_of, 1):
        bump(table, batch)
        expected = plain_rows(made_of[:number])
        assert rows_of(table) == [expected.get(row, []) for row in range(6)]


def test_rows_stay_right_while_they_outgrow_their_place_many_times() -> None:
    """2,000 calls of 30 pairs over 40 rows of 300 columns: the slab moves rows and grows over and over."""
    random = np.random.default_rng(SEED)
    made_of = [
        list(zip(random.integers(0, 40, 30).tolist(), random.geometric(0.01, 30).tolist(), strict=True))
        for _ in range(2000)
    ]
    table, expected = counted(made_of), plain_rows(made_of)
    for row in range(40):
        assert row_of(table, row, 10**6) == expected[row], f"seed {SEED}, row {row}"


@given(batches, st.data())
def test_any_order_and_grouping_of_the_same_additions_gives_the_same_rows(
    made_of: list[Pairs], data: st.DataObject
) -> None:
    added = [pair for batch in made_of for pair in batch]
    shuffled = data.draw(st.permutations(added))
    cut = data.draw(st.integers(0, len(shuffled)))
    expected = rows_of(counted(made_of))
    assert rows_of(counted([shuffled])) == expected
    assert rows_of(counted([shuffled[:cut], shuffled[cut:]])) == expected
    assert rows_of(counted([[pair] for pair in shuffled])) == expected


def test_a_pair_that_stands_twice_in_one_call_counts_twice() -> None:
    """Five times the same row is more than a new row has room for."""
    table = counted([[(0, 3), (0, 3), (0, 8), (0, 1), (0, 3), (0, 2), (0, 8)]])
    assert row_of(table, 0) == [(3, 3), (8, 2), (1, 1), (2, 1)]


@given(batches, pairs)
def test_what_was_read_does_not_change_when_counting_goes_on(made_of: list[Pairs], more: Pairs) -> None:
    table = counted(made_of)
    read = [table.top(row, 1000) for row in range(6)]
    kept = [(items.tolist(), counts.tolist()) for items, counts in read]
    for _ in range(3):
        bump(table, more)
    assert [(items.tolist(), counts.tolist()) for items, counts in read] == kept


@given(batches, st.data())
def test_what_was_read_can_be_written_on_without_harm(made_of: list[Pairs], data: st.DataObject) -> None:
    table = counted(made_of)
    before = rows_of(table)
    items, counts = table.top(data.draw(st.integers(0, 5)), 1000)
    items[:], counts[:] = -1, -1
    assert rows_of(table) == before


@given(batches, st.integers(0, 20))
def test_the_top_of_a_row_is_where_it_begins(made_of: list[Pairs], most: int) -> None:
    table = counted(made_of)
    for row in range(6):
        assert row_of(table, row, most) == row_of(table, row)[:most]


@given(pairs)
def test_counting_leaves_its_arguments_as_they_were(batch: Pairs) -> None:
    columns = np.array(batch, np.int64).reshape(-1, 2).T.copy()
    RankedCounts().bump(columns[0], columns[1])
    assert list(zip(*columns.tolist(), strict=True)) == batch


def test_a_table_that_counted_nothing_has_empty_rows() -> None:
    table = counted([[], []])
    items, counts = table.top(0, 10)
    assert (items.dtype, counts.dtype) == (np.int32, np.int64)
    assert rows_of(table) == [[]] * 6


@given(batches)
def test_the_table_is_all_rows_one_after_the_other(made_of: list[Pairs]) -> None:
    rows = plain_rows(made_of)
    wanted = [(row, item, count) for row in sorted(rows) for item, count in rows[row]]
    assert [tuple(entry) for entry in counted(made_of).table().tolist()] == wanted


@given(batches, batches)
def test_tables_of_two_are_one_that_goes_on_counting(made_of: list[Pairs], later: list[Pairs]) -> None:
    both = np.concatenate([counted(made_of).table(), counted(made_of[::-1]).table()])
    joined = RankedCounts.of(both)
    for batch in later:
        bump(joined, batch)
    assert joined.table().tolist() == counted(made_of + made_of + later).table().tolist()
