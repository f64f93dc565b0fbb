"""The backtest: prequential, fair to every baseline, and the same bytes each time."""

import numpy as np
import pytest

from engine.errors import InputError
from engine.policy import BlendPolicy, Policy, PoolPolicy
from simulator.backtest import backtest
from simulator.interactions import Interaction
from simulator.scoreboard import Scoreboard


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
    digests = [backtest(rows, Policy(), dataset="d", batch=batch).summary.digest for batch in (1, 7, 256)]
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
    result = backtest(rows, Policy(), dataset="d", train_fraction=0.5)
    assert result.summary.scored == sum(row.positive for row in rows[150:])


def test_an_item_that_the_user_has_rated_is_not_offered_again() -> None:
    rows = [Interaction("u", f"i{number}", number, "rated", positive=False) for number in range(20)]
    rows += [Interaction("v", "i3", 20, "like", positive=True), Interaction("u", "i3", 21, "like", positive=True)]
    result = backtest(rows, Policy(), dataset="d", train_fraction=0.0)
    assert result.example == []
    assert result.example_user == "u"


def test_a_log_without_a_scored_positive_event_is_refused() -> None:
    rows = sessions(4, events=10)
    rows[8:] = [Interaction("u", "i", 10**7, "rated", positive=False)] * 2
    with pytest.raises(InputError, match="lower --train-fraction"):
        backtest(rows, Policy(), dataset="d", train_fraction=0.8)


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


def test_figures_are_what_counting_by_hand_gives() -> None:
    board = Scoreboard(["p"], ["a"], 6)
    slots: list[int | None] = [0, 9, 10, None, 3, 0]
    for request, slot in enumerate(slots):
        board.asked(request, request % 2, 4 if request < 2 else 5, scored=request != 5)
        board.found(request, "p", slot)
        board.placed(request, [0])
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
