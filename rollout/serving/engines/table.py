"""Which engine a release asks for."""

from collections.abc import Callable
from typing import assert_never

from rollout.serving.engines.interface import Engine
from rollout.serving.failures import AdmissionError
from rollout.serving.options import EngineKind, ServeOptions

EXTRAS = {EngineKind.ORT: "local", EngineKind.DIFFUSERS: "local,diffusers"}
"""What installs an engine's libraries."""


def load_engine(options: ServeOptions) -> Engine:
    """Load the engine of a release; only its own libraries are imported.

    Raises:
        ConfigError: Its model files cannot be used.
        AdmissionError: Its libraries are not there, or it does not run as asked for.
    """
    try:
        load = _loader(options.engine)
    except ImportError as error:
        text = (
            f"the engine {options.engine} needs {error.name or 'a library'}, which is not installed or does not load "
            f"({error}): pip install 'rollout[{EXTRAS[options.engine]}]'"
        )
        raise AdmissionError(text, code="runtime_missing") from error
    return load(options)


def _loader(kind: EngineKind) -> Callable[[ServeOptions], Engine]:
    match kind:
        case EngineKind.ORT:
            from rollout.serving.engines.ort import load_ort  # noqa: PLC0415 - see above

            return load_ort
        case EngineKind.DIFFUSERS:
            from rollout.serving.engines.diffusers import load_diffusers  # noqa: PLC0415 - see above

            return load_diffusers
        case _ as unknown:
            assert_never(unknown)
