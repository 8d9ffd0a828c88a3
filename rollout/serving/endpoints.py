"""What an admission looks like over HTTP, for whoever serves it: the agent, and another program's ASGI server."""

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from rollout.model.admission import AdmissionReport, blocking
from rollout.model.wire import ENV_POD_UID


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status and a body."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


def ready_answer(report: AdmissionReport, *, digest: str) -> Answer:
    """Answer `PATH_READY`: 200 where the stack is admitted, else 503 with the code of each reason.

    Args:
        report: What is known now.
        digest: Of its snapshot, see `proven_digest`.
    """
    return proven_answer(digest) if report.admitted and report.snapshot is not None else _refusal(report)


def capabilities_answer(report: AdmissionReport) -> Answer:
    """Answer `PATH_CAPABILITIES`; the snapshot of a stack that is not admitted proves nothing and is kept back."""
    if not report.admitted or report.snapshot is None:
        return _refusal(report)
    return json_answer(HTTPStatus.OK, report.snapshot.to_json())


def proven_answer(digest: str) -> Answer:
    """Say that the stack is ready, and by which snapshot."""
    return json_answer(HTTPStatus.OK, {"status": "ready", "snapshot_digest": digest})


def refused_answer(reason: str, *, codes: Sequence[str]) -> Answer:
    """Say why the stack is not ready, for people and as reason codes."""
    return json_answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready", "reason": reason, "codes": list(codes)})


def json_answer(status: HTTPStatus, body: dict[str, Any]) -> Answer:
    """Return an answer of this status."""
    return Answer(status=status, body=json.dumps(body).encode())


def proven_digest(report: AdmissionReport) -> str:
    """Return the digest that answers may carry; empty where the stack is not admitted.

    Hashing takes about a millisecond: ask once, not for each answer.
    """
    return report.snapshot.digest if report.admitted and report.snapshot is not None else ""


def blocking_codes(report: AdmissionReport) -> tuple[str, ...]:
    """Return the codes of what blocks, each once, causes first."""
    return tuple(dict.fromkeys(one.code for one in blocking(report.findings)))


def own_uid() -> str:
    """Return this instance's uid: the platform's word for it where there is one, else a random one."""
    return os.environ.get(ENV_POD_UID) or str(uuid.uuid4())


def _refusal(report: AdmissionReport) -> Answer:
    found = blocking(report.findings)
    reason = "; ".join(f"{one.code}: {one.text}" for one in found)
    return refused_answer(reason, codes=blocking_codes(report))
