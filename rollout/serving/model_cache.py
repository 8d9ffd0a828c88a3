"""The cache folder: model files made on first use, verified on every use.

Layout: `<cache>/models/<name>` with one lock file. Whoever holds the lock makes a missing or damaged file, writes it
beside its place and renames it, so that a reader sees a whole file or none and two servers starting at once make it
once. Content is trusted by digest only.
"""

import fcntl
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

from rollout.errors import ConfigError, InvariantError
from rollout.model.canonical import digest_bytes, digest_json
from rollout.serving.options import Precision
from rollout.serving.template import WEIGHTS_LOCATION, ModelTemplate
from rollout.serving.weights import generate_weights

logger = logging.getLogger(__name__)

# Making every file takes two seconds; a holder that takes a minute is stuck.
_LOCK_WAIT_S = 60.0
_LOCK_POLL_S = 0.02


def load_weights(template: ModelTemplate, *, cache: Path) -> bytes:
    """Return the weights file's content, from the cache or made anew.

    Raises:
        ConfigError: The cache folder cannot be used, or this machine generates other weights than the manifest pins.
    """
    name = f"weights-{_short(template.weights_digest)}.bin"
    with _locked(cache) as folder:
        content = _read_verified(folder / name, expected=template.weights_digest)
        if content is None:
            content = generate_weights(template.tensors, seed=template.seed)
            if digest_bytes(content) != template.weights_digest:
                raise ConfigError(
                    f"the generated weights have digest {digest_bytes(content)}, the manifest pins"
                    f" {template.weights_digest}: run tools/make_templates.py anew",
                )
            _replace(folder / name, content)
    return content


def load_converted_unet(graph: bytes, weights: bytes, *, precision: Precision, cache: Path) -> bytes:
    """Return a UNet in another precision with its weights inside, from the cache or converted anew (about a second).

    Args:
        graph: The UNet in 32 bits, its weights outside.
        weights: The content of the weights file.
        precision: Another than 32 bits.
        cache: The cache folder.

    Raises:
        ConfigError: The cache folder cannot be used, or the `onnx` package that the conversion needs is missing.
    """
    import onnxruntime  # noqa: PLC0415 - a heavy import that only converted graphs need here

    source = {
        "graph": digest_bytes(graph),
        "weights": digest_bytes(weights),
        "onnxruntime": onnxruntime.__version__,
    }
    path_name = f"unet-{precision}-{_short(digest_json(source))}.onnx"
    with _locked(cache) as folder:
        path = folder / path_name
        digest_path = folder / f"{path_name}.sha256"
        expected = digest_path.read_text().strip() if digest_path.exists() else ""
        content = _read_verified(path, expected=expected)
        if content is None:
            content = _converted(graph, weights, precision)
            _replace(path, content)
            _replace(digest_path, digest_bytes(content).encode())
    return content


@contextmanager
def _locked(cache: Path) -> Iterator[Path]:
    """Hold the cache folder's lock; it ends with the process, so a killed server leaves no stale lock."""
    folder = cache / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as lock:
            _acquire(lock.fileno())
            yield folder
    except OSError as error:
        raise ConfigError(f"the model cache {folder} cannot be used ({error}): choose another with --cache") from error


def _acquire(lock: int) -> None:
    """Take the lock.

    Raises:
        TimeoutError: Somebody else held it for `_LOCK_WAIT_S`.
    """
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"another process held its lock for {_LOCK_WAIT_S:.0f} s") from error
            time.sleep(_LOCK_POLL_S)
        else:
            return


def _read_verified(path: Path, *, expected: str) -> bytes | None:
    """Return the file's content if it is there and has the expected digest."""
    if not path.exists():
        return None
    content = path.read_bytes()
    found = digest_bytes(content)
    if found != expected:
        logger.warning("%s has digest %s instead of %r: making it anew", path, found, expected)
        return None
    return content


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")  # One name is enough under the lock; a leftover is overwritten.
    partial.write_bytes(content)
    partial.replace(path)


def _converted(graph: bytes, weights: bytes, precision: Precision) -> bytes:
    """Return the graph in another precision, weights inside."""
    with tempfile.TemporaryDirectory() as scratch, _quiet_root_logger():
        Path(scratch, WEIGHTS_LOCATION).write_bytes(weights)
        source, target = Path(scratch, "unet.onnx"), Path(scratch, "converted.onnx")
        source.write_bytes(graph)
        try:
            match precision:
                case Precision.INT8:
                    _quantize(source, target)
                case Precision.FP16:
                    _halve(source, target)
                case Precision.FP32:
                    raise InvariantError("the template is in 32 bits")
                case _ as unknown:
                    assert_never(unknown)
        except ImportError as error:
            raise ConfigError(f"--precision {precision} needs the onnx package ({error}): install it") from error
        return target.read_bytes()


def _quantize(source: Path, target: Path) -> None:
    """Make MatMul and Conv compute in 8 bits, with scales found anew for each input."""
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415 - heavy, and needs the onnx package

    quantize: Callable[..., None] = quantize_dynamic
    quantize(source, target, op_types_to_quantize=["MatMul", "Conv"])


def _halve(source: Path, target: Path) -> None:
    """Make everything between the inputs and the outputs compute in 16 bits."""
    import onnx  # noqa: PLC0415 - see above
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - see above

    target.write_bytes(convert_float_to_float16(onnx.load(source), keep_io_types=True).SerializeToString())


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Silence the converters: they advise on the root logger, and their advice does not apply to a server."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:16]
