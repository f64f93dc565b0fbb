"""Pages of external pools: policies of every kind, what is offered, and a user who asks and reacts."""

from collections.abc import Mapping
from typing import NamedTuple

from hypothesis import strategies as st

from engine.decision import Decision
from engine.events import Acted, Request, Seen
from engine.facts import Facts
from engine.fold import fold
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy
from engine.pool_policy import PoolPolicy
from engine.pools import gather
from engine.population import Sums, fit
from engine.serve import serve
from engine.state import UserState

NAMES = ("a", "b", "c", "d")
LIKE = {"like": ActionPolicy(1.0)}


class Served(NamedTuple):
    """A decision, the user's state with it, and the names of what each pool offered."""

    decision: Decision
    state: UserState
    offered: list[list[str]]


def facts_of(policy: Policy) -> Facts:
    """A policy, and a population of nobody."""
    return Facts(policy, fit(Sums(), policy))


def external(**pools: PoolPolicy | Mapping[str, object]) -> dict[str, PoolPolicy]:
    """External pools with these settings."""
    return {name: PoolPolicy("external", **settings) for name, settings in pools.items()}


def lists(most: int, *names: str) -> dict[str, list[str]]:
    """As many items of each pool, none of them another's."""
    return {name: [f"{name}{number}" for number in range(most)] for name in names or NAMES}


def asked(
    facts: Facts,
    request_id: str,
    slots: int,
    candidates: dict[str, list[str]],
    state: UserState | None = None,
    at_ms: int = 0,
    **about: object,
) -> Served:
    """Serve a request and fold the decision."""
    state = state or UserState()
    values = {"user": "u", **about}
    request = Request(request_id=request_id, slots=slots, candidates=candidates, **values)
    gathered = gather(state, request, facts, at_ms)
    population = facts.population
    names = [*population.items[: population.size], *gathered.strangers]
    decision = serve(state, request, gathered, at_ms)
    folded = fold(state, decision, at_ms, facts.policy.memory)
    offered = [[names[item] for item in ranking.items.tolist()] for ranking in gathered.rankings]
    return Served(decision, folded.state, offered)


def reacted(served: Served, facts: Facts, actions: Mapping[int, str | None], at_ms: int = 1) -> UserState:
    """The user sees these slots of a page and does what is named with their items."""
    state, about = served.state, served.decision.request
    for slot, action in actions.items():
        if slot < len(served.decision.slot_items):
            place = {"user": about.user, "request_id": about.request_id, "slot": slot}
            place["item"] = served.decision.slot_items[slot]
            name = f"{about.request_id}-{slot}"
            state = fold(state, Seen(event_id=name, **place), at_ms, facts.policy.memory).state
            if action:
                acted = Acted(event_id=name + action, action=action, **place)
                state = fold(state, acted, at_ms, facts.policy.memory).state
    return state


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Two to four external pools with guarantees that may contradict each other, and every way to blend."""
    names = NAMES[: draw(st.integers(2, 4))]
    left, free, pools = 1.0, list(range(12)), {}
    for name in names:
        floor = draw(st.sampled_from([0.0, 0.0, 0.1, 0.3, 0.6])) if left >= 0.6 else 0.0
        left -= floor
        pins = draw(st.sets(st.sampled_from(free), max_size=2)) if draw(st.booleans()) else set()
        free = [slot for slot in free if slot not in pins]
        pools[name] = PoolPolicy(
            "external",
            ratio=draw(st.sampled_from([1.0, 3.0])),
            floor=floor,
            floor_views=draw(st.sampled_from([0.0, 2.0])),
            required=draw(st.sampled_from([0, 0, 0, 1, 3])),
            cap=draw(st.sampled_from([1.0, 1.0, 0.7, 0.2])) if floor < 0.2 else 1.0,
            pinned=tuple(sorted(pins)),
            priority=draw(st.integers(0, 2)),
        )
    each, order = (
        draw(st.sampled_from(["feed", "slot", "mean", "fixed"])),
        draw(st.sampled_from(["greedy", "spread"])),
    )
    blend = BlendPolicy(
        draw=each,
        order=order if each == "slot" else draw(st.sampled_from([order, "rounded"])),
        returns=draw(st.sampled_from(["fitted", "winner", "webster"])),
        epsilon=draw(st.sampled_from([0.0, 0.0, 0.9])),
        session_strength=draw(st.sampled_from([0.0, 20.0])),
    )
    actions = {"like": ActionPolicy(1.0), "hide": ActionPolicy(draw(st.sampled_from([-0.1, -1.0, -50.0])))}
    return Policy(pools, actions, blend, memory=MemoryPolicy(half_life_slots=10))


offers = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.sampled_from([f"i{number}" for number in range(15)]), max_size=12)
)
