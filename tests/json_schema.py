"""A plain reader of the JSON Schemas that msgspec writes: just the words it uses, and a KeyError for any other."""

from collections.abc import Callable
from typing import Any

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
SILENT = {"$schema", "$id", "$defs", "version", "title", "description", "default", "discriminator"}


def fits(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether a JSON value is as the schema says; `whole` is the document that its references are into."""
    return all(RULES[word](value, schema, whole) for word in schema if word not in SILENT)


def of_type(value: Any, schema: dict[str, Any], _: dict[str, Any]) -> bool:
    return isinstance(value, KINDS[schema["type"]]) and (schema["type"] == "boolean" or not isinstance(value, bool))


def others(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """What an object holds beside its properties."""
    rule = schema["additionalProperties"]
    rest = [one for name, one in value.items() if name not in schema.get("properties", {})]
    return not rest if rule is False else all(fits(one, rule, whole) for one in rest)


def rest_of(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    """What an array holds behind its fixed places."""
    rest = value[len(schema.get("prefixItems", [])) :]
    return not rest if schema["items"] is False else all(fits(one, schema["items"], whole) for one in rest)


# `type` stands before the words that need it, as msgspec writes it.
RULES: dict[str, Callable[[Any, dict[str, Any], dict[str, Any]], bool]] = {
    "$ref": lambda value, schema, whole: fits(
        value, whole["$defs"][schema["$ref"].removeprefix("#/$defs/")], whole
    ),
    "anyOf": lambda value, schema, whole: any(fits(value, one, whole) for one in schema["anyOf"]),
    "type": of_type,
    "enum": lambda value, schema, _: value in schema["enum"],
    "const": lambda value, schema, _: value == schema["const"],
    "required": lambda value, schema, _: all(name in value for name in schema["required"]),
    "properties": lambda value, schema, whole: all(
        fits(value[name], of, whole) for name, of in schema["properties"].items() if name in value
    ),
    "additionalProperties": others,
    "prefixItems": lambda value, schema, whole: all(
        fits(one, of, whole) for one, of in zip(value, schema["prefixItems"], strict=False)
    ),
    "items": rest_of,
    "minItems": lambda value, schema, _: len(value) >= schema["minItems"],
    "maxItems": lambda value, schema, _: len(value) <= schema["maxItems"],
}
