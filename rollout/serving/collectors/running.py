"""Running collectors side by side, so that an admission waits for the slowest only."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.collectors.isolated import read_isolated


class RunningCollectors:
    """Collectors that were started; ask for `results` when they are needed."""

    def __init__(self, collectors: Iterable[Collector], *, limit_s: float) -> None:
        """Start them all.

        Args:
            collectors: What to read.
            limit_s: Seconds that a collector in a process of its own may take.
        """
        self._pool = ThreadPoolExecutor(thread_name_prefix="collector")
        self._reading = [(one, self._pool.submit(_read, one, limit_s)) for one in collectors]

    def results(self) -> list[tuple[Collector, Fields]]:
        """Wait for all and return what each found."""
        found = [(one, reading.result()) for one, reading in self._reading]
        self._pool.shutdown()
        return found


def _read(collector: Collector, limit_s: float) -> Fields:
    if collector.isolated:
        return read_isolated(collector, limit_s=limit_s)
    try:
        return collector.complete(collector.read())
    except Exception as error:  # noqa: BLE001 - a collector's bug must not admit, and must not kill a server either
        return collector.broken(f"{type(error).__name__}: {error}")
