"""What Prometheus scrapes, of one process."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from engine.decision import Decision
from engine.events import Reaction

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of the HTTP face, and the gauges of the engine behind it."""

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        """`gauges` gives what an operator watches, by name, when somebody scrapes."""
        self._registry = CollectorRegistry()
        labels = ("route", "status")
        self.requests = Counter(
            "feedloom_http_requests", "HTTP requests answered.", labels, registry=self._registry
        )
        self.seconds = Histogram(
            "feedloom_http_request_seconds",
            "Until the answer.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._slots = Counter(
            "feedloom_slots", "Slots of new and repeated answers, by pool.", ("pool",), registry=self._registry
        )
        self._reactions = Counter(
            "feedloom_reactions", "Reactions that were taken, by kind.", ("kind",), registry=self._registry
        )
        self._registry.register(_Gauges(gauges))

    def answered(self, decision: Decision) -> None:
        """Count the slots of a feed."""
        for pool in decision.slot_pools:
            self._slots.labels(decision.pools[pool].pool).inc()

    def took(self, reactions: Iterable[Reaction]) -> None:
        """Count reactions."""
        for reaction in reactions:
            self._reactions.labels(str(reaction.__struct_config__.tag)).inc()

    def page(self) -> bytes:
        """All of them as text."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Each as it is now."""
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"feedloom_{name}", f"{name.replace('_', ' ').capitalize()}.", value=value)
