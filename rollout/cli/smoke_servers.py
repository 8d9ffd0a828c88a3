"""The two kinds of servers that `rollout smoke` looks at: one that it starts itself, and one that runs already."""

import http.client
import time
from pathlib import Path
from typing import Protocol

from rollout.cli.wiring import who
from rollout.errors import ConfigError, UnavailableError
from rollout.evidence.lease import FileLease
from rollout.model.inventory import Absent, Instance
from rollout.model.release import Release
from rollout.model.roles import Address, Slot
from rollout.model.wire import HEADER_POD_UID, PATH_READY
from rollout.platforms import probe
from rollout.platforms.local import LocalPlatform

GRACE_S = 5.0
"""From SIGTERM to SIGKILL: GitHub kills a cancelled job ten seconds after it told it so."""

PROBE_S = 1.0

REASON_BYTES = 200
"""How much of an unready server's answer is quoted."""


class Server(Protocol):
    """One server, however it came to run."""

    def start(self) -> None:
        """Start it; return at once.

        Raises:
            PlatformError: It could not be started.
        """

    def look(self) -> Instance:
        """Look whether it lives and is ready."""

    def end(self) -> None:
        """End it and all that it started, if `start` did; may be repeated."""

    def log(self) -> str | Absent:
        """Return all that it wrote, once it has ended."""


class StartedServer:
    """One instance of a release, on this machine, in a folder of its own.

    Args:
        release: What to run; whatever its replicas, one is started.
        folder: For its records and its log; nothing else may be in it.
    """

    def __init__(self, release: Release, folder: Path) -> None:
        self._release = release.model_copy(update={"replicas": 1})
        # The folder is nobody else's: the lease only numbers what is written there.
        self._lease = FileLease(folder, holder=who(), ttl_s=1.0, clock=time.time)
        self._platform = LocalPlatform(folder, self._lease, grace_s=GRACE_S, probe_timeout_s=PROBE_S)
        self._begun = False

    def start(self) -> None:
        """See `Server.start`."""
        self._platform.check(self._release)
        self._lease.acquire()
        self._begun = True
        self._platform.deploy(Slot.GREEN, self._release)

    def look(self) -> Instance:
        """See `Server.look`."""
        state = self._platform.observe()[Slot.GREEN]
        if isinstance(state, Absent):
            raise UnavailableError(f"the server's own record is gone: {state.reason}")
        return state.instances[0]

    def end(self) -> None:
        """See `Server.end`."""
        if self._begun:
            self._platform.retire(Slot.GREEN)

    def log(self) -> str | Absent:
        """See `Server.log`."""
        return self._platform.log(Slot.GREEN)


class RunningServer:
    """A server that somebody else started and will end.

    Args:
        address: Where it listens.
        log: The file that its output goes to; None where there is none at hand.
    """

    def __init__(self, address: Address, log: Path | None) -> None:
        self._address = address
        self._log = log

    def start(self) -> None:
        """Do nothing: it runs."""

    def look(self) -> Instance:
        """See `Server.look`."""
        uid, detail = "", ""
        try:
            answer = probe.ask(self._address, PATH_READY, limit_s=PROBE_S, text_bytes=REASON_BYTES)
        except (OSError, http.client.HTTPException) as error:
            detail = f"GET {PATH_READY} at {self._address}: {error}"
        else:
            uid = answer.headers.get(HEADER_POD_UID, "")
            if answer.status != http.client.OK:
                detail = f"{PATH_READY} answered {answer.status}: {answer.text}"
            elif not uid:
                detail = f"it answers without the header {HEADER_POD_UID}: nobody could tell who was measured"
        return Instance(uid=uid, address=self._address, alive=True, ready=not detail, detail=detail)

    def end(self) -> None:
        """Do nothing: whoever started it ends it."""

    def log(self) -> str | Absent:
        """See `Server.log`."""
        if self._log is None:
            return Absent(reason="nobody has the log of a server that already ran; give --log FILE")
        try:
            return self._log.read_text(errors="replace")
        except OSError as error:
            raise ConfigError(f"{self._log}: the log cannot be read: {error}") from error
