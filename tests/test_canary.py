"""Canaries: a part of the users tries a policy, which returns by itself where it does harm."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner
from embedded_product import EmbeddedProduct
from kafka_product import terminate

from engine.errors import InputError
from engine.experiments import arms_of
from engine.offline.comparisons import Difference, Interval
from engine.offline.experiments import ArmResult, ExperimentResult
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy
from engine.pool_policy import PoolPolicy
from feedloom.canary import ARM, CONTROL, PREFIX, judged, tried_by_some
from feedloom.cli import cli

NAME = f"{PREFIX}2"
POLICY = Policy(pools={"a": PoolPolicy("external"), "b": PoolPolicy("external")})
TOML = """
[pools.a]
kind = "external"
[pools.b]
kind = "external"
"""


def result(low: float, high: float, *, control: float = 1.0, mismatch: str | None = None) -> ExperimentResult:
    difference = Difference((low + high) / 2, 0.1, Interval(low, high), Interval(low, high))
    arms = [ArmResult(CONTROL, 0.9, 900, 9000, control, None), ArmResult(ARM, 0.1, 100, 900, control, difference)]
    return ExperimentResult(NAME, NAME, 0.05, arms, {}, 0, 1e-9 if mismatch else 0.5, mismatch)


@pytest.mark.parametrize(
    ("low", "high", "last", "kept"),
    [
        (-0.5, -0.11, False, False),  # surely worse than the guardrail: at once
        (-0.5, -0.09, False, None),
        (0.1, 0.5, False, None),  # better, but its time is not over
        (-0.09, 0.5, True, True),
        (-0.11, 0.5, True, False),  # not shown to be harmless
    ],
)
def test_a_canary_ends_where_the_guardrail_says(low: float, high: float, last: bool, kept: bool | None) -> None:
    verdict, said = judged(result(low, high), 0.1, last=last)
    assert (verdict and verdict.kept) == kept
    assert "the guardrail is -0.1000" in said


def test_a_sample_ratio_mismatch_and_too_few_users_keep_nothing() -> None:
    verdict, _ = judged(result(0.1, 0.2, mismatch="arm canary has 3 of 9"), 0.1, last=False)
    assert verdict is not None
    assert not verdict.kept
    few = result(0.1, 0.2)
    arms = [few.arms[0], ArmResult(ARM, 0.1, 3, 9, 1.0, None)]
    few = ExperimentResult(NAME, NAME, 0.05, arms, {}, 0, 0.5, None)
    assert judged(few, 0.1, last=False)[0] is None
    verdict, said = judged(few, 0.1, last=True)
    assert verdict is not None
    assert not verdict.kept
    assert "too few" in said


def test_the_canarys_users_have_the_new_policy_and_the_others_the_old() -> None:
    new = Policy(
        pools={"a": PoolPolicy("external", cap=0.25), "b": PoolPolicy("external")},
        actions={"like": ActionPolicy(3.0)},
        blend=BlendPolicy(epsilon=0.125),
    )
    tried = tried_by_some(POLICY, new, 0.25, NAME)
    users = [f"u{number}" for number in range(2000)]
    arms = {user: arms_of(tried.experiments, user)[NAME] for user in users}
    share = sum(arm == ARM for arm in arms.values()) / len(users)
    assert share == pytest.approx(0.25, abs=0.06)  # six standard deviations
    for user in users[:50]:
        under = tried.by_setting[((NAME, ARM),)] if arms[user] == ARM else POLICY
        wanted = new if arms[user] == ARM else POLICY
        assert (under.pools, under.actions, under.blend) == (wanted.pools, wanted.actions, wanted.blend)
    with pytest.raises(InputError, match="is under way already"):
        tried_by_some(tried, new, 0.1, "canary-3")


@pytest.mark.parametrize(
    "new",
    [
        Policy(pools={**POLICY.pools, "c": PoolPolicy("fresh")}),
        Policy(pools={"a": PoolPolicy("external")}),
        Policy(pools=POLICY.pools, memory=MemoryPolicy(history_max=5)),
    ],
)
def test_what_is_not_decided_for_each_feed_cannot_be_tried_by_some(new: Policy) -> None:
    with pytest.raises(InputError, match="a part of the users cannot try this"):
        tried_by_some(POLICY, new, 0.1, NAME)


@contextmanager
def users_who_like_a(product: EmbeddedProduct) -> Iterator[None]:
    """A hundred and fifty users, who like what pool `a` has half of the time and nothing else."""
    ended, random = threading.Event(), Random(7)

    def live() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            user, name = f"u{number % 150}", f"r{number}"
            items = product.ask(user, name)
            if items is None:
                continue
            place = [
                {"user": user, "request_id": name, "slot": slot, "item": item} for slot, item in enumerate(items)
            ]
            seen = [{"kind": "seen", "event_id": f"s{name}{at['slot']}", **at} for at in place]
            liked = [
                {"kind": "acted", "event_id": f"l{name}{at['slot']}", "action": "like", **at}
                for at in place
                if at["item"].startswith("a") and random.random() < 0.5
            ]
            product.react(seen + liked)

    living = threading.Thread(target=live)
    living.start()
    try:
        yield
    finally:
        ended.set()
        living.join()


def test_a_harmful_policy_returns_by_itself_and_a_harmless_one_stays(tmp_path: Path) -> None:
    product = EmbeddedProduct(tmp_path, policy=TOML)
    with product.server() as process:
        host, port = product.address or ("", 0)
        there = ["--url", f"http://{host}:{port}", "--watch", str(product.data), "--yes"]

        def applied(text: str, *more: str) -> tuple[int, str]:
            (tmp_path / "new.toml").write_text(TOML + text)
            args = [
                "policy",
                "apply",
                str(tmp_path / "new.toml"),
                "--why",
                "a trial",
                "--canary",
                "50%",
                *there,
                *more,
            ]
            done = CliRunner().invoke(cli, args)
            return done.exit_code, done.output

        def in_force() -> tuple[float, float]:
            policy = product.call("GET", "/v1/policy")[1]["policy"]
            assert policy["experiments"] == {}
            return policy["pools"]["a"]["cap"], policy["blend"]["temperature"]

        with users_who_like_a(product):
            before = in_force()
            code, output = applied("[blend]\ntemperature = 0.05\n", "--watch", str(tmp_path))
            assert (code, product.call("GET", "/v1/policy")[1]["number"]) != (0, 2), output
            harmful = TOML.replace("[pools.b]", "cap = 0.25\n[pools.b]", 1)
            (tmp_path / "harmful.toml").write_text(harmful)
            args = [
                "policy",
                "apply",
                str(tmp_path / "harmful.toml"),
                "--why",
                "less of a",
                "--canary",
                "50%",
                *there,
            ]
            done = CliRunner().invoke(cli, [*args, "--for", "60s", "--every", "1s", "--guardrail", "10%"])
            assert done.exit_code == 1, done.output
            assert "taken back: it is worse than the guardrail" in done.output
            assert in_force() == before
            code, output = applied(
                "[blend]\ntemperature = 0.05\n", "--for", "6s", "--every", "2s", "--guardrail", "60%"
            )
            assert (code, in_force()[1]) == (0, 0.05), output
        history = product.call("GET", "/v1/policy/history")[1]["revisions"]
        assert [one["why"].partition(":")[0] for one in history] == [
            "the first policy",
            "canary of 0.5",
            "canary taken back",
            "canary of 0.5",
            "a trial",
        ]
        assert json.loads(json.dumps(history))[1]["source"] == "command"
        terminate(process)
