"""The partitions of a folder in one process, with a clock and users of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka_product import POLICY
from oracle import judge

from engine.decision import Decision
from engine.events import Acted, Organic, Request, Seen
from engine.state import UserState
from streams.codec import decode
from streams.local_partitions import LocalPartitions
from streams.local_topics import LocalTopics
from streams.policy_file import read_policy
from streams.settings import Settings

USERS = ("ann", "bob", "cleo")


class Engine:
    """The partitions of a folder, whose clock goes on by a second for each feed."""

    def __init__(self, folder: Path, partitions: int = 1) -> None:
        (folder / "policy.toml").write_text(POLICY)
        self.policy = read_policy(folder / "policy.toml")
        self.now_ms = 1_800_000_000_000
        self.topics = LocalTopics(folder / "data", partitions, 5_000, lambda: self.now_ms)
        self.partitions = LocalPartitions(self.topics, self.policy, Settings())
        self.partitions.recover()
        self.number = 0

    def live(self, feeds: int) -> None:
        for _ in range(feeds):
            self.number += 1
            self.now_ms += 1000
            user, name = USERS[self.number % 3], f"r{self.number}"
            request = Request(request_id=name, user=user, slots=3, candidates={"a": ["1", "2", "3", "4"]})
            (made,) = self.partitions.answer([request])
            assert isinstance(made, Decision)
            place = {"user": user, "request_id": name, "slot": 0, "item": made.slot_items[0]}
            like = Organic(event_id=f"o{name}", user=user, item=f"i{self.number % 7}", action="like")
            self.partitions.react(
                [Seen(event_id=name, **place), Acted(event_id=name, action="like", **place), like]
            )
            self.partitions.tick()

    def state(self, user: str) -> UserState:
        return self.partitions._owned[self.topics.part_of(user)].partition.state(user)

    def judge(self) -> None:
        self.partitions.keep()

        def of(topic: str) -> list:
            logs = [self.topics.log(topic, number) for number in range(self.topics.partitions)]
            chunks = [chunk for log in logs for chunk in log.read()]
            return [(record.at_ms, decode(record.value)) for chunk in chunks for record in chunk]

        states = {user: self.state(user) for user in USERS}
        known = {user: state for user, state in states.items() if state != UserState()}
        judge(of("feeds"), of("feedback"), known, self.policy.memory)


@contextmanager
def living(folder: Path) -> Iterator[Engine]:
    """An engine over a folder, which is let go of at the end."""
    made = Engine(folder)
    yield made
    made.partitions.close()
    made.topics.close()


def folded_anew(engine: Engine) -> None:
    while engine.partitions.unfolded:
        anew = engine.partitions.fold_anew()
        assert anew is not None
        engine.live(2)  # while it is made
        engine.partitions.switch(anew)
