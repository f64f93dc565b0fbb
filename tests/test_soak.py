"""What docs/proof/soak.json says is within its thresholds, and a small part of it is run again."""

import json
from pathlib import Path

import pytest

from scripts import proof_soak

PROOF = json.loads((Path(__file__).parent.parent / "docs" / "proof" / "soak.json").read_text())
ENGINES = ("embedded", "worker")
GROWTH_MAX = 0.05  # of memory, in the last third of a soak beside the third before
RATIO_MAX = 4.0  # of taking over a partition beside a bare scan of its store


@pytest.mark.parametrize("engine", ENGINES)
def test_ten_minutes_of_load_leave_memory_and_descriptors_as_they_were(engine: str) -> None:
    found = PROOF["soak"][engine]
    assert found["samples"][-1][0] >= 590
    assert found["growth"] <= GROWTH_MAX
    assert found["descriptors_grown"] <= 2
    assert found.items() >= proof_soak.summary(found["samples"]).items()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_million_reactions_are_worked_off_without_growth(engine: str) -> None:
    found = PROOF["lag"][engine]
    assert found["events"] >= 1_000_000
    assert found["growth"] <= GROWTH_MAX
    assert found["descriptors_grown"] <= 4


def test_a_partition_is_taken_over_in_no_more_than_four_bare_scans_of_its_store() -> None:
    assert PROOF["recovery"]["users"] >= 100_000
    assert PROOF["recovery"]["ratio"] <= RATIO_MAX


def test_a_short_soak_keeps_its_descriptors_and_answers_everybody(tmp_path: Path) -> None:
    found = proof_soak.embedded_soak(proof_soak.made(tmp_path / "soak"), 6.0)
    assert found["feeds"] == 6 * proof_soak.PER_SECOND
    assert found["descriptors_grown"] <= 2


def test_a_short_lag_is_worked_off(tmp_path: Path) -> None:
    found = proof_soak.embedded_lag(proof_soak.made(tmp_path / "lag"), 5_000)
    assert found["events"] == 5_000
