"""What became of `rollout smoke`, for people and for machines."""

from dataclasses import dataclass
from typing import Any

from rollout.gates.cause import Suspect, rank, signature_of
from rollout.gates.differences import reported
from rollout.gates.names import CAPABILITIES
from rollout.model.inventory import Absent
from rollout.model.verdict import Verdict
from rollout.report.as_json import plain

SMOKE_SCHEMA = "rollout.smoke/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoked:
    """One server, proven or not.

    Attributes:
        subject: The release's name, or where the server listens.
        release: Digest of the release.
        snapshot, baseline: Digests.
        written: The file to which this measurement was written as a baseline; empty where to none.
        requests: How many were measured.
    """

    subject: str
    policy: str
    verdict: Verdict
    release: str | Absent
    snapshot: str | Absent
    baseline: str | Absent
    written: str
    requests: int
    seconds: float

    @property
    def suspects(self) -> tuple[Suspect, ...]:
        """The capabilities that differ from the baseline's, by their known cost; none where latency passed."""
        signature = signature_of((self.verdict,))
        gates = (gate for gate in self.verdict.gates if gate.gate == CAPABILITIES)
        return rank([one for gate in gates for one in reported(gate)], signature) if signature.effects else ()


def smoke_json(smoked: Smoked) -> dict[str, Any]:
    """Return the result as a JSON object; a value that is missing is `{"absent": "why"}`."""
    told: dict[str, Any] = plain(smoked)
    verdict = told.pop("verdict")
    suspects = plain(smoked.suspects)
    return {
        "schema": SMOKE_SCHEMA,
        "outcome": verdict["outcome"],
        "gates": verdict["gates"],
        **told,
        "suspects": suspects,
    }
