"""The load driver: one window of concurrent or scheduled requests to one colour.

Theory of operation. The driver is synchronous outside. Inside, an event loop runs in a thread of its own while the main
thread only waits: a signal's exception is then raised in that wait, where it can end the window cleanly, and never in
the middle of the event loop, which would swallow it.

Arrivals on a schedule are sent when they are due, whatever has been answered, and their latency is counted from when
they were due. A driver that waits for answers before it sends the next request asks a stalled server once per
connection, where its users would have asked hundreds of times (coordinated omission; Tene, How not to measure latency,
2013; Schroeder, Wierman & Harchol-Balter, Open versus closed, NSDI 2006).
"""

import asyncio
import itertools
import resource
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, assert_never

import numpy as np

from rollout.canary.exchange import Failed, Reply
from rollout.canary.interface import Request, ServingProtocol, Target
from rollout.canary.load_line import Lines
from rollout.canary.load_samples import LoadSample, window_of
from rollout.errors import ConfigError, EvidenceError, InvariantError, UnavailableError
from rollout.model.canonical import digest_json
from rollout.model.load import Level, LoadWindow
from rollout.model.policy import ArrivalPattern
from rollout.model.prompts import Prompt, PromptSet
from rollout.stats.arrivals import bursts, poisson
from rollout.stats.series import Array

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

POINTLESS_AFTER = 20
"""A window whose first so many requests all failed is ended: more of them tell nothing new."""

FAILURE_PAUSE_S = 0.1
"""How long a place in a closed loop stays empty after a failure. A server that refuses in a millisecond would
otherwise be asked a thousand times a second, which no client does and which measures nothing but refusals."""


class LoadDriver:
    """Puts the instances of one colour under load.

    Args:
        protocol: How the instances are spoken to.
        request_timeout_s: Limit of every request, connecting included.
    """

    def __init__(self, protocol: ServingProtocol, *, request_timeout_s: float) -> None:
        self._protocol = protocol
        self._request_timeout_s = request_timeout_s

    def measure_window(
        self,
        *,
        level: Level,
        rate_per_s: float,
        seconds: float,
        targets: Sequence[Target],
        prompts: PromptSet,
        seed: str,
    ) -> tuple[LoadWindow, bytes]:
        """Drive one window and wait for every answer that is still out at its end, up to the timeout.

        Nothing that a server does raises. A request that is refused, answered by somebody else, broken or late counts
        as failed, and none is sent again. A window whose first 20 requests all failed ends early.

        Args:
            level: How many requests are in flight, or how they arrive, and how many pictures each asks for.
            rate_per_s: Requests per second in the mean for arrivals, 0 otherwise.
            seconds: For how long requests are sent, above 0.
            targets: The instances; load is spread over them evenly.
            prompts: Sent in shuffled cycles.
            seed: Fixes prompts and arrivals: both colours get the same.

        Returns:
            The window, and the canonical JSON of all its samples, whose digest the window holds.

        Raises:
            InvariantError: No target.
            ConfigError: `seconds`, or the rate of a level with arrivals, is not above 0.
            UnavailableError: This process may open no further connection, which is no fault of the server.
        """
        if not targets:
            raise InvariantError(f"no instance was given to put under load at {level.name}")
        if not seconds > 0.0:
            raise ConfigError(f"a window of {seconds} s was asked for; it must be above 0")
        rng = np.random.default_rng(int(digest_json(["load", seed]).removeprefix("sha256:")[:16], 16))
        window = _Window(
            protocol=self._protocol,
            timeout_s=self._request_timeout_s,
            seconds=seconds,
            targets=targets,
            prompts=_cycles(prompts, batch=level.batch, rng=rng),
        )
        with _all_descriptors():
            if level.pattern is None:
                window.run(window.closed_loop(level.concurrency))
            else:
                window.run(window.open_loop(_schedule(level.pattern, rate_per_s, seconds, rng)))
        return window_of(window.samples, level=level, rate_per_s=rate_per_s, ended_s=window.ended_s, seed=seed)


@contextmanager
def _all_descriptors() -> Iterator[None]:
    """Lift the soft limit of open files: arrivals at a server that stalls want a connection each."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _schedule(pattern: ArrivalPattern, rate_per_s: float, seconds: float, rng: np.random.Generator) -> Array:
    match pattern:
        case ArrivalPattern.POISSON:
            return poisson(rate_per_s, seconds, rng)
        case ArrivalPattern.BURSTS:
            return bursts(rate_per_s, seconds, rng)
        case _:
            assert_never(pattern)


def _cycles(prompts: PromptSet, *, batch: int, rng: np.random.Generator) -> Iterator[Prompt]:
    """Yield the prompts in shuffled cycles without end, with this many pictures each; 0 leaves them as they are."""
    made = [one.model_copy(update={"batch": batch or one.batch}) for one in prompts.prompts]
    order = np.random.default_rng(rng.integers(2**63))
    while True:
        for place in order.permutation(len(made)):
            yield made[place]


class _Window:
    """One window under way."""

    def __init__(
        self,
        *,
        protocol: ServingProtocol,
        timeout_s: float,
        seconds: float,
        targets: Sequence[Target],
        prompts: Iterator[Prompt],
    ) -> None:
        self.samples: list[LoadSample] = []
        self.ended_s = seconds
        self._protocol = protocol
        self._timeout_s = timeout_s
        self._targets = targets
        self._lines = [Lines(one.address) for one in targets]
        self._prompts = prompts
        self._requests: dict[str, Request] = {}
        self._sent = self._first_failed = 0
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def run(self, load: Coroutine[Any, Any, None]) -> None:
        """Drive the load in a thread; an exception that ends the wait here closes all connections first."""
        with (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="load") as thread,
            asyncio.Runner(loop_factory=new_event_loop) as runner,
        ):
            # The loop is made here, so that it can be spoken to whatever the thread has come to.
            loop = runner.get_loop()
            driven = thread.submit(runner.run, self._driven(load))
            try:
                driven.result()
            except ExceptionGroup as group:
                # The task group has ended its other requests; one reason is enough for people.
                ours = group.subgroup(UnavailableError)
                if ours is None:
                    raise
                raise ours.exceptions[0] from group
            except BaseException:
                loop.call_soon_threadsafe(self._stop)
                wait([driven])
                raise

    async def closed_loop(self, concurrency: int) -> None:
        """Keep this many requests in flight until the window ends, then wait for their answers."""
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for place in range(concurrency):
                group.create_task(self._keep_busy(place, concurrency))

    async def open_loop(self, due_s: Array) -> None:
        """Send each request when it is due, whatever has been answered, then wait for the answers."""
        self._began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, at_s in enumerate(due_s.tolist()):
                # The loop's timers count whole milliseconds and may ring early.
                while (early_s := at_s - self._now_s()) > 0.0:  # noqa: ASYNC110 - time is what is waited for
                    await asyncio.sleep(early_s)
                # Time ends no schedule: a request that was due and comes late is what the schedule is for.
                if self._is_pointless():
                    break
                group.create_task(self._ask(at_s, number))

    async def _keep_busy(self, place: int, concurrency: int) -> None:
        # Stepping by the concurrency gives each place an instance of its own where they come out even, and otherwise
        # leads it round all of them.
        for number in itertools.count(place, concurrency):
            if self._is_over():
                return
            if await self._ask(self._now_s(), number):
                await asyncio.sleep(FAILURE_PAUSE_S)

    async def _ask(self, due_s: float, number: int) -> str:
        """Send the next prompt to the instance whose turn it is; return what went wrong, empty for nothing."""
        among_the_first, self._sent = self._sent < POINTLESS_AFTER, self._sent + 1
        place = number % len(self._targets)
        target, prompt = self._targets[place], next(self._prompts)
        request = self._requests.get(prompt.id)
        if request is None:
            request = self._requests[prompt.id] = self._protocol.request_of(prompt)
        sent, outcome = await self._lines[place].ask(request, timeout_s=self._timeout_s)
        detail = outcome.detail if isinstance(outcome, Failed) else self._problem(outcome, target, prompt)
        self._first_failed += bool(detail) and among_the_first
        self.samples.append(
            LoadSample(
                due_s=due_s,
                sent_s=sent - self._began,
                done_s=sent + outcome.wall_s - self._began,
                pictures=0 if detail else prompt.batch,
                pod_uid=target.pod_uid,
                detail=detail,
            )
        )
        return detail

    def _problem(self, reply: Reply, target: Target, prompt: Prompt) -> str:
        try:
            self._protocol.check(reply, target=target, prompt=prompt)
        except EvidenceError as error:
            return str(error)
        return ""

    def _is_over(self) -> bool:
        return self._is_pointless() or self._now_s() >= self.ended_s

    def _is_pointless(self) -> bool:
        """Tell whether the first requests that were sent all failed, and end the window there."""
        # Refusals come in milliseconds and answers in seconds: who came back first says nothing of who was sent first.
        pointless = self._first_failed >= POINTLESS_AFTER
        if pointless:
            self.ended_s = min(self.ended_s, self._now_s())
        return pointless

    def _now_s(self) -> float:
        return time.perf_counter() - self._began

    async def _driven(self, load: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.current_task()
        try:
            if self._stopped:
                load.close()
            else:
                await load
        finally:
            for lines in self._lines:
                lines.close()

    def _stop(self) -> None:
        """End the window from inside its loop, which may not have come to it yet."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
