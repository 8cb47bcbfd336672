"""Pictures, made from run directories alone."""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogFormatterMathtext

from jaxlstm.lab.errors import UserError, printable
from jaxlstm.lab.metrics import SHADOW
from jaxlstm.lab.runs import PLOTS, Run
from jaxlstm.lab.task import Reference

STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "font.size": 10,
    "grid.alpha": 0.3,
    # Names of runs and splits are no formulas.
    "text.parse_math": False,
}
LINES, MARKERS = ("-", "--", ":", "-."), "osD^"


def loss_curves(runs: Sequence[Run]) -> Figure:
    """Draws the loss of each split against updates.

    Of one run each split has a colour; of several, each run has one, and each split a
    kind of line. A loss that was not finite, null in the metrics, is a gap.

    Raises:
      UserError: a run has no metric yet.
    """
    metrics = [[x for x in run.metrics if x["split"] != SHADOW] for run in runs]
    without = [run.path for run, lines in zip(runs, metrics, strict=True) if not lines]
    if without:
        raise UserError(*(f"{p}: has no metrics yet; nothing to draw" for p in without))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    several = len(runs) > 1
    splits = list(dict.fromkeys(line["split"] for lines in metrics for line in lines))
    names = _names([run.path for run in runs])
    for n, (name, lines) in enumerate(zip(names, metrics, strict=True)):
        curves: dict[str, list[tuple[int, float]]] = {}
        for line in lines:
            loss = math.nan if line["loss"] is None else line["loss"]
            curves.setdefault(line["split"], []).append((line["update"], loss))
        for split, points in curves.items():
            kind = splits.index(split)
            axes.plot(
                *zip(*points, strict=True),
                color=f"C{n if several else kind}",
                linestyle=LINES[kind % len(LINES)] if several else "-",
                # A single point has no line, nor has one between gaps.
                marker=MARKERS[kind % len(MARKERS)] if _has_single(points) else None,
                label=printable(f"{name}: {split}" if several else split),
                linewidth=1.2,
            )
    losses = np.concatenate([line.get_ydata() for line in axes.lines])
    losses = losses[np.isfinite(losses)]
    for n, reference in enumerate(_references(runs)):
        style: Any = {"color": "0.4", "linestyle": ("--", ":", "-.")[n % 3]}
        label = f"{reference.label}: {reference.loss:.4g}"
        axes.axhline(reference.loss, linewidth=1, label=label, **style)
        if reference.update is not None:
            axes.plot(reference.update, reference.loss, "x", color="0.4")
    # A smaller range has too few powers of ten to be read by.
    wide = losses.size and losses.min() > 0 and np.ptp(np.log10(losses)) > 1
    scale = "log" if wide else "linear"
    axes.set(xlabel="update", ylabel="loss", yscale=scale, title="Loss")
    axes.legend(frameon=False)
    return figure


def shadow_curves(run: Run) -> Figure | None:
    """Draws the cosines and norm ratios of a run's shadows against updates.

    A figure that there is none of, null in the metrics, is a gap.

    Returns:
      The picture; None where nothing was compared.
    """
    lines = [line for line in run.metrics if line["split"] == SHADOW]
    if not lines:
        return None
    updates = [line["update"] for line in lines]
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for axes, name in ((above, "cosine"), (below, "norm_ratio")):
        axes.axhline(1, color="0.4", linewidth=1, linestyle="--")
        for n, shadow in enumerate(run.config.shadows):
            values = [line.get(f"{shadow.label}/{name}") for line in lines]
            points = [math.nan if value is None else value for value in values]
            marker = MARKERS[n % len(MARKERS)]
            label = printable(shadow.label)
            axes.plot(updates, points, marker=marker, markersize=4, label=label)
    estimator = printable(run.config.sections.estimator.name)
    above.set(ylabel="cosine", title=f"Gradients beside that of {estimator}")
    figure.legend(
        *above.get_legend_handles_labels(), loc="outside right", frameon=False
    )
    ratios = np.concatenate([np.asarray(line.get_ydata()) for line in below.lines])
    ratios = ratios[np.isfinite(ratios)]
    wide = ratios.min() > 0 and np.ptp(np.log10(ratios)) > 1
    below.set(xlabel="update", ylabel="norm ratio", yscale="log" if wide else "linear")
    return figure


def _has_single(points: Sequence[tuple[int, float]]) -> bool:
    """Returns whether a finite loss has no other one beside it."""
    finite = [False, *(math.isfinite(loss) for _, loss in points), False]
    triples = zip(finite, finite[1:], finite[2:], strict=False)
    return any(triple == (False, True, False) for triple in triples)


def _references(runs: Sequence[Run]) -> list[Reference]:
    """Returns the published figures of several runs, each once."""
    return list(dict.fromkeys(r for run in runs for r in run.task.references()))


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the shortest end of each path that no other one has."""
    # Absolute, as "." has no name.
    whole = [Path(os.path.abspath(path)).parts for path in paths]

    def name(parts: tuple[str, ...]) -> str:
        others = [other for other in whole if other != parts]
        lengths = range(1, len(parts))
        ends = (n for n in lengths if all(o[-n:] != parts[-n:] for o in others))
        return str(Path(*parts[-next(ends, len(parts)) :]))

    return [name(parts) for parts in whole]


def draw_run(run: Run) -> list[Path]:
    """Draws a run's loss and its task's pictures into plots/, and returns the files.

    The loss comes first: what the task asks for, such as its data, may be gone.

    Raises:
      UserError: the run has no metric, or a picture cannot be written.
    """
    folder = run.path / PLOTS
    with matplotlib.rc_context(STYLE):
        loss = loss_curves([run])
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise _unwritten(folder, error) from None
        files = [save(loss, folder / "loss.png")]
        shadow = shadow_curves(run)
        if shadow is not None:
            files.append(save(shadow, folder / "shadow.png"))
        for name, figure in run.task.figures(run).items():
            files.append(save(figure, folder / f"{name}.png"))
    return files


def save(figure: Figure, file: Path) -> Path:
    """Writes a picture, and returns its file.

    A letter that the font lacks is a box.

    Raises:
      UserError: it cannot be written.
    """
    _write_powers_plainly(figure)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(file)
    except OSError as error:
        raise _unwritten(file, error) from None
    return file


def _write_powers_plainly(figure: Figure) -> None:
    """Writes 1e-05 at the axes' powers of ten, which would be formulas."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def _unwritten(where: object, error: Exception) -> UserError:
    """Returns what is said of a file or folder that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else None
    return UserError(f"{where}: cannot be written: {reason or error}")


def draw_comparison(runs: Sequence[Run], file: Path) -> Path:
    """Draws the losses of several runs into one picture, and returns its file.

    Args:
      runs: whose losses.
      file: the picture; one without a suffix becomes a .png.

    Raises:
      UserError: a run has no metric, or the picture cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = loss_curves(runs)
        _write_powers_plainly(figure)
        try:
            picture = file if file.suffix else file.with_name(f"{file.name}.png")
            figure.savefig(picture)
        except (OSError, ValueError) as error:
            raise _unwritten(f"--out {file}", error) from None
    return picture
