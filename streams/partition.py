"""One partition of users: requests become decisions, reactions teach, a micro-batch is kept whole or not at all.

It knows records and bytes, and neither Kafka nor time: what came, at which offset and log time, is told to it, and
what has to be sent is returned. Nothing here is kept until `commit`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from heapq import heapify, heappop, heappush

import msgspec

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, Erase, Organic, Quarantine, Reaction, Request, Seen, Switch, Tick
from engine.facts import Facts
from engine.fold import close_due, fold
from engine.policy import Policy
from engine.pools import gather
from engine.revisions import Revisions
from engine.serve import serve
from engine.state import Cell, Lesson, UserState, ViewLesson
from engine.sums_record import SumsRecord, merged, record_of, shortened, shortlisted
from streams.asking import check_slots
from streams.codec import decode, encode
from streams.exclusions import ErasedFact, Exclusions, forgotten
from streams.messages import REQUEST_OFFSET, Input, Message, Record, dead_letter
from streams.sizes import fitting
from streams.store import Changed, Changes, PartitionStore, Position

NEWCOMER = UserState()
SUMS_BYTES_MAX = 8 << 20  # beyond it, sums are published with the most frequent pairs of each item alone:
PAIRS_SENT = 2  # times `neighbours_max`, or half of that, and so on until they fit into a message

# Made here, before there are threads: msgspec learns a type without a lock, and partitions come back side by side.
# A thread that reads what another one is still learning ends the process.
_sums = msgspec.json.Decoder(SumsRecord)


def version_at(at_ms: int, policy: Policy) -> int:
    """The population version that is due at a time of the log: the latest multiple of Δ, in milliseconds."""
    return at_ms // policy.population.every_ms * policy.population.every_ms


class NotYetKnownError(Exception):
    """A reaction names what no policy has named that was read until now."""


class Partition:
    """The owner of one partition's state."""

    def __init__(
        self,
        number: int,
        revisions: Revisions,
        store: PartitionStore,
        *,
        partitions: int,
        value_bytes_max: int = 262_144,
        users_cached: int = 20_000,
    ) -> None:
        """Go on where the store stands. Raises InputError if it was made with another number of partitions."""
        self.number = number
        self.position = store.position() or Position(partitions)  # moved on in place
        if self.position.partitions != partitions:
            raise InputError(
                f"the state of partition {number} was made with {self.position.partitions} partitions and the "
                f"topics have {partitions}: users would be on other partitions than their state"
            )
        self._revisions = revisions
        self.policy = revisions.resumed(self.position.policy)
        self._store = store
        self._value_bytes_max = value_bytes_max
        self._users_cached = users_cached
        self._cache: OrderedDict[str, UserState] = OrderedDict()
        self.exclusions = store.exclusions() or Exclusions()
        self._due = list(store.due())
        heapify(self._due)
        stored = store.sums()
        self._sums = merged([_sums.decode(stored)] if stored else [])
        for at_ms, lesson in store.lessons():
            self._sums.absorb([lesson], at_ms, self.policy)
        self._begin()

    def _begin(self) -> None:
        """Begin a micro-batch."""
        self._users: dict[str, UserState] = {}
        self._now_due: list[tuple[int, str]] = []
        self._no_longer_due: list[tuple[int, str]] = []
        self._lessons: list[tuple[int, Lesson]] = []
        self._views: dict[tuple[Cell, int], tuple[float, float]] = {}
        self._new_sums: bytes | None = None
        self._new_exclusions: Exclusions | None = None
        self._forgotten: list[str] = []

    def state(self, user: str) -> UserState:
        """A user's state as of the last input, kept or not."""
        state = self._users.get(user) or self._cache.get(user)
        if state is None:
            state = self._store.user(user) or NEWCOMER
            self._cache[user] = state
        return state

    def answer(self, record: Record, facts: Facts) -> list[Message]:
        """Decide a request that has no decision yet."""
        outcome = self.decide(record, facts)
        return [] if outcome is None else [self.told(record, outcome)]

    def decide(self, record: Record, facts: Facts) -> Decision | InputError | None:
        """The decision of a request, or why there is none; None for one that has its decision already."""
        if record.offset < self.position.requests:
            return None
        self.position.requests = record.offset + 1
        try:
            request = self._read_request(record)
            state = self.state(request.user)
            known = state.ledger.get(request.request_id)
            if known is not None:
                check_slots(request, known.slots)
                return None
            decision = serve(state, request, gather(state, request, facts, record.at_ms), record.at_ms)
        except InputError as error:
            return error
        self._fold_decision(decision)
        return decision

    def told(self, record: Record, outcome: Decision | InputError) -> Message:
        """What to send of a request and what came of it."""
        if isinstance(outcome, InputError):
            return dead_letter("requests", self.number, record, outcome)
        offset = str(record.offset).encode()
        return Message("feeds", record.key, encode(outcome), ((REQUEST_OFFSET, offset),), self.number)

    def react(self, record: Record, last_ms: int | None = None, *, sure: bool = True) -> list[Message]:
        """Fold a reaction; its log time moves the clock, even if it cannot be read.

        `last_ms` is the time of the last reaction of this turn: sums that it will make outdated are not sent.
        Raises NotYetKnownError, and nothing is done, for what no policy names, unless it is `sure` that all are
        read.
        """
        if record.offset < self.position.feedback:
            return []
        read = self._read_reaction(record, sure=sure)
        messages = self._turn_clock(record.at_ms, record.at_ms if last_ms is None else last_ms)
        self.position.feedback = record.offset + 1
        if isinstance(read, InputError):
            return [*messages, *self.dead_letter("feedback", record, read)]
        reaction = read
        if isinstance(reaction, Erase):
            self.forget(reaction.user, record.at_ms)
            fact = ErasedFact(reaction.user, self.number, record.at_ms)
            messages.append(Message("erased", record.key, msgspec.json.encode(fact), partition=0))
        elif isinstance(reaction, Quarantine):
            self._exclude(self.exclusions.with_quarantine(record.offset, reaction, record.at_ms))
        elif isinstance(reaction, Switch):
            self._switch(reaction.number)
        elif reaction is not None and not self.exclusions.hold(reaction.user, record.at_ms):
            folded = fold(self.state(reaction.user), reaction, record.at_ms, self.policy.memory, self.policy.hides)
            self._users[reaction.user] = folded.state
            self._absorb(folded.lessons)
        return messages

    def adopt(self, record: Record, headers: Mapping[str, bytes]) -> list[Message]:
        """Fold a decision that is in `feeds` already; it was made before the state was lost or left behind."""
        if record.offset < self.position.feeds:
            return []
        self.position.feeds = record.offset + 1
        try:
            decision = decode(record.value or b"")
            asked = headers.get(REQUEST_OFFSET, b"")
            if not (isinstance(decision, Decision) and asked.isdigit()):
                raise InputError("this is no decision with the offset of its request, so no worker has written it")
        except InputError as error:
            return self.dead_letter("feeds", record, error)
        self._fold_decision(decision)
        self.position.requests = max(self.position.requests, int(asked) + 1)
        return []

    def forget(self, user: str, at_ms: int) -> None:
        """Forget a user up to this log time, what comes late of it too."""
        if at_ms <= self.exclusions.erased.get(user, -1):
            return
        state = self.state(user)
        self._users[user] = forgotten(state, at_ms)
        window_ms = self.policy.memory.window_ms
        self._no_longer_due += [
            (row.at_ms + window_ms, user) for row in state.ledger.values() if row.at_ms <= at_ms
        ]
        self._exclude(self.exclusions.with_erased(user, at_ms))
        self._forgotten.append(user)

    def exclude(self, exclusions: Exclusions) -> None:
        """Leave this out of a state that is about to be folded again from an older one, or from nothing."""
        for user, at_ms in exclusions.erased.items():
            self.forget(user, at_ms)
        self._exclude(exclusions.all_folded())

    def _switch(self, number: int) -> None:
        """Fold by this revision from here on; sums hold what was learned by the one before."""
        self.position.policy, policy = number, self._revisions.at(number)
        if policy.version != self.policy.version:
            self._keep_sums(self.position.version)
            self.policy = policy

    @property
    def outdated(self) -> bool:
        """Whether it is folded by another policy than the one in force."""
        return self.policy.version != self._revisions.policy.version

    def give_up_oldest(self) -> None:
        """Go on with what the oldest quarantine that waits was to leave out: it cannot be taken out any more."""
        self._exclude(self.exclusions.without_oldest())

    def _exclude(self, exclusions: Exclusions) -> None:
        self.exclusions = self._new_exclusions = exclusions

    def sent(self, feeds_offset: int) -> None:
        """The decisions of this micro-batch stand in `feeds` up to before this offset."""
        self.position.feeds = max(self.position.feeds, feeds_offset)

    def pass_over(self, topic: Input, first: int) -> None:
        """Go on at this offset of a topic, or where we are if that is later: what was before it is gone."""
        setattr(self.position, topic, max(getattr(self.position, topic), first))

    def commit(self) -> None:
        """Keep the micro-batch: users, due decisions, lessons and offsets in one write."""
        self._teach_views()
        changes = Changes(
            users=[Changed(user, self._cache[user], state) for user, state in self._users.items()],
            due=self._now_due,
            no_longer_due=self._no_longer_due,
            lessons=self._lessons,
            sums=self._new_sums,
            position=self.position,
            exclusions=self._new_exclusions,
        )
        self._store.write(changes)
        for user in self._forgotten:
            self._store.scrub(user)
        for user, state in self._users.items():
            self._cache[user] = state
            self._cache.move_to_end(user)
        while len(self._cache) > self._users_cached:
            self._cache.popitem(last=False)
        self._begin()

    def dead_letter(self, topic: Input, record: Record, error: Exception) -> list[Message]:
        """What to send of a record that nothing can be made of."""
        return [dead_letter(topic, self.number, record, error)]

    def _read_request(self, record: Record) -> Request:
        event = self._decoded(record)
        if not isinstance(event, Request):
            raise InputError(f"a {type(event).__name__.lower()} stands among the requests")
        self._check_key(record, event.user)
        return event

    def _read_reaction(
        self, record: Record, *, sure: bool
    ) -> Reaction | Erase | Quarantine | Switch | InputError | None:
        """The reaction of a record, what an operator or worker wrote, or why it is of no use; None for a tick."""
        try:
            event = self._decoded(record)
            if isinstance(event, Tick):
                return None
            if not isinstance(event, Seen | Acted | Organic | Erase | Quarantine | Switch):
                raise InputError(f"a {type(event).__name__.lower()} stands among the reactions")
            if not isinstance(event, Switch) and event.user is not None:
                self._check_key(record, event.user)
        except InputError as error:
            return error
        try:
            if isinstance(event, Switch):
                self._revisions.at(event.number)
            elif isinstance(event, Acted | Organic):
                self._revisions.check_action(event.action)
        except InputError as error:
            if not sure:
                raise NotYetKnownError from error
            return error
        return event

    def _decoded(self, record: Record) -> object:
        if record.value is None:
            raise InputError("the record has no value")
        if len(record.value) > self._value_bytes_max:
            raise InputError(f"the value has {len(record.value)} bytes; at most {self._value_bytes_max} are read")
        return decode(record.value)

    def _check_key(self, record: Record, user: str) -> None:
        if record.key != user.encode():
            name = "missing" if record.key is None else "not the user's id"
            raise InputError(f"the key is {name}: records of user {user!r} must have it as their key")

    def _fold_decision(self, decision: Decision) -> None:
        user = decision.request.user
        if decision.at_ms <= self.exclusions.erased.get(user, -1):
            return
        policy = self._revisions.made_under(decision.policy_version)
        folded = fold(self.state(user), decision, decision.at_ms, policy.memory, policy.hides)
        self._users[user] = folded.state
        self._absorb(folded.lessons)
        if folded.outcome == "adopted":
            due = (decision.at_ms + policy.memory.window_ms, user)
            heappush(self._due, due)
            self._now_due.append(due)

    def _absorb(self, lessons: tuple[Lesson, ...]) -> None:
        """Teach the population, and remember it for a restart.

        Views are the most, and those of one pool, action and rank add up: they are taught as one, a little later.
        """
        if not lessons:
            return
        at_ms = self.position.clock_ms
        self.position.lessons_to += 1
        for lesson in lessons:
            if isinstance(lesson, ViewLesson) and lesson.delay_ms is None:
                place = (lesson.cell, lesson.rank)
                successes, exposure = self._views.get(place, (0.0, 0.0))
                self._views[place] = (successes + lesson.successes, exposure + lesson.exposure)
            else:
                short = shortened(lesson, self.policy)
                self._sums.absorb([short], at_ms, self.policy)
                self._lessons.append((at_ms, short))

    def _teach_views(self) -> None:
        at_ms = self.position.clock_ms
        for (cell, rank), (successes, exposure) in self._views.items():
            lesson = ViewLesson(cell, rank, successes, exposure, at_ms, None)
            self._sums.absorb([lesson], at_ms, self.policy)
            self._lessons.append((at_ms, lesson))
        self._views.clear()

    def _turn_clock(self, at_ms: int, last_ms: int) -> list[Message]:
        """Close what is due; where the clock passes a population version, the sums of before it are to be sent."""
        if at_ms <= self.position.clock_ms:
            return []
        version = version_at(at_ms, self.policy)
        messages = []
        if version > self.position.version:
            self._close_due(version)
            if version_at(last_ms, self.policy) <= version:
                messages = [self._sums_at(version)]
            self.position.version = version
        self._close_due(at_ms)
        self.position.clock_ms = at_ms
        return messages

    def _close_due(self, at_ms: int) -> None:
        while self._due and self._due[0][0] < at_ms:
            due = heappop(self._due)
            state, lessons = close_due(self.state(due[1]), at_ms, self.policy.memory)
            self._users[due[1]] = state
            self._no_longer_due.append(due)
            self._absorb(lessons)

    def _sums_at(self, version: int) -> Message:
        """The sums as of a version; the store will begin with them instead of older ones and their lessons."""
        self._sums.at_ms = version
        record, value = self._keep_sums(version)
        if len(value) > SUMS_BYTES_MAX:
            most = PAIRS_SENT * self.policy.population.neighbours_max
            value = fitting(lambda pairs: shortlisted(record, pairs), most)
        return Message("sums", str(self.number).encode(), value, partition=self.number)

    def _keep_sums(self, version: int) -> tuple[SumsRecord, bytes]:
        """Let the store begin with the sums as they are; no lesson before this is taught again after a restart."""
        self._teach_views()
        # The same, however turns were cut and lessons were coalesced before a restart.
        self._sums.records = self.position.lessons_to
        record = record_of(self._sums, self.number, self.position.version + 1, version, self.policy)
        self._new_sums = msgspec.json.encode(record)
        self._lessons = []
        self.position.lessons_from = self.position.lessons_to
        return record, self._new_sums
