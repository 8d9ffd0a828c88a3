"""The demo: promote a good release, then watch a slow one roll itself back, under live traffic all the time."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx

HERE = Path(__file__).resolve().parent
ROLLOUT = [sys.executable, "-m", "rollout"]
STATE = HERE.parent.parent / ".rollout" / "local-demo"
ROUTER = "http://127.0.0.1:10080"

LIGHT_PER_S = 20


class LiveTraffic:
    """Users: 20 light requests a second, and one picture at a time, all through the router."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._light), threading.Thread(target=self._pictures)]
        self.sent = 0
        self.pictures = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def _light(self) -> None:
        with httpx.Client(base_url=ROUTER, trust_env=False, timeout=30.0) as client:
            due = time.monotonic()
            while not self._stop.wait(max(due - time.monotonic(), 0.0)):
                due += 1.0 / LIGHT_PER_S
                self._send(lambda: client.get("/healthz"))

    def _pictures(self) -> None:
        body = {"prompt": "a user's own picture", "size": "64x64", "num_inference_steps": 4, "n": 1}
        with httpx.Client(base_url=ROUTER, trust_env=False, timeout=60.0) as client:
            while not self._stop.wait(0.2):
                self._send(lambda: client.post("/v1/images/generations", json=body))
                self.pictures += 1

    def _send(self, request: Callable[[], httpx.Response]) -> None:
        self.sent += 1
        try:
            answer = request()
        except httpx.HTTPError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        if answer.status_code != 200:  # noqa: PLR2004 - HTTP OK
            self.failures.append(f"{answer.status_code} from {answer.headers.get('x-rollout-color', 'nobody')}")


def rollout(*words: str, expect: int) -> None:
    """Run one rollout command where people can read along, and insist on its exit code."""
    print(f"\n$ rollout {' '.join(words)}", flush=True)
    code = subprocess.run([*ROLLOUT, *words], cwd=HERE, check=False).returncode
    if code != expect:
        sys.exit(f"demo: rollout {words[0]} exited {code}, {expect} was expected")


def forget_earlier_demo() -> None:
    """End what an earlier demo left running, and start from nothing."""
    if STATE.exists():
        subprocess.run([*ROLLOUT, "teardown", "--yes"], cwd=HERE, check=True)
        shutil.rmtree(STATE)


def main() -> None:
    """Run the demo."""
    forget_earlier_demo()
    began = time.monotonic()
    try:
        rollout("promote", "releases/blue.yaml", "--bootstrap", expect=0)
        with LiveTraffic() as users:
            rollout("promote", "releases/good.yaml", expect=0)
            rollout("promote", "releases/unoptimised.yaml", expect=3)
        rollout("explain", "last", expect=0)
        rollout("history", expect=0)
    finally:
        subprocess.run([*ROLLOUT, "teardown", "--yes"], cwd=HERE, check=False)
    print(
        f"\ndemo: good was promoted, unoptimised rolled itself back; users sent {users.sent} requests "
        f"({users.pictures} pictures), {len(users.failures)} failed; {time.monotonic() - began:.0f} s"
    )
    if users.failures:
        sys.exit(f"demo: {users.failures[:5]}")


if __name__ == "__main__":
    main()
