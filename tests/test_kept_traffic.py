"""What a server has kept can be asked about: what was known when a feed was made is known again."""

from pathlib import Path

import pytest
from folder_engine import Engine, living
from msgspec.structs import replace
from test_cli import call

from engine.offline.verdict import Verdict, verdict_of
from engine.policy import Policy
from engine.what_if import Matching
from streams.kept_traffic import kept_traffic
from streams.what_if import Question, WhatIf, asked_of


def lived(engine: Engine, feeds: int) -> None:
    """Feeds, and a version of the population after each five."""
    for _ in range(feeds // 5):
        engine.live(5)
        engine.partitions.shared.publish(engine.partitions.shared.due_fit())


def asked(folder: Path, policy: Policy) -> Verdict:
    """What the data in a folder says of a policy."""
    with kept_traffic(folder / "data") as traffic:
        match, usable, _ = asked_of(traffic.policy, policy, None)
        return verdict_of(WhatIf(traffic, Question(usable, Matching(match, samples=40))).read())


def test_every_feed_is_made_again_of_versions_that_are_fitted_again(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 60)
        policy = engine.policy
    found = asked(tmp_path, policy)
    assert (found.support.feeds, found.unknown, found.later_pages) == (60, 0, 0)
    assert found.reward.difference.mean == found.reward.difference.high == 0.0
    assert found.support.effective_feeds == 60.0


def test_another_policy_shifts_the_shares(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 30)
        policy = engine.policy
    pools = {**policy.pools, "popular": replace(policy.pools["popular"], cap=0.0)}
    found = asked(tmp_path, replace(policy, pools=pools))
    assert found.asked_shares["popular"] < found.recorded_shares["popular"]


def test_feeds_whose_past_has_lapsed_are_left_out_and_counted(tmp_path: Path) -> None:
    """Without the feedback of partition 0, feeds that were made of it cannot be made again."""
    with living(tmp_path) as engine:
        lived(engine, 60)
        policy = engine.policy
    for segment in (tmp_path / "data" / "log" / "feedback-0").iterdir():
        segment.unlink()
    found = asked(tmp_path, policy)
    assert found.unknown > 0
    assert found.support.feeds + found.unknown == 60


def test_the_command_reads_a_folder_that_nobody_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = ("policy", "what-if", tmp_path / "policy.toml", "--log", tmp_path / "data", "--least-users", "1")
    with living(tmp_path) as engine:
        lived(engine, 20)
        code, _, err = call(capsys, monkeypatch, *head)
        assert (code, "another process has" in err) == (2, True)
    code, out, _ = call(capsys, monkeypatch, *head, "--samples", "20")
    assert (code, "no difference at all" in out) == (0, True)
