"""What a running Envoy answers: its admin on a unix socket, and probes through its listener.

A shift asks some ten questions. The standard library's client needs half the time of httpx for each, and no import of
its own. Every question has its own connection, or an Envoy that was replaced would be asked on a dead one.
"""

import http.client
import json
import socket
from pathlib import Path
from urllib.parse import urlencode

from rollout.errors import UnavailableError
from rollout.model.inventory import LiveCounters
from rollout.model.roles import Address, Slot, Weights
from rollout.routers import envoy_config
from rollout.routers.envoy_config import Json, Version

_TIMEOUT_S = 2.0
"""The admin answers within a millisecond; two seconds allow for a machine whose processors are all taken."""

_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - translated into loopback, never bound
"""Where to reach a listener that listens on every address."""


class EnvoyAdmin:
    """Asks one Envoy.

    Every verb raises UnavailableError when Envoy does not answer, or answers with something else than was asked.
    """

    def __init__(self, admin_socket: Path, listen: Address) -> None:
        self._socket = admin_socket
        self._listener = Address(host=_ANY_HOST.get(listen.host, listen.host), port=listen.port)

    def read_routes(self) -> tuple[Version, Weights]:
        """Return the version and weights of the route configuration in force."""
        return envoy_config.read_weights(self._get("/config_dump", resource="dynamic_route_configs"))

    def read_targets(self) -> dict[Slot, tuple[Address, ...]]:
        """Return the addresses that Envoy balances over, for the slots that have any."""
        return envoy_config.read_targets(self._get("/clusters", format="json"))

    def read_stats(self) -> Json:
        """Return the statistics that this product looks at, by name."""
        return envoy_config.read_stats(self._get("/stats", format="json", filter=envoy_config.STATS_FILTER))

    def read_counters(self) -> dict[Slot, LiveCounters]:
        """Return each slot's counters."""
        return envoy_config.read_counters(self.read_stats())

    def drain(self) -> None:
        """Make Envoy ask its clients to leave, and close its listener a second later."""
        self._ask("POST", "/drain_listeners?graceful")

    def probe(self) -> str:
        """Ask through the listener by which version live traffic is split; no slot sees the request."""
        connection = http.client.HTTPConnection(self._listener.host, self._listener.port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/", headers={envoy_config.HEADER_PROBE: "1"})
            answer = connection.getresponse()
            version = answer.getheader(envoy_config.HEADER_VERSION)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"no answer through Envoy's listener on {self._listener}: {error!r}") from error
        finally:
            connection.close()
        if version is None:
            raise UnavailableError(f"{self._listener} answered a probe with {answer.status} and no version")
        return version

    def _get(self, path: str, **params: str) -> Json:
        text = self._ask("GET", f"{path}?{urlencode(params)}")
        try:
            found: Json = json.loads(text)
        except ValueError as error:
            raise UnavailableError(f"Envoy's admin answered {path} with no JSON: {text[:200]!r}") from error
        return found

    def _ask(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(
                f"Envoy's admin on {self._socket} did not answer {path}: {error!r}; apply starts Envoy when it is dead"
            ) from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise UnavailableError(f"Envoy's admin answered {path} with {answer.status}: {text[:200]!r}")
        return text


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket in place of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))
