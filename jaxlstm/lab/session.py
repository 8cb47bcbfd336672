"""A session of a run: from where it stands to its last update."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.metrics import JsonLines, TensorBoard, Writer, cut_metrics
from jaxlstm.lab.plots import draw_run
from jaxlstm.lab.progress import Meter
from jaxlstm.lab.report import write_readme
from jaxlstm.lab.runs import CHECKPOINTS, METRICS, SAMPLES, Run
from jaxlstm.lab.sampling import write_samples
from jaxlstm.lab.signals import StopRequest
from jaxlstm.lab.training import TrainState, fit
from jaxlstm.types import PyTree


class Interrupted(Exception):
    """A signal stopped the run; it was saved.

    Attributes:
      signal: its number.
    """

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Session:
    """Trains a run, and writes what comes of it into its directory.

    Attributes:
      run: the run.
      console: where progress is shown.
    """

    def __init__(self, run: Run, console: Console):
        self.run, self.console = run, console
        sections = run.config.sections
        self._every = {
            "log": sections.logging.every,
            "eval": sections.train.eval_every,
            "save": sections.checkpoint.every,
        }
        self._window: list[Sequence[float]] = []
        self._writers: list[Writer] = []
        # Of every evaluation so far: what is best, and patience, are counted from it.
        self._validations: list[dict[str, Any]] = []

    def train(self, *, resume: bool) -> dict[str, dict[str, float]]:
        """Trains to the last update, and evaluates every split.

        Args:
          resume: whether to go on from the latest checkpoint.

        Returns:
          The metrics of the end by split: those of the best parameters where the
          validation loss was measured along the way, and else of the last ones. Under
          "last train" stand those of the last updates.

        Raises:
          Interrupted: after Ctrl-C or SIGTERM; the run has been saved.
          UserError: the loss is not finite, or nothing can be resumed.
        """
        run, experiment = self.run, self.run.experiment
        sections = run.config.sections
        checkpoints = Checkpoints(run.path / CHECKPOINTS, keep=sections.checkpoint.keep)
        state = run.template
        # Without a checkpoint a run goes on from its beginning.
        if resume and checkpoints.number("latest") is not None:
            state = checkpoints.restore(state)
        done = int(state.num_updates)
        if resume:
            cut_metrics(run.path / METRICS, done)
            checkpoints.drop_best_after(done)
            pending = run.facts.get("pending", {})
            if pending.get("update") == done:
                self._window = pending["metrics"]
        self._writers = [JsonLines(run.path / METRICS)]
        self._validations = [
            line for line in run.metrics if line["split"] == "validation"
        ]
        if sections.logging.tensorboard:
            self._writers.append(TensorBoard(run.path / "tensorboard", done))
        try:
            with (
                StopRequest() as request,
                Meter(self.console, done, experiment.num_updates) as meter,
            ):
                state = self._updates(state, checkpoints, meter, request)
                run.note(updates=int(state.num_updates))
                results = self._evaluate_all(state, checkpoints, request)
        finally:
            for writer in self._writers:
                writer.close()
            checkpoints.close()
        lines = [line for line in run.metrics if line["split"] == "train"]
        # None is left where the file was lost after the last update.
        return {"last train": _figures(lines[-1]), **results} if lines else results

    def finish(self, results: dict[str, dict[str, float]], seconds: float) -> None:
        """Draws pictures, writes samples and README, notes that the run is finished."""
        files = draw_run(self.run)
        before = self.run.facts.get("seconds", 0.0)
        self.run.note(seconds=round(before + seconds, 1))
        if self.run.vocabulary is not None:
            write_samples(self.run, self.run.path / SAMPLES)
        write_readme(self.run, results, files)
        self.run.note(status="finished")

    def _updates(
        self,
        state: TrainState,
        checkpoints: Checkpoints,
        meter: Meter,
        request: StopRequest,
    ) -> TrainState:
        experiment, done = self.run.experiment, int(state.num_updates)
        if done >= experiment.num_updates or self._out_of_patience():
            return state
        # Blocks are filled up to this size: none larger than what is asked for at once.
        updates_per_call = min(
            self.run.config.sections.train.updates_per_call,
            experiment.num_updates,
            *[every for every in self._every.values() if every],
        )
        steps = fit(
            experiment.trainer, state, experiment.source, self._stop, updates_per_call
        )
        for state, metrics in steps:
            self._check_finite(done, metrics)
            self._window.extend(zip(*metrics, strict=True))
            done += len(metrics.loss)
            meter.show(done, _mean(metrics.loss, metrics.weight))
            last = done == experiment.num_updates
            save = last or self._due("save", done)
            # A line at each checkpoint: its average starts anew after a resume.
            if save or self._due("log", done):
                self._log(done, meter)
            if self._due("eval", done) or (last and self._every["eval"]):
                self._evaluate(state, checkpoints, done, meter)
                if self._out_of_patience():
                    last = save = True
                    self._log(done, meter)
            if request.signal is not None:
                # What the next line averages over, so that a resume writes the same.
                # Written first: beside another checkpoint it means nothing.
                metrics = [[float(x) for x in row] for row in self._window]
                self.run.note(pending={"update": done, "metrics": metrics})
            if save or request.signal is not None:
                checkpoints.save(state)
            if request.signal is not None:
                raise Interrupted(request.signal)
            if last:
                break
        return state

    def _due(self, what: str, done: int) -> bool:
        every = self._every[what]
        return every is not None and done % every == 0

    def _stop(self, done: int) -> int:
        """Returns the next update after which there is something to do."""
        nexts = [(done // every + 1) * every for every in self._every.values() if every]
        return max(done, min([*nexts, self.run.experiment.num_updates]))

    def _check_finite(self, done: int, metrics: Any) -> None:
        finite = np.isfinite(metrics.loss) & np.isfinite(metrics.gradient_norm)
        if not finite.all():
            first = int(np.argmin(finite))
            name = "gradient" if np.isfinite(metrics.loss[first]) else "loss"
            raise UserError(
                f"update {done + first + 1}: the {name} is not finite; lower "
                "optimizer.learning_rate, or set optimizer.clip.norm"
            )

    def _write(self, update: int, split: str, values: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.write(update, split, values)

    def _log(self, done: int, meter: Meter) -> None:
        if not self._window:
            return
        loss, weight, norm = np.asarray(self._window, np.float64).T
        values: dict[str, Any] = {"loss": _mean(loss, weight)}
        values |= self.run.task.derive(values)
        values["gradient_norm"] = float(norm.mean())
        values["seconds"] = {
            "elapsed": round(time.perf_counter() - meter.began, 3),
            "updates_per_second": round(meter.rate(done), 1),
        }
        self._write(done, "train", values)
        self._window.clear()

    def _evaluate(
        self, state: TrainState, checkpoints: Checkpoints, done: int, meter: Meter
    ) -> None:
        if "validation" not in self.run.task.splits:
            return
        values = self._measure("validation", state.params)
        best = min([line["loss"] for line in self._validations], default=math.inf)
        self._write(done, "validation", values)
        self._validations.append({"update": done, **values})
        meter.say(f"update {done}  validation {describe(values)}")
        if values["loss"] < best:
            checkpoints.save_best(state.params, done)

    def _out_of_patience(self) -> bool:
        """Returns whether the last evaluations all failed to get below the best."""
        patience = self.run.config.sections.train.patience
        losses = [line["loss"] for line in self._validations]
        if patience is None or not losses:
            return False
        return len(losses) - 1 - int(np.argmin(losses)) >= patience

    def _measure(self, split: str, params: PyTree) -> dict[str, float]:
        experiment = self.run.experiment
        return experiment.evaluator(
            params, experiment.split(split), experiment.batch_size
        )

    def _evaluate_all(
        self, state: TrainState, checkpoints: Checkpoints, request: StopRequest
    ) -> dict[str, dict[str, float]]:
        """Measures every split, but the validation loss where it is known already."""
        update, params = int(state.num_updates), state.params
        best = checkpoints.number("best")
        if best is not None and best != update:
            update = best
            params = checkpoints.restore_params(params, "best")
        known = {line["update"]: _figures(line) for line in self._validations}
        results = {}
        for split in self.run.task.splits:
            if split == "validation" and update in known:
                results[split] = known[update]
                continue
            results[split] = self._measure(split, params)
            self._write(update, split, results[split])
            if request.signal is not None:
                raise Interrupted(request.signal)
        return results


def _figures(line: dict[str, Any]) -> dict[str, float]:
    """Returns a line of metrics.jsonl without what is not a measure of the model."""
    others = "update", "split", "gradient_norm", "seconds"
    return {name: value for name, value in line.items() if name not in others}


def _mean(sums: np.ndarray, weights: np.ndarray) -> float:
    weight = float(np.sum(weights))
    return float(np.sum(sums)) / weight if weight else 0.0


def describe(values: dict[str, float]) -> str:
    """Returns metrics as `name value`, the loss first."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
