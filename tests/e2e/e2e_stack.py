"""A whole stack for a test: real servers, real Envoy, the real command line, in a folder of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest
import yaml

CRASHING = Path(__file__).with_name("crashing.py")

QUICK_POLICY = {
    "schema": "rollout.policy/v1",
    "name": "quick",
    # Wide margins and small pictures: these tests are about the loop, not about small differences.
    "latency": {
        "measure": "service",
        "p50_ratio_max": 1.6,
        "tail_quantile": 0.5,
        "tail_ratio_max": 2.0,
        "slow_factor": 4.0,
        "slow_rate_rollback": 0.2,
        "slow_rate_promote": 0.3,
        "false_rollback_rate": 0.01,
        "false_promote_rate": 0.05,
        "pairs_max": 60,
    },
    "history": {"pairs": 100, "blocks": 2, "age_s_max": 86400.0},
    "warmup_requests": 1,
    "errors": {"rate_max": 0.05},
    "live": {"error_rate_max": 0.05, "requests_min": 0},
    "pictures": {"psnr_db_min": 45.0},
    "capabilities": {
        "required": ["runtime.ort.providers.actual", "model.weights.digest"],
        "allowed_differences": [],
        "waivers": [],
    },
    "shift": {"weights": [50, 100], "pairs_per_step": 1, "dwell_s": 0.1},
    "soak": {"pairs": 1, "seconds": 0.1},
    "load": None,
    "instances": {
        "cold_start_s_max": 30.0,
        "cold_start_ratio_max": 30.0,
        "restarts_max": 0,
        "memory_growth_ratio_max": 3.0,
    },
    "accuracy": None,
    "cost": None,
    "drift": {"requests": 30, "recheck_pairs_max": 60, "false_alarm_requests": 10000.0},
    "standby_s": 0.0,
    "on_inconclusive": "rollback",
    "approval": "none",
    "deadlines": {"request_s": 10.0, "ready_s": 30.0, "hold_s": 30.0, "rollback_s": 30.0, "run_s": 300.0},
}

PROMPTS = {
    "schema": "rollout.prompts/v1",
    "prompts": [
        {"id": "cat", "text": "a cat on a red chair", "seed": 1, "steps": 2, "size": "64x64"},
        {"id": "sea", "text": "the sea at night", "seed": 2, "steps": 2, "size": "64x64"},
    ],
}


PERIOD_S = 0.02
RUNS_S = 0.005
"""Of each period, as a CPU quota of a quarter of a core lets a container run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One finished command."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> dict:
        return json.loads(self.out)


@dataclass(slots=True, kw_only=True)
class Stack:
    """A stack in a folder, and what a person would do with it."""

    root: Path
    port: int
    policy: dict = field(default_factory=lambda: json.loads(json.dumps(QUICK_POLICY)))
    prompts: dict = field(default_factory=lambda: PROMPTS)

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def router(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self) -> None:
        stack = {
            "schema": "rollout.stack/v1",
            "name": "test",
            "platform": {"kind": "local", "grace_s": 5.0},
            "router": {
                "kind": "envoy",
                "listen_host": "127.0.0.1",
                "listen_port": self.port,
                "request_timeout_s": 10.0,
            },
            "protocol": "openai-images",
            "policy": "policy.yaml",
            "prompts": "prompts.yaml",
            "state": "state",
        }
        for name, content in (("stack", stack), ("policy", self.policy), ("prompts", self.prompts)):
            (self.root / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def release(self, name: str, *flags: str, command: list[str] | None = None, **env: str) -> Path:
        content = {
            "schema": "rollout.release/v1",
            "name": name,
            "command": command or ["rollout", "serve", "--admission", "development-cpu", *flags],
            "env": {"RELEASE": name, **env},
        }
        path = self.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    @property
    def struck(self) -> Path:
        """Made by crashing.py when its moment came."""
        return self.root / "struck"

    def start(
        self, *words: object, crash_after: int | None = None, victim: str = "controller"
    ) -> subprocess.Popen[str]:
        self.write()
        program = [sys.executable, "-m", "rollout"] if crash_after is None else [sys.executable, str(CRASHING)]
        environment = dict(os.environ) | {
            "ROLLOUT_CRASH_AFTER": str(crash_after),
            "ROLLOUT_CRASH_VICTIM": victim,
            "ROLLOUT_CRASH_MARK": str(self.struck),
        }
        return subprocess.Popen(
            [*program, *map(str, words)],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: object, crash_after: int | None = None, victim: str = "controller", timeout: float = 240.0
    ) -> Ran:
        process = self.start(*words, crash_after=crash_after, victim=victim)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"rollout {words[0]} took over {timeout} s\n{out}\n{err}")
        return Ran(code=process.returncode, out=out, err=err)

    def bootstrap(self, name: str = "blue") -> None:
        ran = self.run("promote", "--bootstrap", self.release(name), "--output", "json")
        assert ran.code == 0, ran.err

    def status(self) -> dict:
        ran = self.run("status", "--output", "json")
        assert ran.code == 0, ran.err
        return ran.data

    def instances(self, slot: str) -> list[dict]:
        """What stands in a slot, less its memory, which a server that nobody touches changes by itself."""
        found = self.status()["slots"][slot]["instances"]
        return [{key: value for key, value in one.items() if key != "memory_bytes"} for one in found]

    def weights(self) -> dict[str, int]:
        return self.status()["router"]["weights"]

    def processes(self) -> list[psutil.Process]:
        found = []
        for one in psutil.process_iter():
            try:
                if str(self.state) in one.environ().get("ROLLOUT_SLOT_DIR", ""):
                    found.append(one)
            except psutil.Error:
                continue
        return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def end(stack: Stack) -> None:
    ran = stack.run("teardown", "--yes")
    if ran.code != 0:
        for one in stack.processes():
            one.kill()
        pytest.fail(f"teardown: {ran.err}")


def envoys(stack):
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = " ".join(one.info["cmdline"] or [])
        if "envoy" in line and str(stack.state) in line:
            found.append(one)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Users:
    """Live traffic through the router: light requests at a fixed rate, and one picture at a time."""

    def __init__(self, router: str, *, light_per_s: float = 20.0, pictures: bool = True) -> None:
        self._router = router
        self._period = 1.0 / light_per_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._light)]
        if pictures:
            self._threads.append(threading.Thread(target=self._pictures))
        self.answers: list[tuple[float, str, int | str]] = []

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    @property
    def failures(self) -> list[tuple[float, str, int | str]]:
        return [one for one in self.answers if one[2] != 200]

    def _light(self) -> None:
        with httpx.Client(base_url=self._router, trust_env=False, timeout=30.0) as client:
            due = time.monotonic()
            while not self._stop.wait(max(due - time.monotonic(), 0.0)):
                due += self._period
                self._note(lambda: client.get("/healthz"))

    def _pictures(self) -> None:
        body = {"prompt": "a user's picture", "size": "64x64", "num_inference_steps": 2}
        with httpx.Client(base_url=self._router, trust_env=False, timeout=30.0) as client:
            while not self._stop.wait(0.1):
                self._note(lambda: client.post("/v1/images/generations", json=body))

    def _note(self, request) -> None:
        try:
            answer = request()
        except httpx.HTTPError as error:
            self.answers.append((time.time(), "", repr(error)))
        else:
            self.answers.append((time.time(), answer.headers.get("x-rollout-color", ""), answer.status_code))


@contextmanager
def throttled(stack: Stack, *slots: str):
    """Let the servers of these slots run for a quarter of the time, as a quota or a busy host does."""
    servers = [one for one in stack.processes() if one.environ()["ROLLOUT_SLOT_DIR"].endswith(slots)]
    assert servers
    ended = threading.Event()

    def turn():
        while not ended.wait(RUNS_S):
            for one in servers:
                one.suspend()
            ended.wait(PERIOD_S - RUNS_S)
            for one in servers:
                one.resume()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for one in servers:
            with suppress(psutil.NoSuchProcess):
                one.resume()


def wait_until(what, *, timeout: float = 60.0, every: float = 0.05):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(every)
    pytest.fail(f"nothing came of {what} in {timeout} s")


def kill(process: psutil.Process | subprocess.Popen) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
