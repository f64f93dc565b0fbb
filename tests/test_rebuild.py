"""A decision can be made again from its record, a changed one is found, and a record is small."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from goldens import ROOT, golden, golden_decision, made_for_gold, read_decision
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from redraws import Case

from engine.decision import Decision, difference, rebuild
from engine.errors import InputError
from engine.events import Organic, Request, Seen
from engine.policy import ActionPolicy, BlendPolicy, Policy
from engine.pool_policy import PoolPolicy
from streams.codec import decode, encode
from streams.embedded import EmbeddedRunner


def test_the_golden_decision_shows_what_decisions_are_made_of() -> None:
    record = golden_decision()
    assert len(record.pools) == 3
    assert record.actions == ["like", "hide", "rated"]
    assert min(record.rewards) < 0.0
    assert [part.verdicts for part in record.pools] == ["pppp", "dddppp", "p"]
    assert [part.realised for part in record.pools] == [4, 3, 1]
    assert all(part.filtered > 0 for part in record.pools)
    assert [(part.floor, part.cap) for part in record.pools] == [(1, 4), (0, None), (0, None)]
    assert (record.cohort, record.pinned, record.slot_rules) == ("fr", [(2, 2)], "dfpddddd")
    assert record.slot_offers[5] == 0b111


def test_the_golden_decision_can_be_made_again_bit_for_bit() -> None:
    record = golden_decision()
    again = rebuild(record)
    assert again.rates == [part.rates for part in record.pools]
    assert again.slot_items == record.slot_items
    assert again.slot_pools == record.slot_pools
    assert difference(record) is None


def test_the_engine_still_makes_the_golden_decision_of_the_same_events() -> None:
    """The version of the policy may differ: it changes with every key that policies get."""
    made, record = made_for_gold(), golden_decision()
    assert replace(made, policy_version=record.policy_version) == record


@given(st.data())
def test_every_decision_that_is_served_can_be_made_again_from_its_bytes(data: st.DataObject) -> None:
    """Newcomers and known users, few items and many, pools that run empty."""
    actions = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-2.0), "rated": ActionPolicy(0.0)}
    settings = BlendPolicy(
        epsilon=data.draw(st.sampled_from([0.0, 0.5])),
        draw=data.draw(st.sampled_from(["feed", "slot"])),
        returns=data.draw(st.sampled_from(["fitted", "winner", "webster"])),
    )
    pools = {**Policy().pools, "mine": PoolPolicy("external")}
    runner = EmbeddedRunner(Policy(pools=pools, actions=actions, blend=settings))
    done = st.tuples(st.sampled_from("AB"), st.integers(0, 30), st.sampled_from(sorted(actions)))
    for number, (user, item, action) in enumerate(
        data.draw(st.lists(done, max_size=3) | st.lists(done, min_size=15))
    ):
        runner.react(Organic(event_id=f"{number}", user=user, item=f"i{item}", action=action), number)
        if number % 4 == 0:
            request = Request(request_id=f"r{number}", user=user, slots=3)
            made = runner.serve(request, runner.gather(request, number), number)
            assert difference(made) is None
            for slot, shown in enumerate(made.slot_items[:2]):
                seen = Seen(event_id="s", user=user, request_id=f"r{number}", slot=slot, item=shown)
                runner.react(seen, number)
    brought = data.draw(st.lists(st.sampled_from(["i1", "i2", "new", "newer"])))
    user, slots = data.draw(st.sampled_from("AC")), data.draw(st.integers(1, 9))
    request = Request(request_id="last", user=user, slots=slots, candidates={"mine": brought})
    made = runner.serve(request, runner.gather(request, 100), 100)
    read = read_decision(encode(made))
    assert read == made
    assert difference(read) is None
    assert sum(part.realised for part in made.pools) == len(made.slot_items)
    for number, part in enumerate(made.pools):
        assert part.realised == part.verdicts.count("p") == made.slot_pools.count(number)
        assert len(part.items) == len(part.verdicts) <= part.stock


# Decisions that were tampered with


def with_part(number: int, **change: Any) -> Callable[[Decision], Decision]:
    """Change the part of one pool; a function is given the old value."""

    def planted(record: Decision) -> Decision:
        part = record.pools[number]
        values = {name: new(getattr(part, name)) if callable(new) else new for name, new in change.items()}
        pools = [*record.pools[:number], replace(part, **values), *record.pools[number + 1 :]]
        return replace(record, pools=pools)

    return planted


SLOT_COLUMNS = ("slot_items", "slot_pools", "slot_rules", "slot_offers")
PLANTED: dict[str, Callable[[Decision], Decision]] = {
    "one draw, by its last bit": with_part(2, rates=lambda old: [[math.nextafter(old[0][0], 1.0), *old[0][1:]]]),
    "one draw more": with_part(0, rates=lambda old: [[*old[0], 0.5]]),
    "one parameter": with_part(1, alpha=lambda old: [old[0] + 1.0, *old[1:]]),
    "draws for one slot more": with_part(0, rates=lambda old: [*old, *old]),
    "the temperature": lambda record: replace(record, temperature=record.temperature * 2.0),
    "a feed that was mixed at random": lambda record: replace(record, epsilon=1.0, explored=True),
    "a feed said to be mixed at random": lambda record: replace(record, explored=True),
    "the seed": lambda record: replace(record, seed=record.seed + 1),
    "the user": lambda record: replace(record, request=replace(record.request, user="zoe")),
    "the rewards, so that the worst pool was the best": lambda record: replace(
        record, rewards=[-reward for reward in record.rewards]
    ),
    "one slot's item": lambda record: replace(record, slot_items=["film-0", *record.slot_items[1:]]),
    "two slots exchanged": lambda record: replace(
        record, slot_items=[*record.slot_items[:-2], *record.slot_items[:-3:-1]]
    ),
    "one slot's pool": lambda record: replace(record, slot_pools=[*record.slot_pools[:-1], 2]),
    "one slot less": lambda record: replace(
        record, **{column: getattr(record, column)[:-1] for column in SLOT_COLUMNS}
    ),
    "one slot more": lambda record: replace(
        record, **{column: getattr(record, column) * 2 for column in SLOT_COLUMNS}
    ),
    "the feed that it is a page of": lambda record: replace(record, feed="june"),
    "the mode": lambda record: replace(record, mode="expected"),
    "the order": lambda record: replace(record, order="spread"),
    "items of more pages than there are": with_part(0, before=4),
    "a pin": lambda record: replace(record, pinned=[(3, 2)]),
    "the pool of a pin": lambda record: replace(record, pinned=[(2, 1)]),
    "a floor": with_part(1, floor=4),
    "a cap": with_part(0, cap=5),
    "no cap": with_part(0, cap=None),
    "more guarantees than slots": with_part(1, floor=7),
    "a floor beyond the page": with_part(1, floor=10**12),
    "a cap beyond the page": with_part(1, cap=9),
    "the end of a prefix": with_part(0, items=lambda old: old[:-1], verdicts=lambda old: old[:-1]),
    "one item of a prefix": with_part(0, items=lambda old: [*old[:-1], "film-0"]),
    "a prefix read one further": with_part(1, items=lambda old: [*old, "film-0"], verdicts=lambda old: old + "d"),
    "one verdict": with_part(1, verdicts="ddpppp"),
    "one verdict less": with_part(1, verdicts="dddpp"),
    "letters that are no verdicts": with_part(1, verdicts="dddpp?"),
    "the slots that a pool got": with_part(0, realised=5),
    "the slots that a pool would have got": with_part(1, intended=7),
}


REFUSED = {  # by the record's own type, for what contradicts itself
    "one slot more",
    "one verdict less",
    "items of more pages than there are",
    "more guarantees than slots",
    "a floor beyond the page",
    "a cap beyond the page",
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_change_is_found_and_its_request_named(what: str) -> None:
    record = golden_decision()
    try:
        planted = PLANTED[what](record)
    except ValueError:
        assert what in REFUSED
        return
    assert what not in REFUSED
    assert planted != record
    found = difference(planted)
    assert found is not None
    assert "july" in found
    assert len(found.splitlines()) == 1


# Each takes the golden document apart; the words are what must be said of it. Where columns do not fit together
# nothing may be drawn from them: compiled loops read past the end of an array without a word.
COLUMNS, REBUILT = "refused: not an event or decision: ", "cannot be rebuilt: "
MALFORMED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no pools": (lambda d: d.update(pools=[]), COLUMNS),
    "no actions": (lambda d: d.update(actions=[], rewards=[]), COLUMNS),
    "a slot of no pool": (lambda d: d["slot_pools"].__setitem__(0, 99), COLUMNS),
    "a slot of pool -1": (lambda d: d["slot_pools"].__setitem__(0, -1), COLUMNS),
    "more slots than were asked for": (lambda d: d["request"].update(slots=7), COLUMNS),
    "a huge number of slots": (lambda d: d["request"].update(slots=10**12), ""),
    "more slots than 63 bits hold": (lambda d: d["request"].update(slots=2**63), ""),
    "more slots than 64 bits hold": (lambda d: d["request"].update(slots=2**70), ""),
    "a huge stock": (lambda d: d["pools"][0].update(stock=10**12), COLUMNS),
    "a prefix longer than the list": (lambda d: d["pools"][0].update(stock=2), COLUMNS),
    "an item less than verdicts": (lambda d: d["pools"][0]["items"].pop(), COLUMNS),
    "no items": (lambda d: [part["items"].clear() for part in d["pools"]], COLUMNS),
    "alpha of one action in one pool": (lambda d: d["pools"][1]["alpha"].pop(), COLUMNS),
    "alpha of one action in every pool": (lambda d: [part["alpha"].pop() for part in d["pools"]], COLUMNS),
    "beta of one action in every pool": (lambda d: [part["beta"].pop() for part in d["pools"]], COLUMNS),
    "beta of no action": (lambda d: [part["beta"].clear() for part in d["pools"]], COLUMNS),
    "delays of one action": (lambda d: [part["delays"].pop() for part in d["pools"]], COLUMNS),
    "posteriors of no action": (
        lambda d: [part[name].clear() for part in d["pools"] for name in ("alpha", "beta", "rates")],
        COLUMNS,
    ),
    "fewer rewards than posteriors": (lambda d: [d["rewards"].pop(), d["actions"].pop()], COLUMNS),
    "more rewards than posteriors": (lambda d: [d["rewards"].append(1.0), d["actions"].append("buy")], COLUMNS),
    "no draws": (lambda d: [part["rates"].clear() for part in d["pools"]], REBUILT),
    "more draws than slots": (lambda d: [part.update(rates=part["rates"] * 9) for part in d["pools"]], REBUILT),
    "draws of one action": (lambda d: [draw.pop() for part in d["pools"] for draw in part["rates"]], ""),
    "alpha 0": (lambda d: d["pools"][0]["alpha"].__setitem__(0, 0.0), REBUILT),
    "beta below 0": (lambda d: d["pools"][2]["beta"].__setitem__(1, -1.0), REBUILT),
    "temperature 0": (lambda d: d.update(temperature=0.0), REBUILT),
    "temperature below 0": (lambda d: d.update(temperature=-1.0), REBUILT),
    "a temperature so low that parameters overflow": (lambda d: d.update(temperature=5e-324), REBUILT),
}

TRY_ALL = """
import json, signal, sys
from engine.decision import difference
from engine.errors import InputError
from streams.codec import decode
for line in sys.stdin.buffer:
    signal.alarm(20)
    try:
        answer = difference(decode(line))
    except InputError as error:
        answer = f"refused: {error}"
    except Exception as error:
        answer = f"traceback: {error!r}"
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, str | None]:
    """What is said of each malformed decision; in another process with an alarm, because one might never end."""
    lines = []
    for take_apart, _ in MALFORMED.values():
        document = json.loads(golden("decision"))
        take_apart(document)
        lines.append(json.dumps(document))
    said: list[str | None] = []
    while len(said) < len(lines):
        done = subprocess.run(
            [sys.executable, "-c", TRY_ALL],
            cwd=ROOT,
            input="\n".join(lines[len(said) :]),
            timeout=300,
            capture_output=True,
            text=True,
            check=False,
        )
        said += [json.loads(line) for line in done.stdout.splitlines()]
        if len(said) < len(lines):
            said.append(f"traceback: the process ended with {done.returncode}")
    return dict(zip(MALFORMED, said, strict=True))


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_decision_is_refused_or_reported(what: str, answers: dict[str, str | None]) -> None:
    answer, (_, words) = answers[what], MALFORMED[what]
    assert answer is not None
    assert words in answer
    assert answer.startswith("refused: ") or "july" in answer


@given(st.integers(0, 10**4), st.sampled_from(list(b'0-9.e",:[]{}dpx \\\xff')))
def test_a_decision_with_one_wrong_byte_is_refused_or_read_and_checked(at: int, byte: int) -> None:
    data = bytearray(golden("decision"))
    data[at % len(data)] = byte
    try:
        record = decode(bytes(data))
    except InputError:
        return
    if not isinstance(record, Decision):
        return
    found = difference(record)
    assert found is None or record.request.request_id in found


# Size


def policy_of_four() -> Policy:
    """Four pools and three actions; priors are capped, so that parameters have all their digits."""
    kinds: dict[str, str] = {
        "popular": "popular",
        "similar": "similar",
        "fresh": "fresh",
        "best": "popular",
    }
    actions = {"like": ActionPolicy(1.0), "save": ActionPolicy(3.0), "hide": ActionPolicy(-2.5)}
    pools = {name: PoolPolicy(kind) for name, kind in kinds.items()}
    return Policy(pools, actions, BlendPolicy(prior_strength=23.7))


def sizes_of_decisions(left: int, policy: Policy, slots: int) -> list[int]:
    """Bytes of decisions of so many slots; ids have eight characters, and every second feed has a second page.

    Users have liked three items, so that `similar` has an answer, and `left` remain for their feeds. Everyone has
    evidence.
    """
    runner = EmbeddedRunner(policy)
    at_ms = 1_700_000_000_000
    likes = [(f"us{number % 7:06}", number % (left + 3)) for number in range(20 * left)]
    likes += [(f"ne{number % 9:06}", number // 9) for number in range(3 * 9)]
    for number, (user, item) in enumerate(likes):
        runner.react(Organic(event_id=f"{number}", user=user, item=f"it{item:06}", action="like"), at_ms)
    sizes, continues = [], None
    for number in range(120):
        user = f"ne{number // 2 % 9:06}"
        request = Request(
            request_id=f"re{number:06}",
            user=user,
            slots=slots,
            ts_ms=at_ms,
            continues=continues if number % 2 else None,
        )
        continues = request.request_id
        made = runner.serve(request, runner.gather(request, at_ms), at_ms)
        assert len(made.slot_items) == min(slots, left - made.start)
        sizes.append(len(encode(made)))
        for slot in range(0, len(made.slot_items), 3):
            about = {"user": request.user, "request_id": request.request_id, "item": made.slot_items[slot]}
            runner.react(Seen(event_id=f"s{number}-{slot}", slot=slot, **about), at_ms)
    return sizes


def test_a_decision_that_reads_every_list_to_its_end_fits_in_4_kb() -> None:
    """24 items for 25 slots: each pool's list is read whole. Measured: 3,838 bytes at most."""
    assert max(sizes_of_decisions(24, policy_of_four(), 25)) <= 4096


def test_a_decision_whose_lists_are_not_read_whole_fits_in_3_3_kb() -> None:
    """Measured: 3,242 bytes of a first page, 3,285 of a later one: 12 cells with four parameters and a delay."""
    assert max(sizes_of_decisions(300, policy_of_four(), 25)) <= 3.3 * 1024


def test_a_decision_of_ten_slots_and_three_pools_fits_in_1_7_kb() -> None:
    """By the policy that ships, but for the personal pool. Measured: 1,642 bytes at most."""
    pools = {name: pool for name, pool in Policy().pools.items() if pool.kind != "personal"}
    assert max(sizes_of_decisions(300, Policy(pools), 10)) <= 1.7 * 1024


def test_a_decision_of_ten_slots_that_remembers_what_it_considered_fits_in_6_5_kb() -> None:
    """By the policy that ships: 32 candidates with their features. Measured: 6,535 bytes at most."""
    assert max(sizes_of_decisions(300, Policy(), 10)) <= 6.5 * 1024


@pytest.mark.parametrize("order", ["spread", "rounded", "greedy"])
def test_a_page_of_any_order_can_be_made_again_where_lists_share_items(order: str) -> None:
    """What was read of lists is all that a record knows of them, and plans must not need more."""
    random = np.random.default_rng(20161111)
    for number in range(600):
        lists = ["".join(random.permutation(list("abcdefghi"))[: random.integers(1, 9)]) for _ in range(3)]
        slots = int(random.integers(2, 8))
        caps = [int(cap) for cap in random.integers(1, slots + 1, 3)]
        case = Case([6, 9, 3], [60, 80, 20], lists, slots, order=order, mode="expected", caps=caps)
        assert difference(case.decision(f"{number}")) is None, (lists, slots, caps)
