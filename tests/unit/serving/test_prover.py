"""The parent's side of the prover."""

import subprocess
import sys

IMPORTED = """
import sys
import rollout.serving.prover
print(*sorted({"numpy", "PIL", "onnxruntime", "torch"} & set(sys.modules)))
"""


def test_who_asks_for_a_proof_loads_neither_numpy_nor_a_runtime():
    ran = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
