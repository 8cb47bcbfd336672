"""Pictures of how near each estimator comes to the exact gradient."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN

from jaxlstm.lab.comparison.report.looks import (
    EXACT,
    NOTE,
    Looks,
    is_wide,
    legend_outside,
    numbers,
    set_logarithmic,
    set_title,
)
from jaxlstm.lab.comparison.report.material import ROUNDING, Values, measured
from jaxlstm.lab.errors import printable


def draw_reach(values: Values, looks: Looks) -> Figure:
    """Draws cosine and norm ratio against how far back the inputs of a loss go."""
    reach = values["reach"]
    members = measured(reach["members"])
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(reach["lags"]))
    for label, member in members.items():
        left.plot(places, numbers(member["cosine"]), **looks[label])
        right.plot(places, numbers(member["norm_ratio"]), **looks[label])
    left.set(ylabel="cosine with the exact gradient", title="Direction (1: the same)")
    right.set(ylabel="norm / norm of the exact gradient", title="Length (1: the same)")
    ratios = [numbers(member["norm_ratio"]) for member in members.values()]
    if ratios and is_wide(np.concatenate(ratios)):
        set_logarithmic(right.yaxis)
    for axes in (left, right):
        axes.axhline(1, color=EXACT, linewidth=1, linestyle="--", zorder=1)
        axes.set_xlabel("steps before the one that is scored")
        axes.set_xticks(places, [str(lag) for lag in reach["lags"]])
    set_title(
        figure,
        "How far back each estimator sees: gradient of one loss, after sequences of "
        f"growing length (update {reach['update']:,})",
    )
    legend_outside(figure, left, looks=looks)
    return figure


def draw_bias_and_variance(values: Values, looks: Looks) -> Figure:
    """Draws the bias of each estimator against its variances, both relative."""
    snapshot = values["snapshots"][-1]
    members = {
        label: member["frozen"]
        for label, member in measured(snapshot["members"]).items()
        if member["frozen"]["relative_bias"] is not None
    }
    figure = Figure(figsize=(11, 5), layout="constrained")
    fixed, draws, data = figure.subplots(1, 3, sharey=True, width_ratios=[1.2, 3, 3])
    shown = [max(m["relative_bias"], m["noise_floor"] or 0) for m in members.values()]
    least = min((bias for bias in shown if bias > ROUNDING), default=1) / 30
    for place, (label, member) in enumerate(members.items()):
        if member["draw_variance"]:
            _draw_bias(draws, member["draw_variance"], member, looks[label], least)
        else:
            _draw_bias(fixed, place, member, looks[label], least)
        if member["data_variance"]:
            _draw_bias(data, member["data_variance"], member, looks[label], least)
    exact = snapshot["exact"]["data_variance"]
    if exact:
        style: Any = {"color": EXACT, "linewidth": 1, "linestyle": "--"}
        data.axvline(exact, label="variance of the exact gradient", **style)
    fixed.set(title="No draws", xticks=[], ylabel="|mean estimate - exact| / |exact|")
    fixed.set_xlim(-1, len(members))
    draws.set(title="Noise of its own draws", xlabel="variance over draws / |exact|²")
    data.set(title="Noise of the data", xlabel="variance over data / |mean|²")
    set_logarithmic(fixed.yaxis, draws.xaxis, data.xaxis)
    if not members or min(shown) < least:
        for axes in (fixed, draws, data):
            axes.axhspan(least / 2, least * 2, color="0.93", zorder=0)
        style = {"transform": draws.get_yaxis_transform(), "va": "center", **NOTE}
        draws.text(0.03, least, "exact, but for rounding", **style)
        fixed.set_ylim(bottom=least / 5)
    if draws.lines:
        grey: Any = {"color": "0.35", "linestyle": "none"}
        data.plot(
            [], [], marker="_", markersize=14, label="noise floor of the draws", **grey
        )
        hidden = "arrow: bias hidden below it"
        data.plot([], [], marker=CARETDOWN, markersize=7, label=hidden, **grey)
    else:
        place = {"x": 0.5, "y": 0.5, "ha": "center", "transform": draws.transAxes}
        draws.text(s="no estimator draws", **place, **NOTE)
    set_title(
        figure,
        f"Bias against variance (update {snapshot['update']:,}): lower is closer to "
        "the exact gradient, further left is less noisy",
    )
    legend_outside(figure, fixed, draws, data, looks=looks)
    return figure


def _draw_bias(axes: Axes, x: float, member: Values, look: Any, least: float) -> None:
    """Draws a point at the bias, or an arrow down from the floor that hides it."""
    bias, floor = member["relative_bias"], member["noise_floor"] or 0.0
    colour = look["color"]
    hidden = bool(floor) and bias <= floor
    y = max(floor if hidden else bias, least)
    axes.plot(x, y, **{**look, "markersize": 9, "linestyle": "none"})
    if floor:
        axes.plot(x, floor, marker="_", color=colour, markersize=18)
    if hidden:
        arrow = {"arrowstyle": "<-", "color": colour}
        axes.annotate("", (x, y), (0, -24), "data", "offset points", arrowprops=arrow)


def draw_alignment(values: Values, looks: Looks) -> Figure:
    """Draws the cosine between each two mean gradients, with its number."""
    del looks
    snapshot = values["snapshots"][-1]
    labels = snapshot["alignment"]["labels"]
    cosine = np.array([numbers(row) for row in snapshot["alignment"]["cosine"]])
    size = len(labels)
    figure = Figure(figsize=(4 + 0.5 * size, 2.2 + 0.45 * size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cosine, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for row, column in np.ndindex(size, size):
        value = cosine[row, column]
        axes.text(
            column,
            row,
            "n/a" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if abs(value) > 0.7 else "black",
        )
    names = [printable(label) for label in labels]
    axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.grid(visible=False)
    axes.set_title(
        f"Do two estimators point the same way? (update {snapshot['update']:,})"
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("cosine (1: same way, 0: unrelated, -1: opposite)")
    return figure
