"""The instance gate: starts, restarts and memory."""

import pytest

from rollout.gates.instances import judge_instances
from rollout.model.evidence import InstanceReading
from rollout.model.journal import InstancesRead
from rollout.model.policy import InstanceGate
from rollout.model.roles import Role
from rollout.model.verdict import Outcome

POLICY = InstanceGate(cold_start_s_max=30.0, cold_start_ratio_max=3.0, restarts_max=0, memory_growth_ratio_max=1.2)
MIB = 1 << 20
STEADY = ("start", "warm", "canary")


def read(stage, **instances):
    """One look; each instance is given as (memory in MiB, restarts, cold start in s)."""
    readings = tuple(
        InstanceReading(
            uid=uid, memory_bytes=None if memory is None else memory * MIB, restarts=restarts, cold_start_s=start_s
        )
        for uid, (memory, restarts, start_s) in instances.items()
    )
    return InstancesRead(stage=stage, role=Role.CANDIDATE, readings=readings)


def steady(*, memory=(500, 600, 660), restarts=(0, 0, 0), start_s=10.0, uid="a"):
    """Three looks at one instance."""
    looks = zip(STEADY, memory, restarts, (start_s, None, None), strict=True)
    return [read(stage, **{uid: tuple(values)}) for stage, *values in looks]


def judged(readings, *, known=(), stage="canary", **changed):
    return judge_instances(POLICY.model_copy(update=changed), readings, known_starts=known, stage=stage)


def said(readings, **asked):
    result = judged(readings, **asked)
    return result.outcome, result.reasons[0].code


def test_steady_instance_passes_and_every_limit_is_told():
    result = judged(steady(), known=(5.0, 8.0))
    assert (result.outcome, result.reasons[0].code) == (Outcome.PASS, "instances_steady")
    assert result.figures == {
        "cold_start_s": 10.0,
        "cold_start_s_max": 24.0,
        "restarts": 0,
        "replaced": 0,
        "memory_growth_ratio": pytest.approx(1.1),
        "memory_growth_ratio_max": 1.2,
    }


@pytest.mark.parametrize("missing", STEADY)
def test_reading_that_is_missing_or_empty_is_inconclusive(missing):
    kept = [one for one in steady() if one.stage != missing]
    assert said(kept) == (Outcome.INCONCLUSIVE, "instances_unread")
    assert said([*kept, read(missing)]) == (Outcome.INCONCLUSIVE, "instances_unread")


@pytest.mark.parametrize(
    ("start_s", "known", "outcome"),
    [
        (24.0, (8.0, 5.0), Outcome.PASS),
        (24.1, (8.0, 5.0), Outcome.BREACH),
        (30.0, (100.0,), Outcome.PASS),
        (30.1, (100.0,), Outcome.BREACH),
        (30.0, (), Outcome.PASS),
        (30.1, (), Outcome.BREACH),
    ],
)
def test_start_may_exceed_neither_the_limit_nor_the_multiple_of_the_incumbents_slowest(start_s, known, outcome):
    assert judged(steady(start_s=start_s), known=known).outcome is outcome


def test_absolute_limit_standing_alone_is_told():
    assert "no start of the incumbent is known" in judged(steady()).reasons[0].text


def test_slowest_of_several_instances_counts():
    looks = [read(stage, a=(500, 0, 9.0), b=(500, 0, 31.0)) for stage in STEADY]
    assert said(looks) == (Outcome.BREACH, "cold_start_slow")


def test_start_that_nobody_watched_is_inconclusive_even_of_one_instance_among_several():
    assert said(steady(start_s=None)) == (Outcome.INCONCLUSIVE, "cold_start_unmeasured")
    looks = [read(stage, a=(500, 0, 9.0), b=(500, 0, None)) for stage in STEADY]
    assert said(looks) == (Outcome.INCONCLUSIVE, "cold_start_unmeasured")


def test_restarts_above_the_limit_breach():
    assert said(steady(restarts=(0, 0, 1))) == (Outcome.BREACH, "instances_restarted")
    assert said(steady(restarts=(0, 0, 1)), restarts_max=1)[0] is Outcome.PASS
    assert said(steady(restarts=(0, 1, 2)), restarts_max=1) == (Outcome.BREACH, "instances_restarted")


def test_restart_of_one_instance_among_several_counts():
    looks = [read(stage, a=(500, 0, 9.0), b=(500, 1, 9.0)) for stage in STEADY]
    assert said(looks) == (Outcome.BREACH, "instances_restarted")


def test_instance_that_is_gone_counts_as_a_restart():
    looks = [*steady()[:2], read("canary", b=(500, 0, None))]
    assert said(looks) == (Outcome.BREACH, "instances_restarted")


def test_replaced_instance_within_the_limit_has_no_memory_to_compare_with():
    looks = [*steady()[:2], read("canary", b=(500, 0, None))]
    assert said(looks, restarts_max=1) == (Outcome.INCONCLUSIVE, "memory_unmeasured")
    assert said(looks, restarts_max=1, memory_growth_ratio_max=None)[0] is Outcome.PASS


def test_breach_is_told_before_what_is_not_known():
    looks = steady(start_s=None, restarts=(0, 0, 5), memory=(None, None, None))
    assert said(looks) == (Outcome.BREACH, "instances_restarted")


@pytest.mark.parametrize(("now", "outcome"), [(500, Outcome.PASS), (720, Outcome.PASS), (721, Outcome.BREACH)])
def test_memory_is_compared_with_that_after_the_warm_up(now, outcome):
    assert judged(steady(memory=(100, 600, now))).outcome is outcome


def test_memory_of_the_worst_instance_counts_and_names_it():
    looks = [
        read("start", a=(100, 0, 1.0), b=(100, 0, 1.0)),
        read("warm", a=(100, 0, None), b=(100, 0, None)),
        read("canary", a=(100, 0, None), b=(130, 0, None)),
    ]
    result = judged(looks)
    assert (result.outcome, result.reasons[0].code) == (Outcome.BREACH, "memory_grows")
    assert "memory of b x1.3" in result.reasons[0].text


@pytest.mark.parametrize("memory", [(500, None, 500), (500, 500, None), (500, 0, 500), (None, None, None)])
def test_memory_that_nobody_measured_is_inconclusive_unless_the_policy_gives_it_up(memory):
    assert said(steady(memory=memory)) == (Outcome.INCONCLUSIVE, "memory_unmeasured")
    assert "memory_growth_ratio_max: null" in judged(steady(memory=memory)).reasons[0].text
    result = judged(steady(memory=memory), memory_growth_ratio_max=None)
    assert result.outcome is Outcome.PASS
    assert "does not look at memory" in result.reasons[0].text


def test_memory_of_one_instance_among_several_that_nobody_measured_is_inconclusive():
    looks = [read(stage, a=(500, 0, 9.0), b=(None, 0, 9.0)) for stage in STEADY]
    assert said(looks) == (Outcome.INCONCLUSIVE, "memory_unmeasured")


def test_stage_is_judged_by_its_own_reading():
    looks = [*steady(), read("soak", a=(6000, 0, None))]
    assert said(looks, stage="canary")[0] is Outcome.PASS
    assert said(looks, stage="soak") == (Outcome.BREACH, "memory_grows")


def test_later_reading_of_one_stage_replaces_the_earlier():
    twin = read("start", twin=(500, 0, 99.0))
    assert judged([twin, *steady()]).outcome is Outcome.PASS
