"""An operator's orders to an engine, wherever it is: erase a user, leave reactions out, change the policy.

What changes state stands in `feedback`, so every fold of it obeys; a policy stands in its own topic.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import msgspec

from engine.errors import InputError
from engine.events import Erase, Quarantine
from engine.policy import Policy
from engine.revisions import Revision, Revisions, StaleError, refuse_kept
from streams.asking import Change, Erased, Ordered
from streams.codec import encode
from streams.local_partitions import LocalPartitions
from streams.local_topics import LocalTopics
from streams.settings import Settings
from streams.tools import DELIVERY_SECONDS_MAX, producing, records
from streams.topics import partition_count, retention_ms

ANSWER_SECONDS_MAX = 60
RAW = ("requests", "feedback", "feeds", "propensities", "dead-letters")  # topics that hold what users did


class KafkaTarget:
    """The workers of a cluster: they obey when they read it."""

    def __init__(self, settings: Settings) -> None:
        """Of these topics."""
        self._settings = settings

    def erase(self, user: str) -> Erased:
        """Returns when the order is acknowledged, and with when the topics themselves will have lapsed."""
        ((_, at_ms),) = self._ordered(Erase(user=user), user)
        kept_ms = retention_ms(self._settings, RAW)
        return Erased(user, at_ms, None if kept_ms is None else at_ms + kept_ms)

    def quarantine(self, what: Quarantine) -> Ordered:
        """Returns when the order is acknowledged."""
        placed = self._ordered(what, what.user)
        return Ordered(len(placed), max(at_ms for _, at_ms in placed))

    def revisions(self, most: int | None = None) -> list[Revision]:
        """The latest revisions of the policy, so many at most, the oldest first."""
        found = Revisions(Policy())
        for record in records(self._settings, "policy", "earliest"):
            with suppress(InputError):  # it was refused when it came
                found.take(record.value or b"", record.timestamp)
        return found.history[-(most or 0) :]

    def apply(self, change: Change) -> Revision:
        """Returns when it is in the topic as the revision in force; workers take it when they read it."""
        known = self.revisions()
        if known and known[-1].policy.version == change.policy.version:
            return known[-1]
        record = change.record(known[-1].number if known else 0)
        if known:
            refuse_kept(known[-1].policy, change.policy)
        with producing(self._settings) as producer:
            value = msgspec.json.encode(record)
            producer.send(self._settings.topic("policy"), value, record.key.encode()).get(DELIVERY_SECONDS_MAX)
        taken = next((one for one in self.revisions() if one.number == record.number), None)
        if taken is None:
            raise InputError("the policy was sent and is not in force: `feedloom tail policy` shows why")
        if taken.version != record.version:
            raise StaleError(f"{taken.who} was faster, and revision {taken.number} is another policy")
        return taken

    def followers(self, revision: Revision, seconds: float) -> tuple[int, int]:
        """How many partitions say within this time that they are folded by it, and how many there are."""
        count, end, said = partition_count(self._settings, "feedback"), time.monotonic() + seconds, set[int]()
        while len(said) < count and time.monotonic() < end:
            for record in records(self._settings, "metrics", revision.at_ms):
                told = msgspec.json.decode(record.value) if record.key == b"policy" else {}
                if told.get("revision", 0) >= revision.number:
                    said.add(told["partition"])
        return len(said), count

    def _ordered(self, order: Erase | Quarantine, user: str | None) -> list[tuple[int, int]]:
        """(partition, log time) of where it stands: in the user's partition, or in all."""
        topic = self._settings.topic("feedback")
        count = partition_count(self._settings, "feedback")
        places: list[int | None] = [None] if user is not None else list(range(count))
        key = None if user is None else user.encode()
        with producing(self._settings) as producer:
            sent = [producer.send(topic, encode(order), key, partition=place) for place in places]
            done = [future.get(DELIVERY_SECONDS_MAX) for future in sent]
        return [(where.partition, where.timestamp) for where in done]


class ServerTarget:
    """A `feedloom serve` that is running."""

    def __init__(self, address: str, settings: Settings) -> None:
        """At an address such as http://127.0.0.1:8080."""
        self._address = address.rstrip("/")
        self._key = settings.operator_key or settings.api_key

    def erase(self, user: str) -> Erased:
        """Returns when it is done."""
        answer = self._call("DELETE", f"/v1/users/{quote(user, safe='')}")
        return Erased(answer["user"], answer["erased_ms"], answer["logs_lapse_ms"])

    def quarantine(self, what: Quarantine) -> Ordered:
        """Returns when the order is taken; the server obeys while it goes on."""
        answer = self._call("POST", "/v1/quarantines", encode(what))
        return Ordered(answer["partitions"], answer["at_ms"])

    def revisions(self, most: int | None = None) -> list[Revision]:
        """The latest revisions of the policy, so many at most, the oldest first."""
        numbers = [one["number"] for one in self._call("GET", "/v1/policy/history")["revisions"]]
        paths = [f"/v1/policy?revision={number}" for number in numbers[-(most or 0) :]]
        return [_revision(self._call("GET", path)) for path in paths]

    def apply(self, change: Change) -> Revision:
        """Returns when it is in force."""
        document = msgspec.Raw(msgspec.json.encode(change.policy))
        body = {"policy": document, "who": change.who, "why": change.why, "after": change.after}
        body["restores"] = change.restores
        return _revision(self._call("POST", "/v1/policy", msgspec.json.encode(body)))

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        if not self._address.startswith(("http://", "https://")):
            raise InputError(f"{self._address} is no address of a server: give one such as http://127.0.0.1:8080")
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        asked = HttpRequest(self._address + path, body, headers, method=method)  # noqa: S310  checked above
        try:
            with urlopen(asked, timeout=ANSWER_SECONDS_MAX) as response:  # noqa: S310
                return msgspec.json.decode(response.read())
        except HTTPError as error:
            reason = error.read().decode(errors="replace")
            raise InputError(f"{self._address} refused ({error.code}): {reason}") from error
        except (URLError, OSError) as error:
            raise InputError(f"{self._address} does not answer: {getattr(error, 'reason', error)}") from error


def _revision(answer: dict[str, Any]) -> Revision:
    try:
        document = msgspec.json.encode(answer.pop("policy"))
        return Revision(**answer, document=document)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError("the server is of another version of Feedloom: use the command of its own") from error


class FolderTarget:
    """The data of a `feedloom serve` that is not running."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Raises InputError for a folder that holds no data, or belongs to a process.

        It folds by the policies that were in force.
        """
        if not (folder / "about.json").exists():
            raise InputError(f"{folder} is no data folder of `feedloom serve`")
        self._topics = LocalTopics(folder, None, settings.segment_bytes)
        if not self._topics.log("policy").end:
            self._topics.close()
            raise InputError(f"{folder} has no policy yet: begin `feedloom serve --data {folder}` once")
        self._partitions = LocalPartitions(self._topics, None, settings)
        self._kept_ms = settings.retention_ms

    def erase(self, user: str) -> Erased:
        """Returns when it is done."""
        self._partitions.recover()
        try:
            at_ms = self._partitions.erase(user)
        finally:
            self._close()
        return Erased(user, at_ms, self._topics.lapse_ms(at_ms, self._kept_ms))

    def quarantine(self, what: Quarantine) -> Ordered:
        """Returns when the state is without it."""
        self._partitions.recover()
        try:
            ordered = self._partitions.quarantine(what)
            while (anew := self._partitions.fold_anew()) is not None:
                self._partitions.switch(anew)
                if isinstance(anew.made, InputError):
                    raise anew.made
        finally:
            self._close()
        return ordered

    def revisions(self, most: int | None = None) -> list[Revision]:
        """The latest revisions of the policy, so many at most, the oldest first."""
        self._partitions.shared.read()
        self._topics.close()
        return self._partitions.shared.revisions.history[-(most or 0) :]

    def apply(self, change: Change) -> Revision:
        """Returns when it is in force for whoever serves next."""
        self._partitions.recover()
        try:
            return self._partitions.apply(change.record(self._partitions.shared.revisions.number))
        finally:
            self._close()

    def _close(self) -> None:
        self._partitions.keep()
        self._partitions.close()
        self._topics.close()
