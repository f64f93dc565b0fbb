"""What-if: the same policy differs by nothing, a better one is found better, and what no log knows is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from test_cli import GOOD, call

from engine.errors import InputError
from engine.events import ItemUpdate, Request
from engine.experiments import ArmPolicy, ExperimentPolicy, arms_of
from engine.offline.verdict import Limits, Verdict, verdict_of
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy
from engine.pool_policy import PoolPolicy
from engine.rules import CapRule
from engine.what_if import Matching, UnsupportedError, lists_alike
from simulator.choice import PositionBased
from simulator.closed_loop import FeedloomLife
from simulator.worlds import World
from streams.embedded import EmbeddedRunner
from streams.past import Input, RecordedPast, Traffic, inputs_of
from streams.recording import Entry, Recording
from streams.what_if import Question, WhatIf, asked_of

# Rates so far apart that a page of a's earns 2.8 likes more than one of c's.
WORLD = World("far apart", (0.8, 0.3, 0.1), slots=4, choice=PositionBased((1.0, 0.9, 0.8, 0.7)))
USERS, FEEDS = 110, 2


class Kept:
    """A log in memory. It loses nothing."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, entries: Sequence[Entry]) -> None:
        self.entries += entries


def fixed(*ratios: float, epsilon: float = 0.02) -> Policy:
    """A policy of fixed shares."""
    pools = {name: PoolPolicy("external", ratio=ratio) for name, ratio in zip("abc", ratios, strict=True)}
    return Policy(pools=pools, blend=BlendPolicy(draw="fixed", epsilon=epsilon, epsilon_known=epsilon))


def recorded(policy: Policy, users: int = USERS) -> list[Input]:
    """What users did with this policy."""
    log = Kept()
    FeedloomLife(WORLD, policy, 4, users, FEEDS, log=log).run()
    return [Input(entry.at_ms, entry.value, f"offset {entry.offset}") for entry in log.entries]


def verdict(inputs: Sequence[Input], log: Policy, asked: Policy, **how: object) -> Verdict:
    """What a log says of a policy."""
    match, usable, _ = asked_of(log, asked, how.pop("match", None))
    limits = Limits(how.pop("users_min", 50.0))
    question = Question(usable, Matching(match, samples=100, **how))
    return verdict_of(WhatIf(traffic(inputs, log), question).read(), limits)


def traffic(inputs: Sequence[Input], log: Policy) -> Traffic:
    """A log to be read once."""
    return Traffic(log, RecordedPast(log), 0, 1.0, lambda: iter(inputs))


MIXED = fixed(1.0, 1.0, 4.0, epsilon=0.6)  # shows c most of all, which is the worst
LOG = recorded(MIXED)


@pytest.mark.parametrize("how", [{}, {"match": "item"}, {"explored_only": True}])
def test_the_policy_of_the_log_differs_by_nothing_and_every_feed_counts_as_one(how: dict[str, object]) -> None:
    found = verdict(LOG, MIXED, MIXED, **how)
    for reward in [*found.methods.values(), *(cohort.reward for cohort in found.cohorts)]:
        assert (reward.difference.mean, reward.difference.low, reward.difference.high) == (0.0, 0.0, 0.0)
    assert found.recorded_shares == found.asked_shares
    if "explored_only" in how:
        assert found.support.feeds == found.explored < USERS * FEEDS
    else:
        assert found.support.effective_feeds == found.support.feeds == USERS * FEEDS
        assert found.support.effective_users == found.support.users == USERS
        assert found.methods["ips"].recorded.mean == pytest.approx(likes(LOG) / (USERS * FEEDS))


def likes(inputs: Sequence[Input]) -> int:
    """How many there were."""
    return sum(type(one.value).__name__ == "Acted" for one in inputs)


@pytest.mark.parametrize("how", [{}, {"match": "item"}, {"explored_only": True}])
def test_a_policy_that_shows_more_of_the_best_pool_is_found_to_be_better(how: dict[str, object]) -> None:
    """A page is worth .34 likes less for each tenth of it that goes from a to c; here half of it moves."""
    found = verdict(LOG, MIXED, fixed(4.0, 1.0, 1.0, epsilon=0.6), users_min=30.0, **how)
    assert found.refused is None
    assert found.reward.difference.low > 0.0
    assert found.asked_shares["a"] > found.recorded_shares["a"] + 0.1
    worse = verdict(LOG, MIXED, fixed(0.0, 1.0, 9.0, epsilon=0.4), **how)
    assert worse.reward.difference.high < 0.0
    assert worse.worst in {cohort.cohort for cohort in worse.cohorts}


def test_what_is_estimated_is_what_the_world_pays() -> None:
    """The policy's own users earn what it is said to earn; both errors counted, once in a million it fails."""
    asked = fixed(4.0, 1.0, 1.0, epsilon=0.6)
    found = verdict(LOG, MIXED, asked)
    lived = FeedloomLife(WORLD, asked, 9, USERS, FEEDS)
    lived.run()
    error = (found.reward.asked.high - found.reward.asked.low) / (2.0 * 1.96)
    spread = lived.life.rewards.std() / np.sqrt(lived.life.rewards.size)
    assert abs(found.reward.asked.mean - lived.life.rewards.mean()) < 4.9 * np.hypot(error, spread)


def test_what_the_log_could_not_show_is_refused_with_the_reason() -> None:
    only_a = fixed(1.0, 0.0, 0.0, epsilon=0.0)
    log = recorded(only_a, 60)
    refused = verdict(log, only_a, fixed(0.0, 0.0, 1.0)).refused
    assert refused is not None
    assert "no chance of showing" in refused
    assert verdict(log, only_a, only_a).refused is None


def test_too_few_users_are_refused() -> None:
    refused = verdict(recorded(MIXED, 30), MIXED, MIXED).refused
    assert refused is not None
    assert "30.0 users" in refused


def test_rewards_of_the_new_policy_value_both() -> None:
    doubled = replace(MIXED, actions={"like": ActionPolicy(2.0)})
    one, two = verdict(LOG, MIXED, MIXED), verdict(LOG, MIXED, doubled)
    assert two.reward.recorded.mean == pytest.approx(2.0 * one.reward.recorded.mean)


def test_what_is_learned_stays_as_it_was_and_is_named() -> None:
    other = replace(MIXED, memory=MemoryPolicy(half_life_slots=7), blend=replace(MIXED.blend, shadow=True))
    match, usable, kept = asked_of(MIXED, other, None)
    assert (match, kept) == ("pool", ["memory.half_life_slots", "blend.shadow"])
    assert usable == MIXED


def test_actions_that_are_worth_nothing_need_not_be_named_again() -> None:
    log = Policy(actions={"hide": ActionPolicy(0.0), "like": ActionPolicy(1.0)})
    assert asked_of(log, Policy(), None)[1] == log


def test_lists_are_alike_where_nothing_that_makes_them_differs() -> None:
    policy = Policy()
    popular = PoolPolicy("trending", floor=0.1)
    assert lists_alike(replace(policy, blend=BlendPolicy(temperature=1.0)), policy)
    assert not lists_alike(replace(policy, pools={**policy.pools, "popular": popular}), policy)
    assert not lists_alike(replace(policy, actions={"buy": ActionPolicy(1.0)}), policy)
    with pytest.raises(InputError, match="match by item"):
        asked_of(policy, replace(policy, pools={**policy.pools, "popular": popular}), "pool")


def test_arms_of_experiments_hold_for_their_users_alone() -> None:
    """The log's policy as an arm of half the users: where the control is another, these alone differ by nothing."""
    arms = {"control": ArmPolicy(set={"pools.a.ratio": 6.0}), "as_it_was": ArmPolicy()}
    tried = replace(MIXED, experiments={"half": ExperimentPolicy(arms=arms)})
    assert lists_alike(tried, MIXED)
    found = WhatIf(traffic(LOG, MIXED), Question(tried, Matching("pool", samples=20))).read()
    inside = [arms_of(tried.experiments, f"user-{number}")["half"] == "as_it_was" for number in range(USERS)]
    alike = (found.asked.ratios == 1.0).all(axis=1)
    assert 0 < sum(inside) < USERS
    assert alike.tolist() == [inside[user] for user in found.logged.users]


@pytest.mark.parametrize("match", ["pool", "item"])
def test_lists_that_rules_thin_are_known_as_far_as_they_were_read(match: str) -> None:
    log = Kept()
    thinned = replace(MIXED, rules={"alike": CapRule(attribute="topic", most=1)})
    runner = EmbeddedRunner(thinned, log)
    for item in range(6):
        topic = {"topic": str(item // 2)}
        runner.put(ItemUpdate(item=f"a{item}", attributes=topic), 0)
        runner.put(ItemUpdate(item=f"b{item}", attributes=topic), 0)
    for number in range(20):
        candidates = {pool: [f"{pool}{place}" for place in range(6)] for pool in "abc"}
        request = Request(request_id="r", user=f"u{number}", slots=4, candidates=candidates)
        made = runner.serve(request, runner.gather(request, number), number)
        topics = [int(item[1:]) // 2 for item in made.slot_items if item[0] != "c"]
        assert len(set(topics)) == len(topics)
    runner.commit()
    inputs = [Input(entry.at_ms, entry.value, "") for entry in log.entries]
    same = verdict(inputs, thinned, thinned, match=match)
    assert (same.reward.difference.mean, same.support.effective_feeds) == (0.0, 20.0)
    without = verdict(inputs, thinned, MIXED)
    assert without.support.feeds == 20
    assert without.asked_shares["c"] < same.asked_shares["c"]


def test_a_new_external_pool_has_no_candidates_in_the_log() -> None:
    more = replace(MIXED, pools={**MIXED.pools, "d": PoolPolicy("external")})
    with pytest.raises(UnsupportedError, match="'d'"):
        asked_of(MIXED, more, None)


def test_a_pool_that_goes_is_matched_by_items() -> None:
    less = replace(MIXED, pools={name: pool for name, pool in MIXED.pools.items() if name != "c"})
    found = verdict(LOG, MIXED, less)
    assert found.asked_shares["c"] == 0.0
    assert found.reward.difference.low > 0.0


def test_later_pages_are_left_out_and_counted() -> None:
    log = Kept()
    runner = EmbeddedRunner(MIXED, log)
    for number in range(4):
        candidates = {pool: [f"{pool}{place}" for place in range(8)] for pool in "abc"}
        before = "0" if number == 1 else None
        request = Request(
            request_id=str(number), user=f"u{number // 2}", slots=2, candidates=candidates, continues=before
        )
        runner.serve(request, runner.gather(request, number), number)
    runner.commit()
    inputs = [Input(entry.at_ms, entry.value, "") for entry in log.entries]
    found = verdict(inputs, MIXED, MIXED)
    assert (found.later_pages, found.support.feeds) == (1, 3)


def test_a_log_that_lost_a_request_is_no_log() -> None:
    lost = next(number for number, one in enumerate(LOG) if isinstance(one.value, Request))
    with pytest.raises(InputError, match="decided and never asked"):
        verdict([*LOG[:lost], *LOG[lost + 1 :]], MIXED, MIXED)


def test_cohorts_are_told_apart_by_the_context_and_the_smallest_are_one() -> None:
    log = Kept()
    runner = EmbeddedRunner(MIXED, log)
    for number in range(130):
        candidates = {pool: [f"{pool}{place}" for place in range(2)] for pool in "abc"}
        context = {"city": f"city {number % 65:02}"} if number < 129 else {"city": "city 00"}
        request = Request(request_id="r", user=f"u{number}", slots=2, candidates=candidates, context=context)
        runner.serve(request, runner.gather(request, number), number)
    runner.commit()
    inputs = [Input(entry.at_ms, entry.value, "") for entry in log.entries]
    question = Question(MIXED, Matching("pool", samples=20), "city")
    found = WhatIf(traffic(inputs, MIXED), question).read()
    assert (len(found.cohorts), found.cohorts[-1]) == (65, "(others)")
    assert (found.logged.cohorts == 64).sum() == 1
    assert (found.logged.cohorts == 0).sum() == 3


def recording(folder: Path) -> Path:
    """A recording of users whom c is shown to, in a folder."""
    with Recording(folder, MIXED) as log:
        FeedloomLife(WORLD, MIXED, 4, USERS, FEEDS, log=log).run()
    return folder


TOML = """[pools.a]
kind = "external"
ratio = 4.0
[pools.b]
kind = "external"
[pools.c]
kind = "external"
[blend]
draw = "fixed"
epsilon = {epsilon}
epsilon_known = {epsilon}
"""


def test_the_command_says_better_and_its_document_has_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, toml = recording(tmp_path / "log"), tmp_path / "new.toml"
    toml.write_text(TOML.format(epsilon=0.6))
    head = ("policy", "what-if", toml, "--log", folder, "--samples", "100")
    code, out, _ = call(capsys, monkeypatch, *head)
    assert code == 0, out
    assert ": better" in out
    code, out, err = call(capsys, monkeypatch, *head, "--json")
    document = json.loads(out)
    assert (code, err, document["refused"], document["match"]) == (0, "", None, "pool")
    assert document["reward"]["difference"]["low"] > 0.0
    assert document["recorded"] == MIXED.version
    assert document["support"]["effective_users"] > 50.0
    assert sum(document["asked_shares"].values()) == pytest.approx(1.0)
    code, out, _ = call(capsys, monkeypatch, *head, "--least-users", "1000")
    assert (code, "refused: " in out, "better" in out) == (1, True, False)


def test_the_command_refuses_what_is_no_recording_and_what_no_recording_can_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, toml = recording(tmp_path / "log"), tmp_path / "new.toml"
    toml.write_text(TOML.format(epsilon=0.6))
    code, out, err = call(capsys, monkeypatch, "policy", "what-if", toml, "--log", tmp_path / "none")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    toml.write_text(TOML.format(epsilon=0.6) + '[pools.d]\nkind = "external"\n')
    code, out, _ = call(capsys, monkeypatch, "policy", "what-if", toml, "--log", folder, "--json")
    assert (code, "'d'" in json.loads(out)["refused"]) == (1, True)


def test_a_recording_of_pools_that_list_for_themselves_can_be_asked_by_pools_and_by_items(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, toml, folder = tmp_path / "log.csv", tmp_path / "new.toml", tmp_path / "rec"
    log.write_text(GOOD)
    toml.write_text("[blend]\nepsilon = 0.5\nepsilon_known = 0.5\n")
    done = call(
        capsys,
        monkeypatch,
        "backtest",
        log,
        "--positive",
        "value>=3",
        "--policy",
        toml,
        "--record",
        folder,
        "--json",
    )
    assert done[0] == 0, done
    head = ("policy", "what-if", toml, "--log", folder, "--samples", "50", "--least-users", "1", "--json")
    same = json.loads(call(capsys, monkeypatch, *head)[1])
    assert (same["match"], same["reward"]["difference"]["high"]) == ("pool", 0.0)
    toml.write_text('[blend]\nepsilon = 0.5\n[pools.popular]\nkind = "trending"\n[pools.fresh]\nkind = "fresh"\n')
    other = json.loads(call(capsys, monkeypatch, *head)[1])
    assert other["match"] == "item"
    assert other["asked_shares"]["similar"] == 0.0


def test_a_folder_is_read_in_the_order_of_its_log(tmp_path: Path) -> None:
    read = list(inputs_of(recording(tmp_path / "log")))
    assert [(one.at_ms, one.value) for one in read] == [(one.at_ms, one.value) for one in LOG]
