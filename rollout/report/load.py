"""The load phase in a report: both colours level by level, and how each scales."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollout.errors import EvidenceError
from rollout.gates.load import gate_name
from rollout.model.inventory import Absent
from rollout.model.load import LevelKind, LoadWindow, WindowPair
from rollout.model.roles import Role
from rollout.model.verdict import Outcome, Verdict
from rollout.report import words
from rollout.report.figures import Estimate, estimate, gate_of
from rollout.stats.load_curve import LoadCurve, LoadPoint, load_curve

CONCURRENCY = f"{LevelKind.CONCURRENCY.value}-"
"""What the names of the levels begin with that make a load curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSide:
    """One colour at one level: medians over its windows, and sums of requests.

    Latencies in seconds, +inf where a quantile of the median window was never answered. Latencies of arrivals on a
    schedule count from the intended send time.
    """

    pictures_per_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    offered: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """One level that was measured.

    Attributes:
        windows: Pairs of windows.
        slowdown: How many times worse the candidate is: throughput of the incumbent over the candidate's, for arrivals
            P95 of the candidate over the incumbent's.
    """

    level: str
    outcome: Outcome
    windows: int
    incumbent: LoadSide
    candidate: LoadSide
    slowdown: Estimate | Absent


def load_rows(windows: Mapping[str, Sequence[WindowPair]], judged: Verdict | None) -> tuple[LoadRow, ...]:
    """Return one row for each level with windows, in the order in which they were measured.

    Args:
        windows: Level to its pairs of windows.
        judged: What the gates said last; None where nothing was judged.
    """
    return tuple(_row(level, pairs, judged) for level, pairs in windows.items() if pairs)


def load_curves(windows: Mapping[str, Sequence[WindowPair]]) -> Mapping[Role, LoadCurve | Absent]:
    """Return how each colour scales with concurrency; Absent where no level says so."""
    levels = sorted(
        (int(level.removeprefix(CONCURRENCY)), pairs)
        for level, pairs in windows.items()
        if level.startswith(CONCURRENCY) and pairs
    )
    return {
        role: _curve([(concurrency, [_of(one, role) for one in pairs]) for concurrency, pairs in levels])
        for role in Role
    }


def load_lines(rows: Sequence[LoadRow], curves: Mapping[Role, LoadCurve | Absent]) -> tuple[str, ...]:
    """Return the rows for people, one line each; a line per colour on how it scales follows."""
    scaling = (f"{role.value}: {_curve_words(curve)}" for role, curve in curves.items())
    return (*(f"{one.level}: {_row_words(one)}" for one in rows), *(scaling if rows else ()))


def load_table(rows: Sequence[LoadRow]) -> tuple[str, ...]:
    """Return the rows as the lines of a Markdown table; nothing where there is no row."""
    if not rows:
        return ()
    cells = ["level", "", "pictures/s", "candidate", "times worse"]
    cells += [name for quantile in ("P50", "P95", "P99", "failed") for name in (quantile, "candidate")]
    head = f"| {' | '.join(cells)} |"
    return (head, "|" + "---|" * len(cells), *(_markdown(one) for one in rows))


def load_json(rows: Sequence[LoadRow], curves: Mapping[Role, LoadCurve | Absent]) -> dict[str, Any]:
    """Return the same as JSON; what is infinite or unknown is null."""
    return {
        "levels": [
            {
                "level": one.level,
                "outcome": one.outcome.value,
                "windows": one.windows,
                "incumbent": _side_json(one.incumbent),
                "candidate": _side_json(one.candidate),
                "slowdown": None if isinstance(one.slowdown, Absent) else _estimate_json(one.slowdown),
            }
            for one in rows
        ],
        "curves": {
            role.value: {"absent": curve.reason}
            if isinstance(curve, Absent)
            else {"slope": curve.slope, "knee": curve.knee, "tail": curve.tail.value}
            for role, curve in curves.items()
        },
    }


def _row(level: str, pairs: Sequence[WindowPair], judged: Verdict | None) -> LoadRow:
    gate = gate_of(judged, gate_name(level)) if judged is not None else Absent(reason="nothing was judged")
    return LoadRow(
        level=level,
        outcome=Outcome.INCONCLUSIVE if isinstance(gate, Absent) else gate.outcome,
        windows=len(pairs),
        incumbent=_side([one.incumbent for one in pairs]),
        candidate=_side([one.candidate for one in pairs]),
        slowdown=gate if isinstance(gate, Absent) else estimate(gate.figures, "slowdown"),
    )


def _side(windows: Sequence[LoadWindow]) -> LoadSide:
    return LoadSide(
        pictures_per_s=statistics.median(one.pictures_per_s for one in windows),
        p50_s=_median_s([one.p50_s for one in windows]),
        p95_s=_median_s([one.p95_s for one in windows]),
        p99_s=_median_s([one.p99_s for one in windows]),
        offered=sum(one.offered for one in windows),
        failed=sum(one.failed for one in windows),
    )


def _median_s(values: Sequence[float | None]) -> float:
    return statistics.median(math.inf if one is None else one for one in values)


def _of(pair: WindowPair, role: Role) -> LoadWindow:
    return pair.incumbent if role is Role.INCUMBENT else pair.candidate


def _curve(levels: Sequence[tuple[int, list[LoadWindow]]]) -> LoadCurve | Absent:
    if len(levels) <= 1:
        return Absent(reason="fewer than two concurrencies were measured")
    points = []
    for concurrency, windows in levels:
        side = _side(windows)
        points.append(
            LoadPoint(
                concurrency=concurrency,
                per_s=side.pictures_per_s,
                p50_s=side.p50_s,
                p99_s=side.p99_s,
                failed_share=side.failed / max(side.offered, 1),
            )
        )
    try:
        return load_curve(points)
    except EvidenceError as error:
        return Absent(reason=str(error))


def _row_words(row: LoadRow) -> str:
    old, new = row.incumbent, row.candidate
    worse = "" if isinstance(row.slowdown, Absent) else f", {_span(row.slowdown)} as bad"
    failed = f"; {new.failed} of {new.offered} failed" if new.failed else ""
    return (
        f"{row.outcome.value} after {row.windows} pairs of windows: {old.pictures_per_s:.3g} to "
        f"{new.pictures_per_s:.3g} pictures/s, P95 {words.milliseconds(old.p95_s)} to "
        f"{words.milliseconds(new.p95_s)}{worse}{failed}"
    )


def _curve_words(curve: LoadCurve | Absent) -> str:
    if isinstance(curve, Absent):
        return f"no load curve: {curve.reason}"
    return f"slope {curve.slope:.2f}, knee at {curve.knee} in flight, tail {curve.tail.value}"


def _markdown(row: LoadRow) -> str:
    old, new = row.incumbent, row.candidate
    latencies = [
        words.milliseconds(value)
        for pair in ((old.p50_s, new.p50_s), (old.p95_s, new.p95_s), (old.p99_s, new.p99_s))
        for value in pair
    ]
    worse = "-" if isinstance(row.slowdown, Absent) else _span(row.slowdown)
    cells = [
        row.level,
        row.outcome.value,
        f"{old.pictures_per_s:.3g}",
        f"{new.pictures_per_s:.3g}",
        worse,
        *latencies,
        f"{old.failed} of {old.offered}",
        f"{new.failed} of {new.offered}",
    ]
    return f"| {' | '.join(cells)} |"


def _span(one: Estimate) -> str:
    return words.interval(one.value, lower=one.lower, upper=one.upper)


def _side_json(side: LoadSide) -> dict[str, float | int | None]:
    return {
        "pictures_per_s": side.pictures_per_s,
        "p50_s": _finite(side.p50_s),
        "p95_s": _finite(side.p95_s),
        "p99_s": _finite(side.p99_s),
        "offered": side.offered,
        "failed": side.failed,
    }


def _estimate_json(one: Estimate) -> dict[str, float | None]:
    allowed = None if isinstance(one.allowed, Absent) else one.allowed
    return {"value": _finite(one.value), "lower": _finite(one.lower), "upper": _finite(one.upper), "allowed": allowed}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
