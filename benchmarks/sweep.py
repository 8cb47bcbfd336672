"""A sweep over cells: nets of one layer with as many parameters, and as much time."""

import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.base import Work
from benchmarks.loop import training
from benchmarks.report import describe_machine
from jaxlstm.lab import Segment, Source
from jaxlstm.lab.config import Config, load_config
from jaxlstm.lab.experiment import build, build_model
from jaxlstm.lab.training import fit
from jaxlstm.model import count_parameters

CONFIG = Path(__file__).parents[1] / "configs/plain_lstm_char.toml"
COMMON = (
    *("model.num_layers=1", "model.inputs=one_hot", "model.tied=false", "devices=1"),
    *("train.batch_size=32", "train.segment_length=64", "train.updates_per_call=50"),
)
BASELINE = "lstm"
# Their width is a multiple of the number of their heads.
STEPS = {"multi_head_lstm": 4, "slstm": 4}
# Updates that are timed at once, and segments over which a state is carried.
TIMED = 10
CARRIED = 8


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
            *(experiment.trainer, state, begin_anew(experiment.source)),
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
            split = begin_anew(experiment.split("validation"))
            found = experiment.evaluator(state.params, split, experiment.batch_size)
            validation = found["loss"]
        return job._asdict() | {
            "updates": num_updates,
            "seconds": took,
            "train": float(np.mean(losses[-50:])),
            "validation": validation,
        }

    def obtain(self, job: Job, speed: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Returns a run: the one that is there, or else a new one."""
        for run in self.read_runs():
            if Job(*(run[name] for name in Job._fields)) == job:
                return run
        run = self.train(job, speed, seconds)
        with (self.folder / "runs.jsonl").open("a") as file:
            file.write(json.dumps(run) + "\n")
        return run

    def climb(
        self,
        cell: str,
        rates: Sequence[float],
        seeds: int,
        speed: dict[str, Any],
        seconds: float,
    ) -> Iterator[dict[str, Any]]:
        """Yields a cell's runs: up the rates, and from more seeds at the best of them.

        Args:
          cell: by name.
          rates: the next one up is tried as long as the last one was better than that
            before.
          seeds: how many runs there are at the best rate.
          speed: of the cell, as `measure` returns it.
          seconds: of a run's training.
        """
        best, least = min(rates), math.inf
        for rate in sorted(rates):
            run = self.obtain(Job(cell, 0, rate), speed, seconds)
            yield run
            if not run["validation"] < least:
                break
            best, least = rate, run["validation"]
        for seed in range(1, seeds):
            yield self.obtain(Job(cell, seed, best), speed, seconds)


def begin_anew(source: Source) -> Source:
    """Returns a source of the same segments, with a reset before every eighth."""

    def segments(start: int, count: int) -> Segment:
        found = source.segments(start, count)
        shape = np.shape(found.targets)[:2]
        resets = np.zeros(shape) if found.resets is None else np.array(found.resets)
        resets[-start % CARRIED :: CARRIED, 0] = 1
        return found._replace(resets=resets)

    return source._replace(segments=segments)


def _updates(count: int) -> tuple[str, str]:
    """Returns overrides for so many updates, an evaluation at the end."""
    return f"train.num_updates={count}", f"train.eval_every={count}"
