"""What all tests share: the examples of properties, and Apache Kafka, started once for those that ask for it.

Tests may run in several processes. Then those with Kafka run in one of them, and so do those of an `xdist_group`,
which share something costly that is made once; each of the others goes to whichever process is free.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Two processes that compile one loop at once for different types may mix them up in a cache that they share.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / f"numba-{worker}")

from scripts.kafka_broker import Cluster, cluster, unavailable
from streams.settings import Settings

# Every property is tried on the same examples in every run, so that a failure can be met again.
# No deadline: the first example of a property may wait for a compiler. 100 examples are Hypothesis's own.
settings.register_profile("feedloom", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("feedloom")

left_out: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kafka: needs Apache Kafka, that is Java and Maven or KAFKA_BOOTSTRAP")
    config.addinivalue_line("markers", "xdist_group(name): runs in the same process as all others of this name")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs Kafka, for one process; leave it out where Kafka cannot be had."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
        if item.get_closest_marker("kafka"):
            item.add_marker(pytest.mark.xdist_group("kafka"))
    if unavailable():
        out = [item for item in items if item.get_closest_marker("kafka")]
        left_out.extend(item.nodeid for item in out)
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was left out."""
    if left_out:
        terminalreporter.section("left out")
        terminalreporter.line(f"{len(left_out)} tests need Apache Kafka: {unavailable()}")
        for name in left_out:
            terminalreporter.line(f"  {name}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of several left out; all of them leave out the same."""
    left_out[:] = getattr(node, "workeroutput", {}).get("left_out", left_out)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where changes are judged, leaving tests out is a failure."""
    if hasattr(session.config, "workeroutput"):  # one process of several: the one that started it judges
        session.config.workeroutput["left_out"] = left_out
        return
    if left_out and os.environ.get("CI") == "true" and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def kafka() -> Iterator[Cluster]:
    """One broker for the whole run."""
    with cluster() as running:
        yield running


@pytest.fixture
def own(kafka: Cluster, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose topics are this test's alone; commands find them in the environment."""
    prefix = f"t{uuid.uuid4().hex[:12]}."
    monkeypatch.setenv("FEEDLOOM_BOOTSTRAP", kafka.bootstrap)
    monkeypatch.setenv("FEEDLOOM_TOPIC_PREFIX", prefix)
    return Settings(bootstrap=kafka.bootstrap, topic_prefix=prefix)
