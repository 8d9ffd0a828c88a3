"""What stands now, as the newest settled run tells: who serves, what with, and what is kept hot beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from rollout.errors import EvidenceError
from rollout.evidence.journal import read_journal
from rollout.evidence.objects import ObjectStore
from rollout.evidence.runs import last_run, run_folder, run_ids
from rollout.flow.run import Run, fold
from rollout.model.base import Strict
from rollout.model.inventory import Absent
from rollout.model.journal import Phase, RunKind, RunRequested
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.roles import Slot

M = TypeVar("M", bound=Strict)

SETTLED = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ROLLBACK_INCOMPLETE, Phase.CALIBRATED})
"""Phases after which traffic may stand elsewhere than before; a refused or a verifying run changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The outcome of the newest run that may have changed something.

    Attributes:
        run: That run.
        serving: The slot that should take traffic.
        release: What should run there.
        other: What the same run had in the other slot: the standby after a promotion, the candidate after a rollback.
        earlier: What served before `release` was promoted, and what a rollback returns to.
        standby_until: Unix time until which the other slot is kept hot; None where it is not.
    """

    run: Run
    serving: Slot
    release: Release
    other: Release | Absent
    earlier: Release | Absent
    standby_until: float | None


def standing(state: Path) -> Standing | Absent:
    """Find what stands now.

    Raises:
        EvidenceError: The journal that tells is damaged.
    """
    now = None
    for run in _settled(state):
        now = now or run
        kept = {RunKind.PROMOTE, RunKind.CALIBRATE}
        if run.request.kind not in kept or run.phase is Phase.PROMOTED:
            return _standing(state, now, source=run)
    reason = "nothing was ever promoted here; start with `rollout promote --bootstrap`"
    return Absent(reason=reason) if now is None else _standing(state, now, source=now)


def _settled(state: Path) -> Iterator[Run]:
    """Yield the runs that may have changed something, newest first."""
    for run_id in run_ids(state):
        run = load_run(state, run_id)
        if run.request.kind is not RunKind.VERIFY and run.phase in SETTLED:
            yield run


def load_run(state: Path, run_id: str) -> Run:
    """Fold the journal of one run; a line cut off by a crash is left out.

    Raises:
        EvidenceError: The journal is damaged or missing.
    """
    return fold(read_journal(run_folder(state, run_id).journal, tolerate_torn=True))


def left_over(state: Path) -> Run | None:
    """Return the newest run if it is not sealed: unfinished, or ended by a crash before its bundle was sealed.

    Raises:
        EvidenceError: Its journal is damaged.
    """
    newest = last_run(state)
    if isinstance(newest, Absent):
        return None
    run = load_run(state, newest.run_id)
    return None if run.sealed else run


def newest_prompts(state: Path) -> PromptSet | Absent:
    """Return the prompts that the newest run began with.

    Raises:
        EvidenceError: Its bundle is damaged.
    """
    return _newest_input(PromptSet, state, lambda request: request.prompts)


def newest_policy(state: Path) -> Policy | Absent:
    """Return the policy that the newest run began with.

    Raises:
        EvidenceError: Its bundle is damaged.
    """
    return _newest_input(Policy, state, lambda request: request.policy)


def _standing(state: Path, run: Run, *, source: Run) -> Standing | Absent:
    """Tell what `run` left; `source` is the run that put there what serves."""
    promoted = run.phase is Phase.PROMOTED
    request = run.request
    if request.incumbent_release is None and not promoted:
        return Absent(reason=f"the first stack did not come up in {request.run_id}; nothing serves")
    objects = ObjectStore(run_folder(state, request.run_id).objects)
    candidate = _release(objects, request.release)
    incumbent = _release(objects, request.incumbent_release)
    release, other = (candidate, incumbent) if promoted else (incumbent, candidate)
    if isinstance(release, Absent):
        return release
    return Standing(
        run=run,
        serving=run.serving(),
        release=release,
        other=other,
        earlier=_earlier(state, source),
        standby_until=run.entered_at + _standby_s(objects, run) if promoted and request.incumbent_release else None,
    )


def _earlier(state: Path, source: Run) -> Release | Absent:
    if source.phase is not Phase.PROMOTED:
        return Absent(reason=f"{source.request.run_id} was a rollback already; promote the release that you want")
    if source.request.incumbent_release is None:
        return Absent(reason="nothing ran before the first stack")
    return _release(ObjectStore(run_folder(state, source.request.run_id).objects), source.request.incumbent_release)


def _release(objects: ObjectStore, digest: str | None) -> Release | Absent:
    if digest is None:
        return Absent(reason="there was no stack before the first")
    return _valid(Release, objects, digest)


def _standby_s(objects: ObjectStore, run: Run) -> float:
    return _valid(Policy, objects, run.request.policy).standby_s


def _newest_input(model: type[M], state: Path, digest_of: Callable[[RunRequested], str]) -> M | Absent:
    newest = last_run(state)
    if isinstance(newest, Absent):
        return newest
    digest = digest_of(load_run(state, newest.run_id).request)
    return _valid(model, ObjectStore(newest.objects), digest)


def _valid(model: type[M], objects: ObjectStore, digest: str) -> M:
    try:
        return model.model_validate(objects.get_json(digest))
    except ValidationError as error:
        raise EvidenceError(f"object {digest} is no {model.__name__.lower()} of this version: {error}") from error
