"""A fair, bounded queue in front of one worker thread."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from rollout.serving.failures import QueueFullError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket(Generic[T]):
    """A place in the queue."""

    future: Future[T]
    cancelled: threading.Event

    def cancel(self) -> None:
        """Drop the work if it waits, and tell it to stop if it runs."""
        self.cancelled.set()
        self.future.cancel()


class WorkQueue:
    """Runs one piece of work at a time, in the order of submission; at most `limit` wait beside the one that runs."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._lock = threading.Lock()
        self._admitted = 0

    @property
    def depth(self) -> int:
        """How many pieces of work wait, the running one left out."""
        with self._lock:
            return max(0, self._admitted - 1)

    def submit(self, work: Callable[[threading.Event], T]) -> Ticket[T]:
        """Queue work; it gets the event that says it was cancelled.

        Raises:
            QueueFullError: As much work waits as is allowed.
        """
        with self._lock:
            if self._admitted > self._limit:
                raise QueueFullError(f"{self._limit} requests wait already")
            self._admitted += 1
        cancelled = threading.Event()
        future = self._executor.submit(work, cancelled)
        future.add_done_callback(self._leave)
        return Ticket(future=future, cancelled=cancelled)

    def close(self) -> None:
        """Drop what waits; what runs ends with the process at the latest."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _leave(self, _future: Future[T]) -> None:
        with self._lock:
            self._admitted -= 1
