"""Shadow evidence: every pool's own list is credited, each pair once in any order, and a broken pool is noticed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pages import LIKE, asked, external, facts_of, lists
from test_backtest import sessions
from test_fold import LIMITS, acted, decision, seen

from engine.decision import Decision, PoolPart, difference
from engine.events import Organic, Reaction, Seen
from engine.facts import Facts
from engine.fold import fold
from engine.policy import BlendPolicy, MemoryPolicy, Policy
from engine.pool_policy import PoolPolicy
from engine.population import Sums, fit
from engine.priors import mixed_chance, prior_for
from engine.shadow import ShadowRecord, ShadowSums
from engine.state import Lesson, ShadowLesson, Tally, UserState
from simulator.backtest import backtest, policy_of_logs, silent
from simulator.interactions import Interaction
from simulator.replay_plan import Break, ReplayPlan
from simulator.runs import Run, replayed
from streams.codec import encode
from streams.policy_file import read_policy
from streams.recording import Recording, read_topic
from streams.replay import replay

ROOT = Path(__file__).parent.parent
HALF_LIFE = 50
FOREVER = 10**18
AB = external(a={}, b={})
FRESH = {"similar": PoolPolicy("similar"), "fresh": PoolPolicy("fresh")}
SHADOW = BlendPolicy(shadow=True)


def listing(*, views: int = 0, request_id: str = "r", at_ms: int = 0, **listed: list[str]) -> Decision:
    """A decision of four slots, all of pool a and items i0 to i3, with these lists of a and b."""
    plain = decision(request_id, [0] * 4, at_ms)
    parts = [
        replace(part, stock=len(listed[part.pool]), listed=listed[part.pool], listed_views=views)
        for part in plain.pools
    ]
    return replace(plain, pools=parts)


def liked(item: str, action: str = "like", event_id: str | None = None) -> Organic:
    """The user acted on an item elsewhere."""
    return Organic(event_id=event_id or f"o-{item}-{action}", user="u", item=item, action=action)


def shadows(values: list[Decision | Reaction], at_ms: int = 0) -> tuple[UserState, list[ShadowLesson]]:
    """What folding them says of lists."""
    state, lessons = UserState(), list[Lesson]()
    for value in values:
        folded = fold(state, value, at_ms, LIMITS)
        state, lessons = folded.state, [*lessons, *folded.lessons]
    return state, [lesson for lesson in lessons if isinstance(lesson, ShadowLesson)]


def summed(lessons: list[ShadowLesson], half_life_views: int = HALF_LIFE) -> ShadowSums:
    """The sums of these lessons."""
    sums = ShadowSums()
    for lesson in lessons:
        sums.add(lesson, half_life_views)
    return sums


# What is credited


def test_each_pool_that_listed_an_item_where_it_was_seen_is_credited_and_every_pool_is_seen() -> None:
    """i1 is shown by a alone, and is the third of b; x stands in no feed; i3 is too far down to be seen."""
    made = listing(a=["i0", "i1", "i2", "i3"], b=["x", "i3", "i1"])
    views = [seen(slot) for slot in range(3)]
    done = [acted(1), liked("x", "hide"), liked("i3"), liked("nowhere")]
    sums = summed(shadows([made, *views, *done])[1], FOREVER)
    assert sums.now() == {
        ("de", "a", "like"): Tally(1.0, 3.0),  # i1
        ("de", "a", "hide"): Tally(0.0, 3.0),
        ("de", "b", "like"): Tally(2.0, 3.0),  # i1 and i3
        ("de", "b", "hide"): Tally(1.0, 3.0),  # x
    }
    assert sums.views == {"a": 3, "b": 3}


def test_an_organic_action_is_of_the_latest_decision_before_it() -> None:
    older = listing(a=["x"], b=["y"], request_id="older", at_ms=0)
    newer = listing(a=["y"], b=["z"], request_id="newer", at_ms=10)
    later = listing(a=["x"], b=["x"], request_id="later", at_ms=20)
    views = [seen(0, name) for name in ("older", "newer", "later")]
    _, lessons = shadows([older, newer, later, *views, liked("x"), liked("y")], at_ms=15)
    won = [lesson.won[0] for lesson in lessons if not lesson.viewed]
    assert won == [("a",)]  # y, which `newer` lists; x is not there, and `later` is not yet


names = st.lists(st.sampled_from([f"i{number}" for number in range(6)]), max_size=4, unique=True)
reactions = st.lists(
    st.one_of(
        st.builds(seen, st.integers(0, 3)),
        st.builds(acted, st.integers(0, 3), st.sampled_from(["like", "hide"])),
        st.builds(liked, st.sampled_from([f"i{number}" for number in range(6)]), st.sampled_from(["like", "hide"])),
    ),
    max_size=12,
)


@given(names, names, reactions, st.data())
def test_each_pair_counts_once_in_any_order_and_however_often_it_comes(
    first: list[str], second: list[str], values: list[Reaction], data: st.DataObject
) -> None:
    """Against counting by hand: views of places, and done items at places that were viewed."""
    views = {value.slot for value in values if isinstance(value, Seen)}
    done = {(value.item, value.action) for value in values if not isinstance(value, Seen)}
    expected = {
        ("de", pool, action): Tally(
            float(sum((item, action) in done for place, item in enumerate(items) if place in views)),
            float(sum(place in views for place in range(len(items)))),
        )
        for pool, items in (("a", first), ("b", second))
        for action in ("like", "hide")
    }
    often = data.draw(st.permutations([*values, *values]))
    before = data.draw(st.integers(0, len(often))) if not any(isinstance(value, Organic) for value in often) else 0
    values = [*often[:before], listing(a=first, b=second), *often[before:]]
    found = summed(shadows(values)[1], FOREVER).now()
    assert {cell: found.get(cell, Tally()) for cell in expected} == expected
    assert found.keys() <= expected.keys()


lessons_of = st.lists(
    st.builds(
        lambda pools, clock, viewed, won: ShadowLesson(
            "",
            ("like",),
            tuple(pools),
            (clock,) * len(pools),
            tuple(pools) if viewed else (),
            (tuple(pools[:won]),),
            1.0,
        ),
        st.sampled_from([["a"], ["b"], ["a", "b"]]),
        st.integers(0, 60 * HALF_LIFE),
        st.booleans(),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=20,
)


@given(lessons_of, st.integers(1, 2000), st.data())
def test_sums_are_the_same_in_any_order_and_over_any_partitions(
    lessons: list[ShadowLesson], half_life: int, data: st.DataObject
) -> None:
    """Half-lives of one view move the landmark; ages are by the views that all partitions counted."""
    owners = data.draw(st.lists(st.integers(0, 2), min_size=len(lessons), max_size=len(lessons)))
    whole = ShadowSums()
    for number in range(3):
        own = data.draw(st.permutations([x for x, owner in zip(lessons, owners, strict=True) if owner == number]))
        for record in summed(own, half_life).exported():
            whole.merge(record)
    views = Counter(pool for lesson in lessons for pool in lesson.viewed)
    assert whole.views == {pool: views[pool] for lesson in lessons for pool in lesson.pools}
    plain = summed(lessons, half_life)
    for sums in (whole, plain):  # no decision knows of more views than there are
        for pool in whole.views:
            sums.merge(ShadowRecord(pool, half_life, 0, 60 * HALF_LIFE, []))
    for cell, tally in plain.now().items():
        found = whole.now()[cell]
        assert (found.successes, found.exposure) == pytest.approx((tally.successes, tally.exposure), rel=1e-9)


def test_evidence_of_a_pool_counts_half_after_so_many_views_of_its_lists() -> None:
    old = [ShadowLesson("", ("like",), ("a",), (0,), ("a",), (("a",),), 1.0)] * HALF_LIFE
    new = [ShadowLesson("", ("like",), ("a",), (HALF_LIFE,), ("a",), ((),), 1.0)] * HALF_LIFE
    other = [ShadowLesson("", ("like",), ("b",), (0,), ("b",), ((),), 1.0)]
    now = summed([*old, *new, *other]).now()
    assert now["", "a", "like"] == Tally(HALF_LIFE / 4, HALF_LIFE / 4 + HALF_LIFE / 2)
    assert now["", "b", "like"].exposure == pytest.approx(2.0 ** (-1 / HALF_LIFE))


# What is made of it


def test_a_pool_that_is_never_shown_is_known_and_needs_no_exploring() -> None:
    policy = Policy(AB, LIKE, SHADOW)
    known = {("", "a", "like"): Tally(10.0, 1000.0), ("", "b", "like"): Tally(50.0, 1000.0)}
    facts = Facts(policy, replace(fit(Sums(), policy), shadow=known))
    prior, _ = prior_for(UserState(), facts, "")
    assert prior.mean[:, 0] == pytest.approx([0.01, 0.05], rel=0.2)
    assert mixed_chance(UserState(), facts) < 0.006 < mixed_chance(UserState(), facts_of(policy))
    off = replace(policy, blend=BlendPolicy())
    assert prior_for(UserState(), Facts(off, facts.population), "")[0].mean[0, 0] == pytest.approx(10 / 130)


def test_a_decision_holds_whole_lists_with_shadow_evidence_and_nothing_of_them_without() -> None:
    offered = {"a": [f"a{number}" for number in range(6)], "b": [f"b{number}" for number in range(3)]}
    for shadow in (True, False):
        facts = facts_of(Policy(AB, LIKE, BlendPolicy(shadow=shadow)))
        served = asked(facts, "r", 4, offered)
        assert [part.listed for part in served.decision.pools] == (
            [offered["a"][:4], offered["b"]] if shadow else [[], []]
        )
        assert (b"listed" in encode(served.decision)) == shadow
        (row,) = served.state.ledger.values()
        assert (row.listed is not None) == shadow
        assert difference(served.decision) is None


def test_a_list_that_is_not_the_one_that_was_read_is_refused() -> None:
    served = asked(facts_of(Policy(AB, LIKE, SHADOW)), "r", 4, lists(4, "a", "b"))
    part = max(served.decision.pools, key=lambda part: len(part.items))
    for changed in ([*part.listed, "more"], part.listed[::-1]):
        with pytest.raises(ValueError, match="another list than it listed"):
            replace(part, listed=changed)
    assert isinstance(replace(part, listed=[]), PoolPart)


def pairs(seed: int, events: int = 2000) -> list[Interaction]:
    """People who like what is in fashion, a new film every forty rows, and the second of a pair after the first."""
    random = np.random.Generator(np.random.PCG64(seed))
    last: dict[int, int] = {}
    rows = []
    for number in range(events):
        user, first = int(random.integers(0, 500)), 2 * int(random.integers(0, 40))
        if random.random() < 0.3:
            item = f"fashion{number // 40}"
        elif user in last:
            item = f"p{last.pop(user)}"
        else:
            item, last[user] = f"p{first}", first + 1
        rows.append(Interaction(f"u{user}", item, 1000 * number, "like", positive=True))
    return rows


def share_after_break(*, shadow: bool) -> float:
    """The share of `similar` in the last fifth of the feeds, after it broke at 60 %."""
    blend = BlendPolicy(shadow=shadow, epsilon=0.002, returns="winner")
    memory = MemoryPolicy(shadow_half_life_views=400, window_ms=60_000)
    plan = ReplayPlan(slots=4, broken=Break("similar", 0.6))

    policy = policy_of_logs(Policy(FRESH, LIKE, blend, memory=memory))
    board = replayed(Run("broken", pairs(2), policy, broken=plan.broken), plan, silent).board
    return board.pool_share(0.2)["similar"]


def test_shares_leave_a_broken_pool_sooner_with_shadow_evidence() -> None:
    """Without, they stay as long as what newcomers showed before counts."""
    with_shadow, without = share_after_break(shadow=True), share_after_break(shadow=False)
    print(with_shadow, without)
    assert with_shadow < 0.1
    assert without > 0.3


def test_a_recording_with_shadow_evidence_is_made_again(tmp_path: Path) -> None:
    policy = policy_of_logs(Policy(FRESH, LIKE, SHADOW))
    with Recording(tmp_path / "recording", policy) as recording:
        backtest(sessions(3, events=150), policy, dataset="d", log=recording)
    decisions = [line.value for line in read_topic(tmp_path / "recording", "feeds")]
    assert [difference(made) for made in decisions] == [None] * 150
    assert decisions[-1].pools[0].listed_views > 0
    assert replay(tmp_path / "recording") == (150, None)


def test_the_policy_of_five_pools_has_five_plain_lists_and_shadow_evidence() -> None:
    policy = read_policy(ROOT / "policies" / "five-pools.toml")
    assert sorted(policy.pools) == ["affinity", "fresh", "popular", "similar", "trending"]
    assert all(pool.kind == name for name, pool in policy.pools.items())
    assert (policy.blend.shadow, policy.population.recent_likes, policy.personal) == (True, 20, None)
