"""Which variant of the cell learns most in the same time, with as many parameters.

    python benchmarks/variants.py [--out DIR] [--cells NAME ...] [--seconds N]
        [--parameters N] [--rates R ...] [--seeds N] [--part 1/2] [--set KEY=VALUE ...]

Every cell makes a net of one layer for the characters of Tiny Shakespeare, as wide as
the number of parameters allows. First all take turns at a few updates, on one thread,
and what an update costs is kept in DIR/speeds.json: the median over the rounds of its
processor time beside the LSTM's. Then each is trained, from each seed and at each
learning rate, for the updates that fit into the same seconds. A run is a line of
DIR/runs.jsonl as soon as it is over: the same command, started again, makes those that
are missing. `--part 1/2` and `--part 2/2` share them between two processes.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.base import Work  # noqa: E402
from benchmarks.loop import training  # noqa: E402
from benchmarks.report import describe_machine  # noqa: E402
from jaxlstm.cells import CELLS  # noqa: E402
from jaxlstm.lab.config import Config, load_config  # noqa: E402
from jaxlstm.lab.experiment import build, build_model  # noqa: E402
from jaxlstm.lab.training import fit  # noqa: E402
from jaxlstm.model import count_parameters  # noqa: E402

CONFIG = ROOT / "configs/plain_lstm_char.toml"
COMMON = (
    *("model.num_layers=1", "model.inputs=one_hot", "model.tied=false", "devices=1"),
    *("train.batch_size=32", "train.segment_length=64", "train.updates_per_call=50"),
)
BASELINE = "lstm"
# The LSTM by other names, and the plain net with an option more.
LEFT_OUT = ("lstm_variant", "np_lstm", "leaky_rnn")
# Their width is a multiple of the number of their heads.
STEPS = {"multi_head_lstm": 4, "slstm": 4}
TIMED = 10


class Job(NamedTuple):
    """A run of the sweep.

    Attributes:
      cell: by name.
      seed: of all that is drawn.
      learning_rate: at its highest.
    """

    cell: str
    seed: int
    learning_rate: float


class Sweep:
    """A sweep, and what is there of it in a folder."""

    def __init__(self, folder: Path, overrides: Sequence[str], parameters: int):
        self.folder, self.overrides = folder, tuple(overrides)
        self.parameters = parameters
        folder.mkdir(parents=True, exist_ok=True)

    def configure(self, cell: str, *overrides: str) -> Config:
        """Returns the config of a cell's run."""
        given = *COMMON, f"model.cell={cell}", *overrides, *self.overrides
        last = {override.partition("=")[0]: override for override in given}
        return load_config(CONFIG, list(last.values()))

    def count(self, cell: str, hidden_size: int) -> int:
        """Returns the number of parameters of a whole model."""
        model = build_model(self.configure(cell, f"model.hidden_size={hidden_size}"))
        return count_parameters(jax.eval_shape(model.init, jax.random.key(0)))

    def choose_size(self, cell: str) -> int:
        """Returns the width at which the model has most nearly so many parameters."""
        step = STEPS.get(cell, 1)
        low, high = 1, 2
        while self.count(cell, high * step) < self.parameters:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            above = self.count(cell, middle * step) >= self.parameters
            low, high = (low, middle) if above else (middle, high)
        sizes = low * step, high * step
        return min(sizes, key=lambda h: abs(self.count(cell, h) - self.parameters))

    def prepare(self, cell: str, hidden_size: int) -> Work:
        """Returns a few updates of a cell, compiled."""
        experiment = build(
            self.configure(cell, f"model.hidden_size={hidden_size}", *_updates(TIMED))
        )
        shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
        random = np.random.default_rng(0)
        params = jax.tree.map(
            lambda x: 0.1 * random.normal(size=x.shape).astype(x.dtype), shapes
        )
        work = training(experiment, params, TIMED, TIMED).works["training"]
        work.run()
        return work

    def measure(self, cells: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
        """Returns width, parameters and seconds of an update of each cell.

        Args:
          cells: by name; the baseline is among them.
          rounds: how often each has its turn.
        """
        sizes = {cell: self.choose_size(cell) for cell in cells}
        works = {cell: self.prepare(cell, sizes[cell]) for cell in cells}
        taken: dict[str, list[float]] = {cell: [] for cell in cells}
        for _ in range(rounds):
            for cell, work in works.items():
                began = time.process_time()
                work.run()
                taken[cell].append((time.process_time() - began) / TIMED)
        base = taken[BASELINE]
        return {
            cell: {
                "hidden_size": sizes[cell],
                "parameters": self.count(cell, sizes[cell]),
                "seconds": statistics.median(base)
                * statistics.median(np.divide(seconds, base).tolist()),
                "rounds": seconds,
            }
            for cell, seconds in taken.items()
        }

    def read_speeds(self, cells: Sequence[str], rounds: int) -> dict[str, Any]:
        """Returns what `measure` found, now or before.

        What comes later is timed beside the baseline too, whose first time stands.
        """
        path = self.folder / "speeds.json"
        known = json.loads(path.read_text())["cells"] if path.is_file() else {}
        missing = [cell for cell in cells if cell not in known and cell != BASELINE]
        if missing or BASELINE not in known:
            found = self.measure([BASELINE, *missing], rounds)
            scale = 1.0
            if BASELINE in known:
                scale = known[BASELINE]["seconds"] / found[BASELINE]["seconds"]
            for cell, speed in found.items():
                known.setdefault(cell, speed | {"seconds": scale * speed["seconds"]})
            facts = {"machine": describe_machine(), "jax": jax.__version__}
            path.write_text(json.dumps(facts | {"cells": known}, indent=1))
        return known

    def read_runs(self) -> list[dict[str, Any]]:
        """Returns the runs that are over."""
        path = self.folder / "runs.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [json.loads(line) for line in lines]

    def train(self, job: Job, speed: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Trains for the updates that fit, and measures the validation loss."""
        num_updates = max(1, round(seconds / speed["seconds"]))
        experiment = build(
            self.configure(
                job.cell,
                f"model.hidden_size={speed['hidden_size']}",
                f"seed={job.seed}",
                f"optimizer.learning_rate={job.learning_rate}",
                *_updates(num_updates),
            )
        )
        key = jax.random.key(job.seed)
        state = experiment.trainer.init(key, experiment.batch_size)
        blocks = fit(
            *(experiment.trainer, state, experiment.source),
            *(
                lambda done: num_updates,
                experiment.config.sections.train.updates_per_call,
            ),
        )
        state = next(blocks).state  # Compiles.
        began, losses, finite = time.process_time(), [], True
        for block in blocks:
            losses.extend(block.metrics.loss / block.metrics.weight)
            state, finite = block.state, block.finite
            if not finite:
                break
        took = time.process_time() - began
        validation = math.inf
        if finite:
            split = experiment.split("validation")
            found = experiment.evaluator(state.params, split, experiment.batch_size)
            validation = found["loss"]
        return job._asdict() | {
            "updates": num_updates,
            "seconds": took,
            "train": float(np.mean(losses[-50:])),
            "validation": validation,
        }

    def make(
        self, jobs: Sequence[Job], speeds: dict[str, Any], seconds: float
    ) -> Iterator[dict[str, Any]]:
        """Makes those runs of a list that are missing, and yields each."""
        for job in jobs:
            there = {
                Job(*(run[name] for name in Job._fields)) for run in self.read_runs()
            }
            if job in there:
                continue
            run = self.train(job, speeds[job.cell], seconds)
            with (self.folder / "runs.jsonl").open("a") as file:
                file.write(json.dumps(run) + "\n")
            yield run


def _updates(count: int) -> tuple[str, str]:
    """Returns overrides for so many updates, an evaluation at the end."""
    return f"train.num_updates={count}", f"train.eval_every={count}"


def list_jobs(cells: Sequence[str], rates: Sequence[float], seeds: int) -> list[Job]:
    """Returns all runs: the first seed's at every rate, then the next one's."""
    return [
        Job(cell, seed, rate)
        for seed in range(seeds)
        for rate in rates
        for cell in cells
    ]


def find_best(runs: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns each cell's runs at the rate that serves it best, the best cell first.

    Rates are compared by the mean over the seeds that all of them have.
    """
    by_cell: dict[str, dict[float, dict[int, dict[str, Any]]]] = {}
    for run in runs:
        rates = by_cell.setdefault(run["cell"], {})
        rates.setdefault(run["learning_rate"], {})[run["seed"]] = run
    best = {}
    for cell, rates in by_cell.items():
        common = set.intersection(*(set(seeds) for seeds in rates.values()))

        def mean(rate: float, rates: Any = rates, common: set[int] = common) -> float:
            return _mean([rates[rate][seed] for seed in common])

        best[cell] = list(rates[min(rates, key=mean)].values())
    return dict(sorted(best.items(), key=lambda item: _mean(item[1])))


def _mean(runs: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([run["validation"] for run in runs]))


def write_table(speeds: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """Returns the table of the sweep, the best cell first.

    Args:
      speeds: what `Sweep.measure` returns.
      runs: what `Sweep.train` returned.
    """
    lines = [
        "| cell | H | parameters | ms an update | updates | rate | validation | each |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, own in find_best(runs).items():
        speed, first = speeds[cell], own[0]
        each = ", ".join(f"{run['validation']:.3f}" for run in own)
        lines.append(
            f"| `{cell}` | {speed['hidden_size']} | {speed['parameters']:,} "
            f"| {1e3 * speed['seconds']:.1f} | {first['updates']:,} "
            f"| {first['learning_rate']:g} | {_mean(own):.3f} | {each} |"
        )
    return "\n".join(lines)


def parse_part(text: str) -> tuple[int, int]:
    """Returns n and N of "n/N"."""
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text}: write 1/2 for the first of two")
    return part, parts


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    cells = [name for name in CELLS if name not in LEFT_OUT]
    add("--out", type=Path, default=Path("runs/variants"), metavar="DIR")
    add("--cells", nargs="+", default=cells, metavar="NAME")
    add("--seconds", type=float, default=60.0, help="of each run's training")
    add("--parameters", type=int, default=100_000, metavar="N")
    add("--rates", nargs="+", type=float, default=[3e-3, 1e-2], metavar="R")
    add("--seeds", type=int, default=1, metavar="N")
    add("--rounds", type=int, default=5, help="in which the cells take turns")
    add("--part", type=parse_part, default=(1, 1), metavar="n/N")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.cells if name not in CELLS]
    if unknown:
        parser.error(f"--cells {unknown[0]}: unknown; use some of {', '.join(CELLS)}")
    if BASELINE not in options.cells:
        parser.error(f"--cells: leaves out {BASELINE}, which all are timed beside")
    for name in ("seconds", "parameters", "rounds"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} {getattr(options, name)}: is not positive")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the runs that are missing, and writes the table."""
    options = parse_arguments(arguments)
    sweep = Sweep(options.out, options.set, options.parameters)
    speeds = sweep.read_speeds(options.cells, options.rounds)
    jobs = list_jobs(options.cells, options.rates, options.seeds)
    part, parts = options.part
    for run in sweep.make(jobs[part - 1 :: parts], speeds, options.seconds):
        print(json.dumps(run), flush=True)
    text = write_table(speeds, sweep.read_runs()) + "\n"
    (options.out / "table.md").write_text(text)
    print(f"\n{text}", end="")


if __name__ == "__main__":
    # One thread, so that processor time is what an update costs, whatever else runs.
    # XLA reads it when JAX first asks for its devices.
    os.environ["NPROC"] = "1"
    main()
