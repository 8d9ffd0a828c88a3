"""What an admission looks like over HTTP, for whoever serves it: the agent, and another program's ASGI server."""

import json
import os
import uuid
from dataclasses import dataclass
from typing import Any

from rollout.model.admission import AdmissionReport, blocking
from rollout.model.wire import ENV_POD_UID

OK, UNAVAILABLE = 200, 503


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes
    content_type: str = "application/json"


def ready_answer(report: AdmissionReport) -> Answer:
    """Answer `PATH_READY`: 200 where the stack is admitted, else 503 with the code of each reason."""
    if not report.admitted or report.snapshot is None:
        return _refusal(report)
    return json_answer(OK, {"status": "ready", "snapshot_digest": report.snapshot.digest})


def capabilities_answer(report: AdmissionReport) -> Answer:
    """Answer `PATH_CAPABILITIES`; the snapshot of a stack that is not admitted proves nothing and is kept back."""
    if not report.admitted or report.snapshot is None:
        return _refusal(report)
    return json_answer(OK, report.snapshot.to_json())


def json_answer(status: int, body: dict[str, Any]) -> Answer:
    """Return an answer of this status."""
    return Answer(status=status, body=json.dumps(body).encode())


def proven_digest(report: AdmissionReport) -> str:
    """Return the digest that answers may carry; empty where the stack is not admitted."""
    return report.snapshot.digest if report.admitted and report.snapshot is not None else ""


def own_uid() -> str:
    """Return this instance's uid: the platform's word for it where there is one, else a random one."""
    return os.environ.get(ENV_POD_UID) or str(uuid.uuid4())


def _refusal(report: AdmissionReport) -> Answer:
    found = blocking(report.findings)
    reason = "; ".join(f"{one.code}: {one.text}" for one in found)
    codes = list(dict.fromkeys(one.code for one in found))
    return json_answer(UNAVAILABLE, {"status": "not ready", "reason": reason, "codes": codes})
