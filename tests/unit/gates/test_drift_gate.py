"""The drift gate, by itself and in the jury's verdict."""

# ruff: noqa: S311 - draws of a simulation, with seeds, not secrets

import json
import math
import random
from datetime import date

import pytest

from rollout.gates.drift import RecheckTest, judge_drift, only_latency_drifted
from rollout.gates.jury import Jury
from rollout.model.canonical import canonical_bytes
from rollout.model.evidence import Baseline, Sample, SampleStatus
from rollout.model.journal import SampleMeasured
from rollout.model.snapshot import CapabilitySnapshot, ok
from rollout.model.verdict import Outcome

# A prompt three times as long takes three times as long; drift is seen per prompt.
MEDIANS = {"p0": 0.1, "p1": 0.2, "p2": 0.3}
SNAPSHOT = CapabilitySnapshot(
    schema="rollout.snapshot/v1", fields={"runtime.ort.providers.actual": ok(["CUDAExecutionProvider"], "a test")}
)


def baseline(**changed):
    luck = random.Random(3)
    latencies = {
        prompt: [median * luck.lognormvariate(0, 0.05) for _ in range(40)] for prompt, median in MEDIANS.items()
    }
    made = Baseline(
        schema="rollout.baseline/v1",
        release_digest="sha256:" + "0" * 64,
        snapshot=SNAPSHOT,
        prompts_digest="sha256:" + "0" * 64,
        protocol={},
        made_at=1.0,
        made_by_run="r",
        aa_ratio=[],
        latency_s=latencies,
    )
    return made.model_copy(update=changed)


def today(count, *, ratio=1.0, failed=0, prompts=tuple(MEDIANS)):
    luck = random.Random(4)
    samples = []
    for number in range(count):
        prompt = prompts[number % len(prompts)]
        status = SampleStatus.ERROR if number < failed else SampleStatus.OK
        wall_s = MEDIANS.get(prompt, 0.1) * ratio * luck.lognormvariate(0, 0.05)
        samples.append(
            SampleMeasured(number=number, prompt_id=prompt, sample=Sample(status=status, wall_s=wall_s, detail="x"))
        )
    return tuple(samples)


def said(result):
    return result.outcome, result.reasons[0].code


def test_incumbent_that_is_as_fast_as_it_was_passes(policy):
    assert said(judge_drift(policy.latency, baseline(), today(60))) == (Outcome.PASS, "latency_as_baseline")


def test_incumbent_that_became_slow_breaches(policy):
    assert said(judge_drift(policy.latency, baseline(), today(60, ratio=1.4))) == (Outcome.BREACH, "latency_drifted")


def test_incumbent_at_the_margin_is_undecided(policy):
    result = judge_drift(policy.latency, baseline(), today(60, ratio=1.1))
    assert said(result) == (Outcome.INCONCLUSIVE, "drift_undecided")


@pytest.mark.parametrize("stored", [None, {}])
def test_without_a_baseline_nothing_is_decided(policy, stored):
    made = None if stored is None else baseline(latency_s=stored)
    assert said(judge_drift(policy.latency, made, today(60))) == (Outcome.INCONCLUSIVE, "baseline_missing")


def test_without_requests_nothing_is_decided(policy):
    assert judge_drift(policy.latency, baseline(), ()).outcome is Outcome.INCONCLUSIVE


def test_requests_of_other_prompts_decide_nothing(policy):
    result = judge_drift(policy.latency, baseline(), today(60, prompts=("px",)))
    assert said(result) == (Outcome.INCONCLUSIVE, "baseline_of_other_prompts")


def test_few_requests_decide_nothing(policy):
    assert judge_drift(policy.latency, baseline(), today(3)).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("failed", [1, 31, 60])
def test_failed_requests_count_as_infinitely_slow_and_are_stored_as_words(policy, failed):
    result = judge_drift(policy.latency, baseline(), today(60, failed=failed))
    assert result.figures["requests_failed"] == failed
    assert result.outcome is (Outcome.PASS if failed == 1 else Outcome.BREACH if failed == 60 else result.outcome)
    assert json.loads(canonical_bytes(result.model_dump(mode="json"))) == result.model_dump(mode="json")
    assert not any(isinstance(one, float) and not math.isfinite(one) for one in result.figures.values())


@pytest.fixture
def verdict(policy, prompts):
    def conclude(samples, *, snapshot=SNAPSHOT, stored=None, problems=None):
        jury = Jury(policy=policy, prompts=prompts, history=None, proving_stage="canary", later_stages=3, pods=1)
        return jury.drift(samples, snapshot=snapshot, baseline=stored, problems=problems or {}, today=date(2026, 11, 1))

    return conclude


def test_drift_check_passes_only_with_latency_errors_and_capabilities(verdict):
    assert verdict(today(60), stored=baseline()).outcome is Outcome.PASS


def test_drift_check_is_not_passed_by_an_incumbent_that_fails_two_of_five_requests(verdict):
    given = verdict(today(60, failed=24), stored=baseline())
    assert given.outcome is Outcome.BREACH
    assert "error_rate_over_margin" in {one.code for one in given.reasons()}


def test_drift_check_without_a_baseline_is_inconclusive(verdict):
    assert verdict(today(60)).outcome is Outcome.INCONCLUSIVE


def test_drift_check_without_a_snapshot_never_passes(verdict):
    given = verdict(today(60), snapshot=None, stored=baseline(), problems={"incumbent": "no answer"})
    assert given.outcome is not Outcome.PASS
    assert "no answer" in given.reasons()[0].text


def test_drift_check_finds_a_lost_capability(verdict):
    lost = CapabilitySnapshot(
        schema="rollout.snapshot/v1", fields={"runtime.ort.providers.actual": ok(["CPUExecutionProvider"], "a test")}
    )
    assert verdict(today(60), snapshot=lost, stored=baseline()).outcome is Outcome.BREACH


def test_tail_that_grew_while_the_median_stayed_breaches(policy):
    slow = {5, 11, 17, 23, 29, 35, 41, 47, 53, 59}
    samples = tuple(
        one.model_copy(update={"sample": one.sample.model_copy(update={"wall_s": 3.0 * one.sample.wall_s})})
        if one.number in slow or one.number % 6 == 2
        else one
        for one in today(60)
    )
    assert said(judge_drift(policy.latency, baseline(), samples)) == (Outcome.BREACH, "latency_drifted_tail")


def test_short_baseline_convicts_a_clear_drift_that_the_interval_alone_could_not(policy):
    short = baseline(latency_s={"p0": [0.07, 0.08, 0.09, 0.1, 0.1, 0.1, 0.11, 0.12, 0.14, 0.15]})
    found = judge_drift(policy.latency, short, today(60, ratio=1.5, prompts=("p0",)))
    assert found.figures["p50_ratio_lower"] < policy.latency.p50_ratio_max
    assert said(found) == (Outcome.BREACH, "latency_drifted")


def test_drift_check_of_an_unchanged_incumbent_keeps_its_error_rate(policy):
    luck = random.Random(6)
    breaches = 0
    for _ in range(300):
        stored = baseline(latency_s={"p0": [0.1 * luck.lognormvariate(0, 0.1) for _ in range(40)]})
        samples = tuple(
            SampleMeasured(
                number=number,
                prompt_id="p0",
                sample=Sample(status=SampleStatus.OK, wall_s=0.11 * luck.lognormvariate(0, 0.1)),
            )
            for number in range(60)
        )
        breaches += judge_drift(policy.latency, stored, samples).outcome is Outcome.BREACH
    # 1% at the margin exactly: 9 or more of 300 would be a chance of 4 in 1000.
    assert breaches <= 8


def recheck_pairs(pair, *, ratio, count=200, seed=5):
    """What serves is `ratio` times as slow as the earlier stack; in a recheck it is the incumbent."""
    luck = random.Random(seed)
    return [pair(number, stage="recheck", ratio=luck.lognormvariate(0, 0.07) / ratio) for number in range(count)]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.4, (Outcome.BREACH, "drift_of_the_stack")),
        (1.0, (Outcome.PASS, "drift_of_the_environment")),
        (0.7, (Outcome.PASS, "drift_of_the_environment")),
    ],
)
def test_recheck_judges_what_serves_by_the_earlier_stack_and_not_the_other_way_round(
    policy, history, pair, ratio, expected
):
    test = RecheckTest(policy.latency, history.ratio)
    for one in recheck_pairs(pair, ratio=ratio):
        test.hear(one)
    assert test.result().gate == "recheck"
    assert said(test.result()) == expected


def test_recheck_with_few_pairs_is_undecided_and_so_clears_nothing(policy, history, pair):
    test = RecheckTest(policy.latency, history.ratio)
    for one in recheck_pairs(pair, ratio=1.0, count=3):
        test.hear(one)
    assert said(test.result()) == (Outcome.INCONCLUSIVE, "recheck_undecided")


def test_recheck_without_a_history_says_why_and_clears_nothing(policy):
    assert said(RecheckTest(policy.latency, ()).result()) == (Outcome.INCONCLUSIVE, "history_unfit")


def test_only_a_breach_of_latency_alone_is_worth_a_second_look(verdict):
    assert only_latency_drifted(verdict(today(60, ratio=1.4), stored=baseline()))
    assert not only_latency_drifted(verdict(today(60), stored=baseline()))
    assert not only_latency_drifted(verdict(today(60, failed=40), stored=baseline()))
    lost = CapabilitySnapshot(
        schema="rollout.snapshot/v1", fields={"runtime.ort.providers.actual": ok(["CPUExecutionProvider"], "a test")}
    )
    assert not only_latency_drifted(verdict(today(60, ratio=1.4), snapshot=lost, stored=baseline()))
