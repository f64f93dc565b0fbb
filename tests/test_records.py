"""Events and decisions as bytes: what can be read, and what is refused."""

import json
from typing import Any

import pytest
from goldens import KINDS, golden, golden_decision, read_decision
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.errors import InputError
from engine.events import ID_LENGTH_MAX, SCHEMA, Acted, Organic, Request, Seen
from streams.codec import Value, decode, encode


@pytest.mark.parametrize("kind", KINDS)
def test_golden_bytes_read_as_their_kind_and_are_written_the_same(kind: str) -> None:
    value = decode(golden(kind))
    assert type(value) is KINDS[kind]
    assert encode(value) == golden(kind)


def test_the_golden_events_say_what_they_always_said() -> None:
    about = {"user": "zoë", "request_id": "july", "slot": 3, "item": "film-31"}
    request = Request(
        request_id="july",
        user="zoë",
        slots=8,
        ts_ms=1700000200000,
        candidates={"editors": ["film-7", "film-2"]},
        context={"country": "fr"},
        continues="june",
    )
    assert decode(golden("request")) == request
    assert decode(golden("seen")) == Seen(event_id="s-3", ts_ms=1700000200400, **about)
    assert decode(golden("acted")) == Acted(event_id="a-3", ts_ms=None, action="hide", **about)
    assert decode(golden("organic")) == Organic(event_id="o-1", user="zoë", item='"film"/\n1', action="like")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schema", [0, SCHEMA + 1, -1])
def test_another_schema_version_is_refused_by_its_number(kind: str, schema: int) -> None:
    document = json.loads(golden(kind)) | {"schema": schema}
    with pytest.raises(InputError, match=f"schema version {schema} is not known"):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("request", "seen"),
        ("request", "decision"),
        ("seen", "acted"),
        ("seen", "request"),
        ("organic", "acted"),
        ("organic", "request"),
        ("decision", "request"),
        ("decision", "seen"),
    ],
)
def test_a_value_under_the_name_of_another_kind_is_refused(kind: str, name: str) -> None:
    with pytest.raises(InputError, match="missing required field"):
        decode(json.dumps(json.loads(golden(kind)) | {"kind": name}).encode())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("request", {"kind": "wish"}),
        ("request", {"kind": None}),
        ("request", {"slots": 0}),
        ("request", {"slots": -3}),
        ("request", {"slots": 2.5}),
        ("request", {"slots": "8"}),
        ("request", {"user": ""}),
        ("request", {"user": "u" * (ID_LENGTH_MAX + 1)}),
        ("request", {"user": None}),
        ("request", {"request_id": ""}),
        ("request", {"ts_ms": "now"}),
        ("request", {"context": {"country": 7}}),
        ("request", {"continues": ""}),
        ("request", {"continues": "july"}),
        ("seen", {"slot": -1}),
        ("seen", {"item": ""}),
        ("seen", {"event_id": ""}),
        ("acted", {"action": ""}),
        ("acted", {"request_id": ""}),
        ("organic", {"item": "i" * (ID_LENGTH_MAX + 1)}),
        ("organic", {"action": 7}),
        ("decision", {"slot_items": ["film-1"]}),
        ("decision", {"rewards": [1.0]}),
        ("decision", {"pools": {}}),
        ("decision", {"request": None}),
        ("decision", {"feed": ""}),
        ("decision", {"start": -1}),
        ("decision", {"start": 993}),
        ("decision", {"mode": "guessed"}),
        ("decision", {"order": "shuffled"}),
        ("decision", {"pinned": [[8, 0]]}),
        ("decision", {"pinned": [[0, 3]]}),
        ("decision", {"slot_rules": "d"}),
        ("decision", {"slot_offers": [1]}),
        ("decision", {"degraded": [["quota", "popular", 1, 0]]}),
    ],
)
def test_what_cannot_be_an_event_or_decision_is_refused(kind: str, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not an event or decision"):
        decode(json.dumps(json.loads(golden(kind)) | change).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_must_be_said_may_be_left_out(kind: str) -> None:
    """Times, candidates, context, the page before, what was considered and the version of the schema may.

    So may the user and the end of a quarantine, which is of everybody then, and until it stands in the log.
    """
    document = json.loads(golden(kind))
    may = {"ts_ms", "candidates", "context", "continues", "considered", "schema"}
    for name in sorted(document.keys() - may - ({"user", "to_ms"} if kind == "quarantine" else set())):
        with pytest.raises(InputError, match=f"missing required field `{name}`"):
            decode(json.dumps({key: value for key, value in document.items() if key != name}).encode())


@given(
    st.binary(max_size=60) | st.sampled_from([b"", b"{}", b"null", b"[]", b"1e999", b'{"kind":"seen"}', b"\xef"])
)
def test_any_bytes_are_refused_and_not_choked_on(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_bytes_that_nest_without_end_are_refused(opening: bytes) -> None:
    data = golden("request")[:-1] + b',"more":' + opening * 100_000
    with pytest.raises(InputError):
        decode(data)


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=ID_LENGTH_MAX)
times = st.none() | st.integers(0, 2**53)
slot_events = {
    "event_id": ids,
    "user": ids,
    "request_id": ids,
    "slot": st.integers(0, 200),
    "item": ids,
    "ts_ms": times,
}
events = (
    st.builds(
        Request,
        request_id=ids,
        user=ids,
        slots=st.integers(1, 200),
        ts_ms=times,
        context=st.dictionaries(ids, st.text(max_size=9), max_size=2),
    )
    | st.builds(Seen, **slot_events)
    | st.builds(Acted, action=ids, **slot_events)
    | st.builds(Organic, event_id=ids, user=ids, item=ids, action=ids, ts_ms=times)
)


@given(events)
def test_every_event_reads_back_as_it_was_written(event: Value) -> None:
    assert decode(encode(event)) == event
    assert b"\n" not in encode(event)  # a recording holds one a line


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_numbers_survive_the_round_trip_bit_for_bit(numbers: list[float]) -> None:
    written = replace(golden_decision(), rewards=numbers)
    read = read_decision(encode(written))
    assert [number.hex() for number in read.rewards] == [number.hex() for number in numbers]


# Decisions made again
