"""What the server counts, in a registry of its own."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from rollout import __version__
from rollout.serving.degradation import DegradedReason
from rollout.serving.device_watch import DeviceSample

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST

# From a small picture's text phase (1 ms) to a large batch (a minute), about two buckets per factor of two.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 15, 60)


class ServerMetrics:
    """All that `/metrics` tells; `docs/serving-metrics.md` lists it."""

    def __init__(
        self,
        *,
        queue_depth: Callable[[], float],
        ready: Callable[[], float],
        live: Callable[[], float],
        gpus: Callable[[], DeviceSample | None],
    ) -> None:
        """Register everything.

        Args:
            queue_depth: Asked whenever the metrics are read, as are the others.
            ready: 1 or 0.
            live: 1 or 0.
            gpus: None where nothing is known of the GPUs now, which then have no metrics.
        """
        self._registry = CollectorRegistry()
        self._registry.register(_GpuMetrics(gpus))
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
        self._device = Histogram(
            "rollout_device_seconds",
            "Time an answered image request spent inside the runtime's calls, copies included, queue and PNG not.",
            ["provider"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._degraded = Gauge(
            "rollout_degraded",
            "1 while what runs is not what was admitted.",
            ["reason"],
            registry=self._registry,
        )
        for reason in DegradedReason:
            self._degraded.labels(reason=reason.value).set(0)
        self._pace = Gauge(
            "rollout_device_time_ratio",
            "Median device time of the last requests over the best of their shape; NaN until there are enough.",
            registry=self._registry,
        )
        self._pace.set(float("nan"))
        depth = Gauge("rollout_queue_depth", "Image requests that wait.", registry=self._registry)
        depth.set_function(queue_depth)
        readiness = Gauge("rollout_ready", "1 while the server is ready.", registry=self._registry)
        readiness.set_function(ready)
        liveness = Gauge("rollout_live", "1 until the admitted devices are gone.", registry=self._registry)
        liveness.set_function(live)
        self._provider = Gauge(
            "rollout_provider_info",
            "1 for the execution provider that the sessions run on.",
            ["provider", "profile"],
            registry=self._registry,
        )
        self._build = Gauge(
            "rollout_build_info",
            "1 for the server's version and the digest of the snapshot that it was admitted with.",
            ["version", "snapshot_digest"],
            registry=self._registry,
        )

    def count_request(self, *, code: int) -> None:
        """Count an image request that ended with this status."""
        self._requests.labels(code=str(code)).inc()

    def observe_phases(self, phase_ms: Mapping[str, float]) -> None:
        """Record an answered request's phases, in milliseconds."""
        for phase, duration_ms in phase_ms.items():
            self._phases.labels(phase=phase).observe(duration_ms / 1e3)

    def observe_device(self, device_s: float, *, provider: str) -> None:
        """Record an answered request's seconds inside the runtime's calls."""
        self._device.labels(provider=provider).observe(device_s)

    def set_admitted(self, *, provider: str, profile: str, digest: str) -> None:
        """Name the provider in use and the snapshot that was admitted."""
        self._provider.labels(provider=provider, profile=profile).set(1)
        self._build.labels(version=__version__, snapshot_digest=digest).set(1)

    def set_degraded(self, reason: DegradedReason, *, degraded: bool) -> None:
        """Tell whether this is no longer as admitted."""
        self._degraded.labels(reason=reason.value).set(degraded)

    def set_pace(self, ratio: float) -> None:
        """Tell the median device time over the best of the same shape."""
        self._pace.set(ratio)

    def render(self) -> bytes:
        """Return the text exposition format."""
        return generate_latest(self._registry)


class _GpuMetrics(Collector):
    """Gauges that are absent while nothing fresh is known, rather than frozen at the last value."""

    def __init__(self, gpus: Callable[[], DeviceSample | None]) -> None:
        self._gpus = gpus

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `Collector`."""
        if (sample := self._gpus()) is None:
            return
        memory = GaugeMetricFamily(
            "rollout_gpu_memory_used_bytes", "Memory in use on a visible GPU, by anybody.", labels=["device"]
        )
        for index, used_bytes in enumerate(sample.memory_used_bytes):
            memory.add_metric([str(index)], used_bytes)
        yield memory
        utilisation = GaugeMetricFamily(
            "rollout_gpu_utilisation_ratio",
            "Share of the last sampling period in which a kernel ran; absent for a GPU split by MIG.",
            labels=["device"],
        )
        for index, share in enumerate(sample.utilisation):
            if share is not None:
                utilisation.add_metric([str(index)], share)
        yield utilisation
