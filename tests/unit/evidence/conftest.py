"""Worlds for the tests of the evidence room: a clock that is set, a fence that is ours, a disk that is full."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rollout.errors import ConflictError
from rollout.evidence.journal import Journal
from rollout.evidence.objects import ObjectStore
from rollout.evidence.runs import run_folder
from rollout.model.journal import CommandKind, CommandReceived, RunKind, RunRequested, SnapshotsRead
from rollout.model.roles import Slot


class SetClock:
    """Unix time that only moves when it is told to."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


class OurFence:
    """A lease that is ours until it is lost."""

    def __init__(self):
        self.generation = 3
        self.lost = False

    @contextmanager
    def hold(self):
        if self.lost:
            raise ConflictError("taken by somebody else")
        yield self.generation


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def fence():
    return OurFence()


@pytest.fixture
def requested():
    def make(objects, run_id="r000003-candidate"):
        policy = objects.put_json({"policy": 1})
        return RunRequested(
            run_id=run_id,
            kind=RunKind.PROMOTE,
            stack="pictures",
            incumbent=Slot.BLUE,
            candidate=Slot.GREEN,
            policy=policy,
            prompts=objects.put_json(["a cat", "ein Bär"]),
            release=objects.put_json({"release": "r2"}),
            incumbent_release=None,
            baseline=None,
            standby_until=None,
            requested_by="a test",
            environment={"host": "here"},
        )

    return make


@pytest.fixture
def said():
    def make(text):
        return CommandReceived(id="000001-0123456789abcdef", command=CommandKind.PAUSE, by="me", reason=text)

    return make


@pytest.fixture
def begun(tmp_path, fence, requested):
    """A run with its first record and three objects."""
    folder = run_folder(tmp_path, "r000003-candidate")
    first = requested(ObjectStore(folder.objects))
    return Journal.create(folder.journal, fence=fence, first=first, at=1.0)


@pytest.fixture
def snapshots_read():
    def make(objects):
        digest = objects.put_json({"snapshot": "s"})
        return SnapshotsRead(
            snapshots={"candidate": digest},
            snapshot_digests={"candidate": "x"},
            pod_uids={"candidate": []},
            problems={},
        )

    return make


@pytest.fixture
def small_disk(tmp_path) -> Iterator:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("a small disk cannot be mounted here: there is no mount or umount")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run([umount, str(folder)], check=True)


@pytest.fixture
def put():
    """Replace a file's content in place: a file system may flush on every truncation to nothing."""

    def replace(path, data):
        with path.open("r+b") as file:
            file.write(data)
            file.truncate(len(data))

    return replace


@pytest.fixture
def fill():
    def until_full(folder):
        with (folder / "filler").open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(os.urandom(size))
                except OSError:
                    continue

    return until_full
