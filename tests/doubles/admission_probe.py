"""Admits a session that a foreign program made: `admission_probe.py RECIPE MODEL PROVIDERS POLICY REPORT`.

RECIPE is `open` for a plain session that is there already, `opener` for what opens a plain one, `strict` for what opens
a strict one. The exit status is 78 after a refusal.
"""

import sys
from pathlib import Path

import onnxruntime as ort

from rollout.model.canonical import digest_bytes
from rollout.serving.admission import NotAdmittedError, admit, open_strict_session


def main(recipe: str, model: str, providers: list[str], policy: str, report: str) -> int:
    """Write the report, whatever it says."""

    def plain() -> ort.InferenceSession:
        return ort.InferenceSession(model, providers=providers)

    def strict() -> ort.InferenceSession:
        return open_strict_session(model, providers=[one for one in providers if one != "CPUExecutionProvider"])

    session = {"open": plain, "opener": lambda: plain, "strict": lambda: strict}[recipe]()
    try:
        told = admit(policy, session=session, model_digest=digest_bytes(Path(model).read_bytes())).report
    except NotAdmittedError as error:
        told = error.report
    Path(report).write_text(told.model_dump_json(by_alias=True))
    return 0 if told.admitted else 78


if __name__ == "__main__":
    recipe, model, providers, policy, report = sys.argv[1:]
    sys.exit(main(recipe, model, providers.split(","), policy, report))
