"""What admission adds to a server's start: the wrapper in front of it, and the collectors beside its loading.

    python benchmarks/admission.py

Fails where the wrapper takes longer than `LIMIT_S` beyond the loading and the self-test that it does.
"""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from rollout.serving.collectors.running import RunningCollectors
from rollout.serving.collectors.table import COLLECTORS

LIMIT_S = 1.5
TIMES = 7
ROLLOUT = [sys.executable, "-m", "rollout"]


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch, "cache")
        wrapped_s([*ROLLOUT, "admit"], cache)  # Makes the model files.
        ready_s = [server_ready_s(cache) for _ in range(TIMES)]
        admitted = [wrapped_s([*ROLLOUT, "admit"], cache) for _ in range(TIMES)]
    beyond_s = statistics.median(total_s - work_s for total_s, work_s in admitted)
    total_s = statistics.median(total_s for total_s, _ in admitted)
    serial_s = sum(collector_s([one]) for one in COLLECTORS)
    print(f"server alone, start to ready, collectors inside   {statistics.median(ready_s):.2f} s")
    print(f"rollout admit -- true                             {total_s:.2f} s")
    print(f"  of it beyond loading and self-test              {beyond_s:.2f} s (limit {LIMIT_S})")
    print(f"collectors one after the other                    {serial_s:.2f} s")
    print(f"collectors side by side                           {collector_s(COLLECTORS):.2f} s")
    if beyond_s > LIMIT_S:
        sys.exit(f"admission takes {beyond_s:.2f} s beyond the self-test, the limit is {LIMIT_S} s")


def wrapped_s(command: list[str], cache: Path) -> tuple[float, float]:
    """Return the wrapper's whole time, and the part that loading and the self-test took."""
    report = cache.with_name("report.json")
    words = ["--policy", "development-cpu", "--cache", str(cache), "--report", str(report), "--", "true"]
    started = time.perf_counter()
    subprocess.run([*command, *words], check=True, capture_output=True)
    total_s = time.perf_counter() - started
    shown = json.loads(report.read_text())["snapshot"]["measurements"]
    # The self-test draws the picture twice; the first is at least as slow as the second.
    return total_s, shown["load.duration_s"]["value"] + 2 * shown["self_test.latency_s"]["value"]


def server_ready_s(cache: Path) -> float:
    """Return the seconds from a server's start until it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["serve", "--admission", "development-cpu", "--cache", str(cache), "--port", str(port)]
    started = time.perf_counter()
    server = subprocess.Popen([*ROLLOUT, *words], stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz"):
                    return time.perf_counter() - started
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.005)
    finally:
        server.terminate()
        server.wait()


def collector_s(collectors: object) -> float:
    """Return the seconds that collectors take side by side."""
    started = time.perf_counter()
    RunningCollectors(collectors, limit_s=30.0).results()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
