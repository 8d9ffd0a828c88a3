"""The checks that only a GPU can make, in one table: `tests/gpu/run`.

NVML and libcuda through the product's own collectors; fused attention against math kernels and attention in steps,
through the diffusers engine at Stable Diffusion 1.5's widths; how busy the GPU was; the latency window.
Elsewhere it says what is missing and ends with 0. `--rehearse` runs the same code on a CPU and judges nothing.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from rollout.files.load import load_admission
from rollout.serving.collectors.running import RunningCollectors
from rollout.serving.collectors.table import DEVICE_COLLECTORS
from rollout.serving.device_watch import DeviceWatch
from rollout.serving.options import Attention, EngineKind, Precision, ServeOptions
from rollout.serving.pipeline import PictureRequest, draw

if TYPE_CHECKING:
    from rollout.model.snapshot import Capability

FUSED_SPEEDUP_MIN = 1.1
"""Attention in steps must cost at least this much more, or the fused kernels are not what computes."""

STEPS = 20
REPEATS = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table."""

    name: str
    found: str
    wanted: str
    passed: bool


def main() -> int:
    """Make the checks and print them; 0 where all pass or the machine has no GPU, 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="a few steps on the CPU; nothing is judged")
    rehearse = parser.parse_args().rehearse
    if (reason := missing()) and not rehearse:
        print(f"SKIPPED: {reason}")
        return 0
    checks = [*(() if rehearse else device_checks()), *engine_checks(rehearse=rehearse)]
    width = max(len(one.name) for one in checks)
    for one in checks:
        verdict = "rehearsed" if rehearse else "pass" if one.passed else "FAIL"
        print(f"{one.name:{width}}  {one.found:<44}  {one.wanted:<28}  {verdict}")
    return 0 if rehearse or all(one.passed for one in checks) else 1


def missing() -> str:
    """Say what this machine lacks; empty where it has a GPU, torch and NVML."""
    try:
        import diffusers  # noqa: F401, PLC0415 - asked for, not used
        import pynvml  # noqa: F401, PLC0415 - as above
        import torch  # noqa: PLC0415 - it may not be there
    except ImportError as error:
        return f"{error.name} is not installed: pip install 'rollout[serve,diffusers]'"
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def device_checks() -> list[Check]:
    """Read the devices as an admission does."""
    read: dict[str, Capability] = {}
    for _, found in RunningCollectors(DEVICE_COLLECTORS, limit_s=15.0).results():
        read |= found
    started = {"gpu.nvml.init": 0, "gpu.libcuda.init": 0}
    told = ("gpu.product", "gpu.driver.version", "gpu.driver.cuda_version", "gpu.compute_capability", "gpu.mig")
    return [
        *(
            Check(name=name, found=str(read[name].value), wanted=str(wanted), passed=read[name].value == wanted)
            for name, wanted in started.items()
        ),
        *(
            Check(
                name=name,
                found=str(read[name].value if read[name].value is not None else read[name].reason),
                wanted="told",
                passed=read[name].value is not None or read[name].reason.startswith("this device does not support"),
            )
            for name in told
        ),
    ]


def engine_checks(*, rehearse: bool) -> list[Check]:
    """Draw at Stable Diffusion 1.5's widths with three ways of attention."""
    import torch  # noqa: PLC0415 - see `missing`
    from sd15 import sd15_engine  # noqa: PLC0415 - as above
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - as above

    policy = load_admission("development-cpu" if rehearse else "gpu").policy
    device = torch.device("cpu" if rehearse else "cuda")
    options = ServeOptions(
        port=1,
        pod_uid="checks",
        cache=Path(tempfile.gettempdir()),
        admission=policy,
        engine=EngineKind.DIFFUSERS,
        precision=Precision.FP32 if rehearse else Precision.FP16,
        threads=2,
        side_max=512,
    )
    side, steps = (64, 1) if rehearse else (512, STEPS)
    request = PictureRequest(prompt="a lighthouse at dusk", seed=1, steps=steps, width=side, height=side)
    engine = sd15_engine(options, device)
    watch = None if rehearse else DeviceWatch()

    def timed_s(context: Callable[[], AbstractContextManager[object]]) -> float:
        with context():
            draw(engine, request, cancelled=threading.Event())
            took = []
            for _ in range(1 if rehearse else REPEATS):
                started = time.perf_counter()
                draw(engine, request, cancelled=threading.Event())
                took.append(time.perf_counter() - started)
        return statistics.median(took)

    fields = engine.fields()
    begun = time.monotonic()
    fused_s = timed_s(nullcontext)
    busy = watch.busiest_since(begun) if watch is not None else None
    math_s = timed_s(lambda: sdpa_kernel(SDPBackend.MATH))
    engine = sd15_engine(dataclasses.replace(options, attention=Attention.EAGER), device)
    eager_fused = engine.fields()["model.unet.attention.fused"].value
    eager_s = timed_s(nullcontext)
    if watch is not None:
        watch.stop()
    window, floor = policy.self_test, policy.self_test.utilisation_min or 0.0
    return [
        Check(
            name="attention of the SDPA engine is told as fused",
            found=f"{fields['model.unet.attention.fused'].value} {fields['model.unet.attention.kernels'].value}"[:44],
            wanted="True",
            passed=fields["model.unet.attention.fused"].value is True,
        ),
        Check(
            name="attention of the eager engine is told as steps",
            found=f"{eager_fused}",
            wanted="False",
            passed=eager_fused is False,
        ),
        Check(
            name=f"one picture of {side} px, {steps} steps, fused",
            found=f"{fused_s:.3f} s",
            wanted=f"{window.latency_s_min:g} to {window.latency_s_max:g} s",
            passed=window.latency_s_min <= fused_s <= window.latency_s_max,
        ),
        Check(
            name="the same with math kernels",
            found=f"x{math_s / fused_s:.2f}",
            wanted="above x1",
            passed=math_s > fused_s,
        ),
        Check(
            name="the same with attention in steps",
            found=f"x{eager_s / fused_s:.2f}",
            wanted=f"at least x{FUSED_SPEEDUP_MIN:g}",
            passed=eager_s >= FUSED_SPEEDUP_MIN * fused_s,
        ),
        Check(
            name="busiest sample of the GPU meanwhile (NVML)",
            found="not sampled" if busy is None else f"{busy:.2f}",
            wanted=f"at least {floor:g}",
            passed=busy is not None and busy >= floor,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
