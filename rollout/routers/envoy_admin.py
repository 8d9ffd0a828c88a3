"""What a running Envoy answers: its admin on a unix socket, and probes through its listener."""

import ssl
from pathlib import Path

import httpx

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

    def __init__(self, socket: Path, listen: Address) -> None:
        self._socket = socket
        host = _ANY_HOST.get(listen.host, listen.host)
        self._listener_url = f"http://[{host}]:{listen.port}/" if ":" in host else f"http://{host}:{listen.port}/"
        # No connection is kept, or an Envoy that was replaced would be asked on a dead one. Both ends are in this
        # machine and speak plain HTTP: the empty TLS context only saves loading the certificate store.
        limits = httpx.Limits(max_keepalive_connections=0)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        local = httpx.HTTPTransport(uds=str(socket), limits=limits, verify=context)
        self._admin = httpx.Client(transport=local, base_url="http://envoy", timeout=_TIMEOUT_S)
        self._listener = httpx.Client(limits=limits, verify=context, trust_env=False, timeout=_TIMEOUT_S)

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

    def read_listener(self) -> Address:
        """Return the address on which live traffic arrives."""
        answer = self._get("/listeners", format="json")
        try:
            (status,) = answer["listener_statuses"]
            place = status["local_address"]["socket_address"]
            return Address(host=place["address"], port=place["port_value"])
        except (KeyError, ValueError, TypeError) as error:
            raise UnavailableError(f"Envoy reports no listener of ours: {answer}; it is still starting") from error

    def drain(self) -> None:
        """Make Envoy ask its clients to leave, and close its listener a second later."""
        self._ask("POST", "/drain_listeners", {"graceful": ""})

    def probe(self) -> str:
        """Ask through the listener by which version live traffic is split; no slot sees the request."""
        try:
            answer = self._listener.get(self._listener_url, headers={envoy_config.HEADER_PROBE: "1"})
        except httpx.HTTPError as error:
            raise UnavailableError(f"no answer through Envoy's listener {self._listener_url}: {error!r}") from error
        version = answer.headers.get(envoy_config.HEADER_VERSION)
        if version is None:
            raise UnavailableError(f"{self._listener_url} answered a probe with {answer.status_code} and no version")
        return str(version)

    def accepts(self) -> bool:
        """Tell whether the listener still answers new connections."""
        try:
            self._listener.get(self._listener_url, headers={envoy_config.HEADER_PROBE: "1"})
        except httpx.TransportError:
            return False
        return True

    def close(self) -> None:
        """Close the clients; Envoy keeps running."""
        self._admin.close()
        self._listener.close()

    def _get(self, path: str, **params: str) -> Json:
        answer = self._ask("GET", path, params)
        try:
            found: Json = answer.json()
        except ValueError as error:
            raise UnavailableError(f"Envoy's admin answered {path} with no JSON: {answer.text[:200]}") from error
        return found

    def _ask(self, method: str, path: str, params: dict[str, str]) -> httpx.Response:
        try:
            answer = self._admin.request(method, path, params=params)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"Envoy's admin on {self._socket} did not answer {path}: {error!r}; apply starts Envoy when it is dead"
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise UnavailableError(f"Envoy's admin answered {path} with {answer.status_code}: {answer.text[:200]}")
        return answer
