"""The in-memory runner: one process, one log, the same `serve` and `fold` as every other runner.

A micro-batch ends with a commit: its records go to the log first, and only then are the states it changed
kept. Where batches are cut changes no result.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from engine.catalogue import Catalogue, CatalogueWriter
from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, ItemUpdate, Organic, Reaction, Request, Seen
from engine.facts import Facts
from engine.fold import Outcome, check_reaction, close_due, fold
from engine.item_table import tokens_of
from engine.offline.embeddings import Embeddings, Training, trained
from engine.policy import Policy
from engine.pools import AS_NAMED, Gathered, Pool, gather
from engine.population import Sums, fit, version_due
from engine.serve import serve
from engine.state import Lesson, UserState
from streams.recording import Entry, Topic

NEWCOMER = UserState()
ENDED = "a runner whose log refused a batch is at an end"


class Log(Protocol):
    """Where the records of a micro-batch go."""

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep a micro-batch, all of it or, by raising, none."""


class EmbeddedRunner:
    """Runs a policy over one log. `batch` is the number of inputs per commit."""

    def __init__(self, policy: Policy, log: Log | None = None, batch: int = 256) -> None:
        """Start with nobody known."""
        self.states: dict[str, UserState] = {}
        self.sums = Sums()
        self._facts = Facts(policy, fit(self.sums, policy))
        self._catalogue = CatalogueWriter()
        self._log = log
        self._batch = batch
        self._trainings = 0  # how many were due until now
        self._ended = False
        self._staged: dict[str, UserState] = {}
        self._due: deque[tuple[int, str]] = deque()  # open decisions, oldest first
        self._entries: list[Entry] = []

    def state(self, user: str) -> UserState:
        """A user's state as of the last input, committed or not."""
        return self._staged.get(user) or self.states.get(user, NEWCOMER)

    @property
    def facts(self) -> Facts:
        """What a request would see now: the policy, the population version due at this position, and all items."""
        policy, population, catalogue = self._facts.policy, self._facts.population, self._catalogue.version()
        embeddings = self._facts.embeddings
        if version_due(self.sums.records, policy.population.every_records) != population.version:
            population = fit(self.sums, policy, population)
            embeddings = self._trained(catalogue)
        if population is not self._facts.population or catalogue is not self._facts.catalogue:
            self._facts = Facts(policy, population, catalogue, embeddings, self._facts.items)
        return self._facts

    def _trained(self, catalogue: Catalogue) -> Embeddings | None:
        """The item vectors that are due with a version, trained on all that users did until now."""
        settings, known = self._facts.policy.embeddings, self._facts.embeddings
        every = settings.every_reactions
        if not every or not self._facts.policy.personal:
            return None
        if self.sums.reactions // every == self._trainings:
            return known
        self._trainings = self.sums.reactions // every
        histories = [self.state(user).history for user in sorted({**self.states, **self._staged})]
        likes = self._facts.policy.likes
        number_of, entries = self.sums.number_of, [entry for history in histories for entry in history]
        users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        reacted = np.fromiter((number_of[entry.item] for entry in entries), np.int64, len(entries))
        liked = np.fromiter((entry.action in likes for entry in entries), np.bool_, len(entries))
        tokens = tokens_of(self.sums.items, catalogue)
        how = Training(dimensions=settings.dimensions)
        return trained(users, reacted, liked, tokens, how, known)

    def put(self, update: ItemUpdate, at_ms: int) -> None:
        """Take what is known of an item; the next request sees it."""
        assert not self._ended, ENDED
        if len(self._entries) >= self._batch:
            self.commit()
        self._entries.append(Entry("items", self.sums.records, update.item, at_ms, update))
        self._catalogue.put(update, at_ms)

    def gather(self, request: Request, at_ms: int, replaced: Mapping[str, Pool] = AS_NAMED) -> Gathered:
        """Ask the pools for what they have at this time for a request, others in the place of those `replaced`."""
        return gather(self.state(request.user), request, self.facts, at_ms, replaced)

    def serve(self, request: Request, gathered: Gathered, at_ms: int) -> Decision:
        """Answer a request, and fold the decision into its user's state.

        Raises InputError when this user's request id has a decision already.
        """
        state = self.state(request.user)
        if request.request_id in state.ledger:
            raise InputError(f"request {request.request_id} of user {request.user} has a decision already")
        decision = serve(state, request, gathered, at_ms)
        self.adopt(request, decision, at_ms)
        return decision

    def adopt(self, request: Request, decision: Decision, at_ms: int) -> None:
        """Fold a decision that was made for a request, here or elsewhere, into its user's state."""
        offset = self.sums.records
        self._stage("requests", offset, at_ms, request)
        self._entries.append(Entry("feeds", offset, request.user, at_ms, decision))
        self._fold(request.user, decision, at_ms)

    def react(self, reaction: Reaction, at_ms: int) -> Outcome:
        """Fold a reaction. Raises InputError for an action that the policy does not name."""
        check_reaction(reaction, self._facts.policy)
        self._facts = self.facts  # the version that is due before this reaction holds nothing of it
        self._stage("feedback", self.sums.records, at_ms, reaction)
        return self._fold(reaction.user, reaction, at_ms)

    def commit(self) -> None:
        """End the micro-batch.

        If the log refuses it the runner is at an end, because what the population has learned of the batch
        cannot be taken back: it goes on as a new runner over what the log holds.
        """
        entries, self._entries = self._entries, []
        if self._log:
            self._ended = True
            self._log.append(entries)
            self._ended = False
        self.states.update(self._staged)
        self._staged.clear()

    def _stage(self, topic: Topic, offset: int, at_ms: int, value: Request | Reaction) -> None:
        assert not self._ended, ENDED
        if offset and offset % self._batch == 0:
            self.commit()
        self._entries.append(Entry(topic, offset, value.user, at_ms, value))

    def _fold(self, user: str, value: Decision | Reaction, at_ms: int) -> Outcome:
        policy = self._facts.policy
        lessons = self._close_due(at_ms)
        folded = fold(self.state(user), value, at_ms, policy.memory, policy.hides)
        self._staged[user] = folded.state
        self.sums.absorb(lessons + folded.lessons, at_ms, policy)
        if folded.outcome == "adopted":
            self._due.append((at_ms, user))
        return folded.outcome

    def _close_due(self, at_ms: int) -> tuple[Lesson, ...]:
        """Close decisions whose window has passed, also of people who never come back."""
        memory = self._facts.policy.memory
        lessons: tuple[Lesson, ...] = ()
        while self._due and self._due[0][0] < at_ms - memory.window_ms:
            _, user = self._due.popleft()
            self._staged[user], closed = close_due(self.state(user), at_ms, memory)
            lessons += closed
        return lessons


def tried(policy: Policy) -> None:
    """`warm_up`, where whatever goes wrong says that the policy is no use. Raises InputError."""
    try:
        warm_up(policy)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"no feed can be made by it: {error!r}") from error


def warm_up(policy: Policy) -> None:
    """Compile or load all that answering and learning need, before somebody waits for it: by a very short life."""
    runner, action = EmbeddedRunner(policy), min(policy.likes)
    runner.put(ItemUpdate(item="0", attributes={"kind": "any"}), 0)
    listed = {name: ["0", "1", "stranger"] for name in policy.external}
    for number in range(3):
        for user in ("somebody", "visitor"):
            item = str(number if user == "somebody" else 0)
            runner.react(Organic(event_id=f"{number}", user=user, item=item, action=action), number)
        request = Request(request_id=f"{number}", user="visitor", slots=1, candidates=listed)
        decision = runner.serve(request, runner.gather(request, number), number)
        for item in decision.slot_items:
            name = request.request_id
            seen = Seen(event_id="s", user="visitor", request_id=name, slot=0, item=item)
            runner.react(seen, number)
            acted = Acted(event_id="a", user="visitor", request_id=name, slot=0, item=item, action=action)
            runner.react(acted, number)
