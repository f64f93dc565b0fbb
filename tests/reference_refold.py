"""The oracle of the worker: a single-threaded fold of `feeds` and `feedback`, slow, short, and written from the
formulas. It shares nothing with the engine but the types of its events.
"""

from collections import defaultdict
from math import exp

from engine.decision import Decision
from engine.events import Acted, Organic, Seen


class Reference:
    """What is known of every user once all decisions and reactions [(log time, value)] of the topics are folded."""

    def __init__(self, feeds, feedback, *, window_ms, half_life_ms, half_life_slots, history_max) -> None:
        self.half_life_ms, self.half_life_slots = half_life_ms, half_life_slots
        self.decisions: dict[tuple[str, str], Decision] = {}  # the first record of a request id wins
        for _, decision in feeds:
            self.decisions.setdefault((decision.request.user, decision.request.request_id), decision)
        self.served = defaultdict(dict)
        for (user, _), decision in self.decisions.items():
            self.served[user] |= {part.pool: part.served + part.realised for part in decision.pools}
        self.seen, self.acted, history = set(), set(), defaultdict(dict)
        for at_ms, reaction in feedback:
            if isinstance(reaction, Seen | Acted):
                decision = self.decisions.get((reaction.user, reaction.request_id))
                if decision and at_ms <= decision.at_ms + window_ms and self.holds(decision, reaction):
                    place = (reaction.user, reaction.request_id, reaction.slot)
                    self.seen |= {place} if isinstance(reaction, Seen) else set()
                    self.acted |= {(*place, reaction.action)} if isinstance(reaction, Acted) else set()
            if isinstance(reaction, Acted | Organic):
                entry = (at_ms, reaction.event_id, reaction.item, reaction.action)
                history[reaction.user].setdefault(reaction.event_id, entry)
        self.history = {user: sorted(entries.values())[-history_max:] for user, entries in history.items()}
        self.window_ms = window_ms

    @staticmethod
    def holds(decision, reaction) -> bool:
        return reaction.slot < len(decision.slot_items) and decision.slot_items[reaction.slot] == reaction.item

    def evidence(self, user: str, now_ms: int) -> dict[tuple[str, str], list[float]]:
        """S and E by (pool, action), when every window has passed."""
        sums = defaultdict(lambda: [0.0, 0.0])
        for _, pool, action, age, amounts in self.terms(user, now_ms):
            for place in (0, 1):
                sums[pool, action][place] += 2.0**-age * amounts[place]
        return sums

    def taught(self, user: str) -> dict[tuple[str, str, str], list[float]]:
        """S and E by (cohort, pool, action) of what the population is taught, E at the user's level."""
        sums = defaultdict(lambda: [0.0, 0.0])
        for decision, pool, action, _, amounts in self.terms(user, 0):
            level = decision.levels[decision.actions.index(action)]
            for place, amount in enumerate((amounts[0], level * amounts[1])):
                sums[decision.cohort, pool, action][place] += decision.newcomer * amount
        return {cell: amounts for cell, amounts in sums.items() if amounts[1]}

    def terms(self, user: str, now_ms: int):
        """For each view: its decision, pool, an action, its age in half-lives, and its S and E."""
        for (owner, request_id), decision in self.decisions.items():
            if owner != user:
                continue
            for slot, place in enumerate(decision.slot_pools):
                if (user, request_id, slot) not in self.seen:
                    continue
                part = decision.pools[place]
                rank = part.before + decision.slot_pools[:slot].count(place)
                since = self.served[user][part.pool] - part.served - part.realised
                age = (now_ms - decision.at_ms) / self.half_life_ms + since / self.half_life_slots
                for action, (instant, mean_ms) in zip(decision.actions, part.delays, strict=True):
                    arrived = instant + (1 - instant) * (1 - exp(-self.window_ms / mean_ms))
                    acted = (user, request_id, slot, action) in self.acted
                    weight = (1.0 if decision.delta is None else decision.delta) ** rank
                    yield decision, part.pool, action, age, (float(acted), weight * arrived)
