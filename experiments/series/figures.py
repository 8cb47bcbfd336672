"""Pictures of forecasts: against the truth, fanned out, and by step of the horizon."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.series.forecasts import Forecasts, forecast_split
from jaxlstm.lab import Run
from jaxlstm.lab.errors import printable

if TYPE_CHECKING:
    from experiments.series.task import Series

# Of the test part, how many horizons are drawn, and how many forecasts of them whole.
DRAWN_HORIZONS, FANNED = 14, 5
MOST_TARGETS = 4
NAMES = {"net": "net", "naive": "last value", "seasonal": "last season"}
COLOURS = {"net": "tab:red", "naive": "tab:blue", "seasonal": "tab:green"}


def draw_forecasts(task: "Series", run: Run) -> dict[str, Figure]:
    """Draws a picture of the test for each target, the first few of them.

    Args:
      task: of the run.
      run: with parameters.
    """
    forecasts = forecast_split(task, run, "test")
    target = task.numbers.target
    names = ["forecast", *(f"forecast_{n}" for n in range(2, len(target) + 1))]
    return {
        name: _draw(task, forecasts, number)
        for number, name in enumerate(names[:MOST_TARGETS])
    }


def _draw(task: "Series", forecasts: Forecasts, target: int) -> Figure:
    name = printable(task.numbers.target[target])
    figure = Figure(figsize=(9, 6), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    above = figure.add_subplot(grid[0, :])
    left, right = figure.add_subplot(grid[1, :2]), figure.add_subplot(grid[1, 2])
    _draw_stretch(above, task, forecasts, target)
    _draw_fan(left, task, forecasts, target)
    draw_errors(right, forecasts, target)
    for axes in (above, left):
        axes.set(ylabel=name)
        if np.issubdtype(task.numbers.times.dtype, np.datetime64):
            locator = AutoDateLocator(maxticks=8)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            axes.set(xlabel=printable(task.time_column or "row"))
            if task.time_column is None:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_stretch(
    axes: Axes, task: "Series", forecasts: Forecasts, target: int
) -> None:
    """Draws the end of the test, and forecasts of it end to end."""
    # A horizon each, without overlap; the last one ends with the series.
    chosen = np.arange(len(forecasts.ends))[:: -task.horizon][:DRAWN_HORIZONS][::-1]
    first, last = int(forecasts.ends[chosen[0]]), int(forecasts.ends[chosen[-1]])
    rows = np.arange(first + 1, last + task.horizon + 1)
    _draw_truth(axes, task, rows, target)
    for n, row in enumerate(chosen):
        after = forecasts.ends[row] + np.arange(1, task.horizon + 1)
        axes.plot(
            task.numbers.times[after],
            forecasts.by["net"][row, :, target],
            color=COLOURS["net"],
            linewidth=1.2,
            marker=_mark(task),
            label=f"forecast of {task.horizon} steps at once" if n == 0 else None,
        )
    axes.legend(loc="lower left", ncols=2, frameon=False)
    axes.set(title="End of the test: forecasts, one after the other")
    axes.margins(x=0.01)
    low, high = axes.get_ylim()
    # Room for the legend.
    axes.set_ylim(low - 0.15 * (high - low), high)


def _draw_fan(axes: Axes, task: "Series", forecasts: Forecasts, target: int) -> None:
    """Draws forecasts from a few rows, with what was seen and what came."""
    last = len(forecasts.ends) - 1
    apart = max(1, task.horizon // 2)
    chosen = [last - n * apart for n in range(FANNED) if n * apart <= last][::-1]
    first = max(0, forecasts.ends[chosen[0]] + 1 - min(task.window, 2 * task.horizon))
    _draw_truth(
        axes, task, np.arange(first, forecasts.ends[last] + task.horizon + 1), target
    )
    for n, row in enumerate(chosen):
        origin = forecasts.ends[row]
        after = origin + np.arange(1, task.horizon + 1)
        (line,) = axes.plot(
            task.numbers.times[after],
            forecasts.by["net"][row, :, target],
            linewidth=1.2,
            color=f"C{n}",
            marker=_mark(task),
        )
        time: Any = task.numbers.times[origin]
        axes.axvline(time, color=line.get_color(), linewidth=1, linestyle=":")
    axes.set(title="Forecasts from a few rows on; dotted: the last row seen")


def _draw_truth(axes: Axes, task: "Series", rows: np.ndarray, target: int) -> None:
    axes.plot(
        task.numbers.times[rows],
        task.numbers.targets[rows, target],
        color="black",
        alpha=0.3,
        linewidth=2.5,
        label="truth",
    )


def _mark(task: "Series") -> str | None:
    """Returns the marker of a forecast: a single step has no line."""
    return "." if task.horizon == 1 else None


def draw_errors(axes: Axes, forecasts: Forecasts, target: int) -> None:
    """Draws the mean absolute error by step of the horizon."""
    for name, values in forecasts.by.items():
        error = np.abs(values - forecasts.truth)[..., target]
        known = ~np.isnan(error)
        count = known.sum(axis=0)
        mean = np.where(known, error, 0).sum(axis=0) / np.where(count, count, np.nan)
        axes.plot(
            np.arange(1, len(mean) + 1),
            mean,
            color=COLOURS[name],
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=NAMES[name],
        )
    axes.set(xlabel="steps ahead", title="Mean absolute error, test")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Room for the legend.
    axes.set_ylim(0, 1.6 * axes.get_ylim()[1])
    axes.legend(loc="upper left", fontsize="small", frameon=False)
