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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

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


class Login(NamedTuple):
    """A listener that wants TLS on both sides and a user, beside the open one, and Kafka's authorizer over both."""

    keystore: Path  # of Java: a certificate for 127.0.0.1, which clients must have, too
    keystore_password: str
    users: Mapping[str, str]  # password by name; what each may do, ACLs say
    superuser: str

    def lines(self) -> list[str]:
        """What a broker's properties have more. Its own connections stay open, and may do everything."""
        known = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        modules = "org.apache.kafka.common.security"
        return [
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            f"listener.name.sasl_ssl.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required {known};",
            *(
                f"listener.name.sasl_ssl.{hashed}.sasl.jaas.config={modules}.scram.ScramLoginModule required;"
                for hashed in ("scram-sha-256", "scram-sha-512")
            ),
            f"ssl.keystore.location={self.keystore}",
            f"ssl.keystore.password={self.keystore_password}",
            f"ssl.truststore.location={self.keystore}",
            f"ssl.truststore.password={self.keystore_password}",
            "ssl.keystore.type=JKS",
            "ssl.truststore.type=JKS",
            "listener.name.sasl_ssl.ssl.client.auth=required",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            f"super.users=User:{self.superuser};User:ANONYMOUS",
        ]


class Broker:
    """One broker process, which can be stopped, killed and started again over the same data."""

    def __init__(
        self,
        number: int,
        folder: Path,
        ports: Sequence[tuple[int, int, int]],
        options: Sequence[str],
        login: Login | None = None,
    ) -> None:
        """Format its storage; `ports` are (client, controller, client with a login) of every broker."""
        self._folder = folder / f"broker-{number}"
        self._folder.mkdir()
        own = [f"127.0.0.1:{port}" for port in ports[number - 1]]
        self.address, self.login_address = own[0], own[2]
        self._process: subprocess.Popen[bytes] | None = None
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, (_, port, _) in enumerate(ports, 1))
        copies, topics = len(ports), ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        lines = [
            "process.roles=broker,controller",
            f"node.id={number}",
            f"controller.quorum.voters={voters}",
            f"listeners=PLAINTEXT://{own[0]},CONTROLLER://{own[1]}" + (f",SASL_SSL://{own[2]}" if login else ""),
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self._folder / 'data'}",
            *(f"{topic}.replication.factor={copies}" for topic in topics),
            *(f"{topic}.min.isr={min(copies, 2)}" for topic in topics[1:]),
            "offsets.topic.num.partitions=1",
            "transaction.state.log.num.partitions=1",
            "group.initial.rebalance.delay.ms=0",
            "group.min.session.timeout.ms=500",  # so that tests need not wait long for a member that was killed
            "auto.create.topics.enable=false",
            *(login.lines() if login else ()),
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
        self.login_bootstrap = ",".join(broker.login_address for broker in brokers)  # where a login is wanted


@contextmanager
def cluster(brokers: int = 1, options: Sequence[str] = (), login: Login | None = None) -> Iterator[Cluster]:
    """A cluster of its own in a temporary folder, or the one that KAFKA_BOOTSTRAP names."""
    if there := os.environ.get("KAFKA_BOOTSTRAP"):
        yield Cluster(there)
        return
    if reason := unavailable():
        raise BrokerError(reason)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feedloom-kafka-")))
        ports = free_ports(3 * brokers)
        of_each = list(zip(ports[::3], ports[1::3], ports[2::3], strict=True))
        started = [Broker(number, folder, of_each, options, login) for number in range(1, brokers + 1)]
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
