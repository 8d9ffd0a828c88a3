"""Envoy as the local router.

Theory of operation. Envoy reads three files and watches them: the shares, and each slot's endpoints. A change is one
renamed file, so a controller killed anywhere leaves an old or a new configuration, never a part of one, and both are
whole. A change counts once the running Envoy names its version, has refused nothing, and a probe through the listener
is answered by that version. Endpoints are there before a slot takes traffic, and stay until its last request is done.
"""

import signal
import time
from collections.abc import Mapping
from pathlib import Path

from rollout import processes
from rollout.errors import ConflictError, InvariantError, RefusedError, UnavailableError
from rollout.model.fence import Fence
from rollout.model.inventory import RouterState
from rollout.model.roles import Address, Slot, Weights
from rollout.processes import ProcessIdentity
from rollout.routers import envoy_config
from rollout.routers.envoy_admin import EnvoyAdmin
from rollout.routers.envoy_config import Json, Version
from rollout.routers.envoy_daemon import FILES, ROUTES, EnvoyDaemon

_START_LIMIT_S = 10.0
"""Envoy is ready within a fifth of a second; ten allow for a machine whose processors are all taken."""

_CONFIRM_LIMIT_S = 3.0
"""A change is in force within 30 ms at worst; three seconds mean that Envoy hangs, and others wait for the lease."""

_END_LIMIT_S = 5.0
"""Envoy ends within a tenth of a second of SIGTERM."""

_POLL_S = 0.001

_DRAIN_POLL_S = 0.01


class EnvoyRouter:
    """Splits live traffic with an Envoy that outlives the controller.

    Args:
        state_dir: Folder of configuration, record and log; made when missing, readable by its owner only.
        fence: Held around every write and every signal, never while requests drain.
        listen: Where live traffic arrives.
        request_timeout_s: Seconds after which Envoy answers 504 for a slot; keep it below the clients' own timeout.
    """

    def __init__(self, state_dir: Path, fence: Fence, *, listen: Address, request_timeout_s: float) -> None:
        self._fence = fence
        self._listen = listen
        self._request_timeout_s = request_timeout_s
        self._daemon = EnvoyDaemon(state_dir.absolute() / "router", listen)
        self._admin = EnvoyAdmin(self._daemon.socket, listen)

    def read(self) -> RouterState:
        """Read weights, targets and counters back; see `Router.read`."""
        process = self._daemon.find()
        if process is None:
            raise UnavailableError(f"no Envoy runs for {self._listen}; applying weights starts one")
        return self._state(process)

    def apply(self, *, weights: Weights, targets: Mapping[Slot, tuple[Address, ...]]) -> RouterState:
        """Make Envoy use these targets and weights; see `Router.apply`."""
        wanted = {slot: envoy_config.sorted_addresses(targets.get(slot, ())) for slot in Slot}
        for slot in Slot:
            if weights.of(slot) > 0 and not wanted[slot]:
                raise InvariantError(f"{slot} was to take {weights.of(slot)} per cent of traffic, but has no target")
        leaving: tuple[Slot, ...] = ()
        started = None
        with self._fence.hold() as generation:
            self._refuse_older(generation)
            if self._daemon.adopt() is None:
                position = self._daemon.log_size()
                started = self._daemon.start(self._contents(weights, wanted, generation))
            else:
                leaving = self._change(weights, wanted, generation)
        if started is not None:
            self._await_start(started, position)
        if leaving:
            self._let_go(leaving, wanted)
        return self.read()

    def stop(self) -> None:
        """Drain and end Envoy; see `Router.stop`."""
        with self._fence.hold() as generation:
            self._refuse_older(generation)
            process = self._daemon.adopt()
            if process is None:
                return
            draining = self._begin_drain()
        deadline = time.monotonic() + self._request_timeout_s + _END_LIMIT_S
        # SIGTERM would cut off what is in flight, and what arrives before the listener closes.
        while draining and time.monotonic() < deadline:
            draining = self._is_draining()
            time.sleep(_DRAIN_POLL_S)
        self._end(process)

    def _state(self, process: ProcessIdentity) -> RouterState:
        version, weights = self._admin.read_routes()
        return RouterState(
            weights=weights,
            generation=version.generation,
            version=str(version),
            targets=self._admin.read_targets(),
            counters=self._admin.read_counters(),
            epoch=f"{process.pid}:{process.start_ticks}",
        )

    def _refuse_older(self, generation: int) -> None:
        newest = max((one.generation for one in self._daemon.versions()), default=generation)
        if newest > generation:
            raise ConflictError(
                f"the router was configured under generation {newest}, this controller holds {generation}; "
                "another controller has taken over: stop this one"
            )

    def _contents(
        self, weights: Weights, targets: Mapping[Slot, tuple[Address, ...]], generation: int
    ) -> dict[str, Json]:
        """Return what every file is to say, under the next sequence number."""
        contents = {slot.value: self._endpoints(slot, targets[slot], generation) for slot in Slot}
        contents[ROUTES] = envoy_config.route_response(
            weights=weights,
            timeout_s=self._request_timeout_s,
            generation=generation,
            sequence=self._next_sequence(),
        )
        return contents

    def _endpoints(self, slot: Slot, targets: tuple[Address, ...], generation: int) -> Json:
        return envoy_config.endpoint_response(slot, targets, generation=generation, sequence=self._next_sequence())

    def _next_sequence(self) -> int:
        return 1 + max((one.sequence for one in self._daemon.versions()), default=0)

    def _change(
        self, weights: Weights, wanted: Mapping[Slot, tuple[Address, ...]], generation: int
    ) -> tuple[Slot, ...]:
        """Push what differs to the running Envoy, and return the slots whose old targets must drain first.

        Raises:
            RefusedError: Envoy said no; every file and Envoy are back at what they were.
        """
        listening = self._daemon.listening()
        if listening != self._listen:
            raise RefusedError(
                f"the running Envoy listens on {listening}, the stack file says {self._listen}; "
                "stop the router first, then repeat"
            )
        standing = self._admin.read_targets()
        changed = [slot for slot in Slot if wanted[slot] != standing.get(slot, ())]
        leaving = tuple(slot for slot in changed if weights.of(slot) == 0 and slot in standing)
        contents = self._contents(weights, wanted, generation)
        steps = [slot.value for slot in changed if slot not in leaving]
        if self._routes_differ(contents[ROUTES]):
            steps.append(ROUTES)
        before = {name: self._daemon.read(name) for name in steps}
        for done, name in enumerate(steps):
            try:
                self._push(name, contents[name])
            except RefusedError:
                self._restore({undone: before[undone] for undone in reversed(steps[: done + 1])})
                raise
        return leaving

    def _routes_differ(self, content: Json) -> bool:
        wanted = Version.parse(content["version_info"])
        try:
            standing, _ = self._admin.read_routes()
        except UnavailableError:
            # An Envoy that refused its first routes has none. If it is dead, the push says so.
            return True
        return (standing.generation, standing.content) != (wanted.generation, wanted.content)

    def _push(self, name: str, content: Json) -> None:
        """Write one file and wait until the running Envoy has it in force.

        Raises:
            RefusedError: Envoy rejected the content; in Envoy's words.
            UnavailableError: Envoy neither took nor rejected it in time.
        """
        refusals = envoy_config.read_refusals(self._admin.read_stats())
        position = self._daemon.log_size()
        self._daemon.write(name, content)
        deadline = time.monotonic() + _CONFIRM_LIMIT_S
        while True:
            time.sleep(_POLL_S)
            in_force = self._is_in_force(name, content)
            if envoy_config.read_refusals(self._admin.read_stats()) > refusals:
                raise RefusedError(f"Envoy rejected {self._daemon.path(name)}: {self._daemon.words(position)}")
            if in_force:
                return
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"Envoy did not take {self._daemon.path(name)} over within {_CONFIRM_LIMIT_S:g} s: "
                    f"{self._daemon.words(position)}; apply again"
                )

    def _is_in_force(self, name: str, content: Json) -> bool:
        """Tell whether Envoy acts on this content of a file."""
        version = str(content["version_info"])
        if name != ROUTES:
            return str(self._admin.read_stats().get(f"cluster.{name}.version_text")) == version
        try:
            # The dump changes before the thread that serves traffic does; the probe is answered by that thread.
            return self._admin.probe() == version and str(self._admin.read_routes()[0]) == version
        except UnavailableError:
            # An Envoy without routes cannot answer a probe. One that is dead fails the caller's next question.
            return False

    def _restore(self, before: Mapping[str, Json | None]) -> None:
        """Put files back that Envoy took over or refused; one that was not there before stays."""
        for name, content in before.items():
            if content is not None:
                self._daemon.write(name, content)

    def _await_start(self, process: ProcessIdentity, position: int) -> None:
        """Wait until a started Envoy serves by the files it was started with.

        Raises:
            RefusedError: It ended, or rejected a file; then it was ended.
            UnavailableError: It was not ready in time.
        """
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._settled():
            if self._daemon.wait_gone(process, limit_s=0):
                raise RefusedError(f"Envoy ended while it started on {self._listen}: {self._daemon.words(position)}")
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"Envoy was not ready on {self._listen} within {_START_LIMIT_S:g} s: {self._daemon.words(position)}"
                )
            time.sleep(_POLL_S)
        if envoy_config.read_refusals(self._admin.read_stats()) > 0:
            words = self._daemon.words(position)
            self._end(process)
            raise RefusedError(f"Envoy rejected its first configuration and was ended: {words}")

    def _settled(self) -> bool:
        """Tell whether Envoy has every file in force, or has refused one."""
        contents = {name: self._daemon.read(name) for name in FILES}
        try:
            return envoy_config.read_refusals(self._admin.read_stats()) > 0 or all(
                content is not None and self._is_in_force(name, content) for name, content in contents.items()
            )
        except UnavailableError:
            # Nothing answers before Envoy is up; the caller's deadline bounds this.
            return False

    def _let_go(self, leaving: tuple[Slot, ...], wanted: Mapping[Slot, tuple[Address, ...]]) -> None:
        """Give slots that lost their traffic their new targets, or none, once their requests in flight are done."""
        deadline = time.monotonic() + self._request_timeout_s
        while time.monotonic() < deadline:
            counters = self._admin.read_counters()
            if all(counters[slot].active == 0 for slot in leaving):
                break
            time.sleep(_DRAIN_POLL_S)
        with self._fence.hold() as generation:
            self._refuse_older(generation)
            for slot in leaving:
                before = self._daemon.read(slot.value)
                try:
                    self._push(slot.value, self._endpoints(slot, wanted[slot], generation))
                except RefusedError:
                    self._restore({slot.value: before})
                    raise

    def _begin_drain(self) -> bool:
        """Ask Envoy to drain; tell whether it does."""
        try:
            self._admin.drain()
        except UnavailableError:
            # An Envoy that does not answer cannot drain, and is to be ended all the same.
            return False
        return True

    def _is_draining(self) -> bool:
        try:
            self._admin.probe()
        except UnavailableError:
            accepts = False
        else:
            accepts = True
        try:
            return accepts or envoy_config.read_in_flight(self._admin.read_stats()) > 0
        except UnavailableError:
            # It ended meanwhile, or hangs: either way there is nothing more to wait for.
            return False

    def _end(self, process: ProcessIdentity) -> None:
        for which in (signal.SIGTERM, signal.SIGKILL):
            with self._fence.hold():
                processes.send(process, which)
            if self._daemon.wait_gone(process, limit_s=_END_LIMIT_S):
                return
        raise UnavailableError(f"Envoy, process {process.pid}, did not end within {_END_LIMIT_S:g} s of SIGKILL")
