"""Builds what the worlds are laid out from; each part once, in a folder that may be kept."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from hashlib import sha256
from importlib.metadata import Distribution, distribution, version
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent

DRIVER_LIBRARY = "libcuda.so.1"
NVML_LIBRARY = "libnvidia-ml.so.1"

PIP_S_MAX = 300
"""Downloading the CPU wheel over a slow line."""


def driver_double(parts: Path) -> Path:
    """Compile the double of the CUDA driver's library."""
    return _double("libcuda.c", DRIVER_LIBRARY, parts)


def nvml_double(parts: Path) -> Path:
    """Compile the double of NVIDIA's management library."""
    return _double("libnvml.c", NVML_LIBRARY, parts)


def cuda_libraries(parts: Path) -> list[Path]:
    """Return what the CUDA provider links to: the real runtime, and a stub of each math library."""
    provider = owned("onnxruntime-gpu", "libonnxruntime_providers_cuda.so")
    listing = _output("readelf", "--wide", "--dynamic", "--dyn-syms", str(provider))
    libraries = []
    for soname in re.findall(r"\(NEEDED\).*\[(libcu.+)\]", listing):
        if soname.startswith("libcudart."):
            libraries.append(owned("nvidia-cuda-runtime", soname))
        elif soname != DRIVER_LIBRARY:
            functions = sorted(set(re.findall(rf" UND (\w+)@{re.escape(soname)}", listing)))
            libraries.append(_math_stub(soname, functions, parts))
    return libraries


def overlay(parts: Path) -> Path:
    """Let pip install the CPU wheel over a copy of the GPU wheel, and return the folder to import from."""
    gpu = distribution("onnxruntime-gpu")
    prefix = parts / f"{sys.implementation.cache_tag}-onnxruntime-{gpu.version}-over-gpu"
    if not prefix.exists():
        draft = prefix.with_name(f"{prefix.name}.{os.getpid()}")
        _copy(gpu, _site(draft))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
        _output(*pip, "--prefix", str(draft), f"onnxruntime=={gpu.version}", timeout_s=PIP_S_MAX)
        draft.replace(prefix)
    return _site(prefix)


def world_model(kind: str, parts: Path) -> Path:
    """Write a model file in a process of its own: this one may not have onnx imported, and need not."""
    path = parts / f"{kind.lower()}.onnx"
    if not path.exists():
        _output(sys.executable, str(HERE / "world_models.py"), kind, str(path))
    return path


def owned(package: str, name: str) -> Path:
    """Return the file of an installed distribution that has this name."""
    for file in distribution(package).files or ():
        if file.name == name:
            return Path(str(file.locate())).resolve()
    raise LookupError(f"{package} {version(package)} has no file named {name}")


def _double(source: str, soname: str, parts: Path) -> Path:
    code = "".join((HERE / name).read_text() for name in ("double.h", source))
    return _compiled(code, soname, parts, options=["-I", str(HERE), str(HERE / source)])


def _math_stub(soname: str, functions: list[str], parts: Path) -> Path:
    """Compile a library that has the functions' names and versions, and ends the process when one is called."""
    code = [
        "#include <stdio.h>",
        "#include <stdlib.h>",
        "__attribute__((unused)) static int cannot(const char *function)",
        f'{{ fprintf(stderr, "{soname} stub: %s was called: this library cannot compute\\n", function); abort(); }}',
        *(f"int {function}(void) {{ return cannot(__func__); }}" for function in functions),
        "extern int nothing;",
    ]
    script = f"{soname} {{ global: *; }};"
    with TemporaryDirectory() as folder:
        source, versions = Path(folder) / "stub.c", Path(folder) / "stub.map"
        source.write_text("\n".join([*code, ""]))
        versions.write_text(script + "\n")
        options = [f"-Wl,--version-script={versions}", str(source)]
        return _compiled("\n".join([*code, script]), soname, parts, options=options)


def _compiled(code: str, soname: str, parts: Path, *, options: list[str]) -> Path:
    folder = parts / sha256(code.encode()).hexdigest()[:16]
    built = folder / soname
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{soname}.{os.getpid()}"
        gcc = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", f"-Wl,-soname,{soname}"]
        _output(*gcc, "-o", str(draft), *options)
        draft.replace(built)
    return built


def _site(prefix: Path) -> Path:
    base = {"base": str(prefix), "platbase": str(prefix)}
    return Path(sysconfig.get_path("purelib", sysconfig.get_preferred_scheme("prefix"), base))


def _copy(installed: Distribution, site: Path) -> None:
    """Put a distribution's files into another folder, as links where that can be: pip unlinks what it replaces."""
    for file in installed.files or ():
        if ".." in file.parts:
            continue  # Scripts; nothing here runs them.
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(str(file.locate()), target)
        except OSError:
            shutil.copyfile(str(file.locate()), target)


def _output(*command: str, timeout_s: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout
