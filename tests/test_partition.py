"""One partition without a broker: where turns are cut changes nothing, and what was not kept is made again."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from engine.decision import Decision
from engine.errors import InputError
from engine.evidence import evidence_at
from engine.facts import Facts
from engine.policy import BlendPolicy, MemoryPolicy, Policy, PopulationPolicy
from engine.pool_policy import PoolPolicy
from engine.population import Sums, fit
from engine.revisions import Revisions
from engine.state import UserWeights
from streams.codec import decode, encode
from streams.messages import REQUEST_OFFSET, Message, Record
from streams.partition import Partition
from streams.store import POSITION, PartitionStore

POLICY = Policy(
    pools={
        "a": PoolPolicy("external", pinned=(3,)),
        "popular": PoolPolicy("popular", floor=0.5, floor_views=3.0),
        "mine": PoolPolicy("personal"),
    },
    population=PopulationPolicy(every_ms=50),
    memory=MemoryPolicy(window_ms=100, half_life_ms=1000, half_life_slots=20, history_max=5),
    blend=BlendPolicy(epsilon=0.2),
)
FACTS = Facts(POLICY, fit(Sums(), POLICY))
USERS = ("u", "v")
Step = tuple[str, Record]


def partition(folder: Path) -> tuple[Partition, PartitionStore]:
    store = PartitionStore(folder)
    return Partition(0, Revisions(POLICY), store, partitions=1), store


def request(user: str, number: int, continues: int | None = None) -> bytes:
    candidates = {"a": [f"i{place}" for place in range(4)]}
    asked = {"kind": "request", "request_id": f"r{number}", "user": user, "slots": 2, "candidates": candidates}
    page = {} if continues is None else {"continues": f"r{continues}"}
    return msgspec.json.encode(asked | page)


def reaction(user: str, number: int, slot: int, *, acted: bool) -> bytes:
    event = {"event_id": f"{number}-{slot}-{acted}", "user": user, "request_id": f"r{number}", "slot": slot}
    kind = {"kind": "acted", "action": "like"} if acted else {"kind": "seen"}
    return msgspec.json.encode({**event, **kind, "item": f"i{slot}"})


@st.composite
def inputs(draw: st.DrawFn) -> list[Step]:
    """Requests and reactions of two users as they come, poison among them, each topic with its own offsets."""
    steps: list[Step] = []
    offsets = {"requests": 0, "feedback": 0}
    at_ms = 0
    for number in range(draw(st.integers(1, 12))):
        at_ms += draw(st.integers(0, 40))
        user = draw(st.sampled_from(USERS))
        topic, value = draw(
            st.sampled_from(
                [
                    ("requests", request(user, number)),
                    ("requests", request(user, max(number - 1, 0))),
                    ("requests", request(user, number + 1, number)),
                    ("requests", request(user, number + 1, max(number - 1, 0))),
                    ("feedback", reaction(user, max(number - 1, 0), 0, acted=False)),
                    ("feedback", reaction(user, max(number - 2, 0), 0, acted=True)),
                    ("feedback", b'{"kind":"tick"}'),
                    ("feedback", b"poison"),
                ]
            )
        )
        steps.append((topic, Record(offsets[topic], at_ms, user.encode(), value)))
        offsets[topic] += 1
    return steps


def turned(one: Partition, step: Step) -> list[Message]:
    topic, record = step
    return one.answer(record, FACTS) if topic == "requests" else one.react(record)


def kept(folder: Path, messages: list[Message]) -> tuple:
    """Everything that is in a store, and everything that was sent."""
    store = PartitionStore(folder)
    everything = (dict(store.users()), list(store.due()), store.sums(), store.position())
    store.close()
    return everything, messages


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=inputs(), data=st.data())
def test_where_turns_are_cut_changes_neither_state_nor_messages(steps, data, tmp_path_factory) -> None:
    found = []
    for ends in (set(), set(range(len(steps))), data.draw(st.sets(st.integers(0, len(steps))))):
        folder = tmp_path_factory.mktemp("cut") / "store"
        one, store = partition(folder)
        messages: list[Message] = []
        for place, step in enumerate(steps):
            messages += turned(one, step)
            if place in ends:
                one.commit()
        one.commit()
        store.close()
        found.append(kept(folder, messages))
    assert found[0] == found[1] == found[2]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=inputs(), data=st.data())
def test_a_turn_that_was_not_kept_is_made_again_the_same(steps, data, tmp_path_factory) -> None:
    """
    turns   [a b] [c d -- not acknowledged, dropped] [c d] [e]      c and d come out as the same bytes
    """
    straight_folder, broken_folder = (tmp_path_factory.mktemp(name) / "store" for name in ("straight", "broken"))
    one, store = partition(straight_folder)
    straight = [message for step in steps for message in turned(one, step)]
    one.commit()
    store.close()
    first = data.draw(st.integers(0, len(steps)))
    lost = data.draw(st.integers(first, len(steps)))
    one, store = partition(broken_folder)
    broken = [message for step in steps[:first] for message in turned(one, step)]
    one.commit()
    for step in steps[first:lost]:
        turned(one, step)
    store.close()  # as a kill would leave it
    one, store = partition(broken_folder)
    for step in steps:  # all of it again: what was kept is passed over
        broken += turned(one, step)
    one.commit()
    store.close()
    assert kept(broken_folder, broken) == kept(straight_folder, straight)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=inputs())
def test_a_lost_disk_is_made_again_from_feeds_and_feedback(steps, tmp_path_factory) -> None:
    there, again = (tmp_path_factory.mktemp(name) / "store" for name in ("there", "again"))
    one, store = partition(there)
    messages = [message for step in steps for message in turned(one, step)]
    feeds = [message for message in messages if message.topic == "feeds"]
    if feeds:
        one.sent(len(feeds))
    one.commit()
    store.close()
    # An id is remembered for its window: a repetition that nobody has come to would be a new request after that.
    last = max((int(dict(message.headers)[REQUEST_OFFSET]) for message in feeds), default=-1)
    clock_ms = max((record.at_ms for topic, record in steps if topic == "feedback"), default=0)
    later = [record.at_ms for topic, record in steps if topic == "requests" and record.offset > last]
    assume(not later or clock_ms <= steps[0][1].at_ms + POLICY.memory.window_ms)
    two, store = partition(again)
    for offset, message in enumerate(feeds):
        assert two.adopt(Record(offset, 0, message.key, message.value), dict(message.headers)) == []
    for topic, record in steps:
        if topic == "feedback":
            two.react(record)
    for topic, record in steps:
        if topic == "requests":
            assert all(message.topic != "feeds" for message in two.answer(record, FACTS))
    two.commit()
    store.close()
    (users, due, _, position), _ = kept(there, [])
    (users_again, due_again, _, position_again), _ = kept(again, [])
    assert users_again.keys() >= users.keys()
    for user, state in users.items():
        assert users_again[user].history == state.history
        assert users_again[user].served == state.served
        assert users_again[user].cursor == state.cursor
        for cell, tally in evidence_at(state, 10_000, POLICY.memory).items():
            remade = evidence_at(users_again[user], 10_000, POLICY.memory)[cell]
            assert (remade.successes, remade.exposure) == pytest.approx((tally.successes, tally.exposure), abs=1e-9)
        assert users_again[user].ledger == state.ledger
        same_weights(users_again[user].weights, state.weights)
    assert due_again == due
    assert position_again.requests == position.requests


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=inputs(), data=st.data())
def test_what_checkpoints_copied_is_what_stands_in_the_store(steps, data, tmp_path_factory) -> None:
    """Wherever turns are cut, checkpoints are taken, made or given up, and the store is opened anew."""
    folder = tmp_path_factory.mktemp("copied") / "store"
    copy: dict[bytes, bytes | None] = {}
    store = PartitionStore(folder, copied=True)
    one = Partition(0, Revisions(POLICY), store, partitions=1)
    taken = None
    for step in steps:
        turned(one, step)
        what = data.draw(st.sampled_from(["nothing", "keep", "take", "made", "given up", "opened anew"]))
        if what == "keep":
            one.commit()
        elif what == "take" and taken is None:
            taken = store.notes.take(POSITION)
        elif what == "made" and taken is not None:
            copy |= taken.changed
            store.notes.made(taken)
            taken = None
        elif what == "given up" and taken is not None:
            store.notes.taken_back()
            taken = None
        elif what == "opened anew":
            store.close()
            store = PartitionStore(folder, copied=True)
            one, taken = Partition(0, Revisions(POLICY), store, partitions=1), None
    if taken is not None:
        store.notes.taken_back()
    one.commit()
    last = store.notes.take(POSITION)
    assert last is not None
    copy |= last.changed
    assert {key: value for key, value in copy.items() if value is not None} == dict(store.everything())
    store.close()


def same_weights(found: UserWeights | None, wanted: UserWeights | None) -> None:
    """The same sums at one moment, however their landmarks lie."""
    if found is None or wanted is None:
        assert found is wanted
        return
    assert found.layout == wanted.layout
    apart = (found.landmark_ms - wanted.landmark_ms) / POLICY.memory.weights_half_life_ms
    for one, other in ((found.precision, wanted.precision), (found.moment, wanted.moment)):
        assert 2.0**apart * np.frombuffer(one) == pytest.approx(np.frombuffer(other), abs=1e-9)


def test_a_longer_time_between_versions_goes_on_where_the_shorter_ended(tmp_path: Path) -> None:
    """A version is a time of the log, so a policy with another Δ makes no smaller numbers."""
    one, store = partition(tmp_path / "store")
    one.react(Record(0, 1_234, b"u", b'{"kind":"tick"}'))
    one.commit()
    store.close()
    slower = msgspec.structs.replace(POLICY, population=PopulationPolicy(every_ms=500))
    store = PartitionStore(tmp_path / "store")
    two = Partition(0, Revisions(slower), store, partitions=1)
    versions = [
        msgspec.json.decode(message.value or b"")["version"]
        for offset, at_ms in enumerate((1_300, 1_499, 1_500, 2_100), 1)
        for message in two.react(Record(offset, at_ms, b"u", b'{"kind":"tick"}'))
    ]
    assert (one.position.version, versions) == (1_200, [1_500, 2_000])
    store.close()


def test_sums_that_a_turn_will_make_outdated_are_not_sent(tmp_path: Path) -> None:
    one, store = partition(tmp_path / "store")
    times = (10, 120, 230, 340)
    messages = [one.react(Record(n, at_ms, b"u", b'{"kind":"tick"}'), times[-1]) for n, at_ms in enumerate(times)]
    (sums,) = [msgspec.json.decode(message.value or b"") for turn in messages for message in turn]
    assert (sums["since"], sums["version"]) == (201, 300)
    store.close()


def test_a_stored_user_keeps_the_end_of_the_last_feed_and_what_was_taught(tmp_path: Path) -> None:
    one, store = partition(tmp_path / "store")
    one.answer(Record(0, 3, b"u", request("u", 0)), FACTS)
    one.react(Record(0, 4, b"u", reaction("u", 0, 0, acted=False)))
    one.react(Record(1, 200, b"u", b'{"kind":"tick"}'))
    one.answer(Record(1, 201, b"u", request("u", 1)), FACTS)
    one.answer(Record(2, 202, b"u", request("u", 2, 1)), FACTS)
    state = one.state("u")
    one.commit()
    store.close()
    store = PartitionStore(tmp_path / "store")
    assert store.user("u") == state
    assert state.cursor is not None
    assert (state.cursor.feed, state.cursor.request_id, state.cursor.until_ms) == ("r1", "r2", 302)
    assert len(state.cursor.items) == 4
    assert state.weights is not None
    assert ("new", "a", "like") in state.taught
    store.close()


@pytest.mark.parametrize("key", [b"p", b"p2"])
def test_state_of_another_version_is_refused(key: bytes, tmp_path: Path) -> None:
    store = Rdict(str(tmp_path / "store"), Options(raw_mode=True))
    store[key] = b"\x91\x01"
    store.close()
    other = PartitionStore(tmp_path / "store")
    with pytest.raises(InputError, match="another version of Feedloom: remove the folder"):
        Partition(0, Revisions(POLICY), other, partitions=1)
    other.close()


def test_state_of_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    one, store = partition(tmp_path / "store")
    one.commit()
    store.close()
    store = PartitionStore(tmp_path / "store")
    with pytest.raises(InputError, match="made with 1 partitions and the topics have 4"):
        Partition(0, Revisions(POLICY), store, partitions=4)
    store.close()


def test_a_store_that_another_owner_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.store_folder.OPEN_SECONDS_MAX", 0.2)
    store = PartitionStore(tmp_path / "store")
    with pytest.raises(InputError, match="another process has the store"):
        PartitionStore(tmp_path / "store")
    store.close()


def test_a_decision_names_the_offset_of_its_request(tmp_path: Path) -> None:
    one, store = partition(tmp_path / "store")
    (message,) = one.answer(Record(7, 3, b"u", request("u", 0)), FACTS)
    assert dict(message.headers)["feedloom.request-offset"] == b"7"
    decision = decode(message.value or b"")
    assert isinstance(decision, Decision)
    assert (decision.at_ms, encode(decision)) == (3, message.value)
    store.close()


def test_a_record_without_key_and_value_becomes_a_dead_letter_that_can_be_sent(tmp_path: Path) -> None:
    one, store = partition(tmp_path / "store")
    for turn in (lambda record: one.answer(record, FACTS), one.react):
        letter = turn(Record(0, 3, None, None))[-1]
        assert (letter.topic, letter.key, letter.value) == ("dead-letters", None, b"")
    store.close()
