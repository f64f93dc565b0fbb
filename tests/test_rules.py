"""Rules about items: none is violated, what cannot be kept gives way by priority, and says so."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from arms import SEED
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace
from pages import LIKE, asked, external, facts_of, lists
from redraws import Case
from test_cli import call
from test_explain import recording
from test_propensities import assert_agree

from blending.blend import Page, Rules, blend, lists_of
from blending.kernels import CAPPED
from blending.posterior import Beta
from blending.randomness import key_of
from blending.returns import returns_table
from engine.caps import limits_of
from engine.catalogue import Catalogue, CatalogueWriter
from engine.decision import Decision, difference
from engine.events import Acted, Erase, ItemUpdate, Organic, Reaction, Request, Seen
from engine.facts import Facts
from engine.filters import filter_of
from engine.fold import fold
from engine.funnel import funnel
from engine.groups import OLDER
from engine.kernels import own_lists
from engine.page import Degraded
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy, WeightsPolicy
from engine.pool_policy import PoolPolicy
from engine.pools import gather
from engine.propensities import propensities
from engine.revisions import Revisions
from engine.rules import BlockRule, CapRule, DiverseRule, FreshRule, RulePolicy, SeenRule, values_of
from engine.serve import serve
from engine.state import Reacted, UserState, Viewed
from streams.codec import decode, encode
from streams.embedded import EmbeddedRunner
from streams.messages import Record
from streams.partition import Partition
from streams.store import Changed, Changes, PartitionStore, Position

ACTIONS = {
    "like": ActionPolicy(1.0),
    "hide": ActionPolicy(-1.0, hides="creator"),
    "skip": ActionPolicy(0.0, "item"),
}
DAY_MS = 86_400_000


def catalogue_of(*updates: ItemUpdate) -> Catalogue:
    """A catalogue of these."""
    writer = CatalogueWriter()
    for update in updates:
        writer.put(update)
    return writer.version()


def ruled(rules: dict[str, RulePolicy], *updates: ItemUpdate, **more: object) -> Facts:
    """Facts of two external pools, these rules, and a catalogue."""
    policy = Policy(external(a={}, b={}), LIKE, rules=rules, **more)  # type: ignore[arg-type]
    return replace(facts_of(policy), catalogue=catalogue_of(*updates))


def violations(decision: Decision, facts: Facts) -> list[str]:
    """The rules of the policy that a page does not keep and that its record does not name."""
    named = {rule.pool for rule in decision.degraded if rule.rule in ("item_cap", "fresh")}
    found = []
    updates = {item: facts.catalogue.get(item) for item in decision.slot_items}
    for name, rule in facts.policy.rules.items():
        if isinstance(rule, CapRule):
            rows = [values_of(item, update, rule.attribute) for item, update in updates.items()]
            held = Counter(value for row in rows for value in row)
            broken = max(held.values(), default=0) > rule.most
        elif isinstance(rule, FreshRule):
            ages = [
                decision.at_ms - (u.published_ms if u and u.published_ms is not None else -DAY_MS)
                for u in updates.values()
            ]
            broken = sum(age < rule.younger_ms for age in ages) < rule.least
        elif isinstance(rule, BlockRule):
            barred = [i for i, u in updates.items() if set(values_of(i, u, rule.attribute)) & set(rule.values)]
            broken = bool(barred)
        else:
            broken = False
        if broken and name not in named:
            found.append(name)
    return found


# Caps


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Facts, dict[str, list[str]], int]:
    """Items of a few creators and topics, lists of them, and rules that may contradict each other."""
    count = draw(st.integers(1, 25))
    topics = st.lists(st.sampled_from("xyz"), unique=True, max_size=2)
    updates = [
        ItemUpdate(
            item=f"i{number}",
            creator=draw(st.sampled_from(["ann", "bob", "cy", None])),
            attributes={"topic": draw(topics)},
            published_ms=draw(st.sampled_from([None, 0, 900, 990])),
        )
        for number in range(count)
    ]
    rules: dict[str, RulePolicy] = {}
    priorities, strict = st.integers(0, 2), st.booleans()
    if draw(st.booleans()):
        rules["spam"] = BlockRule("creator", ("cy",))
    for name, attribute in (("per_creator", "creator"), ("per_topic", "topic")):
        if draw(st.booleans()):
            rules[name] = CapRule(attribute, draw(st.integers(1, 4)), draw(priorities), draw(strict))
    if draw(st.booleans()):
        rules["news"] = FreshRule(draw(st.integers(1, 3)), 150, draw(priorities))
    each = draw(st.sampled_from(["feed", "slot", "mean", "fixed"]))
    order = draw(st.sampled_from(["greedy", "spread"] if each == "slot" else ["greedy", "spread", "rounded"]))
    settings = BlendPolicy(
        epsilon=draw(st.sampled_from([0.0, 0.9])), draw=each, order=order, shadow=draw(st.booleans())
    )
    pools = external(a={"floor": 0.2, "pinned": (1,)}, b={"cap": draw(st.sampled_from([0.4, 1.0]))})
    policy = Policy(pools, LIKE, settings, rules=rules)
    names = st.lists(st.sampled_from([f"i{n}" for n in range(count + 2)]), unique=True, max_size=20)
    return (
        replace(facts_of(policy), catalogue=catalogue_of(*updates)),
        {"a": draw(names), "b": draw(names)},
        draw(st.integers(1, 8)),
    )


@given(worlds())
@settings(max_examples=300)
def test_every_rule_holds_or_is_named_and_the_record_makes_the_page_again(
    world: tuple[Facts, dict[str, list[str]], int],
) -> None:
    facts, offered, slots = world
    made = asked(facts, "r", slots, offered, at_ms=1000).decision
    assert violations(made, facts) == []
    assert not [rule for rule in made.degraded if getattr(facts.policy.rules.get(rule.pool), "strict", False)]
    assert difference(made) is None
    read = decode(encode(made))
    assert read == made
    assert isinstance(read, Decision)
    assert difference(read) is None
    # Caps that may give way leave no slot empty that anything could fill.
    barred = {i for i in {*offered["a"], *offered["b"]} if filter_of(UserState(), facts, 1000).reason(i, facts)}
    if not any(getattr(rule, "strict", False) for rule in facts.policy.rules.values()):
        assert len(made.slot_items) == min(slots, len({*offered["a"], *offered["b"]} - barred))
    likely = propensities(made, 16)
    assert likely.chances.shape == (len(made.slot_items), 2)


def test_no_page_of_a_hundred_thousand_holds_more_alike_than_it_may() -> None:
    """Four pools that share items, 12 slots, at most two of a creator and three of a topic."""
    random = np.random.default_rng(SEED)
    creators, topics = random.integers(0, 12, 60), 12 + random.integers(0, 6, 60)
    rooms = np.array([2] * 12 + [3] * 6, np.int64)
    posterior = Beta(np.array([[3.0], [2.0], [4.0], [2.5]]), np.array([[30.0], [25.0], [35.0], [28.0]]))
    rules = [
        Rules(np.ones(1), returns_table(12, 0.9), 0.06, 0.1, draws, order=order)
        for draws, order in ((1, "greedy"), (12, "greedy"), (1, "rounded"), (1, "spread"))
    ]
    violated = pages = 0
    for number in range(100_000):
        if number % 100 == 0:
            lists = lists_of([random.permutation(60)[:24].astype(np.int32) for _ in range(4)])
            groups = np.stack([creators[lists.items], topics[lists.items]], axis=2).astype(np.int32)
            page = Page(groups=groups, rooms=rooms)
        by = rules[0 if number % 20 else number // 20 % 4]  # orders that plan take twenty times as long
        made = blend(posterior, by, lists, key_of(SEED, str(number)), page)
        shown = lists.items[made.slot_pools, made.slot_ranks]
        held = np.bincount(np.concatenate([creators[shown], topics[shown]]), minlength=18)
        violated += bool((held > rooms).any())
        pages += shown.size == 12
    assert violated == 0
    assert pages > 90_000


def test_thousands_of_requests_keep_their_rules_and_name_those_that_they_cannot() -> None:
    random = np.random.default_rng(SEED)
    updates = [
        ItemUpdate(
            item=f"i{number}",
            creator=f"c{random.integers(0, 9)}",
            attributes={"topic": [f"t{topic}" for topic in random.permutation(5)[: random.integers(0, 3)]]},
            published_ms=int(random.integers(0, 1000)),
        )
        for number in range(80)
    ]
    rules = {
        "spam": BlockRule("creator", ("c3",)),
        "per_creator": CapRule("creator", 2, priority=1),
        "per_topic": CapRule("topic", 3),
        "news": FreshRule(2, 200),
    }
    facts = ruled(rules, *updates)
    named = 0
    for number in range(2000):
        offered = {pool: [f"i{n}" for n in random.permutation(80)[: random.integers(4, 40)]] for pool in "ab"}
        made = asked(facts, f"r{number}", 8, offered, at_ms=1000).decision
        assert violations(made, facts) == []
        assert len(made.slot_items) == 8 or made.caps  # short only for want of items
        named += bool(made.degraded)
    assert 0 < named < 1000


def test_caps_give_way_by_priority_no_further_than_they_must() -> None:
    """Six items of one creator, three topics: the page of six needs all of them, so "creator" is lifted to 6.

    At most two of a topic can be kept, and one a topic not: it has the higher priority, and stays.
    """
    updates = [ItemUpdate(item=f"a{n}", creator="ann", attributes={"topic": f"t{n % 3}"}) for n in range(6)]
    facts = ruled({"creator": CapRule("creator", 2), "topic": CapRule("topic", 2, priority=1)}, *updates)
    made = asked(facts, "r", 6, {"a": [f"a{n}" for n in range(6)]}).decision
    assert len(made.slot_items) == 6
    assert made.degraded == [Degraded("item_cap", "creator", 2, 6)]
    assert [(cap.rule, cap.most) for cap in made.caps or ()] == [("topic", 2)]
    assert difference(made) is None
    strict = {"creator": CapRule("creator", 2, strict=True), "topic": CapRule("topic", 1, priority=1)}
    made = asked(ruled(strict, *updates), "r", 6, {"a": [f"a{n}" for n in range(6)]}).decision
    assert (len(made.slot_items), made.degraded) == (2, [])


def test_of_rules_that_cannot_be_kept_together_the_lower_gives_way() -> None:
    """Four slots; of creator ann all is new, of the others nothing: one of ann's at most, and three new ones."""
    ann = [ItemUpdate(item=f"a{n}", creator="ann", published_ms=999) for n in range(4)]
    others = [ItemUpdate(item=f"b{n}", creator=f"c{n}", published_ms=0) for n in range(4)]
    offered = {"a": [f"a{n}" for n in range(4)], "b": [f"b{n}" for n in range(4)]}
    for first, expected in ((1, Degraded("fresh", "news", 3, 1)), (-1, Degraded("item_cap", "one_each", 1, 3))):
        rules = {"one_each": CapRule("creator", 1, priority=first), "news": FreshRule(3, 100)}
        made = asked(ruled(rules, *ann, *others), "r", 4, offered, at_ms=1000).decision
        assert (len(made.slot_items), made.degraded) == (4, [expected])


@st.composite
def rankings_in_groups(draw: st.DrawFn) -> tuple[list[list[tuple[int, ...]]], list[int], list[int], int]:
    """By pool the groups of each entry; the rule of each group, the room of each rule (-1: none), and slots."""
    places = draw(st.lists(st.integers(0, 2), min_size=1, max_size=6))
    entry = st.lists(st.integers(0, len(places) - 1), unique=True, max_size=3).map(tuple)
    pools = draw(st.lists(st.lists(entry, max_size=12), min_size=1, max_size=3))
    return pools, places, [draw(st.integers(-1, 3)) for _ in range(3)], draw(st.integers(1, 4))


@given(rankings_in_groups())
def test_own_lists_are_what_each_pool_would_show_by_itself(
    case: tuple[list[list[tuple[int, ...]]], list[int], list[int], int],
) -> None:
    pools, places, most, slots = case
    entries = [entry for pool in pools for entry in pool]
    widths = [max((sum(places[g] == rule for g in entry) for entry in entries), default=0) for rule in range(3)]
    width = sum(wide for wide, room in zip(widths, most, strict=True) if room >= 0)
    kept, left_out, table, first = [], [], [], 0
    for pool in pools:
        own, counts, held = [], [0, 0, 0], Counter[int]()
        for at, entry in enumerate(pool):
            if len(own) == slots * max(1, width):
                break
            full = [places[g] for g in entry if 0 <= most[places[g]] <= held[g]]
            if full:
                counts[min(full)] += 1
            else:
                own.append(first + at)
                held.update(entry)
        kept.append(own)
        left_out.append(counts)
        table.append([[g for g in entries[at] if most[places[g]] >= 0] for at in own])
        first += len(pool)
    found = own_lists(
        np.cumsum([0, *map(len, pools)]),
        np.cumsum([0, *map(len, entries)]),
        np.array([g for entry in entries for g in entry], np.int64),
        np.array(places),
        np.array(most),
        slots,
    )
    rows, sizes, thinned, groups, wide = found
    assert [row[:size] for row, size in zip(rows.tolist(), sizes.tolist(), strict=True)] == kept
    assert (thinned.tolist(), wide.tolist()) == (left_out, widths)
    assert groups.shape == (len(pools), max(map(len, kept)), width)
    for row, own in zip(groups.tolist(), table, strict=True):
        assert [[g for g in entry if g >= 0] for entry in row[: len(own)]] == own


def test_a_list_says_how_many_entries_it_left_out_for_which_rule() -> None:
    updates = [ItemUpdate(item=f"a{n}", creator=f"c{n // 3}") for n in range(9)]
    facts = ruled({"per_creator": CapRule("creator", 1)}, *updates)
    part = asked(facts, "r", 3, {"a": [f"a{n}" for n in range(9)]}).decision.pools[0]
    assert (part.items, part.stock, part.thinned) == (["a0", "a3", "a6"], 3, {"per_creator": 4})
    assert part.groups == [[0], [1], [2]]


def test_a_freshness_floor_is_kept_where_pools_offer_what_is_fresh() -> None:
    updates = [ItemUpdate(item=f"b{n}", published_ms=DAY_MS - 5) for n in range(4)]
    facts = ruled({"news": FreshRule(2, 10)}, *updates)
    for number in range(20):
        made = asked(facts, f"r{number}", 6, lists(9, "a", "b"), at_ms=DAY_MS).decision
        fresh = [item for item in made.slot_items if item in {"b0", "b1", "b2", "b3"}]
        assert len(fresh) >= 2
        assert made.degraded == []
    late = asked(facts, "late", 6, lists(9, "a", "b"), at_ms=DAY_MS + 5).decision
    assert late.degraded == [Degraded("fresh", "news", 2, 0)]
    assert [limit.most for limit in limits_of(facts.policy, 6)] == [4]
    assert OLDER not in [value for cap in late.caps or () for value in cap.values]


alike = {letter: [number % 3] for number, letter in enumerate("abcdefghijkl")}
both = {letter: [number % 3, 3 + number % 2] for number, letter in enumerate("abcdefghijkl")}
PAGES = {
    "winner": Case([[5.0], [6.0], [4.0]], [[50.0]] * 3, ["abcdef", "chgbaf", "ljkbid"], 6, groups=alike, most=2),
    "one draw": Case(
        [[5.0], [6.0], [4.0]], [[50.0]] * 3, ["abcdef", "chgbaf", "ljkbid"], 6, groups=alike, most=2, delta=None
    ),
    "mixed": Case([[5.0], [6.0]], [[50.0]] * 2, ["adgjbc", "beha"], 5, epsilon=0.5, groups=alike, most=2),
    "a draw a slot": Case(
        [[5.0], [6.0]], [[50.0]] * 2, ["abcd", "dgeb"], 4, draws="slot", delta=0.85, groups=alike, most=2
    ),
    "several groups": Case([[5.0], [6.0]], [[50.0]] * 2, ["abcdefgh", "hgfedcba"], 6, groups=both, most=2),
    "floors": Case(
        [[5.0], [6.0]], [[50.0]] * 2, ["abcdef", "ghijkl"], 6, groups=alike, most=2, floors=[1, 2], pinned=[(2, 1)]
    ),
    "rounded": Case([[5.0], [6.0]], [[50.0]] * 2, ["abcdef", "ghijkl"], 6, groups=alike, most=2, order="rounded"),
}


@pytest.mark.parametrize("name", PAGES)
def test_propensities_of_capped_pages_are_the_frequencies_of_redraws(name: str) -> None:
    """Each list keeps to the rooms by itself, as the engine's do."""
    case, redraws = PAGES[name], 1500
    made = case.decision("whole")
    others = [case.made(f"other {number}").verdicts for number in range(20)]
    assert any((verdicts == CAPPED).any() for verdicts in others) or name in ("winner", "floors", "rounded")
    assert difference(made) is None
    found = propensities(made, 2000)
    assert_agree(found, case.counts(redraws)[: len(made.slot_items)], redraws)


@pytest.mark.parametrize("two", [False, True])
def test_the_record_of_one_capped_page_knows_how_often_all_others_have_which_pool(two: bool) -> None:
    """Though it holds only what its own draw read: pools that share items have enough for every slot."""
    updates = [ItemUpdate(item=f"i{n}", creator=f"c{n % 7}", attributes={"topic": f"t{n % 5}"}) for n in range(60)]
    rules = {"creator": CapRule("creator", 1), **({"topic": CapRule("topic", 2)} if two else {})}
    facts = ruled(rules, *updates, blend=BlendPolicy(epsilon=0.3, temperature=1.0, returns="webster"))
    offered = {"a": [f"i{n}" for n in range(48)], "b": [f"i{n}" for n in range(59, 10, -1)]}
    redraws, slots = 1200, 5
    made = [asked(facts, f"r{number}", slots, offered).decision for number in range(redraws)]
    assert any("c" in part.verdicts for one in made for part in one.pools)
    assert {part.stock for one in made for part in one.pools} == {7 if two else slots}
    counts = np.array(
        [[sum(one.slot_pools[slot] == pool for one in made) for pool in range(2)] for slot in range(slots)]
    )
    assert_agree(propensities(made[0]), counts, redraws)


def test_an_explanation_says_which_groups_were_full_and_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = [ItemUpdate(item=f"a{n}", creator="ann" if n < 5 else f"c{n}") for n in range(9)]
    rules = {"spam": BlockRule("item", ("a8",)), "per_creator": CapRule("creator", 2)}
    made = asked(ruled(rules, *updates), "r", 4, {"a": [f"a{n}" for n in range(9)]}).decision
    folder = recording(tmp_path / "made", made)
    found = json.loads(call(capsys, monkeypatch, "explain", "r", "--records", folder, "--json")[1])
    assert found["caps"] == [{"rule": "per_creator", "most": 2, "full": ["ann"]}]
    assert (found["pools"][0]["filtered_by"], found["pools"][0]["thinned"]) == ({"spam": 1}, {"per_creator": 3})
    printed = call(capsys, monkeypatch, "explain", "r", "--records", folder)[1]
    assert "per_creator: at most 2 of a group; full are ann" in printed
    assert "a left out: spam 1, per_creator 3" in printed


def test_a_capped_record_that_was_tampered_with_is_found() -> None:
    updates = [ItemUpdate(item=f"a{n}", creator=f"c{n % 3}") for n in range(9)]
    facts = ruled({"per_creator": CapRule("creator", 1)}, *updates)
    made = asked(facts, "r", 3, {"a": [f"a{n}" for n in range(9)], "b": ["a5", "a4", "a3"]}).decision
    assert difference(made) is None
    first = made.pools[made.slot_pools[0]]
    assert isinstance(made.caps, list)
    for groups in ([[1]] * len(first.items), [[7]] * len(first.items), [[0, 1]] * len(first.items)):
        parts = [replace(part, groups=groups) if part is first else part for part in made.pools]
        assert difference(replace(made, pools=parts)) is not None
    assert difference(replace(made, caps=[replace(made.caps[0], most=0)])) is not None
    with pytest.raises(ValueError, match="groups for every entry"):
        replace(made, caps=UNSET)


def test_the_funnel_says_where_items_fresh_ones_and_different_values_are_lost() -> None:
    """Nine items of three creators, three of them fresh; one is blocked; the page has three slots."""
    updates = [ItemUpdate(item=f"a{n}", creator=f"c{n // 3}", published_ms=990 * (n % 3 == 0)) for n in range(9)]
    rules = {"spam": BlockRule("item", ("a0",)), "per_creator": CapRule("creator", 1), "news": FreshRule(1, 100)}
    facts = ruled(rules, *updates)
    offered = {"a": [f"a{n}" for n in range(9)], "b": ["a1", "a2", "a4", "a8"]}
    made = [asked(facts, f"r{n}", 3, offered, at_ms=1000).decision for n in range(40)]
    found = funnel(made)
    assert (found.feeds, found.slots, found.empty) == (40, 120, 0)
    for name, of in found.pools.items():
        parts = [part for one in made for part in one.pools if part.pool == name]
        assert of.ranked == of.filtered + sum(of.thinned.values()) + of.offered
        assert of.offered == of.unread + of.duplicates + of.capped + of.placed
        assert of.placed == sum(part.realised for part in parts)
        assert sum(of.filtered_by.values()) == of.filtered
        for ranked, allowed, offers, read, placed in of.rules.values():
            assert ranked >= allowed >= offers >= read >= placed
    a = found.pools["a"]
    assert (a.filtered_by, a.thinned["per_creator"]) == ({"spam": 40}, 40 * 5)
    assert a.rules["per_creator"][:3] == [120, 120, 120]
    assert a.rules["news"][:3] == [120, 80, 80]
    shown = [item for one in made for item in one.slot_items]
    assert sum(of.rules["news"][-1] for of in found.pools.values()) == sum(item in ("a3", "a6") for item in shown)
    assert found.degraded == {}


def test_the_command_prints_the_funnel_of_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = ruled(
        {"per_creator": CapRule("creator", 1)}, *(ItemUpdate(item=f"a{n}", creator="c") for n in range(3))
    )
    made = asked(facts, "r", 2, {"a": ["a0", "a1", "a2"]}).decision
    folder = recording(tmp_path / "made", made)
    found = json.loads(call(capsys, monkeypatch, "funnel", "--records", folder, "--json")[1])
    assert found == msgspec.to_builtins(funnel([made]))
    printed = call(capsys, monkeypatch, "funnel", "--records", folder)[1]
    assert "1 feeds, 2 slots, 0 of them empty" in printed
    assert "item_cap per_creator 1" in printed


# Diversity


def plain_order(rows: list[set[str]], weight: float) -> list[int]:
    """Maximal marginal relevance in plain Python."""
    left, order = list(range(len(rows))), []
    while left:
        worth = {}
        for place in left:
            alike = [
                len(rows[place] & rows[one]) / (len(rows[place]) * len(rows[one])) ** 0.5
                if rows[place] and rows[one]
                else 0.0
                for one in order
            ]
            worth[place] = (1.0 - weight) * (1.0 - place / len(rows)) - weight * max(alike, default=0.0)
        order.append(max(left, key=lambda place: (worth[place], -place)))
        left.remove(order[-1])
    return order


@given(st.lists(st.sets(st.sampled_from("xyz"), max_size=3), max_size=12), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_a_diverse_list_is_in_the_order_of_maximal_marginal_relevance(rows: list[set[str]], weight: float) -> None:
    updates = [ItemUpdate(item=f"a{n}", attributes={"topic": sorted(row)}) for n, row in enumerate(rows)]
    facts = ruled({"variety": DiverseRule("topic", weight)}, *updates)
    request = Request(request_id="r", user="u", slots=12, candidates={"a": [f"a{n}" for n in range(len(rows))]})
    gathered = gather(UserState(), request, facts, 0)
    order = plain_order(rows, weight)
    assert gathered.names(gathered.rankings[0].items) == [f"a{place}" for place in order]
    if weight == 0.0:
        assert order == list(range(len(rows)))


def test_a_diverse_page_is_of_more_topics_and_is_made_again_from_its_record() -> None:
    """Ten items of topic x stand above two of y: with a weight of a half, y has the second place."""
    updates = [ItemUpdate(item=f"a{n}", attributes={"topic": "y" if n > 9 else "x"}) for n in range(12)]
    facts = ruled({"variety": DiverseRule("topic", 0.5)}, *updates)
    made = asked(facts, "r", 3, {"a": [f"a{n}" for n in range(12)]}).decision
    assert made.slot_items == ["a0", "a10", "a1"]
    assert (made.pools[0].reordered, made.pools[0].stock) == (True, 3)
    assert difference(made) is None


def test_personal_lists_may_be_diverse_and_capped() -> None:
    rules = {"variety": DiverseRule("kind", 0.6), "per_creator": CapRule("creator", 2)}
    runner = lived(
        rules, pools={**Policy().pools, "mine": PoolPolicy("external")}, weights=WeightsPolicy(ready_likes=0)
    )
    for number in range(20):
        made = served(runner, f"r{number}", 20 + number)
        assert difference(made) is None
        creators = Counter(int(item[1:]) % 4 for item in made.slot_items)
        assert max(creators.values()) <= 2
        assert len(made.slot_items) == 6
        react(runner, made, 0, "like" if number % 3 else "skip", 20 + number)


# What a user is not offered


HOUSE = [
    ItemUpdate(item=f"i{n}", creator=f"c{n % 4}", attributes={"kind": n % 3, "ad": n % 5 == 0}) for n in range(20)
]


def lived(rules: dict[str, RulePolicy], views_max: int = 50, **more: object) -> EmbeddedRunner:
    """A runner whose catalogue is HOUSE, and whose users have liked all of it; nobody has asked for a feed."""
    values = {"pools": {"popular": PoolPolicy("popular"), "mine": PoolPolicy("external")}, **more}
    policy = Policy(actions=ACTIONS, memory=MemoryPolicy(views_max=views_max), rules=rules, **values)  # type: ignore[arg-type]
    runner = EmbeddedRunner(policy)
    for number, update in enumerate(HOUSE):
        runner.put(update, 0)
        runner.react(Organic(event_id=f"o{number}", user=f"v{number % 3}", item=update.item, action="like"), 1)
    return runner


def served(runner: EmbeddedRunner, name: str, at_ms: int, user: str = "u", slots: int = 6) -> Decision:
    """A feed of the popular items, and of all of them in another order that the request brings."""
    brought = {"mine": [update.item for update in reversed(HOUSE)]}
    request = Request(request_id=name, user=user, slots=slots, candidates=brought)
    return runner.serve(request, runner.gather(request, at_ms), at_ms)


def react(runner: EmbeddedRunner, made: Decision, slot: int, action: str | None, at_ms: int) -> None:
    """The user sees a slot, and acts on it."""
    place = {"user": made.request.user, "request_id": made.request.request_id, "slot": slot}
    place["item"] = made.slot_items[slot]
    name = f"{made.request.request_id}-{slot}"
    runner.react(Seen(event_id=f"{name}s", **place), at_ms)  # type: ignore[arg-type]
    if action:
        runner.react(Acted(event_id=f"{name}a", action=action, **place), at_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize(("action", "all_of_creator"), [("hide", True), ("skip", False)])
def test_after_one_hide_the_item_and_if_ruled_its_creator_are_out_of_the_next_feed(
    action: str, all_of_creator: bool
) -> None:
    runner = lived({})
    made = served(runner, "one", 10)
    gone, creator = made.slot_items[0], f"c{int(made.slot_items[0][1:]) % 4}"
    react(runner, made, 0, action, 11)
    after = served(runner, "two", 12, slots=20)
    creators = {f"c{int(item[1:]) % 4}" for item in after.slot_items}
    assert gone not in after.slot_items
    assert (creator not in creators) == all_of_creator
    assert len(after.slot_items) == (15 if all_of_creator else 19)
    assert [part.filtered_by for part in after.pools] == [
        {"reacted": 1, "hidden": 4} if all_of_creator else {"reacted": 1},
        {"hidden": 5} if all_of_creator else {"hidden": 1},
    ]
    assert all(sum(part.filtered_by.values()) == part.filtered for part in after.pools)


def test_after_one_hide_the_pools_utility_is_lower_with_the_same_draws() -> None:
    """Means, which are what draws are made around; and draws of the same keys, of 50 pages in the mean."""
    for draw, pages in (("mean", 1), ("feed", 50)):
        utilities = []
        for action in (None, "hide"):
            runner = lived({}, blend=BlendPolicy(draw=draw, epsilon=0.0))  # type: ignore[arg-type]
            made = served(runner, "one", 10)
            react(runner, made, 0, action, 11)
            pool = made.slot_pools[0]
            rows = [served(runner, f"two{n}", 12).pools[pool].rates[0] for n in range(pages)]
            rewards = made.rewards
            utilities.append(np.mean([np.dot(rewards, row) for row in rows]))
        assert utilities[1] < utilities[0]


def test_a_hide_is_remembered_longer_than_the_history() -> None:
    runner = lived({}, views_max=1)
    policy = replace(runner.facts.policy, memory=MemoryPolicy(history_max=2))
    state = UserState()
    for number, (item, action) in enumerate([("i3", "hide"), ("x", "like"), ("y", "like"), ("z", "like")]):
        event = Organic(event_id=f"e{number}", user="u", item=item, action=action)
        state = fold(state, event, number, policy.memory, policy.hides).state
    assert [entry.item for entry in state.history] == ["y", "z"]
    facts = replace(runner.facts, policy=policy)
    request = Request(request_id="r", user="u", slots=20)
    shown = serve(state, request, gather(state, request, facts, 9), 9).slot_items
    assert {"i3", "i7", "i11", "i15", "i19"}.isdisjoint(shown)
    assert len(shown) == 15


def test_block_lists_bar_items_by_id_creator_and_attribute_from_every_pool() -> None:
    rules = {
        "spam": BlockRule("creator", ("c1",)),
        "ads": BlockRule("ad", ("true",)),
        "some": BlockRule("item", ("i2", "unknown")),
        "two": BlockRule("kind", ("2",)),
    }
    made = served(lived(rules), "one", 10, slots=20)
    numbers = [int(item[1:]) for item in made.slot_items]
    allowed = [n for n in range(20) if not (n % 4 == 1 or n % 5 == 0 or n == 2 or n % 3 == 2)]
    assert sorted(numbers) == allowed
    told = {"spam": 5, "ads": 3, "some": 1, "two": 3}  # each item for the first rule that bars it
    assert [part.filtered_by for part in made.pools] == [told, told]


def test_a_block_list_touches_no_posterior() -> None:
    """The same log, decided with and without: what is believed of pools and users is the same to the last bit."""
    parts, states = [], []
    for rules in ({}, {"spam": BlockRule("item", ("i99",))}):
        runner = lived(rules)  # type: ignore[arg-type]
        made = served(runner, "one", 10)
        react(runner, made, 0, "like", 11)
        react(runner, made, 1, "hide", 11)
        parts.append([(part.alpha, part.beta, part.rates) for part in served(runner, "two", 12).pools])
        states.append(runner.state("u").closed)
    assert parts[0] == parts[1]
    assert states[0] == states[1]
    barred = lived({"spam": BlockRule("creator", ("c0",))})
    plain = lived({})
    before = [served(one, "one", 10).pools for one in (barred, plain)]
    assert [(p.alpha, p.beta) for p in before[0]] == [(p.alpha, p.beta) for p in before[1]]


def test_what_a_user_saw_so_often_without_acting_is_left_out_until_views_are_older() -> None:
    runner = lived({"tired": SeenRule(2, 100)})
    first = served(runner, "one", 10).slot_items[0]
    for number in range(2):
        made = served(runner, f"r{number}", 20 + number, slots=20)
        assert first in made.slot_items
        react(runner, made, made.slot_items.index(first), None, 20 + number)
    tired = served(runner, "three", 30, slots=20)
    assert first not in tired.slot_items
    assert {name for part in tired.pools for name in part.filtered_by} == {"tired"}
    later = served(runner, "four", 120, slots=20)
    assert first in later.slot_items
    react(runner, later, later.slot_items.index(first), "like", 120)
    react(runner, served(runner, "five", 121, slots=20), 0, None, 121)
    assert first in served(runner, "six", 122, slots=20).slot_items  # an external pool may offer what was liked


views = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=5, unique=True)


@given(views, st.integers(1, 4), st.randoms(use_true_random=False))
def test_hides_and_views_end_in_the_same_sets_in_any_order(
    seen: list[tuple[int, int]], most: int, random: object
) -> None:
    """Each view has a time; decisions come before all, or after all so that reactions wait for them."""
    memory = MemoryPolicy(views_max=most, hidden_max=most)
    policy = Policy(external(a={}), ACTIONS, memory=memory)
    facts = facts_of(policy)
    pages = [asked(facts, f"r{n}", 4, {"a": [f"i{k}" for k in range(4)]}).decision for n in range(10)]
    events: list[tuple[int, Reaction]] = []
    for number, (page, slot) in enumerate(seen):
        place = {"user": "u", "request_id": f"r{page}", "slot": slot, "item": pages[page].slot_items[slot]}
        events.append((number // 2, Seen(event_id=f"s{page}-{slot}", **place)))  # type: ignore[arg-type]
        events.append((number // 2, Acted(event_id=f"a{page}-{slot}", action="hide", **place)))  # type: ignore[arg-type]

    def folded(order: list[tuple[int, Reaction]], *, late: bool) -> UserState:
        state = UserState()
        for value, at_ms in [
            *([] if late else [(page, 0) for page in pages]),
            *((event, at_ms) for at_ms, event in order),
            *([(page, 0) for page in pages] if late else []),
        ]:
            state = fold(state, value, at_ms, memory, policy.hides).state
        return state

    plain = folded(events, late=False)
    views = sorted(Viewed(at_ms, e.event_id, e.item) for at_ms, e in events if isinstance(e, Seen))
    hides = sorted(Reacted(at_ms, e.event_id, e.item, "hide") for at_ms, e in events if isinstance(e, Acted))
    assert plain.views == tuple(views[-most:])
    assert plain.hidden == tuple(hides[-most:])
    shuffled = [*events, *events]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for late in (False, True):
        again = folded(shuffled, late=late)
        assert (again.views, again.hidden) == (plain.views, plain.hidden)


def test_views_are_not_remembered_unless_a_policy_asks_for_it() -> None:
    runner = lived({}, views_max=0)
    react(runner, served(runner, "one", 10), 0, "like", 11)
    assert runner.state("u").views == ()
    assert runner.state("u").hidden == ()


def test_numbers_and_names_are_left_out_for_the_same_reasons() -> None:
    rules = {"spam": BlockRule("creator", ("c1",)), "tired": SeenRule(1, 100)}
    runner = lived(rules)
    made = served(runner, "one", 10)
    react(runner, made, 0, "hide", 11)
    react(runner, made, 1, None, 11)
    facts = runner.facts
    left_out = filter_of(runner.state("u"), facts, 12, frozenset({"i6"}))
    by_name = {item: left_out.reason(item, facts) for item in facts.population.items}
    numbers = left_out.numbers(facts)
    by_number = {
        item: next((name for name, there in numbers.items() if number in there), None)
        for number, item in enumerate(facts.population.items)
    }
    assert by_name == by_number
    assert set(by_name.values()) == {None, "shown", "spam", "hidden", "tired"}


def test_a_partition_knows_which_actions_hide_and_forgets_what_an_erased_user_hid(tmp_path: Path) -> None:
    policy = Policy(external(a={}), ACTIONS, memory=MemoryPolicy(views_max=3))
    store = PartitionStore(tmp_path)
    partition = Partition(0, Revisions(policy), store, partitions=1)

    def fed(offset: int, value: Organic | Erase) -> None:
        partition.react(Record(offset, offset, b"u", encode(value)))

    fed(0, Organic(event_id="e", user="u", item="i", action="hide"))
    fed(1, Organic(event_id="f", user="u", item="j", action="like"))
    assert partition.state("u").hidden == (Reacted(0, "e", "i", "hide"),)
    partition.commit()
    assert store.user("u") == partition.state("u")
    fed(2, Erase(user="u"))
    assert partition.state("u") == UserState()
    store.close()


def test_a_store_keeps_what_is_hidden_and_seen(tmp_path: Path) -> None:
    store, old = PartitionStore(tmp_path), UserState()
    for number, new in enumerate(
        [
            UserState(hidden=(Reacted(1, "e", "i", "hide"),)),
            UserState(hidden=(Reacted(1, "e", "i", "hide"),), views=(Viewed(2, "s", "i"),)),
        ]
    ):
        store.write(Changes([Changed("u", old, new)], [], [], [], None, Position(1, number)))
        assert store.user("u") == new
        old = new
    store.close()
