"""What stands on the topics of a product: the types of their values, their keys and their JSON Schemas."""

from inspect import cleandoc
from types import UnionType
from typing import Any, NamedTuple

import msgspec

from engine.decision import Decision
from engine.errors import InputError
from engine.events import SCHEMA, Acted, Erase, ItemUpdate, Organic, Quarantine, Request, Seen, Switch, Tick
from engine.propensity_record import PropensityRecord
from streams.codec import Value, decode, decode_item

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES: dict[str, type | UnionType] = {
    "requests": Request,
    "feedback": Seen | Acted | Organic | Tick | Switch | Erase | Quarantine,
    "feeds": Decision,
    "propensities": PropensityRecord,
    "items": ItemUpdate,
}


class Keyed(NamedTuple):
    """A record on its way into a topic; None is a record without a key."""

    key: str | None
    value: bytes


def keyed(topic: str, value: bytes) -> Keyed:
    """The value with its key: its user, or for `items` the item.

    Raises InputError for a value that is not of this topic's type, and for a topic without a type.
    """
    if topic not in TYPES:
        raise InputError(
            f"values of topic {topic} have no type to be checked against: --raw sends them as they are"
        )
    read = decode_item(value) if topic == "items" else decode(value)
    if not isinstance(read, TYPES[topic]):
        raise InputError(f"a {read.__struct_config__.tag} does not belong on topic {topic}")
    return Keyed(_key(read), value)


def loosely_keyed(topic: str, value: bytes) -> Keyed:
    """The value as it is, keyed as `keyed` would where it says its user or item, and without a key elsewhere."""
    try:
        fields = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Keyed(None, value)
    if topic == "feeds" and isinstance(fields, dict):
        fields = fields.get("request")
    key = fields.get("item" if topic == "items" else "user") if isinstance(fields, dict) else None
    return Keyed(key if isinstance(key, str) else None, value)


def schema(topic: str) -> dict[str, Any]:
    """The JSON Schema of a topic's values, whole in itself.

    It says shapes; how long an id may be and how numbers belong together is checked by reading alone.
    """
    written, definitions = msgspec.json.schema_components([TYPES[topic]])
    about = {"$schema": DIALECT, "$id": f"urn:feedloom:{topic}:{SCHEMA}", "version": SCHEMA}
    for definition in definitions.values():
        definition["description"] = cleandoc(definition.get("description", ""))
        if "schema" in definition.get("properties", {}):
            definition["properties"]["schema"]["const"] = SCHEMA
    return about | written[0] | {"$defs": definitions}


def _key(value: Value) -> str | None:
    """The user or item that a value is about; None of what is about a partition, as a tick is."""
    if isinstance(value, Tick | Switch):
        return None
    if isinstance(value, ItemUpdate):
        return value.item
    return value.request.user if isinstance(value, Decision) else value.user
