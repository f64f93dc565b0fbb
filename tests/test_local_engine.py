"""The embedded engine where something is missing, fails or stands still: what it begins from, keeps and says."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from faults_embedded import damage
from folder_engine import Engine, folded_anew, living
from hypothesis import given
from hypothesis import strategies as st

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Organic, Quarantine, Request
from engine.state import UserState
from streams.backups import MINUTE_MS, back_up, copies, kept
from streams.beside import Beside
from streams.durable import DurableEngine
from streams.settings import Settings
from streams.store import PartitionStore
from streams.store_folder import StoreDamagedError

DAY_MS = 86_400_000


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with living(tmp_path) as made:
        yield made


def alerts(engine: Engine) -> list[str]:
    rows = [record for chunk in engine.topics.log("alerts").read() for record in chunk]
    return [msgspec.json.decode(row.value or b"")["name"] for row in rows]


def histories(engine: Engine) -> dict[str, tuple]:
    return {user: engine.state(user).history for user in ("ann", "bob", "cleo")}


# Copies.


@given(st.integers(1, 400), st.integers(0, DAY_MS))
def test_of_every_doubling_of_age_a_copy_is_kept_as_time_goes_by(steps: int, jitter_ms: int) -> None:
    """A copy each hour: at no time is there an age without a copy between a fourth of it and itself."""
    hour_ms, week_ms, times = 3_600_000, 7 * DAY_MS, set[int]()
    for step in range(steps):
        now_ms = step * hour_ms + jitter_ms
        times = kept([*times, now_ms], now_ms, week_ms)
        assert len(times) <= 16
        for age_ms in (4 * hour_ms, 12 * hour_ms, 2 * DAY_MS, 6 * DAY_MS):
            if step * hour_ms >= age_ms:
                assert any(age_ms / 4 <= now_ms - at_ms + hour_ms and at_ms <= now_ms for at_ms in times)
        assert all(now_ms - at_ms <= week_ms for at_ms in sorted(times)[:-2])


def test_copies_of_a_minute_are_not_told_apart() -> None:
    assert kept([0, 10, 20, 30], 40, DAY_MS) == {0, 20, 30}
    assert kept([0, 2 * MINUTE_MS, 5 * MINUTE_MS], 5 * MINUTE_MS, DAY_MS) == {0, 2 * MINUTE_MS, 5 * MINUTE_MS}


def test_a_copy_that_fails_leaves_nothing_half_made(tmp_path: Path) -> None:
    store = PartitionStore(tmp_path / "partition-0")

    def refused() -> bool:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        back_up(store, 1, DAY_MS, wanted=refused)
    assert [path.name for path in tmp_path.iterdir()] == ["partition-0"]
    back_up(store, 2, DAY_MS)
    assert len(copies(store.folder)) == 1
    store.close()


def lapsed_to_a_copy(engine: Engine) -> None:
    """The topics begin after the beginning, and not after the copy."""
    engine.live(60)
    engine.partitions.keep()
    engine.partitions.back_up()
    engine.live(20)
    engine.partitions.keep()
    engine.topics.tidy(40_000)
    assert engine.topics.log("feedback").begin > 0


def test_a_store_that_is_missing_comes_back_from_a_copy_where_its_topics_have_lapsed(engine: Engine) -> None:
    lapsed_to_a_copy(engine)
    before = histories(engine)
    engine.partitions.close()
    shutil.rmtree(engine.topics.folder / "state" / "partition-0")
    engine.partitions.recover()
    assert histories(engine) == before
    assert alerts(engine) == []


def test_a_store_that_lacks_what_has_lapsed_gives_way_to_a_copy_that_has_it(engine: Engine) -> None:
    engine.live(5)
    engine.partitions.keep()
    engine.partitions.close()
    folder, old = engine.topics.folder / "state" / "partition-0", engine.topics.folder / "old"
    shutil.copytree(folder, old)
    engine.partitions.recover()
    lapsed_to_a_copy(engine)
    before = histories(engine)
    engine.partitions.close()
    shutil.rmtree(folder)
    old.rename(folder)
    engine.partitions.recover()
    assert histories(engine) == before
    assert alerts(engine) == ["store-set-aside"]


def test_what_has_lapsed_before_anybody_saw_it_is_said(engine: Engine) -> None:
    engine.live(80)
    engine.partitions.keep()
    engine.partitions.close()
    engine.topics.tidy(40_000)
    shutil.rmtree(engine.topics.folder / "state")
    engine.partitions.recover()
    assert set(alerts(engine)) == {"history-lost"}
    assert 0 < len(engine.state("bob").history) < 60


def test_a_store_without_its_manifest_is_damaged(engine: Engine) -> None:
    engine.live(10)
    engine.partitions.keep()
    engine.partitions.close()
    folder = engine.topics.folder / "state" / "partition-0"
    for path in folder.glob("MANIFEST-*"):
        path.unlink()
    with pytest.raises(StoreDamagedError):
        PartitionStore(folder)
    engine.partitions.recover()
    assert alerts(engine) == ["store-damaged"]
    engine.judge()


# Quarantines that cannot be kept.


def test_a_copy_that_ends_before_the_topics_begin_is_no_ground(engine: Engine) -> None:
    engine.live(20)
    engine.partitions.keep()
    engine.partitions.back_up()
    engine.live(60)
    engine.topics.tidy(30_000)
    before = histories(engine)
    engine.partitions.quarantine(Quarantine(from_ms=engine.now_ms, to_ms=engine.now_ms + 1))
    anew = engine.partitions.fold_anew()
    assert anew is not None
    assert isinstance(anew.made, InputError)
    engine.partitions.switch(anew)
    assert (histories(engine), alerts(engine)) == (before, ["quarantine-refused"])


def test_one_that_is_refused_takes_no_other_with_it(engine: Engine) -> None:
    lapsed_to_a_copy(engine)
    bad = engine.now_ms - 5_000
    engine.partitions.quarantine(Quarantine(from_ms=0, to_ms=1))
    ordered = engine.now_ms
    engine.partitions.quarantine(Quarantine(from_ms=bad))
    folded_anew(engine)
    assert alerts(engine) == ["quarantine-refused"]
    ordered = engine.topics.log("feedback").last_ms
    assert not [
        entry for user in histories(engine).values() for entry in user if bad <= entry.at_ms < ordered - 9_000
    ]


def test_where_a_topic_is_damaged_nothing_is_folded_anew_and_the_damage_is_named(engine: Engine) -> None:
    engine.live(40)
    engine.partitions.keep()
    (oldest, *_) = sorted((engine.topics.folder / "log" / "feedback-0").glob("*.log"))
    damage(oldest)
    before = histories(engine)
    engine.partitions.quarantine(Quarantine(from_ms=0, to_ms=1))
    anew = engine.partitions.fold_anew()
    assert anew is not None
    engine.partitions.switch(anew)
    engine.partitions.tell_damage()
    assert histories(engine) == before
    assert set(alerts(engine)) == {"quarantine-refused", "log-damaged"}


# Time, and what grows.


def test_what_a_user_does_after_an_erasure_counts_while_the_machines_clock_is_back(engine: Engine) -> None:
    engine.live(9)
    engine.now_ms -= 3_600_000
    engine.partitions.erase("ann")
    like = Organic(event_id="later", user="ann", item="x", action="like")
    engine.partitions.react([like])
    (first,) = engine.partitions.answer([Request(request_id="r", user="ann", slots=2)])
    assert engine.partitions.answer([Request(request_id="r", user="ann", slots=2)]) == [first]
    assert [entry.event_id for entry in engine.state("ann").history] == ["later"]
    engine.partitions.recover()
    engine.partitions.react([msgspec.structs.replace(like, event_id="last")])
    assert {entry.event_id for entry in engine.state("ann").history} == {"later", "last"}
    engine.judge()


def test_versions_that_nobody_needs_are_taken_out_of_their_topic(engine: Engine) -> None:
    population = engine.topics.log("population")
    for _ in range(30):
        engine.live(3)
        made = engine.partitions.shared.due_fit()
        engine.partitions.shared.publish(made)
    versions = engine.partitions.shared.facts.population.version
    population.compact()
    assert len([record for chunk in population.read() for record in chunk]) == 2
    engine.partitions.recover()
    assert engine.partitions.shared.facts.population.version == versions


def test_segments_lapse_by_age_though_they_are_small(engine: Engine) -> None:
    for _ in range(30):
        engine.live(1)
        engine.now_ms += DAY_MS
        engine.topics.tidy(7 * DAY_MS)
    oldest = next(iter(engine.topics.log("feedback").read()))[0]
    assert engine.now_ms - oldest.at_ms <= 7 * DAY_MS + 2 * DAY_MS


# Work beside the turns, and trouble.


def test_work_that_fails_is_said_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> None:
        done: list[int] = []

        def work() -> int:
            raise OSError(28, "No space left on device")

        failing = Beside("a copy", work, done.append)
        failing.go_on(due=True)
        while failing.busy:
            await asyncio.sleep(0.01)
            failing.go_on(due=True)
        failing.go_on(due=True)
        assert not failing.busy  # it is left alone for a while
        assert done == []
        failing.close()
        working = Beside("a copy", lambda: 7, done.append, done.append)
        working.go_on(due=True)
        await working.end()
        assert done == [7]
        working.close()

    asyncio.run(check())
    assert caplog.text.count("a copy failed, and is tried again later") == 1


def test_an_engine_that_failed_keeps_nothing_of_the_turn_that_it_failed_in(tmp_path: Path) -> None:
    async def check() -> None:
        made = Engine(tmp_path)
        made.partitions.close()
        made.topics.close()
        engine = DurableEngine(tmp_path / "data", made.policy, Settings())
        running = asyncio.create_task(engine.run())
        while engine.trouble:  # noqa: ASYNC110  of a task that has more to do
            await asyncio.sleep(0.01)

        def broken(_: object) -> None:
            raise RuntimeError("our fault")

        engine.partitions._send = broken  # type: ignore[method-assign]
        with suppress(asyncio.CancelledError):
            asking = asyncio.create_task(engine.ask(Request(request_id="good", user="ann", slots=1)))
            with pytest.raises(RuntimeError, match="our fault"):
                await running
            asking.cancel()
        engine.stop()
        again = DurableEngine(tmp_path / "data", made.policy, Settings())
        again.partitions.recover()
        assert again.partitions._state("ann") != UserState()
        decision = again.partitions.find("ann", "good")
        assert isinstance(decision, Decision)
        again.stop()

    asyncio.run(check())
