"""Admission policies for a program that is not the command line.

`rollout policy check FILE` is the stricter reader, and says where each fault is; run it on a policy of your own in CI.
"""

from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from rollout.errors import ConfigError
from rollout.model.admission import AdmissionPolicy
from rollout.model.base import Strict
from rollout.model.matrix import Matrix
from rollout.serving.proof import Named

S = TypeVar("S", bound=Strict)


def read_admission(name: str) -> tuple[AdmissionPolicy, Named]:
    """Read an admission policy and what it names.

    Args:
        name: A file, or one of the policies that the product ships with: gpu, tensorrt, development-cpu.

    Raises:
        ConfigError: A file is missing or wrong.
    """
    shipped = Path(str(resources.files("rollout.serving").joinpath("policies", f"{name}.yaml")))
    path = shipped if "/" not in name and shipped.is_file() else Path(name)
    policy = _read(AdmissionPolicy, path)
    folder = path.parent.resolve()
    return policy, Named(
        matrix=None if policy.matrix is None else _read(Matrix, folder / policy.matrix),
        engine_cache=None if policy.engine_cache is None else (folder / policy.engine_cache).resolve(),
    )


def _read(model: type[S], path: Path) -> S:
    try:
        return model.model_validate(yaml.safe_load(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror} (looked in {Path.cwd()})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors(include_url=False)
        )
        raise ConfigError(f"{path}: {faults}; `rollout policy check {path}` says where") from error
