"""Which engine a release asks for."""

from typing import assert_never

from rollout.serving.engines.interface import Engine
from rollout.serving.options import EngineKind, ServeOptions


def load_engine(options: ServeOptions) -> Engine:
    """Load the engine of a release; only its own libraries are imported.

    Raises:
        ConfigError: Its libraries or model files cannot be used, or it does not know an option.
        AdmissionError: It does not run as asked for.
    """
    match options.engine:
        case EngineKind.ORT:
            from rollout.serving.engines.ort import load_ort  # noqa: PLC0415 - see above

            return load_ort(options)
        case EngineKind.DIFFUSERS:
            from rollout.serving.engines.diffusers import load_diffusers  # noqa: PLC0415 - see above

            return load_diffusers(options)
        case _ as unknown:
            assert_never(unknown)
