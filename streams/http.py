"""The HTTP face of an engine: ask for a feed, report reactions, put items, and what operators look at.

What cannot be used gets one sentence and a status that says whose turn it is: 400 for a body that cannot be read,
401 without the key, 403 for who may not ask without one, 404, 405, 409 for an id that belongs to another decision,
413 for too much, 415 for what is no JSON, 422 for what the policy refuses, 429 for too many at a time, 503 while
there is no answer. Nothing of it is written, and refusals of one kind are logged once in a while, not each time.
"""

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Raw, Struct

from engine.decision import Decision
from engine.errors import InputError
from engine.events import ItemUpdate, Quarantine, Request, check_ids
from engine.explanation import RULES, explanation
from engine.revisions import Revision, StaleError
from streams.asking import BusyError, Change, ConflictError, Engine, UnavailableError
from streams.codec import encode
from streams.metrics import CONTENT_TYPE, Metrics
from streams.openapi import (
    Accepted,
    Feed,
    FeedRequest,
    Forgotten,
    Health,
    History,
    InForce,
    PolicyChange,
    Refused,
    Reported,
    Slot,
    document,
)
from streams.policy_file import policy_of
from streams.seldom import Seldom
from streams.settings import Settings

log = logging.getLogger(__name__)
log.addFilter(Seldom())
logging.getLogger("aiohttp.server").addFilter(Seldom())  # it names those who do not even speak HTTP

ADDRESSES_MAX = 10_000  # whose rates are remembered
HISTORY_MAX = 1000  # revisions in one answer
EXPLAINING_MAX = 2  # at a time: some take a fifth of a second of a processor
PUBLIC = {"/health/live", "/health/ready"}  # without a key: whatever keeps the process alive asks them
CHANGES = {"/v1/policy", "/v1/quarantines"}  # what an operator posts
BEARER = "Bearer "

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_feed_requests = msgspec.json.Decoder(FeedRequest)
_reported = msgspec.json.Decoder(Reported)
_quarantines = msgspec.json.Decoder(Quarantine)
_changes = msgspec.json.Decoder(PolicyChange)
_items = msgspec.json.Decoder(ItemUpdate | list[ItemUpdate])


class Refusal(Exception):  # noqa: N818  it is an answer
    """An answer that says no."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        """With this status, and one sentence."""
        super().__init__(reason)
        self.status = status
        self.headers = headers


def application(engine: Engine, settings: Settings) -> web.Application:
    """The HTTP application over an engine, whoever hosts it."""
    face = _Face(engine, settings)
    app = web.Application(middlewares=[face.guarded], client_max_size=settings.body_bytes_max)
    app.add_routes(
        [
            web.post("/v1/feeds", face.ask),
            web.get("/v1/feeds/{request_id:[^/]+}/explanation", face.explain),
            web.post("/v1/feedback", face.report),
            web.post("/v1/items", face.put),
            web.delete("/v1/users/{user:[^/]+}", face.erase),
            web.post("/v1/quarantines", face.quarantine),
            web.get("/v1/policy", face.policy),
            web.post("/v1/policy", face.apply),
            web.get("/v1/policy/history", face.history),
            web.get("/health/live", face.live),
            web.get("/health/ready", face.ready),
            web.get("/metrics", face.metrics),
            web.get("/openapi.json", face.openapi),
        ]
    )
    return app


class _Face:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = Metrics(engine.gauges)
        self._explaining = asyncio.Semaphore(EXPLAINING_MAX)
        self._rates = _Rates(settings.http_rate_max)
        key = settings.api_key
        self._key = None if key is None else (BEARER + key.reveal()).encode()
        operator = settings.operator_key
        self._operator_key = self._key if operator is None else (BEARER + operator.reveal()).encode()

    @web.middleware
    async def guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Look at who asks before what is asked; turn what goes wrong into an answer; count and time it."""
        begun = time.perf_counter()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        try:
            self._check(request)
            response = await handler(request)
        except Refusal as refusal:
            response = _refused(request, refusal)
        except web.HTTPException as error:  # aiohttp's own: no such path or method, or too long a body
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            response = _refused(request, Refusal(error.status, _said(error, self._settings), **allow))
        except Exception:  # our fault: where it is said is all that it changes
            log.exception("an answer failed")
            response = _json(Refused("the answer failed, and the log of the server says why"), 500)
        self._metrics.requests.labels(route, str(response.status)).inc()
        self._metrics.seconds.labels(route).observe(time.perf_counter() - begun)
        return response

    def _check(self, request: web.Request) -> None:
        """Raise Refusal for who may not ask, or asks too often, or sends no JSON."""
        if not self._rates.allow(request.remote or ""):
            raise Refusal(
                429, f"more than {self._settings.http_rate_max} requests a second", **{"Retry-After": "1"}
            )
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        operators = self._operator_key is not None and hmac.compare_digest(given, self._operator_key)
        anybodys = self._key is None or request.path in PUBLIC or hmac.compare_digest(given, self._key)
        if not operators and (not anybodys or self._is_operators(request)):
            raise Refusal(401, "send the API key as `Authorization: Bearer KEY`", **{"WWW-Authenticate": "Bearer"})
        # A name that a page has made to mean this machine lets it read what only this machine may.
        if not self._key and not is_loopback(request.url.host or ""):
            raise Refusal(403, "without an API key this server is to be asked as localhost")
        # A page of another site can send a browser here, but not with this type.
        there = request.match_info.http_exception is None
        if there and request.method == "POST" and request.content_type != "application/json":
            raise Refusal(415, "send JSON, with `Content-Type: application/json`")

    def _is_operators(self, request: web.Request) -> bool:
        """Whether this takes the operator's key, if there is one."""
        changes = request.method == "DELETE" or (request.path in CHANGES and request.method == "POST")
        return changes and self._operator_key is not None

    async def ask(self, request: web.Request) -> web.Response:
        """POST /v1/feeds."""
        body = await request.read()
        too_long = Refusal(413, f"a request for a feed has at most {self._settings.value_bytes_max} bytes")
        if len(body) > self._settings.value_bytes_max:
            raise too_long
        asked = _read(_feed_requests, body)
        try:
            event = Request(**{name: getattr(asked, name) for name in asked.__struct_fields__})
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        if len(encode(event)) > self._settings.value_bytes_max:  # the log's form of it may be a little longer
            raise too_long
        decision = await _answer(self._engine.ask(event))
        self._metrics.answered(decision)
        return _json(feed_of(decision))

    async def explain(self, request: web.Request) -> web.Response:
        """GET /v1/feeds/{request_id}/explanation."""
        user, request_id = request.query.get("user", ""), request.match_info["request_id"]
        if not user:
            raise Refusal(400, "say whose request it is: ?user=")
        _check_ids(user, request_id)
        decision = await _answer(self._engine.find(user, request_id))
        if decision is None:
            raise Refusal(404, f"no decision that still takes reactions has request id {request_id} of this user")
        async with self._explaining:
            return _json(await asyncio.to_thread(explanation, decision))

    async def report(self, request: web.Request) -> web.Response:
        """POST /v1/feedback."""
        read = _read(_reported, await request.read())
        reactions = read if isinstance(read, list) else [read]
        await _answer(self._engine.report(reactions))
        self._metrics.took(reactions)
        return _json(Accepted(len(reactions)))

    async def put(self, request: web.Request) -> web.Response:
        """POST /v1/items."""
        read = _read(_items, await request.read())
        items = read if isinstance(read, list) else [read]
        await _answer(self._engine.put(items))
        return _json(Accepted(len(items)))

    async def erase(self, request: web.Request) -> web.Response:
        """DELETE /v1/users/{user}."""
        user = request.match_info["user"]
        _check_ids(user)
        erased = await _answer(self._engine.erase(user))
        lapse_ms = erased.logs_lapse_ms
        date = None if lapse_ms is None else datetime.fromtimestamp(lapse_ms / 1000.0, UTC).isoformat()
        return _json(Forgotten(erased.user, erased.erased_ms, lapse_ms, date))

    async def quarantine(self, request: web.Request) -> web.Response:
        """POST /v1/quarantines."""
        what = _read(_quarantines, await request.read())
        return _json(await _answer(self._engine.quarantine(what)))

    async def policy(self, request: web.Request) -> web.Response:
        """GET /v1/policy."""
        number = request.query.get("revision")
        found = [one for one in self._revisions() if number in (None, str(one.number))]
        if not found:
            raise Refusal(404, f"there is no revision {number} of the policy")
        return _json(_in_force(found[-1], whole=True))

    async def apply(self, request: web.Request) -> web.Response:
        """POST /v1/policy."""
        asked = _read(_changes, await request.read())
        try:
            policy = policy_of(msgspec.json.decode(asked.policy))
        except (InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            await self._engine.refuse_policy(asked.why, str(error))
            raise Refusal(422, f"the policy cannot be used: {error}") from error
        change = Change(policy, asked.who, asked.why, asked.after, restores=asked.restores)
        return _json(_in_force(await _answer(self._engine.apply(change)), whole=True))

    async def history(self, _: web.Request) -> web.Response:
        """GET /v1/policy/history."""
        return _json(History([_in_force(one, whole=False) for one in self._revisions()]))

    def _revisions(self) -> list[Revision]:
        """The latest. Raises Refusal as long as there is none."""
        history = self._engine.revisions.history
        if not history:
            raise Refusal(503, f"there is no policy yet: {self._engine.trouble}", **{"Retry-After": "1"})
        return history[-HISTORY_MAX:]

    async def live(self, _: web.Request) -> web.Response:
        """GET /health/live: the process answers."""
        return _json(Health("ok", None))

    async def ready(self, _: web.Request) -> web.Response:
        """GET /health/ready: the engine answers."""
        trouble = self._engine.trouble
        return _json(Health("unavailable" if trouble else "ok", trouble), 503 if trouble else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        """GET /metrics."""
        return web.Response(body=self._metrics.page(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _: web.Request) -> web.Response:
        """GET /openapi.json."""
        return _json(document(keyed=self._key is not None))


def _in_force(revision: Revision, *, whole: bool) -> InForce:
    about = {name: getattr(revision, name) for name in InForce.__struct_fields__ if name != "policy"}
    return InForce(**about, policy=Raw(revision.document) if whole else None)


def is_loopback(host: str) -> bool:
    """Whether this is a name or address of this machine that nobody else can reach."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Rates:
    """Who asked how often lately: a bucket for each address, which fills at the rate and holds a second's worth."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, address: str) -> bool:
        """Whether this address may ask once more."""
        now = time.monotonic()
        room, at = self._buckets.pop(address, (self._per_second, now))
        room = min(room + (now - at) * self._per_second, self._per_second)
        self._buckets[address] = (max(room - 1.0, 0.0), now)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return room >= 1.0


def feed_of(decision: Decision) -> Feed:
    """A decision as a client shows it."""
    slots = zip(decision.slot_items, decision.slot_pools, decision.slot_rules, strict=True)
    return Feed(
        decision.request.request_id,
        decision.request.user,
        decision.feed,
        decision.start,
        decision.at_ms,
        decision.policy_version,
        decision.population_version,
        decision.explored,
        [Slot(n, item, decision.pools[pool].pool, RULES[rule]) for n, (item, pool, rule) in enumerate(slots)],
        decision.arms,
    )


def _read(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the body cannot be read: {error}") from error


def _check_ids(*ids: str) -> None:
    try:
        check_ids(*ids)
    except ValueError as error:
        raise Refusal(400, str(error)) from error


async def _answer(asked: Awaitable[T]) -> T:
    """What the engine says, or why it does not."""
    try:
        return await asked
    except (ConflictError, StaleError) as error:
        raise Refusal(409, str(error)) from error
    except InputError as error:
        raise Refusal(422, str(error)) from error
    except BusyError as error:
        raise Refusal(429, str(error), **{"Retry-After": "1"}) from error
    except UnavailableError as error:
        raise Refusal(503, str(error), **{"Retry-After": "1"}) from error
    except OSError as error:
        raise Refusal(503, f"the disk refuses: {error.strerror}", **{"Retry-After": "1"}) from error


def _json(answer: Struct | dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


def _refused(request: web.Request, refusal: Refusal) -> web.Response:
    # Told apart by status, so that a flood of one kind does not hide another; and in one line, whatever is asked.
    log.warning(f"refused with {refusal.status}: %s %s: %r", request.method, request.rel_url.raw_path, str(refusal))
    response = _json(Refused(str(refusal)), refusal.status)
    response.headers.update(refusal.headers)
    return response


def _said(error: web.HTTPException, settings: Settings) -> str:
    if error.status == web.HTTPRequestEntityTooLarge.status_code:
        return f"a body has at most {settings.body_bytes_max} bytes"
    return {404: "there is nothing at this path", 405: "this path does not take this method"}.get(
        error.status, error.reason
    )
