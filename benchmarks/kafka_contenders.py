"""The processes that are measured, and how fast each takes reactions: read from the offsets of its group.

All tell the broker their offsets equally often, so that one way of looking is fair to all.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from kafka import KafkaAdminClient, TopicPartition
from kafka_load import PARTITIONS, LoadError

from streams.settings import PREFIX, Settings

HERE = Path(__file__).parent
COMMANDS = {
    "feedloom": ["-m", "feedloom", "worker"],
    "echo": [str(HERE / "echo_worker.py")],
    "faust_table": [str(HERE / "faust_table_agent.py"), "worker", "--without-web", "-l", "warn"],
    "faust_agent": [str(HERE / "faust_agent.py"), "worker", "--without-web", "-l", "warn"],
}
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05
OFFSETS_EVERY_MS = 250  # of every contender; more often is what a Faust agent begins to feel
SILENT_SECONDS_MAX = 60.0  # without progress, its start included, after which a contender has failed


class Stage(NamedTuple):
    """Where one round happens: a topic prefix and a folder of its own."""

    bootstrap: str
    prefix: str
    folder: Path

    def settings(self, contender: str) -> Settings:
        """The settings of one contender: a group and a state of its own, the same topics."""
        return Settings(
            bootstrap=self.bootstrap,
            topic_prefix=self.prefix,
            group=f"{self.prefix}{contender}",
            state_folder=self.folder / contender,
            policy=self.folder / "policy.toml",
            offsets_every_ms=OFFSETS_EVERY_MS,
            session_ms=60_000,  # the group waits while a worker is held
        )


@contextmanager
def running(stage: Stage, contender: str) -> Iterator[subprocess.Popen[bytes]]:
    """A contender's process, ended in order at the end. What it says goes into the round's folder."""
    settings = stage.settings(contender)
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    names = {PREFIX + name.upper(): str(value) for name, value in values.items() if value is not None}
    with (stage.folder / f"{contender}.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *COMMANDS[contender]],
            cwd=HERE.parent,
            env={**os.environ, **names},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    except LoadError as error:
        said = (stage.folder / f"{contender}.txt").read_text(errors="replace").splitlines()[-15:]
        raise LoadError(f"{contender}: {error}; it said last:\n" + "\n".join(said)) from error
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Sample(NamedTuple):
    """So many reactions were behind the group at a moment, and its process had used so much of a processor."""

    seconds: float
    done: int
    cpu_seconds: float


class Pace(NamedTuple):
    """How a contender takes reactions. The second does not depend on who else is using the machine."""

    per_s: float
    cpu_us: float  # of processor time, of all threads, for one reaction


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process is held meanwhile; its group waits for it."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def pace(settings: Settings, process: subprocess.Popen[bytes], total: int, seconds_max: float) -> Pace:
    """The pace of a contender over a full feedback topic, from the first 10 % of its progress to 90 %.

    So neither start nor end are in it. It is watched until it is done or for `seconds_max` from its first
    progress, whichever comes first.
    """
    samples = _watch(settings, process, total, seconds_max)
    done = samples[-1].done
    first = next(sample for sample in samples if sample.done >= 0.1 * done)
    last = next(sample for sample in samples if sample.done >= 0.9 * done)
    if last is first:
        raise LoadError(f"{done} reactions were done between two looks: there must be more of them")
    counted = last.done - first.done
    cpu_seconds = last.cpu_seconds - first.cpu_seconds
    return Pace(counted / (last.seconds - first.seconds), 1e6 * cpu_seconds / counted)


def _watch(
    settings: Settings, process: subprocess.Popen[bytes], total: int, seconds_max: float
) -> Sequence[Sample]:
    """A sample for each progress."""
    admin = KafkaAdminClient(bootstrap_servers=settings.bootstrap)
    samples = [Sample(time.monotonic(), 0, 0.0)]
    while samples[-1].done < total and (len(samples) == 1 or time.monotonic() < samples[1].seconds + seconds_max):
        if process.poll() is not None:
            raise LoadError(f"it ended with exit code {process.returncode}")
        if time.monotonic() > samples[-1].seconds + SILENT_SECONDS_MAX:
            raise LoadError(f"no progress after {samples[-1].done} of {total} reactions")
        done = _behind(admin, settings)
        if done > samples[-1].done:
            samples.append(Sample(time.monotonic(), done, _cpu_seconds(process)))
        time.sleep(POLL_SECONDS)
    admin.close()
    return samples[1:]


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """User and system time of a process so far; not a number where there is no /proc."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _behind(admin: KafkaAdminClient, settings: Settings) -> int:
    """How many reactions the group has told the broker that it is done with."""
    places = [TopicPartition(settings.topic("feedback"), partition) for partition in range(PARTITIONS)]
    offsets = admin.list_group_offsets({settings.group: places})[settings.group]
    return sum(max(place.offset, 0) for place in offsets.values())
