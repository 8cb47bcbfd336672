"""At which lag RNN, GRU and LSTM fail to learn what lies that far back.

    python benchmarks/memory_span.py --task recall --out recall.json
    python benchmarks/memory_span.py --draw recall.json adding.json --out spans.png

Every cell is trained at each lag by the task's config in configs/, for the same number
of updates. The first seed tries several learning rates, and the one with the least
loss on validation serves the other seeds too; what is reported is the accuracy of the
test. A cell's sweep ends with the first lag at which no seed reaches 90 %.

Runs of a cell and lag are one compiled program, called in turn: small matrices gain
nothing on a CPU from a batch of runs. They are what `jaxlstm run` makes of the config.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import NullLocator, PercentFormatter  # noqa: E402

from benchmarks.report import describe_machine  # noqa: E402
from jaxlstm.lab import UserError  # noqa: E402
from jaxlstm.lab.config import load_config  # noqa: E402
from jaxlstm.lab.experiment import build  # noqa: E402
from jaxlstm.lab.plots import MARKERS, STYLE  # noqa: E402
from jaxlstm.lab.training import Trainer  # noqa: E402

CELLS = "rnn", "gru", "lstm"
PASSED = 0.9
# Updates of one compiled call.
BLOCK = 100


class Span(NamedTuple):
    """How a task's lag is set, and what is measured by default.

    Attributes:
      overrides: `(lag) -> ` the overrides of the config that set it.
      lags: which are measured.
      rates: the learning rates that the first seed tries.
      num_updates: of each run.
      label: what the lag is called in the picture.
      guessed: the accuracy of who has no memory.
      measured: what the accuracy is of.
    """

    overrides: Callable[[int], list[str]]
    lags: tuple[int, ...]
    rates: tuple[float, ...]
    num_updates: int
    label: str
    guessed: float
    measured: str


def _recall(lag: int) -> list[str]:
    return [f"task.lag={lag}", f"train.segment_length={lag + 2}"]


def _adding(lag: int) -> list[str]:
    return [f"task.length={lag}", f"train.segment_length={lag + lag // 10}"]


TASKS = {
    "recall": Span(
        _recall,
        (10, 20, 30, 40, 60, 80, 120, 160, 240, 320),
        (3e-4, 1e-3, 3e-3),
        1000,
        "steps between symbol and cue",
        1 / 8,
        "symbols named rightly",
    ),
    "adding": Span(
        _adding,
        (20, 30, 40, 60, 80, 120, 160, 240),
        (1e-3, 3e-3, 1e-2, 3e-2),
        4000,
        "T, the least length",
        0.15,
        "sums right within .04",
    ),
}


class Point(NamedTuple):
    """What a cell reaches at a lag.

    Attributes:
      lag: the lag.
      rate: the learning rate that was chosen.
      accuracy: [seeds] of the test, with that rate.
      tuning: [rates] the validation losses of the first seed, by which it was chosen;
        None for one that is not finite.
      seconds: for all runs, on the clock.
    """

    lag: int
    rate: float
    accuracy: list[float]
    tuning: list[float | None]
    seconds: float


def measure(
    task: str,
    cell: str,
    lag: int,
    *,
    rates: Sequence[float],
    num_seeds: int,
    num_updates: int,
    overrides: Sequence[str] = (),
) -> Point:
    """Trains a cell at a lag: the first seed with every rate, the others with the best.

    Args:
      task: a key of `TASKS`, and the name of its config.
      cell: as in [model].
      lag: the lag.
      rates: the learning rates.
      num_seeds: seeds are 0, 1, ...
      num_updates: of each run.
      overrides: of the config, as of `jaxlstm run`.
    """
    began = time.perf_counter()
    path = ROOT / "configs" / f"{task}.toml"
    common = [
        *(f"model.cell={cell}", f"train.num_updates={num_updates}", "devices=1"),
        # A factor of its own sets the rate, so that one program serves them all.
        *("train.eval_every=", "optimizer.learning_rate=1.0"),
        *(*TASKS[task].overrides(lag), *overrides),
    ]
    runs = [
        build(load_config(path, [*common, f"seed={seed}"])) for seed in range(num_seeds)
    ]
    first = runs[0]

    @jax.jit
    def advance(rate: Any, state: Any, block: Any) -> Any:
        return jax.lax.scan(_scale(first.trainer, rate).update, state, block)[0]

    def learn(rate: float, seed: int) -> Callable[[str], dict[str, float]]:
        run = runs[seed]
        state = _scale(first.trainer, rate).init(jax.random.key(seed), run.batch_size)
        for start in range(0, num_updates, BLOCK):
            count = min(BLOCK, num_updates - start)
            state = advance(rate, state, run.source.segments(start, count))
        return lambda split: first.evaluator(
            state.params, run.split(split), run.batch_size
        )

    learnt = [learn(rate, 0) for rate in rates]
    losses = np.array([evaluate("validation")["loss"] for evaluate in learnt])
    best = int(np.where(np.isfinite(losses), losses, np.inf).argmin())
    chosen = [learnt[best], *(learn(rates[best], n) for n in range(1, num_seeds))]
    return Point(
        lag,
        rates[best],
        [evaluate("test")["accuracy"] for evaluate in chosen],
        [float(loss) if np.isfinite(loss) else None for loss in losses],
        round(time.perf_counter() - began, 1),
    )


def _scale(trainer: Trainer, rate: Any) -> Trainer:
    """Returns a trainer whose updates are longer by a factor."""
    optimizer = optax.chain(trainer.optimizer, optax.scale(rate))
    return trainer._replace(optimizer=optimizer)


def sweep(lags: Sequence[int], measure_at: Callable[[int], Point]) -> Iterator[Point]:
    """Yields what is reached at each lag, up to the first at which all runs fail."""
    for lag in lags:
        point = measure_at(lag)
        yield point
        if max(point.accuracy) < PASSED:
            return


def find_failure(points: Sequence[Point]) -> int | None:
    """Returns the first lag whose mean accuracy is under 90 %, or None."""
    return next((p.lag for p in points if np.mean(p.accuracy) < PASSED), None)


def draw(results: Sequence[dict[str, Any]]) -> Figure:
    """Draws accuracy against lag: a panel a task, a curve a cell, a dot a seed.

    Args:
      results: of sweeps, as they are written to files.
    """
    figure = Figure(figsize=(1 + 4.5 * len(results), 4), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, result in zip(panels, results, strict=True):
        span = TASKS[result["task"]]
        for n, (cell, points) in enumerate(result["cells"].items()):
            # The cells' dots would cover each other.
            shift = 1.03 ** (n - (len(result["cells"]) - 1) / 2)
            lags = shift * np.array([point["lag"] for point in points])
            accuracies = np.array([point["accuracy"] for point in points])
            style: Any = {"color": f"C{n}", "marker": MARKERS[n % len(MARKERS)]}
            axes.plot(lags, accuracies.mean(axis=1), label=cell.upper(), **style)
            axes.plot(lags, accuracies, **style, linestyle="", markersize=4, alpha=0.4)
        axes.axhline(PASSED, color="0.3", linestyle="--", linewidth=1, label="90 %")
        axes.axhline(
            span.guessed, color="0.6", linestyle=":", linewidth=1, label="guessed"
        )
        lags = sorted({p["lag"] for points in result["cells"].values() for p in points})
        axes.set(xscale="log", xlabel=span.label, xticks=lags, xticklabels=lags)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        seeds, updates = result["seeds"], result["num_updates"]
        axes.set(
            title=f"{result['task'].capitalize()}: {span.measured}\n"
            f"mean of {seeds} seeds, {updates:,} updates; a small dot a seed",
            ylim=(-0.03, 1.05),
        )
    panels[0].legend(frameon=True, loc="lower left")
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes; or draws what was measured."""
    parser = argparse.ArgumentParser(
        description="At which lag RNN, GRU and LSTM fail to learn."
    )
    add = parser.add_argument
    add("--task", choices=TASKS, default="recall")
    add("--cells", nargs="+", default=CELLS, metavar="CELL")
    add("--lags", nargs="+", type=int, metavar="N")
    add("--rates", nargs="+", type=float, metavar="RATE")
    add("--seeds", type=int, default=3, metavar="N")
    add("--updates", type=int, metavar="N")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    add("--draw", nargs="+", type=Path, metavar="FILE", help="what was measured")
    add("--out", type=Path, metavar="FILE", help="a .json; with --draw, a .png")
    options = parser.parse_args(arguments)
    if options.draw:
        if options.out is None:
            parser.error("--draw: name the picture with --out FILE")
        results = [json.loads(path.read_text()) for path in options.draw]
        with matplotlib.rc_context(STYLE):
            draw(results).savefig(options.out)
        return
    span = TASKS[options.task]
    lags = options.lags or span.lags
    given = {
        "rates": list(options.rates or span.rates),
        "num_updates": options.updates or span.num_updates,
        "overrides": options.set,
    }
    for name, least in (("seeds", options.seeds), ("updates", given["num_updates"])):
        if least < 1:
            parser.error(f"--{name} {least}: is not positive")
    result: dict[str, Any] = {"task": options.task, "seeds": options.seeds, **given}
    result |= {"machine": describe_machine(), "cells": {}}
    print(f"{'cell':<8}{'lag':>5}{'rate':>9}{'seconds':>9}  accuracy of each seed")
    for cell in options.cells:

        def measure_at(lag: int, cell: str = cell) -> Point:
            return measure(options.task, cell, lag, num_seeds=options.seeds, **given)

        points = result["cells"][cell] = []
        try:
            for point in sweep(lags, measure_at):
                points.append(point._asdict())
                shown = "  ".join(f"{x:.3f}" for x in point.accuracy)
                print(
                    f"{cell:<8}{point.lag:>5}{point.rate:>9g}{point.seconds:>9.1f}  "
                    f"{shown}",
                    flush=True,
                )
                if options.out is not None:
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
        except UserError as error:
            parser.exit(2, f"{error}\n")
        failure = find_failure([Point(**point) for point in points])
        told = "at no lag" if failure is None else f"at {failure}"
        print(f"{cell:<8}under 90 % on average: {told}", flush=True)


if __name__ == "__main__":
    main()
