"""What a server has kept can be asked about: what was known when a feed was made is known again."""

import json
from pathlib import Path

import pytest
from folder_engine import Engine, folded_anew, living
from kafka_product import POLICY as TOML
from kafka_product import Life, Product, terminate, wait_until
from msgspec.structs import replace
from test_cli import call

from engine.events import Quarantine
from engine.offline.verdict import Verdict, verdict_of
from engine.policy import Policy
from engine.revisions import next_record
from engine.what_if import Matching, UnsupportedError
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
    traffic = kept_traffic(folder / "data")
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


def bold(policy: Policy) -> Policy:
    """A policy that acts otherwise after the same beliefs."""
    return replace(policy, blend=replace(policy.blend, temperature=0.5, epsilon=0.4, epsilon_known=0.4))


def lapse(folder: Path, topic: str, segments: int) -> None:
    """Let the first segments of a topic go."""
    for path in sorted((folder / "data" / "log" / f"{topic}-0").glob("*.log"))[:segments]:
        path.unlink()


def test_a_feed_whose_request_has_lapsed_speaks_by_its_record(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 60)
        policy = engine.policy
    whole = asked(tmp_path, bold(policy))
    lapse(tmp_path, "requests", 1)
    found = asked(tmp_path, bold(policy))
    assert (found.support.feeds, found.unknown) == (60, 0)
    assert found.asked_shares == pytest.approx(whole.asked_shares)
    assert found.reward.asked.mean == pytest.approx(whole.reward.asked.mean)


def test_feeds_that_have_lapsed_leave_those_that_are_there(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 60)
        policy = engine.policy
    lapse(tmp_path, "feeds", 2)
    found = asked(tmp_path, bold(policy))
    assert 0 < found.support.feeds < 60
    assert found.unknown == 0


def test_feeds_speak_from_when_reactions_are_whole(tmp_path: Path) -> None:
    """Those before are left out, and counted with the reason; later ones by their own evidence."""
    with living(tmp_path) as engine:
        lived(engine, 60)
        policy = engine.policy
    lapse(tmp_path, "feedback", 2)
    found = asked(tmp_path, bold(policy))
    assert found.reasons == {"reactions to them have lapsed": found.unknown}
    assert found.support.feeds + found.unknown == 60
    assert found.support.feeds > 0
    assert found.methods["ips"].recorded.mean == pytest.approx(1.0)  # each feed has one like


def test_what_is_believed_otherwise_cannot_be_asked_of_a_past_that_has_lapsed(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 60)
        policy = engine.policy
    lapse(tmp_path, "feedback", 2)
    with pytest.raises(UnsupportedError, match=r"prior_strength cannot be known"):
        asked(tmp_path, replace(policy, blend=replace(policy.blend, prior_strength=5.0)))
    lapse(tmp_path, "feedback", 1000)
    with pytest.raises(UnsupportedError, match="60: reactions to them have lapsed"):
        asked(tmp_path, policy)


def test_erased_users_say_nothing(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 60)
        engine.now_ms += 1
        engine.partitions.erase("ann")
        policy = engine.policy
    found = asked(tmp_path, bold(policy))
    assert (found.support.feeds, found.support.users, found.unknown) == (40, 2, 0)


def test_quarantined_reactions_are_no_rewards(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 30)
        engine.partitions.quarantine(Quarantine(from_ms=0, to_ms=engine.now_ms, user="ann"))
        folded_anew(engine)
        policy = engine.policy
    found = asked(tmp_path, bold(policy))
    feeds = found.support.feeds
    assert feeds == engine.number
    assert found.methods["ips"].recorded.mean == pytest.approx((feeds - 10) / feeds)


def test_another_policy_is_folded_by_from_where_the_server_switched(tmp_path: Path) -> None:
    with living(tmp_path) as engine:
        lived(engine, 30)
        changed = replace(engine.policy, memory=replace(engine.policy.memory, open_max=1))
        number = engine.partitions.shared.revisions.number
        engine.partitions.apply(next_record(changed, number, "me", "", "command"))
        engine.partitions.tick()
        lived(engine, 30)
    found = asked(tmp_path, changed)
    assert (found.support.feeds, found.unknown) == (30, 30)
    assert found.reasons == {"they were made by another policy": 30}


def test_the_command_reads_beside_a_running_server_and_from_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = ("policy", "what-if", tmp_path / "policy.toml", "--log", tmp_path / "data", "--least-users", "1")
    with living(tmp_path) as engine:
        lived(engine, 20)
        middle = str(engine.now_ms - 10_000)
        code, out, _ = call(capsys, monkeypatch, *head, "--samples", "20")
        assert (code, "no difference at all" in out, "20 feeds" in out) == (0, True, True)
        code, out, _ = call(capsys, monkeypatch, *head, "--samples", "20", "--since", middle)
        assert (code, "rests on 11 feeds" in out) == (0, True)
        code, out, _ = call(capsys, monkeypatch, *head, "--since", str(engine.now_ms + 1))
        assert (code, out.startswith("refused: ")) == (1, True)


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
