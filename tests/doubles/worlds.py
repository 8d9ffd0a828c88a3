"""Fault worlds: machines on which a GPU release falls back to the CPU, built from real libraries and a doubled driver.

The wheels of ONNX Runtime, the CUDA runtime and nvidia-ml-py are real. Doubled is what cannot exist without a GPU: the
driver's two libraries. The CUDA math libraries are empty stubs that end the process when they are called.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from driver_builds import DRIVER_LIBRARY, NVML_LIBRARY, cuda_libraries, driver_double, nvml_double, overlay, world_model

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
CPU = "CPUExecutionProvider"


class Failure(Enum):
    """How plain ONNX Runtime meets a fault; the comment says what `enable_fallback=0` changes."""

    LIBRARY = "a library does not load: a line on fd 2, and the CPU"  # Nothing.
    CREATION = "the provider is not created: a banner on fd 1, and the CPU"  # Raises.
    PLUGINS = "TensorRT's plugins do not register: a line on fd 2, a banner on fd 1, and the CPU"  # Raises.
    BUILD = "the imported build has no such provider: a Python warning on fd 2, and the CPU"  # Nothing.
    MODEL = "the model is refused: an exception"  # Nothing.


class Model(Enum):
    """What a session is opened on."""

    PLAIN = "one MatMul and one Relu"
    EP_CONTEXT = "one EPContext node compiled for TensorRT"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A machine and what is asked of it.

    Attributes:
        name: Also the name of its file in `messages`.
        description: What is wrong, in words.
        failure: How plain ONNX Runtime meets it.
        providers: What the release asks for.
        variables: What the doubles are told.
        driver: Folder of libcuda.so.1 below the world's own; empty where the library is missing.
        nvml: Whether libnvidia-ml.so.1 is there.
        cuda: Whether the CUDA runtime and math libraries are there.
        missing: The libraries whose absence is the fault: this machine must not have them either.
        overlaid: Whether the CPU wheel of ONNX Runtime is installed over the GPU wheel.
        model: What a session is opened on.
    """

    name: str
    description: str
    failure: Failure
    providers: tuple[str, ...] = (CUDA, CPU)
    variables: Mapping[str, str] = field(default_factory=dict)
    driver: str = "lib"
    nvml: bool = True
    cuda: bool = True
    missing: tuple[str, ...] = ()
    overlaid: bool = False
    model: Model = Model.PLAIN


_HEALTHY = {"CUDA_DOUBLE_CUINIT": "0", "CUDA_DOUBLE_DRIVER_VERSION": "13000"}

WORLDS: Mapping[str, World] = {
    world.name: world
    for world in (
        World(
            name="cuda_libraries_missing",
            description="GPU and driver are well, the image lacks cuBLAS",
            failure=Failure.LIBRARY,
            variables=_HEALTHY,
            cuda=False,
            missing=("libcublasLt.so.13",),
        ),
        World(
            name="libcuda_missing",
            description="the container was started without the NVIDIA runtime: no driver library was mounted",
            failure=Failure.LIBRARY,
            driver="",
            nvml=False,
            missing=(DRIVER_LIBRARY, NVML_LIBRARY),
        ),
        World(
            name="driver_too_old",
            description="a driver of branch 570 brings CUDA 12.8, the wheel was built for 13",
            failure=Failure.CREATION,
            variables={
                "CUDA_DOUBLE_CUINIT": "0",
                "CUDA_DOUBLE_DRIVER_VERSION": "12080",
                "NVML_DOUBLE_DRIVER": "570.172.08",
            },
        ),
        World(
            name="no_device",
            description="the driver is loaded and no GPU is visible",
            failure=Failure.CREATION,
            variables={"CUDA_DOUBLE_CUINIT": "100", "NVML_DOUBLE_COUNT": "0"},
        ),
        World(
            name="stub_libcuda",
            description="the image's search path leads to the toolkit's stub before the driver; NVML is well",
            failure=Failure.CREATION,
            variables={"CUDA_DOUBLE_CUINIT": "34"},
            driver="cuda/lib64/stubs",
        ),
        World(
            name="driver_mismatch",
            description="the driver's libraries were updated under a running kernel module",
            failure=Failure.CREATION,
            variables={"CUDA_DOUBLE_CUINIT": "803", "NVML_DOUBLE_INIT": "18"},
        ),
        World(
            name="forward_compat_refused",
            description="the image brings the cuda-compat package, and the GPU is no data centre product",
            failure=Failure.CREATION,
            variables={
                "CUDA_DOUBLE_CUINIT": "804",
                "CUDA_DOUBLE_DRIVER_VERSION": "13000",
                "NVML_DOUBLE_NAME": "NVIDIA GeForce RTX 3090",
                "NVML_DOUBLE_DRIVER": "550.163.01",
                "NVML_DOUBLE_CUDA": "13000",
                "NVML_DOUBLE_FORWARD_COMPAT": "1",
            },
        ),
        World(
            name="fabric_manager_down",
            description="an NVSwitch machine whose fabric manager does not run; NVML is well",
            failure=Failure.CREATION,
            variables={
                "CUDA_DOUBLE_CUINIT": "802",
                "NVML_DOUBLE_NAME": "NVIDIA H100 80GB HBM3",
                "NVML_DOUBLE_COUNT": "8",
            },
        ),
        World(
            name="device_access_lost",
            description="a running container lost its device cgroup: everything answers with an unknown error",
            failure=Failure.CREATION,
            variables={"CUDA_DOUBLE_CUINIT": "999", "NVML_DOUBLE_INIT": "999"},
        ),
        World(
            name="tensorrt_missing",
            description="GPU, driver and CUDA are well, TensorRT is not installed",
            failure=Failure.PLUGINS,
            providers=(TENSORRT, CPU),
            variables=_HEALTHY,
            missing=("libnvinfer.so.10",),
        ),
        World(
            name="both_ort_packages",
            description="onnxruntime was installed over onnxruntime-gpu, as a careless dependency does",
            failure=Failure.BUILD,
            variables=_HEALTHY,
            overlaid=True,
        ),
        World(
            name="ep_context_without_provider",
            description="a model compiled for TensorRT, in a session without TensorRT",
            failure=Failure.MODEL,
            providers=(CPU,),
            variables=_HEALTHY,
            model=Model.EP_CONTEXT,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A world that stands in a folder.

    Attributes:
        world: What stands there.
        folder: Where; it names this machine.
        parts: Where its parts were built.
        environment: All of a process's environment in this world.
        model: A model file to open.
    """

    world: World
    folder: Path
    parts: Path
    environment: Mapping[str, str]
    model: Path


def unbuildable() -> str:
    """Say why worlds cannot be built in this environment; empty where they can."""
    for package in ("onnxruntime-gpu", "nvidia-cuda-runtime", "nvidia-ml-py", "onnx"):
        try:
            distribution(package)
        except PackageNotFoundError:
            return f"{package} is not installed: pip install onnxruntime-gpu nvidia-cuda-runtime nvidia-ml-py onnx"
    for tool in ("gcc", "readelf"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; the driver's doubles are compiled"
    return ""


def impossible_here(world: World) -> str:
    """Say what this machine has whose absence is the world's fault; empty where nothing is."""
    for library in world.missing:
        load = [sys.executable, "-c", f"import ctypes; ctypes.CDLL({library!r})"]
        if subprocess.run(load, env=clean_environment(), capture_output=True, check=False).returncode == 0:
            return f"this machine has {library}"
    return ""


def place(world: World, *, root: Path, parts: Path) -> Place:
    """Lay a world's libraries out.

    Args:
        world: Which one.
        root: Folder in which the world gets one of its own, anew.
        parts: Folder of what the worlds are made of, built once; worth keeping between runs.

    Raises:
        RuntimeError: gcc or pip failed; the message holds what it said.
    """
    folder = root / world.name
    libraries = folder / "lib"
    shutil.rmtree(folder, ignore_errors=True)
    libraries.mkdir(parents=True)
    search = [libraries]
    if world.cuda:
        for library in cuda_libraries(parts):
            (libraries / library.name).symlink_to(library)
    if world.driver:
        (folder / world.driver).mkdir(parents=True, exist_ok=True)
        # A copy, since /proc/<pid>/maps names a link's target, and the stub's folder is what gives it away.
        shutil.copy(driver_double(parts), folder / world.driver / DRIVER_LIBRARY)
        search = [*({folder / world.driver} - {libraries}), *search]
    if world.nvml:
        (libraries / NVML_LIBRARY).symlink_to(nvml_double(parts))
    environment = {**clean_environment(), **world.variables, "LD_LIBRARY_PATH": ":".join(map(str, search))}
    if world.overlaid:
        imported_first = [str(overlay(parts)), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = ":".join(filter(None, imported_first))
    model = world_model(world.model.name, parts)
    return Place(world=world, folder=folder, parts=parts, environment=environment, model=model)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what another world or test may have left in it."""
    foreign = ("CUDA_", "NVML_DOUBLE_", "NVIDIA_", "ORT_")
    return {name: value for name, value in os.environ.items() if not name.startswith((*foreign, "LD_LIBRARY_PATH"))}
