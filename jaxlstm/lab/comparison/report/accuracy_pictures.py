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
from jaxlstm.lab.comparison.report.tables import find_hidden
from jaxlstm.lab.errors import printable

# Of a curve that its own noise moves.
NOISY: Any = {"linestyle": ":", "alpha": 0.55}
TITLES = {
    "fixed": "No noise",
    "draws": "Noise of its own draws",
    "data": "Noise of the data",
}


def draw_reach(values: Values, looks: Looks) -> Figure:
    """Draws cosine and norm ratio against how far back the inputs of a loss go.

    Curves of members that draw are dotted and lighter.
    """
    reach = values["reach"]
    members = measured(reach["members"])
    told = values["snapshots"][-1]["members"]
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(reach["lags"]))
    for label, member in members.items():
        look = {**looks[label], **(NOISY if told[label]["draws"] else {})}
        left.plot(places, numbers(member["cosine"]), **look)
        right.plot(places, numbers(member["norm_ratio"]), **look)
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


def draw_bias_and_variance(values: Values, looks: Looks) -> dict[str, Figure]:
    """Draws the bias of each estimator against its variances, both relative.

    A panel that would show nothing is left out, and so is the picture if all would.
    """
    snapshot = values["snapshots"][-1]
    members = {
        label: member["frozen"]
        for label, member in measured(snapshot["members"]).items()
        if member["frozen"]["debiased"] is not None
    }
    draws, data = (
        {label: each[name] for label, each in members.items() if _is_noise(each[name])}
        for name in ("draw_variance", "data_variance")
    )
    fixed = [label for label in members if label not in draws]
    places = {"fixed": {label: n for n, label in enumerate(fixed)}}
    panels = {k: v for k, v in (places | {"draws": draws, "data": data}).items() if v}
    if not panels:
        return {}
    widths = [1.2 if name == "fixed" else 3 for name in panels]
    figure = Figure(figsize=(3 + 1.1 * sum(widths), 5), layout="constrained")
    row = figure.subplots(
        1, len(panels), sharey=True, squeeze=False, width_ratios=widths
    )[0]
    shown = [_height(member) for member in members.values()]
    least = min((bias for bias in shown if bias > ROUNDING), default=1) / 30
    for axes, (name, places) in zip(row, panels.items(), strict=True):
        for label, x in places.items():
            _draw_bias(axes, x, members[label], looks[label], least)
        _name_panel(axes, name, snapshot["exact"]["data_variance"])
    row[0].set_ylabel("|mean estimate - exact| / |exact|")
    rounded = min(shown) < least
    set_logarithmic(row[0].yaxis, least=3 * least if rounded else 0.0)
    if rounded:
        for axes in row:
            axes.axhspan(least / 2, least * 2, color="0.93", zorder=0)
        style = {"transform": row[-1].get_yaxis_transform(), "va": "center", **NOTE}
        row[-1].text(0.03, least, "exact, but for rounding", **style)
        row[0].set_ylim(bottom=least / 5)
    if draws:
        grey: Any = {"color": "0.35", "linestyle": "none"}
        row[-1].plot(
            [], [], marker="_", markersize=14, label="noise floor of the draws", **grey
        )
        hidden = "arrow: bias hidden by noise"
        row[-1].plot([], [], marker=CARETDOWN, markersize=7, label=hidden, **grey)
    set_title(
        figure,
        f"Bias against variance (update {snapshot['update']:,}): lower is closer to "
        "the exact gradient, further left is less noisy",
    )
    legend_outside(figure, *row, looks=looks)
    return {"bias_variance": figure}


def _is_noise(variance: float | None) -> bool:
    """Returns whether a variance is more than rounding."""
    return variance is not None and variance > ROUNDING**2


def _name_panel(axes: Axes, name: str, data_variance: float | None) -> None:
    """Writes what the horizontal axis of a panel is."""
    axes.set_title(TITLES[name])
    if name == "fixed":
        axes.set(xlim=(-1, len(axes.lines)), xticks=[])
        return
    if name == "data" and data_variance:
        style: Any = {"color": EXACT, "linewidth": 1, "linestyle": "--"}
        axes.axvline(data_variance, label="variance of the exact gradient", **style)
    axes.set_xlabel(f"variance over {name} / |exact|²")
    set_logarithmic(axes.xaxis)


def _height(member: Values) -> float:
    """Returns where a bias is drawn: at what it is below, where noise hides it."""
    hidden = find_hidden(member)
    return member["relative_bias"] if hidden is None else hidden


def _draw_bias(axes: Axes, x: float, member: Values, look: Any, least: float) -> None:
    """Draws a point at the bias, or an arrow down from what it is below."""
    y, colour = max(_height(member), least), look["color"]
    axes.plot(x, y, **{**look, "markersize": 9, "linestyle": "none"})
    if not _is_noise(member["draw_variance"]):
        return
    axes.plot(x, member["noise_floor"], marker="_", color=colour, markersize=18)
    if find_hidden(member) is not None:
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
