"""Users live with a policy: requests, feeds, views, and actions when they arrive.

The blend runs as in production: the same runner, `serve` and `fold`, told what a product would tell it. The
baselines meet the same users with the same random numbers.
"""

from hashlib import blake2b
from heapq import heappop, heappush

import numpy as np
from msgspec.structs import replace

from blending.types import FloatArray, IntArray
from engine.errors import InputError
from engine.events import Acted, Reaction, Request, Seen
from engine.policy import Policy
from engine.pool_policy import PoolPolicy
from simulator.policies import ClosedLoopPolicy
from simulator.users import User
from simulator.worlds import World
from streams.codec import encode
from streams.embedded import EmbeddedRunner, Log

ITEMS = 100  # of each pool; a feed's candidates are the next ones of a circle
ACTION = "like"


class Life:
    """What one policy's feeds were worth: the referee's book of one run.

    `rewards` and `best` (users, feeds) are expected numbers of actions; `slots` (feeds, pools) counts slots.
    """

    def __init__(self, world: World, users: int, feeds: int) -> None:
        """Of so many users and feeds of each."""
        self.rewards: FloatArray = np.zeros((users, feeds))
        self.best: FloatArray = np.array([world.best(feed) for feed in range(feeds)])
        self.slots: IntArray = np.zeros((feeds, len(world.pools)), np.int64)
        self._world = world

    def fed(self, user: int, feed: int, slot_pools: list[int]) -> None:
        """A user was given this feed."""
        self.rewards[user, feed] = self._world.expected_reward(slot_pools, feed)
        self.slots[feed] += np.bincount(slot_pools, minlength=self.slots.shape[1])

    @property
    def regret(self) -> FloatArray:
        """Expected actions lost against the best feeds, per feed and summed over users; shape (feeds,)."""
        lost: FloatArray = (self.best - self.rewards).sum(axis=0)
        return lost


def live_with(policy: ClosedLoopPolicy, life: Life, user: User, number: int, world: World) -> None:
    """One user's feeds with a baseline."""
    arriving: list[tuple[float, int]] = []  # (feed, pool) of actions on their way
    for feed in range(life.rewards.shape[1]):
        while arriving and arriving[0][0] <= feed:
            policy.acted(heappop(arriving)[1])
        slot_pools = policy.choose(feed, world.slots)
        life.fed(number, feed, slot_pools)
        reactions = user.react(feed, slot_pools)
        for slot in reactions.seen:
            policy.seen(slot_pools[slot])
        for slot, delay in reactions.actions:
            heappush(arriving, (feed + delay, slot_pools[slot]))


def policy_for(world: World, policy: Policy) -> Policy:
    """The policy with this world's pools, which bring their candidates themselves.

    Feeds of a world are minutes apart or more, so a version by the clock (`every_ms`) is due before each of them.
    Raises InputError for a policy that says something of other pools than these.
    """
    pools = {name: PoolPolicy("external") for name in world.pools}
    try:
        return replace(policy, pools=pools, population=replace(policy.population, every_records=1))
    except ValueError as error:
        raise InputError(f"the policy does not go with the world's pools {', '.join(pools)}: {error}") from error


class FeedloomLife:
    """The users of one run with the production runner."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        seed: int,
        users: int,
        feeds: int,
        *,
        batch: int = 256,
        log: Log | None = None,
    ) -> None:
        """`policy` is a policy of this world's pools; its own seed is used for all draws."""
        self.runner = EmbeddedRunner(policy, log, batch)
        self.life = Life(world, users, feeds)
        self._world = world
        self._users = [User(world, seed, number) for number in range(users)]
        self._feed_ms = policy.memory.window_ms / world.window  # so that both mean the same window
        self._arriving: list[tuple[int, int, Reaction]] = []  # (time, number, reaction)
        self._sent = 0
        self._digest = blake2b(digest_size=16)

    def run(self) -> str:
        """Live all feeds, user by user in turn; returns the digest of all decisions."""
        for feed in range(self.life.rewards.shape[1]):
            for number in range(len(self._users)):
                self.feed(number, feed)
        self.runner.commit()
        return self._digest.hexdigest()

    def feed(self, number: int, feed: int) -> None:
        """One request of one user, and the reactions to its feed; feeds come in order."""
        at_ms = round((feed + number / len(self._users)) * self._feed_ms)
        self._deliver(at_ms)
        request = Request(
            request_id=str(feed),
            user=f"user-{number}",
            slots=self._world.slots,
            candidates={pool: self._candidates(pool, feed) for pool in self._world.pools},
            ts_ms=at_ms,
        )
        decision = self.runner.serve(request, self.runner.gather(request, at_ms), at_ms)
        self._digest.update(encode(decision) + b"\n")
        self.life.fed(number, feed, decision.slot_pools)
        self._react(number, feed, at_ms, request, decision.slot_items, decision.slot_pools)

    def _candidates(self, pool: str, feed: int) -> list[str]:
        slots = self._world.slots
        return [f"{pool}{(feed * slots + place) % ITEMS}" for place in range(slots)]

    def _react(
        self, number: int, feed: int, at_ms: int, request: Request, items: list[str], slot_pools: list[int]
    ) -> None:
        reactions = self._users[number].react(feed, slot_pools)
        for slot in reactions.seen:
            seen = Seen(
                event_id=f"{feed}-{slot}",
                user=request.user,
                request_id=request.request_id,
                slot=slot,
                item=items[slot],
            )
            self.runner.react(seen, at_ms)
        for slot, delay in reactions.actions:
            acted = Acted(
                event_id=f"{feed}-{slot}+",
                user=request.user,
                request_id=request.request_id,
                slot=slot,
                item=items[slot],
                action=ACTION,
            )
            self._sent += 1
            heappush(self._arriving, (at_ms + round(delay * self._feed_ms), self._sent, acted))

    def _deliver(self, now_ms: int) -> None:
        while self._arriving and self._arriving[0][0] <= now_ms:
            at_ms, _, reaction = heappop(self._arriving)
            self.runner.react(reaction, at_ms)
