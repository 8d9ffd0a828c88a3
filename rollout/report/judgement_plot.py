"""A judgement as a picture: how the interval of the ratio narrowed, and both colours' latencies side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from rollout.report import words
from rollout.stats.margins import Margins
from rollout.stats.paired import Estimate, Judgement, PairedTest
from rollout.stats.series import Array

POINTS_MAX = 40
"""Pairs at which the interval is computed, evenly spread on a log scale: it narrows fast at first."""

ECDF_POINTS_MAX = 300
"""Steps drawn of each distribution; more than a screen has pixels for shows nothing more."""

WIDTH, HEIGHT = 860, 720
_LEFT, _RIGHT = 70, 170
_PANELS = ((60, 300), (420, 660))
"""Top and bottom of the two drawings."""

_STYLE = """
svg{--ink:#1b1f24;--soft:#6b7280;--grid:#d9dde3;--paper:#fff;--blue:#1f6feb;--green:#1a7f37;--limit:#b35900}
@media (prefers-color-scheme:dark){svg{--ink:#e6edf3;--soft:#9aa4b0;--grid:#353c45;--paper:#0d1117;--blue:#6cb0ff;
--green:#56d364;--limit:#ffa657}}
text{font:13px system-ui,sans-serif;fill:var(--ink)}.soft{fill:var(--soft)}.head{font-weight:600;font-size:15px}
.grid{stroke:var(--grid)}.axis{stroke:var(--soft)}.limit{stroke:var(--limit);stroke-width:2;stroke-dasharray:7 4}
.limit-text{fill:var(--limit)}.band{fill:var(--green);opacity:.22}
.green{stroke:var(--green);stroke-width:2;fill:none;stroke-dasharray:6 3}
.blue{stroke:var(--blue);stroke-width:2;fill:none}
.median{stroke:var(--green);stroke-width:2;fill:none}.blue-text{fill:var(--blue)}.green-text{fill:var(--green)}
""".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePoint:
    """What was known of the median ratio after so many pairs; an end of the interval is 0 or +inf where open."""

    pairs: int
    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A log axis from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; one outside the axis is put at its nearer end."""
        clipped = min(max(value, self.low), self.high)
        share = math.log(clipped / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def trace(
    judgement: Judgement,
    *,
    blue_s: Array,
    green_s: Array,
    aa_ratio: Array,
    margins: Margins,
    alpha: float,
    beta: float,
    block_pairs: int,
) -> tuple[TracePoint, ...]:
    """Return how the estimate of the median ratio went, up to the judgement that these very arguments gave.

    Pairs count void ones too. Nothing where no pair could be used.
    """
    looked_at = judgement.pairs_used + judgement.pairs_void
    if not looked_at:
        return ()
    stops = set(np.unique(np.geomspace(1, looked_at, POINTS_MAX).round().astype(int)).tolist())
    test = PairedTest(aa_ratio=aa_ratio, margins=margins, alpha=alpha, beta=beta, block_pairs=block_pairs)
    points = []
    for pairs, (blue, green) in enumerate(
        zip(blue_s[:looked_at].tolist(), green_s[:looked_at].tolist(), strict=True), 1
    ):
        test.update(blue_s=blue, green_s=green)
        known = test.judgement().p50_ratio if pairs in stops else None
        if isinstance(known, Estimate):
            bounds = known.bounds
            points.append(TracePoint(pairs=pairs, value=known.value, lower=bounds.lower, upper=bounds.upper))
    return tuple(points)


def narrowing_lines(points: Sequence[TracePoint], *, margin: float, columns: int, rows: int = 8) -> tuple[str, ...]:
    """Draw the interval at a few counts of pairs, one line each, for a terminal.

    Args:
        points: See `trace`.
        margin: Drawn as a dotted column.
        columns: Width of the drawing, at least 40.
        rows: Lines at most.
    """
    if not points:
        return ()
    chosen = [points[i] for i in np.unique(np.linspace(0, len(points) - 1, rows).round().astype(int)).tolist()]
    width = columns - 20
    low, high = _reach([points[-1]], margin)
    scale = Scale(low=low, high=high, start=0, end=width - 1)
    return (
        *(f"{one.pairs:6} {_interval_line(one, scale, margin, width)} {words.ratio(one.value):>7}" for one in chosen),
        f"{'pairs':>6} {_legend(scale, margin, width)}",
    )


def judgement_svg(
    judgement: Judgement, points: Sequence[TracePoint], *, blue_s: Array, green_s: Array, margins: Margins, source: str
) -> str:
    """Draw a judgement as one SVG without any outside resource, readable on light and dark, and by screen readers.

    Args:
        judgement: What is shown.
        points: See `trace`.
        blue_s: Shape (n,), seconds, of the pairs looked at; +inf for a failed request.
        green_s: Likewise.
        margins: The limits it was judged by.
        source: What was judged, for the title.
    """
    title = f"{judgement.outcome.value}: {source}"
    told = f"{judgement.reason}. Above, the median ratio of green over blue by pairs, with its interval and the margin "
    told += f"{words.ratio(margins.p50_ratio_max)}. Below, the share of requests answered within a time, by colour."
    parts = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d">',
        f'<title id="t">{escape(title)}</title><desc id="d">{escape(told)}</desc><style>{_STYLE}</style>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="var(--paper)"/>',
        _text(_LEFT, 26, title, "head"),
        *_ratio_panel(points, margins.p50_ratio_max),
        *_latency_panel(blue_s, green_s),
        "</svg>\n",
    )
    return "\n".join(parts)


def _ratio_panel(points: Sequence[TracePoint], margin: float) -> list[str]:
    top, bottom = _PANELS[0]
    parts = [_text(_LEFT, top - 12, "Median of green / blue, with the interval that holds at every pair", "")]
    if not points:
        return [*parts, _text(_LEFT, top + 30, "No pair was answered by either colour.", "soft")]
    low, high = _reach(points[len(points) // 4 :], margin)
    across = Scale(low=1.0, high=max(points[-1].pairs, 2), start=_LEFT, end=WIDTH - _RIGHT)
    up = Scale(low=low, high=high, start=bottom, end=top)
    parts += _grid(up, _ratio_ticks(low, high))
    parts += _ticks_below(across, _decades(1.0, across.high), bottom, "pairs", lambda one: f"{one:.0f}")
    ends = [(across(one.pairs), up(one.upper)) for one in points]
    ends += [(across(one.pairs), up(one.lower)) for one in reversed(points)]
    parts.append(f'<polygon class="band" points="{_joined(ends)}"/>')
    parts.append(_line("median", [(across(one.pairs), up(one.value)) for one in points]))
    parts.append(_line("limit", [(_LEFT, up(margin)), (WIDTH - _RIGHT, up(margin))]))
    last, beside = points[-1], WIDTH - _RIGHT + 8
    apart = 16.0 if abs(up(last.value) - up(margin)) < 16.0 else 0.0  # noqa: PLR2004 - the height of a line of text
    apart = apart if last.value <= margin else -apart
    parts.append(_text(beside, up(margin) + 4, f"margin {words.ratio(margin)}", "limit-text"))
    parts.append(_text(beside, up(last.value) + 4 + apart, f"median {words.ratio(last.value)}", "green-text"))
    return parts


def _latency_panel(blue_s: Array, green_s: Array) -> list[str]:
    top, bottom = _PANELS[1]
    parts = [_text(_LEFT, top - 12, "Share of requests answered within a time; a failed one never is", "")]
    answered = np.concatenate([one[np.isfinite(one)] for one in (blue_s, green_s)])
    if not len(answered):
        return [*parts, _text(_LEFT, top + 30, "No request was answered.", "soft")]
    low, high = float(answered.min()) / 1.02, float(answered.max()) * 1.02
    across = Scale(low=low, high=high, start=_LEFT, end=WIDTH - _RIGHT)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        height = bottom + share * (top - bottom)
        parts.append(_line("grid", [(_LEFT, height), (WIDTH - _RIGHT, height)]))
        parts.append(_text(_LEFT - 8, height + 4, f"{100 * share:.0f}%", "soft", anchor="end"))
    parts += _ticks_below(across, _decades(low, high), bottom, "time of a request", words.milliseconds)
    for colour, seconds, drop in (("blue", blue_s, 0), ("green", green_s, 18)):
        parts.append(_line(colour, _ecdf(seconds, across, top, bottom)))
        failed = int(np.count_nonzero(np.isinf(seconds)))
        name = colour if not failed else f"{colour}, {failed} failed"
        parts.append(_line(colour, [(WIDTH - _RIGHT + 10, top + 8 + drop), (WIDTH - _RIGHT + 36, top + 8 + drop)]))
        parts.append(_text(WIDTH - _RIGHT + 42, top + 12 + drop, name, f"{colour}-text"))
    return parts


def _ecdf(seconds: Array, across: Scale, top: float, bottom: float) -> list[tuple[float, float]]:
    ordered = np.sort(seconds)
    finite = int(np.count_nonzero(np.isfinite(ordered)))
    chosen = np.unique(np.linspace(0, finite - 1, ECDF_POINTS_MAX).round().astype(int)).tolist() if finite else []
    found, height = [(float(_LEFT), float(bottom))], float(bottom)
    for place in chosen:
        across_at = across(float(ordered[place]))
        found.append((across_at, height))
        height = bottom + (place + 1) / len(ordered) * (top - bottom)
        found.append((across_at, height))
    return [*found, (float(WIDTH - _RIGHT), height)]


def _reach(points: Sequence[TracePoint], margin: float) -> tuple[float, float]:
    """Return the ratios to show: the interval's ends that are known, the margin and 1, with room around them."""
    known = [one for point in points for one in (point.lower, point.value, point.upper)]
    shown = [one for one in known if 0.0 < one < math.inf] + [margin, 1.0]
    room = max(0.15 * math.log(max(shown) / min(shown)), 0.02)
    return min(shown) * math.exp(-room), max(shown) * math.exp(room)


def _interval_line(point: TracePoint, scale: Scale, margin: float, width: int) -> str:
    cells = [" "] * width
    left, right = round(scale(point.lower)), round(scale(point.upper))
    cells[left : right + 1] = "─" * (right - left + 1)
    cells[left] = "├" if point.lower >= scale.low else "◂"
    cells[right] = "┤" if point.upper <= scale.high else "▸"
    cells[round(scale(margin))] = "┊"
    cells[round(scale(point.value))] = "●"
    return "".join(cells)


def _legend(scale: Scale, margin: float, width: int) -> str:
    label = f"{words.ratio(margin)} margin"
    place = round(scale(margin))
    cells = " " * place + f"┊ {label}"
    return cells if len(cells) <= width + 8 else " " * max(place - len(label) - 1, 0) + f"{label} ┊"


def _ratio_ticks(low: float, high: float) -> list[float]:
    steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
    step = next((one for one in steps if (high - low) / one <= 8), high - low)  # noqa: PLR2004 - as many lines are read easily
    first = math.ceil(low / step)
    return [n * step for n in range(max(first, 1), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    shown = [m * 10.0**e for e in range(-7, 9) for m in (1, 2, 5)]
    inside = [one for one in shown if low <= one <= high]
    return inside if len(inside) > 1 else [low, high]


def _grid(up: Scale, ticks: Sequence[float]) -> list[str]:
    parts = []
    for one in ticks:
        parts.append(_line("grid", [(_LEFT, up(one)), (WIDTH - _RIGHT, up(one))]))
        parts.append(_text(_LEFT - 8, up(one) + 4, words.ratio(one), "soft", anchor="end"))
    return parts


def _ticks_below(
    across: Scale, ticks: Sequence[float], bottom: float, what: str, name: Callable[[float], str]
) -> list[str]:
    parts = [_line("axis", [(_LEFT, bottom), (WIDTH - _RIGHT, bottom)])]
    parts += [_text(across(one), bottom + 18, name(one), "soft", anchor="middle") for one in ticks]
    parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, bottom + 38, what, "soft", anchor="middle"))
    return parts


def _line(kind: str, places: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="{kind}" points="{_joined(places)}"/>'


def _text(across: float, down: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text x="{across:.1f}" y="{down:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _joined(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
