"""What the server counts, in a registry of its own."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

# From a small picture's text phase (1 ms) to a large batch (a minute), about two buckets per factor of two.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60)


class ServerMetrics:
    """Requests by status, latency by phase, queue depth, readiness and the provider in use."""

    def __init__(self, *, queue_depth: Callable[[], float], ready: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rollout_image_requests",
            "Image requests by HTTP status; 499 is a client that went away.",
            ["code"],
            registry=self._registry,
        )
        self._phases = Histogram(
            "rollout_image_phase_seconds",
            "Time an answered image request spent in each phase; total includes queue.",
            ["phase"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        depth = Gauge("rollout_queue_depth", "Image requests that wait.", registry=self._registry)
        depth.set_function(queue_depth)
        readiness = Gauge("rollout_ready", "1 while the server is ready.", registry=self._registry)
        readiness.set_function(ready)
        self._provider = Gauge(
            "rollout_provider_info",
            "1 for the execution provider that the sessions run on.",
            ["provider", "profile"],
            registry=self._registry,
        )

    def count_request(self, *, code: int) -> None:
        """Count an image request that ended with this status."""
        self._requests.labels(code=str(code)).inc()

    def observe_phases(self, phase_ms: Mapping[str, float]) -> None:
        """Record an answered request's phases, in milliseconds."""
        for phase, duration_ms in phase_ms.items():
            self._phases.labels(phase=phase).observe(duration_ms / 1e3)

    def set_provider(self, *, provider: str, profile: str) -> None:
        """Name the provider in use."""
        self._provider.labels(provider=provider, profile=profile).set(1)

    def render(self) -> bytes:
        """Return the text exposition format."""
        return generate_latest(self._registry)
