"""The log of a partition: what was appended is read back, whatever was torn, flipped, full or killed meanwhile."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.log import Damage, LogRecord, PartitionLog, Unwritten
from streams.segment import HEAD, INDEX_BYTES

ROWS = st.lists(
    st.builds(
        Unwritten,
        st.none() | st.binary(max_size=6),
        st.none() | st.binary(max_size=20),
        st.lists(st.tuples(st.text(max_size=4), st.binary(max_size=4)), max_size=2),
    ),
    max_size=4,
)
BATCHES = st.lists(st.tuples(ROWS, st.integers(-(2**63), 2**63 - 1)), max_size=8)


@contextmanager
def opened(folder: Path, segment_bytes: int = 64 << 20) -> Iterator[PartitionLog]:
    log = PartitionLog(folder, segment_bytes=segment_bytes)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder for one example of a property."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / "log"


def records(log: PartitionLog, offset: int = 0) -> list[LogRecord]:
    return [record for chunk in log.read(offset) for record in chunk]


def offsets(log: PartitionLog, offset: int = 0) -> list[int]:
    return [record.offset for record in records(log, offset)]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def put(log: PartitionLog, key: bytes, value: bytes | None, at_ms: int = 1) -> int:
    return log.append([Unwritten(key, value)], at_ms)


def batch_sizes(folder: Path, rows: int) -> list[int]:
    """Where each of so many batches begins in a new log of one segment, and where the last one ends."""
    with opened(folder) as log:
        sizes = [0]
        for number in range(rows):
            log.append([Unwritten(b"k%d" % number, b"value"), Unwritten(None, None)], 10 + number)
            sizes.append(log.size)
    return sizes


# What is appended.


@given(BATCHES, st.sampled_from([1, 60, 200, 64 << 20]))
def test_what_is_appended_is_read_back_by_offset_now_and_after_opening_again(batches, segment_bytes: int) -> None:
    with fresh() as folder:
        wanted: list[LogRecord] = []
        last_ms = 0
        with opened(folder, segment_bytes) as log:
            for rows, at_ms in batches:
                assert log.append(rows, at_ms) == len(wanted)
                if rows:
                    last_ms = max(last_ms, at_ms)
                for row in rows:
                    wanted.append(LogRecord(len(wanted), last_ms, row.key, row.value, tuple(row.headers)))
                assert (log.end, log.last_ms) == (len(wanted), last_ms)
            assert records(log) == wanted
            assert log.size == sum(path.stat().st_size for path in segments(folder))
        with opened(folder, segment_bytes) as log:
            assert (log.begin, log.end, log.last_ms, log.damages) == (0, len(wanted), last_ms, [])
            for offset in range(len(wanted) + 2):
                assert records(log, offset) == wanted[offset:]
            assert log.verify() == []


def test_log_time_never_goes_back_even_behind_segments_that_hold_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        put(log, b"a", b"1", 1_000)
        log.advance(10)
        log.advance(20)
    with opened(tmp_path) as log:
        assert (log.last_ms, log.end, len(segments(tmp_path))) == (1_000, 20, 3)
        assert put(log, b"a", b"2", 5) == 20
        assert [record.at_ms for record in records(log)] == [1_000, 1_000]


def test_times_and_offsets_have_64_bits(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.advance(2**63)
        assert put(log, b"a", b"1", 2**63 - 1) == 2**63
    with opened(tmp_path) as log:
        assert records(log, 2**63) == [LogRecord(2**63, 2**63 - 1, b"a", b"1")]
        assert (log.end, log.last_ms) == (2**63 + 1, 2**63 - 1)
        assert log.offset_at(2**63 - 1) <= 2**63


def test_advance_leaves_a_gap_that_stays_and_never_goes_back(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        put(log, b"a", b"1")
        log.advance(7)
        log.advance(3)
        assert log.end == 7
    with opened(tmp_path) as log:
        assert (log.end, put(log, b"b", b"2")) == (7, 7)
        assert [offsets(log, offset) for offset in (0, 1, 7, 8)] == [[0, 7], [7], [7], []]


def test_a_log_of_empty_segments_reads_as_nothing(tmp_path: Path) -> None:
    for end in (5, 9, 12):
        with opened(tmp_path) as log:
            log.advance(end)
            assert (records(log), log.verify(), log.offset_at(2**62), log.size) == ([], [], 0, 0)
    with opened(tmp_path) as log:
        assert [path.stat().st_size for path in segments(tmp_path)] == [0] * 4
        assert (log.begin, log.end, log.last_ms) == (0, 12, 0)
        log.lapse(1)
        assert (log.begin, log.end) == (12, 12)


# Readers.


def test_a_reader_sees_the_log_as_it_was_when_it_began_to_read(tmp_path: Path) -> None:
    for count in range(15, 25):  # whether or not its last segment is full by then
        with opened(tmp_path / str(count), 200) as log:
            for number in range(count):
                put(log, b"%d" % number, b"v")
            reader = log.read(0, most=1)
            seen = next(reader)
            for number in range(count, 40):
                put(log, b"%d" % number, b"v")
            seen += [record for chunk in reader for record in chunk]
            assert [record.offset for record in seen] == list(range(count))
            assert offsets(log) == list(range(40))


def test_a_reader_that_is_abandoned_half_way_does_no_harm(tmp_path: Path) -> None:
    with opened(tmp_path, 2_000) as log:
        for number in range(300):
            put(log, b"%d" % number, b"v" * 50, number)
    with opened(tmp_path, 2_000) as log:
        for offset in (0, 5, 100):
            reader = log.read(offset, most=1)
            assert next(reader)[0].offset == offset
            reader.close()
        assert offsets(log) == list(range(300))
        assert log.lapse(150) > 0  # it knows what it has not read to its end
        assert 0 < log.begin <= 150
        assert offsets(log) == list(range(log.begin, 300))


def test_chunks_are_about_as_large_as_is_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for number in range(50):
            put(log, b"%d" % number, b"v" * 100)
        batch = log.size // 50
        assert {len(chunk) for chunk in log.read(0, most=batch * 5)} <= {5, 6, 4}
        assert [len(chunk) for chunk in log.read()] == [50]


def test_a_thread_that_reads_or_syncs_while_another_appends_sees_whole_records_alone(tmp_path: Path) -> None:
    stopped = threading.Event()
    faults: list[BaseException] = []

    def syncing() -> None:
        try:
            while not stopped.is_set():
                log.sync()
        except OSError as error:
            faults.append(error)

    with opened(tmp_path, 400) as log:
        thread = threading.Thread(target=syncing)
        thread.start()
        for number in range(1_000):
            assert put(log, b"%d" % number, b"v" * (number % 50), number) == number
        stopped.set()
        thread.join()
        assert (faults, log.damages, offsets(log)) == ([], [], list(range(1_000)))


# What is damaged.


def test_a_tail_torn_at_every_byte_is_cut_off_and_named_and_the_log_goes_on(tmp_path: Path) -> None:
    sizes = batch_sizes(tmp_path / "whole", 3)
    data = segments(tmp_path / "whole")[0].read_bytes()
    for size in range(sizes[2], sizes[3]):
        folder = tmp_path / str(size)
        folder.mkdir()
        path = folder / segments(tmp_path / "whole")[0].name
        path.write_bytes(data[:size])
        with opened(folder) as log:
            torn = Damage(path, sizes[2], size - sizes[2], 3, cut=True)
            assert log.damages == ([torn] if size > sizes[2] else [])
            assert (log.end, log.size, log.last_ms) == (4, sizes[2], 11)
            assert path.stat().st_size == sizes[2]
            for cut in log.damages:
                assert f"{cut.size} bytes at {cut.position}, after offset 3, are damaged and cut off" in str(cut)
                assert path.with_suffix(f".{cut.position}.cut").read_bytes() == data[sizes[2] : size]
            assert put(log, b"next", b"v") == 4
            assert offsets(log) == [0, 1, 2, 3, 4]
        with opened(folder) as log:
            assert (log.damages, offsets(log)) == ([], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("bit", [0, 7])
def test_a_bit_flipped_anywhere_is_named_and_every_other_batch_is_read(tmp_path: Path, bit: int) -> None:
    sizes = batch_sizes(tmp_path, 3)
    path = segments(tmp_path)[0]
    data = path.read_bytes()
    for position in range(sizes[3]):
        batch = sum(position >= size for size in sizes[1:])
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        with opened(tmp_path) as log:
            last = batch == 2
            after = 2 * batch - 1
            damage = Damage(path, sizes[batch], sizes[batch + 1] - sizes[batch], after, cut=last)
            assert log.damages == [damage], position
            assert offsets(log) == [offset for offset in range(6) if offset // 2 != batch]
            assert log.damages == [damage]  # once
            assert log.verify() == ([] if last else [damage])
            end = 4 if last else 6
            assert put(log, b"next", b"v") == end
            assert offsets(log)[-1] == end


@given(st.data())
def test_a_byte_flipped_in_any_segment_is_named_whether_or_not_its_index_is_made(data) -> None:
    with fresh() as folder:
        with opened(folder, 300) as log:
            for number in range(30):
                put(log, b"%d" % number, b"value", number)
        paths = segments(folder)
        path = data.draw(st.sampled_from(paths[:-1]))
        whole = path.read_bytes()
        position = data.draw(st.integers(0, len(whole) - 1))
        with opened(folder, 300) as log:
            if data.draw(st.booleans()):
                assert len(records(log)) == 30
            flipped = bytearray(whole)
            flipped[position] ^= data.draw(st.integers(1, 255))
            path.write_bytes(flipped)
            found = offsets(log)
            (damage,) = log.damages
            assert (damage.path, damage.cut) == (path, False)
            assert damage.position <= position < damage.position + damage.size
            (lost,) = set(range(30)) - set(found)
            assert found == [offset for offset in range(30) if offset != lost]
            assert int(path.stem) <= lost
            assert damage.after == (lost - 1 if damage.position else -1)
            for offset in range(31):
                assert offsets(log, offset) == [one for one in found if one >= offset]
            assert len(log.damages) == 1
            assert log.verify() == [damage]


def test_damage_where_a_tail_was_cut_off_before_is_named_too(tmp_path: Path) -> None:
    sizes = batch_sizes(tmp_path, 2)
    path = segments(tmp_path)[0]
    with path.open("r+b") as file:
        file.truncate(sizes[2] - 1)
    with opened(tmp_path) as log:
        put(log, b"a", b"1")
        flip(path, sizes[1] + 30)
        assert offsets(log) == [0, 1]
        assert [damage.cut for damage in log.damages] == [True, False]
        assert {damage.position for damage in log.damages} == {sizes[1]}


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("size", [0, 1, 24, 25, 2**31, 2**32 - 1])
def test_a_damaged_length_leads_nobody_astray(tmp_path: Path, size: int) -> None:
    sizes = batch_sizes(tmp_path, 3)
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[sizes[1] + 4 : sizes[1] + 8] = size.to_bytes(4, "big")
    path.write_bytes(data)
    with opened(tmp_path) as log:
        assert offsets(log) == [0, 1, 4, 5]
        assert [(damage.position, damage.size) for damage in log.damages] == [(sizes[1], sizes[2] - sizes[1])]


def test_a_segment_of_nothing_but_noise_is_cut_off_whole_or_left_out(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        put(log, b"a", b"1", 7)
        log.advance(5)
    noise = b"flb1" * 50 + bytes(range(256))
    segments(tmp_path)[1].write_bytes(noise)
    with opened(tmp_path) as log:
        assert [(damage.size, damage.after, damage.cut) for damage in log.damages] == [(len(noise), -1, True)]
        assert (log.end, log.last_ms, offsets(log)) == (5, 7, [0])
    segments(tmp_path)[0].write_bytes(noise)
    with opened(tmp_path) as log:
        assert [(damage.size, damage.after, damage.cut) for damage in log.damages] == [(len(noise), -1, False)]
        assert (put(log, b"b", b"2"), offsets(log)) == (5, [5])


def test_bytes_of_a_batch_inside_a_value_are_a_value_alone(tmp_path: Path) -> None:
    batch_sizes(tmp_path / "other", 1)
    batch = segments(tmp_path / "other")[0].read_bytes()
    assert len(batch) > HEAD.size
    with opened(tmp_path / "log") as log:
        put(log, b"a", b"before" + batch + b"after")
        put(log, b"b", batch)
    with opened(tmp_path / "log") as log:
        assert [record.value for record in records(log)] == [b"before" + batch + b"after", batch]


# What cannot be written.

FULL = """
import os, resource, sys
from pathlib import Path
from streams.log import PartitionLog, Unwritten
log = PartitionLog(Path(sys.argv[1]))
log.append([Unwritten(b"a", b"1")], 1)
whole = log.size
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for room in range(0, 120, 7):
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole + room, hard))
    for _ in range(2):
        try:
            log.append([Unwritten(b"b", b"x" * 100), Unwritten(b"c", b"y" * 100)], 2)
        except OSError as error:
            assert (log.end, log.size, log.damages) == (1, whole, []), error
            assert os.stat(next(Path(sys.argv[1]).glob("*.log"))).st_size == whole
            assert [record.key for chunk in log.read() for record in chunk] == [b"a"]
        else:
            sys.exit(f"there was room for it in {room} bytes")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert log.append([Unwritten(b"d", b"2")], 3) == 1
print([(record.offset, record.key) for chunk in log.read() for record in chunk], log.verify())
"""


def test_a_batch_without_room_leaves_nothing_and_the_log_goes_on_when_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[(0, b'a'), (1, b'd')] []\n"), done.stderr


NO_FILES = """
import os, resource, sys
from pathlib import Path
from streams.log import PartitionLog, Unwritten
log = PartitionLog(Path(sys.argv[1]), segment_bytes=1)
log.append([Unwritten(b"a", b"1")], 1)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
for _ in range(3):
    try:
        log.append([Unwritten(b"b", b"2")], 2)
    except OSError as error:
        print(error.strerror)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
assert log.append([Unwritten(b"c", b"3")], 3) == 1
log.sync()
print([record.key for chunk in log.read() for record in chunk])
log.close()
"""


def test_a_log_that_gets_no_file_for_its_next_segment_goes_on_when_there_is_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NO_FILES, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Too many open files\n" * 3 + "[b'a', b'c']\n"), done.stderr


# What has lapsed.


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(0, 25), st.sampled_from([1, 100, 10_000]))
def test_what_is_younger_never_lapses_and_whole_older_segments_do(
    times: list[int], before_ms: int, segment_bytes: int
) -> None:
    times = sorted(times)
    with fresh() as folder:
        with opened(folder, segment_bytes) as log:
            for number, at_ms in enumerate(times):
                put(log, b"%d" % number, b"v" * 30, at_ms)
        with opened(folder, segment_bytes) as log:
            size = log.size
            assert size - log.lapse(before_ms) == log.size
            left = offsets(log)
            assert left == list(range(len(times)))[log.begin :]
            young = [number for number, at_ms in enumerate(times) if at_ms >= before_ms]
            assert set(young) <= set(left)
            if segment_bytes == 1:  # a segment for each batch
                assert left == young
            if not young:
                assert (left, log.size) == ([], 0)
            assert (log.end, put(log, b"next", b"v", before_ms)) == (len(times), len(times))
        with opened(folder, segment_bytes) as log:
            assert offsets(log) == [*left, len(times)]


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(-1, 32), st.sampled_from([1, 3_000, 64 << 20]))
def test_offset_at_leaves_nothing_young_behind_and_little_that_is_old_in_front(
    times: list[int], at_ms: int, segment_bytes: int
) -> None:
    value = b"v" * (INDEX_BYTES // 4)  # so that an index has entries
    with fresh() as folder, opened(folder, segment_bytes) as log:
        for number, time in enumerate(sorted(times)):
            put(log, b"%d" % number, value, time)
        found = log.offset_at(at_ms)
        young = [record.offset for record in records(log) if record.at_ms >= at_ms]
        assert all(found <= offset for offset in young)
        first = young[0] if young else log.end
        assert first - found <= INDEX_BYTES // len(value) + 1


def test_offset_at_passes_over_segments_that_hold_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as log:
        put(log, b"a", b"1", 1)
        log.advance(5)
        log.advance(9)
        put(log, b"b", b"2", 2)
        put(log, b"c", b"3", 3)
        assert log.offset_at(3) == 9


# What is compacted.


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.none() | st.binary(max_size=8)), max_size=30),
    st.sampled_from([1, 150, 64 << 20]),
)
def test_compaction_keeps_the_latest_value_of_each_key_where_it_stood(rows, segment_bytes: int) -> None:
    with fresh() as folder:
        with opened(folder, segment_bytes) as log:
            for number, (key, value) in enumerate(rows):
                put(log, key, value, number)
            latest = {record.key: record for record in records(log) if record.offset < len(rows)}
            kept = sorted(one for one in latest.values() if one.value is not None)
            for _ in range(2):
                log.compact()
                assert (records(log), log.end, log.damages) == (kept, len(rows), [])
            for offset in range(len(rows) + 1):
                assert records(log, offset) == [record for record in kept if record.offset >= offset]
            assert put(log, b"a", b"next", len(rows)) == len(rows)
            log.compact()
        with opened(folder, segment_bytes) as log:
            wanted = [record.key for record in kept if record.key != b"a"] + [b"a"]
            assert [record.key for record in records(log)] == wanted
            assert (log.end, log.damages, log.verify()) == (len(rows) + 1, [], [])
            assert log.size == sum(path.stat().st_size for path in folder.iterdir())


# A copy of the folder before every step that changes a file's name or opens one, and one of the end.
KILLED = """
import shutil, sys
from pathlib import Path
from streams.log import PartitionLog, Unwritten
folder, copies = Path(sys.argv[1]), Path(sys.argv[2])
log = PartitionLog(folder, segment_bytes=1)
for number, (key, value) in enumerate([(b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"a", b"2"), (b"b", None)]):
    log.append([Unwritten(key, value)], number)
taken, armed = 0, True
def copy():
    global taken, armed
    armed = False
    shutil.copytree(folder, copies / str(taken))
    taken, armed = taken + 1, True
sys.addaudithook(lambda event, _: copy() if armed and event in {"open", "os.remove", "os.rename"} else None)
log.compact()
copy()
armed = False
print(taken)
"""


def test_compaction_that_is_killed_before_any_of_its_steps_loses_nothing_and_brings_nothing_back(
    tmp_path: Path,
) -> None:
    copies = tmp_path / "copies"
    command = [sys.executable, "-c", KILLED, tmp_path / "log", copies]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = set()
    for number in range(int(done.stdout)):
        folder = copies / str(number)
        left = tuple(sorted(path.name for path in folder.iterdir()))
        with opened(folder, 1) as log:
            read = records(log)
            assert (log.end, log.damages) == (5, [])
            assert {path.suffix for path in folder.iterdir()} == {".log"}
            assert put(log, b"d", b"1", 9) == 5
        assert [record.offset for record in read] in ([0, 1, 2, 3, 4], [2, 3]), left
        assert {record.key: record.value for record in read if record.value} == {b"a": b"2", b"c": b"1"} or (
            len(read) == 5
        ), left
        with opened(folder, 1) as log:
            assert records(log)[:-1] == read
            log.compact()
            assert [record.offset for record in records(log)] == [2, 3, 5]
        assert {path.suffix for path in folder.iterdir()} == {".log"}
        found.add((left, len(read)))
    assert {count for _, count in found} == {5, 2}
    assert len(found) >= 7  # before and after what was kept has its name, and between any two removals


def test_damage_is_left_out_of_what_compaction_keeps_and_new_damage_at_its_place_is_named(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as log:
        for number in range(4):
            put(log, b"%d" % number, b"value", number)
    path = segments(tmp_path)[0]
    flip(path, 30)
    with opened(tmp_path, 1) as log:
        log.compact()
        assert ([damage.position for damage in log.damages], offsets(log)) == ([0], [1, 2, 3])
        flip(path, 30)
        assert offsets(log) == [2, 3]
        assert [damage.position for damage in log.damages] == [0, 0]


def test_a_closed_log_is_whole_in_a_copy_of_its_folder(tmp_path: Path) -> None:
    with opened(tmp_path / "one", 100) as log:
        for number in range(10):
            put(log, b"%d" % number, b"v")
        log.sync()
        shutil.copytree(tmp_path / "one", tmp_path / "two")
    with opened(tmp_path / "two", 100) as log:
        assert (offsets(log), log.damages) == (list(range(10)), [])
