import math

import pytest

from rollout.flow.run import CANARY, fold
from rollout.gates.result import result
from rollout.model.evidence import SampleStatus
from rollout.model.inventory import Absent
from rollout.model.journal import BundleSealed, Event, Phase, RunKind, StepIntended
from rollout.model.roles import Role
from rollout.model.snapshot import CapabilitySnapshot, ok
from rollout.model.verdict import Outcome, Reason, combine
from rollout.report.figures import Estimate
from rollout.report.headline import Ending, is_wanted
from rollout.report.overhead import overhead_of
from rollout.report.stages import StageOutcome
from rollout.report.summary import summarise

NARROW = CapabilitySnapshot(
    schema="rollout.snapshot/v1",
    fields={
        "runtime.ort.graph_optimization": ok("all", "test"),
        "runtime.ort.version": ok("1.20.1", "test"),
        "server.queue_limit": ok("1", "test"),
    },
)


def summary_of(book, names):
    return summarise(book.run(), book.records, names=names, cost=None)


def row(summary, stage):
    return next(one for one in summary.stages if one.stage == stage)


@pytest.mark.parametrize(
    ("name", "ending", "wanted"),
    [
        ("promotion", Ending.PROMOTED, True),
        ("latency_rollback", Ending.ROLLED_BACK, False),
        ("inconclusive", Ending.ROLLED_BACK, False),
        ("abort", Ending.ROLLED_BACK, False),
        ("refused", Ending.REFUSED, False),
        ("bootstrap", Ending.PROMOTED, True),
        ("verified", Ending.VERIFIED, True),
        ("drifted", Ending.DRIFTED, False),
        ("stuck", Ending.ROLLBACK_INCOMPLETE, False),
        ("requested_rollback", Ending.ROLLED_BACK, True),
        ("unfinished", Ending.UNFINISHED, False),
    ],
)
def test_ending_is_named_and_known_to_be_wanted_or_not(story, names, name, ending, wanted):
    summary = summary_of(story(name), names)
    assert summary.ending is ending
    assert is_wanted(summary.ending, summary.kind) is wanted


def test_every_prefix_of_every_journal_has_a_summary(every_story, names):
    for end in range(1, len(every_story.records) + 1):
        records = every_story.records[:end]
        assert summarise(fold(records), records, names=names, cost=None).headline


def test_headline_of_a_promotion_holds_the_proof(story, names):
    headline = summary_of(story("promotion"), names).headline
    assert headline == ("promoted sdxl-8 after 54 pairs: median latency x0.798 [0.791, 0.806] of blue's, allowed x1.15")


def test_headline_of_a_slow_candidate_names_the_median_once_its_interval_tells(new_book, names):
    book = new_book().request(RunKind.PROMOTE, baseline=f"sha256:{5:064x}").enter(Phase.HISTORY, Event.ACCEPTED)
    book.enter(Phase.DEPLOY, Event.HISTORY_READY).enter(Phase.ADMIT, Event.READY).enter(Phase.WARMUP, Event.ADMITTED)
    book.canary(1.26)
    book.roll_back(Event.BREACHED, *book.judged[CANARY].reasons())
    summary = summary_of(book, names)
    pairs = len(book.run().pairs[CANARY])
    p50 = row(summary, CANARY).p50
    assert isinstance(p50, Estimate)
    assert p50.lower > p50.allowed
    assert summary.headline == (
        f"rolled back after {pairs} pairs: median latency x{p50.value:.3g} [{p50.lower:.3g}, {p50.upper:.3g}] "
        "of blue's, allowed x1.15"
    )


def test_headline_names_the_tail_where_the_tail_decided(story, names):
    headline = summary_of(story("latency_rollback"), names).headline
    assert headline.startswith("rolled back after 3 pairs: tail latency x1.39 [1.36, inf] of the history's, allowed")


def test_headline_never_shows_an_infinite_ratio_as_a_number(new_book, names):
    book = new_book().request(RunKind.PROMOTE, baseline=f"sha256:{5:064x}").enter(Phase.HISTORY, Event.ACCEPTED)
    book.enter(Phase.DEPLOY, Event.HISTORY_READY).enter(Phase.ADMIT, Event.READY).enter(Phase.WARMUP, Event.ADMITTED)
    book.enter(Phase.CANARY, Event.WARM)
    while book.judged.get(CANARY) is None or book.judged[CANARY].outcome.value == "INCONCLUSIVE":
        book.pair(CANARY, 3.0, status=SampleStatus.STOPPED, server_s=0.0)
    book._conclude(book.judged[CANARY])
    book.roll_back(Event.BREACHED, *book.judged[CANARY].reasons())
    summary = summary_of(book, names)
    assert "xinf" not in summary.headline
    canary = row(summary, CANARY)
    assert canary.candidate_s == math.inf
    assert canary.candidate_failed == 0
    assert canary.candidate_stopped == canary.requests


def test_undecided_canary_says_that_there_is_no_decision(story, names):
    summary = summary_of(story("inconclusive"), names)
    assert summary.headline.startswith("rolled back after 12 pairs: no decision; median latency x1.15")
    assert row(summary, CANARY).outcome is StageOutcome.INCONCLUSIVE


def test_verified_run_tells_the_latency_and_not_the_first_gate(story, names):
    assert summary_of(story("verified"), names).headline == (
        "verified after 20 requests: median latency x1.02 [0.98, 1.06] of the baseline, allowed x1.15"
    )


def test_incomplete_rollback_calls_for_a_person_and_tells_both_reasons(story, names):
    headline = summary_of(story("stuck"), names).headline
    assert headline == ("rollback incomplete, a person is needed: after 60 s: no; it began with: the router is gone")


def test_capability_difference_is_the_culprit_where_latency_is_the_cause(story, names):
    for name in ("latency_rollback", "drifted"):
        (suspect,) = summary_of(story(name), names).suspects
        assert suspect.difference == "runtime.ort.graph_optimization: all -> disabled"
        assert suspect.score > 0.8
        assert suspect.why.endswith("it fits (measured)")
        assert "`--graph-optimization all`" in suspect.settles


@pytest.mark.parametrize(
    ("gate", "code"), [("load concurrency-8", "load_throughput_over_margin"), ("instances", "memory_grows")]
)
def test_capability_difference_is_a_suspect_of_a_breach_under_load_or_of_an_instance(new_book, names, gate, code):
    book = new_book().request(RunKind.PROMOTE, baseline=f"sha256:{5:064x}").enter(Phase.HISTORY, Event.ACCEPTED)
    book.admitted(NARROW, event=Event.HISTORY_READY)
    book._conclude(combine("load", (result(gate, Outcome.BREACH, code, "worse than the incumbent"),)))
    book.enter(Phase.CANARY, Event.WARM)
    book.roll_back(Event.BREACHED, *book.run().verdicts["load"].verdict.reasons())
    (suspect,) = summary_of(book, names).suspects
    assert suspect.difference == "server.queue_limit: absent -> 1"
    assert (suspect.score > 0.0) is gate.startswith("load")


def rechecked(new_book, outcome, code, text):
    book = new_book().request(RunKind.VERIFY, run_id="r000007-verify-sdxl-8", baseline=f"sha256:{5:064x}")
    book.drift(Outcome.BREACH, "latency_drifted", "median latency x1.2 [1.17, 1.25] of the baseline, allowed x1.15")
    book.enter(Phase.RECHECK, Event.ALARMED, *book.run().verdicts["drift"].verdict.reasons())
    book._conclude(combine("recheck", (result("recheck", outcome, code, text),)))
    return book


def test_alarm_that_the_recheck_cleared_is_told_by_the_recheck_and_accuses_nobody(new_book, names):
    book = rechecked(new_book, Outcome.PASS, "drift_of_the_environment", "the earlier stack became slower alike")
    summary = summary_of(book.enter(Phase.VERIFIED, Event.CLEARED), names)
    assert summary.headline == "verified in recheck: the earlier stack became slower alike"
    assert summary.suspects == ()


def test_drift_that_the_recheck_confirmed_names_a_suspect(new_book, names):
    book = rechecked(new_book, Outcome.BREACH, "drift_of_the_stack", "what serves is slower than the earlier stack")
    book.enter(Phase.DRIFTED, Event.DRIFTED, *book.run().verdicts["recheck"].verdict.reasons())
    summary = summary_of(book, names)
    assert summary.headline == "drifted in recheck: what serves is slower than the earlier stack"
    assert summary.suspects[0].score > 0.8


def test_capability_difference_is_no_culprit_where_something_else_is_the_cause(story, names):
    promoted = summary_of(story("promotion"), names)
    assert promoted.differences == ("runtime.ort.version: 1.20.1 -> 1.21.0",)
    assert promoted.suspects == ()


def test_capability_difference_is_no_culprit_of_an_abort(new_book, story, names):
    book = new_book()
    book.records = list(story("unfinished").records)
    book.roll_back(Event.ABORTED, Reason(code="aborted", text="enough"))
    summary = summary_of(book, names)
    assert summary.differences
    assert summary.suspects == ()


def test_stages_that_were_never_reached_are_there_as_skipped(story, names):
    summary = summary_of(story("latency_rollback"), names)
    assert [(one.stage, one.outcome) for one in summary.stages] == [
        ("history", StageOutcome.SKIPPED),
        ("admission", StageOutcome.PASS),
        ("canary", StageOutcome.BREACH),
        ("load", StageOutcome.SKIPPED),
        ("shift-100", StageOutcome.SKIPPED),
        ("soak", StageOutcome.SKIPPED),
    ]
    assert row(summary, "history").note == "a stored history was used"


def test_shift_stages_stand_in_the_order_of_their_weights(story, names):
    stages = [one.stage for one in summary_of(story("promotion"), names).stages]
    assert stages == ["history", "admission", "canary", "load", "shift-10", "shift-50", "shift-100", "soak"]


def test_stage_that_was_left_without_a_verdict_is_interrupted_whatever_its_gates_said(story, names):
    canary = row(summary_of(story("abort"), names), CANARY)
    assert canary.outcome is StageOutcome.INTERRUPTED
    assert canary.requests == 4


def test_history_that_was_not_finished_is_not_called_measured(story, names):
    records = story("promotion").records
    end = next(place for place, one in enumerate(records) if one.body.type == "pair_measured") + 3
    summary = summarise(fold(records[:end]), records[:end], names=names, cost=None)
    assert row(summary, "history").outcome is StageOutcome.INTERRUPTED


def test_missing_estimate_is_absent_with_a_reason(story, names):
    admission = row(summary_of(story("promotion"), names), "admission")
    assert isinstance(admission.p50, Absent)
    assert admission.p50.reason


def test_timeline_adds_up_to_the_time_until_the_end(story, names):
    summary = summary_of(story("promotion"), names)
    assert [one.phase for one in summary.timeline][:3] == [Phase.PREFLIGHT, Phase.HISTORY, Phase.DEPLOY]
    assert summary.timeline[-1].phase is Phase.PROMOTED
    assert sum(one.seconds for one in summary.timeline) == pytest.approx(summary.seconds)


def test_clock_that_was_set_back_gives_no_negative_duration(story, names):
    records = [one.model_copy(update={"at": one.at - 50.0 * (one.seq > 20)}) for one in story("promotion").records]
    summary = summarise(fold(records), records, names=names, cost=None)
    assert min(one.seconds for one in summary.timeline) >= 0.0
    assert min(one.seconds for one in summary.stages) >= 0.0


def test_weights_are_those_that_the_router_reported(story, names):
    weights = summary_of(story("promotion"), names).weights
    assert [(one.blue, one.green) for one in weights] == [(90, 10), (50, 50), (0, 100)]


def test_client_overhead_is_told_by_role(story):
    incumbent, candidate = overhead_of(story("latency_rollback").run())
    assert (incumbent.role, candidate.role) == (Role.INCUMBENT, Role.CANDIDATE)
    assert incumbent.median_s == pytest.approx(0.002)
    assert 0.0 < incumbent.share < 0.01


def test_commands_are_told_with_who_and_when(story, names):
    (command,) = summary_of(story("abort"), names).commands
    assert (command.command.value, command.by) == ("abort", "bob@host")


def test_first_stack_has_no_incumbent_and_says_so(story, names):
    incumbent, candidate = summary_of(story("bootstrap"), {Role.CANDIDATE: names[Role.CANDIDATE]}).stacks
    assert isinstance(incumbent.release, Absent)
    assert candidate.release == "sdxl-8"


def test_drift_check_has_no_candidate(story, names):
    _, candidate = summary_of(story("verified"), names).stacks
    assert candidate.release == Absent(reason="this run has no candidate")


def test_change_that_may_have_been_made_is_told(new_book, names):
    book = new_book().request(RunKind.PROMOTE).enter(Phase.HISTORY, Event.ACCEPTED)
    book.add(StepIntended(step="Deploy", args={"slot": "green"}))
    assert summary_of(book, names).unsettled == "Deploy"


def test_sealing_a_run_changes_only_when_it_ended(new_book, story, names):
    book = new_book()
    book.records = list(story("promotion").records)
    before = summary_of(book, names)
    book.add(BundleSealed(files={}))
    after = summary_of(book, names)
    assert after.headline == before.headline
    assert after.stages == before.stages
    assert after.timeline == before.timeline
