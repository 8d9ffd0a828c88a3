"""The instance gate: how long instances take to start, whether they stay, and whether their memory grows."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rollout.gates.names import INSTANCES, START, WARM
from rollout.gates.result import result
from rollout.model.evidence import InstanceReading
from rollout.model.journal import InstancesRead
from rollout.model.policy import InstanceGate
from rollout.model.verdict import GateResult, Outcome

STEADY = "instances_steady"

Readings: TypeAlias = Mapping[str, InstanceReading]
"""One look at the instances, by uid."""


def judge_instances(
    policy: InstanceGate, readings: Sequence[InstancesRead], *, known_starts: Sequence[float], stage: str
) -> GateResult:
    """Judge the candidate's instances by what was read of them so far.

    Args:
        policy: The limits.
        readings: Of the candidate only, oldest first.
        known_starts: Cold starts of the incumbent in seconds; where there are none, the absolute limit stands alone.
        stage: The stage that ends; it must have been read, or nothing is known of memory and restarts.

    Returns:
        BREACH for the first limit that is broken; INCONCLUSIVE where a reading is missing.
    """
    at = {one.stage: {reading.uid: reading for reading in one.readings} for one in readings}
    missing = [name for name in (START, WARM, stage) if not at.get(name)]
    if missing:
        text = f"the instances were not read at {missing[0]!r}"
        return result(INSTANCES, Outcome.INCONCLUSIVE, "instances_unread", text)
    parts = (
        _judge_start(policy, at[START], known_starts),
        _judge_restarts(policy, at[START], at[stage]),
        _judge_memory(policy, at[WARM], at[stage]),
    )
    figures = {key: value for part in parts for key, value in part.figures.items()}
    for outcome in (Outcome.BREACH, Outcome.INCONCLUSIVE):
        for part in parts:
            if part.outcome is outcome:
                return part.model_copy(update={"figures": figures})
    text = "; ".join(part.reasons[0].text for part in parts)
    return result(INSTANCES, Outcome.PASS, STEADY, text, figures)


def _judge_start(policy: InstanceGate, started: Readings, known_starts: Sequence[float]) -> GateResult:
    starts = [one.cold_start_s for one in started.values() if one.cold_start_s is not None]
    if len(starts) < len(started):
        text = f"the start of {len(started) - len(starts)} of {len(started)} instances was not watched"
        return result(INSTANCES, Outcome.INCONCLUSIVE, "cold_start_unmeasured", text)
    limit_s, against = _start_limit(policy, known_starts)
    figures = {"cold_start_s": max(starts), "cold_start_s_max": limit_s}
    text = f"ready after {max(starts):.3g} s, allowed {limit_s:.3g} s ({against})"
    if max(starts) > limit_s:
        return result(INSTANCES, Outcome.BREACH, "cold_start_slow", text, figures)
    return result(INSTANCES, Outcome.PASS, STEADY, text, figures)


def _judge_restarts(policy: InstanceGate, started: Readings, now: Readings) -> GateResult:
    """An instance that is gone counts as a restart: something else took its place."""
    restarts, gone = max(one.restarts for one in now.values()), len(set(started) - set(now))
    figures = {"restarts": restarts, "replaced": gone}
    if restarts + gone > policy.restarts_max:
        text = f"{restarts} restarts, {gone} instances replaced since the start; allowed {policy.restarts_max}"
        return result(INSTANCES, Outcome.BREACH, "instances_restarted", text, figures)
    return result(INSTANCES, Outcome.PASS, STEADY, f"{restarts} restarts", figures)


def _judge_memory(policy: InstanceGate, warm: Readings, now: Readings) -> GateResult:
    if policy.memory_growth_ratio_max is None:
        return result(INSTANCES, Outcome.PASS, STEADY, "the policy does not look at memory")
    growth = {
        uid: one.memory_bytes / before.memory_bytes
        for uid, one in now.items()
        if (before := warm.get(uid)) is not None and one.memory_bytes is not None and before.memory_bytes
    }
    unknown = sorted(set(now) - set(growth))
    if unknown:
        text = (
            f"the memory of {', '.join(unknown)} after the warm-up and now is not known; where the platform never "
            "tells memory, instances.memory_growth_ratio_max: null says so"
        )
        return result(INSTANCES, Outcome.INCONCLUSIVE, "memory_unmeasured", text)
    worst, uid = max((ratio, uid) for uid, ratio in growth.items())
    figures = {"memory_growth_ratio": worst, "memory_growth_ratio_max": policy.memory_growth_ratio_max}
    text = f"memory of {uid} x{worst:.3g} since its warm-up, allowed x{policy.memory_growth_ratio_max:g}"
    if worst > policy.memory_growth_ratio_max:
        return result(INSTANCES, Outcome.BREACH, "memory_grows", text, figures)
    return result(INSTANCES, Outcome.PASS, STEADY, text, figures)


def _start_limit(policy: InstanceGate, known_starts: Sequence[float]) -> tuple[float, str]:
    if not known_starts:
        return policy.cold_start_s_max, "no start of the incumbent is known to compare with"
    relative_s = policy.cold_start_ratio_max * max(known_starts)
    if relative_s < policy.cold_start_s_max:
        return relative_s, f"x{policy.cold_start_ratio_max:g} the incumbent's slowest"
    return policy.cold_start_s_max, "the policy's limit"
