"""Admission as a call, for a program with a server and an inference session of its own.

    session = open_strict_session("model.onnx", providers=["CUDAExecutionProvider"])
    admitted = admit("admission.yaml", session=session, model_digest=digest)
    app = with_capabilities(app, admitted)

A program without ONNX Runtime imports `with_capabilities` from `rollout.serving.asgi`.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from rollout.errors import ConfigError
from rollout.files.load import load_admission
from rollout.model.admission import AdmissionPolicy, AdmissionReport, finding
from rollout.serving.asgi import with_capabilities
from rollout.serving.failures import AdmissionError, NotAdmittedError, ProviderLostError
from rollout.serving.messages import fallback_signs
from rollout.serving.proof import Named, prove, start_device_watch
from rollout.serving.snapshot import policy_fields
from rollout.serving.strict_session import ORT_ERRORS, check_providers, open_strict_session
from rollout.serving.subject import ModelSubject, seeded_feeds

__all__ = ["Admitted", "NotAdmittedError", "admit", "open_strict_session", "with_capabilities"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Admitted:
    """A session that was admitted, and what is known of it since."""

    def __init__(self, report: AdmissionReport, session: ort.InferenceSession) -> None:
        self._report = report
        self._session = session
        self._providers = tuple(session.get_providers())

    @property
    def report(self) -> AdmissionReport:
        """What was proven, and whether it still holds as far as `recheck` looked."""
        return self._report

    @property
    def session(self) -> ort.InferenceSession:
        """The session that was admitted."""
        return self._session

    def recheck(self) -> AdmissionReport:
        """Ask the session again what it runs on; cheap enough to be done after each request.

        ONNX Runtime may move a session to the CPU while it serves. A session that was moved once stays refused, also
        when it is moved back: nobody has proven it since.
        """
        if self._report.admitted:
            try:
                check_providers(self._session, providers=self._providers)
            except ProviderLostError as error:
                lost = finding(error.code, str(error))
                changes = {"admitted": False, "findings": (lost, *self._report.findings)}
                self._report = self._report.model_copy(update=changes)
        return self._report


def admit(
    policy: AdmissionPolicy | Path | str,
    *,
    session: ort.InferenceSession | Callable[[], ort.InferenceSession],
    feeds: Mapping[str, NDArray[Any]] | None = None,
    dimensions: Mapping[str, int] | None = None,
    requested: Sequence[str] | None = None,
    model_digest: str = "",
) -> Admitted:
    """Prove in this process that a session has its fast path, before it serves.

    For as long as the proof takes, what this process writes to stdout and stderr is held back, and then all of it
    goes to stderr; what other threads compute spoils the self-test's times. A profile of the session is ended.

    Args:
        policy: What must be shown: a policy, or the name or the file of one. The model that it may name is not opened.
        session: Open, or what opens it. What opens it is the better proof: the load is timed, and what the runtime
            says meanwhile is heard, so that the cause of a fallback has its code.
        feeds: The self-test's inputs, by name; None: noise with a fixed seed, and zeros for whole numbers.
        dimensions: What the free dimensions of the inputs are; None: as the policy's model says.
        requested: The providers that were asked for; None where nobody knows.
        model_digest: `sha256:` and the hexadecimal digest of the model file; empty where nobody knows.

    Raises:
        NotAdmittedError: It did not prove what the policy demands; `report` says what was found.
        ConfigError: The policy, the inputs or the digest cannot be used.
    """
    if feeds is not None and dimensions is not None:
        raise ConfigError("give feeds or dimensions: the shapes of feeds are known")
    if model_digest and not _DIGEST.fullmatch(model_digest):
        raise ConfigError(f"model_digest must be sha256: and 64 hexadecimal digits (got {model_digest[:80]!r})")
    demanded, named = _demands(policy)
    loaded_before = isinstance(session, ort.InferenceSession)
    if loaded_before and named.engine_cache is not None:
        raise ConfigError(
            f"the policy {demanded.name} watches an engine cache, which an open session may have changed already: give "
            "what opens the session"
        )

    def load() -> ModelSubject:
        opened = session if isinstance(session, ort.InferenceSession) else _opened(session)
        return ModelSubject(
            session=opened,
            feeds=_feeds(opened, feeds, dimensions, demanded),
            requested=requested,
            model_digest=model_digest,
        )

    watch = start_device_watch(demanded)
    try:
        proof = prove(
            demanded,
            load,
            said=policy_fields(demanded),
            named=named,
            watch=watch,
            stopped=threading.Event(),
            loaded_before=loaded_before,
        )
    finally:
        if watch is not None:
            watch.stop()
    report = proof.report()
    if proof.subject is None or not report.admitted:
        raise NotAdmittedError(report)
    return Admitted(report, proof.subject.session)


def _demands(policy: AdmissionPolicy | Path | str) -> tuple[AdmissionPolicy, Named]:
    if not isinstance(policy, AdmissionPolicy):
        loaded = load_admission(str(policy))
        return loaded.policy, Named(matrix=loaded.matrix, engine_cache=loaded.engine_cache)
    if policy.matrix is not None or policy.engine_cache is not None:
        text = f"the policy {policy.name} names files relative to its own: give the path of the policy"
        raise ConfigError(text)
    return policy, Named(matrix=None, engine_cache=None)


def _opened(open_session: Callable[[], ort.InferenceSession]) -> ort.InferenceSession:
    try:
        return open_session()
    except AdmissionError:
        raise
    except ORT_ERRORS as error:
        sign = next(iter(fallback_signs(str(error))), None)
        text = f"the session could not be opened: {' '.join(str(error).split())}"
        raise AdmissionError(text, code=sign.code if sign else "session_refused") from error


def _feeds(
    session: ort.InferenceSession,
    feeds: Mapping[str, NDArray[Any]] | None,
    dimensions: Mapping[str, int] | None,
    policy: AdmissionPolicy,
) -> Mapping[str, NDArray[Any]]:
    if feeds is not None:
        return feeds
    known = policy.model.dimensions if policy.model is not None else {}
    return seeded_feeds(session, dimensions=known if dimensions is None else dimensions)
