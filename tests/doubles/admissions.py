"""`rollout admit` in a fault world, and the reason that stands first there."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from worlds import TENSORRT, Model, Place, World, impossible_here, place, unbuildable

from rollout.files.load import load_admission


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    code: int
    report: dict
    served: str

    def blocking(self) -> list[str]:
        return [one["code"] for one in self.report["findings"] if one["severity"] == "block"]


def admitted(placed: Place, *, cache: Path, command=("echo", "served")) -> Admitted:
    """Run `rollout admit` in a world."""
    policy = policy_for(placed)
    words = ["admit", "--policy", str(policy), "--cache", str(cache), "--output", "json", "--", *command]
    ran = subprocess.run(
        [sys.executable, "-m", "rollout", *words],
        env=placed.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode in {0, 78}, ran.stderr
    return Admitted(code=ran.returncode, report=json.loads(ran.stderr), served=ran.stdout.strip())


def policy_for(placed: Place) -> Path:
    """Write the policy that a release of this world would be admitted by."""
    name = "tensorrt" if TENSORRT in placed.world.providers else "gpu"
    changes = {}
    if placed.world.model is Model.EP_CONTEXT:
        # With CUDA in the order the double would have to compute; the model's provider is missing all the same.
        name, changes = "development-cpu", {"model": {"path": str(placed.model), "dimensions": {}}, "required": []}
    made = load_admission(name).policy.model_dump(mode="json", by_alias=True) | changes
    path = placed.folder / "admission.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def standing(world: World, *, root: Path, parts: Path) -> Place:
    if reason := unbuildable() or impossible_here(world):
        pytest.skip(reason)
    try:
        return place(world, root=root, parts=parts)
    except RuntimeError as error:
        if world.overlaid:
            pytest.skip(f"pip cannot install the CPU wheel over the GPU wheel here: {error}")
        raise
