"""Environment variables that change what the runtimes do."""

import os
import re
from collections.abc import Mapping

from rollout.model.snapshot import ok
from rollout.serving.collectors.interface import Collector, Fields

SOURCE = "os.environ"

_TOLD = re.compile(
    r"(CUDA|CUDNN|CUBLAS|NCCL|NVIDIA|ORT|TENSORRT|TRT|TORCH|PYTORCH|TRITON|XFORMERS|OMP|KMP|MKL|OPENBLAS|MALLOC)_.*"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|GLIBC_TUNABLES"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASS|CRED|AUTH|KEY|API|PAT(?!H)", re.IGNORECASE)
"""Nobody should name a secret like a runtime's option; what somebody did is left out."""

_USER_IN_URL = re.compile(r"://[^/\s]*@")

_PER_INSTANCE = re.compile(r".*_VISIBLE_DEVICES")
"""Names a device, which differs between instances of one release."""


def read_environment(environment: Mapping[str, str]) -> Fields:
    """Return the variables that matter, as `NAME=value`, sorted."""
    told = sorted(name for name, value in environment.items() if _is_told(name, value))
    return {
        "environment.variables": ok(
            [f"{name}={environment[name]}" for name in told if not _PER_INSTANCE.fullmatch(name)], SOURCE
        ),
        "environment.devices": ok(
            [f"{name}={environment[name]}" for name in told if _PER_INSTANCE.fullmatch(name)], SOURCE
        ),
    }


def _is_told(name: str, value: str) -> bool:
    return bool(_TOLD.fullmatch(name)) and not _SECRET.search(name) and not _USER_IN_URL.search(value)


ENVIRONMENT = Collector(
    name="environment",
    fields=frozenset({"environment.variables"}),
    measurements=frozenset({"environment.devices"}),
    read=lambda: read_environment(os.environ),
)
