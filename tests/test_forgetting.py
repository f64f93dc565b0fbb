"""Erasing users and taking a time out of what was learned: in a folder, by a server, and what is refused."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from embedded_product import EmbeddedProduct, terminate
from folder_engine import USERS, Engine, folded_anew, living
from kafka_product import wait_until

from engine.errors import InputError
from engine.events import Quarantine
from engine.state import UserState
from feedloom.cli import cli


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with living(tmp_path) as made:
        yield made


def test_a_time_is_left_out_while_the_engine_goes_on_and_for_good(engine: Engine) -> None:
    """
    reactions  ....xxxxxxxx......|Q|....   fold anew beside ....  switch ....
    """
    engine.live(20)
    bad = engine.now_ms + 1
    engine.live(20)
    good = engine.now_ms
    engine.live(20)
    before = len(engine.state("bob").history)
    engine.partitions.quarantine(Quarantine(from_ms=bad, to_ms=good))
    assert len(engine.state("bob").history) == before
    folded_anew(engine)
    assert len(engine.state("bob").history) < before
    engine.live(5)
    engine.judge()
    engine.partitions.recover()
    engine.judge()
    sums = engine.partitions._owned[0].partition._sums
    assert sum(sums.likes.top(0, len(sums.items))[1]) == sum(len(engine.state(user).history) for user in USERS)


def test_only_one_user_is_left_out_where_one_is_named(engine: Engine) -> None:
    engine.live(30)
    before = {user: len(engine.state(user).history) for user in USERS}
    engine.partitions.quarantine(Quarantine(from_ms=0, to_ms=engine.now_ms, user="bob"))
    folded_anew(engine)
    assert engine.state("bob").closed == {} == engine.state("bob").taught
    assert all(len(engine.state(user).history) >= before[user] for user in ("ann", "cleo"))
    engine.judge()


def test_where_the_topics_have_lapsed_a_copy_that_is_older_than_the_bad_time_is_the_ground(engine: Engine) -> None:
    engine.live(100)
    engine.partitions.keep()
    engine.partitions.back_up()
    engine.live(20)
    bad = engine.now_ms + 1
    engine.live(20)
    engine.topics.tidy(70_000)
    assert engine.topics.log("feedback").begin > 0
    good = engine.now_ms

    def of_bad_time() -> int:
        return sum(bad <= entry.at_ms <= good for entry in engine.state("bob").history)

    assert of_bad_time() > 10
    engine.partitions.quarantine(Quarantine(from_ms=bad, to_ms=good))
    folded_anew(engine)
    assert of_bad_time() == 0
    assert any(entry.at_ms < bad for entry in engine.state("bob").history)


def test_where_nothing_reaches_back_it_is_refused_with_an_alert_and_serving_goes_on(engine: Engine) -> None:
    engine.live(120)
    engine.topics.tidy(60_000)
    states = {user: engine.state(user) for user in USERS}
    engine.partitions.quarantine(Quarantine(from_ms=0, to_ms=1))
    anew = engine.partitions.fold_anew()
    assert anew is not None
    assert isinstance(anew.made, InputError)
    engine.partitions.switch(anew)
    assert not engine.partitions.unfolded
    assert {user: engine.state(user) for user in USERS} == states
    alerts = [msgspec.json.decode(r.value or b"") for chunk in engine.topics.log("alerts").read() for r in chunk]
    assert [alert["name"] for alert in alerts] == ["quarantine-refused"]
    engine.live(3)


def test_an_erased_user_is_nowhere_in_the_state_and_what_comes_later_is_of_somebody_new(engine: Engine) -> None:
    engine.live(60)
    engine.partitions.keep()
    engine.partitions.back_up()
    engine.partitions.erase("bob")
    assert engine.state("bob") == UserState()
    folder = engine.topics.folder / "state"
    files = b"".join(path.read_bytes() for path in folder.rglob("*") if path.suffix in (".sst", ".log"))
    assert b"ann" in files
    # The markers of who was erased stay; states, open decisions and due entries do not.
    owned = engine.partitions._owned[0]
    assert [key for key, _ in owned.store.everything() if b"bob" in key] == []
    assert engine.partitions.owes_copies
    engine.now_ms += 1000
    engine.partitions.back_up()
    assert not engine.partitions.owes_copies
    assert len(list(folder.glob("*.backup-*"))) == 1
    engine.live(6)
    assert len(engine.state("bob").history) == 4
    engine.judge()
    engine.partitions.recover()
    engine.judge()


def test_a_state_and_a_copy_from_before_an_erasure_forget_the_user_when_they_come_back(engine: Engine) -> None:
    engine.live(30)
    engine.partitions.keep()
    engine.partitions.close()
    state, old = engine.topics.folder / "state", engine.topics.folder / "old"
    shutil.copytree(state, old)
    engine.partitions.recover()
    engine.partitions.erase("ann")
    engine.live(9)
    engine.partitions.keep()
    engine.partitions.close()
    shutil.rmtree(state)
    old.rename(state)
    engine.topics.log("feedback").lapse(0)
    engine.partitions.recover()
    engine.judge()
    assert len(engine.state("ann").history) == 6


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, list(words), env=environment)


def test_the_commands_speak_to_a_server_and_to_its_folder(tmp_path: Path) -> None:
    product = EmbeddedProduct(tmp_path)
    with product.server() as process:
        assert product.address is not None
        url = "http://{}:{}".format(*product.address)
        likes = [
            {"kind": "organic", "event_id": f"e{n}", "user": "ann", "item": f"i{n}", "action": "like"}
            for n in range(5)
        ]
        assert product.react(likes)
        done = run("state", "quarantine", "--from", "1h", "--to", "0s", "--user", "ann", "--url", url, "--json")
        assert (done.exit_code, msgspec.json.decode(done.stdout)["partitions"]) == (0, 1)
        done = run("users", "erase", "ann", "--url", url)
        assert "user ann is forgotten up to 20" in done.stdout
        refused = run("users", "erase", "ann", "--data", str(product.data))
        assert "another process has" in str(refused.exception)
        terminate(process)
    assert str(run("users", "erase", "ann", "--url", url).exception).startswith(f"{url} does not answer")
    done = run("state", "rollback", "--to", "1h", "--data", str(product.data))
    assert (done.exit_code, "1 partition will be without all reactions" in done.stdout) == (0, True)
    done = run("users", "erase", "bob", "--data", str(product.data), "--json")
    assert msgspec.json.decode(done.stdout)["user"] == "bob"
    product.judge()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["users", "erase", ""], "an id must have 1 to 256 characters"),
        (["users", "erase", "u", "--data", "nowhere"], "nowhere is no data folder"),
        (["users", "erase", "u", "--data", "d", "--url", "u"], "give one of --url, --data and --bootstrap"),
        (["users", "erase", "u", "--url", "ftp://x"], "is no address of a server"),
        (["state", "rollback", "--to", "yesterday", "--data", "d"], "--to 'yesterday' is no time"),
        (["state", "quarantine", "--from", "20", "--to", "10", "--data", "d"], "holds no time"),
    ],
)
def test_what_cannot_be_ordered_is_one_sentence(words: list[str], said: str) -> None:
    done = run(*words)
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


def test_a_server_takes_the_quarantine_beside_its_load(tmp_path: Path) -> None:
    product = EmbeddedProduct(tmp_path)
    with product.server() as process:
        for number in range(30):
            items = product.ask("ann", f"r{number}") or []
            place = {"user": "ann", "request_id": f"r{number}", "slot": 0, "item": items[0]}
            assert product.react([{"kind": "acted", "event_id": f"{number}", "action": "like", **place}])
        status, _ = product.call("POST", "/v1/quarantines", {"from_ms": 0, "to_ms": 2**52})
        assert status == 200
        wait_until(lambda: "is without what was quarantined" in product.log(), product.log)
        terminate(process)
    product.judge()
    assert product.states()["ann"].history == ()
