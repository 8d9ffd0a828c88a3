"""What `promote` would do, told before anything is done: `rollout plan`."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollout.cli.exits import Exit
from rollout.cli.files import LoadedStack
from rollout.cli.wiring import build_lease, build_platform, build_router
from rollout.control.open_run import usable
from rollout.control.standing import Standing, left_over, standing
from rollout.errors import ConfigError, UnavailableError
from rollout.evidence.baselines import BaselineStore
from rollout.model.inventory import Absent, SlotState
from rollout.model.policy import Approval, Policy
from rollout.model.prompts import PromptSet
from rollout.model.release import Release
from rollout.model.roles import all_on

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Steps in order, what stands in the way, and what to expect."""

    release: str
    steps: tuple[str, ...]
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]

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
            "exit": int(self.exit),
        }

    def print(self, out: "Console") -> None:
        """Print for people."""
        out.print(f"promote {self.release} would", markup=False)
        for number, step in enumerate(self.steps, start=1):
            out.print(f"  {number:2}. {step}", markup=False)
        for note in self.notes:
            out.print(f"  note: {note}", markup=False)
        for obstacle in self.obstacles:
            out.print(f"  obstacle: {obstacle}", markup=False, style="bold red")


def forecast(stack: LoadedStack, policy: Policy, prompts: PromptSet, release: Release) -> Forecast:
    """Look at what stands and tell what promote would do.

    Raises:
        ConfigError: Nothing serves yet, or the release can never start here.
        EvidenceError: A journal is damaged.
    """
    lease = build_lease(stack, policy)
    platform = build_platform(stack, lease)
    platform.check(release)
    now = standing(stack.state)
    if isinstance(now, Absent):
        raise ConfigError(now.reason)
    return Forecast(
        release=release.name,
        steps=_steps(policy, prompts, now, history=_history_needed(stack, policy, prompts, now)),
        obstacles=_obstacles(stack, policy, prompts, now),
        notes=(*_notes(policy, prompts), *_delays(stack, policy, now)),
    )


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
    approval = ["wait for `rollout approve`"] if policy.approval is Approval.BEFORE_SHIFT else []
    return (
        *([measure] if history else []),
        f"deploy it in {candidate}, beside {now.release.name} in {now.serving}",
        "read both capability snapshots and compare them",
        f"warm up: {policy.warmup_requests} requests for each of {len(prompts.shapes())} tensor shapes, each colour",
        f"send up to {policy.latency.pairs_max} pairs of prompts and stop at the first that decides",
        *approval,
        *shifts,
        f"soak {policy.soak.seconds:g} s and {policy.soak.pairs} pairs with all traffic on {candidate}",
        f"promote; keep {now.release.name} hot in {now.serving} for {policy.standby_s:g} s",
    )


def _history_needed(stack: LoadedStack, policy: Policy, prompts: PromptSet, now: Standing) -> bool:
    stored = BaselineStore(stack.state / "baselines").get(now.release.digest)
    return isinstance(stored, Absent) or not usable(stored, policy, prompts, now=time.time())


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


def _obstacles(stack: LoadedStack, policy: Policy, prompts: PromptSet, now: Standing) -> tuple[str, ...]:
    lease = build_lease(stack, policy)
    found: list[str] = []
    left = left_over(stack.state)
    if left is not None and not left.terminal:
        found.append(f"run {left.request.run_id} is unfinished in phase {left.phase}")
    state = build_platform(stack, lease).observe()[now.serving]
    if not isinstance(state, SlotState) or not state.ready:
        detail = state.reason if isinstance(state, Absent) else "; ".join(one.detail for one in state.instances)
        found.append(f"the incumbent in {now.serving} is not ready ({detail}); `rollout rollback --stay` restores it")
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
    gate = policy.latency
    allowed = (
        f"allowed: median x{gate.p50_ratio_max:g}, P{100 * gate.tail_quantile:g} of the ratio "
        f"x{gate.tail_ratio_max:g}, {100 * gate.slow_rate_promote:g}% slower than x{gate.slow_factor:g}; pictures at "
        f"least {policy.pictures.psnr_db_min:g} dB alike"
    )
    return (
        allowed,
        f"{len(prompts.prompts)} prompts, digest {prompts.digest[:19]}",
    )
