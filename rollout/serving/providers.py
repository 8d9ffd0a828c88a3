"""Which execution providers count as those that were asked for; needs no runtime."""

from collections.abc import Sequence

from rollout.model.admission import Provider


def dropped(actual: Sequence[str], *, requested: Sequence[str]) -> bool:
    """Tell whether the providers differ from the requested; the CPU that ONNX Runtime adds may stand last."""
    return list(actual) not in ([*requested], [*requested, Provider.CPU.value])
