"""Pages of a feed: the next one goes on with the same beliefs, the same draw and other items."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pages import LIKE, Served, asked, external, facts_of, lists, offers, policies, reacted
from test_fold import LIMITS, decision, seen, tallies

from engine.decision import difference
from engine.errors import InputError
from engine.events import SLOTS_MAX, Reaction
from engine.evidence import evidence_at
from engine.facts import Facts
from engine.fold import close_due, fold
from engine.policy import ActionPolicy, BlendPolicy, Policy
from engine.state import UserState, ViewLesson
from streams.codec import decode, encode

ACTIONS = {"like": ActionPolicy(1.0), "hide": ActionPolicy(-0.2)}
ABC = external(a={}, b={}, c={})


def feed(facts: Facts, sizes: list[int], candidates: dict[str, list[str]], state: UserState | None = None):
    """The pages of one feed, each continuing the one before."""
    pages: list[Served] = []
    for number, slots in enumerate(sizes):
        continues = f"p{number - 1}" if number else None
        pages.append(asked(facts, f"p{number}", slots, candidates, state, continues=continues))
        state = pages[-1].state
    return pages


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.sampled_from(["feed", "slot", "mean", "fixed"]),
    st.sampled_from(["fitted", "winner", "webster"]),
    st.sampled_from([0.0, 0.95]),
    st.integers(0, 50),
    st.booleans(),
)
def test_pages_are_what_one_page_of_all_their_slots_would_be(sizes, draw, returns, epsilon, seed, shared) -> None:
    """
    one      0 1 2 3 4 5 6 7 8
    pages    0 1 2|3 4 5 6|7 8      the same items of the same pools
    """
    policy = Policy(ABC, LIKE, BlendPolicy(seed, draw=draw, returns=returns, epsilon=epsilon, temperature=1.0))
    facts = replace(facts_of(policy), population=replace(facts_of(policy).population, delta=0.7))
    offered = {name: [f"{'' if shared else name}{(n * step) % 41}" for n in range(40)] for name, step in STEPS}
    pages = feed(facts, sizes, offered)
    whole = asked(facts, "p0", sum(sizes), offered).decision
    assert [item for page in pages for item in page.decision.slot_items] == whole.slot_items
    assert [pool for page in pages for pool in page.decision.slot_pools] == whole.slot_pools
    assert "".join(page.decision.slot_rules for page in pages) == whole.slot_rules
    assert len({page.decision.feed for page in pages}) == len({page.decision.explored for page in pages}) == 1
    ends = [sum(sizes[:number]) for number in range(len(sizes))]
    assert [page.decision.start for page in pages] == ends
    assert all(difference(page.decision) is None for page in pages)
    (row,) = asked(facts, "p0", sum(sizes), offered).state.ledger.values()
    rows = pages[-1].state.ledger.values()
    assert tuple(rank for page in rows for rank in page.ranks) == row.ranks
    assert tuple(weight for page in rows for weight in page.weights) == row.weights


STEPS = (("a", 1), ("b", 3), ("c", 7))


@pytest.mark.parametrize("draw", ["feed", "slot"])
def test_a_feed_asked_for_slot_by_slot_is_that_of_one_page(draw: str) -> None:
    """One draw for the feed is that of all its pages; one for each slot is another on each."""
    facts = facts_of(Policy(ABC, LIKE, BlendPolicy(draw=draw, returns="winner", epsilon=0.0, temperature=1.0)))
    pages = feed(facts, [1] * 12, lists(12, "a", "b", "c"))
    whole = asked(facts, "p0", 12, lists(12, "a", "b", "c")).decision
    owners = [page.decision.slot_pools[0] for page in pages]
    assert owners == whole.slot_pools
    assert (len(set(owners)) == 1) == (draw == "feed")
    assert all(difference(page.decision) is None for page in pages)


@given(policies(), offers, st.lists(st.integers(1, 7), min_size=2, max_size=4))
def test_no_item_stands_twice_in_a_feed_and_pages_end_where_stock_does(policy: Policy, candidates, sizes) -> None:
    candidates = {name: items for name, items in candidates.items() if name in policy.pools}
    pages = feed(facts_of(policy), sizes, candidates)
    items = [item for page in pages for item in page.decision.slot_items]
    assert len(set(items)) == len(items)
    distinct = len({item for brought in candidates.values() for item in brought})
    assert len(items) == min(sum(sizes), distinct)


def test_a_page_goes_on_with_the_beliefs_of_its_feed_whatever_the_user_did_since() -> None:
    facts = facts_of(Policy(ABC, ACTIONS, BlendPolicy(epsilon=0.0)))
    first = asked(facts, "p0", 6, lists(30, "a", "b", "c"))
    state = reacted(first, facts, dict.fromkeys(range(6), "like"))
    more = asked(facts, "p1", 6, lists(30, "a", "b", "c"), state, at_ms=2, continues="p0").decision
    other = asked(facts, "p1", 6, lists(30, "a", "b", "c"), state, at_ms=2).decision
    for part, before, fresh in zip(more.pools, first.decision.pools, other.pools, strict=True):
        assert (part.alpha, part.beta, part.rates) == (before.alpha, before.beta, before.rates)
        assert (part.strength, part.fallback) == (before.strength, before.fallback)
        assert part.before == before.realised
        assert part.rates != fresh.rates
    assert (more.cohort, other.cohort) == ("new", "")
    assert (more.feed, more.start, other.feed, other.start) == ("p0", 6, "p1", 0)


# What is no next page


def another_policy(policy: Policy) -> Policy:
    return replace(policy, blend=replace(policy.blend, seed=policy.blend.seed + 1))


PAGES = {  # what page p1 says it continues, when, and by what policy; whether it shows nothing of p0
    "the last page": ("p0", 5, False, True),
    "the last page at the end of the window": ("p0", 86_400_000, False, True),
    "the last page, too late": ("p0", 86_400_001, False, True),
    "the last page by another policy": ("p0", 5, True, True),
    "an unknown page": ("elsewhere", 5, False, False),
    "nothing": (None, 5, False, False),
}


@pytest.mark.parametrize("case", PAGES)
def test_only_the_users_last_page_is_continued_in_its_window_and_by_its_policy(case: str) -> None:
    continues, at_ms, anew, nothing_again = PAGES[case]
    policy = Policy(ABC, LIKE)
    first = asked(facts_of(policy), "p0", 6, lists(8, "a", "b", "c"))
    facts = facts_of(another_policy(policy) if anew else policy)
    page = asked(facts, "p1", 6, lists(8, "a", "b", "c"), first.state, at_ms, continues=continues).decision
    goes_on = case.startswith("the last page") and not anew and at_ms <= 86_400_000
    assert (page.feed, page.start) == (("p0", 6) if goes_on else ("p1", 0))
    assert sum(part.before for part in page.pools) == page.start
    if nothing_again:
        assert not set(page.slot_items) & set(first.decision.slot_items)
        assert sum(part.filtered for part in page.pools) == 6
    else:
        assert [part.filtered for part in page.pools] == [0, 0, 0]
    assert difference(page) is None


def test_a_page_that_is_no_longer_the_last_is_not_continued() -> None:
    facts = facts_of(Policy(ABC, LIKE))
    pages = feed(facts, [3, 3], lists(20, "a", "b", "c"))
    again = asked(facts, "other", 3, lists(20, "a", "b", "c"), pages[-1].state, continues="p0").decision
    assert (again.feed, again.start) == ("other", 0)


def test_a_request_that_is_served_again_gives_the_same_page_whatever_its_place() -> None:
    facts = facts_of(Policy(ABC, LIKE))
    pages = feed(facts, [3, 3, 3], lists(20, "a", "b", "c"))
    states = [UserState(), *(page.state for page in pages)]
    for number, page in enumerate(pages):
        continues = f"p{number - 1}" if number else None
        again = asked(facts, f"p{number}", 3, lists(20, "a", "b", "c"), states[number], continues=continues)
        assert encode(again.decision) == encode(page.decision)
        assert again.state == page.state
        known = fold(states[number + 1], page.decision, 0, facts.policy.memory)
        assert (known.outcome, known.state) == ("duplicate", page.state)


def test_a_feed_has_at_most_a_thousand_slots_on_all_its_pages() -> None:
    policy = Policy(external(a={}), LIKE, BlendPolicy(slots_max=SLOTS_MAX))
    facts = facts_of(policy)
    candidates = lists(SLOTS_MAX + 9, "a")
    pages = feed(facts, [SLOTS_MAX - 5, 5], candidates)
    assert pages[-1].decision.start + len(pages[-1].decision.slot_items) == SLOTS_MAX
    assert difference(pages[-1].decision) is None
    with pytest.raises(InputError, match="at most 1000 slots on all its pages: begin a new one"):
        asked(facts, "p1", 6, candidates, pages[0].state, continues="p0")
    with pytest.raises(InputError, match="begin a new one"):
        asked(facts, "p2", 1, candidates, pages[1].state, continues="p1")
    assert asked(facts, "p2", 1, candidates, pages[1].state).decision.start == 0


# What a later page teaches


@given(st.permutations(list(range(8)) * 2))
def test_reactions_to_all_pages_of_a_feed_count_once_at_the_rank_of_the_feed_in_any_order(order: list[int]) -> None:
    """
    p0   a a b    ranks 0 1 0        seen: the first eight of (page, slot), each delivered twice
    p1   b a a    ranks 1 2 3
    p2   b b      ranks 2 3
    """
    pages = [("p0", [0, 0, 1], (0, 0)), ("p1", [1, 0, 0], (2, 1)), ("p2", [1, 1], (4, 2))]
    made = [decision(name, pools, delta=0.5, feed="p0", before=before) for name, pools, before in pages]
    views: list[Reaction] = [seen(slot, name) for name, pools, _ in pages for slot in range(len(pools))]
    state, lessons = UserState(), []
    for value in [*made[:1], *(views[number] for number in order[:5]), *made[1:], *(views[n] for n in order)]:
        folded = fold(state, value, 0, LIMITS)
        state, lessons = folded.state, [*lessons, *folded.lessons]
    found = tallies(state)
    for pool in "ab":
        assert found[pool, "like"].exposure == pytest.approx(1.0 + 0.5 + 0.25 + 0.125, rel=1e-9)
    ranks = sorted(
        (lesson.cell[0], lesson.rank)
        for lesson in lessons
        if isinstance(lesson, ViewLesson) and lesson.cell[1] == "like"
    )
    assert ranks == [(pool, rank) for pool in "ab" for rank in range(4)]


# Rebuilding, by policies of every kind


@given(st.data())
def test_every_page_of_every_policy_is_made_again_from_its_bytes_and_says_what_ruled_each_slot(data) -> None:
    policy, candidates = data.draw(policies()), data.draw(offers)
    facts = facts_of(policy)
    candidates = {name: items for name, items in candidates.items() if name in policy.pools}
    apart = data.draw(st.booleans())
    if apart:
        candidates = {name: [f"{name}-{item}" for item in items] for name, items in candidates.items()}
    state, last, at_ms = UserState(), None, 0
    for number in range(data.draw(st.integers(1, 4))):
        continues = data.draw(st.sampled_from([None, last, last]))
        slots = data.draw(st.integers(1, 9))
        served = asked(facts, f"r{number}", slots, candidates, state, at_ms, continues=continues)
        record = decode(encode(served.decision))
        assert record == served.decision
        assert difference(record) is None
        offered = [dict.fromkeys(items) for items in served.offered]
        bits = [sum(1 << pool for pool, items in enumerate(offered) if item in items) for item in record.slot_items]
        assert record.slot_offers == bits
        assert record.slot_items == list(dict.fromkeys(record.slot_items))
        assert_rules(served, policy, apart=apart and policy.blend.order == "greedy")
        state, last = served.state, f"r{number}"
        actions = st.dictionaries(st.integers(0, 8), st.sampled_from([None, "like", "hide"]), max_size=4)
        at_ms += data.draw(st.integers(1, 10**8))
        state = reacted(served._replace(state=state), facts, data.draw(actions), at_ms)
        for cell, tally in evidence_at(state, at_ms, policy.memory).items():
            assert tally.successes >= 0.0, cell
            assert tally.exposure >= 0.0, cell


def assert_rules(served: Served, policy: Policy, *, apart: bool) -> None:
    """The letters of a page against its record; `apart`: lists share nothing, so whatever is planned is kept."""
    record = served.decision
    pinned, letters = dict(record.pinned), record.slot_rules
    rows = len(record.pools[0].rates)
    for slot, (pool, letter) in enumerate(zip(record.slot_pools, letters, strict=True)):
        assert (letter == "p") == (pinned.get(slot) == pool)
        if letter != "p":
            assert (letter == "x") == record.explored
        if letter in "db":
            rates = [part.rates[slot % rows] for part in record.pools if part.stock]
            utilities = [sum(r * w for r, w in zip(of, record.rewards, strict=True)) for of in rates]
            assert (letter == "b") == (record.mode == "fixed" or max(utilities) <= 0.0)
    for number, part in enumerate(record.pools):
        own = [letters[slot] for slot, pool in enumerate(record.slot_pools) if pool == number]
        pins = list(pinned.values()).count(number)
        required = policy.pools[part.pool].required
        guaranteed = [letter for letter in own if letter in "rf"]
        assert guaranteed == sorted(guaranteed, reverse=True)  # what is required comes first
        assert guaranteed.count("r") <= max(required - pins, 0)
        assert own.count("p") + len(guaranteed) <= max(part.floor, pins)
        if apart and not record.explored:
            assert own.count("p") + len(guaranteed) == part.floor
            assert guaranteed.count("r") == max(min(required, part.floor) - pins, 0)
        if apart:
            assert part.realised >= part.floor
            open_slots = sum(p.stock if p.cap is None else min(p.stock, p.cap) for p in record.pools)
            if part.cap is not None and open_slots >= record.request.slots:
                assert part.realised <= part.cap


def test_closing_a_feed_of_pages_teaches_each_page_once() -> None:
    facts = facts_of(Policy(ABC, LIKE))
    pages = feed(facts, [2, 2], lists(9, "a", "b", "c"))
    state = reacted(pages[1], facts, {0: "like", 1: None})
    done, lessons = close_due(state, 10**9, facts.policy.memory)
    assert done.ledger == {}
    assert sum(lesson.exposure for lesson in lessons) == pytest.approx(2.0, rel=0.01)
    assert {lesson.cell[0] for lesson in lessons} == {"new"}
