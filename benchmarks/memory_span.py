"""At which lag RNN, GRU and LSTM fail to learn what lies that far back.

    python benchmarks/memory_span.py --task recall --out recall.json
    python benchmarks/memory_span.py --draw recall.json adding.json --out spans.png

Every cell is trained at each lag by the task's config in configs/, for the same number
of updates. The first seed tries several learning rates, and the one with the least
loss on validation serves the other seeds too; what is reported is the accuracy of the
test. A cell's sweep ends with the first lag at which no seed reaches 90 %.

Beside it stands what the gradient has to begin with: |ds_T/ds_1|, the spectral norm of
the product of all Jacobians of a sequence but the first, before any update.

Runs of a cell and lag are one compiled program, called in turn: small matrices gain
nothing on a CPU from a batch of runs. They are what `jaxlstm run` makes of the config.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from benchmarks.memory_picture import PASSED, save_picture  # noqa: E402
from benchmarks.report import describe_machine  # noqa: E402
from jaxlstm.diagnostics import jacobian_products  # noqa: E402
from jaxlstm.lab import Segment, UserError  # noqa: E402
from jaxlstm.lab.config import load_config  # noqa: E402
from jaxlstm.lab.experiment import Experiment, build  # noqa: E402
from jaxlstm.lab.training import Trainer  # noqa: E402

CELLS = "rnn", "gru", "lstm"
# Updates of one compiled call.
BLOCK = 100
# Sequences of a seed whose Jacobians are multiplied.
ROWS = 8


class Span(NamedTuple):
    """How a task's lag is set, and what is measured by default.

    Attributes:
      overrides: `(lag) -> ` the overrides of the config that set it.
      lags: which are measured.
      rates: the learning rates that the first seed tries.
      num_updates: of each run.
      words: what the picture calls the lag, and what is counted.
      guessed: the share that is right without memory.
    """

    overrides: Callable[[int], list[str]]
    lags: tuple[int, ...]
    rates: tuple[float, ...]
    num_updates: int
    words: tuple[str, str]
    guessed: float


def _recall(lag: int) -> list[str]:
    return [f"task.lag={lag}", f"train.segment_length={lag + 2}"]


def _adding(lag: int) -> list[str]:
    return [f"task.length={lag}", f"train.segment_length={lag + lag // 10}"]


TASKS = {
    "recall": Span(
        _recall,
        (10, 20, 30, 40, 60, 80, 120, 160, 240, 320),
        (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        1000,
        ("steps between symbol and cue", "symbols that are right"),
        1 / 8,
    ),
    "adding": Span(
        _adding,
        (20, 30, 40, 60, 80, 120, 160, 240),
        (1e-3, 3e-3, 1e-2, 3e-2),
        4000,
        ("T, the least length", "sums within .04"),
        0.154,
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
      initial_norm: |ds_T/ds_1| before any update, the median over seeds and sequences.
      seconds: for all runs, on the clock.
    """

    lag: int
    rate: float
    accuracy: list[float]
    tuning: list[float | None]
    initial_norm: float
    seconds: float


def prepare(
    task: str, cell: str, lag: int, num_seeds: int, overrides: Sequence[str] = ()
) -> list[Experiment]:
    """Returns the experiment of a cell at a lag, from each seed.

    Arguments are those of `measure`.
    """
    path = ROOT / "configs" / f"{task}.toml"
    own = f"model.cell={cell}", "devices=1", "train.eval_every="
    common = [*own, *TASKS[task].overrides(lag), *overrides]
    return [
        build(load_config(path, [*common, f"seed={seed}"])) for seed in range(num_seeds)
    ]


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
    # A factor of its own sets the rate, so that one program serves them all.
    common = f"train.num_updates={num_updates}", "optimizer.learning_rate=1.0"
    runs = prepare(task, cell, lag, num_seeds, [*overrides, *common])
    first = runs[0]
    starts = [
        _scale(first.trainer, 1.0).init(jax.random.key(seed), first.batch_size)
        for seed in range(num_seeds)
    ]

    @jax.jit
    def advance(rate: Any, state: Any, block: Any) -> Any:
        return jax.lax.scan(_scale(first.trainer, rate).update, state, block)[0]

    def learn(rate: float, seed: int) -> Callable[[str], dict[str, float]]:
        run, state = runs[seed], starts[seed]
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
        initial_norm(runs, [start.params for start in starts]),
        round(time.perf_counter() - began, 1),
    )


def initial_norm(runs: Sequence[Experiment], params: Sequence[Any]) -> float:
    """Returns the median of |ds_T/ds_1| over runs and sequences.

    Args:
      runs: of one cell and lag; a segment of theirs is a sequence [T, B, ...].
      params: of each run's model.
    """
    model = runs[0].trainer.model

    @jax.jit
    def measure(params: Any, segment: Segment) -> Any:
        lags = [jax.tree.leaves(segment.inputs)[0].shape[0] - 1]
        return jacobian_products(model, params, segment, lags=lags).log_norms

    segments = [
        jax.tree.map(lambda x: x[0, :, :ROWS], run.source.segments(0, 1))
        for run in runs
    ]
    return float(np.exp(np.median(list(map(measure, params, segments)))))


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
        try:
            results = [json.loads(path.read_text()) for path in options.draw]
        except (OSError, ValueError) as error:
            parser.error(f"--draw: {error}; name files that --out has written")
        save_picture(results, options.out)
        return
    span = TASKS[options.task]
    given = {
        "rates": list(options.rates or span.rates),
        "num_seeds": options.seeds,
        "num_updates": span.num_updates if options.updates is None else options.updates,
        "overrides": options.set,
    }
    for name in ("seeds", "updates"):
        if given[f"num_{name}"] < 1:
            parser.error(f"--{name} {given[f'num_{name}']}: is not positive")
    if min(given["rates"]) <= 0:
        parser.error(f"--rates {min(given['rates']):g}: is not positive")
    result: dict[str, Any] = {"task": options.task, **given}
    result |= {"words": span.words, "guessed": span.guessed}
    result |= {"machine": describe_machine(), "cells": {}}
    header = f"{'lag':>5}{'rate':>9}{'|ds_T/ds_1|':>13}{'seconds':>9}"
    print(f"{'cell':<8}{header}  accuracy of each seed")
    for cell in options.cells:
        points: list[Point] = []
        measure_at = functools.partial(measure, options.task, cell, **given)
        try:
            for point in sweep(options.lags or span.lags, measure_at):
                points.append(point)
                shown = "  ".join(f"{x:.3f}" for x in point.accuracy)
                print(
                    f"{cell:<8}{point.lag:>5}{point.rate:>9g}"
                    f"{point.initial_norm:>13.1e}{point.seconds:>9.1f}  {shown}",
                    flush=True,
                )
                result["cells"][cell] = [point._asdict() for point in points]
                if options.out is not None:
                    options.out.write_text(json.dumps(result, indent=1) + "\n")
        except UserError as error:
            parser.exit(2, f"{error}\n")
        failure = find_failure(points)
        told = "at no lag" if failure is None else f"at {failure}"
        print(f"{cell:<8}under {PASSED:.0%} on average: {told}", flush=True)


if __name__ == "__main__":
    main()
