"""A user as the pools see them: what was done lately, and what is not to be offered, in item numbers."""

from typing import NamedTuple

import numpy as np

from blending.randomness import key_of
from blending.types import IntArray
from engine.events import Request
from engine.facts import Facts
from engine.filters import NOTHING, Excluded, Filter, excluded_of, filter_of
from engine.personal import NO_PAST, Past
from engine.rules import REACTED
from engine.state import UserState


class Visitor(NamedTuple):
    """A user as the pools see them, in item numbers.

    `recent` int64: items liked lately, latest first, none twice; `excluded` int64, sorted: items not to be offered;
    `past`: reactions of any kind; `key`: of what is random in this request, whose `seed` and `names` these are.
    `reasons`: why items are excluded, where a policy has rules for it.
    """

    recent: IntArray
    excluded: IntArray
    past: Past = NO_PAST
    seed: int = 0
    names: tuple[str, ...] = ()
    reasons: Excluded | None = None

    @property
    def key(self) -> np.uint64:
        """The key of draws that are a pool's own."""
        return key_of(self.seed, "pools", *self.names)


NOBODY = Visitor(np.zeros(0, np.int64), np.zeros(0, np.int64))


def past_of(state: UserState, facts: Facts, at_ms: int) -> Past:
    """What a user did with items of this version, latest first; what was ever liked is a like of that moment."""
    find, size, likes = facts.population.number_of.get, facts.population.size, facts.policy.likes
    latest: dict[int, int] = {}  # item number -> when
    liked: dict[int, bool] = {}
    for entry in reversed(state.history):
        number = find(entry.item, size)
        if number < size:
            if number not in latest:
                latest[number] = entry.at_ms
                liked[number] = entry.action in likes
            elif entry.action in likes and not liked[number]:
                del latest[number], liked[number]
                latest[number], liked[number] = entry.at_ms, True
    count = len(latest)
    ages = at_ms - np.fromiter(latest.values(), np.int64, count)
    return Past(
        np.fromiter(latest, np.int64, count),
        np.maximum(ages, 0).astype(np.float64),
        np.fromiter(liked.values(), np.float64, count),
    )


def visitor_of(
    state: UserState, request: Request, facts: Facts, at_ms: int, left_out: Filter | None = None
) -> Visitor:
    """Translate a user's history into the item numbers of this population version.

    An item that the user has reacted to is not offered again, nor one that is `left_out`; one that this version
    does not know cannot be.
    """
    past = past_of(state, facts, at_ms)
    out = left_out or filter_of(state, facts, at_ms)
    if facts.policy.filters or out.shown or facts.catalogue.restricted:
        excluded = excluded_of({REACTED: past.items, **out.numbers(facts)})
    else:
        excluded = NOTHING._replace(numbers=np.sort(past.items))
    return Visitor(
        past.items[past.liked > 0][: facts.policy.population.recent_likes],
        excluded.numbers,
        past,
        facts.policy.blend.seed,
        (request.user, request.request_id),
        excluded if facts.policy.filters else None,
    )
