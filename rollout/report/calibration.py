"""What a calibration says: the noise, what verdicts will cost on it, and whether the policy's budget suffices."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from rollout.model.inventory import Absent
from rollout.report import words
from rollout.stats.forecast import PAIRS_AHEAD_MAX, SUFFICIENT_SHARE, Calibration, EffectForecast, MarginForecast
from rollout.stats.noise import NoiseSummary

CALIBRATION_SCHEMA = "rollout.calibration/v1"

DECIDED_SHARE = 0.5
"""Below this share of rollouts with a verdict no typical count of pairs is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costed:
    """A calibration with what turns pairs into time and GPUs.

    Attributes:
        request_s: Mean seconds of a request to the incumbent; Absent where the baseline holds no latencies.
        gpus: GPUs of one instance, above 0.
        prompts: Prompts of the set, each of which the canary must have compared before it may promote.
        replicas: Instances of the candidate, each of which must prove its own median.
    """

    calibration: Calibration
    request_s: float | Absent
    gpus: float
    prompts: int
    replicas: int

    @property
    def budget(self) -> int:
        """Pairs that the canary may take."""
        return self.calibration.question.budget

    @property
    def horizon(self) -> int:
        """Pairs up to which rollouts were simulated."""
        return min(self.budget, PAIRS_AHEAD_MAX)

    @property
    def replica_pairs(self) -> float:
        """Pairs until every instance alone is proven, in nine of ten rollouts; 0 where there is one instance."""
        return self.replicas * self.calibration.own.instance_pairs_p90

    @property
    def suffices(self) -> bool:
        """True when an equal release is promoted within the budget often enough."""
        return self.calibration.own.suffices and self.replica_pairs <= self.budget and self.prompts <= self.budget

    def promotion_pairs(self, forecast: EffectForecast) -> tuple[float, float]:
        """Return median and P90 of the pairs until an equal release is promoted; +inf beyond the budget."""
        least = float(self.prompts) if self.prompts <= self.budget else math.inf
        return max(forecast.pairs_median, least), max(forecast.pairs_p90, least)

    def gpu_s(self, pairs: float, forecast: EffectForecast) -> float | Absent:
        """Return the seconds for which GPUs are busy with so many pairs."""
        if isinstance(self.request_s, Absent):
            return self.request_s
        return pairs * forecast.requests_per_pair * self.request_s * self.gpus


def warnings(costed: Costed) -> tuple[str, ...]:
    """Return what should be mended before anything is deployed; nothing where the budget suffices."""
    own, budget = costed.calibration.own, costed.budget
    found = []
    if own.hopeless:
        found.append(f"{_never(costed, own)}: {own.equal.runs} rollouts were simulated; {_advice(own)}")
    elif not own.suffices:
        found.append(
            f"the budget of {budget} pairs does not suffice: {100 * own.equal.promoted:.0f}% of equal releases would "
            f"be promoted within {_within(costed)}, {100 * SUFFICIENT_SHARE:.0f}% should be; {_advice(own)}"
        )
    if costed.replica_pairs > budget and own.suffices:
        each = _count(own.instance_pairs_p90, costed.horizon)
        found.append(
            f"{costed.replicas} replicas need {each} pairs each, together more than the budget of {budget}: each must "
            "prove its own median; raise latency.pairs_max"
        )
    if costed.prompts > budget:
        found.append(
            f"{costed.prompts} prompts cannot all be compared in latency.pairs_max {budget} pairs; use fewer prompts"
        )
    return tuple(found)


def expectations(costed: Costed) -> tuple[str, ...]:
    """Return how many pairs and seconds until a verdict, for `plan`: one line each for an equal and a slow release."""
    own = costed.calibration.own
    equal = costed.promotion_pairs(own.equal)
    lines = [f"an equal release is promoted after {_span(costed, own.equal, *equal)}"]
    for one in own.effects[1:]:
        if one.effect <= own.p50_ratio_max:
            continue
        told = _span(costed, one, one.pairs_median, one.pairs_p90)
        lines.append(f"one at {words.ratio(one.effect)} is convicted after {told}")
    return tuple(lines)


def noise_fields(costed: Costed) -> list[tuple[str, str]]:
    """Return the noise of the whole history, as labels with what they stand for."""
    told = costed.calibration
    noise = told.noise
    tail = ", ".join(
        f"{name} {words.ratio(value)}"
        for name, value in (("P90", noise.ratio_p90), ("P95", noise.ratio_p95), ("P99", noise.ratio_p99))
    )
    blocks = (
        "pairs are judged one by one"
        if told.block_pairs == 1
        else f"the median gate averages over blocks of {told.block_pairs} pairs"
    )
    factor = words.ratio(told.question.margins.slow_factor)
    return [
        ("history", f"{noise.pairs} pairs of two instances: median {words.ratio(noise.ratio_median)}, {tail}"),
        ("noise", f"{100 * noise.sigma_log:.2g}% from pair to pair"),
        ("repeats", f"autocorrelation {noise.autocorrelation_lag1:.2f}: {blocks}"),
        ("slow", f"{100 * noise.slow_rate:.2g}% of pairs above {factor}"),
    ]


SHAPE_HEAD = ("shape", "request", "pairs", "median", "noise", "slow")


def shape_rows(costed: Costed) -> list[tuple[str, ...]]:
    """Return one row for each shape of prompt, under SHAPE_HEAD."""
    rows: list[tuple[str, ...]] = []
    for one in costed.calibration.shapes:
        request = words.milliseconds(one.blue_s)
        if one.noise is None:
            rows.append((one.shape, request, "-", "-", "-", "-"))
            continue
        noise = one.noise
        told = (words.ratio(noise.ratio_median), f"{100 * noise.sigma_log:.2g}%", f"{100 * noise.slow_rate:.2g}%")
        rows.append((one.shape, request, str(noise.pairs), *told))
    return rows


def margin_head(costed: Costed) -> tuple[str, ...]:
    """Return the head of the table of margins."""
    slow = (f"if {words.ratio(one.effect)}" for one in costed.calibration.own.effects[1:])
    return ("margin", "promoted", "if equal", "GPU time", *slow)


def margin_rows(costed: Costed) -> list[tuple[str, ...]]:
    """Return one row for each margin: share promoted, then pairs until a verdict as median (P90), by true effect."""
    budget = costed.horizon
    rows: list[tuple[str, ...]] = []
    for one in costed.calibration.margins:
        equal = costed.promotion_pairs(one.equal)
        cost = costed.gpu_s(equal[0], one.equal)
        time = "-" if isinstance(cost, Absent) or math.isinf(cost) else words.seconds(cost)
        share = f"{100 * one.equal.promoted:.0f}%"
        slow = (_cell(effect, budget) for effect in one.effects[1:])
        name = words.ratio(one.p50_ratio_max)
        rows.append(
            (f"{name} (policy)" if one is costed.calibration.own else name, share, _pairs(*equal, budget), time, *slow)
        )
    return rows


def margin_notes(costed: Costed) -> tuple[str, ...]:
    """Return the further margins that this noise can never decide within the budget; of its own `warnings` tells."""
    return tuple(_never(costed, one) for one in costed.calibration.margins[1:] if one.hopeless)


def calibration_json(costed: Costed) -> dict[str, Any]:
    """Return the same as JSON; a count of pairs or a cost that lies beyond the budget is null."""
    told = costed.calibration
    return {
        "schema": CALIBRATION_SCHEMA,
        "suffices": costed.suffices,
        "budget": costed.budget,
        "request_s": _number(costed.request_s),
        "gpus_per_instance": costed.gpus,
        "block_pairs": told.block_pairs,
        "noise": _noise(told.noise),
        "shapes": [
            {"shape": one.shape, "request_s": _number(one.blue_s), "noise": one.noise and _noise(one.noise)}
            for one in told.shapes
        ],
        "margins": [_margin_json(costed, one) for one in told.margins],
        "warnings": list(warnings(costed)),
    }


def _margin_json(costed: Costed, margin: MarginForecast) -> dict[str, Any]:
    return {
        "p50_ratio_max": margin.p50_ratio_max,
        "suffices": margin.suffices,
        "can_be_decided": not margin.hopeless,
        "open_gate": margin.open_gate and margin.open_gate.value,
        "effects": [
            {
                "effect": one.effect,
                "runs": one.runs,
                "promoted": one.promoted,
                "convicted": one.convicted,
                "pairs_median": _number(one.pairs_median),
                "pairs_p90": _number(one.pairs_p90),
                "gpu_s_median": _number(costed.gpu_s(one.pairs_median, one)),
                "gpu_s_p90": _number(costed.gpu_s(one.pairs_p90, one)),
            }
            for one in margin.effects
        ],
    }


def _never(costed: Costed, margin: MarginForecast) -> str:
    ratio = words.ratio(margin.p50_ratio_max)
    return f"on this noise the margin {ratio} can never be decided within {_within(costed)}"


def _within(costed: Costed) -> str:
    if costed.horizon == costed.budget:
        return f"{costed.budget} pairs"
    return f"the {costed.horizon} pairs that are simulated of {costed.budget}"


def _noise(noise: NoiseSummary) -> dict[str, Any]:
    return {name: _number(value) for name, value in asdict(noise).items()}


def _number(value: float | Absent) -> float | None:
    return None if isinstance(value, Absent) or not math.isfinite(value) else value


def _span(costed: Costed, forecast: EffectForecast, median: float, p90: float) -> str:
    if math.isinf(median):
        return f"more than {_within(costed)}, more often than not"
    most = f"9 in 10 within {p90:.0f}" if math.isfinite(p90) else f"1 in 10 later than {costed.horizon}"
    cost = costed.gpu_s(median, forecast)
    time = "" if isinstance(cost, Absent) else f", {words.seconds(cost)} of GPU"
    return f"about {median:.0f} pairs ({most}){time}"


def _advice(margin: MarginForecast) -> str:
    gate = f"it is the {margin.open_gate.value} gate that stays open; " if margin.open_gate else ""
    return f"{gate}raise latency.pairs_max, widen that gate's margin, or quiet the machine"


def _cell(effect: EffectForecast, budget: int) -> str:
    if effect.convicted < DECIDED_SHARE:
        return f"promoted {100 * effect.promoted:.0f}%" if effect.promoted >= DECIDED_SHARE else f">{budget}"
    return _pairs(effect.pairs_median, effect.pairs_p90, budget)


def _pairs(median: float, p90: float, budget: int) -> str:
    return f">{budget}" if math.isinf(median) else f"{median:.0f} ({_count(p90, budget)})"


def _count(pairs: float, budget: int) -> str:
    return f">{budget}" if math.isinf(pairs) else f"{pairs:.0f}"
