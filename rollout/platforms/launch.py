"""What a release's process is started with: its program, its environment, its port."""

import os
import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rollout.errors import ConfigError, RefusedError
from rollout.model import wire
from rollout.model.release import Release

HOST = "127.0.0.1"
"""Where every local process listens; only the router is reached from elsewhere."""

ENV_SLOT_DIR = "ROLLOUT_SLOT_DIR"
"""Environment of everything that runs in a slot: the slot's folder."""

_RESERVED = frozenset({wire.ENV_PORT, wire.ENV_POD_UID, ENV_SLOT_DIR})

_PORT_ATTEMPTS = 64
"""The kernel draws ephemeral ports at random from some 28,000; that many misses mean that none is left."""


def check(release: Release) -> None:
    """Refuse a release that can never start here.

    Raises:
        ConfigError: Its program does not exist, or its environment or command cannot be given to a process.
    """
    for name, value in release.env.items():
        if name in _RESERVED:
            raise ConfigError(f"release {release.name}: env.{name} is set by the platform; remove it")
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError(f"release {release.name}: env.{name!r} cannot be set in a process's environment")
    if any("\0" in word for word in release.command):
        raise ConfigError(f"release {release.name}: command holds a NUL character")
    program(release)


def program(release: Release) -> str:
    """Return the path of the release's program.

    Raises:
        ConfigError: There is no such program.
    """
    word = release.command[0]
    found = shutil.which(word, path=_base_environment(release)["PATH"])
    if found is None:
        raise ConfigError(
            f"release {release.name}: command {word!r} is no executable file on the PATH of this machine; "
            "install it or give its full path"
        )
    return found


def environment(release: Release, *, uid: str, port: int, slot_dir: Path) -> dict[str, str]:
    """Return the environment of one process: this one's, the release's, and the names that the platform sets."""
    own = {wire.ENV_PORT: str(port), wire.ENV_POD_UID: uid, ENV_SLOT_DIR: str(slot_dir)}
    return _base_environment(release) | own


def choose_ports(count: int, *, avoid: set[int]) -> Sequence[int]:
    """Choose distinct loopback ports that nobody listens on now.

    Raises:
        RefusedError: Every port that the kernel offered is to be avoided.
        OSError: The kernel has none left.
    """
    with ExitStack() as held:
        ports: list[int] = []
        for _ in range(_PORT_ATTEMPTS + count):
            if len(ports) == count:
                return sorted(ports)
            # A rejected port stays bound until the choice is made, or the kernel might offer it again.
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
            if port not in avoid:
                ports.append(port)
        raise RefusedError(f"no free port on {HOST}: the kernel offered only ports that slots use already")


def _base_environment(release: Release) -> dict[str, str]:
    env = {**os.environ, **release.env}
    # The commands installed next to this interpreter come first, so that `rollout` is this very installation.
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    return env
