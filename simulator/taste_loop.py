"""Users with tastes live with the production engine, and what their feeds were worth before and after a switch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from blending.types import FloatArray
from engine.decision import Decision
from engine.events import Acted, ItemUpdate, Request, Seen
from engine.policy import EmbeddingsPolicy, MemoryPolicy, Policy, PopulationPolicy, WeightsPolicy
from engine.pool_policy import PoolPolicy
from engine.pools import Gathered
from simulator.tastes import IntArray, Tastes, TasteUser, listed
from streams.embedded import EmbeddedRunner

HOUR_MS = 3_600_000  # between two feeds of a user
ACTION = "like"
NEVER_FULL = 1_000_000  # slots
SMOOTHED = 5  # feeds over which rewards are averaged before they are called recovered
RECOVERED = 0.9  # of the reward before the switch
SETTLED = 20  # impressions of a new item, within which it stands as high as 80 % of where it stands later
LEVEL_FEEDS = 20  # before the switch, whose mean reward is the level to come back to


def policy_for_tastes(*, own: bool = True, seed: int = 0) -> Policy:
    """The policy of this world; with `own` false all users share the population's weights, without draws.

    Tastes are learned within some feeds and forgotten as soon: a view counts as much as a like, and of three feeds'
    worth of both the correlations of 60 weights are not to be had. Six of ten slots are the personal pool's in any
    case: how soon a blend finds out which pool is the best is not what this world is about.
    """
    base = Policy()
    return Policy(
        pools={
            "personal": PoolPolicy("personal", required=6),
            "popular": PoolPolicy("popular"),
            "listed": PoolPolicy("external", required=1),
        },
        blend=replace(base.blend, seed=seed),
        population=PopulationPolicy(every_records=64),
        memory=MemoryPolicy(window_ms=6 * HOUR_MS, weights_half_life_ms=4 * HOUR_MS, history_max=30),
        weights=WeightsPolicy(
            own=own,
            attributes=16,
            strength=12.0,
            seen_weight=1.0,
            temperature=0.08 if own else 0.0,
            full_after_slots=NEVER_FULL,
            depth=80,
        ),
        embeddings=EmbeddingsPolicy(every_reactions=500),
    )


class TasteLife:
    """The users of one run with the production runner.

    `rewards` (users, feeds) are the expected numbers of likes, `best` those of the best feeds.
    """

    def __init__(self, world: Tastes, policy: Policy, seed: int, users: int) -> None:
        """Tell the runner of all items."""
        self.runner = EmbeddedRunner(policy)
        self.users = [TasteUser(world, seed, number) for number in range(users)]
        self.rewards: FloatArray = np.zeros((users, world.feeds))
        self.best: FloatArray = np.zeros((users, world.feeds))
        self.values = world.values_of(seed)
        self.qualities = world.qualities_of(seed)
        self._world, self._seed = world, seed
        self._items = [f"item-{number}" for number in range(world.items)]
        for number, item in enumerate(self._items):
            self.runner.put(ItemUpdate(item=item, attributes=world.attributes(self.values[number])), 0)

    def publish(self, item: str, values: IntArray, at_ms: int) -> None:
        """A new item with these values, (traits,), listed like any other from now on."""
        self._items.append(item)
        self.values = np.concatenate([self.values, values[None, :]])
        self.qualities = np.append(self.qualities, 0.0)
        self.runner.put(ItemUpdate(item=item, attributes=self._world.attributes(values)), at_ms)

    def run(self, feeds: int | None = None) -> None:
        """Live so many feeds (all), user by user in turn."""
        for feed in range(feeds or self._world.feeds):
            for number in range(len(self.users)):
                self.feed(number, feed)
        self.runner.commit()

    def at_ms(self, number: int, feed: int) -> int:
        """When a user asks for a feed."""
        return round((feed + number / len(self.users)) * HOUR_MS)

    def feed(self, number: int, feed: int) -> tuple[Gathered, Decision]:
        """One request of one user, and the reactions to its feed; what it was made of, and the feed."""
        world, user, at_ms = self._world, self.users[number], self.at_ms(number, feed)
        attractions = user.attractions(feed, self.values, self.qualities)
        offered = listed(self._seed, number, feed, len(self._items), world.slots)
        request = Request(
            request_id=str(feed),
            user=f"user-{number}",
            slots=world.slots,
            candidates={"listed": [self._items[place] for place in offered]},
            ts_ms=at_ms,
        )
        gathered = self.runner.gather(request, at_ms)
        decision = self.runner.serve(request, gathered, at_ms)
        shown = attractions[[self._items.index(item) for item in decision.slot_items]]
        self.rewards[number, feed] = world.choice.acted_probability(shown).sum()
        self.best[number, feed] = world.choice.acted_probability(
            np.sort(attractions)[: -world.slots - 1 : -1]
        ).sum()
        outcome = user.react(feed, shown)
        for slot in np.flatnonzero(outcome.seen).tolist():
            item, name = decision.slot_items[slot], f"{feed}-{slot}"
            seen = Seen(event_id=name, user=request.user, request_id=str(feed), slot=slot, item=item)
            self.runner.react(seen, at_ms)
            if outcome.acted[slot]:
                self.runner.react(_liked(seen), at_ms)
        return gathered, decision


def _liked(seen: Seen) -> Acted:
    """The like of what was seen."""
    return Acted(
        event_id=f"{seen.event_id}+",
        user=seen.user,
        request_id=seen.request_id,
        slot=seen.slot,
        item=seen.item,
        action=ACTION,
    )


class Standing(NamedTuple):
    """Where a new item stood: `impressions` it had had, and the share of candidates that it was ranked above.

    An entry per request of somebody who likes its kind and may be offered it, until the first switch.
    """

    impressions: IntArray
    above: FloatArray


def newcomer(world: Tastes, seed: int, users: int, published: int) -> Standing:
    """Run one seed in which an item of the kind that most users like is published before a feed."""
    life = TasteLife(world, policy_for_tastes(seed=seed), seed, users)
    life.run(published)
    wanted = [user.likes(published, life.values).sum(axis=1) for user in life.users]
    values = life.values[np.sum(wanted, axis=0).argmax()]
    life.publish("new", values, life.at_ms(0, published))
    shown, entries = 0, []
    for feed in range(published, min(user.switch for user in life.users)):
        for number, user in enumerate(life.users):
            gathered, decision = life.feed(number, feed)
            place = _place_of("new", gathered)
            if place is not None and user.likes(feed, values[None, :]).all():
                entries.append((shown, place))
            shown += "new" in decision.slot_items
    table = np.array(entries)
    return Standing(table[:, 0].astype(np.int64), table[:, 1])


def _place_of(item: str, gathered: Gathered) -> float | None:
    """The share of the candidates that an item is ranked above; None where it is none of them."""
    population, weighing = gathered.facts.population, gathered.weighing
    assert weighing is not None
    number = population.number(item)
    if number is None and item in gathered.strangers:
        number = population.size + gathered.strangers.index(item)
    if number is None:
        return None
    found = np.flatnonzero(weighing.items == number)
    barred = number in gathered.visitor.excluded.tolist()
    return None if barred or not found.size else 1.0 - float(found[0]) / max(weighing.items.size - 1, 1)


class Switch(NamedTuple):
    """Mean reward of a feed and of the best, and rewards by feeds since the switch, (users, 2 * around)."""

    reward: float
    best: float
    around: FloatArray


def lived(world: Tastes, seed: int, users: int, *, own: bool) -> Switch:
    """Run one seed."""
    life = TasteLife(world, policy_for_tastes(own=own, seed=seed), seed, users)
    life.run()
    return Switch(float(life.rewards.mean()), float(life.best.mean()), aligned(life.rewards, life.users))


def aligned(rewards: FloatArray, users: Sequence[TasteUser]) -> FloatArray:
    """Rewards (users, feeds) by feeds since each user's switch, which is the middle column: (users, 2 * around)."""
    feeds = rewards.shape[1]
    around = min(min(user.switch, feeds - user.switch) for user in users)
    return np.stack(
        [row[user.switch - around : user.switch + around] for row, user in zip(rewards, users, strict=True)]
    )


def recovery(around: FloatArray) -> int:
    """Feeds from the switch until the smoothed mean reward is back at RECOVERED of its level; else all."""
    mean = around.mean(axis=0)
    middle = mean.size // 2
    level = mean[middle - LEVEL_FEEDS : middle].mean()
    smooth = np.convolve(mean[middle:], np.full(SMOOTHED, 1.0 / SMOOTHED), "valid")
    back = np.flatnonzero(smooth >= RECOVERED * level)
    return int(back[0]) if back.size else middle


def aligned_of(runs: Sequence[Switch]) -> FloatArray:
    """The rewards around the switch of all users of several runs, as far as all of them go."""
    around = min(run.around.shape[1] for run in runs) // 2
    middles = [run.around.shape[1] // 2 for run in runs]
    return np.concatenate(
        [run.around[:, middle - around : middle + around] for run, middle in zip(runs, middles, strict=True)]
    )
