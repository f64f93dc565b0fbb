"""`feedloom bench`: rows that say what was timed, with any peers and with none."""

import json
from contextlib import ExitStack

import numpy as np
import pytest
from rich.console import Console
from test_cli import call

from blending.blend import Blend, Rules, blend, lists_of
from blending.randomness import key_of
from blending.returns import returns_table
from feedloom.bench import Row, benchmark, print_benchmark
from feedloom.bench_peers import (
    REWARDS,
    SEED,
    SLOTS,
    Comparison,
    Duel,
    merged,
    posterior,
    rankings,
    rewards_of,
    shares,
)
from feedloom.bench_rows import comparisons, missing_peers

ALLOWED = {
    "blend draw": ["mabwiser", "river", "vw", "nop"],
    "25-slot feed": ["mabwiser + merge", "river", "vw slates", "nop"],
    "256 updates, diagonal": ["vw", "river"],
    "update, full": ["padasip", "river"],
    "score 500 of 1M": ["implicit", "faiss"],
}
NAMES = "mabwiser, river, vw, padasip, implicit, faiss"


def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed; importing them would take seconds."""
    monkeypatch.setattr("feedloom.bench_rows.find_spec", lambda name: None)


def our_feed(key: np.uint64) -> Blend:
    """A blend of what the benchmark blends."""
    rules = Rules(rewards=REWARDS, returns=returns_table(SLOTS, None))
    return blend(posterior(), rules, lists_of(rankings()), key)


def test_json_is_one_document_whose_rows_say_what_was_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_peers(monkeypatch)
    code, out, err = call(capsys, monkeypatch, "bench", "--json", "--quick", "--rounds", "2")
    assert code == 0
    assert err == f"left out, not installed (pip install 'feedloom[bench]'): {NAMES}\n"
    found = json.loads(out)
    assert list(found) == ["machine", "rows"]
    assert "Python" in found["machine"]
    assert [(row["name"], row["peer"]) for row in found["rows"]] == [("blend draw", "nop"), ("25-slot feed", "nop")]
    for row in found["rows"]:
        assert list(row) == list(Row.__struct_fields__)
        low, high = row["spread"]
        assert 0 < low <= row["ratio"] <= high
        assert row["ours_us"] > 0
        assert row["peer_us"] > 0
        assert row["limit_fraction"] == row["ratio"]
        assert row["note"]
    assert "p99" in found["rows"][1]["note"]


def test_the_table_shows_the_rows_and_what_the_peers_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_peers(monkeypatch)
    code, out, _ = call(capsys, monkeypatch, "bench", "--quick", "--rounds", "1")
    assert code == 0
    assert all(
        head in out for head in ("ours µs", "peer µs", "ratio", "spread", "25-slot feed, nop: a compiled call")
    )


def test_the_rows_of_peers_that_are_installed_answer_and_the_others_are_left_out() -> None:
    missing = missing_peers()
    left = {name: [peer for peer in peers if peer.split()[0] not in missing] for name, peers in ALLOWED.items()}
    with ExitStack() as end:
        rows = comparisons(missing, end)
        assert [(row.name, row.peer) for row in rows] == [(name, peer) for name in left for peer in left[name]]
        for row in rows:
            assert row.note
            for duel in filter(None, (row.duel, row.aside)):
                duel.ours(key_of(SEED, row.name))
                duel.theirs(key_of(SEED, row.name))
                made = duel.theirs(key_of(SEED, row.name))
                if row.name == "25-slot feed" and row.peer in ("mabwiser + merge", "river"):
                    assert len(set(made)) == SLOTS


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_the_asides_is_told_in_the_note() -> None:
    nothing = Duel(lambda key: None, lambda key: None)
    compared = [
        Comparison("25-slot feed", "nop", nothing, "does nothing"),
        Comparison("blend draw", "river", nothing, "draws", "in another way", nothing),
    ]
    rounds = [
        np.array([[4.0, 1.0], [2.0, 6.0], [1.0, 50.0]]),
        np.array([[8.0, 4.0], [2.0, 8.0], [1.0, 70.0]]),
        np.array([[4.0, 3.0], [1.0, 40.0], [1.0, 60.0]]),
    ]
    found = benchmark(compared, rounds, np.arange(101.0))
    nop, river = found.rows
    assert (nop.ours_us, nop.peer_us, nop.ratio, nop.spread, nop.limit_fraction) == (4, 3, 0.5, (0.25, 0.75), 0.5)
    assert nop.note == "does nothing; ours call by call on the wall clock p50 50.00 µs, p99 99.00 µs of 101"
    assert (river.ours_us, river.peer_us, river.ratio, river.spread) == (2, 8, 4, (3, 40))
    assert river.limit_fraction is None
    assert river.note == "draws; in another way 60 [50, 70] times ours"
    console = Console(width=100)
    with console.capture() as shown:
        print_benchmark(found, console)
    assert "[3, 40]" in shown.get()


def test_the_plain_python_that_stands_for_our_work_makes_our_feed() -> None:
    """The peers' draws, h(n), merge and dedupe, given the rates that the blend drew."""
    lists, returns = [ranking.tolist() for ranking in rankings()], returns_table(SLOTS, None).tolist()
    duplicates = 0
    for number in range(200):
        ours = our_feed(key_of(SEED, str(number)))
        utilities = [sum(rate * reward for rate, reward in zip(of, REWARDS, strict=True)) for of in ours.rates[0]]
        feed = [lists[pool][rank] for pool, rank in zip(ours.slot_pools, ours.slot_ranks, strict=True)]
        assert merged(shares(utilities, returns), lists, SLOTS) == feed
        assert len(set(ours.slot_pools)) > 1
        duplicates += int((ours.verdicts == 2).sum())
    assert duplicates > 200


def test_peers_learn_from_the_counts_of_our_posterior() -> None:
    alpha, beta = posterior()
    for action in range(REWARDS.size):
        pools, rewards = (np.array(column) for column in rewards_of(action))
        wins = np.bincount(pools, rewards)
        assert (1 + wins == alpha[:, action]).all()
        assert (1 + np.bincount(pools) - wins == beta[:, action]).all()
