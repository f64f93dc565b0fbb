"""What docs/proof/what_if.json says is within its thresholds, and a pair of it, run again, is near what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from scripts import proof_what_if as proof

PROOF = json.loads((Path(__file__).parent.parent / "docs" / "proof" / "what_if.json").read_text())
BY: dict[tuple[str, str], dict[str, Any]] = {(one["world"], one["match"]): one for one in PROOF["settings"]}
HEADLINE = "dr"


def test_intervals_hold_the_truth_in_93_to_97_of_100_recordings() -> None:
    one = BY["static", "pool"]
    assert one["pairs"] >= 2000
    assert len(one["truth"]) >= 20
    for figures in one["methods"].values():
        assert figures["of"] >= 2000
        assert 0.93 <= figures["covered"] / figures["of"] <= 0.97, figures


def test_one_recording_ranks_the_policies_as_the_simulator_does() -> None:
    ranking = BY["static", "pool"]["ranking"]
    assert ranking["policies"] >= 20
    assert ranking["correlation"] >= 0.9
    assert ranking["rank_correlation"] >= 0.9
    assert BY["static", "pool"]["methods"][HEADLINE]["correlation_of_means"] >= 0.9


def test_where_a_pools_further_items_are_worth_less_items_hold_the_truth_and_pools_do_not() -> None:
    """Satiation breaks what matching by pools takes for granted, as docs/what-if.md says."""
    items, pools = (BY["satiation", match]["methods"][HEADLINE] for match in ("item", "pool"))
    assert items["covered"] >= stats.binom.ppf(1e-6, items["of"], 0.93)
    assert pools["coverage"] < 0.9


def test_a_policy_and_a_recording_of_the_proof_give_the_truth_that_was_written() -> None:
    """Two recordings more; 24 of the first kind say how much single ones differ, 8 of their errors are enough."""
    one = BY["static", "pool"]
    names = ("all a", "c on top")
    again = proof.truths(proof.WORLDS["static"], names, 2)
    for name in names:
        error = max(one["truth_error"], 1e-3) * 24**0.5
        assert sum(again[name]) / 2 == pytest.approx(one["truth"][name], abs=8 * error)
