"""The only composition root: a stack file becomes the parts that the loop acts on.

A variant is chosen by an explicit table; an unknown name is an error, never a default. What only the loop needs is
imported where it is built, so that looking at a stack starts quickly.
"""

import getpass
import os
import platform as host
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rollout import __version__
from rollout.errors import ConfigError
from rollout.evidence.lease import FileLease
from rollout.files.load import LoadedStack
from rollout.model.fence import Fence
from rollout.model.policy import Policy
from rollout.model.roles import Address
from rollout.platforms.interface import Platform
from rollout.platforms.local import LocalPlatform
from rollout.routers.envoy import EnvoyRouter
from rollout.routers.interface import Router

if TYPE_CHECKING:
    from rollout.canary.interface import ServingProtocol
    from rollout.cli.signals import ProcessSignals
    from rollout.control.world import Listener, World

V = TypeVar("V")

PLATFORMS = {"local": LocalPlatform}
ROUTERS = {"envoy": EnvoyRouter}

LEASE_MARGIN_S = 60.0
"""A lease outlives the longest step by this much: a slow disk, a busy machine, many shapes to warm up."""


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def who() -> str:
    """Return the person and process that act, for the lease and the journal."""
    return f"{_user()}@{host.node()}:{os.getpid()}"


def environment() -> dict[str, str]:
    """Return what the evidence records about the controller itself."""
    return {
        "rollout": __version__,
        "python": host.python_version(),
        "machine": host.machine(),
        "system": f"{host.system()} {host.release()}",
        "cores": str(os.cpu_count() or 0),
        "executable": Path(sys.executable).name,
    }


def build_lease(stack: LoadedStack, policy: Policy) -> FileLease:
    """Return the lease of a stack's state folder."""
    ttl_s = longest_step_s(stack, policy) + LEASE_MARGIN_S
    return FileLease(stack.state, holder=who(), ttl_s=ttl_s, clock=time.time)


def longest_step_s(stack: LoadedStack, policy: Policy) -> float:
    """Return how long one step can take at most: it is between steps that the loop listens and renews its lease.

    A pair is two requests, a settling request two more; a warm-up of one instance ends at its third failure. Leaving a
    slot waits for its live requests, then for its processes. A load window waits for its last answers.
    """
    window_s = 0.0 if policy.load is None else policy.load.window_s
    return (
        window_s + 5 * policy.deadlines.request_s + stack.stack.platform.grace_s + stack.stack.router.request_timeout_s
    )


def build_platform(stack: LoadedStack, fence: Fence) -> Platform:
    """Return the platform that a stack names."""
    spec = stack.stack.platform
    return _chosen(PLATFORMS, spec.kind, "platform")(stack.state, fence, grace_s=spec.grace_s)


def build_router(stack: LoadedStack, fence: Fence) -> Router:
    """Return the router that a stack names."""
    spec = stack.stack.router
    listen = Address(host=spec.listen_host, port=spec.listen_port)
    chosen = _chosen(ROUTERS, spec.kind, "router")
    return chosen(stack.state, fence, listen=listen, request_timeout_s=spec.request_timeout_s)


def build_protocol(stack: LoadedStack) -> "ServingProtocol":
    """Return the protocol that a stack's servers speak."""
    from rollout.canary.openai_images import OpenAIImages

    return _chosen({"openai-images": OpenAIImages}, stack.stack.protocol, "protocol")()


def build_world(
    stack: LoadedStack, policy: Policy, *, signals: "ProcessSignals", listener: "Listener", moves_traffic: bool
) -> "World":
    """Wire a stack.

    Args:
        stack: The stack file, read.
        policy: The policy in force.
        signals: Where a wish to end arrives.
        listener: Who watches.
        moves_traffic: False for `verify`, which then has no router at all.
    """
    from rollout.canary.driver import CanaryDriver
    from rollout.canary.load import LoadDriver
    from rollout.control.world import World
    from rollout.evidence.baselines import BaselineStore
    from rollout.evidence.inbox import Inbox

    stack.state.mkdir(parents=True, exist_ok=True)
    lease = build_lease(stack, policy)
    protocol = build_protocol(stack)
    driver = CanaryDriver(protocol, measure=policy.latency.measure, request_timeout_s=policy.deadlines.request_s)
    load = LoadDriver(protocol, request_timeout_s=policy.deadlines.request_s)
    return World(
        platform=build_platform(stack, lease),
        router=build_router(stack, lease) if moves_traffic else None,
        protocol=protocol,
        driver=driver,
        load=load,
        lease=lease,
        inbox=Inbox(stack.state / "commands"),
        baselines=BaselineStore(stack.state / "baselines"),
        clock=SystemClock(),
        signals=signals,
        listener=listener,
    )


def _chosen(table: Mapping[str, V], name: str, what: str) -> V:
    if name not in table:
        raise ConfigError(f"{what} {name!r} is unknown; known: {', '.join(sorted(table))}")
    return table[name]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
