"""Slots as sets of detached processes on this machine: no containers, nothing to install.

Theory of operation. The record of a slot is on disk before its first process starts, and names each instance by a uid
that the process carries in its environment; the process's identity is written after the start. A controller killed
between the two is followed by one that finds the process by its uid. Everything in a slot carries the slot's folder in
its environment, so what no record names is found and ended too.
"""

import http.client
import secrets
import signal
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from rollout import processes
from rollout.errors import ConflictError, RefusedError, UnavailableError
from rollout.model import wire
from rollout.model.base import Strict
from rollout.model.fence import Fence
from rollout.model.inventory import Absent, Instance, SlotState
from rollout.model.release import Release
from rollout.model.roles import Address, Slot
from rollout.platforms import launch, probe
from rollout.processes import ProcessIdentity

if TYPE_CHECKING:
    from subprocess import Popen

_SCHEMA: Literal["rollout.local-slot/v1"] = "rollout.local-slot/v1"

_KILL_LIMIT_S = 5.0
"""SIGKILL works at once, save for a process stuck inside a driver; five seconds tell the two apart."""

_REASON_BYTES = 200
"""How much of an unready server's answer is quoted."""


class InstanceRecord(Strict):
    """One process that was meant to run, written before it was started."""

    uid: str
    port: Annotated[int, Field(ge=1, le=65535)]


class SlotRecord(Strict):
    """What a slot was told to run."""

    schema_: Literal["rollout.local-slot/v1"] = Field(alias="schema")
    release_digest: str
    generation: Annotated[int, Field(ge=0)]
    command: tuple[str, ...]
    env: dict[str, str]
    instances: Annotated[tuple[InstanceRecord, ...], Field(min_length=1)]


class LocalPlatform:
    """Runs releases as detached processes of this machine that outlive the controller.

    Nothing here starts a dead instance again by itself, as a kubelet would: `Instance.restarts` is always 0, and what
    took the place of a dead instance has another uid. The memory of an instance is that of its whole session.

    Args:
        state_dir: Folder of the records and logs; made when missing, readable by its owner only.
        fence: Held around every write and every signal, never while waiting.
        grace_s: Seconds from SIGTERM to SIGKILL.
        probe_timeout_s: Seconds that a readiness probe may take in all.
    """

    def __init__(self, state_dir: Path, fence: Fence, *, grace_s: float = 10.0, probe_timeout_s: float = 1.0) -> None:
        self._folder = state_dir.absolute() / "slots"
        self._fence = fence
        self._grace_s = grace_s
        self._probe_timeout_s = probe_timeout_s
        self._children: dict[int, Popen[bytes]] = {}

    def observe(self) -> Mapping[Slot, SlotState | Absent]:
        """Look at both slots; see `Platform.observe`."""
        self._reap()
        with ThreadPoolExecutor(max_workers=len(Slot)) as pool:
            return dict(zip(Slot, pool.map(self._look, Slot), strict=True))

    def check(self, release: Release) -> None:
        """Refuse a release that can never start here; see `Platform.check`."""
        launch.check(release)

    def deploy(self, slot: Slot, release: Release, *, restart: Collection[str] = ()) -> SlotState:
        """Make the slot run this release; see `Platform.deploy`."""
        launch.check(release)
        with self._fence.hold() as generation:
            record = self._guarded_record(slot, generation)
        kept = self._living(slot, record, release, restart)
        if isinstance(record, SlotRecord) and len(kept) == len(record.instances):
            return self._state(slot, record)
        self._empty(slot, kept)
        with self._fence.hold() as generation:
            self._guarded_record(slot, generation)
            record = self._start(slot, release, generation, kept)
        return self._state(slot, record)

    def retire(self, slot: Slot) -> None:
        """End everything in the slot; see `Platform.retire`. The logs stay until the next deploy."""
        self._empty(slot, ())
        with self._fence.hold() as generation:
            self._guarded_record(slot, generation)
            self._record_path(slot).unlink(missing_ok=True)
            for path in self._slot_dir(slot).glob("*.pid.json"):
                path.unlink(missing_ok=True)

    def log(self, slot: Slot) -> str:
        """Return all that the slot's instances wrote, stdout and stderr; also after they were retired.

        Raises:
            UnavailableError: A log cannot be read.
        """
        try:
            logs = [path.read_bytes() for path in sorted(self._slot_dir(slot).glob("*.log"))]
        except OSError as error:
            raise UnavailableError(f"the logs in {self._slot_dir(slot)} cannot be read: {error}") from error
        return "\n".join(one.decode(errors="replace") for one in logs)

    def _look(self, slot: Slot) -> SlotState | Absent:
        record = self._record(slot)
        return record if isinstance(record, Absent) else self._state(slot, record)

    def _state(self, slot: Slot, record: SlotRecord) -> SlotState:
        with ThreadPoolExecutor(max_workers=len(record.instances)) as pool:
            instances = tuple(pool.map(lambda one: self._instance(slot, one), record.instances))
        return SlotState(release_digest=record.release_digest, generation=record.generation, instances=instances)

    def _instance(self, slot: Slot, record: InstanceRecord) -> Instance:
        address = Address(host=launch.HOST, port=record.port)
        identity = self._identity(slot, record.uid)
        alive = identity is not None and processes.is_alive(identity)
        detail = self._unready_reason(record.uid, address) if alive else self._death(slot, record.uid, identity)
        return Instance(
            uid=record.uid,
            address=address,
            alive=alive,
            ready=alive and not detail,
            detail=detail,
            memory_bytes=_memory(identity),
        )

    def _unready_reason(self, uid: str, address: Address) -> str:
        """Ask the instance whether it is ready; empty when it is, else why not."""
        try:
            answer = probe.ask(address, wire.PATH_READY, limit_s=self._probe_timeout_s, text_bytes=_REASON_BYTES)
        except ConnectionRefusedError:
            return f"nothing listens on {address}"
        except TimeoutError:
            return f"no answer from {address}{wire.PATH_READY} within {self._probe_timeout_s:g} s"
        except (OSError, http.client.HTTPException) as error:
            return f"{address}{wire.PATH_READY} answered nothing usable: {error!r}"
        other = answer.headers.get(wire.HEADER_POD_UID.lower())
        if other != uid:
            who = f"instance {other!r}" if other else f"a process without {wire.HEADER_POD_UID}"
            return f"somebody else answers on {address}: {who}"
        if answer.status != http.client.OK:
            return f"{wire.PATH_READY} answered {answer.status}{': ' + answer.text if answer.text else ''}"
        return ""

    def _death(self, slot: Slot, uid: str, identity: ProcessIdentity | None) -> str:
        if identity is None:
            return "no process was ever seen for it: the controller ended before it could start one"
        child = self._children.get(identity.pid)
        status = None if child is None else child.poll()
        if status is None:
            how = "ended; its exit status went to an earlier controller"
        elif status < 0:
            how = f"ended by signal {-status} ({signal.strsignal(-status)})"
        else:
            how = f"ended with exit status {status}"
        last = processes.tail(self._log_path(slot, uid), 1)
        return f"{how}; last log line: {last[0]}" if last else f"{how}; its log is empty"

    def _living(
        self, slot: Slot, record: SlotRecord | Absent, release: Release, restart: Collection[str]
    ) -> tuple[InstanceRecord, ...]:
        """Return the instances that a deploy of this release leaves alone."""
        if isinstance(record, Absent) or record.release_digest != release.digest:
            return ()
        found = [(one, self._identity(slot, one.uid)) for one in record.instances if one.uid not in restart]
        return tuple(one for one, identity in found if identity is not None and processes.is_alive(identity))

    def _start(self, slot: Slot, release: Release, generation: int, kept: tuple[InstanceRecord, ...]) -> SlotRecord:
        """Record the slot's instances and start those that are not kept, under the fence.

        Raises:
            RefusedError: The system would not start the command, or no port is free.
        """
        folder = self._slot_dir(slot)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted = {path for one in kept for path in (self._pid_path(slot, one.uid), self._log_path(slot, one.uid))}
            for stale in {*folder.glob("*.pid.json"), *folder.glob("*.log")} - wanted:
                stale.unlink()
            ports = launch.choose_ports(release.replicas - len(kept), avoid=self._recorded_ports())
            fresh = tuple(
                InstanceRecord(uid=f"{slot}-g{generation}-{secrets.token_hex(6)}", port=port) for port in ports
            )
            record = SlotRecord(
                schema=_SCHEMA,
                release_digest=release.digest,
                generation=generation,
                command=tuple(release.command),
                env=release.env,
                instances=(*kept, *fresh),
            )
            processes.replace_file(self._record_path(slot), record.model_dump_json(by_alias=True).encode())
            command = [launch.program(release), *release.command[1:]]
            for one in fresh:
                env = launch.environment(release, uid=one.uid, port=one.port, slot_dir=folder)
                child = processes.spawn(command, env=env, log=self._log_path(slot, one.uid))
                self._children[child.pid] = child
                self._remember(slot, one.uid, child)
        except OSError as error:
            raise RefusedError(f"release {release.name} could not be started in {slot}: {error}") from error
        return record

    def _remember(self, slot: Slot, uid: str, child: "Popen[bytes]") -> None:
        identity = processes.identify_child(child)
        if identity is not None:
            processes.replace_file(self._pid_path(slot, uid), identity.model_dump_json().encode())

    def _empty(self, slot: Slot, kept: tuple[InstanceRecord, ...]) -> None:
        """End every process of the slot that belongs to no kept instance: SIGTERM, grace, SIGKILL; waits for the end.

        Raises:
            ConflictError: The lease was lost; nothing more is signalled.
            UnavailableError: A process survived SIGKILL.
        """
        which, limit_s = signal.SIGTERM, self._grace_s
        deadline = time.monotonic() + self._grace_s + _KILL_LIMIT_S
        while True:
            with self._fence.hold() as generation:
                self._guarded_record(slot, generation)
                members = self._members(slot, kept)
                for one in members:
                    processes.send(one, which)
            if not members:
                return
            left = processes.wait_gone(members, limit_s=limit_s)
            self._reap()
            if left and time.monotonic() > deadline:
                pids = ", ".join(str(one.pid) for one in left)
                raise UnavailableError(
                    f"{slot}: process {pids} did not end within {_KILL_LIMIT_S:g} s of SIGKILL, "
                    "as happens inside a hung driver; look at it by hand, then repeat"
                )
            # Whatever is found from now on was started during the grace, or ignored it.
            which, limit_s = signal.SIGKILL, _KILL_LIMIT_S

    def _members(self, slot: Slot, kept: tuple[InstanceRecord, ...]) -> tuple[ProcessIdentity, ...]:
        """Find every living process of the slot, recorded or not, save those of the kept instances."""
        record, spared = self._record(slot), {one.uid for one in kept}
        uids = () if isinstance(record, Absent) else tuple(one.uid for one in record.instances)
        found = list(processes.find_carriers(launch.ENV_SLOT_DIR, str(self._slot_dir(slot))))
        for uid in uids:
            if uid not in spared:
                found.extend(self._family(slot, uid))
        spared_pids = {one.pid for uid in spared for one in self._family(slot, uid)}
        return tuple({one.pid: one for one in found if one.pid not in spared_pids}.values())

    def _family(self, slot: Slot, uid: str) -> tuple[ProcessIdentity, ...]:
        """Find what one instance consists of: its process, the rest of its session, and whoever carries its uid."""
        leader = self._identity(slot, uid)
        session = () if leader is None else processes.find_session(leader)
        return (*session, *processes.find_carriers(wire.ENV_POD_UID, uid))

    def _identity(self, slot: Slot, uid: str) -> ProcessIdentity | None:
        """Return the instance's process as recorded, or as found by its uid when the record is missing."""
        try:
            return ProcessIdentity.model_validate_json(self._pid_path(slot, uid).read_bytes())
        except (FileNotFoundError, ValidationError):
            carriers = processes.find_carriers(wire.ENV_POD_UID, uid)
            return next((one for one in carriers if processes.leads_session(one)), None)

    def _guarded_record(self, slot: Slot, generation: int) -> SlotRecord | Absent:
        """Read the record for a writer of this generation.

        Raises:
            ConflictError: A later generation wrote it.
        """
        record = self._record(slot)
        if isinstance(record, SlotRecord) and record.generation > generation:
            raise ConflictError(
                f"{slot} was deployed under generation {record.generation}, this controller holds {generation}; "
                "another controller has taken over: stop this one"
            )
        return record

    def _record(self, slot: Slot) -> SlotRecord | Absent:
        path = self._record_path(slot)
        try:
            return SlotRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Absent(reason=f"nothing is deployed in {slot}")
        except ValidationError as error:
            return Absent(reason=f"the record {path} is damaged; a new deploy ends what runs there: {error}")
        except OSError as error:
            raise UnavailableError(f"the record {path} could not be read: {error}") from error

    def _recorded_ports(self) -> set[int]:
        records = [self._record(slot) for slot in Slot]
        return {one.port for record in records if isinstance(record, SlotRecord) for one in record.instances}

    def _reap(self) -> None:
        for child in self._children.values():
            child.poll()

    def _slot_dir(self, slot: Slot) -> Path:
        return self._folder / slot.value

    def _record_path(self, slot: Slot) -> Path:
        return self._slot_dir(slot) / "slot.json"

    def _pid_path(self, slot: Slot, uid: str) -> Path:
        return self._slot_dir(slot) / f"{uid}.pid.json"

    def _log_path(self, slot: Slot, uid: str) -> Path:
        return self._slot_dir(slot) / f"{uid}.log"


def _memory(identity: ProcessIdentity | None) -> int | Absent:
    """Return what an instance and its helpers hold in RAM."""
    held = None if identity is None else processes.resident_bytes(processes.find_session(identity))
    return Absent(reason="it has ended") if held is None else held
