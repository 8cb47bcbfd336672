"""How a comparison's pictures look: an estimator looks alike in all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogLocator

from jaxlstm.lab.errors import printable

# Okabe and Ito's, told apart with any colour vision, but yellow, faint on white, and
# black, which is for what is exact.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
MARKERS = "osD^vP<X>ph*d"
LINES = "-", "--", ":"
EXACT = "black"
NOTE: Any = {"color": "0.35", "fontsize": 9}

Looks = Mapping[str, Mapping[str, Any]]


def make_looks(labels: Sequence[str]) -> Looks:
    """Returns keywords of `Axes.plot` for each estimator.

    Markers are hollow and of sizes of their own, so that those of curves that lie upon
    each other are seen one in another.
    """
    return {
        label: {
            "label": printable(label),
            "color": COLOURS[n % len(COLOURS)],
            "linestyle": LINES[n // len(COLOURS) % len(LINES)],
            "marker": MARKERS[n % len(MARKERS)],
            "markersize": 10 - 6 * n / max(1, len(labels) - 1),
            "markerfacecolor": "none",
            "markeredgewidth": 1.4,
            "linewidth": 1.2,
        }
        for n, label in enumerate(labels)
    }


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """Returns figures in float64; where there is none, NaN, which is not drawn."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def legend_outside(
    figure: Figure, *axes: Axes, looks: Looks | None = None, title: str | None = None
) -> None:
    """Puts one legend of several axes to the right, each label once.

    Args:
      figure: of the axes.
      axes: whose legend it is.
      looks: of estimators, which stand first, in their order.
      title: above it.
    """
    found: dict[str, Any] = {}
    for each in axes:
        handles, labels = each.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    members = [look["label"] for look in (looks or {}).values()]
    first = {label: found.pop(label) for label in members if label in found}
    found = first | found
    if found:
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside right center",
            frameon=False,
            title=title,
            alignment="left",
        )


def set_title(figure: Figure, text: str) -> None:
    """Writes what a picture shows above it, from its left edge on."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=11)


def set_logarithmic(*axes: Axis, least: float = 0.0) -> None:
    """Scales axes by logarithms, and writes 0.01 rather than 1e-02.

    One that has been drawn to, but with no positive figure, stays as it is.

    Args:
      axes: to scale.
      least: the least figure that is written beside them.
    """
    for axis in axes:
        if axis.axes.has_data() and not np.isfinite(axis.get_minpos()):
            continue
        is_x = isinstance(axis, XAxis)
        scale = axis.axes.set_xscale if is_x else axis.axes.set_yscale
        scale("log", nonpositive="mask")
        axis.set_major_formatter(_Plain(least))
        # Of all nine within a decade the labels lie on each other.
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(_Plain(least, minor=True))


class _Plain(LogFormatter):
    """Labels the ticks that `LogFormatter` chooses, from the least on."""

    def __init__(self, least: float, *, minor: bool = False):
        super().__init__(labelOnlyBase=not minor, minor_thresholds=(3, 3))
        self._least = least

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if x >= self._least and super().__call__(x, pos) else ""


def is_wide(values: np.ndarray, decades: float = 1.0) -> bool:
    """Returns whether positive figures span so many powers of ten."""
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and np.ptp(np.log10(values)) > decades)


def pick_snapshots(snapshots: Sequence[Any], most: int = 3) -> list[Any]:
    """Returns the first, the last, and what lies evenly between, at most so many."""
    places = np.linspace(0, len(snapshots) - 1, min(most, len(snapshots)))
    return [snapshots[round(place)] for place in places]
