"""Serves 100,100 feeds under all rules at once and writes docs/proof/rules.json; takes minutes.

Users with tastes see, like, skip and hide items of a catalogue that changes under way. All kinds of rules are on,
and pools have floors, caps, required and pinned slots, in every order and draw mode. Every feed goes through
`EmbeddedRunner`, and a judge in plain Python counts what it does not keep.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from msgspec.structs import replace

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from proof_setting import commit, machine  # noqa: E402
from rules_judge import Judge, texts  # noqa: E402

from engine.decision import Decision, difference  # noqa: E402
from engine.events import Acted, ItemUpdate, Request, Seen  # noqa: E402
from engine.facts import Facts  # noqa: E402
from engine.policy import (  # noqa: E402
    ActionPolicy,
    BlendPolicy,
    EmbeddingsPolicy,
    MemoryPolicy,
    Policy,
    PopulationPolicy,
)
from engine.pool_policy import PoolPolicy  # noqa: E402
from engine.pools import Gathered, gather  # noqa: E402
from engine.rules import BlockRule, CapRule, DiverseRule, FreshRule, SeenRule  # noqa: E402
from streams.codec import decode, encode  # noqa: E402
from streams.embedded import EmbeddedRunner  # noqa: E402

DRAWS = ("feed", "slot", "mean", "fixed")
ORDERS = ("greedy", "spread", "rounded")
MODES = [(draw, order) for draw in DRAWS for order in ORDERS if (draw, order) != ("slot", "rounded")]
LIVES, FEEDS = 10, 910  # of each mode, and of a life
REBUILT = 1000  # records that are made again
DIVERSE_EVERY = 20  # feeds of which one's lists are put into order again
ITEMS, CREATORS, USERS = 400, 50, 30
TOPICS = ("art", "food", "games", "music", "news", "sport", "travel", "war")
HOUR_MS = 3_600_000
START_MS = 100 * 24 * HOUR_MS
STEP_MS = HOUR_MS // 4  # between feeds
POLICY = Policy(
    pools={
        "popular": PoolPolicy("popular", floor=0.25, floor_views=50.0),
        "similar": PoolPolicy("similar", floor=0.1),
        "fresh": PoolPolicy("fresh", required=1, priority=2),
        "anything": PoolPolicy("random", cap=0.3),
        "promoted": PoolPolicy("external", pinned=(2,), cap=0.2, priority=1),
    },
    actions={
        "like": ActionPolicy(1.0),
        "skip": ActionPolicy(0.0, hides="item"),
        "hide": ActionPolicy(-1.0, hides="creator"),
    },
    population=PopulationPolicy(every_records=64),
    memory=MemoryPolicy(views_max=2000, hidden_max=2000, history_max=4000),
    embeddings=EmbeddingsPolicy(every_reactions=0),
    rules={
        "spam": BlockRule("spam", ("true",)),
        "banned": BlockRule("creator", ("creator-3", "creator-4")),
        "per_creator": CapRule("creator", 2, strict=True),
        "per_topic": CapRule("topics", 1, priority=1),
        "news": FreshRule(2, 24 * HOUR_MS),
        "tired": SeenRule(2, 48 * HOUR_MS),
        "variety": DiverseRule("topics", 0.3),
    },
)


class Life(NamedTuple):
    """What is counted of one life."""

    judge: Judge
    rebuilt: int
    differing: list[str]
    ordered: int  # lists that were put into order again
    disordered: int


def policy_for(draw: str, order: str, seed: int) -> Policy:
    """The policy of a mode; a tenth of the feeds are mixed at random."""
    blend = BlendPolicy(draw=draw, order=order, seed=seed, epsilon=0.1, epsilon_known=0.1)  # type: ignore[arg-type]
    return replace(POLICY, blend=blend)


def update_of(random: Random, number: int, at_ms: int) -> ItemUpdate:
    """What is said of an item at this time: some are spam, some are barred, some wait, of some little is known."""
    return ItemUpdate(
        item=f"item-{number}",
        attributes={
            "spam": random.random() < 0.08,
            "topics": random.sample(TOPICS, random.randrange(3)),
            "words": random.randrange(9),
        },
        creator=None if random.random() < 0.05 else f"creator-{int(CREATORS * random.random() ** 2)}",
        published_ms=None if random.random() < 0.05 else at_ms - int(random.random() ** 2 * 200 * HOUR_MS),
        available_ms=at_ms + random.randrange(60 * HOUR_MS) if random.random() < 0.05 else None,
        blocked=random.random() < 0.03,
    )


def live(draw: str, order: str, seed: int, feeds: int, rebuilt: int) -> Life:
    """So many feeds under one mode, of which the last `rebuilt` are made again from their records."""
    random, policy = Random(seed), policy_for(draw, order, seed)
    runner, judge = EmbeddedRunner(policy), Judge(policy)
    items, at_ms, differing, ordered, disordered = ITEMS, START_MS, [], 0, 0
    last: dict[str, Decision] = {}

    def put(number: int) -> None:
        update = update_of(random, number, at_ms)
        runner.put(update, at_ms)
        judge.put(update)

    for number in range(ITEMS):
        put(number)
    plain = replace(policy, rules={n: r for n, r in policy.rules.items() if not isinstance(r, DiverseRule)})
    for feed in range(feeds):
        at_ms += STEP_MS
        user = f"user-{random.randrange(USERS)}"
        if random.random() < 0.5:
            put(items)
            items += 1
        if random.random() < 0.3:
            put(random.randrange(items))  # something else is said of it
        before = last.get(user)
        goes_on = before is not None and before.start + 20 <= 60 and random.random() < 0.25
        request = Request(
            request_id=f"request-{feed}",
            user=user,
            slots=random.choice((5, 8, 10, 12)),
            candidates={"promoted": [f"item-{random.randrange(items)}" for _ in range(30)]},
            continues=before.request.request_id if before and goes_on else None,
        )
        gathered = runner.gather(request, at_ms)
        if feed % DIVERSE_EVERY == 0:
            state, facts = runner.state(user), runner.facts
            others = Facts(plain, facts.population, facts.catalogue, facts.embeddings, facts.items)
            wrong = out_of_order(gather(state, request, others, at_ms), gathered, policy)
            ordered += len(policy.pools)
            disordered += wrong
        made = runner.serve(request, gathered, at_ms)
        judge.judge(made)
        last[user] = made
        if feed >= feeds - rebuilt:
            again = decode(encode(made))
            assert isinstance(again, Decision)
            differing += [found for found in [difference(again)] if found]
        for reaction in reactions(random, made, judge, at_ms):
            runner.react(reaction, at_ms)
    return Life(judge, rebuilt, differing, ordered, disordered)


def reactions(random: Random, made: Decision, judge: Judge, at_ms: int) -> Iterator[Seen | Acted]:
    """What a user does with a page from its top, and tells the judge; tastes are of topics."""
    user, request_id = made.request.user, made.request.request_id
    for slot, (item, pool) in enumerate(zip(made.slot_items, made.slot_pools, strict=True)):
        if random.random() < 0.1:
            return
        yield Seen(event_id=f"{request_id}-{slot}", user=user, request_id=request_id, slot=slot, item=item)
        judge.see(user, item, made.pools[pool].pool, at_ms)
        taste = hash_of(user, item) % 8
        chances = {"like": 0.02 + 0.03 * (taste == 0), "skip": 0.02, "hide": 0.004}
        for action, chance in chances.items():
            if random.random() < chance:
                yield Acted(
                    event_id=f"{request_id}-{slot}-{action}",
                    user=user,
                    request_id=request_id,
                    slot=slot,
                    item=item,
                    action=action,
                )
                judge.act(user, item, action)


def hash_of(user: str, item: str) -> int:
    """A number of both names, the same in every process."""
    return sum(map(ord, user)) * 31 + sum(map(ord, item))


def out_of_order(plain: Gathered, made: Gathered, policy: Policy) -> int:
    """How many pools' lists are not their plain ranking in the order of maximal marginal relevance."""
    rule = next(rule for rule in policy.rules.values() if isinstance(rule, DiverseRule))
    catalogue = made.facts.catalogue
    wrong = 0
    for before, after in zip(plain.rankings, made.rankings, strict=True):
        rows = []
        for name in plain.names(before.items):
            update = catalogue.get(name)
            rows.append(texts(update, rule.attribute) if update else set())
        expected = [plain.names(before.items)[place] for place in plain_order(rows, rule.weight)]
        wrong += made.names(after.items) != expected
    return wrong


def plain_order(rows: Sequence[set[str]], weight: float) -> list[int]:
    """Maximal marginal relevance in plain Python."""
    left, order = list(range(len(rows))), list[int]()
    nearest = [0.0] * len(rows)
    while left:
        worth = {at: (1.0 - weight) * (1.0 - at / len(rows)) - weight * nearest[at] for at in left}
        best = max(left, key=lambda at: (worth[at], -at))
        left.remove(best)
        order.append(best)
        for at in left:
            both = len(rows[at] & rows[best])
            if both:
                nearest[at] = max(nearest[at], both / (len(rows[at]) * len(rows[best])) ** 0.5)
    return order


def proof(lives: int, feeds: int, rebuilt: int, processes: int) -> dict[str, Any]:
    """So many lives of each mode; `rebuilt` records of all of them are made again."""
    jobs = [(*mode, seed) for seed in range(lives) for mode in MODES]
    each = [rebuilt * (number + 1) // len(jobs) - rebuilt * number // len(jobs) for number in range(len(jobs))]
    columns = zip(*((*job, feeds, count) for job, count in zip(jobs, each, strict=True)), strict=True)
    started = time.perf_counter()
    if processes == 1:
        found = list(map(live, *columns))
    else:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            found = list(pool.map(live, *columns))
    judges = [one.judge for one in found]

    def total(name: str) -> dict[str, int]:
        return dict(sorted(sum((getattr(judge, name) for judge in judges), Counter[str]()).items()))

    return {
        "modes": [f"{draw} {order}" for draw, order in MODES],
        "feeds": sum(judge.feeds for judge in judges),
        "slots": sum(judge.slots for judge in judges),
        "empty": sum(judge.empty for judge in judges),
        "unnamed": total("unnamed"),
        "named": total("named"),
        "named_but_kept": total("overnamed"),
        "rebuilt": sum(one.rebuilt for one in found),
        "differing": [text for one in found for text in one.differing],
        "lists_put_in_order_again": sum(one.ordered for one in found),
        "lists_in_another_order": sum(one.disordered for one in found),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=LIVES, help="of each mode")
    parser.add_argument("--feeds", type=int, default=FEEDS, help="of a life")
    parser.add_argument("--processes", type=int, default=cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "proof" / "rules.json")
    given = parser.parse_args()
    found = proof(given.lives, given.feeds, REBUILT, given.processes)
    given.out.write_text(json.dumps({"commit": commit(), "machine": machine(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
