"""What docs/proof/what_if.json says is within its thresholds, and a pair of it, run again, is near what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from engine.offline.verdict import HEADLINE
from scripts import proof_what_if as proof

PROOF = json.loads((Path(__file__).parent.parent / "docs" / "proof" / "what_if.json").read_text())
SETTINGS: dict[str, dict[str, Any]] = PROOF["settings"]


def test_intervals_hold_the_truth_in_93_to_97_of_100_recordings() -> None:
    one = SETTINGS["static by pool"]
    assert one["pairs"] >= 2000
    assert len(set(one["truth"].values())) >= 20  # policies that are not one another
    for figures in one["methods"].values():
        assert figures["of"] >= 2000
        assert 0.93 <= figures["covered"] / figures["of"] <= 0.97, figures


def test_one_recording_ranks_the_policies_as_the_simulator_does() -> None:
    ranking = SETTINGS["static by pool"]["ranking"]
    assert ranking["policies"] >= 20
    assert ranking["correlation"] >= 0.9
    assert ranking["rank_correlation"] >= 0.9
    assert SETTINGS["static by pool"]["methods"][HEADLINE]["correlation_of_means"] >= 0.9


@pytest.mark.parametrize("name", ["satiation by pool", "satiation by item", "cascade by pool"])
def test_where_slots_take_from_each_other_the_intervals_that_are_printed_still_hold(name: str) -> None:
    """At least the 93 % of which so few or fewer hits have a chance of one in a million."""
    figures = SETTINGS[name]["methods"][HEADLINE]
    assert figures["covered"] >= stats.binom.ppf(1e-6, figures["of"], 0.93)


def test_where_a_pools_further_items_are_worth_less_only_the_returns_model_ranks() -> None:
    methods = SETTINGS["satiation by pool"]["methods"]
    assert methods[HEADLINE]["correlation_of_means"] >= 0.9 > methods["ips"]["correlation_of_means"]
    assert methods["ips"]["coverage"] < 0.85


def test_a_policy_and_a_recording_of_the_proof_give_the_truth_that_was_written() -> None:
    """Two recordings more; 24 of the first kind say how much single ones differ, 8 of their errors are enough."""
    one = SETTINGS["static by pool"]
    names = ("all a", "c on top")
    again = proof.truths(proof.WORLDS["static"], names, 2)
    for name in names:
        error = max(one["truth_error"], 1e-3) * 24**0.5
        assert sum(again[name]) / 2 == pytest.approx(one["truth"][name], abs=8 * error)


def test_pairs_of_the_proof_run_again_hold_the_truth_that_was_written() -> None:
    """Two pairs; their 95 % intervals, 2.5 times as wide, miss it by chance once in a million."""
    setting = proof.SETTINGS[0]
    for pair, name in enumerate(("all a", "c never")):
        reward = proof.estimated(setting, pair, name).methods[HEADLINE].asked
        assert reward.low is not None
        assert reward.high is not None
        truth = SETTINGS["static by pool"]["truth"][name]
        assert abs(reward.mean - truth) < 2.5 * (reward.high - reward.low) / 2
