"""The fault matrix of Kafka's workers: each cell breaks something, and the oracle says what must be there then.

A cell takes a folder of its own, a seed, and a cluster that runs already; without one, and wherever it stops
brokers, it starts one of its own. What it returns are figures worth keeping; it fails by an assertion.
"""

import asyncio
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import get_args

import msgspec
from kafka import KafkaAdminClient, TopicPartition
from kafka_product import POLICY, Life, Product, terminate, wait_until
from msgspec.structs import replace
from oracle import kept
from worker_judge import judge, stored

from engine.decision import Decision
from engine.events import Acted, Organic, Quarantine, Seen
from scripts.kafka_broker import Broker, Cluster, cluster
from streams.asking import Change
from streams.broker import partition_of
from streams.checkpoints import Checkpoints
from streams.codec import decode
from streams.exclusions import ErasedFact, Exclusions
from streams.failpoints import FailPoint
from streams.orders import KafkaTarget
from streams.policy_file import read_policy
from streams.store import Changes, PartitionStore, Position
from streams.store_folder import damaged_folders
from streams.topics import create

Figures = dict[str, float]
Cell = Callable[..., Figures]
# Which want a lost disk, letters that are sent back, and a time between versions.
OTHERS = ("inside-restore", "before-receipts", "before-population", "after-population")
FAILPOINTS = tuple(name for name in get_args(FailPoint) if name not in OTHERS)  # all that a worker comes by
OFTEN = {"FEEDLOOM_CHECKPOINT_EVERY_MS": "200"}
SELDOM = {"FEEDLOOM_CHECKPOINT_EVERY_MS": "600000"}
PATIENT = {"FEEDLOOM_SESSION_MS": "10000"}
LONG_WINDOW = POLICY.replace("window_ms = 6000", "window_ms = 600000")
# A broker that was killed may come back when its controller has missed it for so long; by default 9 seconds.
QUICK = ("broker.session.timeout.ms=2000", "broker.heartbeat.interval.ms=500")
POINTS = 20  # at least, at which a worker is killed at random
HOUR_MS = 3_600_000
CELLS: dict[str, Cell] = {}


def cell(check: Cell) -> Cell:
    """Enter a cell into the matrix under its name."""
    CELLS[check.__name__] = check
    return check


@contextmanager
def producing(
    folder: Path, kafka: Cluster | None, kind: type[Product] = Product, **how: object
) -> Iterator[Product]:
    """A product with that cluster, or with one of its own."""
    with ExitStack() as stack:
        product = kind(kafka or stack.enter_context(cluster()), folder, **how)
        stack.callback(product.close)
        yield product


@contextmanager
def living(product: Product, seed: int, seconds_between: float = 0.015) -> Iterator[Life]:
    """Users live until `stop`, or until what is tried here fails."""
    life = Life(product, seed, seconds_between)
    life.start()
    try:
        yield life
    finally:
        life.stop()


def lived(product: Product, seed: int, feeds: int = 120, **environment: str) -> list[tuple[str, str]]:
    """Users live with a worker until there are so many feeds more; it works off the rest and ends in order."""
    before = len(product.read("feeds"))
    with product.worker(**environment) as process, living(product, seed) as life:
        wait_until(lambda: len(product.read("feeds")) >= before + feeds, product.log)
        life.stop()
        ended_in_order(product, process)
    return life.asked


def ended_in_order(product: Product, process: subprocess.Popen) -> float:
    """What was sent is worked off, and the worker ends when it is told to; how many seconds that took."""
    product.wait_until_worked_off()
    seconds = terminate(process)
    assert process.returncode == 0, product.log()
    return seconds


def killed(product: Product, process: subprocess.Popen) -> None:
    """It comes by its failpoint."""
    assert process.wait(60) == -signal.SIGKILL, product.log()


def brought_back(product: Product, **environment: str) -> None:
    """A worker brings the state to where the topics end, and ends."""
    with product.worker(**environment) as process:
        product.wait_until_taken_over()
        ended_in_order(product, process)


def judged(product: Product, life: Life) -> None:
    """As `judge`, and who asked once has one decision.

    A second question is known for one as long as the decision is open. Where workers are down for longer than that
    between the two, it is answered too: the first decision counts.
    """
    judge(product, life.asked, twice=True)
    values = (decode(record.value) for record in product.read("feeds"))
    per_request = Counter((value.request.user, value.request.request_id) for value in values)
    assert {place for place, count in per_request.items() if count > 1} <= life.again


def figures(product: Product, life: Life, **more: float) -> Figures:
    return {"requests": len(life.asked), "kept": len(product.read("feeds")), **more}


def whole_log(product: Product) -> str:
    return (product.folder / "worker.log").read_text(errors="replace")


def alerts(product: Product) -> list[dict]:
    return [msgspec.json.decode(record.value) for record in product.read("alerts")]


def delete_first_half(product: Product) -> list:
    """Delete what was in the first half of `feeds` and `feedback`; returns all that was there."""
    earlier = product.read("feeds") + product.read("feedback")
    lasts = {TopicPartition(record.topic, record.partition): record.offset for record in earlier}
    with administering(product) as admin:
        admin.delete_records({place: last // 2 for place, last in lasts.items()})
    return earlier


@contextmanager
def administering(product: Product) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=product.settings.bootstrap)
    try:
        yield admin
    finally:
        admin.close()


def remake(product: Product, name: str) -> None:
    """Delete a topic, and make it anew."""
    full = product.settings.topic(name)
    with administering(product) as admin:
        admin.delete_topics([full])
        wait_until(lambda: full not in admin.list_topics())
    create(product.settings, product.partitions, 1)


def stores(product: Product) -> list[Path]:
    return [product.settings.state_folder / f"partition-{number}" for number in range(product.partitions)]


def positions(product: Product) -> list[Position]:
    """How far each partition's state has come."""
    found = []
    for folder in stores(product):
        store = PartitionStore(folder)
        position = store.position()
        store.close()
        assert position is not None
        found.append(position)
    return found


def told_of_all(product: Product) -> bool:
    """Whether something of every partition of requests and feedback is worked off."""
    offsets = list(product.committed().values())
    return len(offsets) == 2 * product.partitions and all(offset > 0 for offset in offsets)


def decisions(product: Product, user: str, count: int) -> list[Decision]:
    """A user's feeds, as soon as there are so many."""
    found: list[Decision] = []

    def there() -> bool:
        values = [decode(record.value) for record in product.read("feeds") if record.key == user.encode()]
        found[:] = [value for value in values if isinstance(value, Decision)]
        return len(found) >= count

    wait_until(there, product.log)
    return found


@cell
def killed_at_random(folder: Path, seed: int, kafka: Cluster | None = None, points: int = POINTS) -> Figures:
    """Half of the kills come while it begins and takes over, half in its turns."""
    random = Random(seed)
    with producing(folder, kafka) as product, living(product, seed, 0.03) as life:
        for point in range(points):
            with product.worker(**OFTEN) as process:
                if point % 2:
                    product.wait_until_taken_over()
                    time.sleep(random.random())
                else:
                    time.sleep(1.0 + 3.0 * random.random())
                process.kill()
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            life.stop()
            seconds = ended_in_order(product, process)
        judged(product, life)
        return figures(product, life, kills=points, seconds_to_end=round(seconds, 2))


@cell
def killed_at_every_failpoint(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """
    load     ==================================================
    worker   [--x] [--x] [--x] [--x] [--x] [--x] [--x] disk wiped [-x] [----] judge, wiped [--] judge
             one for each failpoint                            inside-restore
    """
    random = Random(seed)
    with producing(folder, kafka) as product, living(product, seed) as life:
        for failpoint in FAILPOINTS:
            passes = random.randrange(1, 6) if "checkpoint" in failpoint else random.randrange(5, 40)
            with product.worker(f"{failpoint}:{passes}", **OFTEN) as process:
                killed(product, process)
        shutil.rmtree(product.settings.state_folder)
        with product.worker("inside-restore", **OFTEN) as process:
            killed(product, process)
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            life.stop()
            seconds = ended_in_order(product, process)
        judged(product, life)
        assert alerts(product) == []
        return figures(product, life, kills=len(FAILPOINTS) + 1, seconds_to_end=round(seconds, 2))


@cell
def policies_change_through_kills(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """Revisions are published while a worker is killed, its disk is lost, and another one joins and is killed."""
    random = Random(seed)
    with producing(folder, kafka) as product, living(product, seed) as life:
        target, first = KafkaTarget(product.settings), read_policy(folder / "policy.toml")
        lost = {"FEEDLOOM_STATE_FOLDER": str(folder / "other")}

        def changed() -> None:
            blend = replace(first.blend, epsilon=random.random())
            target.apply(Change(replace(first, blend=blend), "ann", "a change"))

        for number in range(4):
            with product.worker(**OFTEN) as process, product.worker(**OFTEN, **lost):
                wait_until(lambda: bool(target.revisions()), product.log)
                before = len(product.read("feeds"))
                changed()
                wait_until(lambda before=before: len(product.read("feeds")) > before + 30, product.log)
                changed()
                process.kill()
                changed()
            if number % 2:
                shutil.rmtree(product.settings.state_folder)
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            newest = target.revisions()[-1]
            assert target.followers(newest, 30.0) == (product.partitions, product.partitions)
            life.stop()
            ended_in_order(product, process)
        judged(product, life)
        assert alerts(product) == []
        revisions = target.revisions()
        assert [one.number for one in revisions] == list(range(1, 14))
        numbers = {one.version: one.number for one in revisions}
        newest_of: dict[int, int] = {}
        for record in product.read("feeds"):
            number = numbers[decode(record.value).policy_version]
            assert number >= newest_of.get(record.partition, 0), "a decision went back to an older policy"
            newest_of[record.partition] = number
        return figures(product, life, kills=4, revisions=len(revisions))


@cell
def killed_while_it_recovers_twice(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """Its disk is lost. It dies while it reads the checkpoint, then while it folds what came after that."""
    with producing(folder, kafka) as product, living(product, seed) as life:
        with product.worker(**OFTEN):
            wait_until(lambda: len(product.read("feeds")) > 100, product.log)
            product.wait_until_taken_over()
            time.sleep(1.0)
        shutil.rmtree(product.settings.state_folder)
        for failpoint in ("inside-restore:1", "inside-batch:1"):
            with product.worker(failpoint, **OFTEN) as process:
                killed(product, process)
                assert "is taken over" not in product.log_of_latest(), product.log()
        with product.worker(**OFTEN) as process:
            life.stop()
            product.wait_until_taken_over()
            ended_in_order(product, process)
        judged(product, life)
        return figures(product, life)


@cell
def state_wiped(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """And of `feeds` and `feedback` the first half has lapsed, so that only the checkpoint helps."""
    with producing(folder, kafka) as product:
        asked = lived(product, seed, **OFTEN)
        judge(product, asked)
        shutil.rmtree(product.settings.state_folder)
        earlier = delete_first_half(product)
        assert len(product.read("feedback")) < 0.6 * sum("feedback" in record.topic for record in earlier)
        brought_back(product, **OFTEN)
        judge(product, asked, earlier=earlier)
        assert alerts(product) == []
        return {"requests": len(asked), "lapsed": len(earlier) // 2}


@cell
def a_checkpoint_torn(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """Killed when its records are sent and none is committed; then the disk is lost."""
    random = Random(seed)
    with producing(folder, kafka) as product, living(product, seed) as life:
        for _ in range(2):
            with product.worker(f"inside-checkpoint:{random.randrange(3, 8)}", **OFTEN) as process:
                killed(product, process)
            shutil.rmtree(product.settings.state_folder)
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            life.stop()
            ended_in_order(product, process)
        assert "is filled from the checkpoint at" in product.log_of_latest()
        judged(product, life)
        return figures(product, life)


@contextmanager
def outage(product: Product, broker: Broker, seconds: float) -> Iterator[None]:
    """A broker is killed, and comes back so long after that."""
    broker.kill()
    yield
    time.sleep(seconds)
    broker.start()
    broker.wait()


def served_again(product: Product, life: Life, requests: int = 50) -> None:
    """Users who ask now get their feeds."""
    asked = len(life.asked)
    wait_until(lambda: len(life.asked) > asked + requests, product.log)
    wait_until(lambda: {pair[1] for pair in life.asked[asked : asked + requests]} <= product.decided(), product.log)


def through_an_outage(folder: Path, seed: int, seconds: float, **environment: str) -> Figures:
    """One broker, one worker that stays alive, users who go on asking."""
    with cluster(1, QUICK) as kafka, producing(folder, kafka) as product, living(product, seed) as life:
        assert kafka.brokers, "this cell stops brokers, so it needs its own"
        with product.worker(**OFTEN, **environment) as process:
            product.wait_until_taken_over()
            wait_until(lambda: len(product.read("feeds")) > 30, product.log)
            begun = time.monotonic()
            with outage(product, kafka.brokers[0], seconds):
                pass
            gone = time.monotonic() - begun
            served_again(product, life)
            again = time.monotonic() - begun - gone
            life.stop()
            ended = ended_in_order(product, process)
        judge(product, life.asked, twice=True)
        assert "Traceback" not in whole_log(product)
        return figures(
            product, life, gone=round(gone, 1), seconds_to_serve=round(again, 1), seconds_to_end=round(ended, 2)
        )


@cell
def broker_gone_for_two_seconds(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    return through_an_outage(folder, seed, 2.0, **PATIENT)


@cell
def broker_gone_for_longer_than_the_session(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    return through_an_outage(folder, seed, 6.0)


@cell
def broker_down_at_start(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """A worker says so in a sentence and ends; whoever starts it again when the broker is back loses nothing."""
    with cluster(1, QUICK) as own, producing(folder, own) as product:
        assert own.brokers, "this cell stops brokers, so it needs its own"
        asked = lived(product, seed, feeds=40)
        with outage(product, own.brokers[0], 0.0):
            begun = time.monotonic()
            with product.worker() as process:
                assert process.wait(60) == 2, product.log()
            seconds = time.monotonic() - begun
            assert own.bootstrap in product.log_of_latest()
            assert "Traceback" not in product.log_of_latest()
        asked = asked + lived(product, seed + 1, feeds=40)
        judge(product, asked)
        return {"requests": len(asked), "seconds_to_refuse": round(seconds, 1)}


@cell
def three_brokers_killed_in_turn(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """Each topic has three copies, of which two must acknowledge; one broker after another dies and comes back."""
    with (
        cluster(3, (*QUICK, "min.insync.replicas=2")) as own,
        producing(folder, own, replication=3) as product,
        living(product, seed, 0.03) as life,
    ):
        assert len(own.brokers) == 3, "this cell stops brokers, so it needs its own"
        with product.worker(**OFTEN, **PATIENT) as process:
            product.wait_until_taken_over()
            wait_until(lambda: len(product.read("feeds")) > 20, product.log)
            for broker in Random(seed).sample(own.brokers, 3):
                with outage(product, broker, 1.0):
                    served_again(product, life, 20)  # by the two that are left
                wait_until(product.in_sync, product.log)
            life.stop()
            seconds = ended_in_order(product, process)
        judge(product, life.asked, twice=True)
        shutil.rmtree(product.settings.state_folder)
        brought_back(product)
        judge(product, life.asked, twice=True)
        return figures(product, life, seconds_to_end=round(seconds, 2))


@cell
def workers_join_leave_and_die(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """
    load     ==============================================
    first    [----------------x            [--------------] judge
    second        [------------------------x
    third              [--------------- SIGTERM
    """
    random = Random(seed)

    def has_any(name: str) -> bool:
        return any((folder / name).glob("partition-?"))

    def elsewhere(name: str) -> dict[str, str]:
        return {**OFTEN, "FEEDLOOM_STATE_FOLDER": str(folder / name)}

    with producing(folder, kafka, partitions=3) as product, living(product, seed) as life, ExitStack() as stack:
        first = stack.enter_context(product.worker(**OFTEN))
        product.wait_until_taken_over()
        second = stack.enter_context(product.worker(**elsewhere("second")))
        wait_until(lambda: has_any("second"), product.log)
        third = stack.enter_context(product.worker(**elsewhere("third")))
        wait_until(lambda: has_any("third"), product.log)
        time.sleep(random.random())
        first.kill()
        served_again(product, life, 20)  # by the two that are left
        seconds = terminate(third)
        assert seconds < 5.0, product.log()
        assert third.returncode == 0, product.log()
        last = stack.enter_context(product.worker(**OFTEN))
        time.sleep(1.0 + random.random())
        second.kill()
        served_again(product, life, 20)
        life.stop()
        product.wait_until_taken_over()
        ended_in_order(product, last)
        judge(product, life.asked, twice=True)
        assert "Traceback" not in whole_log(product)
        return figures(product, life, seconds_to_end=round(seconds, 2))


@cell
def a_zombie_owner(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """
    load     ==================================================
    first    [-------- asleep ------ joins anew -------- fenced, joins anew ----] judge
    second        [---------------------------x
    """
    other = folder / "elsewhere"
    with producing(folder, kafka) as product, living(product, seed) as life:
        with product.worker(**OFTEN) as first:
            product.wait_until_taken_over()
            with product.worker(**OFTEN, FEEDLOOM_STATE_FOLDER=str(other)) as second:
                wait_until(lambda: any(other.glob("partition-?")), product.log)
                time.sleep(0.5)
                first.send_signal(signal.SIGSTOP)
                wait_until(lambda: len(list(other.glob("partition-?"))) == product.partitions, product.log)
                served_again(product, life, 20)
                first.send_signal(signal.SIGCONT)
                wait_until(lambda: "joins the group anew" in product.log(), product.log)
                time.sleep(1.0)
                second.kill()
            time.sleep(2.5)

            async def fence() -> None:
                stranger = Checkpoints(product.settings, 0)
                await stranger.start()
                await stranger.stop()

            asyncio.run(fence())
            wait_until(lambda: "partition 0 is another's" in product.log(), product.log)
            product.wait_until_taken_over()
            life.stop()
            ended_in_order(product, first)
        judge(product, life.asked, twice=True)
        assert "Traceback" not in whole_log(product)
        return figures(product, life)


def reactions_to(decision: Decision) -> list[dict[str, object]]:
    """Every slot is seen and liked."""
    user, request_id = decision.request.user, decision.request.request_id
    events: list[dict[str, object]] = []
    for slot, item in enumerate(decision.slot_items):
        place = {"user": user, "request_id": request_id, "slot": slot, "item": item}
        events += [
            {"kind": "seen", "event_id": f"{request_id}-{slot}", **place},
            {"kind": "acted", "event_id": f"{request_id}-{slot}+", "action": "like", **place},
        ]
    return events


@cell
def reactions_twice_and_in_disorder(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """The same reaction at new offsets, inside one batch and across restarts, in any order; and at the same ones.

    For that an old state is put back which no checkpoint has left behind: so it goes on, and folds them again.
    """
    random, places = Random(seed), [(f"user-{number % 7}", f"r{number}") for number in range(40)]
    with producing(folder, kafka, policy=LONG_WINDOW) as product:

        def react(events: list[dict[str, object]]) -> None:
            random.shuffle(events)
            for event in events:
                product.send("feedback", str(event["user"]), event)

        for user, request_id in places:
            product.ask(user, request_id)
        brought_back(product, **SELDOM)
        events = [event for record in product.read("feeds") for event in reactions_to(decode(record.value))]
        assert len(events) == 2 * 4 * len(places)
        shutil.copytree(product.settings.state_folder, folder / "old")
        react([*events, *events])
        with product.worker(**SELDOM) as process:
            product.wait_until_worked_off()
            process.kill()
        shutil.rmtree(product.settings.state_folder)
        (folder / "old").rename(product.settings.state_folder)
        react(events)
        with product.worker(**SELDOM) as process:
            product.wait_until_taken_over()
            assert "is filled from the checkpoint" not in product.log_of_latest()
            react(events)
            ended_in_order(product, process)
        judge(product, places)
        rows = [row for state in stored(product).values() for row in state.ledger.values()]
        assert sum(row.seen.bit_count() for row in rows) == len(events) // 2
        return {"requests": len(places), "reactions": len(product.read("feedback"))}


@cell
def reactions_before_their_decision_and_past_its_window(
    folder: Path, seed: int, kafka: Cluster | None = None
) -> Figures:
    window_ms = 3000
    policy = POLICY.replace("window_ms = 6000", f"window_ms = {window_ms}")

    def seen(request_id: str, slot: int, item: str) -> dict[str, object]:
        place = {"user": "u", "request_id": request_id, "slot": slot, "item": item}
        return {"kind": "seen", "event_id": f"{request_id}-{slot}-{item}", **place}

    with producing(folder, kafka, policy=policy) as product:
        with product.worker(**OFTEN) as process:
            product.ask("u", "first")
            (first,) = decisions(product, "u", 1)
            process.kill()
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            # One of all these is what stands in the first slot of the second feed, which nobody has asked for yet.
            for item in (f"{pool}{number}" for pool in "ab" for number in range(6)):
                product.send("feedback", "u", seen("second", 0, item))
            product.wait_until_worked_off()
            product.ask("u", "second")
            second = decisions(product, "u", 2)[1]
            time.sleep(max(window_ms / 1000.0 + 1.0, 0.0))
            for slot, item in enumerate(first.slot_items):
                product.send("feedback", "u", seen("first", slot, item))
                product.send("feedback", "u", {**seen("first", slot, item), "kind": "acted", "action": "like"})
            product.send("feedback", "u", seen("second", 1, second.slot_items[1]))
            ended_in_order(product, process)
        judge(product, [("u", "first"), ("u", "second")])
        state = stored(product)["u"]
        exposed = sum(tally.leveled_exposure for tally in state.taught.values())
        assert second.slot_items[0][0] in "ab"
        assert exposed > 0.0, "the early one counts"
        assert len(state.history) == len(first.slot_items), "what is late is remembered, not credited"
        return {"reactions": len(product.read("feedback"))}


KEY = b"poisoned"
ORGANIC = {"kind": "organic", "event_id": "e", "user": "poisoned", "item": "i", "action": "like"}


def request(**changes: object) -> bytes:
    asked = {"kind": "request", "request_id": "p", "user": "poisoned", "slots": 1}
    return msgspec.json.encode(asked | changes)


POISON = {
    "bytes": (KEY, b"\xff\x00{", "not an event or decision"),
    "no JSON": (KEY, b'{"kind":', "not an event or decision"),
    "schema": (KEY, request(slots="ten"), "$.slots"),
    "version": (KEY, request(schema=9), "schema version 9 is not known"),
    "NaN": (KEY, request().replace(b"1", b"NaN"), "not an event or decision"),
    "null key": (None, request(), "the key is missing"),
    "another's key": (b"x", request(), "the key is not the user's id"),
    "oversize": (KEY, b" " * 300_000, "at most 262144 are read"),
    "no value": (KEY, None, "no value"),
    "too many slots": (KEY, request(slots=999), "at most 100 slots by the policy"),
    "no such pool": (KEY, request(candidates={"z": ["i"]}), "no external pool"),
    "a time beyond all": (KEY, request(ts_ms=2**64), "ts_ms counts milliseconds"),
    "other kind": (KEY, msgspec.json.encode(ORGANIC), "stands among the requests"),
}


def poisoned(product: Product) -> int:
    """What is poison becomes dead letters, with origin and reason, and the next is served; how many there are.

    A worker runs, and the topics of this partition were empty.
    """
    partition = 1
    for topic in ("requests", "feedback"):
        for key, value, _ in POISON.values():
            product.send_raw(topic, key, value, partition)
    far_slot = {"kind": "seen", "event_id": "e", "user": "poisoned", "request_id": "r", "slot": 2**64, "item": "i"}
    product.send_raw("feedback", KEY, msgspec.json.encode(far_slot), partition)
    unknown = {"kind": "organic", "event_id": "e", "user": "poisoned", "item": "i", "action": "unheard of"}
    product.send_raw("feedback", b"poisoned", msgspec.json.encode(unknown), partition)
    product.producer.flush()
    after = next(f"after-{number}" for number in range(99) if partition_of(f"after-{number}".encode(), 2) == 1)
    product.ask(after, "the next")
    product.send("feedback", after, {**ORGANIC, "user": after})
    product.wait_until_worked_off()
    (decision,) = decisions(product, after, 1)
    assert decision.request.request_id == "the next"
    letters = product.read("dead-letters")
    origins = [{name: value.decode() for name, value in letter.headers} for letter in letters]
    requests = [
        (letter, told)
        for letter, told in zip(letters, origins, strict=True)
        if told["feedloom.topic"] == "requests"
    ]
    assert [int(told["feedloom.offset"]) for _, told in requests] == list(range(len(POISON)))
    for (letter, told), (name, (key, value, reason)) in zip(requests, POISON.items(), strict=True):
        assert (letter.key, letter.value) == (key, value or b""), name
        assert told["feedloom.partition"] == str(partition), name
        assert reason in told["feedloom.reason"], name
    of_feedback = [told["feedloom.reason"] for told in origins if told["feedloom.topic"] == "feedback"]
    # "other kind" is a reaction there; the unknown action and the slot are not.
    assert len(of_feedback) == len(POISON) + 1
    assert any("slots count from 0 to 999" in reason for reason in of_feedback)
    assert "the policy does not name action 'unheard of': add [actions.\"unheard of\"]" in of_feedback
    return len(letters)


@cell
def poison(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """And what was poison once is so again for a worker that has lost its disk, and for none that has not."""
    with producing(folder, kafka) as product:
        with product.worker(**SELDOM) as process:
            product.wait_until_taken_over()
            letters = poisoned(product)
            process.kill()
        histories = {"poisoned": ["e"]}

        def remembered() -> dict[str, list[str]]:
            known = {user: [entry.event_id for entry in state.history] for user, state in stored(product).items()}
            return {user: known.get(user, []) for user in histories}

        brought_back(product)
        assert remembered() == histories
        again = len(product.read("dead-letters"))
        assert letters <= again <= 2 * letters  # what was not kept when it was killed is said again
        asked = lived(product, seed, feeds=20)
        assert {pair[1] for pair in asked} <= product.decided()
        shutil.rmtree(product.settings.state_folder)
        brought_back(product)
        assert remembered() == histories
        return {"letters": letters}


def limit_files(process: int, size: int) -> None:
    """Let a process write no file beyond this size: a disk that is full. It may be lifted again."""
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))


@cell
def disk_full_then_freed(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """Its partitions are let go, once, until there is room; what was acknowledged is there."""
    said = "is let go until there is room"
    with producing(folder, kafka) as product, living(product, seed) as life:
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            time.sleep(1.0)
            limit_files(process.pid, 60_000)
            wait_until(lambda: product.log_of_latest().count(said) == product.partitions, product.log)
            time.sleep(2.5)
            assert product.log_of_latest().count(said) == product.partitions
            limit_files(process.pid, resource.RLIM_INFINITY)
            served_again(product, life, 20)
            life.stop()
            ended_in_order(product, process)
        judged(product, life)
        assert alerts(product) == []
        return figures(product, life)


def flip(folder: Path, pattern: str) -> int:
    """Flip a byte in the middle of the largest such file; how many bytes it has."""
    path = max(folder.glob(pattern), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    assert len(data) > 10, path
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    return len(data)


@cell
def a_byte_flipped_in_the_store(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """
    load     =================================================
    worker   [--x] MANIFEST, WAL [--x] SST [----------] [----] judge
    """
    with producing(folder, kafka) as product, living(product, seed) as life:
        at = stores(product)
        with product.worker(**OFTEN):
            wait_until(lambda: len(product.read("feeds")) > 50, product.log)
            product.wait_until_taken_over()
            time.sleep(1.0)
        damage = flip(at[0], "MANIFEST-*") + flip(at[1], "*.log")
        with product.worker(**OFTEN):
            product.wait_until_taken_over()
            time.sleep(0.5)
        assert len(damaged_folders(at[0])) == 1
        damage += flip(at[1], "*.sst")
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            life.stop()
            ended_in_order(product, process)
        brought_back(product, **OFTEN)  # if the damage is met no sooner
        judged(product, life)
        said, aside = alerts(product), {str(path) for store in at for path in damaged_folders(store)}
        assert {alert["name"] for alert in said} == {"store-damaged"}
        assert {alert["folder"] for alert in said} == aside
        return figures(product, life, set_aside=len(aside), bytes=damage)


@cell
def an_old_state_put_back(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """One that is behind gives way to the checkpoint; one that has seen more than there is is refused."""
    with producing(folder, kafka) as product:
        state = product.settings.state_folder
        asked = lived(product, seed, **OFTEN)
        shutil.copytree(state, folder / "old")
        asked = asked + lived(product, seed + 1, **OFTEN)
        shutil.rmtree(state)
        (folder / "old").rename(state)
        brought_back(product, **OFTEN)
        assert "is filled from the checkpoint" in product.log_of_latest()
        judge(product, asked)
        topic = ("requests", "feedback", "feeds")[seed % 3]
        store = PartitionStore(stores(product)[1], copied=True)
        position = store.position()
        assert position is not None
        ahead = Position(**{**msgspec.structs.asdict(position), topic: getattr(position, topic) + 999})
        store.write(Changes([], [], [], [], None, ahead))
        store.close()
        with product.worker() as process:
            assert process.wait(40) == 2, product.log()
        said = product.log_of_latest()
        assert f"has seen {product.settings.topic(topic)} up to offset {getattr(ahead, topic)}" in said
        assert "the topic was made anew, so remove" in said
        assert "Traceback" not in said
        shutil.rmtree(state)
        brought_back(product, **OFTEN)
        judge(product, asked)
        return {"requests": len(asked)}


class WrongClocks(Product):
    """Whoever writes for it has a clock that is up to an hour off, and goes back."""

    random = Random(0)

    def send(self, topic: str, user: str, value: Mapping[str, object]) -> None:
        super().send(topic, user, {**value, "ts_ms": self._wrong_ms()})

    def send_raw(self, topic: str, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        name, at_ms = self.settings.topic(topic), self._wrong_ms()
        sent = self.producer.send(name, value, key, partition=partition, timestamp_ms=at_ms)
        sent.add_callback(self._acknowledged)

    def _wrong_ms(self) -> int:
        return round(1000 * time.time()) + self.random.randrange(-HOUR_MS, HOUR_MS)


@cell
def clocks_an_hour_off(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """In values and of producers: the time at which the broker appended a record alone decides."""
    begun_ms = round(1000 * time.time())
    with producing(folder, kafka, WrongClocks) as product:
        WrongClocks.random.seed(seed)
        asked = lived(product, seed, **OFTEN)
        ended_ms = round(1000 * time.time())
        times = {
            topic: [(r.partition, r.timestamp) for r in product.read(topic)] for topic in ("requests", "feedback")
        }
        off = 0.0
        for topic, rows in times.items():
            assert rows == sorted(rows), topic
            assert all(begun_ms <= at_ms <= ended_ms for _, at_ms in rows), topic
        for record in product.read("feedback"):
            told_ms = msgspec.json.decode(record.value).get("ts_ms")
            off = max(off, abs(told_ms - record.timestamp) if told_ms else 0.0)
        assert off > HOUR_MS / 2
        made = [decode(record.value).at_ms for record in product.read("feeds")]
        assert set(made) <= {at_ms for _, at_ms in times["requests"]}
        judge(product, asked)
        shutil.rmtree(product.settings.state_folder)
        brought_back(product)
        judge(product, asked)
        return {"requests": len(asked), "seconds_off": round(off / 1000.0)}


@cell
def another_partition_count_is_refused(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    """Of one topic, and of all."""
    with producing(folder, kafka) as product:
        asked = lived(product, seed, feeds=40)
        split = ("requests", "feedback", "feeds", "propensities", "sums", "checkpoints")

        def refused_with(more: tuple[str, ...]) -> str:
            with administering(product) as admin:
                admin.create_partitions({product.settings.topic(name): 3 for name in more})
            with product.worker() as process:
                assert process.wait(40) == 2, product.log()
            assert "Traceback" not in product.log_of_latest()
            return product.log_of_latest()

        first = split[seed % len(split)]
        assert "partitions" in refused_with((first,))
        said = refused_with(tuple(name for name in split if name != first))
        assert "was made with 2 partitions and the topics have 3" in said
        judge(product, asked)  # the state is left as it was
        return {"requests": len(asked)}


@cell
def a_topic_made_anew_is_refused(folder: Path, seed: int, kafka: Cluster | None = None) -> Figures:
    with producing(folder, kafka) as product:
        asked = lived(product, seed, feeds=40)
        states = stored(product)
        name = ("requests", "feedback", "feeds")[seed % 3]
        remake(product, name)
        with product.worker() as process:
            assert process.wait(40) == 2, product.log()
        assert f"is of topic {product.settings.topic(name)} with the id" in product.log_of_latest()
        assert "the topic was made anew, so remove" in product.log_of_latest()
        assert "Traceback" not in product.log_of_latest()
        assert stored(product) == states
        return {"requests": len(asked)}


@cell
def ended_in_order_under_load(folder: Path, seed: int, kafka: Cluster | None = None, ends: int = 3) -> Figures:
    """It ends within five seconds, has told the broker how far it came, and nothing is folded again."""
    random, slowest = Random(seed), 0.0
    with producing(folder, kafka) as product, living(product, seed) as life:
        for _ in range(ends):
            with product.worker(**OFTEN) as process:
                product.wait_until_taken_over()
                wait_until(lambda: told_of_all(product), product.log)
                time.sleep(0.5 + 0.5 * random.random())
                slowest = max(slowest, terminate(process))
                assert process.returncode == 0, product.log()
            committed, decided = product.committed(), Counter(record.partition for record in product.read("feeds"))
            for number, position in enumerate(positions(product)):
                assert position.feeds == decided[number]
                for topic in ("requests", "feedback"):  # so what is read next has not been folded
                    place = TopicPartition(product.settings.topic(topic), number)
                    assert committed[place] == getattr(position, topic)
        assert slowest < 5.0, product.log()
        life.stop()
        brought_back(product)
        judged(product, life)
        return figures(product, life, seconds_to_end=round(slowest, 2))


@cell
def erased_and_quarantined_through_kills(
    folder: Path, seed: int, kafka: Cluster | None = None, *, thorough: bool = True
) -> Figures:
    """
    load     ==========================================
    worker   [----] [quarantine --x] [another --x] [erase --x] [-- folded again --] judge
    then     an old state put back, with checkpoints and without; the disk lost, with and without; judge each
    """
    random, without = Random(seed), "is without what was quarantined"
    with producing(folder, kafka) as product, ExitStack() as stack:
        state, orders = product.settings.state_folder, KafkaTarget(product.settings)
        before = lived(product, seed, **OFTEN)
        shutil.copytree(state, folder / "old")
        times = sorted(record.timestamp for record in product.read("feedback"))
        life = stack.enter_context(living(product, seed + 1, 0.02))
        bad = [
            Quarantine(from_ms=times[len(times) // 4], to_ms=times[len(times) // 2]),
            Quarantine(from_ms=times[0], to_ms=times[-1], user="user-5"),
        ]
        for what in bad:
            with product.worker(**OFTEN) as process:
                product.wait_until_taken_over()
                orders.quarantine(what)
                time.sleep(1.5 * random.random())  # while it is folded again
                process.kill()
        with product.worker(**OFTEN) as process:
            product.wait_until_taken_over()
            erased = orders.erase("user-3")
            time.sleep(random.random())
            process.kill()
        with product.worker(**OFTEN, **PATIENT) as process:
            product.wait_until_taken_over()
            served_again(product, life)
            life.stop()
            wait_until_nothing_waits(product)
            ended_in_order(product, process)
        assert without in whole_log(product)
        asked = before + life.asked
        left_out(product, bad)
        judge(product, asked, twice=True)
        facts = [msgspec.json.decode(record.value, type=ErasedFact) for record in product.read("erased")]
        assert {(fact.user, fact.at_ms) for fact in facts} == {("user-3", erased.erased_ms)}

        def put_back(checkpoints: bool, old: bool) -> None:
            shutil.rmtree(state)
            if old:
                shutil.copytree(folder / "old", state)
            if not checkpoints:
                remake(product, "checkpoints")
            with product.worker(**OFTEN, **PATIENT) as process:
                product.wait_until_taken_over()
                if not checkpoints:  # what the topics hold is folded, then again without the quarantine
                    wait_until(lambda: product.log_of_latest().count(without) == product.partitions, product.log)
                ended_in_order(product, process)
                assert checkpoints == (without not in product.log_of_latest()), product.log()
            judge(product, asked, twice=True)

        if thorough:
            put_back(checkpoints=True, old=True)
            put_back(checkpoints=False, old=True)
            put_back(checkpoints=False, old=False)
        earlier = delete_first_half(product)
        shutil.rmtree(state)
        brought_back(product, **OFTEN)  # from the checkpoint alone
        judge(product, asked, earlier=earlier, twice=True)
        assert alerts(product) == []
        return {"requests": len(asked), "lapsed": len(earlier) // 2, "kills": 3}


def wait_until_nothing_waits(product: Product) -> None:
    """Until the checkpoints say that no quarantine waits to be folded."""

    def done() -> bool:
        newest = {(r.partition, r.key): r.value for r in product.read("checkpoints") if r.key in (b"x", b"p4")}
        found = [
            msgspec.msgpack.decode(value, type=Exclusions) for (_, key), value in newest.items() if key == b"x"
        ]
        return len(found) == product.partitions and not any(one.unfolded for one in found)

    wait_until(done, product.log)


def left_out(product: Product, bad: list[Quarantine]) -> None:
    """That there was something to be left out, so that a judge who is content has seen it."""
    feedback = [(record.timestamp, decode(record.value)) for record in product.read("feedback")]
    reactions = [value for _, value in feedback if isinstance(value, Seen | Acted | Organic)]
    _, rest = kept([], feedback)
    assert len(rest) < len(reactions) - 20
    for what in bad:
        of_it = [at for at, value in feedback if isinstance(value, Seen) and what.user in (None, value.user)]
        assert any(what.from_ms <= at <= what.to_ms for at in of_it)
