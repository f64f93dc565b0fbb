"""Golden files of every kind of record, and how the golden decision was made."""

from pathlib import Path

from engine.decision import Decision
from engine.events import Acted, Erase, Organic, Quarantine, Request, Seen
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy, PopulationPolicy
from engine.pool_policy import PoolPolicy
from engine.propensity_record import PropensityRecord, propensity_record
from streams.codec import Value, decode, encode
from streams.embedded import EmbeddedRunner

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
KINDS: dict[str, type[Value]] = {
    "request": Request,
    "seen": Seen,
    "acted": Acted,
    "organic": Organic,
    "erase": Erase,
    "quarantine": Quarantine,
    "decision": Decision,
    "propensities": PropensityRecord,
}


def golden(kind: str) -> bytes:
    """The golden bytes of a kind, without the end of the line."""
    return (GOLDEN / f"{kind}.json").read_bytes().removesuffix(b"\n")


def golden_decision() -> Decision:
    """The golden decision, read."""
    return read_decision(golden("decision"))


def read_decision(data: bytes) -> Decision:
    """What `decode` makes of these bytes, which must be a decision."""
    value = decode(data)
    assert isinstance(value, Decision)
    return value


def made_for_gold() -> Decision:
    """What the golden decision was made from: some films liked and hidden, and a feed that was seen.

    Nothing here is left to a default that may be tuned. When a change is meant, run this file as a program: it
    writes the golden decision and its propensities anew.
    """
    pools = {
        "popular": PoolPolicy("popular", floor=0.25, floor_views=40.0, cap=0.5),
        "similar": PoolPolicy("similar", ratio=2.0),
        "fresh": PoolPolicy("fresh", floor=0.125, pinned=(2,)),
    }
    actions = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-0.5), "rated": ActionPolicy(0.0)}
    lists = PopulationPolicy(neighbours_max=6, recent_likes=4)
    settings = BlendPolicy(
        base_successes=2.0,
        base_failures=24.0,
        cohort_by="country",
        cohorts=("fr", "de"),
        temperature=0.5,
        epsilon=0.02,
        returns="winner",
    )
    memory = MemoryPolicy(half_life_ms=864_000_000, half_life_slots=400)
    runner = EmbeddedRunner(Policy(pools, actions, settings, lists, memory))
    for number in range(60):
        user, item = ("zoë", "ada", "bob", "eve")[number % 4], f"film-{number * number % 41}"
        action = "hide" if number % 9 == 5 else "like"
        event = Organic(event_id=f"o{number}", user=user, item=item, action=action)
        if user != "zoë" or number < 8:
            runner.react(event, 1_700_000_000_000 + number)
    first = Request(request_id="monday", user="zoë", slots=4)
    shown = runner.serve(first, runner.gather(first, 1_700_000_100_000), 1_700_000_100_000).slot_items
    for slot, item in enumerate(shown):
        what = {"user": "zoë", "request_id": "monday", "slot": slot, "item": item}
        runner.react(Seen(event_id=f"s{slot}", **what), 1_700_000_100_010 + slot)
        if slot != 1:
            action = "hide" if slot == 2 else "like"
            runner.react(Acted(event_id=f"a{slot}", action=action, **what), 1_700_000_100_020 + slot)
    context = {"country": "fr"}
    request = Request(request_id="july", user="zoë", slots=8, ts_ms=1_700_000_200_000, context=context)
    return runner.serve(request, runner.gather(request, 1_700_000_200_003), 1_700_000_200_003)


if __name__ == "__main__":
    made = made_for_gold()
    for kind, value in (("decision", made), ("propensities", propensity_record(made))):
        (GOLDEN / f"{kind}.json").write_bytes(encode(value) + b"\n")
