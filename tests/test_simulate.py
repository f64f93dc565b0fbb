"""The closed loop and the replay: the same bytes each time, and a planted change is found and named."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli import run

from engine.policy import Policy
from simulator.closed_loop import FeedloomLife, policy_for
from simulator.referee import Plan, judged, recovery_feeds, trial, trials
from simulator.worlds import WORLDS

KEYS = {"regret", "regret_low", "regret_high", "regret_p95", "reward_per_feed", "recovery_feeds"}
NAMES = {"feedloom", "oracle", "random", "uniform", "fixed_ratio", "greedy", "epsilon_greedy", "proportional"}


def test_the_json_of_a_simulation_is_one_document_with_the_promised_keys() -> None:
    done = run("simulate", "drift", "--seed", "7", "--feeds", "30", "--seeds", "2", "--json")
    result = json.loads(done.stdout)
    assert {key: result[key] for key in ("scenario", "seed", "feeds")} == {
        "scenario": "drift",
        "seed": 7,
        "feeds": 30,
    }
    assert result["policies"].keys() >= NAMES
    assert all(figures.keys() >= KEYS for figures in result["policies"].values())
    assert result["policies"]["oracle"]["regret"] == pytest.approx(0.0, abs=1e-9)


def test_the_same_seed_gives_the_same_topics_in_fresh_processes_at_any_micro_batch_size(tmp_path: Path) -> None:
    topics, digests = [], set()
    for batch in ("1", "7", "256"):
        folder = tmp_path / batch
        call = (
            "simulate",
            "delay",
            "--seed",
            "3",
            "--feeds",
            "160",
            "--batch",
            batch,
            "--record",
            folder,
            "--json",
        )
        digests.add(json.loads(run(*call, PYTHONHASHSEED="random").stdout)["digest"])
        topics.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert topics[0] == topics[1] == topics[2]
    assert len(digests) == 1
    assert "160 decisions, all the same" in run("replay", tmp_path / "7").stdout
    assert "160 decisions rebuilt" in run("doctor", "--records", tmp_path / "7").stdout


def test_a_replay_finds_a_planted_change_of_one_draw_and_names_the_request(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    run("simulate", "static", "--feeds", "40", "--record", folder, "--json")
    feeds = folder / "feeds.jsonl"
    lines = feeds.read_text().splitlines()
    record = json.loads(lines[23])
    record["value"]["pools"][2]["rates"][0][0] *= 1 + 1e-15
    lines[23] = json.dumps(record, separators=(",", ":"))
    feeds.write_text("\n".join(lines) + "\n")
    done = run("replay", folder, expect=1)
    assert "23 decisions are the same" in done.stdout
    assert "line 24: request 23 of user user-0: pool c has rates" in done.stdout


def test_a_replay_finds_a_lost_view_by_what_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    run("simulate", "static", "--feeds", "40", "--record", folder, "--json")
    feedback = folder / "feedback.jsonl"
    lines = feedback.read_text().splitlines()
    feedback.write_text("\n".join(lines[:50] + lines[51:]) + "\n")
    assert "alpha" in (told := run("replay", folder, expect=1).stdout) or "beta" in told or "population" in told


def test_many_users_share_a_population_and_nothing_else() -> None:
    world = WORLDS["static"]
    policy = policy_for(world, Policy())
    together = FeedloomLife(world, policy, 5, 3, 20)
    together.run()
    assert together.life.rewards.shape == (3, 20)
    assert set(together.runner.states) == {"user-0", "user-1", "user-2"}
    alone = FeedloomLife(world, policy, 5, 1, 20)
    alone.run()
    # Nobody's first feed depends on the others: the population has learned nothing that is closed yet.
    assert together.life.rewards[0, 0] == alone.life.rewards[0, 0]


def test_seeds_in_parallel_processes_are_the_seeds_one_by_one() -> None:
    plan = Plan("satiation", Policy(), 40, 1, 256, compared=False)
    parallel = list(trials(plan, range(2)))
    for seed, one in enumerate(parallel):
        again = trial(plan, seed)
        assert one.digest == again.digest
        assert np.array_equal(one.regret["feedloom"], again.regret["feedloom"])
    simulation, curves = judged(plan, 0, parallel)
    assert simulation.policies["feedloom"].regret == pytest.approx(
        np.mean([one.regret["feedloom"].sum() for one in parallel])
    )
    assert curves.shares.sum(axis=1) == pytest.approx(np.ones(40))


def test_recovery_is_counted_from_each_change() -> None:
    best = np.ones(400)
    reward = np.ones(400)
    reward[100:130] = 0.0
    reward[200:300] = 0.5
    waits = [28.0, 100.0, 0.0]  # 2.5 of 25 smoothed feeds may still be bad; never, at once
    assert recovery_feeds(reward, best, 100) == pytest.approx(np.mean(waits), abs=1.0)
    assert recovery_feeds(reward, best, 0) is None


def test_the_cost_of_a_feed_and_its_state_do_not_grow_with_the_feeds() -> None:
    """Sizes, not seconds: what is kept after 1,200 feeds is what was kept after 600, to a tenth."""
    world = WORLDS["static"]
    policy = policy_for(world, Policy())
    sizes = []
    for feeds in (600, 1200):
        life = FeedloomLife(world, policy, 1, 1, feeds)
        life.run()
        state = life.runner.states["user-0"]
        sizes.append((len(state.ledger), len(life.runner.sums.items), len(life.runner._due)))
        assert len(state.history) <= policy.memory.history_max
    assert sizes[0][0] == pytest.approx(sizes[1][0], abs=2)
    assert sizes[1][1] <= 300
    assert sizes[0][2] == pytest.approx(sizes[1][2], abs=2)
