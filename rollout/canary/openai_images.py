"""The images API of OpenAI, with the fields `seed` and `num_inference_steps` that servers of open models add."""

import base64
import binascii
import json
import math
import struct
from collections.abc import Iterator
from typing import Any

from rollout.canary.exchange import Exchange, Failed, Reply, printable
from rollout.canary.interface import Answer, Request, Target
from rollout.canary.server_timing import Declared, parse_server_timing
from rollout.canary.strict_json import parse_json
from rollout.errors import EvidenceError, UnavailableError
from rollout.model.canonical import digest_bytes
from rollout.model.evidence import Sample, SampleStatus
from rollout.model.policy import LatencyMeasure
from rollout.model.prompts import Prompt
from rollout.model.roles import Address
from rollout.model.snapshot import CapabilitySnapshot, parse_snapshot
from rollout.model.wire import HEADER_POD_UID, HEADER_SNAPSHOT_DIGEST, PATH_CAPABILITIES, PATH_IMAGES, SERVER_TIMING

PICTURES_BYTES_MAX = 64 * 1024 * 1024
"""Room for a batch of fifteen 1024 px pictures that PNG cannot compress at all, 4.2 MB each in base64."""

SNAPSHOT_BYTES_MAX = 8 * 1024 * 1024

OK, TOO_MANY_REQUESTS, SERVER_ERRORS = 200, 429, 500

PNG_HEAD = struct.Struct(">8sI4sII")
"""Signature, length and type of the first chunk, width, height."""

QUOTED_RUN_MAX = 12
"""A server's message that shares this many characters in a row with the prompt is taken to quote it."""


class OpenAIImages:
    """Speaks `POST /v1/images/generations` over plain HTTP/1.1, one connection per instance."""

    def __init__(self) -> None:
        self._exchange = Exchange()

    def send(
        self, target: Target, prompt: Prompt, *, measure: LatencyMeasure, timeout_s: float, stop_after_s: float
    ) -> Answer:
        """Send one prompt and wait for all of the answer. See `ServingProtocol.send`."""
        reply = self._exchange.request(
            target.address,
            method="POST",
            path=PATH_IMAGES,
            body=_request_body(prompt),
            timeout_s=timeout_s,
            stop_after_s=stop_after_s,
            body_max=PICTURES_BYTES_MAX,
        )
        if isinstance(reply, Failed):
            detail = _without(prompt.text, reply.detail)
            return Answer(sample=Sample(status=reply.status, wall_s=reply.wall_s, detail=detail))
        try:
            return _answer(reply, target=target, prompt=prompt, measure=measure)
        except EvidenceError as error:
            return Answer(
                sample=Sample(
                    status=SampleStatus.ERROR,
                    wall_s=reply.wall_s,
                    pod_uid=printable(reply.headers.get(HEADER_POD_UID, "")),
                    snapshot_digest=printable(reply.headers.get(HEADER_SNAPSHOT_DIGEST, "")),
                    detail=_without(prompt.text, str(error)),
                )
            )

    def fetch_snapshot(self, address: Address, *, timeout_s: float) -> CapabilitySnapshot:
        """Read the capability snapshot of one instance.

        Raises:
            UnavailableError: No answer in time, or a status that says "not now" (429, 5xx).
            EvidenceError: The answer is not a valid snapshot.
        """
        reply = self._exchange.request(
            address,
            method="GET",
            path=PATH_CAPABILITIES,
            timeout_s=timeout_s,
            stop_after_s=math.inf,
            body_max=SNAPSHOT_BYTES_MAX,
        )
        what = f"the capability snapshot of {address}"
        if isinstance(reply, Failed):
            kind = EvidenceError if reply.oversized else UnavailableError
            raise kind(f"{what} could not be read: {reply.detail}")
        if reply.status == TOO_MANY_REQUESTS or reply.status >= SERVER_ERRORS:
            raise UnavailableError(f"{what} could not be read: status {reply.status}{_message(reply.body)}")
        if reply.status != OK:
            raise EvidenceError(f"{what} could not be read: status {reply.status} for {PATH_CAPABILITIES}")
        try:
            return parse_snapshot(_object(_json_of(reply)))
        except (EvidenceError, ValueError) as error:
            raise EvidenceError(f"{what} is not valid: {printable(str(error))}") from error

    def request_of(self, prompt: Prompt) -> Request:
        """Return the POST that asks for a prompt. See `ServingProtocol.request_of`."""
        return Request(path=PATH_IMAGES, body=_request_body(prompt), answer_bytes_max=PICTURES_BYTES_MAX)

    def check(self, reply: Reply, *, target: Target, prompt: Prompt) -> None:
        """Check an answer without decoding its pictures. See `ServingProtocol.check`."""
        try:
            _check_head(reply, target=target, prompt=prompt)
            _check_json(reply)
            _check_count(reply, prompt)
        except EvidenceError as error:
            raise EvidenceError(_without(prompt.text, str(error))) from error

    def close(self) -> None:
        """Close every connection. The next request opens a new one."""
        self._exchange.close()


def _object(data: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    if not isinstance(data, dict):
        raise EvidenceError("it is not a JSON object")
    return data


def _request_body(prompt: Prompt) -> bytes:
    return json.dumps(
        {
            "prompt": prompt.text,
            "n": prompt.batch,
            "size": prompt.size,
            "response_format": "b64_json",
            "seed": prompt.seed,
            "num_inference_steps": prompt.steps,
        }
    ).encode()


def _answer(reply: Reply, *, target: Target, prompt: Prompt, measure: LatencyMeasure) -> Answer:
    _check_head(reply, target=target, prompt=prompt)
    pictures = tuple(_pictures(reply, prompt))
    queue_s, total_s = _times(reply, measure)
    return Answer(
        sample=Sample(
            status=SampleStatus.OK,
            wall_s=reply.wall_s,
            queue_s=queue_s,
            server_s=total_s,
            pod_uid=target.pod_uid,
            snapshot_digest=printable(reply.headers.get(HEADER_SNAPSHOT_DIGEST, "")),
            pictures=tuple(digest_bytes(one) for one in pictures),
        ),
        pictures=pictures,
    )


def _check_head(reply: Reply, *, target: Target, prompt: Prompt) -> None:
    if reply.status != OK:
        raise EvidenceError(f"status {reply.status}{_message(reply.body, secret=prompt.text)}")
    _check_identity(reply, target)


def _check_count(reply: Reply, prompt: Prompt) -> None:
    # Parsing the JSON of a large picture takes milliseconds, in which no other answer could be timed.
    count = reply.body.count(b'"b64_json"')
    if count != prompt.batch:
        raise EvidenceError(f"the answer has {count} pictures, asked were {prompt.batch}")


def _check_identity(reply: Reply, target: Target) -> None:
    answered = reply.headers.get(HEADER_POD_UID, "")
    if answered != target.pod_uid:
        who = f"pod {printable(answered)!r}" if answered else f"somebody without {HEADER_POD_UID}"
        raise EvidenceError(f"answered by {who}, asked was pod {target.pod_uid!r}")
    proven = reply.headers.get(HEADER_SNAPSHOT_DIGEST, "")
    if target.snapshot_digest and proven != target.snapshot_digest:
        what = f"snapshot {printable(proven)}" if proven else "no snapshot"
        raise EvidenceError(f"answered with {what}, admitted was snapshot {target.snapshot_digest}")


def _pictures(reply: Reply, prompt: Prompt) -> Iterator[bytes]:
    body = _json_of(reply)
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list):
        raise EvidenceError("the answer has no list `data`")
    if len(data) != prompt.batch:
        raise EvidenceError(f"the answer has {len(data)} pictures, asked were {prompt.batch}")
    width, height = (int(one) for one in prompt.size.split("x"))
    for number, entry in enumerate(data):
        encoded = entry.get("b64_json") if isinstance(entry, dict) else None
        if not isinstance(encoded, str):
            raise EvidenceError(f"picture {number} has no b64_json")
        yield _png(encoded, number=number, width=width, height=height)


def _png(encoded: str, *, number: int, width: int, height: int) -> bytes:
    try:
        picture = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EvidenceError(f"picture {number} is not base64: {printable(str(error))}") from error
    if len(picture) < PNG_HEAD.size:
        raise EvidenceError(f"picture {number} is not a PNG: it has {len(picture)} bytes")
    signature, _, chunk, got_width, got_height = PNG_HEAD.unpack_from(picture)
    if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
        raise EvidenceError(f"picture {number} is not a PNG")
    if (got_width, got_height) != (width, height):
        raise EvidenceError(f"picture {number} is {got_width}x{got_height}, asked was {width}x{height}")
    return picture


def _times(reply: Reply, measure: LatencyMeasure) -> tuple[float, float]:
    """Return the seconds in the queue that are to be subtracted, and the server's own total (0 where unknown)."""
    header = reply.headers.get(SERVER_TIMING, "")
    if measure is LatencyMeasure.WALL:
        return 0.0, _total_or_zero(header)
    declared = parse_server_timing(header)
    if declared.queue_s is None:
        raise EvidenceError("Server-Timing has no queue, which the measure `service` needs")
    if declared.queue_s >= reply.wall_s:
        raise EvidenceError(
            f"Server-Timing declares a queue of {1000 * declared.queue_s:g} ms, the whole request took "
            f"{1000 * reply.wall_s:g} ms"
        )
    return declared.queue_s, declared.total_s or 0.0


def _total_or_zero(header: str) -> float:
    """Return the declared total for the report of the client's overhead; nothing is decided by it."""
    try:
        declared: Declared = parse_server_timing(header)
    except EvidenceError:
        return 0.0
    return declared.total_s or 0.0


def _json_of(reply: Reply) -> Any:  # noqa: ANN401 - any JSON value
    _check_json(reply)
    try:
        return parse_json(reply.body)
    except ValueError as error:
        raise EvidenceError(f"the answer is not JSON: {printable(str(error))}") from error


def _check_json(reply: Reply) -> None:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise EvidenceError(f"the answer is {printable(kind) or 'of no content type'}, not application/json")
    coding = reply.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise EvidenceError(f"the answer is encoded as {printable(coding)}, although only identity was accepted")


def _message(body: bytes, *, secret: str = "") -> str:
    """Return a server's error message as the end of a sentence; empty where there is none that may be shown."""
    try:
        parsed = parse_json(body)
    except ValueError:
        return ""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    if not isinstance(text, str) or not text.strip():
        return ""
    # A server may quote the request anywhere in its message; a short prompt is looked for as a whole.
    if secret and (_quotes(text, secret) or _packed(secret) in _packed(text)):
        return " (its message quotes the prompt and is left out)"
    return f": {printable(text)}"


def _without(secret: str, detail: str) -> str:
    """Return a detail, or what replaces it when a header or a protocol error in it quotes the prompt."""
    return "what the server sent quotes the prompt and is left out" if _quotes(detail, secret) else detail


def _quotes(text: str, secret: str) -> bool:
    """Tell whether a text holds a long part of the secret, whatever the case and the spaces."""
    here, hidden = _packed(text), _packed(secret)
    starts = range(len(hidden) - QUOTED_RUN_MAX + 1)
    return any(hidden[start : start + QUOTED_RUN_MAX] in here for start in starts)


def _packed(text: str) -> str:
    return "".join(text.casefold().split())
