"""How long the program takes to start, and how much its base install weighs.

    python benchmarks/start_up.py

Each time is the median of several starts, beside a bare `python -c pass` in the same run.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 9
LIMITS_S = {"--help": 0.2, "status": 0.5}
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "local" / "stack.yaml"
BASE_LIMIT_MB = 150.0


def median_s(*argv: str) -> float:
    """Return the median wall time of a command over REPEATS runs, after one that warms the disk cache."""
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        subprocess.run(argv, check=False, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def base_install_mb() -> float:
    """Install the base package into an empty environment; return its megabytes beside numpy and scipy."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "site"
        root = str(Path(__file__).resolve().parent.parent)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                str(target),
                root,
            ],
            check=True,
            capture_output=True,
        )
        heavy = ("numpy", "scipy")
        files = [
            one for one in target.rglob("*") if one.is_file() and not one.relative_to(target).parts[0].startswith(heavy)
        ]
        return sum(one.stat().st_size for one in files) / 1e6


def main() -> int:
    """Print the table; return 1 when a limit is missed."""
    bare = median_s(sys.executable, "-c", "pass")
    rows = [("python -c pass", bare, None)]
    rollout = (sys.executable, "-m", "rollout")
    rows.append(("rollout --help", median_s(*rollout, "--help"), LIMITS_S["--help"]))
    rows.append(("rollout status", median_s(*rollout, "status", "--stack", str(EXAMPLE)), LIMITS_S["status"]))
    print(f"{'command':18} {'median s':>9} {'x bare':>7} {'limit s':>8}  met")
    missed = False
    for name, seconds, limit in rows:
        met = "" if limit is None else ("yes" if seconds <= limit else "NO")
        missed |= met == "NO"
        print(f"{name:18} {seconds:9.3f} {seconds / bare:7.1f} {limit or '':>8}  {met}")
    weight = base_install_mb()
    missed |= weight > BASE_LIMIT_MB
    print(f"base install beside numpy and scipy: {weight:.0f} MB (limit {BASE_LIMIT_MB:.0f})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
