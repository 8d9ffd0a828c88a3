"""The container: processors, memory and its limits, shared memory, who runs."""

import os
import platform
import re
import resource
import shutil
from pathlib import Path

from rollout.model.snapshot import Capability, failed, ok, unavailable
from rollout.serving.collectors.interface import Collector, Fields
from rollout.serving.reading import read

# A cgroup v1 without a limit reports a number near 2^63.
_NO_LIMIT_BYTES = 1 << 60
_CGROUP = Path("/sys/fs/cgroup")
_COMPILERS = ("gcc", "g++", "cc", "clang", "nvcc")


def _read() -> Fields:
    return {
        "container.cpu.count": read("os.sched_getaffinity", lambda: len(os.sched_getaffinity(0))),
        "container.cpu.model": read("/proc/cpuinfo", lambda: _cpu_model(Path("/proc/cpuinfo").read_text())),
        "container.cpu.quota": _cpu_quota(_CGROUP),
        "container.memory.limit_bytes": _memory_limit(_CGROUP),
        "container.memory.locked_limit_bytes": _locked_limit(),
        "container.shm.bytes": read("statvfs of /dev/shm", _shm_bytes),
        "container.user.root": ok(os.geteuid() == 0, "os.geteuid"),
        "container.compilers": ok([name for name in _COMPILERS if shutil.which(name)], "PATH"),
        "container.kernel": ok(platform.release(), "uname"),
    }


def _cpu_model(cpuinfo: str) -> str:
    matched = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return matched.group(1).strip() if matched else platform.machine()


def _cpu_quota(cgroup: Path) -> Capability:
    """Return the cores that a quota allows."""
    path, old = cgroup / "cpu.max", cgroup / "cpu" / "cpu.cfs_quota_us"
    try:
        if path.exists():
            quota, period = path.read_text().split()
        elif old.exists():
            quota, period = old.read_text().strip(), (old.parent / "cpu.cfs_period_us").read_text()
        else:
            return unavailable(str(cgroup), "no cgroup CPU controller is visible")
        if quota in {"max", "-1"}:
            return unavailable(str(cgroup), "the cgroup sets no CPU quota")
        return ok(round(int(quota) / int(period), 3), str(cgroup))
    except (OSError, ValueError, ZeroDivisionError) as error:
        return failed(str(cgroup), str(error))


def _memory_limit(cgroup: Path) -> Capability:
    for path in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        if not path.exists():
            continue
        try:
            text = path.read_text().strip()
            if text == "max" or int(text) > _NO_LIMIT_BYTES:
                return unavailable(str(path), "the cgroup sets no memory limit")
            return ok(int(text), str(path))
        except (OSError, ValueError) as error:
            return failed(str(path), str(error))
    return unavailable(str(cgroup), "no cgroup memory controller is visible")


def _locked_limit() -> Capability:
    """Return how much memory may be locked: pinned host memory counts towards it on some systems."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return unavailable("RLIMIT_MEMLOCK", "unlimited")
    return ok(limit, "RLIMIT_MEMLOCK")


def _shm_bytes() -> int:
    seen = os.statvfs("/dev/shm")  # noqa: S108 - asked for its size, nothing is written
    return seen.f_blocks * seen.f_frsize


CONTAINER = Collector(
    name="container",
    fields=frozenset(
        {
            "container.cpu.count",
            "container.cpu.model",
            "container.cpu.quota",
            "container.memory.limit_bytes",
            "container.memory.locked_limit_bytes",
            "container.shm.bytes",
            "container.user.root",
            "container.compilers",
            "container.kernel",
        }
    ),
    read=_read,
)
