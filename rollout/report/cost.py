"""What pictures cost on both colours, from the load phase and the policy's price."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rollout.model.inventory import Absent
from rollout.model.load import LoadWindow, WindowPair
from rollout.model.policy import CostModel
from rollout.model.roles import Role
from rollout.report.load import CONCURRENCY
from rollout.stats.cost import Costing, costing
from rollout.stats.series import Bounds

ALPHA = 0.05
"""Two-sided: at 5% an interval exists from six windows on, which is what a level of equal colours takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """One colour: what an hour of GPU delivers at its best concurrency, and what it costs.

    Attributes:
        level: The concurrency level with the colour's highest median throughput; it is full there or nearly so.
        windows: Windows of that level.
        currency: ISO 4217.
    """

    role: Role
    level: str
    windows: int
    currency: str
    costing: Costing


def cost_rows(
    cost: CostModel | None, windows: Mapping[str, Sequence[WindowPair]], *, instances: Mapping[Role, int]
) -> tuple[CostRow, ...] | Absent:
    """Return both colours side by side.

    Args:
        cost: The policy's price; None where it names none.
        windows: Level to the pairs of windows.
        instances: Instances that took each role's load.

    Returns:
        Absent where there is no price, no window at a concurrency level, or a role without a known instance.
    """
    if cost is None:
        return Absent(reason="the policy names no price (section cost)")
    # At the others a colour does not show what it can: few requests in flight, or a rate below what it carries.
    swept = {level: pairs for level, pairs in windows.items() if pairs and level.startswith(CONCURRENCY)}
    if not swept:
        return Absent(reason="no window at a concurrency level was measured, so there is no throughput to price")
    missing = [role.value for role in Role if instances.get(role, 0) < 1]
    if missing:
        return Absent(reason=f"how many instances the {' and the '.join(missing)} had is not known")
    return tuple(_row(cost, swept, role, instances[role]) for role in Role)


def cost_lines(rows: tuple[CostRow, ...] | Absent) -> tuple[str, ...]:
    """Return one line for each colour, or the reason why there is none."""
    if isinstance(rows, Absent):
        return (f"not known: {rows.reason}",)
    return tuple(
        f"{one.role.value}: {_words(one.costing.cost_per_1000, one.costing.cost_bounds)} {one.currency} per 1000 "
        f"pictures, {_words(one.costing.requests_per_gpu_hour, one.costing.requests_bounds)} requests per GPU-hour "
        f"({one.level}, {one.windows} windows, 95% intervals)"
        for one in rows
    )


def cost_json(rows: tuple[CostRow, ...] | Absent) -> dict[str, Any]:
    """Return the same as JSON; an end of an interval that is not known is null."""
    if isinstance(rows, Absent):
        return {"absent": rows.reason}
    return {
        one.role.value: {
            "level": one.level,
            "windows": one.windows,
            "currency": one.currency,
            "confidence": 1.0 - ALPHA,
            "requests_per_gpu_hour": _json(one.costing.requests_per_gpu_hour, one.costing.requests_bounds),
            "cost_per_1000_pictures": _json(one.costing.cost_per_1000, one.costing.cost_bounds),
        }
        for one in rows
    }


def _row(cost: CostModel, swept: Mapping[str, Sequence[WindowPair]], role: Role, instances: int) -> CostRow:
    sides: dict[str, list[LoadWindow]] = {
        level: [one.incumbent if role is Role.INCUMBENT else one.candidate for one in pairs]
        for level, pairs in swept.items()
    }
    level = max(sides, key=lambda name: statistics.median(one.pictures_per_s for one in sides[name]))
    best = sides[level]
    return CostRow(
        role=role,
        level=level,
        windows=len(best),
        currency=cost.currency,
        costing=costing(
            requests_per_s=np.array([one.requests_per_s for one in best]),
            pictures_per_s=np.array([one.pictures_per_s for one in best]),
            gpus=cost.gpus_per_instance * instances,
            gpu_hour=cost.gpu_hour,
            alpha=ALPHA,
        ),
    )


def _words(value: float, bounds: Bounds) -> str:
    return f"{value:.4g} [{bounds.lower:.4g}, {bounds.upper:.4g}]"


def _json(value: float, bounds: Bounds) -> dict[str, float | None]:
    ends = {"value": value, "lower": bounds.lower, "upper": bounds.upper}
    return {name: one if math.isfinite(one) else None for name, one in ends.items()}
