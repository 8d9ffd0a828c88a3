"""Cause: the table of known costs, and how differences are ranked by what was seen."""

import dataclasses
import threading
from fnmatch import fnmatchcase

import pytest

from rollout.files.load import load_admission
from rollout.gates.cause import Seen, Signature, rank, signature_of
from rollout.gates.differences import Difference, reported
from rollout.gates.known_costs import KNOWN, Effect
from rollout.gates.result import result
from rollout.model.verdict import GateResult, Outcome, Reason, Severity, combine
from rollout.serving.engines.ort import load_ort
from rollout.serving.options import ServeOptions
from rollout.serving.proof import Named, prove
from rollout.serving.snapshot import release_fields
from rollout.serving.subject import PictureSubject

GRAPH = Difference(
    key="runtime.ort.graph_optimization", before="all", after="disabled", code="tuning_changed", severity=Severity.WARN
)
SESSION = Difference(
    key="runtime.ort.session_lifetime",
    before="shared",
    after="per-request",
    code="tuning_changed",
    severity=Severity.WARN,
)
ARENA = Difference(key="runtime.ort.arena", before="true", after="false", code="tuning_changed", severity=Severity.WARN)
QUEUE = Difference(key="server.queue_limit", before="64", after="1", code="server_changed", severity=Severity.WARN)
DRIVER = Difference(
    key="gpu.driver.version", before="580.1", after="570.2", code="driver_changed", severity=Severity.BLOCK
)
NEWS = Difference(
    key="pipeline.scheduler", before="euler", after="ddim", code="pipeline_changed", severity=Severity.WARN
)
HEAVY = Difference(
    key="policy.profile", before="gpu", after="development-cpu", code="profile_changed", severity=Severity.BLOCK
)


def slow(value, low, high, *effects):
    return Signature(effects=frozenset(effects or {Effect.MEDIAN}), median=Seen(value=value, low=low, high=high))


def ranked(signature, *differences):
    return [one.difference.split(":")[0] for one in rank(differences, signature)]


def test_size_of_the_slowdown_tells_which_of_two_known_costs_it_is():
    differences = (GRAPH, SESSION)
    assert ranked(slow(1.31, 1.27, 1.36), *differences) == [GRAPH.key, SESSION.key]
    assert ranked(slow(2.6, 2.3, 2.9), *differences) == [SESSION.key, GRAPH.key]


def test_score_is_told_in_words_with_its_source_and_what_would_settle_it():
    (suspect,) = rank([GRAPH], slow(1.31, 1.27, 1.36))
    assert suspect.difference == "runtime.ort.graph_optimization: all -> disabled"
    assert suspect.score > 0.8
    assert suspect.why == (
        "touches median latency; known to cost x1.22 to x1.4, x1.27 to x1.36 was seen: it fits (measured)"
    )
    assert suspect.settles == (
        "start the release a second time with `--graph-optimization all` and `rollout compare` the two"
    )


def test_narrow_cost_that_fits_ranks_above_a_wide_one_that_fits():
    assert ranked(slow(1.3, 1.25, 1.35), ARENA, GRAPH) == [GRAPH.key, ARENA.key]


def test_cost_that_is_too_small_says_that_it_explains_less():
    (suspect,) = rank([GRAPH], slow(3.0, 2.8, 3.2))
    assert "explains less" in suspect.why
    assert 0.0 < suspect.score <= 0.2


def test_change_back_to_the_faster_side_is_no_suspect_of_slowness():
    back = dataclasses.replace(GRAPH, before="disabled", after="all")
    (suspect,) = rank([back], slow(1.3, 1.25, 1.35))
    assert suspect.score == 0.0
    assert "faster" in suspect.why


def test_open_interval_is_closed_around_the_value_and_still_ranks():
    assert ranked(slow(1.39, 0.0, float("inf")), SESSION, GRAPH) == [GRAPH.key, SESSION.key]
    assert ranked(slow(float("inf"), 3.0, float("inf")), GRAPH, SESSION) == [SESSION.key, GRAPH.key]


def test_breach_under_load_suspects_what_is_known_to_touch_load():
    seen = Signature(effects=frozenset({Effect.LOAD}), median=None)
    first, second = rank([NEWS, QUEUE], seen)
    assert (first.difference, second.score) == (str(QUEUE), 0.0)
    assert "repeat the load phase" in first.settles
    assert "`--queue-limit 64`" in first.settles


def test_slow_start_suspects_optimisations_that_are_made_at_the_start():
    seen = Signature(effects=frozenset({Effect.COLD_START}), median=None)
    on = dataclasses.replace(GRAPH, before="disabled", after="all")
    assert ranked(seen, QUEUE, on)[0] == GRAPH.key
    off = rank([GRAPH], seen)[0]
    assert off.score == 0.0


def test_what_nothing_is_known_of_ranks_last_by_severity_and_says_so():
    order = rank([NEWS, HEAVY, GRAPH, DRIVER], slow(1.31, 1.27, 1.36))
    assert [one.difference.split(":")[0] for one in order] == [GRAPH.key, DRIVER.key, HEAVY.key, NEWS.key]
    assert order[-1].score == 0.0
    assert order[-1].why == "nothing is known of what this costs; severity warn"
    assert "pipeline.scheduler as before" in order[-1].settles


def test_order_of_the_differences_changes_no_rank():
    differences = [NEWS, HEAVY, GRAPH, DRIVER, ARENA, SESSION, QUEUE]
    seen = slow(1.31, 1.27, 1.36, Effect.MEDIAN, Effect.LOAD)
    assert rank(differences, seen) == rank(differences[::-1], seen)


def latency(outcome, **figures):
    return result("latency", outcome, "latency_over_margin", "slow", figures)


def test_signature_is_taken_from_the_gates_that_did_not_pass():
    figures = {"p50_ratio": 1.3, "p50_ratio_lower": 1.2, "p50_ratio_upper": 1.4, "p50_ratio_max": 1.15}
    tail = {"tail_ratio": 1.1, "tail_ratio_max": 1.3}
    seen = signature_of([combine("canary", (latency(Outcome.BREACH, **figures, **tail),))])
    assert seen == slow(1.3, 1.2, 1.4)
    assert signature_of([combine("canary", (latency(Outcome.PASS, **figures),))]).effects == frozenset()


@pytest.mark.parametrize(
    ("gate", "code", "effects"),
    [
        ("load concurrency-8", "load_throughput_over_margin", {Effect.LOAD}),
        ("load errors", "load_errors_over_margin", {Effect.LOAD}),
        ("instances", "cold_start_slow", {Effect.COLD_START}),
        ("instances", "memory_grows", {Effect.MEMORY}),
        ("pictures", "picture_differs", set()),
        ("latency", "history_unfit", set()),
    ],
)
def test_every_breach_of_speed_start_and_memory_names_what_it_is_about(gate, code, effects):
    said = GateResult(gate=gate, outcome=Outcome.BREACH, reasons=(Reason(code=code, text="t"),))
    assert signature_of([combine("load", (said,))]).effects == effects


def test_gate_that_could_not_measure_accuses_nobody():
    for gate, code in (("load errors", "incumbent_fails_under_load"), ("instances", "instances_unread")):
        said = result(gate, Outcome.INCONCLUSIVE, code, "nothing was measured")
        assert signature_of([combine("load", (said,))]).effects == frozenset()


def test_gate_that_is_undecided_beside_a_breach_adds_nothing():
    load = result("load concurrency-8", Outcome.INCONCLUSIVE, "load_throughput_undecided", "t")
    start = result("instances", Outcome.BREACH, "cold_start_slow", "t")
    assert signature_of([combine("load", (load, start))]).effects == {Effect.COLD_START}


def test_differences_are_read_back_from_a_gate_as_they_were_reported():
    said = GateResult(
        gate="capabilities",
        outcome=Outcome.BREACH,
        reasons=(Reason(code="capability_lost", text=str(HEAVY)), Reason(code="capability_changed", text=str(GRAPH))),
    )
    assert reported(said) == (HEAVY, GRAPH)


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Every key that the reference server can collect, on this machine or on another."""
    cache = tmp_path_factory.mktemp("cache")
    options = ServeOptions(port=1, pod_uid="p", cache=cache, admission=load_admission("development-cpu").policy)
    proof = prove(
        options.admission,
        lambda: PictureSubject(engine=load_ort(options)),
        said=release_fields(options),
        named=Named(matrix=options.matrix, engine_cache=options.engine_cache),
        watch=None,
        stopped=threading.Event(),
    )
    return set(proof.snapshot.fields)


def test_every_key_of_the_table_can_be_collected_or_is_marked_as_of_another_stack(collected):
    for known in KNOWN:
        found = [key for key in collected if fnmatchcase(key, known.key)]
        assert bool(found) != known.other_stack, known.key


def test_every_option_that_the_table_says_to_try_is_an_option_of_the_server():
    options = {f"--{one.name.replace('_', '-')}" for one in dataclasses.fields(ServeOptions)}
    named = {word.strip("`") for known in KNOWN for word in known.settles.split() if word.startswith("`--")}
    assert named
    assert named <= options


def test_every_row_has_a_source_and_a_sane_range():
    for known in KNOWN:
        assert known.source
        assert known.effects
        assert known.factor is None or 0.0 < known.factor.low <= known.factor.high
