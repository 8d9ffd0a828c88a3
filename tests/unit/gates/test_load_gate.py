"""The load gates: what convicts, what passes, what is missing, and which window comes next."""

import math
import random

import pytest

from rollout.errors import ConfigError, EvidenceError
from rollout.gates.load import (
    INCUMBENT_FAILS,
    LOAD_ERRORS,
    LoadTests,
    arrival_rate,
    cost_so_far,
    gate_name,
    next_window,
    slowdown,
)
from rollout.model.load import LoadWindow, WindowPair, levels
from rollout.model.policy import CostModel, LoadDemand
from rollout.model.roles import Role
from rollout.model.verdict import Outcome, combine

SAMPLES = "sha256:" + "0" * 64
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
LEVELS = {one.name: one for one in levels(DEMAND)}


def window(*, pictures=40, failed=0, p95_s=0.1, seconds=2.0, detail=""):
    return LoadWindow(
        seconds=seconds,
        offered=pictures + failed,
        completed=pictures,
        failed=failed,
        answered=pictures,
        pictures=pictures,
        busy_s=seconds,
        p50_s=p95_s,
        p95_s=p95_s,
        p99_s=p95_s,
        samples=SAMPLES,
        detail=detail,
    )


def pair(level, number=0, *, incumbent=None, candidate=None):
    return WindowPair(
        level=level,
        number=number,
        first=Role.INCUMBENT,
        rate_per_s=0.0,
        incumbent=incumbent or window(),
        candidate=candidate or window(),
    )


def phase(candidate_at, *, incumbent_at=lambda _level, _luck: window(), demand=DEMAND, windows=None, seed=1):
    """Run a whole phase as the planner would; return the windows and the last verdict."""
    luck = random.Random(seed)  # noqa: S311 - a simulation with a seed
    tests, verdict = LoadTests(demand), None
    windows = {} if windows is None else windows
    while (due := next_window(demand, verdict, windows)) is not None:
        level, number = due
        heard = pair(level.name, number, incumbent=incumbent_at(level, luck), candidate=candidate_at(level, luck))
        windows[level.name] = (*windows.get(level.name, ()), heard)
        tests.hear(heard)
        verdict = combine("load", tests.results())
    return windows, verdict


def gate(verdict, name):
    return next(one for one in verdict.gates if one.gate == name)


def noisy(_level, luck, *, ratio=1.0):
    return window(pictures=round(40 / ratio * luck.lognormvariate(0, 0.05)), p95_s=0.1 * ratio * luck.uniform(0.9, 1.1))


def test_equal_colours_pass_every_level_in_order():
    windows, verdict = phase(noisy)
    assert verdict.outcome is Outcome.PASS
    assert list(windows) == list(LEVELS)
    assert {len(one) for one in windows.values()} <= {5, 6, 7, 8}
    assert [one.gate for one in verdict.gates] == [*(gate_name(one) for one in LEVELS), LOAD_ERRORS]


def test_a_candidate_that_is_slow_at_one_concurrency_only_is_convicted_there():
    windows, verdict = phase(lambda level, luck: noisy(level, luck, ratio=1.6 if level.concurrency == 8 else 1.0))
    assert verdict.outcome is Outcome.BREACH
    assert gate(verdict, "load concurrency-2").outcome is Outcome.PASS
    convicting = gate(verdict, "load concurrency-8")
    assert convicting.outcome is Outcome.BREACH
    assert convicting.reasons[0].code == "load_throughput_over_margin"
    assert convicting.figures["slowdown"] == pytest.approx(1.6, rel=0.15)
    assert "batch-4" not in windows


@pytest.mark.parametrize("seed", range(8))
def test_a_failure_by_chance_is_settled_by_more_windows(seed):
    """0.3% of requests fail on both colours where 1% may; one failure among a level's first requests is more."""

    def rarely_failing(_level, luck):
        failed = sum(luck.random() < 0.003 for _ in range(40))
        return window(pictures=40 - failed, failed=failed)

    demand = DEMAND.model_copy(update={"error_rate_max": 0.01, "windows_max": 200, "requests_max": 1_000_000})
    windows, verdict = phase(rarely_failing, incumbent_at=rarely_failing, demand=demand, seed=seed)
    assert verdict.outcome is Outcome.PASS
    assert max(len(one) for one in windows.values()) < 60


def test_arrivals_are_judged_by_p95_and_not_by_throughput():
    _, verdict = phase(
        lambda level, luck: window(p95_s=0.3 * luck.uniform(0.9, 1.1)) if level.pattern else noisy(level, luck)
    )
    convicting = gate(verdict, "load arrivals-poisson")
    assert (convicting.outcome, convicting.reasons[0].code) == (Outcome.BREACH, "load_latency_over_margin")


def test_refusals_at_one_level_convict_in_the_first_window_and_are_not_diluted_by_sound_levels():
    def refusing(level, luck):
        if level.concurrency == 8:
            return window(pictures=40, failed=12, detail="status 429: queue full")
        return noisy(level, luck)

    windows, verdict = phase(refusing)
    assert len(windows["concurrency-8"]) == 1
    errors = gate(verdict, LOAD_ERRORS)
    assert (errors.outcome, errors.reasons[0].code) == (Outcome.BREACH, "load_errors_over_margin")
    assert "status 429: queue full" in errors.reasons[0].text


def test_an_incumbent_that_fails_itself_ends_the_phase_undecided():
    windows, verdict = phase(
        lambda _level, _luck: window(failed=30), incumbent_at=lambda _level, _luck: window(failed=30, detail="429")
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert sum(len(one) for one in windows.values()) == 1
    assert gate(verdict, LOAD_ERRORS).reasons[0].code == INCUMBENT_FAILS


def test_a_single_failure_of_the_incumbent_does_not_end_the_phase():
    calls = []

    def once(_level, _luck):
        calls.append(1)
        return window(failed=1 if len(calls) == 1 else 0)

    _, verdict = phase(noisy, incumbent_at=once)
    assert verdict.outcome is Outcome.PASS


def test_a_share_of_failures_above_the_margin_without_proof_is_undecided():
    tests = LoadTests(DEMAND)
    tests.hear(pair("concurrency-2", candidate=window(failed=1)))
    errors = tests.results()[-1]
    assert (errors.outcome, errors.reasons[0].code) == (Outcome.INCONCLUSIVE, "load_errors_undecided")


def test_nothing_measured_is_inconclusive_everywhere():
    assert {one.outcome for one in LoadTests(DEMAND).results()} == {Outcome.INCONCLUSIVE}


def test_windows_in_which_nobody_answered_are_void_and_never_pass():
    tests = LoadTests(DEMAND)
    for number in range(12):
        tests.hear(pair("concurrency-2", number, incumbent=window(pictures=0), candidate=window(pictures=0)))
    result = tests.results()[0]
    assert (result.outcome, result.reasons[0].code) == (Outcome.INCONCLUSIVE, "load_unmeasured")
    assert result.figures["windows_void"] == 12


@pytest.mark.parametrize(
    ("level", "incumbent", "candidate", "expected"),
    [
        ("concurrency-2", {"pictures": 40}, {"pictures": 20}, 2.0),
        ("concurrency-2", {"pictures": 40}, {"pictures": 0}, math.inf),
        ("concurrency-2", {"pictures": 0}, {"pictures": 40}, 0.0),
        ("concurrency-2", {"pictures": 0}, {"pictures": 0}, None),
        ("batch-4", {"seconds": 2.0}, {"seconds": 3.0}, 1.5),
        ("arrivals-poisson", {"p95_s": 0.1}, {"p95_s": 0.2}, 2.0),
        ("arrivals-poisson", {"p95_s": 0.1}, {"p95_s": None}, math.inf),
        ("arrivals-poisson", {"p95_s": None}, {"p95_s": 0.1}, 0.0),
        ("arrivals-poisson", {"p95_s": None}, {"p95_s": None}, None),
    ],
)
def test_slowdown_says_how_many_times_worse_the_candidate_is(level, incumbent, candidate, expected):
    seen = slowdown(LEVELS[level], pair(level, incumbent=window(**incumbent), candidate=window(**candidate)))
    assert seen == (None if expected is None else pytest.approx(expected))


def test_a_level_that_spends_its_windows_undecided_ends_the_phase():
    turns = iter([1.0, 1.6] * 100)
    windows, verdict = phase(lambda level, luck: noisy(level, luck, ratio=next(turns)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert {name: len(one) for name, one in windows.items()} == {"concurrency-2": 12}


def test_a_granted_budget_goes_on_where_the_first_ended():
    turns = iter([1.0, 1.6] * 100)
    windows, verdict = phase(lambda level, luck: noisy(level, luck, ratio=next(turns)))
    level, number = next_window(DEMAND.model_copy(update={"windows_max": 24}), verdict, windows)
    assert (level.name, number) == ("concurrency-2", 12)


def test_the_bound_on_requests_counts_both_colours():
    windows, _ = phase(noisy, demand=DEMAND.model_copy(update={"requests_max": 200}))
    assert sum(len(one) for one in windows.values()) == 3


def test_the_same_windows_give_the_same_bits():
    def heard():
        tests, luck = LoadTests(DEMAND), random.Random(4)  # noqa: S311 - a simulation with a seed
        for number in range(4):
            tests.hear(pair("concurrency-2", number, candidate=noisy(None, luck, ratio=1.1)))
        return combine("load", tests.results()).model_dump_json()

    assert heard() == heard()


def test_an_equal_candidate_is_rolled_back_as_rarely_as_promised():
    breaches = sum(phase(noisy, seed=seed)[1].outcome is Outcome.BREACH for seed in range(200))
    assert breaches <= 2 + 4 * math.sqrt(2)


def test_a_level_that_the_policy_does_not_have_is_refused():
    with pytest.raises(EvidenceError, match="concurrency-64"):
        LoadTests(DEMAND).hear(pair("concurrency-64"))


def test_arrivals_come_at_a_share_of_the_highest_median_throughput_of_the_incumbent():
    windows = {
        "concurrency-2": tuple(pair("concurrency-2", incumbent=window(pictures=one)) for one in (40, 42, 100)),
        "concurrency-8": tuple(pair("concurrency-8", incumbent=window(pictures=one)) for one in (60, 61, 62)),
        "batch-4": (pair("batch-4", incumbent=window(pictures=1000)),),
    }
    assert arrival_rate(DEMAND, windows) == pytest.approx(0.6 * 61 / 2.0)


@pytest.mark.parametrize("windows", [{}, {"concurrency-2": (pair("concurrency-2", incumbent=window(pictures=0)),)}])
def test_a_rate_that_rests_on_nothing_is_refused(windows):
    with pytest.raises(EvidenceError, match="rests on the incumbent's throughput"):
        arrival_rate(DEMAND, windows)


def test_cost_is_the_time_that_one_colours_instances_were_kept_busy():
    price = CostModel(currency="USD", gpu_hour=3.6, gpus_per_instance=2.0)
    windows = {"concurrency-2": (pair("concurrency-2"), pair("concurrency-2", 1, candidate=window(seconds=4.0)))}
    assert cost_so_far(price, windows, instances=3) == pytest.approx(10.0 * 0.001 * 2 * 3)
    assert cost_so_far(price, {}, instances=3) == 0.0
    with pytest.raises(ConfigError, match="section cost"):
        cost_so_far(None, windows, instances=3)
