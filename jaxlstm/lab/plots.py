"""Pictures, made from run directories alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.runs import PLOTS, Run
from jaxlstm.lab.task import Reference

STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 100,
    "font.size": 10,
    "grid.alpha": 0.3,
}


def loss_curves(runs: Sequence[Run]) -> Figure:
    """Draws the loss of each split against updates.

    Raises:
      UserError: no run has a metric yet.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        curves: dict[str, list[tuple[int, float]]] = {}
        for line in run.metrics:
            curves.setdefault(line["split"], []).append((line["update"], line["loss"]))
        name = f"{run.path.name}: " if len(runs) > 1 else ""
        for split, points in curves.items():
            single = len(points) == 1
            axes.plot(
                *zip(*points, strict=True),
                marker="o" if single else None,
                label=f"{name}{split}",
                linewidth=1.2,
            )
    if not axes.lines:
        raise UserError(f"{runs[0].path}: has no metrics yet; nothing to draw")
    losses = np.concatenate([line.get_ydata() for line in axes.lines])
    for n, reference in enumerate(_references(runs)):
        style: Any = {"color": "0.4", "linestyle": ("--", ":", "-.")[n % 3]}
        label = f"{reference.label}: {reference.loss:.4g}"
        axes.axhline(reference.loss, linewidth=1, label=label, **style)
        if reference.update is not None:
            axes.plot(reference.update, reference.loss, "x", color="0.4")
    # A smaller range has too few powers of ten to be read by.
    scale = "log" if losses.min() > 0 and np.ptp(np.log10(losses)) > 1 else "linear"
    axes.set(xlabel="update", ylabel="loss", yscale=scale, title="Loss")
    axes.legend(frameon=False)
    return figure


def _references(runs: Sequence[Run]) -> list[Reference]:
    """Returns the published figures of several runs, each once."""
    return list(dict.fromkeys(r for run in runs for r in run.task.references()))


def draw_run(run: Run) -> list[Path]:
    """Draws a run's loss and its task's pictures into plots/, and returns the files."""
    folder = run.path / PLOTS
    with matplotlib.rc_context(STYLE):
        figures = {"loss": loss_curves([run]), **run.task.figures(run)}
        folder.mkdir(exist_ok=True)
        files = []
        for name, figure in figures.items():
            files.append(folder / f"{name}.png")
            figure.savefig(files[-1])
    return files


def draw_comparison(runs: Sequence[Run], file: Path) -> Path:
    """Draws the losses of several runs into one picture.

    Raises:
      UserError: no run has a metric, or the picture cannot be written.
    """
    with matplotlib.rc_context(STYLE):
        figure = loss_curves(runs)
        try:
            figure.savefig(file)
        except (OSError, ValueError) as error:
            raise UserError(f"--out {file}: cannot be written: {error}") from None
    return file
