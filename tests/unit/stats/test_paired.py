"""The paired test: what it refuses, what it must not depend on, and that streaming and batch are one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import ConfigError, EvidenceError, InvariantError
from rollout.model.verdict import Outcome
from rollout.stats.margins import STANDARD, STRICT, Margins
from rollout.stats.paired import Estimate, PairedTest, Unmeasured, judge_pairs

AA = np.exp(0.113 * np.random.default_rng(5).standard_normal(300))

latency = st.one_of(st.floats(min_value=1e-3, max_value=1e3), st.just(math.inf))
pairs = st.lists(st.tuples(latency, latency), max_size=60)


def noisy(factor, count, *, seed=1, cv=0.08):
    rng = np.random.default_rng(seed)
    blue = np.exp(cv * rng.standard_normal(count))
    return blue, factor * np.exp(cv * rng.standard_normal(count))


def fold(blue, green, margins, **kwargs):
    test = PairedTest(aa_ratio=AA, margins=margins, **kwargs)
    for blue_s, green_s in zip(blue, green, strict=True):
        if test.update(blue_s=blue_s, green_s=green_s) is not Outcome.INCONCLUSIVE:
            break
    return test.judgement()


@given(drawn=pairs, block_pairs=st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_batch_and_streaming_agree_bit_for_bit(drawn, block_pairs):
    blue, green = [b for b, _ in drawn], [g for _, g in drawn]
    batch = judge_pairs(blue, green, aa_ratio=AA, profile="strict", block_pairs=block_pairs)
    assert batch == fold(blue, green, STRICT, block_pairs=block_pairs)


@given(drawn=pairs, power=st.integers(-8, 8))
@settings(max_examples=60, deadline=None)
def test_the_unit_of_time_does_not_matter(drawn, power):
    blue, green = np.array([b for b, _ in drawn]), np.array([g for _, g in drawn])
    plain = judge_pairs(blue, green, aa_ratio=AA, profile="strict")
    assert plain == judge_pairs(blue * 2.0**power, green * 2.0**power, aa_ratio=AA, profile="strict")


def test_a_unit_that_is_no_power_of_two_changes_evidence_by_rounding_only():
    blue, green = noisy(1.0, 60)
    plain = judge_pairs(blue, green, aa_ratio=AA, profile="strict")
    scaled = judge_pairs(blue * 1000.0, green * 1000.0, aa_ratio=AA, profile="strict")
    assert scaled.outcome is plain.outcome
    assert scaled.pairs_used == plain.pairs_used
    assert scaled.e_rollback == pytest.approx(plain.e_rollback, rel=1e-11)


@given(factor=st.sampled_from([0.9, 1.0, 1.3, 4.0]), seed=st.integers(0, 99), cut=st.integers(0, 200), more=pairs)
@settings(max_examples=60, deadline=None)
def test_verdict_on_a_prefix_stands_whatever_comes_after_it(factor, seed, cut, more):
    blue, green = noisy(factor, 200, seed=seed, cv=0.05)
    blue, green = blue[:cut], green[:cut]
    prefix = judge_pairs(blue, green, aa_ratio=AA, profile="standard")
    later_blue, later_green = np.append(blue, [b for b, _ in more]), np.append(green, [g for _, g in more])
    whole = judge_pairs(later_blue, later_green, aa_ratio=AA, profile="standard")
    if prefix.outcome is Outcome.INCONCLUSIVE:
        assert whole.pairs_used >= prefix.pairs_used
        for before, after in zip(prefix.gates, whole.gates, strict=True):
            assert after.e_promote_max >= before.e_promote_max
    else:
        assert whole == prefix


@given(factor=st.sampled_from([0.7, 1.0]), cut=st.integers(0, 80), failed=st.lists(st.booleans(), max_size=400))
@settings(max_examples=60, deadline=None)
def test_more_of_missing_data_is_never_a_pass(factor, cut, failed):
    blue, green = noisy(factor, cut, cv=0.05)
    before = judge_pairs(blue, green, aa_ratio=AA, profile="standard")
    lost = np.append(blue, [1.0 if alone else math.inf for alone in failed]), np.append(green, [math.inf] * len(failed))
    after = judge_pairs(*lost, aa_ratio=AA, profile="standard", budget=500)
    assert after.outcome is not Outcome.PASS or after == before


@given(drawn=pairs)
@settings(max_examples=60, deadline=None)
def test_green_stopped_at_the_stop_ratio_gives_the_verdict_of_green_timed_to_the_end(drawn):
    timed, stopped = (PairedTest(aa_ratio=AA, margins=STRICT) for _ in range(2))
    for blue_s, green_s in drawn:
        assert timed.stop_ratio == stopped.stop_ratio
        known = math.inf if math.isfinite(blue_s) and green_s / blue_s > stopped.stop_ratio else green_s
        outcome = timed.update(blue_s=blue_s, green_s=green_s)
        assert stopped.update(blue_s=blue_s, green_s=known) is outcome
        if outcome is not Outcome.INCONCLUSIVE:
            break
    assert timed.judgement().gates == stopped.judgement().gates


@given(drawn=pairs, factor=st.floats(1.0, 5.0))
@settings(max_examples=60, deadline=None)
def test_a_slower_last_answer_of_green_never_lowers_the_evidence_against_it(drawn, factor):
    evidence = []
    for scale in (1.0, factor):
        test = PairedTest(aa_ratio=AA, margins=STRICT, alpha=1e-99, beta=1e-99)
        for blue_s, green_s in drawn:
            test.update(blue_s=blue_s, green_s=green_s)
        test.update(blue_s=1.0, green_s=scale)
        evidence.append(test.judgement())
    faster, slower = evidence
    assert slower.e_rollback >= faster.e_rollback
    for before, after in zip(faster.gates, slower.gates, strict=True):
        assert after.e_promote <= before.e_promote


def test_no_pairs_are_inconclusive_and_unmeasured():
    judgement = judge_pairs([], [], aa_ratio=AA, profile="standard")
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert isinstance(judgement.p50_ratio, Unmeasured)
    assert isinstance(judgement.tail_ratio, Unmeasured)


def test_void_pairs_bet_nothing_and_never_pass():
    dead = np.full(500, np.inf)
    judgement = judge_pairs(dead, dead, aa_ratio=AA, profile="standard")
    assert judgement.outcome is Outcome.INCONCLUSIVE
    assert (judgement.pairs_used, judgement.pairs_void) == (0, 400)
    assert judgement.e_rollback == 1.0


def test_void_pairs_in_between_change_no_evidence():
    blue, green = noisy(1.2, 8)
    dead = np.full(8, np.inf)
    mixed = judge_pairs(np.ravel([blue, dead], "F"), np.ravel([green, dead], "F"), aa_ratio=AA, profile="strict")
    plain = judge_pairs(blue, green, aa_ratio=AA, profile="strict")
    assert mixed.pairs_void > 0
    assert mixed.gates == plain.gates


@pytest.mark.parametrize("count", [1, 5, 20, 40])
def test_few_pairs_never_pass_however_fast_green_is(count):
    blue = np.ones(count)
    assert judge_pairs(blue, 0.1 * blue, aa_ratio=AA, profile="standard").outcome is Outcome.INCONCLUSIVE


def test_one_pair_never_rolls_back():
    assert judge_pairs([1.0], [math.inf], aa_ratio=AA, profile="strict").outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("green", [10.0, 30.0, math.inf])
@pytest.mark.parametrize("profile", ["strict", "standard"])
def test_gross_slowdown_is_convicted_at_the_third_pair(green, profile):
    judgement = judge_pairs(np.ones(9), np.full(9, green), aa_ratio=AA, profile=profile)
    assert judgement.outcome is Outcome.BREACH
    assert judgement.pairs_used == 3
    assert "slow" in judgement.reason


def test_sound_green_is_promoted_and_the_budget_is_kept():
    blue, green = noisy(1.0, 400, cv=0.03)
    quiet = np.exp(0.042 * np.random.default_rng(6).standard_normal(300))
    passed = judge_pairs(blue, green, aa_ratio=quiet, profile="standard")
    assert passed.outcome is Outcome.PASS
    assert all(gate.e_promote_max >= passed.e_promote_needed for gate in passed.gates)
    short = judge_pairs(blue, green, aa_ratio=quiet, profile="standard", budget=passed.pairs_used - 1)
    assert short.outcome is Outcome.INCONCLUSIVE
    assert short.pairs_used == passed.pairs_used - 1


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("block_pairs", [1, 3])
def test_interval_of_a_much_faster_green_holds_the_truth(factor, block_pairs):
    blue, green = noisy(factor, 240)
    told = judge_pairs(blue, green, aa_ratio=AA, profile="strict", block_pairs=block_pairs)
    assert isinstance(told.p50_ratio, Estimate)
    assert told.p50_ratio.bounds.lower < factor < told.p50_ratio.bounds.upper < 1.1 * factor


def test_pairs_in_which_blue_alone_failed_leave_the_interval_open_below():
    told = judge_pairs([math.inf] * 30, [1.0] * 30, aa_ratio=AA, profile="strict")
    assert isinstance(told.p50_ratio, Estimate)
    assert told.p50_ratio.bounds.lower == 0.0


def test_intervals_hold_the_truth_and_narrow():
    ratios = []
    for count in (40, 400):
        test = PairedTest(aa_ratio=AA, margins=STRICT, alpha=0.01, beta=1e-99)
        for blue_s, green_s in zip(*noisy(1.02, count), strict=True):
            test.update(blue_s=blue_s, green_s=green_s)
        ratio = test.judgement().p50_ratio
        assert isinstance(ratio, Estimate)
        assert ratio.bounds.lower <= 1.02 <= ratio.bounds.upper
        ratios.append(ratio)
    assert ratios[1].bounds.lower > ratios[0].bounds.lower > 0.0


def test_interval_excludes_the_margin_exactly_when_the_median_gate_alone_decides():
    margins = Margins(
        p50_ratio_max=1.05, tail_quantile=0.95, tail_ratio_max=9.0, slow_factor=9.0, slow_rate_promote=0.1
    )
    test = PairedTest(aa_ratio=AA, margins=margins, alpha=0.01, beta=1e-99)
    for blue_s, green_s in zip(*noisy(1.15, 40), strict=True):
        test.update(blue_s=blue_s, green_s=green_s)
        judgement = test.judgement()
        if judgement.outcome is not Outcome.INCONCLUSIVE:
            break
        assert (judgement.gates[0].e_rollback >= 100.0) <= (judgement.p50_ratio.bounds.lower >= 1.05 - 1e-6)
        assert (judgement.p50_ratio.bounds.lower > 1.05 + 1e-6) <= (judgement.gates[0].e_rollback > 50.0)


def test_a_decided_test_takes_no_more_pairs():
    test = PairedTest(aa_ratio=AA, margins=STRICT)
    while test.update(blue_s=1.0, green_s=30.0) is Outcome.INCONCLUSIVE:
        pass
    with pytest.raises(InvariantError, match="BREACH"):
        test.update(blue_s=1.0, green_s=1.0)


@pytest.mark.parametrize("bad", [math.nan, 0.0, -1.0])
def test_latency_that_is_none_is_refused(bad):
    with pytest.raises(EvidenceError, match=r"green_s\[1\]"):
        judge_pairs([1.0, 1.0], [1.0, bad], aa_ratio=AA, profile="strict")
    with pytest.raises(EvidenceError, match="blue"):
        PairedTest(aa_ratio=AA, margins=STRICT).update(blue_s=bad, green_s=1.0)


def test_a_damaged_measurement_after_the_decision_is_still_refused():
    with pytest.raises(EvidenceError):
        judge_pairs(np.ones(50), [30.0] * 49 + [math.nan], aa_ratio=AA, profile="strict")


def test_different_lengths_are_refused():
    with pytest.raises(EvidenceError, match="2 latencies of blue and 1 of green"):
        judge_pairs([1.0, 1.0], [1.0], aa_ratio=AA, profile="strict")


def test_unknown_profile_is_refused():
    with pytest.raises(ConfigError, match="strict"):
        judge_pairs([1.0], [1.0], aa_ratio=AA, profile="lenient")


@pytest.mark.parametrize("bad", [{"alpha": 0.0}, {"beta": 1.0}, {"budget": 0}, {"block_pairs": 0}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        judge_pairs([1.0], [1.0], aa_ratio=AA, profile="strict", **bad)


@pytest.mark.parametrize(
    ("tail_quantile", "block_pairs", "missing"), [(0.95, 1, 40), (0.95, 3, 240), (0.999, 1, 939), (0.99, 1, 40)]
)
def test_short_history_is_refused_with_the_number_missing(tail_quantile, block_pairs, missing):
    margins = Margins(p50_ratio_max=1.05, tail_quantile=tail_quantile, tail_ratio_max=1.1, slow_rate_promote=0.05)
    with pytest.raises(EvidenceError, match=f"{missing} are missing"):
        PairedTest(aa_ratio=AA[:60], margins=margins, block_pairs=block_pairs)


def test_a_few_timeouts_in_the_history_widen_the_tail():
    history = AA.copy()
    history[:3] = math.inf
    plain, wide = (PairedTest(aa_ratio=ratio, margins=STRICT) for ratio in (AA, history))
    assert wide._tail.threshold > plain._tail.threshold


def test_history_in_which_blue_itself_is_slow_is_refused():
    history = AA.copy()
    history[:25] = 3.0
    with pytest.raises(EvidenceError, match="25 of 300"):
        PairedTest(aa_ratio=history, margins=STRICT)


def test_history_whose_tail_is_a_timeout_is_refused():
    tolerant = Margins(
        p50_ratio_max=1.05, tail_quantile=0.95, tail_ratio_max=1.1, slow_rate_rollback=0.2, slow_rate_promote=0.3
    )
    history = AA.copy()
    history[:20] = math.inf
    with pytest.raises(EvidenceError, match="timeout"):
        PairedTest(aa_ratio=history, margins=tolerant)


def test_history_without_any_spread_is_usable():
    assert judge_pairs(np.ones(9), np.full(9, 10.0), aa_ratio=np.ones(300), profile="strict").pairs_used == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"p50_ratio_max": 0.0},
        {"tail_ratio_max": math.inf},
        {"tail_quantile": 1.0},
        {"slow_factor": 1.0},
        {"slow_rate_promote": 0.01},
        {"slow_rate_rollback": math.nan},
    ],
)
def test_margins_out_of_range_are_refused(bad):
    fine = {"p50_ratio_max": 1.05, "tail_quantile": 0.95, "tail_ratio_max": 1.1, "slow_rate_promote": 0.05}
    with pytest.raises(ConfigError):
        Margins(**{**fine, **bad})


def test_profiles_are_those_of_the_design():
    assert (STRICT.p50_ratio_max, STRICT.tail_quantile, STRICT.tail_ratio_max, STRICT.slow_rate_promote) == (
        1.05,
        0.95,
        1.10,
        0.05,
    )
    assert (STANDARD.tail_quantile, STANDARD.slow_rate_promote) == (0.90, 0.10)
