"""Where a command reads what was served: a recording, the data of a server, or the topics of a Kafka cluster."""

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import click

from engine.errors import InputError
from engine.policy import Policy
from engine.revisions import Revisions
from feedloom.kafka_commands import chosen_settings
from streams.codec import Value, decode
from streams.local_tail import tail_folder
from streams.policy_file import read_policy
from streams.recording import Topic, read_topic, recorded_policy
from streams.tools import Start, Tailed, tail

records_option = click.option("--records", type=click.Path(path_type=Path), metavar="DIR", help="Of a recording.")
data_option = click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help="Of `feedloom serve`, running or not."
)


class Place(NamedTuple):
    """Where the records are: a recording, a server's data or, without either, Kafka; read from `start`."""

    records: Path | None
    data: Path | None
    bootstrap: str | None
    policy: Path | None = None
    start: Start = "earliest"

    def check(self) -> None:
        """Raise InputError for more places than one."""
        if sum(place is not None for place in (self.records, self.data, self.bootstrap)) > 1:
            raise InputError("--records, --data and --bootstrap say three places: give one of them")

    def served_by(self) -> Policy:
        """The policy that the feeds were served by. Raises InputError for places that do not go together."""
        self.check()
        if self.records is not None:
            if self.policy is not None:
                raise InputError("--records has the policy that it was made with: leave out --policy")
            return recorded_policy(self.records)
        if self.policy is not None:
            return read_policy(self.policy)
        revisions = Revisions(Policy())
        with closing(self._tailed("policy")) as found:
            for record in found:
                with suppress(InputError):  # it was refused when it came
                    revisions.take(bytes(record.value) if record.value else b"", record.ts_ms)
        if not revisions.number:
            raise InputError("no policy is in force there: give the one that feeds were served by as --policy FILE")
        return revisions.policy

    def read(self, topic: Topic) -> Iterator[tuple[Value, int, int]]:
        """Values, log times and partitions of a topic; what no engine could read is passed over."""
        if self.records is not None:
            for line in read_topic(self.records, topic):
                if self.start == "earliest" or (self.start != "latest" and line.at_ms >= self.start):
                    yield line.value, line.at_ms, 0
            return
        with closing(self._tailed(topic)) as records:
            for record in records:
                try:
                    value = decode(bytes(record.value) if record.value else b"")
                except InputError:
                    continue
                yield value, record.ts_ms, record.partition

    def _tailed(self, topic: str) -> Generator[Tailed, None, None]:
        start = "earliest" if topic == "policy" else self.start
        if self.data is not None:
            return tail_folder(self.data, topic, start)
        return tail(chosen_settings(self.bootstrap), topic, start, follow=False)
