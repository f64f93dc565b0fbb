"""What goes over HTTP: the types of bodies and answers, and the OpenAPI document that is made of them."""

from inspect import cleandoc
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from engine.events import (
    CONTEXT_MAX,
    ID_LENGTH_MAX,
    SCHEMA,
    SLOTS_MAX,
    TS_MS_MAX,
    Acted,
    ItemUpdate,
    Organic,
    Quarantine,
    Seen,
)
from engine.explanation import Explanation
from engine.revisions import TEXT_LENGTH_MAX, Source
from streams.asking import Ordered

ID = {"type": "string", "minLength": 1, "maxLength": ID_LENGTH_MAX}
# What the types of bodies check beside their shapes, by the names of fields.
IDS = {"request_id", "user", "item", "event_id", "action", "continues", "creator"}
CHECKED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(IDS, ID),
    "slots": {"minimum": 1, "maximum": SLOTS_MAX},
    "slot": {"minimum": 0, "maximum": SLOTS_MAX - 1},
    **{name: {"minimum": 0, "maximum": TS_MS_MAX} for name in ("ts_ms", "from_ms", "to_ms")},
    "schema": {"const": SCHEMA},
    **{name: {"maxLength": TEXT_LENGTH_MAX} for name in ("who", "why")},
    **{name: {"minimum": 0} for name in ("after", "restores")},
    "candidates": {"propertyNames": ID, "additionalProperties": {"type": "array", "items": ID}},
    "context": {
        "maxProperties": CONTEXT_MAX,
        "propertyNames": ID,
        "additionalProperties": {"type": "string", "maxLength": ID_LENGTH_MAX},
    },
}


class FeedRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody wants a feed: a request without what the log adds to it."""

    request_id: str
    user: str
    slots: int
    candidates: dict[str, list[str]] = {}
    context: dict[str, str] = {}
    continues: str | None = None
    ts_ms: int | None = None


class Slot(Struct, frozen=True):
    """One slot; 0 is the first of this page. `rule` says what gave it to its pool."""

    slot: int
    item: str
    pool: str
    rule: str


class Feed(Struct, frozen=True):
    """A feed, or a page of one: `feed` is the request of its first page, `start` how many slots earlier pages hold.

    Times are the log's, in milliseconds since the epoch. `arms` are the user's of the policy's experiments, by
    experiment; left out where there are none.
    """

    request_id: str
    user: str
    feed: str
    start: int
    at_ms: int
    policy_version: str
    population_version: int
    explored: bool
    slots: list[Slot]
    arms: dict[str, str] | UnsetType = UNSET


class Accepted(Struct, frozen=True):
    """How many were taken: all of them."""

    accepted: int


class Forgotten(Struct, frozen=True):
    """A user that is forgotten; `logs_lapse` is when raw logs have lapsed too, null if never."""

    user: str
    erased_ms: int
    logs_lapse_ms: int | None
    logs_lapse: str | None


class PolicyChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy that is to be in force from now on: a document as `feedloom schemas policy` describes it.

    It is the whole policy: what is left out is at its default. `who` wants it, and `why`. `after` is the revision
    that it was made to follow; null follows whatever is there. `restores` is an earlier revision that it is.
    """

    policy: Raw
    who: str
    why: str
    after: int | None = None
    restores: int | None = None


class InForce(Struct, frozen=True):
    """A revision of the policy, and since when it is in force: the log's time in milliseconds since the epoch.

    `policy` is the document itself, null in a history.
    """

    number: int
    version: str
    who: str
    why: str
    source: Source
    at_ms: int
    restores: int | None = None
    policy: Raw | None = None


class History(Struct, frozen=True):
    """The latest revisions of the policy, the oldest first."""

    revisions: list[InForce]


class Health(Struct, frozen=True):
    """How it is, and why it is not well."""

    status: str
    reason: str | None


class Refused(Struct, frozen=True):
    """Why not, in one sentence."""

    error: str


Reported = Seen | Acted | Organic | list[Seen | Acted | Organic]

BODIES = ("FeedRequest", "Seen", "Acted", "Organic", "ItemUpdate", "Quarantine", "PolicyChange")

WHY = {
    400: "The body cannot be read",
    401: "Without the API key",
    403: "Asked by another name than this machine's, and without an API key",
    404: "There is none",
    409: "The request id belongs to another decision, or somebody else was faster",
    413: "Too much",
    415: "Not JSON",
    422: "The policy refuses it",
    429: "Too many at a time",
    503: "The engine cannot answer now",
}


def document(*, keyed: bool) -> dict[str, Any]:
    """The OpenAPI document; `keyed` says whether a key is asked for."""
    types = (
        FeedRequest,
        Feed,
        Reported,
        Accepted,
        ItemUpdate,
        Quarantine,
        Explanation,
        Forgotten,
        Ordered,
        PolicyChange,
        InForce,
        History,
        Health,
        Refused,
    )
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for schema in components.values():
        schema["description"] = cleandoc(schema.get("description", ""))
    components["PolicyChange"]["properties"]["policy"] = {"type": "object"}
    components["InForce"]["properties"]["policy"] = {"type": ["object", "null"], "default": None}
    components["Quarantine"]["required"].remove("kind")  # where there is one type, its name may be left out
    for name in BODIES:
        for field, schema in components[name]["properties"].items():
            _either(schema).update(CHECKED.get(field, {}))
    one_or_more = {"oneOf": [_one_of("Seen", "Acted", "Organic"), _list(_one_of("Seen", "Acted", "Organic"))]}
    items = {"oneOf": [_ref("ItemUpdate"), _list(_ref("ItemUpdate"))]}
    user = {"name": "user", "required": True, "schema": ID}
    paths = {
        "/v1/feeds": {
            "post": _operation(
                "ask",
                "Ask for a feed; again with the same user and id, it is the same feed.",
                "Feed",
                [400, 409, 413, 415, 422, 429, 503],
                body=_ref("FeedRequest"),
            )
        },
        "/v1/feeds/{request_id}/explanation": {
            "get": _operation(
                "explain",
                "Why each slot holds what it holds.",
                "Explanation",
                [400, 404, 429, 503],
                parameters=[
                    {"name": "request_id", "in": "path", "required": True, "schema": ID},
                    {**user, "in": "query"},
                ],
            )
        },
        "/v1/feedback": {
            "post": _operation(
                "report",
                "Report what a user saw or did: one reaction, or a list of them, all or none.",
                "Accepted",
                [400, 413, 415, 422, 429, 503],
                body=one_or_more,
            )
        },
        "/v1/items": {
            "post": _operation(
                "put",
                "Say what is known of items: one, or a list of them, all or none.",
                "Accepted",
                [400, 413, 415, 429, 503],
                body=items,
            )
        },
        "/v1/users/{user}": {
            "delete": _operation(
                "erase",
                "Forget a user.",
                "Forgotten",
                [400, 429, 503],
                parameters=[{**user, "in": "path"}],
            )
        },
        "/v1/quarantines": {
            "post": _operation(
                "quarantine",
                "Take the reactions of a time, of one user or of all, out of what was learned.",
                "Ordered",
                [400, 413, 415, 429, 503],
                body=_ref("Quarantine"),
            )
        },
        "/v1/policy": {
            "get": _operation(
                "policy",
                "The policy in force, or another revision of it.",
                "InForce",
                [404, 429, 503],
                parameters=[{"name": "revision", "in": "query", "schema": {"type": "integer", "minimum": 1}}],
            ),
            "post": _operation(
                "apply",
                "Put another policy into force; what it is refused for changes nothing.",
                "InForce",
                [400, 409, 413, 415, 422, 429, 503],
                body=_ref("PolicyChange"),
            ),
        },
        "/v1/policy/history": {"get": _operation("history", "Who changed it, and why.", "History", [429, 503])},
        "/health/live": {"get": _operation("live", "Whether the process answers.", "Health", [429])},
        "/health/ready": {"get": _operation("ready", "Whether the engine answers.", "Health", [429, 503])},
        "/metrics": {"get": _operation("metrics", "For Prometheus.", None, [429])},
        "/openapi.json": {"get": _operation("openapi", "This document.", {"type": "object"}, [429])},
    }
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Feedloom", "version": "1"},
        "paths": paths,
        "components": {"schemas": components},
    }
    if keyed:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in paths.items():
            for operation in operations.values():
                if not path.startswith("/health"):
                    operation["security"] = [{"key": []}]
                    operation["responses"]["401"] = _answer(401)
    else:
        for operations in paths.values():
            for operation in operations.values():
                operation["responses"]["403"] = _answer(403)
    return whole


def _operation(
    name: str,
    summary: str,
    answer: str | dict[str, Any] | None,
    refusals: list[int],
    *,
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    schema = _ref(answer) if isinstance(answer, str) else answer
    content = (
        {"text/plain": {"schema": {"type": "string"}}}
        if schema is None
        else {"application/json": {"schema": schema}}
    )
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": "Done", "content": content}}
        | {
            str(status): _answer(status, "Health" if name == "ready" and status == 503 else "Refused")
            for status in refusals
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if parameters:
        operation["parameters"] = parameters
    return operation


def _answer(status: int, schema: str = "Refused") -> dict[str, Any]:
    return {"description": WHY[status], "content": {"application/json": {"schema": _ref(schema)}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _either(schema: dict[str, Any]) -> dict[str, Any]:
    """What a field is when it is not null."""
    either: dict[str, Any] = schema.get("anyOf", [schema])[0]
    return either


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _one_of(*names: str) -> dict[str, Any]:
    return {"anyOf": [_ref(name) for name in names]}
