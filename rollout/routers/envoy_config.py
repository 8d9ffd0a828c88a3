"""What Envoy is told, and what it says back, as plain data; no file and no socket is touched here.

Both slots are clusters from the first start on, one without endpoints where a slot has no target, and only shares and
endpoints change. A cluster that is replaced at run time would lose part of its counters: Envoy 1.40 keeps
`upstream_rq_completed` and forgets `upstream_rq_5xx`. Nor can any order of updates name a cluster that is not there.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rollout.errors import UnavailableError
from rollout.model.canonical import digest_json
from rollout.model.inventory import LiveCounters
from rollout.model.roles import Address, Slot, Weights
from rollout.model.wire import HEADER_COLOR, HEADER_SEND_TO

HEADER_PROBE = "x-rollout-probe"
"""A request with this header is answered by Envoy itself and reaches no slot."""

HEADER_VERSION = "x-rollout-router-version"
"""On the answer to a probe: the version by which live traffic is split now."""

STATS_FILTER = (
    r"^cluster\.(blue|green)\."
    r"(upstream_rq_completed|upstream_rq_5xx|upstream_rq_active|version_text|update_rejected|update_failure)$"
    r"|^http\.live\.(downstream_rq_active|rds\.live\.(update_rejected|update_failure))$"
)
"""The few of Envoy's thousand statistics that are read; the admin takes a regular expression."""

_NAME = "live"
"""Name of the one listener, route configuration and virtual host; part of statistics' names."""

_TYPE = "type.googleapis.com/envoy"

_CONNECT_TIMEOUT = "1s"
"""Targets are in this machine or its network, where a handshake takes milliseconds; a dead slot must fail fast."""

_UPSTREAM_IDLE = "2s"
"""Below uvicorn's five: a connection that the server closes while Envoy sends on it is a 503 that nobody caused."""

_IDLE_MARGIN_S = 60.0
"""A request may stand still this much longer than the route timeout, which starts only when its body is complete."""

Json = dict[str, Any]
"""A JSON object as Envoy reads and writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """The name of one configuration: who wrote it, as which change, and what it says."""

    generation: int
    sequence: int
    content: str
    """The first twelve hexadecimal digits of the content's digest."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version back from Envoy or from a file.

        Raises:
            ValueError: This product did not write it.
        """
        generation, sequence, content = text.removeprefix("g").split("-")
        return cls(generation=int(generation), sequence=int(sequence), content=content)

    def __str__(self) -> str:
        return f"g{self.generation}-{self.sequence}-{self.content}"


def bootstrap(*, listen: Address, admin_socket: Path, routes: Path, endpoints: Mapping[Slot, Path]) -> Json:
    """Return what Envoy starts with: where it listens, and which two files hold everything that changes."""
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": _NAME,
        "server_header_transformation": "PASS_THROUGH",
        "rds": {"route_config_name": _NAME, "config_source": _file_source(routes)},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    # With port reuse a second Envoy could bind the same port, and the kernel would split traffic between the two.
    listener = {"name": _NAME, "address": _socket(listen), "enable_reuse_port": False, "filter_chains": [chain]}
    return {
        "node": {"id": "rollout", "cluster": "rollout"},
        "admin": {"address": {"pipe": {"path": str(admin_socket), "mode": 0o600}}},
        "static_resources": {"listeners": [listener], "clusters": [_cluster(slot, endpoints[slot]) for slot in Slot]},
    }


def route_response(*, weights: Weights, timeout_s: float, generation: int, sequence: int) -> Json:
    """Return the content of the route file: every share, every header route and the timeouts."""
    limits = {"timeout": f"{timeout_s:.3f}s", "idle_timeout": f"{timeout_s + _IDLE_MARGIN_S:.3f}s"}
    shares = [
        {"name": slot.value, "weight": weights.of(slot), "response_headers_to_add": [_header(HEADER_COLOR, slot.value)]}
        for slot in Slot
    ]
    routes: list[Json] = [
        {
            "match": _match(HEADER_SEND_TO, {"string_match": {"exact": slot.value}}),
            "route": {"cluster": slot.value, **limits},
            "response_headers_to_add": [_header(HEADER_COLOR, slot.value)],
        }
        for slot in Slot
    ]
    routes.append(
        {
            "match": _match(HEADER_SEND_TO, {"present_match": True}),
            "direct_response": {
                "status": 400,
                "body": {"inline_string": f"{HEADER_SEND_TO} must be {' or '.join(Slot)}"},
            },
        }
    )
    routes.append({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": shares}, **limits}})
    version = Version(generation=generation, sequence=sequence, content=_short_digest(routes))
    probe = {
        "match": _match(HEADER_PROBE, {"present_match": True}),
        "direct_response": {"status": 204},
        "response_headers_to_add": [_header(HEADER_VERSION, str(version))],
    }
    configuration = {
        "@type": f"{_TYPE}.config.route.v3.RouteConfiguration",
        "name": _NAME,
        "validate_clusters": True,
        "virtual_hosts": [{"name": _NAME, "domains": ["*"], "routes": [probe, *routes]}],
    }
    return {"version_info": str(version), "resources": [configuration]}


def endpoint_response(slot: Slot, targets: tuple[Address, ...], *, generation: int, sequence: int) -> Json:
    """Return the content of a slot's endpoint file: where its instances listen."""
    endpoints = [{"endpoint": {"address": _socket(address)}} for address in targets]
    assignment = {
        "@type": f"{_TYPE}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": slot.value,
        "endpoints": [{"lb_endpoints": endpoints}],
    }
    version = Version(generation=generation, sequence=sequence, content=_short_digest([assignment]))
    return {"version_info": str(version), "resources": [assignment]}


def read_listener(content: Json) -> Address:
    """Read back where a bootstrap lets Envoy listen.

    Raises:
        ValueError: This product did not write it.
    """
    try:
        (listener,) = content["static_resources"]["listeners"]
        place = listener["address"]["socket_address"]
        return Address(host=place["address"], port=place["port_value"])
    except (KeyError, TypeError) as error:
        raise ValueError("the bootstrap names no single listener") from error


def read_weights(dump: Json) -> tuple[Version, Weights]:
    """Read version and weights out of Envoy's dump of its route configurations.

    Raises:
        UnavailableError: Envoy has no route configuration, or one that this product did not write.
    """
    try:
        (entry,) = dump["configs"]
        (host,) = entry["route_config"]["virtual_hosts"]
        clusters = host["routes"][-1]["route"]["weighted_clusters"]["clusters"]
        percent = {one["name"]: one.get("weight", 0) for one in clusters}
        weights = Weights(blue=percent[Slot.BLUE.value], green=percent[Slot.GREEN.value])
        return Version.parse(entry["version_info"]), weights
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UnavailableError(
            f"Envoy reports no route configuration of ours yet: {json.dumps(dump)[:200]}; apply the weights again"
        ) from error


def read_targets(status: Json) -> dict[Slot, tuple[Address, ...]]:
    """Read the slots that have targets out of Envoy's list of the hosts it balances over.

    Raises:
        UnavailableError: The list is not of the shape that this product's clusters give.
    """
    targets = {}
    try:
        for cluster in status["cluster_statuses"]:
            places = [host["address"]["socket_address"] for host in cluster.get("host_statuses", [])]
            addresses = sorted_addresses(Address(host=one["address"], port=one["port_value"]) for one in places)
            if addresses:
                targets[Slot(cluster["name"])] = addresses
    except (KeyError, ValueError, TypeError) as error:
        raise UnavailableError(
            f"Envoy reports clusters that are not ours: {json.dumps(status)[:200]}; apply the targets again"
        ) from error
    return targets


def sorted_addresses(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Return addresses in the one order in which targets are written and compared."""
    return tuple(sorted(set(addresses), key=lambda one: (one.host, one.port)))


def read_counters(stats: Json) -> dict[Slot, LiveCounters]:
    """Read each slot's counters out of Envoy's statistics.

    Envoy counts its own 503 and 504 among a cluster's 5xx answers, so connection failures and timeouts are in there
    once; adding `upstream_cx_connect_fail` or `upstream_rq_timeout` would count them twice. An answer 200 whose body
    broke off is not among them.
    """
    return {
        slot: LiveCounters(
            completed=stats.get(f"cluster.{slot}.upstream_rq_completed", 0),
            failed=stats.get(f"cluster.{slot}.upstream_rq_5xx", 0),
            active=stats.get(f"cluster.{slot}.upstream_rq_active", 0),
        )
        for slot in Slot
    }


def read_stats(answer: Json) -> Json:
    """Read Envoy's statistics as name to value; what has never happened is missing."""
    return {one["name"]: one["value"] for one in answer["stats"] if "name" in one}


def read_in_flight(stats: Json) -> int:
    """Read how many requests clients wait for now, whatever their slot."""
    return int(stats.get(f"http.{_NAME}.downstream_rq_active", 0))


def read_refusals(stats: Json) -> int:
    """Read how many updates Envoy has refused so far, as wrong in content or as unreadable."""
    names = [f"http.{_NAME}.rds.{_NAME}", *(f"cluster.{slot}" for slot in Slot)]
    return sum(stats.get(f"{name}.{how}", 0) for name in names for how in ("update_rejected", "update_failure"))


def _cluster(slot: Slot, endpoints: Path) -> Json:
    options = {
        "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {
        "name": slot.value,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _file_source(endpoints)},
        # Instances compute one picture at a time, so the one with the fewest requests is the one to ask.
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": _CONNECT_TIMEOUT,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _file_source(path: Path) -> Json:
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
    }


def _socket(address: Address) -> Json:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _match(header: str, how: Json) -> Json:
    return {"prefix": "/", "headers": [{"name": header, **how}]}


def _header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _short_digest(content: list[Json]) -> str:
    return digest_json(content).removeprefix("sha256:")[:12]
