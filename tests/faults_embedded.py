"""The fault matrix of the embedded engine: each cell breaks something, and the oracle says what must be there then.

A cell takes a folder of its own and a seed. What it returns are figures worth keeping; it fails by an assertion.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import msgspec
from embedded_product import EmbeddedProduct, Visitors, limit_files, terminate
from kafka_product import POLICY, wait_until

from engine.decision import Decision
from engine.events import Acted, Organic, Quarantine, Request, Seen
from streams.local_partitions import LocalPartitions
from streams.local_topics import LocalTopics
from streams.log import Unwritten
from streams.orders import FolderTarget
from streams.policy_file import read_policy
from streams.settings import Settings
from streams.store import PartitionStore
from streams.store_folder import StoreDamagedError

Figures = dict[str, float]
Cell = Callable[[Path, int], Figures]
FAILPOINTS = ("before-acknowledgement", "after-acknowledgement", "inside-batch", "after-batch")
POINTS = 20  # at least, at which a process is killed at random
CELLS: dict[str, Cell] = {}


def cell(check: Cell) -> Cell:
    """Enter a cell into the matrix under its name."""
    CELLS[check.__name__] = check
    return check


def lived(product: EmbeddedProduct, seed: int, answers: int = 60) -> None:
    """Users live with a server until so many more feeds are acknowledged, and it ends in order."""
    before = len(product.answers)
    with product.server() as process, Visitors(product, seed):
        wait_until(lambda: len(product.answers) >= before + answers, product.log)
        terminate(process)


def judged(product: EmbeddedProduct, **how: bool) -> Figures:
    """What the oracle says once a server has begun and ended over what is there."""
    with product.server() as process:
        seconds = terminate(process)
    product.judge(**how)
    return {"feeds": len(product.answers), "reactions": len(product.reacted), "seconds_to_end": round(seconds, 2)}


@cell
def killed_at_random(folder: Path, seed: int, points: int = POINTS) -> Figures:
    product, random = EmbeddedProduct(folder, partitions=2), Random(seed)
    with Visitors(product, seed):
        for _ in range(points):
            with product.server(ready=random.random() < 0.75) as process:  # else while it begins
                time.sleep(random.random())
                process.kill()
    assert len(product.answers) > points
    return {"kills": points, **judged(product)}


@cell
def killed_at_every_failpoint(folder: Path, seed: int) -> Figures:
    product, random = EmbeddedProduct(folder), Random(seed)
    with Visitors(product, seed):
        for failpoint in FAILPOINTS:
            with product.server(f"{failpoint}:{random.randrange(5, 40)}") as process:
                assert process.wait(40) == -signal.SIGKILL, product.log()
    return judged(product)


@cell
def policies_change_through_kills(folder: Path, seed: int, kills: int = 8) -> Figures:
    """What was acknowledged is in force after each kill; decisions go from one revision to the next, never back."""
    product, random = EmbeddedProduct(folder, partitions=2), Random(seed)
    acknowledged: dict[int, str] = {}
    first = read_policy(product.policy)
    with Visitors(product, seed):
        for _ in range(kills):
            with product.server() as process:
                for _ in range(random.randrange(1, 5)):
                    blend = msgspec.structs.replace(first.blend, epsilon=random.random())
                    changed = msgspec.to_builtins(msgspec.structs.replace(first, blend=blend))
                    status, answer = product.call("POST", "/v1/policy", {"policy": changed, "who": "", "why": ""})
                    assert status == 200, answer
                    acknowledged[answer["number"]] = answer["version"]
                    time.sleep(random.random() * 0.1)
                process.kill()
    figures = judged(product)
    revisions = FolderTarget(product.data, Settings()).revisions()
    numbers = {one.version: one.number for one in revisions}
    assert [one.number for one in revisions] == list(range(1, len(revisions) + 1))
    assert acknowledged.items() <= {one.number: one.version for one in revisions}.items()
    decided = [(at_ms, numbers[decision.policy_version]) for at_ms, decision in product.read("feeds")]
    in_order = [number for _, number in sorted(decided)]
    assert in_order == sorted(in_order)
    assert max(in_order) > 1
    return {"kills": kills, "revisions": len(revisions), **figures}


@cell
def killed_while_it_recovers_twice(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    lived(product, seed)
    shutil.rmtree(product.data / "state")
    for _ in range(2):
        with product.server("inside-batch:1", ready=False) as process:
            assert process.wait(40) == -signal.SIGKILL, product.log()
    return judged(product)


@cell
def state_wiped(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    lived(product, seed)
    product.judge()
    shutil.rmtree(product.data / "state")
    return judged(product)


@cell
def an_old_state_put_back(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    lived(product, seed)
    shutil.copytree(product.data / "state", folder / "old")
    lived(product, seed + 1)
    shutil.rmtree(product.data / "state")
    (folder / "old").rename(product.data / "state")
    return judged(product)


@cell
def a_state_ahead_of_its_topics(folder: Path, seed: int) -> Figures:
    """The end of a log is gone: the log is the truth, and the state is folded again."""
    product = EmbeddedProduct(folder)
    lived(product, seed)
    log = newest_segment(product, "feedback")
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size // 2)
    lived(product, seed + 1)
    assert "store-set-aside" in product.log()
    return judged(product, lost=True)


@cell
def a_torn_copy_beside_a_damaged_state(folder: Path, seed: int) -> Figures:
    """The newest copy of the state is torn, the one before is whole, and the topics do not reach back."""
    product = EmbeddedProduct(folder, FEEDLOOM_SEGMENT_BYTES="20000", FEEDLOOM_BACKUP_EVERY_MS="1000")

    def copies_there() -> list[Path]:
        return sorted((product.data / "state").glob("partition-0.backup-[0-9]*"), key=lambda path: path.name)

    with product.server() as process, Visitors(product, seed):
        wait_until(lambda: len(copies_there()) >= 3, product.log)
        terminate(process)
    states, copies = product.states(), copies_there()
    for path in copies[-1].glob("*.sst"):
        damage(path)
    damage(copies[-1] / (copies[-1] / "CURRENT").read_text().strip())
    store = PartitionStore(copies[-2])
    seen = store.position().feedback
    store.close()
    segments = sorted((product.data / "log" / "feedback-0").glob("*.log"))
    lapsed = [path for path, after in pairwise(segments) if int(after.stem) <= seen]
    assert lapsed
    for path in lapsed:
        path.unlink()
    damage_newest(product.data / "state" / "partition-0", "MANIFEST-*")
    with product.server() as process:
        terminate(process)
    assert "store-damaged" in product.log()
    assert "history-lost" not in product.log()
    # Sums may differ in their last bits, by the order in which reactions were folded.
    assert {
        user: (state.history, state.served, state.ledger.keys()) for user, state in product.states().items()
    } == {user: (state.history, state.served, state.ledger.keys()) for user, state in states.items()}
    return {"copies": len(copies)}


@cell
def reactions_twice_and_in_disorder(folder: Path, seed: int) -> Figures:
    """The same reaction at a new offset, inside one batch and across restarts, in any order."""
    product, random = EmbeddedProduct(folder), Random(seed)
    events = []
    with product.server() as process:
        for number in range(40):
            user, request_id = f"user-{number % 7}", f"r{number}"
            items = product.ask(user, request_id) or []
            for slot, item in enumerate(items):
                place = {"user": user, "request_id": request_id, "slot": slot, "item": item}
                events += [
                    {"kind": "seen", "event_id": f"{number}-{slot}", **place},
                    {"kind": "acted", "event_id": f"{number}-{slot}+", "action": "like", **place},
                ]
        twice = [*events, *events]
        random.shuffle(twice)
        assert product.react(twice)
        process.kill()
    with product.server() as process:
        random.shuffle(events)
        for begin in range(0, len(events), 37):
            assert product.react(events[begin : begin + 37])
        terminate(process)
    figures = judged(product)
    credited = [row for state in product.states().values() for row in state.ledger.values()]
    assert sum(row.seen.bit_count() for row in credited) == len(events) // 2
    return figures


@cell
def reactions_before_their_decision_and_past_its_window(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder, policy=POLICY.replace("window_ms = 6000", "window_ms = 800"))

    def seen(request_id: str, item: str, name: str) -> dict[str, object]:
        place = {"user": "u", "request_id": request_id, "slot": 0, "item": item}
        return {"kind": "seen", "event_id": name, **place}

    with product.server() as process:
        first = product.ask("u", "first") or []
        assert product.react([seen("second", first[0], "early"), seen("second", "a0", "early, of another item")])
        process.kill()
    with product.server() as process:
        second = product.ask("u", "second") or []
        assert product.react([seen("second", second[0], "in time, or known")])
        time.sleep(1.2)
        like = {**seen("first", first[0], "late"), "kind": "acted", "action": "like"}
        assert product.react([seen("first", first[0], "too late"), like])
        terminate(process)
    return judged(product)


@cell
def poison(folder: Path, seed: int) -> Figures:
    """By HTTP it is refused and nothing is written; in the topics it becomes a dead letter with its origin."""
    product = EmbeddedProduct(folder)
    lived(product, seed, answers=10)
    bad = [b"\xff\x00{", b'{"kind":', b"[" * 100_000, b'{"slots": NaN}', b" " * 2_000_000, b"null", b"[]"]
    before = {topic: len(product.read(topic)) for topic in ("requests", "feeds")}
    with product.server() as process:
        for body in bad[:6]:
            for path in ("/v1/feeds", "/v1/feedback", "/v1/items"):
                status, answer = product.call("POST", path, body)
                assert status in (400, 413), answer
                assert answer["error"]
        terminate(process)
    assert {topic: len(product.read(topic)) for topic in before} == before
    topics = LocalTopics(product.data, product.partitions, 64 << 20)
    poisoned = [Unwritten(b"u", body) for body in bad[:3]] + [Unwritten(None, b"{}"), Unwritten(b"u", None)]
    first = {topic: topics.append(topic, 0, poisoned, topics.now_ms()) for topic in ("requests", "feedback")}
    topics.close()
    lived(product, seed + 1, answers=10)
    topics = LocalTopics(product.data, product.partitions, 64 << 20)
    letters = [dict(record.headers) for chunk in topics.log("dead-letters").read() for record in chunk]
    topics.close()
    origins = {(letter["feedloom.topic"].decode(), int(letter["feedloom.offset"])) for letter in letters}
    assert origins == {(topic, offset + n) for topic, offset in first.items() for n in range(len(poisoned))}
    judge_without_poison(product)
    return {"letters": len(letters)}


def judge_without_poison(product: EmbeddedProduct) -> None:
    """As `product.judge`, of what can be read."""
    topics = LocalTopics(product.data, product.partitions, 64 << 20)
    rows = [record for chunk in topics.log("feedback").read() for record in chunk]
    topics.close()
    reactions = []
    for record in rows:
        try:
            reactions.append((record.at_ms, msgspec.json.decode(record.value or b"", type=Seen | Acted)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    assert len(reactions) > 20
    readable = {(value.user, value.event_id) for _, value in reactions}
    assert {name for name in product.reacted if not name[1].endswith("*")} <= readable


@cell
def disk_full_then_freed(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    lived(product, seed, answers=30)
    largest = max(path.stat().st_size for path in product.data.rglob("*") if path.is_file())
    refused = 0
    with product.server() as process, Visitors(product, seed):
        limit_files(process.pid, largest + 5_000)
        wait_until(lambda: "disk refused" in product.log(), product.log)
        status, answer = 200, None
        while status == 200:
            status, answer = product.call(
                "POST", "/v1/feeds", {"request_id": f"x{refused}", "user": "x", "slots": 1}
            )
            refused += 1
        assert status == 503, answer
        limit_files(process.pid, -1)
        wait_until(product.ready, product.log)
        before = len(product.answers)
        wait_until(lambda: len(product.answers) > before + 20, product.log)
        terminate(process)
    return judged(product)


@cell
def a_byte_flipped_at_the_end_of_a_log(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    lived(product, seed)
    for topic in ("feedback", "feeds", "requests"):
        path = newest_segment(product, topic)
        damage(path, path.stat().st_size - 3)
    lived(product, seed + 1)
    assert product.log().count("log-damaged") == 3
    return judged(product, lost=True)


@cell
def a_byte_flipped_inside_a_log(folder: Path, seed: int) -> Figures:
    """What was learned of it stays learned; folded again, it is without it and with all around it."""
    product = EmbeddedProduct(folder)
    lived(product, seed)
    states = product.states()
    whole = len(product.read("feedback"))
    path = newest_segment(product, "feedback")
    damage(path, path.stat().st_size // 2)
    with product.server() as process:
        terminate(process)
    assert "log-damaged" in product.log()
    assert product.states() == states
    left = len(product.read("feedback"))
    assert whole - 60 < left < whole
    shutil.rmtree(product.data / "state")
    return judged(product, lost=True)


@cell
def a_byte_flipped_in_the_store(folder: Path, seed: int) -> Figures:
    """In MANIFEST, SST and WAL: it is set aside, or what of it is whole goes on; either way nothing is missing."""
    product = EmbeddedProduct(folder)
    store = product.data / "state" / "partition-0"
    lived(product, seed)
    found = {"MANIFEST-*": 0, "*.sst": 0, "*.log": 0}
    for number, pattern in enumerate(found):
        lived(product, seed + 1 + number, answers=20)
        if pattern == "*.log":  # which an end in order empties
            with product.server() as process, Visitors(product, seed):
                before = len(product.answers)
                wait_until(lambda before=before: len(product.answers) > before + 60, product.log)
                process.kill()
        found[pattern] = damage_newest(store, pattern)
        with suppress(StoreDamagedError):  # met by the judge, where the server had no need to look
            judged(product)
        judged(product)
    assert all(found.values()), found
    aside = len(list(store.parent.glob("partition-0.damaged-*")))
    assert aside >= 1
    return {"set_aside": aside, **judged(product)}


@cell
def clocks_an_hour_off_and_going_back(folder: Path, seed: int) -> Figures:
    """In one process, whose machine's clock is ours: log time never goes back, and every fold of it is the same."""
    (folder / "policy.toml").write_text(POLICY)
    policy, random = read_policy(folder / "policy.toml"), Random(seed)
    clock = [1_800_000_000_000]
    topics = LocalTopics(folder / "data", 1, 64 << 20, lambda: clock[0])
    partitions = LocalPartitions(topics, policy, Settings())
    partitions.recover()
    for number in range(200):
        clock[0] += random.choice((5, 50, 500, 3_600_000, -3_600_000, -60_000))
        request = Request(
            request_id=f"r{number}", user=f"u{number % 5}", slots=3, candidates={"a": ["1", "2", "3"]}
        )
        (decision,) = partitions.answer([request])
        assert isinstance(decision, Decision)
        clock[0] += random.choice((1, -3_600_000, 3_600_000))
        place = {"user": request.user, "request_id": request.request_id, "slot": 0, "item": decision.slot_items[0]}
        partitions.react([Seen(event_id=f"s{number}", **place)])
        partitions.tick()
        if random.random() < 0.1:
            partitions.recover()  # what was not kept is folded again
    partitions.keep()
    partitions.close()
    topics.close()
    product = EmbeddedProduct(folder)
    times = [at_ms for at_ms, _ in product.read("feedback")]
    assert times == sorted(times)
    product.judge()
    return {"hours": (times[-1] - times[0]) / 3_600_000}


@cell
def another_partition_count_is_refused(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder, partitions=2)
    lived(product, seed, answers=10)
    with product.server(ready=False, FEEDLOOM_PARTITIONS="3") as process:
        assert process.wait(30) == 2
    assert "was made with 2 partitions, and 3 are asked for" in product.log()
    return judged(product)


@cell
def a_topic_made_anew(folder: Path, seed: int) -> Figures:
    """A log's folder is gone: the state that has seen it is folded again from what is there."""
    product = EmbeddedProduct(folder)
    lived(product, seed)
    shutil.rmtree(product.data / "log" / "feedback-0")
    lived(product, seed + 1)
    assert "store-set-aside" in product.log()
    return judged(product, lost=True)


@cell
def two_owners(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    with product.server() as first, Visitors(product, seed):
        command = [sys.executable, "-m", "feedloom", "serve", "--data", product.data, "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "another process has" in done.stderr
        before = len(product.answers)
        wait_until(lambda: len(product.answers) > before + 20, product.log)
        terminate(first)
    return judged(product)


@cell
def ended_in_order_under_load(folder: Path, seed: int) -> Figures:
    product = EmbeddedProduct(folder)
    slowest = 0.0
    with Visitors(product, seed):
        for _ in range(3):
            before = len(product.answers)
            with product.server() as process:
                wait_until(lambda before=before: len(product.answers) > before + 30, product.log)
                slowest = max(slowest, terminate(process))
    assert slowest < 5.0
    with product.server() as process:
        terminate(process)
    assert "are folded again" not in product.log().rpartition("listening")[2]
    product.judge()
    return {"seconds_to_end": round(slowest, 2)}


@cell
def ended_in_order_while_it_recovers(folder: Path, seed: int) -> Figures:
    """Of a long log without a state; what was folded until then is not folded once more."""
    product = EmbeddedProduct(folder)
    topics = LocalTopics(product.data, 1, 64 << 20)
    rows = [
        Unwritten(b"u", msgspec.json.encode(Organic(event_id=f"{n}", user="u", item=f"i{n % 50}", action="like")))
        for n in range(30_000)
    ]
    for begin in range(0, len(rows), 1000):
        topics.append("feedback", 0, rows[begin : begin + 1000], topics.now_ms())
    topics.close()
    with product.server(ready=False) as process:
        wait_until(lambda: "reading what the topics hold" in product.log(), product.log)
        time.sleep(1.0)
        seconds = terminate(process)
    assert seconds < 5.0
    store = PartitionStore(product.data / "state" / "partition-0")
    position = store.position()
    store.close()
    assert position is not None
    assert 0 < position.feedback < len(rows)
    return {"folded": position.feedback, **judged(product)}


@cell
def erased_and_quarantined_through_kills(folder: Path, seed: int) -> Figures:
    """While users live and the server dies; a lost state, and an old one put back, obey as well."""
    product, random = EmbeddedProduct(folder), Random(seed)
    lived(product, seed)
    shutil.copytree(product.data / "state", folder / "old")
    bad = Quarantine(from_ms=product.read("feedback")[40][0], to_ms=product.read("feedback")[90][0])
    with Visitors(product, seed + 1):
        with product.server() as process:
            status, _ = product.call("POST", "/v1/quarantines", json.loads(msgspec.json.encode(bad)))
            assert status == 200
            time.sleep(random.random())
            process.kill()
        with product.server() as process:
            status, answer = product.call("DELETE", "/v1/users/user-3")
            assert status == 200
            assert answer["logs_lapse_ms"] > answer["erased_ms"]
            time.sleep(random.random())
            process.kill()
        before = len(product.answers)
        with product.server() as process:
            wait_until(lambda: len(product.answers) > before + 60, product.log)
            time.sleep(2.0)  # the quarantine is folded beside this
            terminate(process)
    product.judge()
    shutil.rmtree(product.data / "state")
    (folder / "old").rename(product.data / "state")
    for _ in range(2):
        with product.server() as process:
            time.sleep(2.0)
            terminate(process)
        product.judge()
        shutil.rmtree(product.data / "state")
    return {"feeds": len(product.answers)}


def newest_segment(product: EmbeddedProduct, topic: str) -> Path:
    return max((product.data / "log" / f"{topic}-0").glob("*.log"))


def damage(path: Path, position: int | None = None) -> None:
    """Flip a byte, in the middle unless it is said where."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 0x55
    path.write_bytes(data)


def damage_newest(store: Path, pattern: str) -> int:
    """Flip a byte of the newest file of a kind that holds anything; how many bytes it has."""
    paths = [path for path in store.glob(pattern) if path.stat().st_size]
    if not paths:
        return 0
    newest = max(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))
    damage(newest)
    return newest.stat().st_size
