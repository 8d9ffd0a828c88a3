"""The version matrix: which driver, CUDA, libraries, runtimes and GPUs a stack is made for, in one place.

Whatever else names such a version (an image, a node, a list of packages, a running server) is compared with it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rollout.errors import ConfigError
from rollout.model.admission import Provider
from rollout.model.base import Strict
from rollout.model.cuda import unpacked
from rollout.model.matrix_facts import (
    ARCHITECTURES,
    DRIVER_BRANCH_MIN,
    LIBRARY_MIN,
    ORT_BUILDS,
    ORT_DISTRIBUTIONS,
    ORT_GPU,
    ORT_WITHOUT_CUDA,
    PRODUCT_CAPABILITY,
    Numbers,
)
from rollout.model.packages import parse_packages
from rollout.model.release import Name
from rollout.model.snapshot import Capability, CapabilitySnapshot, CapabilityStatus
from rollout.model.verdict import Reason

MATRIX_SCHEMA = "rollout.matrix/v1"

ORT_UNKNOWN = "matrix_ort_unknown"
"""The one question without an answer in the tables that a running server answers: whether its own parts fit."""

# NVML gives the version alone; the kernel module's own file has a line of words around it.
_DRIVER = re.compile(r"(?<![\d.])[1-9]\d{2,3}(?:\.\d{2,3}){1,2}(?![\d.])")
_LEADING_NUMBERS = re.compile(r"^\d+(?:\.\d+)*")
_RELEASE = re.compile(r"[0-9.]+")
# GPU Feature Discovery, internal/lm/resource.go: product, then -MIG-<profile>, then -SHARED. NVML names MIG alike.
_SHARE = re.compile(r"(?:-MIG-[0-9][0-9a-z.+]*)?(?:-SHARED)?$")
_CUDA_IMAGE = re.compile(r"(?:^|/)nvidia/cuda:([0-9]+\.[0-9]+)")
_CUDA_SUFFIX = re.compile(r"-cu([0-9]+)(?:-|$)")
_CUDA_LOCAL = re.compile(r"cu([0-9]{2})([0-9]+)")
_LIBRARIES: Mapping[str, re.Pattern[str]] = {
    "cuda": re.compile(r"nvidia-cuda-runtime(?:-cu[0-9]+)?"),
    "cudnn": re.compile(r"nvidia-cudnn(?:-cu[0-9]+)?"),
    "tensorrt": re.compile(r"tensorrt(?:-cu[0-9]+)?(?:-libs|-bindings)?"),
}
"""Key of the matrix to the names of the packages that hold the library."""
_RUNTIME_KEYS = {"ort": ("version", "package", "cuda_version"), "torch": ("version", "cuda.version")}
_PACKED = 1000
"""From here on a version without points is one packed number."""
_PACKED_CUDNN_9 = 90_000
"""cuDNN packs major x 10000 since version 9, and major x 1000 before."""

ExactVersion = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?(\.(post|dev)[0-9]+)*$")]
"""Without a local part: "+cu130" would say the CUDA version a second time."""


class DriverPin(Strict):
    """The NVIDIA driver of the nodes."""

    branches: Annotated[list[Annotated[int, Field(ge=100, le=9999)]], Field(min_length=1)]
    """Allowed branches: the first number of a driver's version."""
    lowest: Annotated[str, Field(pattern=r"^[1-9][0-9]{2,3}(\.[0-9]{2,3}){1,2}$")]
    """Lowest allowed version, in full."""


class OnnxRuntimePin(Strict):
    """The build of ONNX Runtime."""

    package: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    """Name of the distribution, such as onnxruntime-gpu."""
    version: ExactVersion


class GpuPin(Strict):
    """The GPUs that the stack may run on."""

    products: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Names as NVML ("NVIDIA L4") or GPU Feature Discovery ("NVIDIA-L4") spells them; both mean the same."""
    compute_capabilities: Annotated[list[Annotated[str, Field(pattern=r"^[1-9][0-9]?\.[0-9]$")]], Field(min_length=1)]
    """Such as "8.9"."""


class Matrix(Strict):
    """The single source of truth about versions. Null says that a part is not used."""

    schema_: Literal["rollout.matrix/v1"] = Field(alias="schema")
    name: Name
    driver: DriverPin
    cuda: Annotated[str, Field(pattern=r"^[1-9][0-9]*\.[0-9]+$")]
    """The CUDA version, major and minor, that the runtimes were built for."""
    cudnn: Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+\.[0-9]+)?$")] | None
    """The major, or all three numbers."""
    onnxruntime: OnnxRuntimePin | None
    tensorrt: Annotated[str, Field(pattern=r"^[1-9][0-9]*(\.[0-9]+){2,3}$")] | None
    """Three numbers, or four with the build."""
    torch: ExactVersion | None
    base_image: Annotated[str, Field(pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")] | None
    """The image that the container is built on, pinned by digest."""
    gpus: GpuPin

    @model_validator(mode="after")
    def _a_runtime_is_pinned(self) -> Self:
        if self.onnxruntime is None and self.torch is None:
            raise ValueError("onnxruntime and torch must not both be null: no runtime would be pinned")
        return self


def contradictions(matrix: Matrix) -> tuple[Reason, ...]:
    """Return the pins that cannot work together, and those of which nobody knows; empty where all are known to fit."""
    return (
        *_pinned_twice(matrix),
        *_driver_contradictions(matrix),
        *_ort_contradictions(matrix),
        *_library_contradictions(matrix),
        *_gpu_contradictions(matrix),
    )


def compare_snapshot(matrix: Matrix, snapshot: CapabilitySnapshot) -> tuple[Reason, ...]:
    """Return where a running server differs from the matrix, or did not collect what is pinned."""
    reasons: list[Reason] = []
    for demand in (*_device_demands(matrix), *_runtime_demands(matrix)):
        capability = snapshot.fields.get(demand.key)
        values = _texts(capability)
        if demand.key == "runtime.ort.package" and len(values) > 1:
            reasons.append(_ort_twice(demand.key, values))
        elif values:
            reasons.extend(_differences(demand, demand.key, values))
        elif capability is None:
            reasons.extend(_silence(demand, demand.key, why="the server does not look at it"))
        elif not demand.unused or capability.status is CapabilityStatus.ERROR:
            reasons.append(_not_collected(demand, demand.key, why=capability.reason or "the list is empty"))
    return tuple(reasons)


def compare_labels(matrix: Matrix, labels: Mapping[str, str]) -> tuple[Reason, ...]:
    """Return where a node, by the labels of GPU Feature Discovery, differs from the matrix or is not labelled."""
    seen = {
        "gpu.driver.version": _driver_label(labels),
        "gpu.product": _label(labels, ("nvidia.com/gpu.product",)),
        "gpu.compute_capability": _label(labels, ("nvidia.com/gpu.compute.major", "nvidia.com/gpu.compute.minor")),
    }
    reasons: list[Reason] = []
    for demand in _device_demands(matrix):
        name, value = seen.get(demand.key, ("", ""))
        if value:
            reasons.extend(_differences(demand, name, (value,)))
        elif name:
            reasons.append(_not_collected(demand, name, why="the node has no such label"))
    return tuple(reasons)


def compare_packages(matrix: Matrix, wheels: Sequence[str]) -> tuple[Reason, ...]:
    """Return where a list of packages differs from the matrix.

    Libraries that a base image can hold (CUDA, cuDNN, TensorRT) may be absent where a base image is pinned.

    Args:
        matrix: What is wanted.
        wheels: File names of wheels, or lines `name==version` as `pip freeze` prints them.

    Raises:
        ConfigError: A line is neither.
    """
    installed = parse_packages(wheels)
    runtimes = tuple(name for name in installed if name in ORT_DISTRIBUTIONS)
    reasons = [_ort_twice("packages", runtimes)] if len(runtimes) > 1 else []
    for demand, names in _package_demands(matrix, installed):
        if not names and not (demand.key in _LIBRARIES and matrix.base_image is not None):
            other = demand.key in ORT_DISTRIBUTIONS and runtimes
            why = f"the list has {_listed(runtimes)} instead" if other else "no such package is in the list"
            reasons.extend(_silence(demand, demand.key, why=why))
        for name in names:
            reasons.extend(_differences(demand, name, installed[name]))
            if not demand.unused:
                reasons.extend(_foreign_cuda(matrix, name, installed[name]))
    return tuple(reasons)


def lock(snapshot: CapabilitySnapshot, *, name: str) -> Matrix:
    """Return the matrix of a machine that is known good; `compare_snapshot` has nothing against it there.

    The machine's driver becomes the lowest allowed one. No base image is pinned: a process does not know its image.

    Raises:
        ConfigError: Fields that are needed were not collected, cannot be read, or are at odds; each is named.
    """
    values = _lockable(snapshot)
    first = {key: texts[0] for key, texts in values.items()}
    driver = _numbers_in(_DRIVER, first["gpu.driver.version"])
    runtime = "ort.cuda_version" if "runtime.ort.version" in first else "torch.cuda.version"
    ort = {
        "package": first.get("runtime.ort.package", "").partition(" ")[0],
        "version": _public(first.get("runtime.ort.version", "")),
    }
    body = {
        "schema": MATRIX_SCHEMA,
        "name": name,
        "driver": {"branches": list(_numbers(driver)[:1]), "lowest": driver},
        "cuda": _dotted(_cuda(first[f"runtime.{runtime}"])[:2]),
        "cudnn": _dotted(_cudnn(first["runtime.cudnn.version"])[:3]) if "runtime.cudnn.version" in first else None,
        "onnxruntime": ort if "runtime.ort.version" in first else None,
        "tensorrt": _numbers_in(_LEADING_NUMBERS, first.get("runtime.tensorrt.version", "")) or None,
        "torch": _public(first["runtime.torch.version"]) if "runtime.torch.version" in first else None,
        "base_image": None,
        "gpus": {
            "products": list(dict.fromkeys(map(product_name, values["gpu.product"]))),
            "compute_capabilities": list(dict.fromkeys(values["gpu.compute_capability"])),
        },
    }
    try:
        matrix = Matrix.model_validate(body)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, one['loc']))}: {one['input']!r} cannot be pinned" for one in error.errors())
        raise _not_lockable(faults) from error
    differences = compare_snapshot(matrix, snapshot)
    if differences:
        raise _not_lockable(one.text for one in differences)
    return matrix


def product_name(text: str) -> str:
    """Return a GPU's name as GPU Feature Discovery spells it, without what it adds for MIG and for sharing."""
    return _SHARE.sub("", re.sub(r"[\s-]+", "-", text.strip()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Demand:
    """What a pin says about one field, label or package."""

    key: str
    wanted: str
    accepts: Callable[[str], bool]
    unused: bool = False
    """The pin is null: finding nothing is right."""


def _pinned_twice(matrix: Matrix) -> Iterator[Reason]:
    lists = {
        "driver.branches": map(str, matrix.driver.branches),
        "gpus.products": map(product_name, matrix.gpus.products),
        "gpus.compute_capabilities": iter(matrix.gpus.compute_capabilities),
    }
    for key, values in lists.items():
        for value, count in Counter(values).items():
            if count > 1:
                yield _two_truths(f"{key}: {value} stands there {count} times")
    tag = _CUDA_IMAGE.search(matrix.base_image or "")
    if tag and tag.group(1) != matrix.cuda:
        yield _two_truths(f"cuda is {matrix.cuda}, and base_image is an image of CUDA {tag.group(1)}")


def _driver_contradictions(matrix: Matrix) -> Iterator[Reason]:
    branches, lowest = matrix.driver.branches, _numbers(matrix.driver.lowest)[0]
    if lowest not in branches:
        text = f"driver.lowest is {matrix.driver.lowest}, of none of the allowed branches {_listed(branches)}"
        yield Reason(code="matrix_driver_branch", text=text)
    elif useless := [branch for branch in branches if branch < lowest]:
        text = f"driver.branches allows {_listed(useless)}, and driver.lowest {matrix.driver.lowest} excludes it"
        yield Reason(code="matrix_driver_branch", text=text)
    needed = DRIVER_BRANCH_MIN.get(_major(matrix.cuda))
    if needed is None:
        yield _unknown(f"which driver CUDA {matrix.cuda} needs")
    elif min(lowest, *branches) < needed:
        text = f"CUDA {matrix.cuda} needs a driver of branch {needed} or later, and {min(lowest, *branches)} is allowed"
        yield Reason(code="matrix_driver_cuda", text=text)


def _ort_contradictions(matrix: Matrix) -> Iterator[Reason]:
    pin = matrix.onnxruntime
    if pin is None:
        return
    build = ORT_BUILDS.get(_numbers(pin.version)[:2])
    if pin.package in ORT_WITHOUT_CUDA:
        yield Reason(code="matrix_ort_build", text=f"{pin.package} has no CUDA provider")
    elif pin.package != ORT_GPU or build is None or not _RELEASE.fullmatch(pin.version):
        text = f"not known here: which CUDA, cuDNN and TensorRT {pin.package} {pin.version} needs"
        yield Reason(code=ORT_UNKNOWN, text=text)
    else:
        linked = {"cuda": build.cuda, "cudnn": build.cudnn, "tensorrt": build.tensorrt}
        pinned = {"cuda": matrix.cuda, "cudnn": matrix.cudnn, "tensorrt": matrix.tensorrt}
        for key, major in linked.items():
            version = pinned[key]
            if version is not None and _major(version) != major:
                text = f"{pin.package} {pin.version} needs {key} {major}, and {version} is pinned"
                yield Reason(code="matrix_ort_build", text=text)


def _library_contradictions(matrix: Matrix) -> Iterator[Reason]:
    for key, version in (("cudnn", matrix.cudnn), ("tensorrt", matrix.tensorrt)):
        lowest = LIBRARY_MIN.get((key, _major(matrix.cuda)))
        # A pin of the major alone allows later minors, of which one fits.
        if version is not None and lowest is not None and _numbers(version) < lowest[: len(_numbers(version))]:
            text = f"{key} {version} was not built for CUDA {matrix.cuda}; the first that was is {_dotted(lowest)}"
            yield Reason(code="matrix_library_cuda", text=text)


def _gpu_contradictions(matrix: Matrix) -> Iterator[Reason]:
    cuda, capabilities = _numbers(matrix.cuda), matrix.gpus.compute_capabilities
    for capability in capabilities:
        known = [one for one in ARCHITECTURES if one.lowest <= _numbers(capability) <= one.highest]
        if not known:
            yield _unknown(f"which CUDA versions support compute capability {capability}")
        for one in known:
            if cuda < one.cuda_first:
                text = (
                    f"compute capability {capability} needs CUDA {_dotted(one.cuda_first)}, and {matrix.cuda} is pinned"
                )
                yield Reason(code="matrix_gpu_cuda", text=text)
            elif one.cuda_major_last is not None and cuda[0] > one.cuda_major_last:
                text = f"CUDA {matrix.cuda} dropped compute capability {capability}; the last was {one.cuda_major_last}"
                yield Reason(code="matrix_gpu_cuda", text=text)
    for product in matrix.gpus.products:
        model = product_name(product).removeprefix("NVIDIA-").removeprefix("Tesla-").partition("-")[0]
        expected = PRODUCT_CAPABILITY.get(model)
        if expected is not None and expected not in capabilities:
            text = f"{product} has compute capability {expected}, and {_listed(capabilities)} is pinned"
            yield Reason(code="matrix_gpu_capability", text=text)


def _device_demands(matrix: Matrix) -> Iterator[_Demand]:
    pin, major = matrix.driver, _major(matrix.cuda)
    products = {product_name(one) for one in matrix.gpus.products}

    def is_allowed(text: str) -> bool:
        version = _numbers(_numbers_in(_DRIVER, text))
        return version >= _numbers(pin.lowest) and version[0] in pin.branches

    yield _Demand(
        key="gpu.driver.version",
        wanted=f"branch {_listed(pin.branches)}, {pin.lowest} or later",
        accepts=is_allowed,
    )
    yield _Demand(
        key="gpu.driver.cuda_version",
        wanted=f"{major}.0 or later, for CUDA {matrix.cuda}",
        accepts=lambda text: _cuda(text) >= (major,),
    )
    yield _Demand(
        key="gpu.product", wanted=_listed(sorted(products)), accepts=lambda text: product_name(text) in products
    )
    capabilities = matrix.gpus.compute_capabilities
    yield _Demand(key="gpu.compute_capability", wanted=_listed(capabilities), accepts=lambda text: text in capabilities)


def _runtime_demands(matrix: Matrix) -> Iterator[_Demand]:
    ort = matrix.onnxruntime
    if ort is None:
        yield _unused("runtime.ort.version")
    else:
        yield _version("runtime.ort.version", ort.version)
        yield _version("runtime.ort.package", f"{ort.package} {ort.version}")
        yield _numbered("runtime.ort.cuda_version", matrix.cuda, read=lambda text: _cuda(text)[:2])
    yield _numbered("runtime.cudnn.version", matrix.cudnn, read=_cudnn)
    yield _numbered("runtime.tensorrt.version", matrix.tensorrt, read=_numbers)
    if matrix.torch is None:
        yield _unused("runtime.torch.version")
    else:
        yield _version("runtime.torch.version", matrix.torch)
        yield _numbered("runtime.torch.cuda.version", matrix.cuda, read=lambda text: _cuda(text)[:2])


def _package_demands(
    matrix: Matrix, installed: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[_Demand, tuple[str, ...]]]:
    """Yield what is wanted with the installed packages that must fulfil it."""
    ort = matrix.onnxruntime
    if ort is None:
        yield _unused("onnxruntime"), tuple(name for name in installed if name in ORT_DISTRIBUTIONS)
    else:
        yield _version(ort.package, ort.version), (ort.package,) if ort.package in installed else ()
    torch = _unused("torch") if matrix.torch is None else _version("torch", matrix.torch)
    yield torch, ("torch",) if "torch" in installed else ()
    pins = {"cuda": _dotted((_major(matrix.cuda),)), "cudnn": matrix.cudnn, "tensorrt": matrix.tensorrt}
    for key, pattern in _LIBRARIES.items():
        yield _numbered(key, pins[key], read=_numbers), tuple(name for name in installed if pattern.fullmatch(name))


def _foreign_cuda(matrix: Matrix, name: str, versions: tuple[str, ...]) -> Iterator[Reason]:
    """Yield a difference where a package says in its name or its version for which other CUDA it was built."""
    suffix = _CUDA_SUFFIX.search(name)
    if suffix and int(suffix.group(1)) != _major(matrix.cuda):
        yield _mismatch(f"{name}: wanted a build for CUDA {matrix.cuda}, found one for CUDA {suffix.group(1)}")
    for version in versions:
        local = version.partition("+")[2]
        built = _CUDA_LOCAL.fullmatch(local)
        if local == "cpu" or (built and f"{built.group(1)}.{built.group(2)}" != matrix.cuda):
            yield _mismatch(f"{name}: wanted a build for CUDA {matrix.cuda}, found {version}")


def _driver_label(labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the driver's version; older versions of GPU Feature Discovery write its parts only, under other names."""
    prefix = "nvidia.com/cuda.driver"
    full = _label(labels, (f"{prefix}-version.full",))
    parts = []
    for keys in (("-version.major", "-version.minor", "-version.revision"), (".major", ".minor", ".rev")):
        major, minor, revision = (f"{prefix}{key}" for key in keys)
        # A driver such as 550.120 has no revision, and the label is empty.
        parts.append(_label(labels, (major, minor, revision) if labels.get(revision) else (major, minor)))
    return next((one for one in (full, *parts) if one[1]), full)


def _label(labels: Mapping[str, str], keys: Sequence[str]) -> tuple[str, str]:
    """Return the first label's name and all values, joined by points; no value where one is missing."""
    values = [labels.get(key, "") for key in keys]
    return keys[0], ".".join(values) if all(values) else ""


def _lockable(snapshot: CapabilitySnapshot) -> Mapping[str, tuple[str, ...]]:
    """Return the values of every field that a matrix of this machine needs.

    Raises:
        ConfigError: One of them was not collected.
    """
    fields = snapshot.fields
    needed = ["gpu.driver.version", "gpu.driver.cuda_version", "gpu.product", "gpu.compute_capability"]
    runtimes = [name for name in ("ort", "torch") if _may_be_used(fields.get(f"runtime.{name}.version"))]
    for name in runtimes:
        needed.extend(f"runtime.{name}.{key}" for key in _RUNTIME_KEYS[name])
    # A server that says nothing of cuDNN may use it all the same: its libraries load it when they first need it.
    if "runtime.cudnn.version" not in fields or _may_be_used(fields["runtime.cudnn.version"]):
        needed.append("runtime.cudnn.version")
    providers = _texts(fields.get("runtime.ort.providers.actual"))
    if Provider.TENSORRT in providers or _may_be_used(fields.get("runtime.tensorrt.version")):
        needed.append("runtime.tensorrt.version")
    values = {key: _texts(fields.get(key)) for key in needed}
    missing = [f"{key}: not collected" for key, texts in values.items() if not texts]
    if not runtimes:
        missing.append("runtime.ort.version, runtime.torch.version: neither was collected")
    if missing:
        raise _not_lockable(missing)
    return values


def _may_be_used(capability: Capability | None) -> bool:
    return capability is not None and capability.status is not CapabilityStatus.UNAVAILABLE


def _not_lockable(faults: Iterable[str]) -> ConfigError:
    return ConfigError("\n".join(["this snapshot cannot become a matrix:", *(f"  {one}" for one in faults)]))


def _version(key: str, wanted: str) -> _Demand:
    return _Demand(key=key, wanted=wanted, accepts=lambda text: _public(text) == wanted)


def _numbered(key: str, wanted: str | None, *, read: Callable[[str], Numbers]) -> _Demand:
    """Return a demand that the version's first numbers are those of the pin."""
    if wanted is None:
        return _unused(key)
    numbers = _numbers(wanted)
    return _Demand(key=key, wanted=wanted, accepts=lambda text: read(text)[: len(numbers)] == numbers)


def _unused(key: str) -> _Demand:
    return _Demand(key=key, wanted="not used (null)", accepts=lambda _: False, unused=True)


def _differences(demand: _Demand, name: str, values: Sequence[str]) -> Iterator[Reason]:
    wrong = dict.fromkeys(value for value in values if not demand.accepts(value))
    if wrong:
        yield _mismatch(f"{name}: wanted {demand.wanted}, found {_listed(wrong)}")


def _silence(demand: _Demand, name: str, *, why: str) -> Iterator[Reason]:
    if not demand.unused:
        yield _not_collected(demand, name, why=why)


def _not_collected(demand: _Demand, name: str, *, why: str) -> Reason:
    return Reason(code="matrix_not_collected", text=f"{name}: wanted {demand.wanted}, and nothing was found: {why}")


def _mismatch(text: str) -> Reason:
    return Reason(code="matrix_mismatch", text=text)


def _two_truths(text: str) -> Reason:
    return Reason(code="matrix_two_truths", text=text)


def _unknown(what: str) -> Reason:
    return Reason(code="matrix_unknown", text=f"not known here: {what}")


def _ort_twice(name: str, found: Sequence[str]) -> Reason:
    return Reason(code="matrix_ort_twice", text=f"{name}: {_listed(found)} hide one another")


def _texts(capability: Capability | None) -> tuple[str, ...]:
    value = capability.value if capability is not None else None
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (str(value),)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _public(version: str) -> str:
    """Return a version without its local part, such as "+cpu"."""
    return version.partition("+")[0]


def _numbers_in(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group() if found else ""


def _numbers(version: str) -> Numbers:
    """Return the leading numbers of a version; none where it begins with something else."""
    return tuple(int(one) for one in _numbers_in(_LEADING_NUMBERS, version).split(".") if one)


def _major(version: str) -> int:
    return _numbers(version)[0]


def _dotted(numbers: Numbers) -> str:
    return ".".join(map(str, numbers))


def _cuda(text: str) -> Numbers:
    """Return a CUDA version, which drivers also give as one number: 13010 is 13.1."""
    numbers = _numbers(text)
    if len(numbers) == 1 and numbers[0] >= _PACKED:
        return unpacked(numbers[0])
    return numbers


def _cudnn(text: str) -> Numbers:
    """Return a cuDNN version, which torch gives as one number: 91002 is 9.10.2, and 8907 is 8.9.7."""
    numbers = _numbers(text)
    if len(numbers) == 1 and numbers[0] >= _PACKED:
        unit = 10_000 if numbers[0] >= _PACKED_CUDNN_9 else 1_000
        return numbers[0] // unit, numbers[0] % unit // 100, numbers[0] % 100
    return numbers
