"""Accuracy against lag, as `benchmarks/memory_span.py` has measured it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from jaxlstm.lab.plots import MARKERS, STYLE

PASSED = 0.9


def save_picture(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws results of sweeps, as they are in their files, into a file."""
    with matplotlib.rc_context(STYLE):
        draw(results).savefig(path)


def draw(results: Sequence[dict[str, Any]]) -> Figure:
    """Draws a panel a task, a curve a cell, and a small mark a seed."""
    figure = Figure(figsize=(1 + 4.5 * len(results), 4), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, result in zip(panels, results, strict=True):
        cells, (lag, counted) = result["cells"], result["words"]
        for n, (cell, points) in enumerate(cells.items()):
            # The marks of one cell would cover those of another.
            shift = 1.03 ** (n - (len(cells) - 1) / 2)
            lags = shift * np.array([point["lag"] for point in points])
            accuracies = np.array([point["accuracy"] for point in points])
            style: Any = {"color": f"C{n}", "marker": MARKERS[n % len(MARKERS)]}
            axes.plot(lags, accuracies.mean(axis=1), label=cell.upper(), **style)
            axes.plot(lags, accuracies, **style, linestyle="", markersize=4, alpha=0.4)
        line: Any = {"color": "0.3", "linewidth": 1}
        axes.axhline(PASSED, linestyle="--", label=f"{PASSED:.0%}", **line)
        axes.axhline(result["guessed"], linestyle=":", label="guessed", **line)
        lags = sorted({point["lag"] for points in cells.values() for point in points})
        axes.set(xscale="log", xlabel=lag, xticks=lags, xticklabels=lags)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        seeds, updates = result["num_seeds"], result["num_updates"]
        axes.set(
            title=f"{result['task'].capitalize()}: {counted}\n"
            f"mean of {seeds} seeds, {updates:,} updates",
            ylim=(-0.03, 1.05),
        )
    panels[0].set_ylabel("accuracy; small marks: each seed")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5
    )
    return figure
