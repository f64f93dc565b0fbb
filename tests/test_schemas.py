"""The published JSON Schemas say of the golden files what reading them says."""

import json
from typing import Any

import msgspec
import pytest
from goldens import KINDS, golden
from json_schema import fits
from test_cli import call

from engine.errors import InputError
from engine.events import SCHEMA, ItemUpdate
from streams.values import TYPES, Keyed, keyed, loosely_keyed, schema

TOPIC_OF = {
    "request": "requests",
    "seen": "feedback",
    "acted": "feedback",
    "organic": "feedback",
    "erase": "feedback",
    "quarantine": "feedback",
    "decision": "feeds",
    "propensities": "propensities",
    "item": "items",
}


def valid(topic: str, document: Any) -> bool:
    return fits(document, schema(topic), schema(topic))


def test_every_kind_of_event_and_record_is_on_a_topic() -> None:
    assert TOPIC_OF.keys() == KINDS.keys() | {"item"}
    assert set(TOPIC_OF.values()) == TYPES.keys()


@pytest.mark.parametrize("kind", TOPIC_OF)
def test_a_golden_file_is_valid_on_its_topic_and_on_no_other(kind: str) -> None:
    document = json.loads(golden(kind))
    assert [topic for topic in TYPES if valid(topic, document)] == [TOPIC_OF[kind]]
    for topic in TYPES:
        if topic == TOPIC_OF[kind]:
            key = "film-31" if kind == "item" else "zoë"
            assert keyed(topic, golden(kind)) == loosely_keyed(topic, golden(kind)) == Keyed(key, golden(kind))
        else:
            with pytest.raises(InputError):
                keyed(topic, golden(kind))


@pytest.mark.parametrize("kind", TOPIC_OF)
def test_what_reading_refuses_for_its_shape_the_schema_refuses_too(kind: str) -> None:
    document, topic = json.loads(golden(kind)), TOPIC_OF[kind]
    broken = [{name: value for name, value in document.items() if name != left} for left in document]
    broken += [document | {name: value} for name in document for value in (None, [], {}, "x", -1.5, True)]
    broken += [document | {"schema": SCHEMA + 1}, document | {"kind": "wish"}, [], None]
    for changed in broken:
        try:
            keyed(topic, json.dumps(changed).encode())
        except InputError as error:
            shape = "Expected" in str(error) or "missing" in str(error) or "Invalid value" in str(error)
            assert not (shape and valid(topic, changed)), changed
        else:
            assert valid(topic, changed), changed


def test_the_golden_item_says_what_it_always_said() -> None:
    item = ItemUpdate(
        item="film-31",
        attributes={"title": "Amélie", "genres": ["comedy", "love"], "minutes": 122, "rating": 4.5, "live": False},
        creator="jeunet",
        published_ms=1_700_000_000_000,
    )
    assert msgspec.json.decode(golden("item"), type=ItemUpdate) == item
    assert msgspec.json.encode(item) == golden("item")


NO_ITEMS = [{"item": ""}, {"creator": ""}, {"schema": 2}, {"blocked": 1}, {"attributes": []}, {"atributes": {}}]


@pytest.mark.parametrize("change", NO_ITEMS)
def test_what_is_no_item_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not an item"):
        keyed("items", json.dumps(json.loads(golden("item")) | change).encode())


def test_schemas_are_printed_by_name_or_all_in_one_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call(capsys, monkeypatch, "schemas")
    assert (code, json.loads(out)) == (0, {"topics": {name: schema(name) for name in TYPES}})
    code, out, _ = call(capsys, monkeypatch, "schemas", "feeds", "--json")
    assert (code, json.loads(out)) == (0, schema("feeds"))
    assert (schema("feeds")["$id"], schema("feeds")["version"]) == ("urn:feedloom:feeds:1", SCHEMA)
    assert call(capsys, monkeypatch, "schemas", "sums")[0] == 2
