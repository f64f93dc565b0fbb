"""The layout of stored state: what was written by a version before is read, and a change of it is noticed.

When a change of the layout is meant, give it another position key in streams/store.py (a store of before is then
folded again, or refused where its topics have lapsed), and run this file as a program: it writes the golden store.
"""

import json
from base64 import b64decode, b64encode
from pathlib import Path
from tempfile import TemporaryDirectory

from goldens import GOLDEN

from engine.decision import Decision
from engine.events import Acted, Erase, Organic, Quarantine, Request, Seen
from engine.policy import Policy
from engine.pool_policy import PoolPolicy
from streams.local_partitions import LocalPartitions
from streams.local_topics import LocalTopics
from streams.settings import Settings
from streams.store import PartitionStore

POLICY = Policy({"mine": PoolPolicy("external"), "popular": PoolPolicy("popular")})
PATH = GOLDEN / "store.json"


def items_of(folder: Path) -> dict[bytes, bytes]:
    store = PartitionStore(folder)
    found = dict(store.everything())
    store.close()
    return found


def lived(folder: Path) -> dict[bytes, bytes]:
    """What a short life leaves in a store: open and closed decisions, reactions that wait, an erased user."""
    now = [1_700_000_000_000]
    topics = LocalTopics(folder, 1, 1 << 20, lambda: now[0])
    partitions = LocalPartitions(topics, POLICY, Settings())
    partitions.recover()
    for number in range(12):
        now[0] += 9_000_000
        user, name = ("zoë", "ada", "bob")[number % 3], f"r{number}"
        request = Request(request_id=name, user=user, slots=3, candidates={"mine": ["a", "b", "c", "d"]})
        (made,) = partitions.answer([request])
        assert isinstance(made, Decision)
        place = {"user": user, "request_id": name, "slot": 1, "item": made.slot_items[1]}
        early = Seen(event_id=f"e{number}", user=user, request_id=f"r{number + 3}", slot=0, item="a")
        liked = Organic(event_id=f"o{number}", user=user, item=f"film-{number % 4}", action="like")
        acted = Acted(event_id=f"a{number}", action="like", **place)
        partitions.react([Seen(event_id=f"s{number}", **place), acted, early, liked])
    partitions.react([Erase(user="bob"), Quarantine(from_ms=0, to_ms=1, user="ada")])  # type: ignore[list-item]
    partitions.keep()
    partitions.close()
    topics.close()
    return items_of(folder / "state" / "partition-0")


def golden_store() -> dict[bytes, bytes]:
    return {b64decode(key): b64decode(value) for key, value in json.loads(PATH.read_text())}


def test_a_store_of_the_golden_layout_is_read(tmp_path: Path) -> None:
    lived(tmp_path / "now")
    old = PartitionStore(tmp_path / "old")
    old.fill(golden_store().items())
    new = PartitionStore(tmp_path / "now" / "state" / "partition-0")
    assert dict(old.users()) == dict(new.users()) != {}
    assert (old.position(), old.exclusions()) == (new.position(), new.exclusions())
    assert list(old.due()) == list(new.due()) != []
    assert (old.sums(), list(old.lessons())) == (new.sums(), list(new.lessons()))
    for store in (old, new):
        store.close()


def test_what_is_written_now_has_the_golden_layout(tmp_path: Path) -> None:
    assert lived(tmp_path) == golden_store()


def test_a_state_of_another_version_is_folded_again_where_the_topics_are_whole(tmp_path: Path) -> None:
    wanted = lived(tmp_path)
    store = PartitionStore(tmp_path / "state" / "partition-0")
    store.fill([(b"p3", b"of before"), *((key, None) for key in wanted)])
    store.close()
    topics = LocalTopics(tmp_path, 1, 1 << 20, lambda: 1_700_000_000_000)
    partitions = LocalPartitions(topics, POLICY, Settings())
    partitions.recover()
    partitions.close()
    alerts = [record.key for chunk in topics.log("alerts").read() for record in chunk]
    topics.close()
    assert alerts == [b"state-of-another-version"]
    assert {key for key in items_of(tmp_path / "state" / "partition-0") if key[:1] == b"u"} == {
        key for key in wanted if key[:1] == b"u"
    }


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        rows = [[b64encode(part).decode() for part in row] for row in lived(Path(made)).items()]
        PATH.write_text(json.dumps(rows, indent=0) + "\n")
