"""Replay a log, event by event, through the production runner and through every baseline.

The protocol is prequential: before each positive event a feed is asked for, from what the past alone has
taught; it is a hit if the event's item stands in it; then everybody learns from the event. Further runs disturb
something and are of feedloom alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from msgspec.structs import replace

from engine.errors import InputError
from engine.events import ItemUpdate
from engine.facts import Facts
from engine.policy import ActionPolicy, Policy
from engine.priors import prior_for
from engine.state import UserState
from simulator.baselines import PLAIN, baselines
from simulator.disturbances import shuffled_within
from simulator.interactions import NOT_POSITIVE, Interaction
from simulator.replay_plan import ReplayPlan, without
from simulator.runs import FEEDLOOM, Progress, Replay, Run, broken_from, replayed, requests_before, scored_from
from simulator.scoreboard import Ablation, Backtest, Broken, ExampleSlot, Reached, Summary
from streams.embedded import Log

LAST_PART = 0.2  # of the requests, over which pool shares are reported, and what is left of a broken pool
AFTER_BREAK = 0.02  # of the requests, over which the fall after a break is reported
UNDISTURBED = ReplayPlan()


def silent(_: str) -> Callable[[int], None]:
    """Tell nobody how far a run is."""
    return lambda _: None


def backtest(
    rows: Sequence[Interaction],
    policy: Policy,
    plan: ReplayPlan = UNDISTURBED,
    *,
    dataset: str,
    items: Sequence[ItemUpdate] = (),
    log: Log | None = None,
    progress: Progress = silent,
) -> Backtest:
    """Replay `rows`, which are in the order of time, as planned; `items` are known before the first.

    `log` takes what is put into the undisturbed run and what it decides.
    Raises InputError when the log holds nothing to score or an action that the policy does not name, or where the
    plan does not go with the policy.
    """
    policy = policy_of_logs(policy)
    plan.check(policy)
    _check_policy(rows, policy)
    _check_rows(rows, plan)
    shuffled = None
    if plan.shuffle_within_ms is not None:
        shuffled = shuffled_within(rows, plan.shuffle_within_ms, policy.blend.seed)
        _check_rows(shuffled, plan)
    started = perf_counter()
    run = partial(replayed, plan=plan, progress=progress)
    plain = run(Run("replaying", rows, policy, baselines(policy), log=log, items=items))
    order_shuffled = _whole(run(Run("order shuffled", shuffled, policy, items=items))) if shuffled else None
    broken = None
    if plan.broken:
        broken = _broken(run(Run(f"{plan.broken.pool} broken", rows, policy, broken=plan.broken, items=items)))
    ablation = None
    if plan.ablate:
        ablated = run(Run(f"without {plan.ablate}", rows, without(policy, plan.ablate), items=items))
        minus = plain.board.minus_hits(FEEDLOOM, ablated.board.hits(FEEDLOOM))
        reached = _whole(ablated)
        ablation = Ablation(plan.ablate, reached.hit_at_10, reached.ndcg_at_10, minus)
    summary = _summary(plain, dataset, perf_counter() - started)
    return Backtest(
        replace(summary, order_shuffled=order_shuffled, broken=broken, ablation=ablation),
        plain.board.timeline(),
        *_example(plain),
    )


def policy_of_logs(policy: Policy) -> Policy:
    """The policy, with the action of rows that are not positive earning nothing unless it says otherwise."""
    return replace(policy, actions={NOT_POSITIVE: ActionPolicy(0.0)} | policy.actions)


def _check_policy(rows: Sequence[Interaction], policy: Policy) -> None:
    unknown = sorted({row.action for row in rows} - policy.actions.keys())
    if unknown:
        raise InputError(
            f"the log has the action {unknown[0]!r}, which the policy does not name: "
            f'add [actions."{unknown[0]}"] with its reward to a policy file and pass it with --policy'
        )
    taken = sorted({*PLAIN, FEEDLOOM} & policy.pools.keys())
    if taken:
        raise InputError(f"the policy has a pool {taken[0]!r}, which is the name of a whole policy here: rename it")
    if policy.external:
        raise InputError(f"a log brings no candidates for the external pool {min(policy.external)!r}: leave it out")


def _check_rows(rows: Sequence[Interaction], plan: ReplayPlan) -> None:
    if not any(row.positive for row in rows[scored_from(rows, plan) :]):
        raise InputError("the log has no positive event to score after the training part: lower --train-fraction")
    if not any(row.positive for row in rows[broken_from(rows, plan.broken) :]) and plan.broken:
        raise InputError("the log has no positive event after the break: let the pool --break earlier")


def _summary(plain: Replay, dataset: str, seconds: float) -> Summary:
    board, policy, requests = plain.board, plain.run.policy, requests_before(plain.run.rows)
    return Summary(
        dataset=dataset,
        scored=requests - _first_scored(plain),
        policies=board.figures(policy.blend.seed),
        feedloom_minus=board.minus(FEEDLOOM),
        pool_share=board.pool_share(LAST_PART),
        views_to_personal=_views_to_personal(plain.runner.facts),
        seconds=seconds,
        feeds_per_s=requests / plain.feedloom_seconds,
        us_per_slate=1e6 * plain.slate_seconds / requests,
        digest=plain.digest,
    )


def _first_scored(replay: Replay) -> int:
    """The number of the first request that is scored."""
    return requests_before(replay.run.rows, scored_from(replay.run.rows, replay.plan))


def _whole(replay: Replay) -> Reached:
    """What feedloom reached over all that is scored."""
    return replay.board.reached(FEEDLOOM, _first_scored(replay))


def _broken(replay: Replay) -> Broken:
    """What feedloom reached without a pool, right after it broke and at the end."""
    rows, broken = replay.run.rows, replay.run.broken
    assert broken is not None
    requests, break_at = requests_before(rows), requests_before(rows, broken_from(rows, broken))
    last = replay.board.reached(FEEDLOOM, int(requests * (1 - LAST_PART)))
    after = replay.board.reached(FEEDLOOM, break_at, break_at + max(int(requests * AFTER_BREAK), 1))
    share = replay.board.pool_share(LAST_PART)[broken.pool]
    return Broken(broken.pool, last.hit_at_10, last.ndcg_at_10, after.hit_at_10, share)


def _example(replay: Replay) -> tuple[str, list[ExampleSlot]]:
    """The last feed, and whose it is."""
    last = replay.last
    assert last is not None
    names = [part.pool for part in last.pools]
    slots = zip(last.slot_items, last.slot_pools, strict=True)
    return last.request.user, [ExampleSlot(item, names[pool]) for item, pool in slots]


def _views_to_personal(facts: Facts) -> dict[str, dict[str, float]]:
    """The strength of the prior of somebody who is known by now but has shown nothing."""
    prior, _ = prior_for(UserState(), facts, "")
    strength = (prior.alpha + prior.beta).tolist()
    return {
        pool: {action: of for (action, worth), of in zip(facts.policy.rewards.items(), row, strict=True) if worth}
        for pool, row in zip(facts.policy.pools, strength, strict=True)
    }
