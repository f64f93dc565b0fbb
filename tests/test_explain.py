"""`feedloom explain`: a recorded feed, slot by slot, from its record alone."""

import json
from pathlib import Path

import pytest
from goldens import golden, golden_decision
from msgspec.structs import replace
from rich.console import Console
from test_cli import call

from engine.decision import Decision
from engine.explanation import explanation
from engine.policy import Policy
from engine.propensities import propensities
from feedloom.explain import print_explanation
from streams.recording import Entry, Recording


def recording(folder: Path, *records: Decision) -> Path:
    """A recording of these decisions."""
    with Recording(folder, Policy()) as made:
        made.append([Entry("feeds", at, one.request.user, one.at_ms, one) for at, one in enumerate(records)])
    return folder


def asked(user: str, request_id: str) -> Decision:
    """The golden decision, as if another had asked for it."""
    record = golden_decision()
    return replace(record, request=replace(record.request, user=user, request_id=request_id))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One user with a request of its own, and two with one of the same id."""
    return recording(tmp_path / "recording", golden_decision(), asked("ada", "may"), asked("bob", "may"))


def test_every_slot_is_explained_from_the_record_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(call(capsys, monkeypatch, "explain", "july", "--records", folder, "--json")[1])
    record = golden_decision()
    likely = propensities(record)
    assert (found["user"], found["explored"], found["method"]) == ("zoë", False, likely.method)
    assert [slot["item"] for slot in found["slots"]] == record.slot_items
    for number, slot in enumerate(found["slots"]):
        pool = record.slot_pools[number]
        part = record.pools[pool]
        assert (slot["slot"], slot["pool"]) == (number, part.pool)
        assert part.items[slot["rank"]] == slot["item"]
        assert part.verdicts[slot["rank"]] == "p"
        assert slot["utility"] == part.rates[0][0] * record.rewards[0] + part.rates[0][1] * record.rewards[1]
        assert [(of["action"], of["alpha"], of["beta"]) for of in slot["posterior"]] == list(
            zip(record.actions, part.alpha, part.beta, strict=True)
        )
        assert all(of["mean"] == of["alpha"] / (of["alpha"] + of["beta"]) for of in slot["posterior"])
        assert slot["propensity"] == likely.chances[number, pool]
        assert slot["error"] == likely.errors[number, pool]
    for of, part in zip(found["pools"], record.pools, strict=True):
        assert of["pool"] == part.pool
        assert (of["intended"], of["realised"], of["stock"]) == (part.intended, part.realised, part.stock)
        assert of["duplicates"] == part.verdicts.count("d")
        assert len(of["propensities"]) == len(record.slot_items)


def test_the_tables_show_every_slot_and_every_pool() -> None:
    console, record = Console(width=80), golden_decision()
    with console.capture() as shown:
        print_explanation(explanation(record), console)
    text = shown.get()
    assert text.startswith("request july of user zoë: given out by its draws")
    assert all(item in text for item in record.slot_items)
    assert all(part.pool in text for part in record.pools)
    assert all(head in text for head in ("drawn utility", "propensity", "without it", "stock", "share"))
    assert text.count("hide") == len(record.pools)


def test_a_feed_that_was_mixed_at_random_says_so_and_an_empty_one_too() -> None:
    record = golden_decision()
    nothing = [replace(part, stock=0, items=[], verdicts="", realised=0) for part in record.pools]
    empty = replace(
        record, explored=True, pools=nothing, slot_items=[], slot_pools=[], slot_rules="", slot_offers=[]
    )
    console = Console(width=100)
    with console.capture() as shown:
        print_explanation(explanation(empty), console)
    assert "mixed at random, as 0.02 of feeds are" in shown.get()
    assert "no pool had an item left for it" in shown.get()


def test_of_two_decisions_of_one_request_the_last_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recording(tmp_path / "twice", golden_decision(), replace(golden_decision(), at_ms=7))
    assert json.loads(call(capsys, monkeypatch, "explain", "july", "--records", folder, "--json")[1])["at_ms"] == 7


def test_an_id_that_several_users_have_needs_the_user(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, "explain", "may", "--records", folder)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "2 users have a request may" in err
    assert "--user, one of ada, bob" in err
    code, out, _ = call(capsys, monkeypatch, "explain", "may", "--records", folder, "--user", "bob")
    assert code == 0
    assert "request may of user bob" in out


WRONG = {
    "no such request": (["june"], "no decision on a request june"),
    "not of this user": (["july", "--user", "ada"], "no decision on a request july of user ada"),
    "no recording": (["july", "--records", "nowhere"], "--record made"),
    "no request": ([], "REQUEST_ID"),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_cannot_be_explained_is_one_sentence(
    which: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, says = WRONG[which]
    monkeypatch.chdir(folder.parent)
    given = arguments if "--records" in arguments else [*arguments, "--records", str(folder)]
    code, out, err = call(capsys, monkeypatch, "explain", *given)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err


def test_a_record_that_could_not_be_a_decision_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = folder / "feeds.jsonl"
    for number, (there, planted) in enumerate(
        (('"temperature":0.5', '"temperature":-0.5'), ('"kind":"decision"', ""))
    ):
        document = golden("decision").decode()
        assert there in document
        value = document.replace(there, planted) if planted else golden("seen").decode()
        feeds.write_text(f'{{"offset":0,"key":"zoë","ts_ms":{number},"value":{value}}}\n')
        code, out, err = call(capsys, monkeypatch, "explain", "july", "--records", folder)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "request july of user zoë" in err or "line 1: not a decision" in err
