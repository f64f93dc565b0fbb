"""Replay a log, event by event, through the production runner and through every baseline.

The protocol is prequential: before each positive event a feed is asked for, from what the past alone has
taught; it is a hit if the event's item stands in it; then everybody learns from the event.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from time import perf_counter

from msgspec.structs import replace

from engine.decision import Decision
from engine.errors import InputError
from engine.events import Acted, Organic, Request, Seen
from engine.facts import Facts
from engine.policy import ActionPolicy, Policy
from engine.priors import prior_for
from engine.state import UserState
from simulator.baselines import PLAIN, Asked, Baseline, baselines
from simulator.interactions import NOT_POSITIVE, Interaction
from simulator.scoreboard import Backtest, ExampleSlot, Scoreboard, Summary
from streams.codec import encode
from streams.embedded import EmbeddedRunner, Log

FEEDLOOM = "feedloom"
LAST_PART = 0.2  # of the requests, over which pool shares are reported
PROGRESS_EVERY = 500  # rows


def backtest(
    rows: Sequence[Interaction],
    policy: Policy,
    *,
    dataset: str,
    train_fraction: float = 0.2,
    slots: int = 10,
    batch: int = 256,
    log: Log | None = None,
    progress: Callable[[int], None] | None = None,
) -> Backtest:
    """Replay `rows`, which are in the order of time; the first `train_fraction` of them is not scored.

    `progress` is told the number of rows done. Raises InputError when the log holds nothing to score or an
    action that the policy does not name.
    """
    policy = policy_of_logs(policy)
    first_scored = int(len(rows) * train_fraction)
    _check(rows, first_scored, policy)
    replay = _Replay(rows, policy, slots, batch, log)
    started = perf_counter()
    for number, row in enumerate(rows):
        replay.step(number, row, scored=number >= first_scored)
        if progress and (number % PROGRESS_EVERY == 0 or number == len(rows) - 1):
            progress(number + 1)
    replay.runner.commit()
    return replay.result(dataset, perf_counter() - started)


def policy_of_logs(policy: Policy) -> Policy:
    """The policy, with the action of rows that are not positive earning nothing unless it says otherwise."""
    return replace(policy, actions={NOT_POSITIVE: ActionPolicy(0.0)} | policy.actions)


def _check(rows: Sequence[Interaction], first_scored: int, policy: Policy) -> None:
    if not any(row.positive for row in rows[first_scored:]):
        raise InputError("the log has no positive event to score after the training part: lower --train-fraction")
    unknown = sorted({row.action for row in rows} - policy.actions.keys())
    if unknown:
        raise InputError(
            f"the log has the action {unknown[0]!r}, which the policy does not name: "
            f'add [actions."{unknown[0]}"] with its reward to a policy file and pass it with --policy'
        )
    taken = sorted({*PLAIN, FEEDLOOM} & policy.pools.keys())
    if taken:
        raise InputError(f"the policy has a pool {taken[0]!r}, which is the name of a whole policy here: rename it")
    external = [name for name, pool in policy.pools.items() if pool.kind == "external"]
    if external:
        raise InputError(f"a log brings no candidates for the external pool {external[0]!r}: leave it out")


class _Replay:
    """The state of one backtest."""

    def __init__(
        self, rows: Sequence[Interaction], policy: Policy, slots: int, batch: int, log: Log | None
    ) -> None:
        self.runner = EmbeddedRunner(policy, log, batch)
        self._slots = slots
        self._baselines: dict[str, Baseline] = baselines(policy)
        requests = sum(row.positive for row in rows)
        self._board = Scoreboard([*self._baselines, FEEDLOOM], list(policy.pools), requests)
        self._seed = policy.blend.seed
        self._requests = 0
        self._likes: dict[str, int] = {}
        self._users: dict[str, int] = {}
        self._scored = 0
        self._feedloom_seconds = 0.0
        self._digest = blake2b(digest_size=16)
        self._last: Decision | None = None

    def step(self, number: int, row: Interaction, *, scored: bool) -> None:
        """One row: an organic event, or a request and the reactions to its feed."""
        started = perf_counter()
        if not row.positive:
            self._organic(number, row)
            self._feedloom_seconds += perf_counter() - started
            return
        request = Request(request_id=str(number), user=row.user, slots=self._slots, ts_ms=row.at_ms)
        gathered = self.runner.gather(request)
        population = self.runner.facts.population
        size, item = population.size, population.number(row.item)
        decision = self.runner.serve(request, gathered, row.at_ms)
        self._react(number, row, decision)
        self._feedloom_seconds += perf_counter() - started
        self._score(row, decision, scored=scored)
        self._compare(Asked(request.request_id, row.user, self._slots, size, gathered), item)
        self._requests += 1

    def _organic(self, number: int, row: Interaction) -> None:
        event = Organic(event_id=f"{number}", user=row.user, item=row.item, action=row.action, ts_ms=row.at_ms)
        self.runner.react(event, row.at_ms)

    def _react(self, number: int, row: Interaction, decision: Decision) -> None:
        """The user sees every slot; the row's action is on its slot if its item was shown, else organic."""
        request = decision.request
        for slot, item in enumerate(decision.slot_items):
            seen = Seen(
                event_id=f"{number}-{slot}",
                user=row.user,
                request_id=request.request_id,
                slot=slot,
                item=item,
                ts_ms=row.at_ms,
            )
            self.runner.react(seen, row.at_ms)
        slot_of_row = _place(row.item, decision.slot_items)
        if slot_of_row is None:
            self._organic(number, row)
        else:
            acted = Acted(
                event_id=f"{number}",
                user=row.user,
                request_id=request.request_id,
                slot=slot_of_row,
                item=row.item,
                action=row.action,
                ts_ms=row.at_ms,
            )
            self.runner.react(acted, row.at_ms)

    def _score(self, row: Interaction, decision: Decision, *, scored: bool) -> None:
        likes_before = self._likes.get(row.user, 0)
        self._likes[row.user] = likes_before + 1
        self._scored += scored
        user = self._users.setdefault(row.user, len(self._users))
        self._board.asked(self._requests, user, likes_before, scored=scored)
        self._board.placed(self._requests, decision.slot_pools)
        self._board.found(self._requests, FEEDLOOM, _place(row.item, decision.slot_items))
        self._digest.update(encode(decision) + b"\n")
        self._last = decision

    def _compare(self, asked: Asked, item: int | None) -> None:
        for name, baseline in self._baselines.items():
            slate = baseline.slate(asked)
            hit = _place(item, slate.items)
            self._board.found(self._requests, name, hit)
            baseline.learn(asked.user, slate, hit)

    def result(self, dataset: str, seconds: float) -> Backtest:
        assert self._last is not None
        last = self._last
        names = [part.pool for part in last.pools]
        slots = zip(last.slot_items, last.slot_pools, strict=True)
        summary = Summary(
            dataset=dataset,
            scored=self._scored,
            policies=self._board.figures(self._seed),
            feedloom_minus=self._board.minus(FEEDLOOM),
            pool_share=self._board.pool_share(LAST_PART),
            views_to_personal=_views_to_personal(self.runner.facts),
            seconds=seconds,
            feeds_per_s=self._requests / self._feedloom_seconds,
            digest=self._digest.hexdigest(),
        )
        example = [ExampleSlot(item, names[pool]) for item, pool in slots]
        return Backtest(summary, self._board.timeline(), last.request.user, example)


def _views_to_personal(facts: Facts) -> dict[str, dict[str, float]]:
    """The strength of the prior of somebody who is known by now but has shown nothing."""
    prior, _ = prior_for(UserState(), facts, "")
    strength = (prior.alpha + prior.beta).tolist()
    return {
        pool: dict(zip(facts.policy.rewarded, row, strict=True))
        for pool, row in zip(facts.policy.pools, strength, strict=True)
    }


def _place(item: object, items: Sequence[object]) -> int | None:
    return items.index(item) if item in items else None
