"""The two pictures of docs/decisions.md."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from cases import BUDGET
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from vectorized import BREACHED, Verdicts

mpl.use("svg")
# Equal runs give equal files: no random element names, no date.
mpl.rcParams["svg.hashsalt"] = "rollout"
_METADATA = {"Date": None}

_CURVES = ("x10", "x2", "x1.5", "x1.2", "10% of requests x3", "x1.10")
_FIXED_COUNTS = (50, 100)

_DARK = 60.0
"""Percent from which a cell is too dark for black figures."""


def draw_pairs(verdicts: dict[str, Verdicts], *, path: Path) -> None:
    """Draw the share of runs convicted by each pair, a curve per case in _CURVES."""
    figure, axes = plt.subplots(figsize=(8.0, 4.2), layout="constrained")
    pairs = np.arange(1, BUDGET + 1)
    for name, color in zip(_CURVES, mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(_CURVES))), strict=True):
        one = verdicts[name]
        convicted = np.sort(np.where(one.outcome == BREACHED, one.pairs, np.inf))
        share = 100.0 * np.searchsorted(convicted, pairs, side="right") / len(convicted)
        axes.step(pairs, share, where="post", color=color, label=name)
    for count in _FIXED_COUNTS:
        axes.axvline(count, color="gray", linestyle=":")
        axes.annotate(f"fixed n = {count}", (count, 2.0), rotation=90, color="gray", ha="right", fontsize=8)
    axes.set(
        xscale="log", xlim=(1, BUDGET), ylim=(0, 101), xlabel="pairs measured", ylabel="slow candidates convicted, %"
    )
    ticks = (1, 2, 3, 5, 10, 20, 50, 100, 200, 400)
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    axes.legend(title="candidate", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


def draw_wrong(wrong: dict[str, Sequence[float]], *, judges: Sequence[str], path: Path) -> None:
    """Draw wrong verdicts in percent, a row per case and a column per judge; dark is bad.

    Cases in which every judge is right 99 times in 100 are left out.
    """
    wrong = {name: row for name, row in wrong.items() if max(row) > 1.0}
    percent = np.array(list(wrong.values()))
    figure, axes = plt.subplots(figsize=(8.0, 0.26 * len(wrong) + 1.6), layout="constrained")
    axes.imshow(np.sqrt(percent), cmap="OrRd", vmin=0.0, vmax=12.0, aspect="auto")
    for (row, column), value in np.ndenumerate(percent):
        axes.text(
            column,
            row,
            f"{value:.3g}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value > _DARK else "black",
        )
    narrow = [name.replace(" ", "\n").replace("-", "-\n") for name in judges]
    axes.set_xticks(range(len(judges)), labels=narrow, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(wrong)), labels=list(wrong), fontsize=8)
    axes.tick_params(length=0)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata=_METADATA)
    plt.close(figure)
