"""`rollout admit` refuses every fault world with the reason that names its cause; plain ONNX Runtime serves there.

python tests/serving/test_admission_refuses.py    # Writes docs/faults.md anew.
"""

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles"))

from admissions import admitted, standing
from causes import CAUSES
from observation import Recipe, observe
from worlds import CPU, WORLDS, Place, place

from rollout.model.reasons import REASONS

FAULTS_PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("model-cache")


@pytest.fixture
def placed(parts: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """The world that a test names."""
    return standing(WORLDS[request.param], root=tmp_path, parts=parts)


@pytest.mark.parametrize("placed", sorted(CAUSES), indirect=True)
def test_fault_world_is_refused_with_its_cause_first(placed, cache):
    found = admitted(placed, cache=cache)
    assert (found.code, found.served) == (78, "")
    assert found.blocking()[0] == CAUSES[placed.world.name]
    assert not found.report["admitted"]


def test_every_world_has_its_cause_here():
    assert set(CAUSES) == set(WORLDS)


def test_the_page_of_faults_names_every_world_and_its_cause():
    rows = {line.split("|")[1].strip(): line for line in FAULTS_PAGE.read_text().splitlines() if line.startswith("|")}
    for name, cause in CAUSES.items():
        reasons = rows[name].split("|")[5].strip()
        assert reasons.startswith(f"`{cause}`"), name


def main() -> None:
    """Print the table of docs/faults.md into the file."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        parts, cache = Path(scratch, "parts"), Path(scratch, "cache")
        parts.mkdir()
        for world in WORLDS.values():
            root = Path(scratch, "worlds", world.name)
            root.mkdir(parents=True)
            placed = place(world, root=root, parts=parts)
            plain, found = observe(placed, Recipe.PLAIN), admitted(placed, cache=cache)
            told = f"raises {plain.raised[0].rpartition('.')[2]}" if plain.raised else "computes on the CPU, exit 0"
            assert plain.raised or plain.providers == (CPU,)
            blocking = ", ".join(f"`{code}`" for code in dict.fromkeys(found.blocking()))
            rows.append(f"| {world.name} | {world.description} | {told} | {found.code} | {blocking} |")
            sys.stdout.write(rows[-1] + "\n")
    FAULTS_PAGE.write_text(HEAD.format(ort=version("onnxruntime-gpu")) + "\n".join(rows) + "\n")
    assert all(code in REASONS for code in CAUSES.values())


HEAD = """# Faults: plain ONNX Runtime beside `rollout admit`

Written by `python tests/serving/test_admission_refuses.py` with the real onnxruntime-gpu {ort}, the real CUDA runtime
and nvidia-ml-py, on a machine without a GPU. The driver's two libraries are doubles that tell each fault as NVIDIA's
documentation says; they cannot compute. CI repeats every row (`make test-serving`). The remedies stand in
[reasons.md](reasons.md).

| fault | what is wrong | plain `InferenceSession` | `rollout admit` exits | reasons, the cause first |
|---|---|---|---|---|
"""

if __name__ == "__main__":
    main()
