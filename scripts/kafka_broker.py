"""Apache Kafka for tests and benchmarks: its jars through Maven, one broker or three on free loopback ports.

`python scripts/kafka_broker.py` starts one in a private folder, prints its address, and ends it with Ctrl-C.
`KAFKA_BOOTSTRAP` names a broker that runs already; then nothing is started and nothing is ended.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POM = Path(__file__).resolve().parent / "kafka-pom.xml"
VERSION = re.findall(r"<kafka.version>(.*)</kafka.version>", POM.read_text())[0]
CLUSTER_ID = "ZmVlZGxvb20tdGVzdC0tLQ"  # 16 bytes in base64, the same each time: data folders are never shared
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
HEAP = "512m"
# A broker lives for a minute here: start-up time matters more than the speed of its compiled code.
JAVA_OPTIONS = [f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
# The shell kills the broker when its input ends: also when whoever started it was killed. A word ends it in order.
GUARDED = (
    'java "$@" & broker=$!; read word; if [ "$word" ]; then kill $broker; else kill -9 $broker; fi; wait $broker'
)


class BrokerError(Exception):
    """Kafka cannot be had; the message says what is missing."""


def unavailable() -> str | None:
    """Why Kafka cannot be started here, or None if it can."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        return None
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found (Debian: openjdk-17-jre-headless, maven), and no KAFKA_BOOTSTRAP"
    return None


def jars() -> Path:
    """The folder of the jars, fetched once by Maven with its own configuration."""
    cache = os.environ.get("FEEDLOOM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "feedloom"
    folder = Path(cache).expanduser() / f"kafka-{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
                _fetch(Path(partial))
                (Path(partial) / "jars").rename(folder)
    return folder


def _fetch(folder: Path) -> None:
    print(f"fetching Kafka {VERSION} through Maven, once", file=sys.stderr, flush=True)
    shutil.copy(POM, folder / "pom.xml")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
    # Strict: a jar whose checksum is not the registry's is refused.
    done = subprocess.run(
        ["mvn", "-B", "-q", "--strict-checksums", *goal], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["nothing"]
        raise BrokerError(f"Maven could not fetch Kafka {VERSION} (is the network there?), and said: {lines[0]}")


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Broker:
    """One broker process, which can be stopped, killed and started again over the same data."""

    def __init__(self, number: int, folder: Path, ports: Sequence[tuple[int, int]], options: Sequence[str]) -> None:
        """Format its storage; `ports` are (client, controller) of every broker of the cluster."""
        self._folder = folder / f"broker-{number}"
        self._folder.mkdir()
        self.address = f"127.0.0.1:{ports[number - 1][0]}"
        self._process: subprocess.Popen[bytes] | None = None
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, (_, port) in enumerate(ports, 1))
        copies, topics = len(ports), ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        lines = [
            "process.roles=broker,controller",
            f"node.id={number}",
            f"controller.quorum.voters={voters}",
            f"listeners=PLAINTEXT://{self.address},CONTROLLER://127.0.0.1:{ports[number - 1][1]}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self._folder / 'data'}",
            *(f"{topic}.replication.factor={copies}" for topic in topics),
            *(f"{topic}.min.isr={min(copies, 2)}" for topic in topics[1:]),
            "offsets.topic.num.partitions=1",
            "transaction.state.log.num.partitions=1",
            "group.initial.rebalance.delay.ms=0",
            "group.min.session.timeout.ms=500",  # so that tests need not wait long for a member that was killed
            "auto.create.topics.enable=false",
            *options,
        ]
        self._properties = self._folder / "server.properties"
        self._properties.write_text("\n".join(lines) + "\n")
        self._java = ["java", *JAVA_OPTIONS, "-cp", f"{jars()}/*"]
        done = subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self._properties],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrokerError(f"Kafka could not format its storage: {done.stderr.strip()}")

    def start(self) -> None:
        """Start the process; `wait` says when it answers."""
        with (self._folder / "log.txt").open("ab") as log:
            command = [*self._java[1:], "kafka.Kafka", str(self._properties)]
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", GUARDED, "kafka", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches us first, and a kill all of it
            )

    def wait(self) -> None:
        """Return when it takes connections. Raises BrokerError with the end of its log if it does not."""
        host, port = self.address.split(":")
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.05)
        tail = (self._folder / "log.txt").read_text(errors="replace").splitlines()[-5:]
        raise BrokerError("Kafka did not start, and said last: " + " / ".join(tail or ["nothing"]))

    def stop(self) -> None:
        """End it in order; kill it if it does not end."""
        if self._process is None:
            return
        try:
            self._process.communicate(b"stop\n", STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None


class Cluster:
    """The brokers of one test run, and the address that clients begin with."""

    def __init__(self, bootstrap: str, brokers: Sequence[Broker] = ()) -> None:
        """`brokers` is empty for a cluster that we did not start."""
        self.bootstrap = bootstrap
        self.brokers = brokers


@contextmanager
def cluster(brokers: int = 1, options: Sequence[str] = ()) -> Iterator[Cluster]:
    """A cluster of its own in a temporary folder, or the one that KAFKA_BOOTSTRAP names."""
    if there := os.environ.get("KAFKA_BOOTSTRAP"):
        yield Cluster(there)
        return
    if reason := unavailable():
        raise BrokerError(reason)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedloom-kafka-")))
        ports = free_ports(2 * brokers)
        pairs = list(zip(ports[::2], ports[1::2], strict=True))
        started = [Broker(number, folder, pairs, options) for number in range(1, brokers + 1)]
        for broker in started:
            stack.callback(broker.kill)  # its data goes with it
            broker.start()
        for broker in started:
            broker.wait()
        yield Cluster(",".join(broker.address for broker in started), started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with cluster(given.brokers) as running:
            print(running.bootstrap, flush=True)
            print(f"Kafka {VERSION} is up; Ctrl-C ends it", file=sys.stderr, flush=True)
            signal.pause()
    except BrokerError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
