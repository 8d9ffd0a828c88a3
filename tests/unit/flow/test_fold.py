"""The fold: what a run is after each record of its journal."""

from dataclasses import replace

import pytest

from rollout.errors import EvidenceError, InvariantError
from rollout.flow.run import advance, begin, fold
from rollout.model.journal import (
    BundleSealed,
    CommandKind,
    CommandReceived,
    Event,
    Phase,
    PhaseEntered,
    Retired,
    StepFailed,
    StepIntended,
    seal,
)
from rollout.model.roles import Role, Slot


@pytest.fixture
def journal(simulate):
    sim = simulate()
    sim.to_the_end()
    return sim.records


@pytest.fixture
def told(simulate):
    """Fold a fresh journal with these bodies behind its request; bodies come a second apart."""

    def tell(*bodies, after=()):
        records = list(after) or simulate().records
        for body in bodies:
            last = records[-1]
            record = seal(seq=last.seq + 1, at=last.at + 1.0, generation=1, prev=last.hash, body=body)
            records = [*records, record]
        return fold(records)

    return tell


def said(command, number=0):
    return CommandReceived(id=f"c{number}", command=command, by="me", reason="")


FAILED = StepFailed(step="Shift", error="UnavailableError", message="no answer")
INTENDED = StepIntended(step="Shift", args={})


def test_empty_journal_is_refused():
    with pytest.raises(EvidenceError, match="empty"):
        fold([])


def test_journal_must_begin_with_its_request(journal):
    with pytest.raises(EvidenceError, match="begins with phase_entered"):
        fold([record for record in journal if record.body.type == "phase_entered"])


def test_second_request_is_refused(journal):
    with pytest.raises(EvidenceError, match="middle"):
        fold([journal[0], journal[0]])


def test_transition_that_is_not_in_the_table_is_refused(told):
    with pytest.raises(InvariantError):
        told(PhaseEntered(phase=Phase.SOAK, event=Event.SHIFTED))


def test_phase_that_does_not_follow_from_its_event_is_refused(told):
    with pytest.raises(InvariantError, match="the table says history"):
        told(PhaseEntered(phase=Phase.DEPLOY, event=Event.ACCEPTED))


def test_fold_of_every_prefix_is_the_run_that_grew_record_by_record(journal):
    run = begin(journal[0])
    for count, record in enumerate(journal[1:], start=2):
        run = advance(run, record)
        assert run == fold(journal[:count])
        assert run.recorded_at == record.at


def test_fold_changes_no_earlier_run(journal):
    runs = [fold(journal[:count]) for count in range(1, len(journal))]
    kept = [replace(run) for run in runs]
    fold(journal)
    assert runs == kept


def test_intended_step_stays_pending_until_a_step_works(told):
    assert told(INTENDED).pending == INTENDED
    run = told(INTENDED, FAILED)
    assert run.pending == INTENDED
    assert run.failures == (FAILED,)
    run = told(INTENDED, FAILED, Retired(slot=Slot.GREEN))
    assert (run.pending, run.failures, run.steps) == (None, (), 1)


def test_commands_do_not_settle_what_is_pending(told):
    run = told(INTENDED, FAILED, said(CommandKind.PAUSE))
    assert (run.pending, run.failures) == (INTENDED, (FAILED,))


def test_new_phase_starts_its_counts_anew(told):
    run = told(INTENDED, FAILED, PhaseEntered(phase=Phase.HISTORY, event=Event.ACCEPTED))
    assert (run.failures, run.steps, run.phase) == ((), 0, Phase.HISTORY)
    assert run.entered_at == run.recorded_at


def test_restored_run_has_nothing_pending(simulate, told):
    before = simulate().until(Phase.CANARY).records
    breached = PhaseEntered(phase=Phase.ROLLBACK, event=Event.BREACHED)
    restored = PhaseEntered(phase=Phase.ROLLED_BACK, event=Event.RESTORED)
    assert told(INTENDED, breached, after=before).pending == INTENDED
    assert told(INTENDED, breached, restored, after=before).pending is None


def test_last_word_on_pausing_counts(told):
    pause, resume = said(CommandKind.PAUSE), said(CommandKind.RESUME)
    assert not told().paused
    assert told(pause).paused
    assert not told(pause, resume).paused
    assert told(pause, resume, pause).paused
    assert not told(said(CommandKind.APPROVE)).paused


def test_first_abort_is_the_one_that_counts(told):
    run = told(said(CommandKind.ABORT, 1), said(CommandKind.ABORT, 2))
    assert run.aborted.id == "c1"


def test_approval_counts_only_once_everything_is_proven(simulate, told):
    sim = simulate(approval="before_shift").until(Phase.CANARY)
    for stage in ("canary", "load"):
        assert not told(said(CommandKind.APPROVE), after=sim.records).approved
        while stage not in sim.run.verdicts:
            sim.turn()
    run = told(said(CommandKind.APPROVE), after=sim.records)
    assert run.approved
    assert (run.budgets("canary"), run.budgets("load")) == (1, 1)
    assert {"canary", "load"} <= set(run.verdicts)


def test_approval_of_an_undecided_canary_takes_its_verdict_back_and_grants_pairs(simulate, told):
    sim = simulate(latency={"pairs_max": 4}, on_inconclusive="hold")
    while "canary" not in sim.run.verdicts:
        sim.turn()
    run = told(said(CommandKind.APPROVE), after=sim.records)
    assert (run.approved, run.budgets("canary"), "canary" in run.verdicts) == (False, 2, False)


def test_approval_of_an_undecided_load_phase_grants_it_one_more_budget(simulate, told):
    sim = simulate(load={"windows_max": 2}, on_inconclusive="hold")
    while "load" not in sim.run.verdicts:
        sim.turn()
    run = told(said(CommandKind.APPROVE), after=sim.records)
    assert (run.approved, run.budgets("load"), "load" in run.verdicts, "canary" in run.verdicts) == (
        False,
        2,
        False,
        True,
    )


def test_there_is_no_fingerprint_before_admission(told):
    with pytest.raises(InvariantError):
        told().fingerprint()


def test_fingerprint_changes_with_release_snapshot_and_instances(simulate):
    run = simulate().until(Phase.CANARY).run
    read = run.snapshots
    others = [
        replace(run, request=run.request.model_copy(update={"release": "sha256:" + "1" * 64})),
        replace(run, snapshots=read.model_copy(update={"snapshot_digests": {"candidate": "other"}})),
        replace(run, snapshots=read.model_copy(update={"pod_uids": {"candidate": ["other"]}})),
    ]
    assert len({one.fingerprint() for one in (run, *others)}) == 4


def test_fingerprint_does_not_hang_on_the_incumbent_or_on_the_order_of_instances(simulate):
    run = simulate().until(Phase.CANARY).run
    one, other = (
        replace(
            run, snapshots=run.snapshots.model_copy(update={"pod_uids": {"candidate": uids, "incumbent": [uids[0]]}})
        )
        for uids in (["a", "b"], ["b", "a"])
    )
    assert one.fingerprint() == other.fingerprint()


def test_instances_are_unknown_before_admission(told):
    assert told().pod_uids(Role.CANDIDATE) == ()


def test_cause_of_a_rollback_outlives_what_the_rollback_says(simulate, told):
    sim = simulate()
    sim.say(CommandKind.ABORT)
    sim.until(Phase.REFUSED)
    assert sim.run.cause is Event.ABORTED
    sim = simulate().until(Phase.CANARY)
    sim.say(CommandKind.ABORT)
    sim.to_the_end()
    assert sim.run.phase is Phase.ROLLED_BACK
    assert (sim.run.cause, sim.codes()) == (Event.ABORTED, ["aborted"])
    assert told(BundleSealed(files={}), after=sim.records).sealed


def test_slot_that_should_serve_is_the_candidates_only_after_promotion(journal):
    for count in range(1, len(journal) + 1):
        run = fold(journal[:count])
        assert run.serving() is (Slot.GREEN if run.phase is Phase.PROMOTED else Slot.BLUE)
