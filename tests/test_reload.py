"""Reloads of the policy: between two turns, whole or not at all, and undone by the one before."""

import asyncio
import json
import re
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from random import Random

import msgspec
import pytest
from click.testing import CliRunner
from kafka_product import POLICY as TOML
from kafka_product import Product, wait_until

from engine.decision import Decision, difference
from engine.errors import InputError
from engine.events import Acted, Organic, Request, Seen, Switch
from engine.experiments import ArmPolicy, ExperimentPolicy
from engine.facts import Facts
from engine.fold import fold
from engine.policy import ActionPolicy, BlendPolicy, MemoryPolicy, Policy, PopulationPolicy
from engine.pool_policy import PoolPolicy
from engine.pools import gather
from engine.population import Sums, fit
from engine.revisions import Revisions, StaleError, differences, next_record, undone_to
from engine.serve import serve
from engine.state import UserState
from feedloom.canary import is_canary
from feedloom.cli import cli
from streams.asking import Change, UnavailableError
from streams.codec import decode, encode
from streams.durable import DurableEngine
from streams.messages import Record
from streams.orders import FolderTarget, KafkaTarget
from streams.partition import NotYetKnownError, Partition
from streams.policy_file import read_policy
from streams.policy_watch import FileNews
from streams.settings import Settings
from streams.store import PartitionStore

POLICY = Policy(
    pools={"a": PoolPolicy("external"), "b": PoolPolicy("external")},
    actions={"like": ActionPolicy(1.0), "hide": ActionPolicy(-1.0), "share": ActionPolicy(0.0)},
    population=PopulationPolicy(every_ms=100),
)
CANDIDATES = {"a": [f"a{n}" for n in range(6)], "b": [f"b{n}" for n in range(6)]}
RELOADS = 200
PER_TURN = 4  # requests of a partition


def rewarded(number: int, policy: Policy = POLICY) -> Policy:
    """Good policies, no two of which are equal."""
    actions = {**policy.actions, "like": ActionPolicy(1.0 + number / 1000)}
    blend = msgspec.structs.replace(policy.blend, epsilon=number / 1000)
    return msgspec.structs.replace(policy, actions=actions, blend=blend)


def unusable(number: int) -> Policy:
    """Policies that are whole and cannot follow the one in force."""
    if number % 2:
        return msgspec.structs.replace(POLICY, memory=MemoryPolicy(half_life_ms=number + 1))
    return msgspec.structs.replace(POLICY, pools={"a": PoolPolicy("nowhere.to.be:Found")})


def taken(revisions: Revisions, policy: Policy, at_ms: int = 0) -> None:
    record = next_record(policy, revisions.number, "ann", "because", "command")
    revisions.take(msgspec.json.encode(record), at_ms)


def unmixed(decision: Decision, policies: dict[str, Policy]) -> None:
    """A decision says what one policy says."""
    policy = policies[decision.policy_version]
    assert decision.actions == list(policy.actions)
    assert decision.rewards == list(policy.rewards.values())
    assert decision.epsilon <= policy.blend.epsilon
    assert decision.temperature == policy.blend.temperature
    assert [part.pool for part in decision.pools] == list(policy.pools)
    assert difference(decision) is None


# Revisions.


def test_a_policy_that_is_refused_changes_nothing() -> None:
    revisions = Revisions(POLICY, frozenset())
    taken(revisions, rewarded(1))
    before = list(revisions.history)
    stale = msgspec.json.encode(next_record(rewarded(2), 0, "bob", "", "command"))
    good = json.loads(msgspec.json.encode(next_record(rewarded(2), 1, "bob", "", "command")))
    bad = [
        stale,
        b"",
        b"\xff",
        b"[" * 10_000,
        json.dumps({**good, "policy": {"blend": {"sede": 1}}}).encode(),
        json.dumps({**good, "policy": {"blend": {"epsilon": 7}}}).encode(),
        json.dumps({**good, "policy": None}).encode(),
        json.dumps({**good, "number": 0}).encode(),
        json.dumps({**good, "schema": 9}).encode(),
        *[msgspec.json.encode(next_record(unusable(number), 1, "bob", "", "command")) for number in (2, 3)],
    ]
    for value in bad:
        with pytest.raises(InputError):
            revisions.take(value, 5)
        assert (revisions.history, revisions.policy, revisions.number) == (before, rewarded(1), 1)
    assert revisions.take(msgspec.json.encode(good), 5)
    assert (revisions.number, revisions.policy) == (2, rewarded(2))
    assert not revisions.take(msgspec.json.encode(good), 6)  # said twice


def test_of_two_that_follow_the_same_revision_the_first_counts() -> None:
    revisions = Revisions(POLICY)
    one, other = (next_record(rewarded(number), 0, "ann", "", "command") for number in (1, 2))
    assert one.key != other.key  # so neither replaces the other in its topic
    revisions.take(msgspec.json.encode(one), 1)
    with pytest.raises(StaleError, match="made to follow revision 0, and revision 1 is in force"):
        revisions.take(msgspec.json.encode(other), 2)


def test_a_revision_is_found_by_number_by_version_and_by_time() -> None:
    revisions = Revisions(POLICY)
    assert revisions.at(0) is revisions.before(9) is revisions.policy is POLICY
    for number, at_ms in ((1, 10), (2, 20)):
        taken(revisions, rewarded(number), at_ms)
    assert [revisions.at(number) for number in (0, 1, 2)] == [rewarded(1), rewarded(1), rewarded(2)]
    assert [revisions.before(at_ms) for at_ms in (5, 10, 11, 20, 21)] == [
        rewarded(number) for number in (1, 1, 1, 1, 2)
    ]
    assert revisions.made_under(rewarded(1).version) == rewarded(1)
    assert revisions.made_under("nobody knows") == rewarded(2)
    assert [revisions.resumed(number) for number in (0, 1, 2, 9)] == [rewarded(number) for number in (1, 1, 2, 2)]
    with pytest.raises(InputError, match="no revision 3"):
        revisions.at(3)


def test_an_action_that_was_named_once_may_still_come() -> None:
    revisions = Revisions(POLICY)
    revisions.check_action("hide")
    taken(revisions, POLICY)
    taken(revisions, msgspec.structs.replace(POLICY, actions={"like": ActionPolicy(1.0)}))
    revisions.check_action("hide")
    with pytest.raises(InputError, match="does not name action 'buy'"):
        revisions.check_action("buy")


def test_differences_are_keys_as_a_file_has_them() -> None:
    new = msgspec.structs.replace(
        rewarded(3), pools={"a": PoolPolicy("external", floor=0.5), "c": PoolPolicy("fresh", ratio=2.0)}
    )
    found = {key: (old, now) for key, old, now in differences(POLICY, new)}
    assert found["actions.like.reward"] == (1.0, 1.003)
    assert found["pools.a.floor"] == (0.0, 0.5)
    assert found["pools.c.ratio"] == (None, 2.0)
    assert found["pools.b.kind"] == ("external", None)
    assert not differences(POLICY, POLICY)
    turned = msgspec.structs.replace(POLICY, pools=dict(reversed(POLICY.pools.items())))
    ((key, was, now),) = differences(POLICY, turned)
    assert (key, was[:2], now[:2]) == ("order of names", ["pools.a", "pools.b"], ["pools.b", "pools.a"])


# What a change of rewards does.


def test_other_rewards_score_history_again_as_if_they_had_always_been() -> None:
    """The same evidence folded under the old rewards and the new: the next decisions are equal to the bit."""
    random = Random(3)
    new = msgspec.structs.replace(
        POLICY,
        actions={"like": ActionPolicy(0.2), "hide": ActionPolicy(-5.0), "share": ActionPolicy(3.0)},
    )
    lives = {
        name: (policy, {user: UserState() for user in "uvw"}, Sums())
        for name, policy in (("old", POLICY), ("new", new))
    }
    at_ms = 0
    for number in range(60):
        user, at_ms = random.choice("uvw"), at_ms + 1000
        request = Request(request_id=f"r{number}", user=user, slots=4, candidates=CANDIDATES)
        policy, states, sums = lives["old"]
        facts = Facts(policy, fit(sums, policy))
        made = serve(states[user], request, gather(states[user], request, facts, at_ms), at_ms)
        values: list = [made]
        for slot, item in enumerate(made.slot_items):
            place = {"user": user, "request_id": request.request_id, "slot": slot, "item": item}
            values.append(Seen(event_id=f"s{number}.{slot}", **place))
            for action, chance in (("like", 0.2), ("hide", 0.1), ("share", 0.1)):
                if random.random() < chance * (2 if item.startswith("b") else 1):
                    values.append(Acted(event_id=f"{action}{number}.{slot}", action=action, **place))
        for policy, states, sums in lives.values():
            for value in values:
                folded = fold(states[user], value, at_ms, policy.memory)
                states[user] = folded.state
                sums.absorb(folded.lessons, at_ms, policy)
    later = []
    for _, states, sums in lives.values():
        facts = Facts(new, fit(sums, new))
        for number in range(40):
            user = "uvwx"[number % 4]
            state = states.get(user, UserState())
            request = Request(request_id=f"later{number}", user=user, slots=4, candidates=CANDIDATES)
            later.append(serve(state, request, gather(state, request, facts, at_ms + 1), at_ms + 1))
    reloaded, always = later[:40], later[40:]
    assert [msgspec.json.encode(one) for one in reloaded] == [msgspec.json.encode(one) for one in always]
    policy, states, sums = lives["old"]
    facts = Facts(policy, fit(sums, policy))
    request = later[0].request
    before = serve(
        states["u"],
        msgspec.structs.replace(request, candidates=CANDIDATES),
        gather(states["u"], msgspec.structs.replace(request, candidates=CANDIDATES), facts, at_ms + 1),
        at_ms + 1,
    )
    for was, now in zip(before.pools, reloaded[0].pools, strict=True):
        assert (was.alpha, was.beta, was.rates) == (now.alpha, now.beta, now.rates)  # evidence and draws stay
    assert before.rewards != reloaded[0].rewards


# The embedded engine.


def test_200_reloads_under_load_a_third_of_them_bad(tmp_path: Path) -> None:
    async def check() -> None:
        engine = DurableEngine(tmp_path / "data", POLICY, Settings(partitions=2, fsync="never"))
        running = asyncio.create_task(engine.run())
        while engine.trouble:  # noqa: ASYNC110  of a task that has more to do
            await asyncio.sleep(0.01)
        made: list[Decision] = []
        changing = True

        async def live(user: str) -> None:
            number = 0
            while changing:
                number += 1
                request = Request(request_id=f"{user}.{number}", user=user, slots=4, candidates=CANDIDATES)
                decision = await engine.ask(request)
                made.append(decision)
                place = {"user": user, "request_id": request.request_id, "slot": 0, "item": decision.slot_items[0]}
                await engine.report(
                    [Seen(event_id=f"s{number}", **place), Acted(event_id=f"l{number}", action="like", **place)]
                )

        users = [asyncio.create_task(live(f"u{number}")) for number in range(8)]
        policies, refused = {POLICY.version: POLICY}, 0
        for number in range(1, RELOADS + 1):
            bad = number % 3 == 0
            policy = unusable(number) if bad else rewarded(number)
            kept = engine.revisions.number
            if bad:
                with pytest.raises(InputError):
                    await engine.apply(Change(policy, "ann", f"change {number}"))
                refused += 1
                assert engine.revisions.number == kept
                continue
            policies[policy.version] = policy
            await engine.apply(Change(policy, "ann", f"change {number}", after=kept))
            # The next turn is made by it.
            asked = Request(request_id=f"after{number}", user="probe", slots=2, candidates=CANDIDATES)
            assert (await engine.ask(asked)).policy_version == policy.version
        changing = False
        await asyncio.gather(*users)
        for decision in made:
            unmixed(decision, policies)
        assert len({decision.policy_version for decision in made}) > RELOADS / 4
        with pytest.raises(StaleError):
            await engine.apply(Change(POLICY, "bob", "too late", after=1))
        assert engine.revisions.number == 1 + RELOADS - refused
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        engine.stop()
        again = FolderTarget(tmp_path / "data", Settings())
        alerts = [decode_alert(record.value) for chunk in again._topics.log("alerts").read() for record in chunk]
        assert Counter(name for name, _ in alerts) == {"policy-refused": refused}
        assert [one.number for one in again.revisions()] == list(range(1, 2 + RELOADS - refused))

    asyncio.run(check())


def decode_alert(value: bytes | None) -> tuple[str, str]:
    said = json.loads(value or b"{}")
    return said["name"], said["message"]


def test_a_file_is_watched_and_what_it_says_survives_a_restart_until_it_says_something_new(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(TOML)

    async def check() -> None:
        async def begun() -> tuple[DurableEngine, asyncio.Task]:
            engine = DurableEngine(tmp_path / "data", read_policy(path), Settings(policy=path, fsync="never"))
            running = asyncio.create_task(engine.run())
            await until(lambda: engine.trouble is None)
            return engine, running

        async def until(done) -> None:
            async with asyncio.timeout(20):
                while not done():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        async def ended(engine: DurableEngine, running: asyncio.Task) -> None:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            engine.stop()

        engine, running = await begun()
        assert [one.why for one in engine.revisions.history] == ["the first policy"]
        path.write_text(TOML + "[blend]\nepsilon = 0.25\n")
        await until(lambda: engine.revisions.number == 2)
        assert engine.revisions.policy.blend.epsilon == 0.25
        path.write_text(TOML + "[blend]\nepsilon = 25\n")  # refused, and the old one stays
        alerts = engine.topics.log("alerts")
        await until(lambda: alerts.end == 1)
        path.write_text(TOML + "[blend]\nepsilon = 0.25\n")
        earlier = engine.revisions.at(1)
        await engine.apply(Change(earlier, "ann", "rollback"))
        await ended(engine, running)
        engine, running = await begun()  # the file has said 0.25 before: the rollback stands
        assert (engine.revisions.number, engine.revisions.policy.blend.epsilon) == (3, BlendPolicy().epsilon)
        await ended(engine, running)
        path.write_text(TOML + "[blend]\nepsilon = 0.125\n")
        engine, running = await begun()
        assert (engine.revisions.number, engine.revisions.policy.blend.epsilon) == (4, 0.125)
        await ended(engine, running)

    asyncio.run(check())


def test_a_partition_is_folded_by_each_policy_from_its_marker_on_also_when_it_is_folded_again(
    tmp_path: Path,
) -> None:
    """A shorter history counts from the marker on: the state after a wiped store is the same."""
    short = msgspec.structs.replace(POLICY, memory=MemoryPolicy(history_max=2))

    async def check() -> list:
        engine = DurableEngine(tmp_path / "data", POLICY, Settings(fsync="never"))
        engine.partitions.recover()
        for number in range(4):
            engine.partitions.react([Organic(event_id=f"{number}", user="u", item=f"i{number}", action="like")])
        engine.partitions.apply(next_record(short, 1, "ann", "", "command"))
        four = [entry.item for entry in engine.partitions._state("u").history]
        engine.partitions.react([Organic(event_id="5", user="u", item="i5", action="like")])
        state = engine.partitions._state("u")
        engine.trouble = None
        engine.stop()
        for file in (tmp_path / "data" / "state" / "partition-0").iterdir():
            file.unlink()
        again = DurableEngine(tmp_path / "data", None, Settings(fsync="never"))
        again.partitions.recover()
        refolded = again.partitions._state("u")
        again.trouble = None
        again.stop()
        return [four, [entry.item for entry in state.history], refolded == state]

    four, two, equal = asyncio.run(check())
    assert (len(four), two, equal) == (4, ["i3", "i5"], True)


# Workers.


def arrivals(log: str) -> dict[int, list[tuple[int, int]]]:
    """(time, revision) of what the last owner of each partition has come to make feeds by."""
    lines = re.findall(r"^\[(.*?)\] \[(\d+)\] \[INFO\] (.*)$", log, re.MULTILINE)
    owner = {int(said.split()[1]): process for _, process, said in lines if "is taken over at" in said}
    came: dict[str, list[tuple[int, int]]] = {process: [] for process in owner.values()}
    for at, process, said in lines:
        if said.startswith("feeds are made by revision") and process in came:
            moment = datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").astimezone()
            came[process].append((round(1000 * moment.timestamp()), int(said.split()[5])))
    return {number: came[process] for number, process in owner.items()}


def test_200_reloads_on_two_workers_under_load_a_third_of_them_bad(kafka, tmp_path: Path) -> None:
    product = Product(kafka, tmp_path, policy=TOML)
    first = read_policy(tmp_path / "policy.toml")
    policies = {first.version: first}
    value = json.loads(msgspec.json.encode(next_record(first, 0, "ann", "", "command")))
    turns = {"FEEDLOOM_REQUESTS_PER_TURN": str(PER_TURN)}
    other = {"FEEDLOOM_STATE_FOLDER": str(tmp_path / "other")}
    with product.worker(**turns), product.worker(**turns, **other):
        product.ask("u0", "first")
        wait_until(lambda: len(product.read("feeds")) >= 1, product.log)
        target = KafkaTarget(product.settings)
        newest, asked = target.revisions()[-1].number, 1
        assert newest == 1
        bad = 0
        for number in range(1, RELOADS + 1):
            for user in range(2):
                product.ask(f"u{(number + user) % 24}", f"r{number}.{user}")
                asked += 1
            time.sleep(0.01)  # else all is there before anything is turned, and nothing could be late
            if number % 3 == 0:
                policy = [
                    b"{",
                    json.dumps({**value, "number": newest + 1, "policy": {"blend": {"sede": 1}}}).encode(),
                ]
                product.send_raw("policy", f"bad{number}".encode(), policy[number % 2])
                bad += 1
                continue
            policy = rewarded(number, first)
            record = next_record(policy, newest, "ann", f"change {number}", "command")
            policies[policy.version] = policy
            product.send_raw("policy", record.key.encode(), msgspec.json.encode(record))
            newest += 1
        product.producer.flush()
        wait_until(lambda: len(product.read("feeds")) >= asked, product.log)
        revision = target.revisions()[-1]
        assert revision.number == newest
        assert target.followers(revision, 20.0) == (2, 2)
        product.ask("u1", "last")
        wait_until(lambda: len(product.read("feeds")) >= asked + 1, product.log)
        wait_until(lambda: len(product.read("alerts")) >= bad, product.log)
    alerts = [json.loads(record.value)["name"] for record in product.read("alerts")]
    assert Counter(alerts) == {"policy-refused": bad}
    revisions = target.revisions()
    numbers = {one.version: one.number for one in revisions}
    came = arrivals((tmp_path / "worker.log").read_text())
    latest: dict[int, int] = {}
    late: Counter[tuple[int, int]] = Counter()
    for record in product.read("feeds"):
        decision = decode(record.value)
        assert isinstance(decision, Decision)
        unmixed(decision, policies)
        number = numbers[decision.policy_version]
        assert number >= latest.get(record.partition, 0)  # never back
        latest[record.partition] = number
        there = max((newer for at_ms, newer in came[record.partition] if at_ms < record.timestamp), default=0)
        late.update((record.partition, newer) for newer in range(number + 1, there + 1))
    print(f"late: {sorted(late.values())[-5:]}")
    # A turn takes at most so many requests of a partition.
    assert max(late.values(), default=0) <= 3 * PER_TURN
    switches = [decode(record.value) for record in product.read("feedback")]
    assert {one.number for one in switches if isinstance(one, Switch)} >= {newest}
    product.close()


def test_a_folder_that_nobody_serves_takes_a_policy_shows_its_history_and_goes_back(tmp_path: Path) -> None:
    def run(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, ["policy", *args, "--data", str(tmp_path / "data")])
        return done.exit_code, done.output

    engine = DurableEngine(tmp_path / "data", POLICY, Settings(fsync="never"))
    engine.partitions.recover()
    engine.trouble = None
    engine.stop()
    path = tmp_path / "new.toml"
    kinds = "[pools.a]\nkind = 'external'\n[pools.b]\nkind = 'external'\n[population]\nevery_ms = 100\n"
    path.write_text(kinds + "[actions.like]\nreward = 2.0\n")
    code, output = run("apply", str(path), "--why", "likes count double", "--who", "ann", "--yes")
    assert code == 0
    assert "actions.like.reward: 1.0 → 2.0" in output
    assert "revision 2, version" in output
    done = CliRunner().invoke(
        cli,
        ["policy", "apply", str(path), "--why", "again", "--data", str(tmp_path / "data")],
        standalone_mode=False,
    )
    assert "is what is in force already, as revision 2" in str(done.exception)
    assert run("diff", str(path)) == (0, "nothing differs\n")
    assert run("rollback", "--yes")[0] == 0
    code, output = run("history", "--json")
    revisions = json.loads(output)["revisions"]
    assert [(one["number"], one["why"]) for one in revisions] == [
        (1, "the first policy"),
        (2, "likes count double"),
        (3, "rollback (to revision 1)"),
    ]
    assert {"key": "actions.hide.reward", "from": None, "to": -1.0} in revisions[2]["changes"]
    again = DurableEngine(tmp_path / "data", None, Settings(fsync="never"))
    again.partitions.recover()
    assert again.revisions.policy == POLICY
    again.trouble = None
    again.stop()


def test_a_folder_that_has_lost_its_policies_goes_on_and_takes_new_ones(tmp_path: Path) -> None:
    data = tmp_path / "data"
    engine = DurableEngine(data, POLICY, Settings(fsync="never"))
    engine.partitions.recover()
    for number in (1, 2, 3):
        engine.partitions.apply(next_record(rewarded(number), number, "ann", "", "command"))
    engine.partitions.react([Organic(event_id="1", user="u", item="i", action="like")])
    before = engine.partitions._state("u")
    engine.trouble = None
    engine.stop()
    for file in (data / "log" / "policy-0").iterdir():
        file.unlink()
    again = DurableEngine(data, rewarded(9), Settings(fsync="never"))
    again.partitions.recover()
    assert again.partitions._state("u") == before
    assert (again.revisions.number, again.revisions.policy) == (1, rewarded(9))
    again.partitions.apply(next_record(rewarded(10), 1, "ann", "", "command"))
    (owned,) = again.partitions._owned
    assert owned.partition.policy == rewarded(10)
    assert not owned.partition.outdated
    again.trouble = None
    again.stop()


def test_a_published_policy_runs_no_code_that_the_settings_do_not_name(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "planted_pool.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "class Mine:\n    def rank(self, visitor, facts, most):\n        raise ValueError('not now')\n"
    )

    def refusal(kind: str, **settings: str) -> str:
        async def check() -> str:
            engine = DurableEngine(tmp_path / f"data{kind}{settings}", POLICY, Settings(fsync="never", **settings))
            engine.partitions.recover()
            engine.trouble = None
            wanted = msgspec.structs.replace(POLICY, pools={**POLICY.pools, "c": PoolPolicy(kind)})
            with pytest.raises(InputError) as error:
                await engine.apply(Change(wanted, "ann", "code"))
            assert engine.revisions.number == 1
            engine.stop()
            return str(error.value)

        return asyncio.run(check())

    sys.path.insert(0, str(tmp_path))
    try:
        for kind in ("planted_pool:Mine", "sys:exit", "os:abort"):
            assert "name it in the setting plug_ins first" in refusal(kind)
        assert not ran.exists()
        assert "is no class with a method rank" in refusal("os:abort", plug_ins="os:abort")
        # One that may be named and fails is refused as well, before it is in force.
        assert "not now" in refusal("planted_pool:Mine", plug_ins="other:Pool, planted_pool:Mine")
        assert ran.exists()
    finally:
        sys.path.remove(str(tmp_path))


def test_a_file_is_news_when_nobody_has_said_it_since_it_was_looked_at() -> None:
    a, b = rewarded(1), rewarded(2)

    def said(revisions: Revisions, policy: Policy, source: str = "file") -> None:
        record = next_record(policy, revisions.number, "ann", "", source)
        revisions.take(msgspec.json.encode(record), 0)

    revisions = Revisions(POLICY)
    here, there = FileNews(a), FileNews(a)
    assert here.due(revisions)
    said(revisions, a)
    assert not there.due(revisions)  # it is in force
    assert here.is_new(b, revisions)
    said(revisions, b)
    said(revisions, a, "command")  # a rollback
    assert not there.is_new(b, revisions)  # it sees late what the other one has published
    assert not here.is_new(b, revisions)  # touched
    assert not FileNews(b).due(revisions)  # a process starts
    assert here.is_new(rewarded(3), revisions)
    said(revisions, rewarded(3))
    assert here.is_new(b, revisions)  # and back again, by hand
    by_hand = Revisions(POLICY)
    for policy in (a, b, a):
        said(by_hand, policy, "command")
    assert not FileNews(b).due(by_hand)
    assert FileNews(None).due(Revisions(POLICY))
    assert not FileNews(None).due(by_hand)


def test_what_a_reaction_names_and_nobody_has_read_yet_is_waited_for(tmp_path: Path) -> None:
    revisions, store = Revisions(POLICY), PartitionStore(tmp_path)
    taken(revisions, POLICY)
    partition = Partition(0, revisions, store, partitions=1)
    buy = Record(0, 5, b"u", encode(Organic(event_id="e", user="u", item="i", action="buy")))
    switch = Record(1, 6, None, encode(Switch(number=2)))
    for record in (buy, switch):
        with pytest.raises(NotYetKnownError):
            partition.react(record, sure=False)
    assert (partition.position.feedback, partition.state("u")) == (0, UserState())
    actions = {**POLICY.actions, "buy": ActionPolicy(5.0)}
    taken(revisions, msgspec.structs.replace(POLICY, actions=actions))
    messages = partition.react(buy, sure=False) + partition.react(switch, sure=False)
    assert {message.topic for message in messages} == {"sums"}
    assert [entry.item for entry in partition.state("u").history] == ["i"]
    assert partition.position.policy == 2
    (letter,) = partition.react(Record(2, 7, None, encode(Switch(number=9))))
    assert letter.topic == "dead-letters"
    store.close()


def test_candidates_of_a_pool_that_is_gone_are_left_out_and_those_of_none_refused(tmp_path: Path) -> None:
    async def check() -> None:
        engine = DurableEngine(tmp_path / "data", POLICY, Settings(fsync="never"))
        running = asyncio.create_task(engine.run())
        while engine.trouble:  # noqa: ASYNC110  of a task that has more to do
            await asyncio.sleep(0.01)
        await engine.apply(Change(msgspec.structs.replace(POLICY, pools={"a": POLICY.pools["a"]}), "ann", "no b"))
        request = Request(request_id="r", user="u", slots=4, candidates=CANDIDATES)
        made = await engine.ask(request)
        assert {part.pool for part in made.pools} == {"a"}
        assert len(made.slot_items) == 4
        with pytest.raises(InputError, match="candidates for 'c'"):
            await engine.ask(Request(request_id="s", user="u", slots=4, candidates={"c": ["1"]}))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        engine.stop()

    asyncio.run(check())


def test_while_the_topics_are_read_nobody_is_told_that_a_request_is_wrong(tmp_path: Path) -> None:
    async def check() -> None:
        engine = DurableEngine(tmp_path / "data", None, Settings(fsync="never"))
        with pytest.raises(UnavailableError):
            await engine.ask(Request(request_id="r", user="u", slots=4, candidates=CANDIDATES))
        with pytest.raises(UnavailableError):
            await engine.report([Organic(event_id="e", user="u", item="i", action="buy")])
        engine.stop()

    asyncio.run(check())


def test_an_undo_done_again_goes_further_back_and_canaries_are_stepped_over() -> None:
    revisions = Revisions(POLICY)
    arms = {"control": ArmPolicy(share=0.9), "canary": ArmPolicy(share=0.1, set={"blend.epsilon": 0.5})}

    def said(policy: Policy, restores: int | None = None) -> None:
        record = next_record(policy, revisions.number, "ann", "", "command", restores)
        revisions.take(msgspec.json.encode(record), 0)

    def undone() -> int | None:
        found = undone_to(revisions.history, is_canary)
        return found and found.number

    said(rewarded(1))
    assert undone() is None
    said(rewarded(2))
    assert undone() == 1
    said(msgspec.structs.replace(rewarded(2), experiments={"canary-3": ExperimentPolicy(arms=arms)}))
    assert undone() == 2  # this ends the canary
    said(rewarded(2), restores=2)
    assert undone() == 1
    said(rewarded(3))
    assert undone() == 4
    said(rewarded(2), restores=4)
    assert undone() == 1


def test_who_and_why_are_a_line_each() -> None:
    with pytest.raises(InputError, match="a line of text each"):
        next_record(POLICY, 0, "ann\nbob", "", "command")
