"""Propensities as records: what is written of a decision, for Kafka and beside a recording, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import golden, golden_decision
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from test_cli import call
from test_explain import recording

from engine.errors import InputError
from engine.policy import Policy
from engine.propensities import propensities
from engine.propensity_record import PropensityRecord, propensity_record
from feedloom.doctor import check_records
from feedloom.propensities_command import Summary, in_words
from simulator.backtest import backtest, policy_of_logs
from simulator.interactions import Interaction
from simulator.replay_plan import ReplayPlan
from streams.codec import decode, encode
from streams.enrichment import VALUE_BYTES_MAX, enriched
from streams.messages import Record
from streams.recording import Recording, read_topic
from streams.replay import replay

USER = "zoë".encode()
RECORD = propensity_record(golden_decision())


def test_a_record_says_what_propensities_says_of_its_decision() -> None:
    decision = golden_decision()
    likely = propensities(decision)
    assert (RECORD.user, RECORD.request_id, RECORD.at_ms) == ("zoë", "july", decision.at_ms)
    assert RECORD.policy_version == decision.policy_version
    assert RECORD.pools == [part.pool for part in decision.pools]
    assert (RECORD.method, RECORD.samples) == (likely.method, likely.samples)
    assert np.array_equal(RECORD.chances, likely.chances)
    assert np.array_equal(RECORD.errors, likely.errors)
    assert propensity_record(golden_decision()) == RECORD


@given(st.lists(st.floats(1e-9, 1.0), min_size=3, max_size=3))
def test_chances_survive_the_round_trip_bit_for_bit(weights: list[float]) -> None:
    row = [weight / sum(weights) for weight in weights]
    written = replace(RECORD, chances=[row], errors=[weights])
    read = decode(encode(written))
    assert isinstance(read, PropensityRecord)
    assert read == written
    assert [chance.hex() for chance in read.chances[0]] == [chance.hex() for chance in row]


NO_RECORDS = {
    "another schema": {"schema": 2},
    "no pools": {"pools": [], "chances": [], "errors": []},
    "a slot without errors": {"errors": RECORD.errors[1:]},
    "a pool without a chance": {"chances": [row[1:] for row in RECORD.chances]},
    "chances that do not sum to 1": {"chances": [[0.5 * chance for chance in row] for row in RECORD.chances]},
    "a chance below 0": {"chances": [[-0.5, 0.5, 1.0]] * len(RECORD.chances)},
    "an error below 0": {"errors": [[-0.5, 0.5, 1.0]] * len(RECORD.errors)},
    "a method that is none": {"method": "guess"},
    "redraws below 0": {"samples": -1},
    "no user": {"user": ""},
}


@pytest.mark.parametrize("case", NO_RECORDS)
def test_what_cannot_be_propensities_is_refused(case: str) -> None:
    with pytest.raises(InputError, match="not an event or decision"):
        decode(json.dumps(json.loads(golden("propensities")) | NO_RECORDS[case]).encode())


def test_a_feed_without_slots_has_propensities_without_rows() -> None:
    decision = golden_decision()
    nothing = [replace(part, stock=0, items=[], verdicts="", realised=0) for part in decision.pools]
    empty = replace(decision, pools=nothing, slot_items=[], slot_pools=[], slot_rules="", slot_offers=[])
    made = propensity_record(empty)
    assert (made.chances, made.errors, len(made.pools)) == ([], [], 3)
    assert decode(encode(made)) == made


# What the job writes


def test_a_feed_becomes_a_record_under_its_key_in_its_partition() -> None:
    feed = Record(7, 3, USER, golden("decision"))
    message = enriched(2, feed)
    assert (message.topic, message.partition, message.key) == ("propensities", 2, USER)
    assert message.value == encode(RECORD)
    assert enriched(2, feed) == message


def with_parts(**changes: object) -> bytes:
    """The golden decision with other pools."""
    decision = golden_decision()
    return encode(replace(decision, pools=[replace(part, **changes) for part in decision.pools]))


BAD_FEEDS: dict[str, tuple[bytes | None, bytes | None, str]] = {
    "no value": (USER, None, "not an event or decision"),
    "no JSON": (USER, b"{", "not an event or decision"),
    "another schema": (USER, golden("decision").replace(b'"schema":1}', b'"schema":9}'), "schema version 9"),
    "another kind": (USER, golden("seen"), "a seen stands among the decisions"),
    "another's key": (b"bob", golden("decision"), "the key is not the id of the decision's user 'zoë'"),
    "draws for some slots": (
        USER,
        with_parts(rates=[[0.1, 0.1, 0.1]] * 2),
        "2 draws are neither one for the feed nor one for each slot",
    ),
    "too large": (USER, with_parts(pool="p" * (VALUE_BYTES_MAX // 3)), f"at most {VALUE_BYTES_MAX} are written"),
}


@pytest.mark.parametrize("case", BAD_FEEDS)
def test_what_is_no_decision_becomes_a_dead_letter_that_says_where_it_stood_and_why(case: str) -> None:
    key, value, reason = BAD_FEEDS[case]
    letter = enriched(3, Record(41, 5, key, value))
    told = {name: text.decode() for name, text in letter.headers}
    assert (letter.topic, letter.key, letter.value) == ("dead-letters", key, value or b"")
    origin = ("feedloom.topic", "feeds"), ("feedloom.partition", "3"), ("feedloom.offset", "41")
    assert origin == tuple((name, told[name]) for name, _ in origin)
    assert reason in told["feedloom.reason"]


# A recording


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backtest: lists of the first feeds are short, which takes redraws; later ones are long enough."""
    folder = tmp_path_factory.mktemp("records") / "recording"
    rows = [
        Interaction(f"u{number % 7}", f"i{number * 37 % 97}", 1000 * number, "like", positive=True)
        for number in range(120)
    ]
    policy = policy_of_logs(Policy())
    with Recording(folder, policy) as log:
        backtest(rows, policy, ReplayPlan(slots=4), dataset="d", log=log)
    return folder


def test_the_propensities_of_a_recording_are_a_further_topic_of_it(
    recorded: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in recorded.iterdir()}
    code, out, err = call(capsys, monkeypatch, "propensities", "--records", recorded, "--json")
    assert (code, err) == (0, "")
    feeds, written = list(read_topic(recorded, "feeds")), list(read_topic(recorded, "propensities"))
    assert [(line.offset, line.at_ms) for line in written] == [(line.offset, line.at_ms) for line in feeds]
    errors, shown, methods = [0.0], [1.0], []
    for feed, line in zip(feeds, written, strict=True):
        made, likely = line.value, propensities(feed.value)
        assert made == propensity_record(feed.value)
        assert np.array_equal(np.reshape(made.chances, likely.chances.shape), likely.chances)
        assert np.allclose(likely.chances.sum(axis=1), 1.0, rtol=0.0, atol=1e-9)
        errors += likely.errors.ravel().tolist()
        shown += [row[pool] for row, pool in zip(made.chances, feed.value.slot_pools, strict=True)]
        methods.append(made.method)
    assert json.loads(out) == {
        "feeds": 120,
        "quadrature": methods.count("quadrature"),
        "monte_carlo": methods.count("monte carlo"),
        "error_max": max(errors),
        "shown_propensity_min": min(shown),
    }
    # What was there is as it was, and what is made of it is the same again.
    topic = (recorded / "propensities.jsonl").read_bytes()
    told = call(capsys, monkeypatch, "propensities", "--records", recorded)
    after = {path.name: path.read_bytes() for path in recorded.iterdir()}
    assert after == before | {"propensities.jsonl": topic}
    assert (told[0], told[1].splitlines()) == (0, [in_words(Summary(**json.loads(out)))])
    assert replay(recorded) == (120, None)
    assert check_records(recorded).ok


def test_a_recording_without_feeds_has_a_topic_without_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recording(tmp_path / "empty")
    code, out, _ = call(capsys, monkeypatch, "propensities", "--records", folder)
    assert (code, out) == (0, "0 feeds: 0 by quadrature, 0 by Monte Carlo\n")
    assert (folder / "propensities.jsonl").read_bytes() == b""


def broken(folder: Path, change: dict[str, Any]) -> Path:
    """A recording with a second feed that could not be."""
    made = recording(folder, golden_decision())
    value = json.loads(golden("decision")) | change
    line = {"offset": 1, "key": "zoë", "ts_ms": 1, "value": value}
    with (made / "feeds.jsonl").open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
    return made


WRONG = {
    "no recording": ("nowhere", "give a folder that --record made"),
    "a folder that is none": (".", "give a folder that --record made"),
    "no decision": ("no-decision", "feeds.jsonl, line 2: not an event or decision"),
    "no posterior": ("no-posterior", "feeds.jsonl, line 2: this could not be a decision: a Beta posterior"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_recording_is_refused_in_one_sentence_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path / "no-decision", {"rewards": []})
    broken(tmp_path / "no-posterior", {"temperature": -1.0})
    before = sorted(tmp_path.rglob("*"))
    name, says = WRONG[case]
    code, out, err = call(capsys, monkeypatch, "propensities", "--records", name)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--json"], "give --records"), (["--records", ".", "--group", "g"], "--records needs no Kafka")],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, monkeypatch, "propensities", *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert says in err
