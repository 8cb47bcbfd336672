"""Pictures of the exact gradient by lag and by the way it came."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxlstm.lab.comparison.lags import LEVELS
from jaxlstm.lab.comparison.report.looks import (
    COLOURS,
    MARKERS,
    Looks,
    is_wide,
    legend_outside,
    numbers,
    pick_snapshots,
    set_logarithmic,
    set_title,
)
from jaxlstm.lab.comparison.report.material import Values
from jaxlstm.lab.errors import printable

HATCHES = "", "", "//", "\\\\", "xx", ".."
# Lags beyond hold less than this of the gradient, and are not drawn.
SHARE_LEFT_OUT = 0.005


def draw_advice(values: Values, looks: Looks) -> Figure:
    """Draws cosine and norm ratio of every horizon of a truncation."""
    del looks
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    snapshots = values["snapshots"]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(snapshots)))
    ratios = []
    for n, (snapshot, colour) in enumerate(zip(snapshots, colours, strict=True)):
        label = f"update {snapshot['update']:,}"
        horizons = snapshot["horizons"]
        for whole, linestyle in ((snapshot, "-"), (snapshot.get("recurrent"), "--")):
            if whole is None:
                continue
            style: Any = {"color": colour, "linestyle": linestyle}
            ratios.append(numbers(whole["norm_ratio"]))
            told = label if whole is snapshot else None
            left.plot(horizons, numbers(whole["cosine"]), label=told, **style)
            right.plot(horizons, ratios[-1], **style)
        for level in LEVELS:
            steps = snapshot["keeps"].get(f"{level:g}")
            told = f"{label}: no horizon keeps {level:g}"
            x, y = [], []
            if steps is not None:
                told = f"{label}: {steps} steps keep {level:g}"
                x, y = [steps], [numbers(snapshot["cosine"])[horizons.index(steps)]]
            marker = MARKERS[n % len(MARKERS)] if x else "none"
            left.plot(x, y, marker=marker, linestyle="none", color=colour, label=told)
    if any(snapshot.get("recurrent") for snapshot in snapshots):
        left.plot([], [], "--", color="0.4", label="recurrent weights alone")
    for level in LEVELS:
        left.axhline(level, color="0.5", linewidth=1, linestyle=":")
    right.axhline(1, color="0.5", linewidth=1, linestyle=":")
    left.set(ylabel="cosine with the exact gradient", title="Direction (1: the same)")
    right.set(ylabel="norm / norm of the exact gradient", title="Length (1: the same)")
    if is_wide(np.concatenate(ratios)):
        set_logarithmic(right.yaxis)
    for axes in (left, right):
        axes.set_xlabel("horizon: how many steps a loss is followed back")
    set_title(figure, "How much of the gradient a truncation keeps")
    legend_outside(figure, left)
    return figure


def draw_paths(values: Values, looks: Looks) -> Figure:
    """Draws the shares of the gradient by route and lag, and by route and gate."""
    del looks
    snapshots = pick_snapshots(values["snapshots"])
    figure = Figure(figsize=(11, 1.2 + 2.6 * len(snapshots)), layout="constrained")
    grid = figure.subplots(
        len(snapshots), 2, squeeze=False, sharex="col", width_ratios=[3, 2]
    )
    most = max(map(_count_lags, snapshots))
    for snapshot, (by_lag, by_gate) in zip(snapshots, grid, strict=True):
        shares, routes = snapshot["path_shares"], snapshot["routes"]
        lags = np.array([numbers(row) for row in shares["by_route_and_lag"]])
        beyond = numbers(shares.get("beyond") or [0] * len(routes))
        gates = np.array([numbers(row) for row in shares["by_route_and_gate"]])
        rest = lags[:, most:].sum(axis=1) + beyond
        _stack(by_lag, np.column_stack([lags[:, :most], rest]), routes)
        _stack(by_gate, gates, routes)
        by_lag.set_title(f"Update {snapshot['update']:,}", loc="left")
        by_lag.set_ylabel("share of the gradient [%]")
        names = [printable(gate) for gate in snapshot["gates"]]
        rotated: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        by_gate.set_xticks(range(len(names)), names, **rotated)
    apart = max(1, most // 8)
    places = range(0, most - apart // 2, apart)
    grid[-1][0].set_xticks([*places, most], [*map(str, places), "later"])
    grid[-1][0].set_xlabel("lag between the step and the loss it serves [steps]")
    grid[-1][1].set_xlabel("weights that are reached")
    set_title(
        figure,
        "By which way the gradient comes: the bars of a panel add up to 100 %",
    )
    legend_outside(figure, grid[0][0], title="way back in time")
    return figure


def _count_lags(snapshot: Values) -> int:
    """Returns how many lags hold all of the gradient but a rest."""
    table = np.array(
        [numbers(row) for row in snapshot["path_shares"]["by_route_and_lag"]]
    )
    sizes = np.nan_to_num(np.abs(table)).sum(axis=0)
    beyond = sizes.sum() - np.cumsum(sizes)
    return int(np.argmax(beyond <= SHARE_LEFT_OUT * sizes.sum())) + 1


def _stack(axes: Axes, table: np.ndarray, routes: Sequence[str]) -> None:
    """Stacks bars [routes, x], those below zero downwards."""
    shares = 100 * np.nan_to_num(table)
    above = below = np.zeros(table.shape[1])
    for n, (row, route) in enumerate(zip(shares, routes, strict=True)):
        axes.bar(
            range(len(row)),
            row,
            bottom=np.where(row > 0, above, below),
            width=0.8,
            color=COLOURS[n % len(COLOURS)],
            hatch=HATCHES[n % len(HATCHES)],
            edgecolor="white",
            linewidth=0.3,
            label=printable(route),
        )
        above, below = above + np.maximum(row, 0), below + np.minimum(row, 0)
    axes.axhline(0, color="black", linewidth=0.8)
