"""What an admission exercises: the reference server's engine, or the ONNX model of somebody else's server."""

import io
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollout.errors import ConfigError, PlatformError, UnavailableError
from rollout.model.admission import AdmissionPolicy, Provider
from rollout.model.snapshot import failed, ok
from rollout.serving.collectors.interface import Fields
from rollout.serving.engines.interface import Engine
from rollout.serving.failures import AdmissionError, NonFiniteError
from rollout.serving.pipeline import PictureRequest, draw
from rollout.serving.plans.faults import PlanError
from rollout.serving.plans.onnx_file import digest_model
from rollout.serving.stopwatch import Stopwatch

if TYPE_CHECKING:
    import onnxruntime as ort

SELF_TEST_REQUEST = PictureRequest(prompt="a lighthouse at dusk", seed=1, steps=4, width=128, height=128)
SELF_TEST_SEED = 1

# A picture of one colour has 0, a picture of this model about 60, both in steps of 255.
_CONTRAST_MIN = 4.0


class Subject(Protocol):
    """Something that can be made to do the same work again and again."""

    @property
    def device_s(self) -> float:
        """Seconds spent inside the runtime's calls so far; a caller takes differences."""

    def work(self) -> bytes:
        """Do the work once; the same bytes come out every time.

        Raises:
            PlatformError: The runtime failed.
        """

    def fault_in(self, result: bytes) -> str:
        """Say what is wrong with a result; empty where nothing is."""

    def fields(self) -> Fields:
        """Return what the runtime and the model prove; asked once, after the work was done once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSubject:
    """An engine that draws. See `Subject`."""

    engine: Engine

    @property
    def request(self) -> PictureRequest:
        """What is drawn: small, or of the one size that an engine plan is for."""
        options = self.engine.options
        if Provider.TENSORRT not in options.admission.providers:
            return SELF_TEST_REQUEST
        return replace(SELF_TEST_REQUEST, width=options.side_max, height=options.side_max)

    @property
    def device_s(self) -> float:
        """See `Engine.device_s`."""
        return self.engine.device_s

    def work(self) -> bytes:
        """See `Subject.work`."""
        (picture,) = draw(self.engine, self.request, cancelled=threading.Event()).pictures
        return picture

    def fault_in(self, result: bytes) -> str:
        """See `Subject.fault_in`."""
        contrast = float(np.asarray(Image.open(io.BytesIO(result))).std())
        if contrast < _CONTRAST_MIN:
            return f"drew a flat picture: contrast {contrast:.2f}, minimum {_CONTRAST_MIN}"
        return ""

    def fields(self) -> Fields:
        """See `Subject.fields`."""
        return self.engine.fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSubject:
    """An inference session that is fed with seeded noise. See `Subject`."""

    session: "ort.InferenceSession"
    feeds: Mapping[str, NDArray[Any]]
    requested: Sequence[str] | None
    """The providers that were asked for; None where a foreign program made the session."""
    model_digest: str
    """Empty where nobody knows."""
    profiles: "TemporaryDirectory[str] | None" = None
    """Where the session writes its profile, to be removed; None where it writes none, or its owner keeps it."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch, repr=False, compare=False)

    @property
    def device_s(self) -> float:
        """See `Subject.device_s`: `InferenceSession.run`."""
        return self.stopwatch.seconds

    def work(self) -> bytes:
        """See `Subject.work`."""
        from rollout.serving.strict_session import ORT_ERRORS  # noqa: PLC0415 - only where ONNX Runtime is used

        try:
            with self.stopwatch:
                outputs = [np.asarray(one) for one in self.session.run(None, dict(self.feeds))]
        except ORT_ERRORS as error:
            raise PlatformError(f"ONNX Runtime failed: {' '.join(str(error).split())}") from error
        if not all(np.isfinite(one).all() for one in outputs if one.dtype.kind == "f"):
            raise NonFiniteError("the model gave NaN or infinity")
        return b"".join(one.tobytes() for one in outputs)

    def fault_in(self, result: bytes) -> str:
        """See `Subject.fault_in`."""
        return "" if result else "gave no output"

    def fields(self) -> Fields:
        """See `Subject.fields`."""
        from rollout.serving.engines.ort_fields import placement_fields, runtime_fields  # noqa: PLC0415 - see above

        source = "sha256 of the model file"
        digest = ok(self.model_digest, source) if self.model_digest else failed(source, "the program did not say")
        with self.profiles or nullcontext():
            placement = placement_fields({"model": self.session}, _ended_profile(self.session))
        return {
            **runtime_fields(self.session, requested=self.requested),
            **placement,
            "runtime.engine": ok("ort", "an inference session is there"),
            "model.weights.digest": digest,
        }


def load_model(policy: AdmissionPolicy, *, path: Path) -> ModelSubject:
    """Open the policy's own model in a strict session.

    Args:
        policy: Names the providers and the model's free dimensions.
        path: The model.

    Raises:
        ConfigError: The model cannot be read, or its inputs cannot be made.
        AdmissionError: The session is refused, or the runtime is not installed.
    """
    try:
        import onnxruntime as ort  # noqa: PLC0415 - see above

        from rollout.serving.strict_session import open_strict_session  # noqa: PLC0415 - see above
    except ImportError as error:
        raise AdmissionError(f"ONNX Runtime does not load: {error}", code="runtime_missing") from error
    try:
        digest = digest_model(path)
    except PlanError as error:
        raise AdmissionError(str(error), code="session_refused") from error
    except UnavailableError as error:
        raise ConfigError(f"{path}: the model cannot be read: {error}") from error
    profiles = TemporaryDirectory()
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(profiles.name, "warm-up"))
    session = open_strict_session(path, providers=policy.providers, options=options)
    feeds = seeded_feeds(session, dimensions=policy.model.dimensions if policy.model else {})
    return ModelSubject(
        session=session, feeds=feeds, requested=policy.providers, model_digest=digest, profiles=profiles
    )


def seeded_feeds(session: "ort.InferenceSession", *, dimensions: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Make inputs for a session: noise for floats, zeros for whole numbers and truth values.

    Raises:
        ConfigError: A free dimension has no size, or an input is of a type that cannot be made.
    """
    random = np.random.Generator(np.random.Philox(SELF_TEST_SEED))
    feeds = {}
    for one in session.get_inputs():
        shape = [_size(one.name, dimension, dimensions) for dimension in one.shape]
        dtype = _DTYPES.get(one.type)
        if dtype is None:
            raise ConfigError(f"the model's input {one.name} has type {one.type}, which the self-test cannot make")
        noise = random.standard_normal(shape, np.float32)
        feeds[one.name] = noise.astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return feeds


_DTYPES = {
    f"tensor({name})": np.dtype(dtype)
    for name, dtype in (
        ("float", np.float32),
        ("float16", np.float16),
        ("double", np.float64),
        ("int64", np.int64),
        ("int32", np.int32),
        ("uint8", np.uint8),
        ("bool", np.bool_),
    )
}


def _size(name: str, dimension: int | str | None, dimensions: Mapping[str, int]) -> int:
    if isinstance(dimension, int):
        return dimension
    if dimension is None or dimension not in dimensions:
        text = f"the model's input {name} has the free dimension {dimension!r}: give its size"
        raise ConfigError(f"{text} under model.dimensions")
    return dimensions[dimension]


def _ended_profile(session: "ort.InferenceSession") -> dict[str, Path]:
    """End the profiling of a session and return its file; none where it was not profiled."""
    profiled = Path(session.end_profiling() or "")
    return {"model": profiled} if profiled.is_file() else {}
