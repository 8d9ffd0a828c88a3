"""What latency alone says about engines on this machine's GPU: pairs in one process, judged like a canary's.

    python benchmarks/gpu_pairs.py [--admission gpu] [--pairs 150] [--seconds 25] [--write pairs.json]

Two engines draw in turns, who is first drawn anew for each pair. The first pairs are an engine against its like: the
A/A history that the others are judged by. Needs torch and diffusers.
"""

import argparse
import dataclasses
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from rollout.errors import EvidenceError
from rollout.files.load import load_admission
from rollout.serving.engines.interface import Engine
from rollout.serving.engines.table import load_engine
from rollout.serving.options import Attention, EngineKind, GuidanceMode, Precision, ServeOptions
from rollout.serving.pipeline import PictureRequest, draw
from rollout.stats.forecast import Question, calibration_of
from rollout.stats.margins import STANDARD
from rollout.stats.paired import judge_pairs

GREENS = {
    "the same": {},
    "attention in steps": {"attention": Attention.EAGER},
    "attention one head at a time": {"attention": Attention.SLICED},
    "guidance as two calls": {"guidance": GuidanceMode.TWO_CALLS},
    "half precision": {"precision": Precision.FP16},
}
PROMPTS = 6
WARMUP = 5
SEED = 5


def main() -> None:
    """Measure, judge and print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--admission", default="gpu")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=25.0, help="for each green at most; the history takes thrice")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    request = PictureRequest(
        prompt="a fox in the snow", seed=3, steps=arguments.steps, width=arguments.side, height=arguments.side
    )
    with tempfile.TemporaryDirectory() as cache:
        options = ServeOptions(
            port=1,
            pod_uid="benchmark",
            cache=Path(cache),
            engine=EngineKind.DIFFUSERS,
            admission=load_admission(arguments.admission).policy,
            threads=8,
            side_max=arguments.side,
        )
        blue = load_engine(options)
        history = measured(blue, load_engine(options), request, pairs=arguments.pairs, seconds=3 * arguments.seconds)
        aa_ratio = history[:, 1] / history[:, 0]
        print(f"A/A: {len(history)} pairs, median {1000 * np.median(history[:, 0]):.0f} ms")
        print(foretold(aa_ratio))
        stored = {"A/A": history.tolist()}
        for name, change in GREENS.items():
            green = load_engine(dataclasses.replace(options, **change))
            pairs = measured(blue, green, request, pairs=400, seconds=arguments.seconds)
            stored[name] = pairs.tolist()
            print(
                f"{name}: {len(pairs)} pairs, median {1000 * np.median(pairs[:, 1]):.0f} ms; {judged(pairs, aa_ratio)}"
            )
    if arguments.write:
        arguments.write.write_text(json.dumps(stored))


def measured(blue: Engine, green: Engine, request: PictureRequest, *, pairs: int, seconds: float) -> np.ndarray:
    """Return the seconds of both, shape (n, 2), after the warm-up; n is `pairs` unless time runs out before."""
    rng = np.random.default_rng(SEED)
    for engine in (blue, green):
        for _ in range(WARMUP):
            timed(engine, request, number=0)
    found = []
    began = time.perf_counter()
    while len(found) < pairs and time.perf_counter() - began < seconds:
        number = len(found)
        if rng.random() < 0.5:
            first = timed(blue, request, number=number)
            found.append((first, timed(green, request, number=number)))
        else:
            first = timed(green, request, number=number)
            found.append((timed(blue, request, number=number), first))
    return np.array(found)


def timed(engine: Engine, request: PictureRequest, *, number: int) -> float:
    """Draw one picture of the set and return its seconds."""
    began = time.perf_counter()
    draw(engine, dataclasses.replace(request, seed=number % PROMPTS), cancelled=threading.Event())
    return time.perf_counter() - began


def judged(pairs: np.ndarray, aa_ratio: np.ndarray) -> str:
    """Say what the canary's statistics make of the pairs."""
    try:
        told = judge_pairs(pairs[:, 0], pairs[:, 1], aa_ratio=aa_ratio, profile="standard")
    except EvidenceError as error:
        return str(error)
    ratio, bounds = told.p50_ratio.value, told.p50_ratio.bounds
    return f"x{ratio:.3f} [{bounds.lower:.3f}, {bounds.upper:.3f}], {told.outcome} at pair {told.pairs_used}"


def foretold(aa_ratio: np.ndarray) -> str:
    """Say what the history foretells."""
    try:
        told = calibration_of(
            aa_ratio,
            starts=1,
            question=Question(margins=STANDARD, alpha=0.01, beta=0.01, budget=400),
            effects=(1.0, 1.09, 1.6),
        )
    except EvidenceError as error:
        return str(error)
    counts = ", ".join(f"{one.pairs_median:.0f} at x{one.effect:g}" for one in told.own.effects)
    noise = told.noise
    return (
        f"noise {100 * noise.sigma_log:.1f}% from pair to pair, P90 x{noise.ratio_p90:.3g}, "
        f"P99 x{noise.ratio_p99:.3g}, autocorrelation {noise.autocorrelation_lag1:.2f}; pairs foretold: {counts}"
    )


if __name__ == "__main__":
    main()
