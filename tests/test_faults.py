"""Eight cells of the fault matrix run with the tests; docs/proof/faults.json says that all of them have held."""

import json
from pathlib import Path

import faults_embedded
import faults_kafka
import pytest

from scripts.kafka_broker import Cluster

PROOF = Path(__file__).parent.parent / "docs" / "proof" / "faults.json"
SEED = 20261127
SEEDS_MIN = 3  # that each cell has held with
EMBEDDED = (
    "killed_at_every_failpoint",
    "disk_full_then_freed",
    "an_old_state_put_back",
    "reactions_twice_and_in_disorder",
    "a_byte_flipped_inside_a_log",
)
WORKERS = (
    "killed_at_every_failpoint",
    "a_zombie_owner",
    "erased_and_quarantined_through_kills",
)
SHORT = {"erased_and_quarantined_through_kills": {"thorough": False}}


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_engine_loses_nothing_and_doubles_nothing_when(name: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    assert faults_embedded.CELLS[name](tmp_path, SEED)


@pytest.mark.parametrize("name", WORKERS)
def test_workers_lose_nothing_and_double_nothing_when(name: str, kafka: Cluster, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    assert faults_kafka.CELLS[name](tmp_path, SEED, kafka, **SHORT.get(name, {}))


def test_the_proof_holds_every_cell_of_both_matrices_with_three_seeds_at_least() -> None:
    proven = json.loads(PROOF.read_text())["cells"]
    for engine, cells in (("embedded", faults_embedded.CELLS), ("kafka", faults_kafka.CELLS)):
        assert proven[engine].keys() == cells.keys(), engine
        for name, runs in proven[engine].items():
            assert len({run["seed"] for run in runs}) == len(runs) >= SEEDS_MIN, name
