"""What a server has kept can be asked about: what was known when a feed was made is known again."""

import json
from pathlib import Path

import pytest
from folder_engine import Engine, living
from kafka_product import POLICY as TOML
from kafka_product import Life, Product, terminate, wait_until
from msgspec.structs import replace
from test_cli import call

from engine.offline.verdict import Verdict, verdict_of
from engine.policy import Policy
from engine.what_if import Matching
from scripts.kafka_broker import Cluster
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


def test_a_clusters_topics_are_asked_about(
    kafka: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker folds reactions a moment after they came, so of users who are that fast feeds are left out."""
    product = Product(kafka, tmp_path, policy=TOML + "[blend]\nepsilon = 0.5\nepsilon_known = 0.5\n")
    life = Life(product, 3, seconds_between=0.15)
    life.start()
    with product.worker() as process:
        wait_until(lambda: len(product.read("feeds")) > 40, product.log)
        life.stop()
        product.wait_until_worked_off()
        terminate(process)
    monkeypatch.setenv("FEEDLOOM_BOOTSTRAP", product.settings.bootstrap)
    monkeypatch.setenv("FEEDLOOM_TOPIC_PREFIX", product.settings.topic_prefix)
    head = ("policy", "what-if", tmp_path / "policy.toml", "--least-users", "1", "--samples", "20", "--json")
    code, out, _ = call(capsys, monkeypatch, *head)
    found = json.loads(out)
    assert (code, found["reward"]["difference"]["mean"]) == (0, 0.0)
    feeds = len(product.read("feeds"))
    assert found["support"]["feeds"] + found["unknown"] == feeds
    assert found["unknown"] < 0.5 * feeds
    product.close()
