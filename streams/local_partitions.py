"""All partitions of an embedded engine over its own topics: what a worker is over Kafka, waiting for nobody.

What comes is appended to its topic before anything is made of it, and what is decided is appended to `feeds` before
it is handed out. State is folded from the topics; what is kept of it may be lost at any time, and is folded again.
Every method raises OSError, or StoreDamagedError, where the disk refuses: then nothing in memory is to be trusted,
and `recover` begins anew from what is on the disk.
"""

import logging
import shutil
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Erase, Quarantine, Reaction, Request, Switch, Tick
from engine.policy import Policy
from engine.revisions import PolicyRecord, Revision, next_record
from engine.state import UserState
from streams.asking import ConflictError, Ordered, check_slots
from streams.backups import NoGroundError, back_up, copies, time_of
from streams.codec import decode, encode
from streams.exclusions import ErasedFact
from streams.failpoints import passing
from streams.local_facts import LocalFacts
from streams.local_recovery import Ground, Owned, take_over
from streams.local_topics import LocalTopics
from streams.local_undo import fold_anew, put_in_place
from streams.log import LogRecord, Unwritten
from streams.messages import Message, Record
from streams.partition import version_at
from streams.policy_watch import FileNews
from streams.settings import Settings
from streams.store_folder import damaged_folders

log = logging.getLogger(__name__)

RECENT_MAX = 2_000  # decisions at hand, for clients that ask again
FIND_BYTES = 64 << 10  # of `feeds`, read at a time when a decision is looked for

Identity = tuple[str, str]  # user, request id
_facts = msgspec.json.Decoder(ErasedFact)


class Anew(NamedTuple):
    """A partition that was folded again without what it leaves out, or why that could not be."""

    number: int
    made: Owned | NoGroundError


class LocalPartitions:
    """The partitions of one folder, and the facts that they share."""

    def __init__(self, topics: LocalTopics, policy: Policy | None, settings: Settings) -> None:
        """Over these topics; `recover` reads them. `policy` is what a file says, None without one."""
        self.topics = topics
        own = policy.plug_ins if policy else frozenset[str]()
        self.shared = LocalFacts(topics, policy or Policy(), own | settings.plug_in_kinds)
        self.news = FileNews(policy)
        self._settings = settings
        self.halted = False  # whether recovery and re-folds are to end soon
        self._ground = Ground(topics, self.shared.revisions, settings, lambda: not self.halted)
        self._erased: dict[int, dict[str, int]] = defaultdict(dict)  # users and log times, by partition
        self._owned: list[Owned] = []
        self._unkept: set[int] = set()
        self._recent: OrderedDict[Identity, Decision] = OrderedDict()

    # Beginning.

    def recover(self) -> None:
        """Fold what the topics hold and no store has seen, and answer the requests that have no decision."""
        self.close()
        self.topics.reopen()
        self.shared.read()
        self._begin_policy()
        self._ground = self._ground._replace(revisions=self.shared.revisions)
        self._erased = self._read_erased()
        self.topics.pass_time(self.erased_ms)
        for number in range(self.topics.partitions):
            owned = take_over(self._ground, number, self._erased.get(number, {}), self._send, self.alert)
            self._owned.append(owned)
            for chunk in self.topics.log("requests", number).read(owned.partition.position.requests):
                self._decide(number, chunk)
            owned.partition.commit()
        self._switch_policy()
        self.tell_damage()

    def _begin_policy(self) -> None:
        """Put what the file says into force, if nobody has read that from a file before; or the defaults."""
        revisions = self.shared.revisions
        if not self.news.due(revisions):
            return
        policy = self.news.policy or revisions.policy
        why = "the file has changed" if revisions.number else "the first policy"
        try:
            self.apply(next_record(policy, revisions.number, "feedloom serve", why, "file"))
        except InputError as error:
            self.alert("policy-refused", f"the policy of the file is not in force: {error}")

    def apply(self, record: PolicyRecord) -> Revision:
        """Put a revision of the policy into force; the next request sees it.

        Raises InputError where it is refused, and then nothing has changed.
        """
        revision = self.shared.apply(record)
        self._switch_policy()
        log.info("revision %d of the policy is in force: %s (%s)", revision.number, revision.why, revision.who)
        return revision

    def _switch_policy(self) -> None:
        """Write into `feedback` from where on the partitions are folded by the policy in force."""
        number, at_ms = self.shared.revisions.number, self.topics.now_ms()
        for owned in self._owned:
            if owned.partition.outdated:
                self._fold(owned.partition.number, [Unwritten(None, encode(Switch(number=number)))], at_ms)

    def tell_damage(self) -> None:
        """Name what was met in the logs that is damaged."""
        for damage in self.topics.damages():
            self.alert("log-damaged", str(damage))

    def close(self) -> None:
        """Let go of the stores; what was not kept is folded again."""
        for owned in self._owned:
            owned.store.close()
        self._owned.clear()
        self._unkept.clear()
        self._recent.clear()

    def _read_erased(self) -> dict[int, dict[str, int]]:
        """Who was erased up to which log time, by partition."""
        found: dict[int, dict[str, int]] = defaultdict(dict)
        for chunk in self.topics.log("erased").read():
            for record in chunk:
                fact = _facts.decode(record.value or b"")
                found[fact.partition][fact.user] = fact.at_ms
        return found

    @property
    def erased_ms(self) -> int:
        """When somebody was erased last, by the log's time; -1 if nobody was."""
        return max((at_ms for users in self._erased.values() for at_ms in users.values()), default=-1)

    @property
    def owes_copies(self) -> bool:
        """Whether a copy of a store is from before an erasure."""
        folders, erased_ms = map(self._ground.folder, range(self.topics.partitions)), self.erased_ms
        return any(time_of(copy) <= erased_ms for folder in folders for copy in copies(folder))

    # Turning.

    def answer(self, requests: Sequence[Request]) -> list[Decision | InputError]:
        """Decide these requests; one whose user and id have a decision gets that, or a ConflictError."""
        fresh: dict[int, dict[Identity, Request]] = defaultdict(dict)
        for request in requests:
            number, identity = self.topics.part_of(request.user), (request.user, request.request_id)
            if request.request_id not in self._state(request.user).ledger:
                fresh[number].setdefault(identity, request)
        made: dict[Identity, Decision | InputError] = {}
        at_ms = self.topics.now_ms()
        for number, asked in fresh.items():
            rows = [Unwritten(request.user.encode(), encode(request)) for request in asked.values()]
            first = self.topics.append("requests", number, rows, at_ms)
            records = [LogRecord(offset, at_ms, row.key, row.value) for offset, row in enumerate(rows, first)]
            made |= zip(asked, self._decide(number, records), strict=True)
        return [self._outcome(request, made) for request in requests]

    def _decide(self, number: int, records: Sequence[LogRecord]) -> list[Decision | InputError]:
        """Make the decisions of requests that stand in their topic; they are in `feeds` when this returns."""
        partition = self._owned[number].partition
        outcomes: list[Decision | InputError] = []
        messages: list[Message] = []
        for record in (Record(*row[:4]) for row in records):
            outcome = partition.decide(record, self.shared.facts)
            if outcome is not None:
                outcomes.append(outcome)
                messages.append(partition.told(record, outcome))
        # A decision in `feeds` says that all requests before it are dealt with: so dead letters go before it.
        self._send([message for message in messages if message.topic == "dead-letters"])
        passing("before-acknowledgement")
        feeds = [message for message in messages if message.topic == "feeds"]
        self._send(feeds)
        partition.sent(self.topics.log("feeds", number).end)
        self._unkept.add(number)
        if feeds:
            passing("after-acknowledgement")
        for outcome in outcomes:
            if isinstance(outcome, Decision):
                self._remember(outcome)
        return outcomes

    def _outcome(self, request: Request, made: dict[Identity, Decision | InputError]) -> Decision | InputError:
        """What a request gets; several of one id may have been asked at a time."""
        outcome = made.get((request.user, request.request_id)) or self.find(request.user, request.request_id)
        if outcome is None:
            return InputError(f"the decision of request {request.request_id} has lapsed from feeds")
        if isinstance(outcome, Decision):
            try:
                check_slots(request, outcome.request.slots)
            except ConflictError as error:
                return error
        return outcome

    def react(self, reactions: Sequence[Reaction]) -> None:
        """Append reactions and fold them."""
        of_part: dict[int, list[Reaction]] = defaultdict(list)
        for reaction in reactions:
            of_part[self.topics.part_of(reaction.user)].append(reaction)
        at_ms = self.topics.now_ms()
        for number, values in of_part.items():
            self._fold(number, [Unwritten(value.user.encode(), encode(value)) for value in values], at_ms)

    def tick(self) -> None:
        """Move the clock of partitions whose users are silent, so that what is due closes and versions go on."""
        at_ms = self.topics.now_ms()
        for number, owned in enumerate(self._owned):
            if version_at(at_ms, owned.partition.policy) > owned.partition.position.version:
                self._fold(number, [Unwritten(None, encode(Tick()))], at_ms)

    def _fold(self, number: int, rows: Sequence[Unwritten], at_ms: int) -> None:
        first = self.topics.append("feedback", number, rows, at_ms)
        partition = self._owned[number].partition
        messages: list[Message] = []
        for offset, row in enumerate(rows, first):
            messages += partition.react(Record(offset, at_ms, row.key, row.value), at_ms)
        self._send(messages)
        self._unkept.add(number)

    def erase(self, user: str) -> int:
        """Forget a user, in the state, its copies and at hand; the log time up to which it is forgotten."""
        number, at_ms = self.topics.part_of(user), self.topics.now_ms()
        self._fold(number, [Unwritten(user.encode(), encode(Erase(user=user)))], at_ms)
        self.keep()
        self.topics.sync()  # nothing that is promised here is to come back with a power cut
        self._erased[number][user] = at_ms
        self.topics.pass_time(at_ms)
        for identity in [identity for identity in self._recent if identity[0] == user]:
            del self._recent[identity]
        for left in damaged_folders(self._ground.folder(number)):
            shutil.rmtree(left, ignore_errors=True)
        return at_ms

    def quarantine(self, what: Quarantine) -> Ordered:
        """Leave reactions of a time out, as soon as what was learned is folded again without them."""
        at_ms = self.topics.now_ms()
        key = None if what.user is None else what.user.encode()
        numbers = range(self.topics.partitions) if what.user is None else [self.topics.part_of(what.user)]
        for number in numbers:
            self._fold(number, [Unwritten(key, encode(what))], at_ms)
        self.keep()
        return Ordered(len(numbers), at_ms)

    def fold_anew(self) -> Anew | None:
        """A partition folded again without what it leaves out; None where all are. It takes long, as `due_fit`."""
        for number, owned in enumerate(self._owned):
            if owned.partition.exclusions.unfolded:
                try:
                    return Anew(number, fold_anew(self._ground, owned))
                except NoGroundError as error:
                    return Anew(number, error)
        return None

    @property
    def unfolded(self) -> bool:
        """Whether a state holds what it is to leave out."""
        return any(owned.partition.exclusions.unfolded for owned in self._owned)

    def drop(self, anew: Anew | None) -> None:
        """Let go of what was folded again for nothing."""
        if anew is not None and isinstance(anew.made, Owned):
            anew.made.store.close()

    def switch(self, anew: Anew | None) -> None:
        """Go on with what was folded again; where it could not be, say so and go on with what there is."""
        if anew is None:
            return
        owned = self._owned[anew.number]
        if isinstance(anew.made, NoGroundError):
            self.alert("quarantine-refused", str(anew.made))
            owned.partition.give_up_oldest()
            self._unkept.add(anew.number)
            return
        self.keep()
        self._owned[anew.number] = put_in_place(self._ground, owned, anew.made)
        log.info("partition %d is without what was quarantined", anew.number)

    def back_up(self) -> None:
        """Copy the stores, to begin from where the topics no longer reach back; it may run in a thread."""
        for owned in list(self._owned):
            back_up(
                owned.store,
                self.topics.now_ms(),
                self._settings.retention_ms,
                self.erased_ms,
                lambda: not self.halted,
            )

    def keep(self) -> None:
        """Put what was folded into the stores."""
        for number in sorted(self._unkept):
            self._owned[number].partition.commit()
        self._unkept.clear()
        passing("after-batch")

    # Reading.

    def find(self, user: str, request_id: str) -> Decision | None:
        """A decision that still takes reactions; None where there is none."""
        row = self._state(user).ledger.get(request_id)
        known = self._recent.get((user, request_id))
        if row is None or known is not None:
            return known if row is not None else None
        feeds = self.topics.log("feeds", self.topics.part_of(user))
        for chunk in feeds.read(feeds.offset_at(row.at_ms), FIND_BYTES):
            for record in chunk:
                found = decode(record.value or b"") if record.key == user.encode() else None
                if isinstance(found, Decision) and found.request.request_id == request_id:
                    self._remember(found)
                    return found
        return None

    def alert(self, name: str, text: str) -> None:
        """Say something that somebody has to know, in the log of this process and on topic `alerts`."""
        log.error("%s: %s", name, text)
        at_ms = self.topics.now_ms()
        value = msgspec.json.encode({"name": name, "at_ms": at_ms, "message": text})
        self.topics.append("alerts", 0, [Unwritten(name.encode(), value)], at_ms)

    def _state(self, user: str) -> UserState:
        return self._owned[self.topics.part_of(user)].partition.state(user)

    def _remember(self, decision: Decision) -> None:
        self._recent[decision.request.user, decision.request.request_id] = decision
        while len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)

    def _send(self, messages: Iterable[Message]) -> None:
        """Append messages to their topics, those of one partition as one batch."""
        batches: dict[tuple[str, int], list[Unwritten]] = defaultdict(list)
        for message in messages:
            batches[message.topic, message.partition or 0].append(Unwritten(*message[1:4]))
            if message.topic == "sums":
                self.shared.take_sums(message.value or b"")
        at_ms = self.topics.now_ms()
        for (topic, number), rows in batches.items():
            self.topics.append(topic, number, rows, at_ms)
