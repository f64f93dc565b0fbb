"""What came back from the workers lately, and who waits for what will: decisions, refusals, erasures."""

from asyncio import Future, get_running_loop
from collections import OrderedDict, defaultdict
from contextlib import suppress

import msgspec

from engine.decision import Decision
from engine.errors import InputError
from streams.broker import ConsumerRecord
from streams.codec import Value, decode
from streams.exclusions import ErasedFact

RECENT_MS = 120_000  # for which decisions are at hand,
RECENT_BYTES_MAX = 64 << 20  # or until they are so many, as they stand in `feeds`

Identity = tuple[str, str]  # user, request id
_erased = msgspec.json.Decoder(ErasedFact)


class Answers:
    """Of the whole cluster; decisions are kept as bytes, which are a tenth of what they are as objects."""

    def __init__(self, window_ms: int) -> None:
        """A decision counts for so long."""
        self._window_ms = window_ms
        self._recent: OrderedDict[Identity, tuple[int, bytes]] = OrderedDict()  # log time, record
        self._requests: dict[str, set[str]] = defaultdict(set)  # ids that are at hand, by user
        self._bytes = 0
        self._erased: dict[str, int] = {}  # who was, up to which log time
        self._waiting: dict[Identity, list[Future[Decision]]] = defaultdict(list)
        self._places: dict[tuple[int, int], Future[Decision]] = {}  # by (partition, offset) of the request

    def at_hand(self, identity: Identity, now_ms: int) -> Decision | None:
        """A decision that came lately and still takes reactions."""
        known = self._recent.get(identity)
        return decided(known[1]) if known is not None and known[0] + self._window_ms >= now_ms else None

    def counts(self, decision: Decision) -> bool:
        """Whether its user was not erased since."""
        return decision.at_ms > self._erased.get(decision.request.user, -1)

    def wait(self, identity: Identity) -> "Future[Decision]":
        """The decision of this id, when it comes."""
        done: Future[Decision] = get_running_loop().create_future()
        self._waiting[identity].append(done)
        return done

    def stands_at(self, partition: int, offset: int, done: "Future[Decision]") -> None:
        """Where the request stands of somebody who waits: a refusal names that."""
        self._places[partition, offset] = done

    def go(self, identity: Identity, done: "Future[Decision]") -> None:
        """Somebody waits no more."""
        self._waiting[identity].remove(done)
        if not self._waiting[identity]:
            del self._waiting[identity]
        for place in [place for place, waiting in self._places.items() if waiting is done]:
            del self._places[place]

    def cancel(self) -> None:
        """Nobody is told anything any more."""
        for waiting in self._waiting.values():
            for done in waiting:
                done.cancel()

    def take_decision(self, record: ConsumerRecord) -> None:
        """A record of `feeds`; the first one of an id counts."""
        decision = decided(record.value)
        if decision is None:
            return
        identity = (decision.request.user, decision.request.request_id)
        known = self._recent.get(identity)
        first = decision if known is None else decided(known[1]) or decision
        if known is None and self.counts(decision):
            self._recent[identity] = (decision.at_ms, record.value)
            self._requests[identity[0]].add(identity[1])
            self._bytes += len(record.value)
            self._let_go(decision.at_ms - RECENT_MS)
        for done in self._waiting.get(identity, ()):
            if not done.done():
                done.set_result(first)

    def take_letter(self, record: ConsumerRecord) -> None:
        """A dead letter: tell whoever sent the request that it was refused."""
        told = dict(record.headers)
        if told.get("feedloom.topic") != b"requests":
            return
        with suppress(KeyError, ValueError):
            done = self._places[int(told["feedloom.partition"]), int(told["feedloom.offset"])]
            if not done.done():
                done.set_exception(InputError(told["feedloom.reason"].decode(errors="replace")))

    def take_erased(self, record: ConsumerRecord) -> None:
        """Somebody was erased, wherever that was asked for."""
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            fact = _erased.decode(record.value or b"")
            self.forget(fact.user, fact.at_ms)

    def forget(self, user: str, at_ms: int) -> None:
        """Forget what a user was shown up to this log time."""
        self._erased[user] = max(at_ms, self._erased.get(user, -1))
        for request_id in list(self._requests.get(user, ())):
            if self._recent[user, request_id][0] <= at_ms:
                self._drop((user, request_id))

    def _let_go(self, before_ms: int) -> None:
        """Drop the first that came, as long as they are too old or too much."""
        while self._recent:
            identity, (at_ms, _) = next(iter(self._recent.items()))
            if at_ms >= before_ms and self._bytes <= RECENT_BYTES_MAX:
                return
            self._drop(identity)

    def _drop(self, identity: Identity) -> None:
        user, request_id = identity
        self._bytes -= len(self._recent.pop(identity)[1])
        self._requests[user].discard(request_id)
        if not self._requests[user]:
            del self._requests[user]


def decided(value: bytes | None) -> Decision | None:
    """The decision of a record of `feeds`, if it is one."""
    read: Value | None = None
    with suppress(InputError):
        read = decode(value or b"")
    return read if isinstance(read, Decision) else None
