"""What `promote` would do, told before anything is done: `rollout plan`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.cli.exits import Exit
from rollout.cli.wiring import build_lease, build_platform, build_protocol, build_router
from rollout.control.open_run import SNAPSHOT_S, refuse_stale_waivers
from rollout.control.standing import Standing, left_over, standing
from rollout.errors import ConfigError, EvidenceError, UnavailableError
from rollout.evidence.baselines import BaselineStore
from rollout.files.load import LoadedStack
from rollout.gates.capabilities import fallen
from rollout.gates.latency import margins_of
from rollout.model.evidence import Baseline
from rollout.model.inventory import Absent, SlotState
from rollout.model.load import levels
from rollout.model.policy import Approval, LoadDemand, Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.roles import all_on
from rollout.model.waiver import day_of
from rollout.report.as_json import plain
from rollout.report.calibration import Costed, calibration_json, expectations, warnings
from rollout.stats.forecast import EFFECTS, Question, ShapeNoise, calibration_of, noise_by_shape

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Steps in order, what stands in the way, and what to expect.

    Attributes:
        warnings: Why a verdict may not come within the budget. They are no obstacles: promote goes on.
        costs: What verdicts will take on the incumbent's noise; Absent where no history of it is stored.
    """

    release: str
    steps: tuple[str, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    costs: Costed | Absent

    @property
    def exit(self) -> Exit:
        """5 where promote would be refused, else 0."""
        return Exit.PLATFORM if self.obstacles else Exit.PASS

    def to_json(self) -> dict[str, Any]:
        """Return the machine-readable form."""
        return {
            "schema": "rollout.plan/v1",
            "release": self.release,
            "steps": list(self.steps),
            "obstacles": list(self.obstacles),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "forecast": plain(self.costs) if isinstance(self.costs, Absent) else calibration_json(self.costs),
            "exit": int(self.exit),
        }

    def print(self, out: "Console") -> None:
        """Print for people."""
        out.print(f"promote {self.release} would", markup=False)
        for number, step in enumerate(self.steps, start=1):
            out.print(f"  {number:2}. {step}", markup=False)
        for note in self.notes:
            out.print(f"  note: {note}", markup=False)
        told = (self.costs.reason,) if isinstance(self.costs, Absent) else expectations(self.costs)
        for expected in told:
            out.print(f"  expect: {expected}", markup=False)
        for warning in self.warnings:
            out.print(f"  warning: {warning}", markup=False, style="bold yellow")
        for obstacle in self.obstacles:
            out.print(f"  obstacle: {obstacle}", markup=False, style="bold red")


def forecast(stack: LoadedStack, policy: Policy, prompts: PromptSet, release: Release) -> Forecast:
    """Look at what stands and tell what promote would do.

    Raises:
        ConfigError: Nothing serves yet, the release can never start here, or a waiver has ended.
        EvidenceError: A journal is damaged.
    """
    refuse_stale_waivers(policy, now=time.time())
    lease = build_lease(stack, policy)
    platform = build_platform(stack, lease)
    platform.check(release)
    now = standing(stack.state)
    if isinstance(now, Absent):
        raise ConfigError(now.reason)
    stored = BaselineStore(stack.state / "baselines").get(now.release.digest)
    costs, warned = _costs(stored, policy, prompts, replicas=release.replicas)
    usable = isinstance(stored, Baseline) and stored.usable(policy, prompts, now=time.time())
    return Forecast(
        release=release.name,
        steps=_steps(policy, prompts, now, history=not usable),
        obstacles=_obstacles(stack, policy, prompts, now, stored),
        notes=(*_notes(policy, prompts), *_delays(stack, policy, now)),
        warnings=warned,
        costs=costs,
    )


def costed(
    baseline: Baseline,
    policy: Policy,
    prompts: PromptSet,
    *,
    replicas: int,
    p50_ratios_max: Sequence[float] = (),
    effects: Sequence[float] = EFFECTS,
) -> Costed:
    """Forecast verdicts from the A/A history that a baseline holds.

    Args:
        baseline: Of the incumbent.
        policy: Whose margins, rates and budget count.
        prompts: The set that the history was measured with.
        replicas: Instances of the candidate.
        p50_ratios_max: Margins of the median to try beside the policy's.
        effects: How slow candidates may turn out; the first must be 1.

    Raises:
        EvidenceError: The history is too short (it says how many pairs are missing) or unfit for this policy.
    """
    gate = policy.latency
    # Half of the rate goes to all pairs together where each instance is judged too; see the latency gate.
    share = 1.0 if replicas == 1 else 0.5
    answered = [one for seconds in baseline.latency_s.values() for one in seconds if np.isfinite(one)]
    unmeasured = Absent(reason="the baseline holds no latencies; `rollout calibrate` measures them")
    ratio = np.array(baseline.aa_ratio)
    return Costed(
        calibration=calibration_of(
            ratio,
            starts=min(policy.history.blocks, max(len(ratio), 1)),
            question=Question(
                margins=margins_of(gate),
                alpha=share * gate.false_rollback_rate,
                beta=gate.false_promote_rate,
                budget=gate.pairs_max,
                replicas=replicas,
            ),
            p50_ratios_max=p50_ratios_max,
            effects=effects,
            shapes=_shapes(baseline, policy, prompts),
        ),
        request_s=float(np.mean(answered)) if answered else unmeasured,
        gpus=1.0 if policy.cost is None else policy.cost.gpus_per_instance,
        prompts=len(prompts.prompts),
        replicas=replicas,
    )


def _shapes(baseline: Baseline, policy: Policy, prompts: PromptSet) -> tuple[ShapeNoise, ...]:
    names = {one.id: f"{one.size} x{one.batch}" for one in prompts.prompts}
    seconds: dict[str, list[float]] = {}
    for prompt_id, latencies in baseline.latency_s.items():
        if latencies and prompt_id in names:
            seconds.setdefault(names[prompt_id], []).extend(latencies)
    return noise_by_shape(
        np.array(baseline.aa_ratio),
        shape_of_pair=[names.get(one, "") for one in baseline.aa_prompt_ids],
        blue_s={shape: np.array(latencies) for shape, latencies in seconds.items()},
        slow_factor=policy.latency.slow_factor,
    )


def _costs(
    stored: Baseline | Absent, policy: Policy, prompts: PromptSet, *, replicas: int
) -> tuple[Costed | Absent, tuple[str, ...]]:
    """Return what verdicts will cost, and what to be warned of, from what is stored of the incumbent."""
    if isinstance(stored, Absent) or not stored.aa_ratio or not stored.measured_as(policy, prompts):
        reason = "no history of the incumbent is stored that fits this policy; `rollout calibrate` forecasts the pairs"
        return Absent(reason=reason), ()
    missing = policy.history.pairs - len(stored.aa_ratio)
    text = f"the stored history holds {len(stored.aa_ratio)} of {policy.history.pairs} pairs, {missing} are missing"
    short = (f"{text}: promote measures it anew",) if missing > 0 else ()
    try:
        found = costed(stored, policy, prompts, replicas=replicas)
    except EvidenceError as error:
        return Absent(reason="no forecast: the stored history cannot be used"), (*short, str(error))
    return found, (*short, *warnings(found))


def _steps(policy: Policy, prompts: PromptSet, now: Standing, *, history: bool) -> tuple[str, ...]:
    candidate = now.serving.other
    measure = (
        f"measure {policy.history.pairs} pairs of {now.release.name} against a second instance of itself in "
        f"{candidate}, in {policy.history.blocks} blocks"
    )
    shifts = [
        f"send {weight}% to {candidate}; judge {policy.shift.pairs_per_step} more pairs, {policy.shift.dwell_s:g} s of "
        "live traffic, and read the weights back"
        for weight in policy.shift.weights
    ]
    load = [] if policy.load is None else [_load_step(policy.load)]
    approval = ["wait for `rollout approve`"] if policy.approval is Approval.BEFORE_SHIFT else []
    return (
        *([measure] if history else []),
        f"deploy it in {candidate}, beside {now.release.name} in {now.serving}",
        "read both capability snapshots and compare them",
        f"warm up: {policy.warmup_requests} requests for each of {len(prompts.shapes())} tensor shapes, each colour",
        f"send up to {policy.latency.pairs_max} pairs of prompts and stop at the first that decides",
        *load,
        *approval,
        *shifts,
        f"soak {policy.soak.seconds:g} s and {policy.soak.pairs} pairs with all traffic on {candidate}",
        f"promote; keep {now.release.name} hot in {now.serving} for {policy.standby_s:g} s",
    )


def _load_step(demand: LoadDemand) -> str:
    return (
        f"load both colours at {len(levels(demand))} levels, in up to {demand.windows_max} pairs of windows of "
        f"{demand.window_s:g} s each; {demand.seconds_max:g} s at most"
    )


def _delays(stack: LoadedStack, policy: Policy, now: Standing) -> tuple[str, ...]:
    found = []
    left_s = (now.standby_until or 0.0) - time.time()
    if left_s > 0.0:
        found.append(f"{now.serving.other} is kept hot for {left_s:.0f} s more; promote waits for that")
    try:
        build_router(stack, build_lease(stack, policy)).read()
    except UnavailableError:
        found.append("the router does not run; promote starts it")
    return tuple(found)


def _obstacles(
    stack: LoadedStack, policy: Policy, prompts: PromptSet, now: Standing, stored: Baseline | Absent
) -> tuple[str, ...]:
    lease = build_lease(stack, policy)
    found: list[str] = []
    left = left_over(stack.state)
    if left is not None and not left.terminal:
        found.append(f"run {left.request.run_id} is unfinished in phase {left.phase}")
    state = build_platform(stack, lease).observe()[now.serving]
    if not isinstance(state, SlotState) or not state.ready:
        detail = state.reason if isinstance(state, Absent) else "; ".join(one.detail for one in state.instances)
        found.append(f"the incumbent in {now.serving} is not ready ({detail}); `rollout rollback --stay` restores it")
    elif isinstance(stored, Baseline) and stored.latency_s and stored.measured_as(policy, prompts):
        seen = build_protocol(stack).fetch_snapshot(state.instances[0].address, timeout_s=SNAPSHOT_S)
        problem = fallen(policy.capabilities, proven=stored.snapshot, now=seen, today=day_of(time.time()))
        found += [problem] if problem else []
    try:
        weights = build_router(stack, lease).read().weights
    except UnavailableError:
        weights = all_on(now.serving)
    if weights != all_on(now.serving):
        found.append(f"traffic stands at {weights}, not all on {now.serving}")
    if len(prompts.prompts) > policy.latency.pairs_max:
        found.append(f"{len(prompts.prompts)} prompts are more than latency.pairs_max {policy.latency.pairs_max}")
    return tuple(found)


def _notes(policy: Policy, prompts: PromptSet) -> tuple[str, ...]:
    gate, today = policy.latency, day_of(time.time())
    allowed = (
        f"allowed: median x{gate.p50_ratio_max:g}, P{100 * gate.tail_quantile:g} of the ratio "
        f"x{gate.tail_ratio_max:g}, {100 * gate.slow_rate_promote:g}% slower than x{gate.slow_factor:g}; pictures at "
        f"least {policy.pictures.psnr_db_min:g} dB alike"
    )
    return (
        allowed,
        f"{len(prompts.prompts)} prompts, digest {prompts.digest[:19]}",
        *(f"{one.what} is {one.told(today=today)}" for one in policy.capabilities.waivers),
    )
