"""What docs/proof/rules.json says of rules over 100,000 feeds, and a small sample of it, lived again."""

import json
from pathlib import Path

from scripts import proof_rules

PROOF = json.loads((Path(__file__).parent.parent / "docs" / "proof" / "rules.json").read_text())


def test_no_rule_is_broken_unnamed_over_a_hundred_thousand_feeds() -> None:
    assert PROOF["feeds"] >= 100_000
    assert (PROOF["unnamed"], PROOF["differing"], PROOF["lists_in_another_order"]) == ({}, [], 0)
    assert PROOF["rebuilt"] >= 1000
    assert PROOF["lists_put_in_order_again"] > 1000
    assert PROOF["modes"] == [f"{draw} {order}" for draw, order in proof_rules.MODES]
    assert len(PROOF["commit"]) == 40


def test_a_sample_lived_again_breaks_none_and_names_what_gives_way() -> None:
    found = proof_rules.proof(1, 25, 22, 1)
    assert found["feeds"] == 25 * len(proof_rules.MODES)
    assert (found["unnamed"], found["differing"], found["named_but_kept"]) == ({}, [], {})
    assert found["lists_in_another_order"] == 0
    assert {name.partition(" ")[0] for name in found["named"]} >= {"fresh", "required"}
