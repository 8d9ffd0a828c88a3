"""A verdict that a waiver took part in is derived again on any later day: the run's own day counts."""

from datetime import UTC, datetime

import pytest
import yaml

from rollout.errors import EvidenceError
from rollout.evidence.dossier import open_dossier
from rollout.evidence.journal import Journal
from rollout.evidence.objects import ObjectStore
from rollout.evidence.replay import replay
from rollout.evidence.runs import run_folder
from rollout.flow.run import ADMISSION, fold
from rollout.model.journal import Event, Phase, PhaseEntered, RunKind, RunRequested, SnapshotsRead, VerdictGiven
from rollout.model.roles import Slot
from rollout.model.snapshot import CapabilitySnapshot, ok
from rollout.model.verdict import Outcome

WAIVER = {"what": "gpu.driver.version", "who": "ops", "why": "nodes without a driver", "until": "2020-06-30"}
PROMPT = {"id": "cat", "text": "a cat", "seed": 1, "steps": 4, "size": "64x64"}


@pytest.fixture
def run(tmp_path, fence, pytestconfig):
    """Judge a first stack that lacks a required field, at a moment of the year 2020; return verdict and bundle."""

    def judged(month, day, *, recorded=None):
        folder = run_folder(tmp_path / f"{month}-{day}", "r000001-bootstrap")
        objects = ObjectStore(folder.objects, fence=fence)
        policy = yaml.safe_load((pytestconfig.rootpath / "policies" / "local.yaml").read_text())
        policy["capabilities"] = {"required": [WAIVER["what"]], "allowed_differences": [], "waivers": [WAIVER]}
        snapshot = CapabilitySnapshot(schema="rollout.snapshot/v1", fields={"policy.profile": ok("gpu", "a test")})
        request = RunRequested(
            run_id=folder.run_id,
            kind=RunKind.BOOTSTRAP,
            stack="s",
            incumbent=Slot.GREEN,
            candidate=Slot.BLUE,
            policy=objects.put_json(policy),
            prompts=objects.put_json({"schema": "rollout.prompts/v1", "prompts": [PROMPT]}),
            release=objects.put_json({"schema": "rollout.release/v1", "name": "a", "command": ["true"], "env": {}}),
            incumbent_release=None,
            baseline=None,
            standby_until=None,
            requested_by="a test",
            environment={},
        )
        at = datetime(2020, month, day, 23, 59, tzinfo=UTC).timestamp()
        journal = Journal.create(folder.journal, fence=fence, first=request, at=at)
        journal.append(PhaseEntered(phase=Phase.DEPLOY, event=Event.FIRST), at=at)
        journal.append(PhaseEntered(phase=Phase.ADMIT, event=Event.READY), at=at)
        read = SnapshotsRead(
            snapshots={"candidate": objects.put_json(snapshot.to_json())},
            snapshot_digests={"candidate": snapshot.digest},
            pod_uids={"candidate": ["one"]},
            problems={},
        )
        # The stack took two minutes to start: the day of the admission is the next one.
        journal.append(read, at=at + 120.0)
        state, dossier = fold(journal.records), open_dossier(objects, request)
        verdict = dossier.conclude(dossier.seat_jury(state), state, ADMISSION)
        journal.append(VerdictGiven(verdict=recorded or verdict, fingerprint=state.fingerprint()), at=at + 120.0)
        return verdict, folder.path

    return judged


def test_waiver_that_ended_years_ago_holds_for_the_run_of_its_time(run):
    verdict, bundle = run(6, 30)
    assert verdict.outcome is Outcome.PASS
    assert "waived until 2020-06-30 by ops: nodes without a driver" in verdict.gates[0].reasons[0].text
    assert replay(bundle, unfinished_ok=True).verdicts == (verdict,)


def test_run_of_the_day_after_is_judged_without_it(run):
    verdict, bundle = run(7, 1)
    assert verdict.outcome is Outcome.BREACH
    assert verdict.gates[0].reasons[0].text.endswith("(the waiver by ops ended 2020-06-30)")
    assert replay(bundle, unfinished_ok=True).verdicts == (verdict,)


def test_verdict_that_claims_a_waiver_which_had_ended_is_found(run):
    passed, _ = run(6, 30)
    _, bundle = run(7, 1, recorded=passed)
    with pytest.raises(EvidenceError, match="the journal says"):
        replay(bundle, unfinished_ok=True)
