"""The backtest: prequential, fair to every baseline, and the same bytes each time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.decision import Decision
from engine.errors import InputError
from engine.events import ItemUpdate
from engine.policy import BlendPolicy, Policy, PopulationPolicy
from engine.pool_policy import PoolPolicy
from simulator.backtest import backtest, policy_of_logs
from simulator.interactions import Interaction
from simulator.replay_plan import Break, Clock, ReplayPlan
from simulator.runs import Run, replayed
from simulator.scoreboard import Scoreboard
from streams.codec import encode
from streams.recording import Entry, Recording, read_topic
from streams.replay import replay


def sessions(seed: int, users: int = 30, items: int = 60, events: int = 1500) -> list[Interaction]:
    """Users walk up and down their own half of the items: neighbours say much, popularity little."""
    random = np.random.Generator(np.random.PCG64(seed))
    at = random.integers(0, items, users)
    rows = []
    for number in range(events):
        user = int(random.integers(0, users))
        at[user] = (at[user] + random.integers(1, 4)) % items
        rows.append(Interaction(f"u{user}", f"i{at[user]}", 1000 * number, "like", positive=True))
    return rows


def test_the_same_seed_gives_the_same_digest_at_any_micro_batch_size_and_another_seed_another() -> None:
    rows = sessions(1)
    digests = [
        backtest(rows, Policy(), ReplayPlan(batch=batch), dataset="d").summary.digest for batch in (1, 7, 256)
    ]
    assert len(set(digests)) == 1
    other = backtest(rows, Policy(blend=BlendPolicy(seed=1)), dataset="d").summary.digest
    assert other != digests[0]


def test_the_blend_finds_the_best_pool_whatever_it_is_called() -> None:
    rows = sessions(2)
    kinds = ["popular", "similar", "fresh"]
    for names in (kinds, kinds[::-1]):
        policy = Policy(pools={name: PoolPolicy(kind) for name, kind in zip(names, kinds, strict=True)})
        result = backtest(rows, policy, dataset="d").summary
        best = max(names, key=lambda name: result.policies[name].hit_at_10)
        assert result.policies["feedloom"].hit_at_10 > result.policies["uniform"].hit_at_10
        assert max(result.pool_share, key=lambda name: result.pool_share[name]) == best


def test_a_single_pool_learns_nothing_from_the_event_it_is_scored_on() -> None:
    """Every item is new when it is liked, so no policy that only knows the past can ever hit."""
    rows = [Interaction(f"u{number % 3}", f"i{number}", number, "like", positive=True) for number in range(200)]
    figures = backtest(rows, Policy(), dataset="d").summary.policies
    assert {name: of.hit_at_10 for name, of in figures.items()} == dict.fromkeys(figures, 0.0)


def test_rows_that_are_not_positive_teach_and_are_not_scored() -> None:
    rows = sessions(3, events=300)
    rows = [
        row if number % 2 else Interaction(row.user, row.item, row.at_ms, "rated", positive=False)
        for number, row in enumerate(rows)
    ]
    result = backtest(rows, Policy(), ReplayPlan(train_fraction=0.5), dataset="d")
    assert result.summary.scored == sum(row.positive for row in rows[150:])


def test_an_item_that_the_user_has_rated_is_not_offered_again() -> None:
    rows = [Interaction("u", f"i{number}", number, "rated", positive=False) for number in range(20)]
    rows += [Interaction("v", "i3", 20, "like", positive=True), Interaction("u", "i3", 21, "like", positive=True)]
    result = backtest(rows, Policy(), ReplayPlan(train_fraction=0.0), dataset="d")
    assert result.example == []
    assert result.example_user == "u"


def test_a_log_without_a_scored_positive_event_is_refused() -> None:
    rows = sessions(4, events=10)
    rows[8:] = [Interaction("u", "i", 10**7, "rated", positive=False)] * 2
    with pytest.raises(InputError, match="lower --train-fraction"):
        backtest(rows, Policy(), ReplayPlan(train_fraction=0.8), dataset="d")


def test_an_action_that_the_policy_does_not_name_is_refused_before_the_replay() -> None:
    rows = [*sessions(5, events=10), Interaction("u", "i", 10**7, "purchase", positive=True)]
    with pytest.raises(InputError, match=r"add \[actions.\"purchase\"\]"):
        backtest(rows, Policy(), dataset="d")


def test_the_timeline_and_the_example_speak_of_all_requests() -> None:
    result = backtest(sessions(6), Policy(), dataset="d")
    timeline = result.timeline
    assert timeline.ends[-1] == 1500
    assert timeline.ends == sorted(set(timeline.ends))
    assert sum(shares[-1] for shares in timeline.pool_share.values()) == pytest.approx(1.0)
    assert np.isnan(timeline.hit_at_10["feedloom"][0])  # the training part is not scored
    assert len(result.example) == 10


@pytest.mark.parametrize(("clock", "behind"), [("strict", 1), ("event", 0)])
def test_a_feed_is_made_at_the_time_of_the_row_before_and_reactions_come_at_the_events_own(
    clock: Clock, behind: int, tmp_path: Path
) -> None:
    rows, policy = sessions(7, events=60), policy_of_logs(Policy())
    folder = tmp_path / "recording"
    with Recording(folder, policy) as recording:
        backtest(rows, policy, ReplayPlan(clock=clock), dataset="d", log=recording)
    for line in read_topic(folder, "requests"):
        asked_at = rows[max(int(line.value.request_id) - behind, 0)].at_ms
        assert line.at_ms == line.value.ts_ms == asked_at
    decisions = [line.value for line in read_topic(folder, "feeds")]
    assert [made.at_ms for made in decisions] == [rows[max(place - behind, 0)].at_ms for place in range(60)]
    for line in read_topic(folder, "feedback"):
        at_ms = rows[int(line.value.event_id.split("-")[0])].at_ms
        assert line.at_ms == line.value.ts_ms == at_ms
    assert replay(folder) == (60, None)


def test_items_are_put_before_the_first_row_at_its_time_and_barred_ones_are_not_offered(tmp_path: Path) -> None:
    rows, policy = sessions(8, events=120), policy_of_logs(Policy())
    items = [ItemUpdate(item="i3", blocked=True), ItemUpdate(item="i4", attributes={"genre": ["x"]})]
    folder = tmp_path / "recording"
    with Recording(folder, policy) as recording:
        backtest(rows[20:], policy, dataset="d", items=items, log=recording)
    found = [(line.offset, line.at_ms, line.value) for line in read_topic(folder, "items")]
    assert found == [(0, 20_000, item) for item in items]
    shown = {item for line in read_topic(folder, "feeds") for item in line.value.slot_items}
    assert "i4" in shown
    assert "i3" not in shown
    assert replay(folder) == (100, None)


class Decisions:
    """Takes the decisions of a run; nothing goes wrong."""

    def __init__(self) -> None:
        self.made: list[Decision] = []

    def append(self, entries: Sequence[Entry]) -> None:
        self.made += [entry.value for entry in entries if isinstance(entry.value, Decision)]


def decisions(rows: list[Interaction], broken: Break | None) -> list[Decision]:
    """What one run decides."""
    log = Decisions()
    replayed(Run("run", rows, Policy(), broken=broken, log=log), ReplayPlan(), lambda _: lambda _: None)
    return log.made


def test_until_a_pool_breaks_every_decision_is_the_same_and_then_its_list_is_a_random_one() -> None:
    """`similar` has nothing for somebody who has liked nothing yet; broken, it has all that is known."""
    rows = sessions(8, events=200)
    plain, broken = decisions(rows, None), decisions(rows, Break("similar", 0.6))
    assert [encode(made) for made in broken[:120]] == [encode(made) for made in plain[:120]]
    seen: list[set[str]] = []
    for made in broken[120:]:
        past = rows[: int(made.request.request_id)]
        known = {row.item for row in past}
        rated = {row.item for row in past if row.user == made.request.user}
        part = next(part for part in made.pools if part.pool == "similar")
        assert part.stock == min(10, len(known - rated))
        assert set(part.items) <= known - rated
        if len(part.items) > 2:  # were read
            seen.append(set(part.items[:3]))
    assert len(seen) > 30
    assert len({frozenset(items) for items in seen}) > 0.95 * len(seen)  # one order for each request


def test_what_breaks_is_the_pools_list_and_the_blend_turns_to_another() -> None:
    rows = sessions(2, events=1200)
    policy = Policy(pools={name: pool for name, pool in Policy().pools.items() if pool.kind != "personal"})
    result = backtest(rows, policy, ReplayPlan(broken=Break("similar", 0.5)), dataset="d").summary
    assert result.broken is not None
    assert result.broken.pool == "similar"
    assert result.broken.share_last_fifth < result.pool_share["similar"]
    assert result.broken.hit_at_10_last_fifth < result.policies["feedloom"].hit_at_10
    assert 0.0 <= result.broken.hit_at_10_first_2_percent <= 1.0
    assert result.broken.ndcg_at_10_last_fifth <= result.broken.hit_at_10_last_fifth


def test_further_runs_change_nothing_of_the_undisturbed_one_and_each_tells_how_far_it_is() -> None:
    rows = sessions(9, events=600)
    told: dict[str, list[int]] = {}

    def begin(run: str) -> Callable[[int], None]:
        return told.setdefault(run, []).append

    plan = ReplayPlan(shuffle_within_ms=60_000, broken=Break("fresh", 0.5))
    alone = backtest(rows, Policy(), dataset="d").summary
    result = backtest(rows, Policy(), plan, dataset="d", progress=begin).summary
    assert (result.policies, result.digest, result.pool_share) == (alone.policies, alone.digest, alone.pool_share)
    assert (alone.order_shuffled, alone.broken) == (None, None)
    assert told == {run: [1, 501, 600] for run in ("replaying", "order shuffled", "fresh broken")}
    assert 0.0 < result.us_per_slate <= 1e6 / result.feeds_per_s  # to answer, and to learn as well


def test_who_walks_down_a_page_is_hit_less_often_when_the_order_inside_sessions_is_lost() -> None:
    """Each user walks up the items once; what comes next is what `similar` says, unless the order is shuffled."""
    rows = [
        Interaction(f"u{user}", f"i{item}", 10_000_000 * user + 1000 * item, "like", positive=True)
        for user in range(20)
        for item in range(40)
    ]
    policy = Policy(population=PopulationPolicy(recent_likes=1))
    for within_ms, kept in ((1000, False), (999, True)):
        result = backtest(rows, policy, ReplayPlan(shuffle_within_ms=within_ms), dataset="d").summary
        assert result.order_shuffled is not None
        assert (result.order_shuffled.hit_at_10 == result.policies["feedloom"].hit_at_10) == kept
        assert result.order_shuffled.hit_at_10 <= result.policies["feedloom"].hit_at_10
        assert result.order_shuffled.ndcg_at_10 <= result.order_shuffled.hit_at_10


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (ReplayPlan(broken=Break("nobody", 0.5)), "choose one of popular, similar, personal, fresh"),
        (ReplayPlan(broken=Break("similar", 0.9)), "--break earlier"),
        (ReplayPlan(slots=101), "at most 100"),
    ],
)
def test_a_plan_that_does_not_go_with_the_policy_or_the_log_is_refused(plan: ReplayPlan, says: str) -> None:
    rows = [*sessions(10, events=8), *[Interaction("u", "i", 10**7, "rated", positive=False)] * 2]
    with pytest.raises(InputError, match=says):
        backtest(rows, Policy(), plan, dataset="d")


@pytest.mark.parametrize("part", [0.0, 1.0, -0.5, float("nan")])
def test_a_pool_breaks_neither_before_the_first_row_nor_after_the_last(part: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Break("similar", part)


def test_figures_are_what_counting_by_hand_gives() -> None:
    board = Scoreboard(["p"], ["a"], 6)
    slots: list[int | None] = [0, 9, 10, None, 3, 0]
    for request, slot in enumerate(slots):
        board.asked(request, request % 2, 4 if request < 2 else 5, scored=request != 5)
        board.found(request, "p", slot)
        board.placed(request, [0])
    assert board.reached("p", 1).hit_at_10 == pytest.approx(3 / 5)  # whether they are scored or not
    assert board.reached("p", 1, 3).ndcg_at_10 == pytest.approx(1 / np.log2(11) / 2)
    figures = board.figures(seed=0)["p"]
    assert figures.hit_at_10 == pytest.approx(3 / 5)
    assert figures.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(11) + 1 / np.log2(5)) / 5)
    assert figures.first_five_hit == 1.0
    assert figures.hit_at_10_low <= figures.hit_at_10 <= figures.hit_at_10_high


def test_intervals_resample_users_and_not_events() -> None:
    """One user with all hits among four with none: resampling users gives a far wider interval than events."""
    board = Scoreboard(["p"], ["a"], 500)
    for request in range(500):
        board.asked(request, request % 5, 9, scored=True)
        board.found(request, "p", 0 if request % 5 == 0 else None)
    figures = board.figures(seed=0)["p"]
    assert (figures.hit_at_10_low, figures.hit_at_10_high) == (0.0, pytest.approx(0.6, abs=0.01))
    assert figures.first_five_hit is None
