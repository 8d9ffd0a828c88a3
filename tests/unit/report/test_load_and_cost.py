"""The load phase and its cost in a report."""

import json

import pytest

from rollout.gates.load import LoadTests
from rollout.model.inventory import Absent
from rollout.model.load import LoadWindow, WindowPair
from rollout.model.policy import CostModel, LoadDemand
from rollout.model.roles import Role
from rollout.model.verdict import Outcome, combine
from rollout.report.cost import cost_json, cost_lines, cost_rows
from rollout.report.load import load_curves, load_json, load_lines, load_rows, load_table
from rollout.stats.load_curve import Tail

PRICE = CostModel(currency="USD", gpu_hour=3.6, gpus_per_instance=1.0)
ONE_EACH = dict.fromkeys(Role, 1)
DEMAND = LoadDemand.model_validate(
    {
        "concurrencies": [2, 8],
        "batches": [4],
        "arrivals": ["poisson"],
        "arrival_share": 0.6,
        "window_s": 2,
        "windows_max": 12,
        "throughput_ratio_min": 0.8,
        "p95_ratio_max": 1.5,
        "error_rate_max": 0.02,
        "false_rollback_rate": 0.01,
        "false_promote_rate": 0.05,
        "seconds_max": 180,
        "requests_max": 20000,
        "cost_max": None,
    }
)


def window(pictures, *, failed=0, latency_s=0.1):
    return LoadWindow(
        seconds=2.0,
        offered=pictures + failed,
        completed=pictures,
        failed=failed,
        answered=pictures,
        pictures=pictures,
        busy_s=2.0,
        p50_s=latency_s,
        p95_s=latency_s,
        p99_s=latency_s,
        samples="sha256:" + "0" * 64,
        detail="status 429" if failed else "",
    )


def pairs(level, count, *, incumbent, candidate):
    return tuple(
        WindowPair(
            level=level, number=number, first=Role.INCUMBENT, rate_per_s=0.0, incumbent=incumbent, candidate=candidate
        )
        for number in range(count)
    )


WINDOWS = {
    "concurrency-2": pairs("concurrency-2", 6, incumbent=window(40), candidate=window(40)),
    "concurrency-8": pairs(
        "concurrency-8",
        3,
        incumbent=window(60, latency_s=0.2),
        candidate=window(20, failed=40, latency_s=None),
    ),
    "batch-4": pairs("batch-4", 1, incumbent=window(400), candidate=window(400)),
}


@pytest.fixture
def judged():
    tests = LoadTests(DEMAND)
    for level in WINDOWS.values():
        for one in level:
            tests.hear(one)
    return combine("load", tests.results())


def test_each_measured_level_is_a_row_with_both_colours(judged):
    good, bad, _ = load_rows(WINDOWS, judged)
    assert (good.level, good.outcome, good.windows) == ("concurrency-2", Outcome.PASS, 6)
    assert good.slowdown.value == pytest.approx(1.0)
    assert good.slowdown.upper < good.slowdown.allowed
    assert (bad.incumbent.pictures_per_s, bad.candidate.pictures_per_s) == (30.0, 10.0)
    assert (bad.candidate.failed, bad.candidate.offered) == (120, 180)
    assert bad.outcome is Outcome.INCONCLUSIVE


def test_a_quantile_that_was_never_answered_is_said_in_words_and_is_null_in_json(judged):
    rows, curves = load_rows(WINDOWS, judged), load_curves(WINDOWS)
    assert "P95 200 ms to not in time" in load_lines(rows, curves)[1]
    assert "120 of 180 failed" in load_lines(rows, curves)[1]
    written = json.loads(json.dumps(load_json(rows, curves), allow_nan=False))
    assert written["levels"][1]["candidate"]["p95_s"] is None
    assert written["levels"][1]["slowdown"]["upper"] is None


def test_the_table_has_one_cell_for_each_column(judged):
    table = load_table(load_rows(WINDOWS, judged))
    assert len(table) == 2 + 3
    assert {one.count("|") for one in table} == {14}


def test_without_windows_there_is_nothing_to_show():
    assert load_rows({}, None) == ()
    assert load_table(()) == ()
    assert load_lines((), load_curves({})) == ()


def test_windows_that_nobody_judged_are_shown_without_an_interval():
    row = load_rows(WINDOWS, None)[0]
    assert row.outcome is Outcome.INCONCLUSIVE
    assert isinstance(row.slowdown, Absent)


def test_each_colour_has_its_own_curve_from_the_concurrency_levels_only():
    curves = load_curves(WINDOWS)
    assert (curves[Role.INCUMBENT].knee, curves[Role.INCUMBENT].tail) == (8, Tail.RISING)
    assert (curves[Role.CANDIDATE].knee, curves[Role.CANDIDATE].tail) == (2, Tail.CHAOTIC)
    assert isinstance(load_curves({"concurrency-2": WINDOWS["concurrency-2"]})[Role.CANDIDATE], Absent)


def test_each_colour_is_priced_at_its_best_concurrency_and_never_at_a_batch_level():
    old, new = cost_rows(PRICE, WINDOWS, instances=ONE_EACH)
    assert (old.role, old.level, old.windows) == (Role.INCUMBENT, "concurrency-8", 3)
    assert (new.role, new.level, new.windows) == (Role.CANDIDATE, "concurrency-2", 6)
    assert old.costing.cost_per_1000 == pytest.approx(1000 / 30 * 0.001)
    assert new.costing.requests_per_gpu_hour == pytest.approx(20 * 3600)


def test_more_instances_for_the_same_throughput_cost_more():
    single, _ = cost_rows(PRICE, WINDOWS, instances=ONE_EACH)
    double, _ = cost_rows(PRICE, WINDOWS, instances=dict.fromkeys(Role, 2))
    assert double.costing.cost_per_1000 == pytest.approx(2 * single.costing.cost_per_1000)


def test_lines_and_json_say_what_is_known_and_null_what_is_not():
    rows = cost_rows(PRICE, WINDOWS, instances=ONE_EACH)
    assert cost_lines(rows)[1].startswith("candidate: 0.05 [0.05, 0.05] USD per 1000 pictures")
    written = json.loads(json.dumps(cost_json(rows), allow_nan=False))
    assert written["incumbent"]["cost_per_1000_pictures"]["upper"] is None
    assert written["candidate"]["requests_per_gpu_hour"]["value"] == pytest.approx(72000)


@pytest.mark.parametrize(
    ("price", "windows", "instances", "told"),
    [
        (None, WINDOWS, ONE_EACH, "names no price"),
        (PRICE, {}, ONE_EACH, "no window at a concurrency level"),
        (PRICE, {"batch-4": WINDOWS["batch-4"]}, ONE_EACH, "no window at a concurrency level"),
        (PRICE, WINDOWS, {Role.INCUMBENT: 1}, "how many instances the candidate had"),
    ],
)
def test_a_cost_that_cannot_be_told_is_absent_with_the_reason(price, windows, instances, told):
    rows = cost_rows(price, windows, instances=instances)
    assert isinstance(rows, Absent)
    assert told in rows.reason
    assert cost_lines(rows) == (f"not known: {rows.reason}",)
    assert cost_json(rows) == {"absent": rows.reason}
