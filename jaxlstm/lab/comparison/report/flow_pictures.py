"""Pictures of gradient flow, and of where gradients vanish and explode."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxlstm.lab.comparison.report.looks import (
    NOTE,
    legend_outside,
    numbers,
    pick_snapshots,
    set_logarithmic,
    set_title,
)
from jaxlstm.lab.comparison.report.material import Values
from jaxlstm.lab.comparison.vanishing import NAMES
from jaxlstm.lab.errors import printable

# Beyond them a curve runs out of the picture.
LEAST, MOST = 1e-10, 1e10
REGIMES = (
    ("norms", "rate", "at rest (zero input)"),
    ("driven_norms", "driven", "driven by inputs"),
)
FIELDS = {"h": "|dL/dh_t|", "c": "|dL/dc_t|", "x": "|dL/dx_t|"}


def draw_vanishing(values: Values) -> dict[str, Figure]:
    """Draws how gradients fade or grow in RNN, GRU and LSTM; nothing without curves.

    Columns are the cells by recurrent gain, then the LSTM by forget bias. Rows are nets
    at rest, with what the spectral radius predicts as dots, and driven ones.

    Args:
      values: of the part vanishing.
    """
    curves = values["curves"]
    if not curves:
        return {}
    gained = [c for c in curves if c["gain"] is not None]
    groups = [
        (name, "gain", chosen)
        for cell, name in NAMES.items()
        if (chosen := [c for c in gained if c["cell"] == cell])
    ]
    biased = [c for c in curves if c["gain"] is None]
    if biased:
        groups.append(("LSTM", "forget_bias", biased))
    width = 0.4 + 3.1 * max(2, len(groups))
    figure = Figure(figsize=(width, 6.6), layout="constrained")
    grid = figure.subplots(2, len(groups), sharex=True, sharey=True, squeeze=False)
    k = np.array(values["k"])
    for column, (name, setting, chosen) in zip(grid.T, groups, strict=False):
        what = "recurrent gain" if setting == "gain" else "forget bias, gain 1"
        column[0].set_title(f"{name}: {what}", fontsize=11)
        for axes, (norms, rate, _) in zip(column, REGIMES, strict=True):
            _draw_regime(axes, k, chosen, setting, norms, rate)
        column[1].set_xlabel("k: steps after the change")
    for axes, (_, _, regime) in zip(grid[:, 0], REGIMES, strict=True):
        axes.set_ylabel(regime)
    first = grid[0, 0]
    for y, text in ((0.52, "explodes"), (0.48, "vanishes")):
        va = "bottom" if y > 0.5 else "top"
        place: Any = {"ha": "right", "va": va, "transform": first.transAxes}
        first.text(0.98, y, text, **place, **NOTE)
    set_title(
        figure,
        "How much of a change of the state is left k steps later, |ds_t/ds_{t-k}| "
        "(dots: predicted by the spectral radius)",
    )
    return {"vanishing": figure}


def _draw_regime(
    axes: Axes,
    k: np.ndarray,
    curves: Sequence[Values],
    setting: str,
    norms: str,
    rate: str,
) -> None:
    """Draws the curves of a cell, each with its setting and its factor a step."""
    axes.axhspan(1, MOST, color="tab:red", alpha=0.06, linewidth=0)
    axes.axhspan(LEAST, 1, color="tab:blue", alpha=0.06, linewidth=0)
    axes.axhline(1, color="0.4", linewidth=1)
    shades = np.linspace(0.05, 0.95, len(curves)) if len(curves) > 1 else [0.5]
    for shade, curve in zip(shades, curves, strict=True):
        colour = matplotlib.colormaps["turbo"](shade)
        told = "" if curve[rate] is None else f": {curve[rate]:.2f} a step"
        label = f"{curve[setting]:g}{told}"
        y = numbers(curve[norms])
        axes.plot(k, y, color=colour, linewidth=1.6, label=label)
        predicted = curve["predicted"]
        if norms == "norms" and predicted is not None and y[0] > 0:
            with np.errstate(over="ignore", under="ignore"):
                dots = y[0] * predicted ** (k - k[0]).astype(float)
            axes.plot(k[::3], dots[::3], ".", color="black", markersize=3)
    set_logarithmic(axes.yaxis)
    axes.set(ylim=(LEAST, MOST), xlim=(0, k[-1]))
    axes.set_yticks([10.0**n for n in range(-9, 10, 3)])
    axes.legend(fontsize=8, frameon=False, labelspacing=0.25)


def draw_flow(values: Values) -> dict[str, Figure]:
    """Draws the part flow.

    - "flow": the gradient by states and inputs of each layer against time.
    - "jacobians": how far the state reaches, beside the product of forget gates.
    - "gates": which shares of them are saturated, if they are known.
    - "terms": of the LSTM's Jacobians, if it is one.

    Args:
      values: of the part flow.
    """
    snapshots = pick_snapshots(values["snapshots"])
    figures = {"flow": _draw_norms(snapshots), "jacobians": _draw_products(snapshots)}
    if any(snapshot["saturation"] for snapshot in snapshots):
        figures["gates"] = _draw_gates(snapshots)
    if any(snapshot["terms"] for snapshot in snapshots):
        figures["terms"] = _draw_terms(snapshots)
    return figures


def _draw_norms(snapshots: Sequence[Values]) -> Figure:
    layers = snapshots[0]["layers"]
    fields = [
        name for name in FIELDS if any(layer[name] is not None for layer in layers)
    ]
    figure = Figure(
        figsize=(1 + 3.3 * len(fields), 1.1 + 2.3 * len(layers)), layout="constrained"
    )
    grid = figure.subplots(len(layers), len(fields), sharex=True, squeeze=False)
    for n, row in enumerate(grid):
        for axes, name in zip(row, fields, strict=True):
            for colour, snapshot in _coloured(snapshots):
                curve = snapshot["layers"][n][name]
                if curve is not None:
                    label = f"update {snapshot['update']:,}"
                    y = _positive(curve)
                    axes.plot(snapshot["steps"], y, color=colour, label=label)
            set_logarithmic(axes.yaxis)
            title = f"{FIELDS[name]}, {printable(layers[n]['name'])}"
            axes.set_title(title, fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("step t")
    legend_outside(figure, *grid.flat)
    set_title(figure, "The gradient at each step of the sequence, norm over the batch")
    return figure


def _draw_products(snapshots: Sequence[Values]) -> Figure:
    figure = Figure(figsize=(1 + 3.6 * len(snapshots), 3.8), layout="constrained")
    row = figure.subplots(1, len(snapshots), sharey=True, squeeze=False)[0]
    for axes, snapshot in zip(row, snapshots, strict=True):
        found = snapshot["jacobians"]
        axes.axhline(1, color="0.4", linewidth=1)
        axes.plot(
            found["k"], _positive(found["spectral"]), color="black", label="all of it"
        )
        for name, curve in found["by_state"].items():
            if len(found["by_state"]) > 1:
                label = f"{name} by {name}"
                axes.plot(found["k"], _positive(curve), label=printable(label))
        if found["forget_product"] is not None:
            label = "product of forget gates"
            y = _positive(found["forget_product"])
            axes.plot(found["k"], y, color="tab:green", linestyle="--", label=label)
        axes.set_xlabel("k: steps back")
        set_logarithmic(axes.yaxis)
        axes.set_title(f"update {snapshot['update']:,}", fontsize=10)
    row[0].set_ylabel("|ds_t/ds_{t-k}|, last step t")
    row[0].legend(fontsize=8, frameon=False)
    set_title(figure, "How much of a change of the state is left after k steps")
    return figure


def _draw_gates(snapshots: Sequence[Values]) -> Figure:
    names = list(snapshots[0]["saturation"])
    figure = Figure(figsize=(2 + 1.8 * len(names), 3.6), layout="constrained")
    axes = figure.subplots()

    def high(snapshot: Values, name: str) -> float | None:
        return snapshot["saturation"][name]["high"]

    def low(snapshot: Values, name: str) -> float | None:
        share = snapshot["saturation"][name]["low"]
        return None if share is None else -share

    _bars(axes, names, snapshots, high)
    _bars(axes, names, snapshots, low, labelled=False)
    shares = [
        abs(end(snapshot, name) or 0)
        for snapshot in snapshots
        for name in names
        for end in (high, low)
    ]
    most = 1.3 * (max(shares) or 1.0)
    axes.axhline(0, color="0.3", linewidth=1)
    axes.set(ylim=(-most, most), ylabel="share of values")
    axes.yaxis.set_major_formatter(lambda y, _: f"{abs(y):g}")
    place: Any = {"transform": axes.transAxes, **NOTE}
    axes.text(0.01, 0.98, "open: above 0.9", va="top", **place)
    axes.text(0.01, 0.02, "shut: below 0.1 (tanh: -0.9)", va="bottom", **place)
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    set_title(figure, "Gates at their ends, where they pass no gradient of their own")
    return figure


def _draw_terms(snapshots: Sequence[Values]) -> Figure:
    derivatives = list(next(s["terms"] for s in snapshots if s["terms"]))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    row = figure.subplots(1, len(derivatives), sharey=True, squeeze=False)[0]
    for axes, derivative in zip(row, derivatives, strict=True):
        known = [s for s in snapshots if s["terms"]]
        norms = known[0]["terms"][derivative]
        names = [name for name, norm in norms.items() if norm is not None]
        _bars(
            axes,
            names,
            known,
            lambda snapshot, name, d=derivative: snapshot["terms"][d][name],
        )
        top, below = derivative.split("/")
        axes.set_title(f"{top}_t/{below}_{{t-1}}, by gate", fontsize=10)
    row[0].set_ylabel("spectral norm")
    row[0].legend(fontsize=8, frameon=False)
    set_title(figure, "By which gate a gradient comes back one step (direct: c alone)")
    return figure


def _bars(
    axes: Axes,
    names: Sequence[str],
    snapshots: Sequence[Values],
    height: Callable[[Values, str], float | None],
    *,
    labelled: bool = True,
) -> None:
    """Draws a group of bars for each name, one bar for each snapshot."""
    width = 0.8 / len(snapshots)
    for n, (colour, snapshot) in enumerate(_coloured(snapshots)):
        heights = numbers([height(snapshot, name) for name in names])
        places = np.arange(len(names)) + (n - (len(snapshots) - 1) / 2) * width
        label = f"update {snapshot['update']:,}" if labelled else None
        axes.bar(places, heights, width, color=colour, label=label)
    axes.set_xticks(np.arange(len(names)), [printable(name) for name in names])


def _coloured(snapshots: Sequence[Values]) -> list[tuple[Any, Values]]:
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(snapshots)))
    return list(zip(shades, snapshots, strict=True))


def _positive(values: Sequence[float | None]) -> np.ndarray:
    """Returns figures in float64; NaN, which is not drawn, where a log has none."""
    found = numbers(values)
    return np.where(found > 0, found, np.nan)
