"""Users with tastes live with the production engine, and what their feeds were worth before and after a switch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from blending.types import FloatArray
from engine.events import Acted, ItemUpdate, Request, Seen
from engine.policy import EmbeddingsPolicy, MemoryPolicy, Policy, PoolPolicy, PopulationPolicy, WeightsPolicy
from simulator.tastes import Tastes, TasteUser, listed
from streams.embedded import EmbeddedRunner

HOUR_MS = 3_600_000  # between two feeds of a user
ACTION = "like"
SMOOTHED = 5  # feeds over which rewards are averaged before they are called recovered
RECOVERED = 0.9  # of the reward before the switch
LEVEL_FEEDS = 20  # before the switch, whose mean reward is the level to come back to


def policy_for_tastes(*, own: bool = True, seed: int = 0) -> Policy:
    """The policy of this world; with `own` false all users share the population's weights."""
    base = Policy()
    return Policy(
        pools={
            "personal": PoolPolicy("personal"),
            "popular": PoolPolicy("popular"),
            "listed": PoolPolicy("external", required=1),
        },
        blend=replace(base.blend, seed=seed),
        population=PopulationPolicy(every_records=64),
        memory=MemoryPolicy(window_ms=6 * HOUR_MS, weights_half_life_ms=15 * HOUR_MS, history_max=40),
        weights=WeightsPolicy(own=own, attributes=16, strength=10.0),
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
        self._place = {f"item-{number}": number for number in range(world.items)}
        for item, number in self._place.items():
            self.runner.put(ItemUpdate(item=item, attributes=world.attributes(self.values[number])), 0)

    def run(self, feeds: int | None = None) -> None:
        """Live so many feeds (all), user by user in turn."""
        for feed in range(feeds or self._world.feeds):
            for number in range(len(self.users)):
                self.feed(number, feed)
        self.runner.commit()

    def at_ms(self, number: int, feed: int) -> int:
        """When a user asks for a feed."""
        return round((feed + number / len(self.users)) * HOUR_MS)

    def feed(self, number: int, feed: int) -> None:
        """One request of one user, and the reactions to its feed."""
        world, user, at_ms = self._world, self.users[number], self.at_ms(number, feed)
        attractions = user.attractions(feed, self.values, self.qualities)
        items = list(self._place)
        offered = listed(self._seed, number, feed, len(items), 2 * world.slots)
        request = Request(
            request_id=str(feed),
            user=f"user-{number}",
            slots=world.slots,
            candidates={"listed": [items[place] for place in offered]},
            ts_ms=at_ms,
        )
        decision = self.runner.serve(request, self.runner.gather(request, at_ms), at_ms)
        shown = attractions[[self._place[item] for item in decision.slot_items]]
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


class Switch(NamedTuple):
    """What a run was worth: mean reward of a feed, and all rewards by feeds since the switch, (users, 2 * around)."""

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
    """Feeds after the switch until the smoothed mean reward is back at RECOVERED of its level; else all there are."""
    mean = around.mean(axis=0)
    middle = mean.size // 2
    level = mean[middle - LEVEL_FEEDS : middle].mean()
    smooth = np.convolve(mean[middle:], np.full(SMOOTHED, 1.0 / SMOOTHED), "valid")
    back = np.flatnonzero(smooth >= RECOVERED * level)
    return int(back[0]) + SMOOTHED if back.size else middle
