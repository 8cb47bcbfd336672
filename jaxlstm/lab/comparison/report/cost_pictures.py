"""Pictures of what each estimator costs, and how it learns."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from jaxlstm.lab.comparison.report.looks import (
    Looks,
    is_wide,
    legend_outside,
    numbers,
    set_logarithmic,
    set_title,
)
from jaxlstm.lab.comparison.report.markdown import show_number
from jaxlstm.lab.comparison.report.material import Values, measured
from jaxlstm.lab.errors import printable


def draw_scaling(values: Values, looks: Looks) -> Figure:
    """Draws time and memory of a segment against its length."""
    lengths = values["scaling"]["lengths"]
    members = measured(values["scaling"]["members"])
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, figures, unit, title, label in (
        (left, "seconds", 1e-3, "Time", "least time of a segment [ms]"),
        (right, "temporary_bytes", 2**10, "Memory", "peak temporary memory [KiB]"),
    ):
        curves = {
            name: numbers(member[figures]) / unit for name, member in members.items()
        }
        for name, curve in curves.items():
            # A program that needs no memory has no place among logarithms.
            axes.plot(lengths, np.where(curve > 0, curve, np.nan), **looks[name])
        known = [c for c in curves.values() if np.isfinite(c).any()]
        if known:
            least = min(np.nanmin(np.where(c > 0, c, np.nan)) for c in known) / 1.6
            guide = least * np.array(lengths) / lengths[0]
            proportional = "in proportion to T"
            style: Any = {"color": "0.6", "linewidth": 4, "alpha": 0.5}
            axes.plot(lengths, guide, label=proportional, **style)
        axes.set(title=title, ylabel=label)
        set_logarithmic(axes.xaxis, axes.yaxis)
        axes.set_xlabel("length T of the segment [steps]")
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
    set_title(
        figure,
        f"What a gradient costs (batch of {values['batch_size']}): flat is the same "
        "for any length, steeper than the grey line is worse than proportional",
    )
    legend_outside(figure, left, looks=looks)
    return figure


def draw_races(values: Values, looks: Looks) -> Figure:
    """Draws the loss against updates and against seconds: mean and range over seeds."""
    members = measured(values["members"])
    updates = np.array(values["updates"], dtype=np.float64)
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    ends = []
    for label, member in members.items():
        losses = np.array([numbers(curve) for curve in member["losses"]])
        # A mean that leaves out who diverged would look better than it is.
        mean = losses.mean(axis=0)
        ends.append(losses)
        pace = member["seconds_per_update"]
        style: Any = {**looks[label], "markersize": 5}
        style["markevery"] = max(1, len(updates) // 8)
        for axes, x in ((left, updates), (right, pace and updates * pace)):
            if x is None:
                continue
            axes.plot(x, mean, **style)
            axes.fill_between(
                x,
                losses.min(axis=0),
                losses.max(axis=0),
                color=looks[label]["color"],
                alpha=0.15,
                linewidth=0,
            )
    _end_axes(left, right, ends, members, values)
    split = printable(values["split"])
    seeds = show_number(len(values["seeds"]), "seed")
    over = seeds if len(values["seeds"]) == 1 else f"mean and range over {seeds}"
    left.set(xlabel="updates", ylabel=f"{split} loss", title="At equal steps")
    right.set(xlabel="seconds of training", title="At equal seconds")
    set_logarithmic(right.xaxis)
    set_title(
        figure,
        f"Who learns best, each with its own learning rate: {over}",
    )
    legend_outside(figure, left, right, looks=looks)
    return figure


def _end_axes(
    left: Axes, right: Axes, losses: list[np.ndarray], members: Values, values: Values
) -> None:
    """Shows what is below the start, references, and the equal time."""
    seconds = [m["at_equal_seconds"]["seconds"] for m in members.values()]
    equal = next((s for s in seconds if s is not None), None)
    if equal is not None:
        right.axvline(equal, color="black", linewidth=1, label="equal seconds")
    known = np.array([reference["loss"] for reference in values["references"]])
    flat = (
        np.concatenate([curve.ravel() for curve in losses]) if losses else np.array([])
    )
    starts = np.concatenate([curve[:, 0] for curve in losses]) if losses else flat
    if np.isfinite(starts).any():
        top = np.nanmax(starts)
        if is_wide(flat[flat <= top]):
            set_logarithmic(left.yaxis)
            known = known[known > 0]
            shown = np.concatenate([flat, known, [top]])
            top, least = np.fmax.reduce([top, *known]), np.nanmin(shown)
            left.set_ylim(least / 1.2, top * 1.2)
        else:
            shown = np.concatenate([flat, known])
            top, least = np.fmax.reduce([top, *known]), np.nanmin(shown)
            margin = 0.05 * (top - least)
            if margin > 0:
                left.set_ylim(least - margin, top + margin)
    for n, reference in enumerate(values["references"]):
        if reference["loss"] not in known:
            # It is not above zero, and has no place among logarithms.
            continue
        style: Any = {"color": "0.4", "linestyle": ("--", ":", "-.")[n % 3]}
        label = printable(f"{reference['label']}: {reference['loss']:.4g}")
        for axes in (left, right):
            axes.axhline(reference["loss"], linewidth=1.2, label=label, **style)
