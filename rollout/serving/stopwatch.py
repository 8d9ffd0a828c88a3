"""Adds up the time that a runtime's calls take."""

from time import perf_counter


class Stopwatch:
    """Sums the seconds spent in its `with` blocks, failed ones included; one at a time, as an engine's calls are."""

    __slots__ = ("_started", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self._started
