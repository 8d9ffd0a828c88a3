"""A run's inputs, read back from its own bundle: later edits of files change nothing about a run that has begun."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from rollout.errors import EvidenceError
from rollout.evidence.objects import ObjectStore
from rollout.flow.run import ADMISSION, CANARY, DRIFT, RECHECK, Run
from rollout.gates.jury import Jury
from rollout.model.evidence import AaHistory, Baseline
from rollout.model.journal import RunKind, RunRequested
from rollout.model.policy import Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.roles import Role
from rollout.model.snapshot import CapabilitySnapshot, parse_snapshot
from rollout.model.verdict import Verdict
from rollout.model.waiver import day_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Dossier:
    """What a run was asked with, and the store that holds what it found."""

    objects: ObjectStore
    policy: Policy
    prompts: PromptSet
    release: Release
    incumbent_release: Release | None

    @property
    def names(self) -> Mapping[Role, str]:
        """The releases' names, for people."""
        known = {Role.CANDIDATE: self.release.name}
        return known if self.incumbent_release is None else known | {Role.INCUMBENT: self.incumbent_release.name}

    def baseline(self, digest: str) -> Baseline:
        """Return a baseline of the bundle.

        Raises:
            EvidenceError: It is missing, damaged or of another schema.
        """
        try:
            return Baseline.model_validate(self.objects.get_json(digest))
        except ValidationError as error:
            raise EvidenceError(f"object {digest} is not a baseline: {error}") from error

    def snapshot(self, run: Run, role: Role) -> CapabilitySnapshot | None:
        """Return the capability snapshot that a role gave; None where it could not be read.

        Raises:
            EvidenceError: The stored object is damaged.
        """
        digest = run.snapshots.snapshots.get(role.value) if run.snapshots else None
        if digest is None:
            return None
        try:
            return parse_snapshot(self.objects.get_json(digest))
        except ValueError as error:
            raise EvidenceError(f"object {digest} is not a capability snapshot: {error}") from error

    def seat_jury(self, run: Run) -> Jury:
        """Return a jury that has heard every pair of the run so far."""
        jury = Jury(
            policy=self.policy,
            prompts=self.prompts,
            history=self._history(run),
            proving_stage=CANARY,
            later_stages=len(self.policy.shift.weights) + 1,
            pods=self.release.replicas,
        )
        if ADMISSION in run.verdicts:
            self.conclude(jury, run, ADMISSION)
        for stage in run.judged:
            for pair in run.pairs[stage]:
                jury.hear(pair)
        for pairs in run.windows.values():
            for windows in pairs:
                jury.hear_windows(windows)
        return jury

    def _history(self, run: Run) -> AaHistory | None:
        """Return what the run's pairs are judged by; a drift check may take the history of the release before."""
        if run.history is None:
            return None
        baseline = self.baseline(run.history)
        verify = run.request.kind is RunKind.VERIFY
        return replace(baseline.history, ratio=baseline.yardstick) if verify else baseline.history

    def conclude(self, jury: Jury, run: Run, stage: str) -> Verdict:
        """Return the verdict that ends a stage."""
        problems = run.snapshots.problems if run.snapshots else {}
        # From the journal, never from a clock: waivers end, and a verdict is derived again in later years.
        today = day_of(run.requested_at)
        if stage == ADMISSION:
            return jury.admit(
                incumbent=self.snapshot(run, Role.INCUMBENT),
                candidate=self.snapshot(run, Role.CANDIDATE),
                problems=problems,
                compared=run.request.kind is not RunKind.BOOTSTRAP,
                today=today,
            )
        if stage == DRIFT:
            return jury.drift(
                run.samples,
                snapshot=self.snapshot(run, Role.INCUMBENT),
                baseline=self.baseline(run.history) if run.history else None,
                problems=problems,
                today=today,
            )
        if stage == RECHECK:
            return jury.recheck()
        return jury.conclude(stage, live=run.live.get(stage), readings=run.readings)


def open_dossier(objects: ObjectStore, request: RunRequested) -> Dossier:
    """Read the inputs that a run's first record names.

    Raises:
        EvidenceError: An input is missing, damaged or of another schema.
    """
    try:
        restore = request.incumbent_release
        return Dossier(
            objects=objects,
            policy=Policy.model_validate(objects.get_json(request.policy)),
            prompts=PromptSet.model_validate(objects.get_json(request.prompts)),
            release=Release.model_validate(objects.get_json(request.release)),
            incumbent_release=None if restore is None else Release.model_validate(objects.get_json(restore)),
        )
    except ValidationError as error:
        raise EvidenceError(f"run {request.run_id}: an input of the bundle cannot be read: {error}") from error
