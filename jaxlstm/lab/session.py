"""A session of a run: from where it stands to its last update."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from rich.console import Console

from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.files import cannot_write
from jaxlstm.lab.metrics import JsonLines, TensorBoard, Writer, cut_metrics
from jaxlstm.lab.plots import draw_run
from jaxlstm.lab.progress import Meter
from jaxlstm.lab.report import write_readme
from jaxlstm.lab.runs import CHECKPOINTS, CONFIG, METRICS, NON_FINITE, SAMPLES, Run
from jaxlstm.lab.sampling import write_samples
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.lab.training import Block, TrainState, fit
from jaxlstm.types import PyTree

Results = dict[str, dict[str, float]]


class Session:
    """Trains a run, and writes what comes of it into its directory.

    Attributes:
      run: the run.
      console: where progress is shown.
      request: whether a signal asks to stop.
    """

    def __init__(self, run: Run, console: Console, request: StopRequest):
        self.run, self.console, self.request = run, console, request
        sections = run.config.sections
        self._every = {
            "log": sections.logging.every,
            "eval": sections.train.eval_every,
            "save": sections.checkpoint.every,
        }
        self._seconds_between = 60 * sections.checkpoint.every_minutes
        self._most_skipped = sections.optimizer.skip_non_finite
        self._checkpoints = Checkpoints(
            run.path / CHECKPOINTS, keep=sections.checkpoint.keep
        )
        # Loss, weight and norm of each update since the last line of training loss.
        self._window: list[Sequence[float]] = []
        # How many updates up to now were left out one after the other.
        self._skipped = 0
        self._writers: list[Writer] = []
        # Of every evaluation so far: what is best, and patience, are counted from it.
        self._validations: list[dict[str, Any]] = []

    def train(self, *, resume: bool) -> Results:
        """Trains to the last update, and evaluates every split.

        Args:
          resume: whether to go on from the latest checkpoint.

        Returns:
          The metrics of the end by split: those of the best parameters where the
          validation loss was measured along the way, and else of the last ones. Under
          "last train" stand those of the last updates.

        Raises:
          Interrupted: after Ctrl-C, SIGTERM or SIGHUP; the run has been saved.
          UserError: a loss is not finite, nothing can be resumed, or something cannot
            be saved.
        """
        run = self.run
        try:
            state = self._restore() if resume else run.template
            done = int(state.num_updates)
            self._writers = [JsonLines(run.path / METRICS)]
            if run.config.sections.logging.tensorboard:
                self._writers.append(TensorBoard(run.path / "tensorboard", done))
            with Meter(self.console, done, run.experiment.num_updates) as meter:
                state = self._updates(state, meter)
                run.note(updates=int(state.num_updates))
                results = self._evaluate_all(state)
        finally:
            for writer in self._writers:
                writer.close()
            self._checkpoints.close()
        lines = [line for line in run.metrics if line["split"] == "train"]
        # None is left where the file was lost after the last update.
        return {"last train": _figures(lines[-1]), **results} if lines else results

    def finish(self, results: Results, seconds: float) -> None:
        """Draws pictures, writes samples and README, notes that the run is finished."""
        files = draw_run(self.run)
        before = self.run.facts.get("seconds", 0.0)
        self.run.note(seconds=round(before + seconds, 1))
        if self.run.vocabulary is not None:
            write_samples(self.run, self.run.path / SAMPLES)
        write_readme(self.run, results, files)
        self.run.note(status="finished")

    def _restore(self) -> TrainState:
        """Returns the state to go on from, and takes back what was written since."""
        state, checkpoints = self.run.template, self._checkpoints
        # Without a checkpoint a run goes on from its beginning.
        if checkpoints.number("latest") is not None:
            state, notes = checkpoints.restore(state, put_aside=True)
            self._window, self._skipped = notes["window"], notes["skipped"]
        done = int(state.num_updates)
        cut_metrics(self.run.path / METRICS, done)
        checkpoints.drop_best_after(done)
        if (self.run.path / METRICS).is_file():
            self._validations = [
                line for line in self.run.metrics if line["split"] == "validation"
            ]
        return state

    def _updates(self, state: TrainState, meter: Meter) -> TrainState:
        experiment = self.run.experiment
        done = int(state.num_updates)
        if self._wants_evaluation(done):
            # The signal came while it was under way.
            self._evaluate(state, done, meter)
        if done >= experiment.num_updates or self._out_of_patience():
            return state
        # Blocks are filled up to this size: none larger than what is asked for at once.
        updates_per_call = min(
            self.run.config.sections.train.updates_per_call,
            experiment.num_updates,
            *[every for every in self._every.values() if every],
        )
        saved = time.monotonic()
        blocks = fit(
            experiment.trainer, state, experiment.source, self._stop, updates_per_call
        )
        for block in blocks:
            self._check_finite(block, done)
            state = block.state
            count = len(block.metrics.loss)
            done += count
            self._window.extend(np.stack(block.metrics, axis=1).tolist())
            if count:
                meter.show(done, _mean(block.metrics.loss, block.metrics.weight))
            else:
                meter.compiled()
            last = done == experiment.num_updates
            if count and (last or self._due("log", done)):
                self._log(done, meter)
            if self._wants_evaluation(done):
                self._evaluate(state, done, meter)
                if self._out_of_patience():
                    last = True
                    self._log(done, meter)
            self._checkpoints.check()
            last = last or self.request.signal is not None
            late = time.monotonic() - saved > self._seconds_between
            if last or late or (count and self._due("save", done)):
                self._save(state)
                saved = time.monotonic()
            if last:
                break
        self._checkpoints.wait()
        self.request.check()
        return state

    def _due(self, what: str, done: int) -> bool:
        every = self._every[what]
        return every is not None and done % every == 0

    def _stop(self, done: int) -> int:
        """Returns the next update after which there is something to do."""
        nexts = [(done // every + 1) * every for every in self._every.values() if every]
        return max(done, min([*nexts, self.run.experiment.num_updates]))

    def _save(self, state: TrainState) -> None:
        # What the checkpoint says was measured must outlast it.
        for writer in self._writers:
            writer.sync()
        notes = {"window": self._window, "skipped": self._skipped}
        self._checkpoints.save(state, json.loads(json.dumps(notes)))

    def _check_finite(self, block: Block, done: int) -> None:
        """Counts what was left out; ends the run at what should not have been."""
        loss, _, norm = block.metrics
        # Finite gradients may still be too large a step.
        overflowed = not _all_finite(block.state.params)
        for n in range(len(loss)):
            if np.isfinite(loss[n]) and np.isfinite(norm[n]):
                self._skipped = 0
                if overflowed and not _all_finite(block.until(n + 1).params):
                    self._end_at(block, n, done, "parameters after it are")
            elif np.isfinite(norm[n]):
                # The optimizer leaves out gradients alone.
                self._end_at(block, n, done, "loss is")
            elif self._skipped == self._most_skipped:
                name = "gradient" if np.isfinite(loss[n]) else "loss"
                self._end_at(block, n, done, f"{name} is")
            else:
                self._skipped += 1

    def _end_at(self, block: Block, n: int, done: int, what: str) -> NoReturn:
        """Saves the state before update n of a block and its batch, and says so."""
        self._window.extend(np.stack(block.metrics, axis=1)[:n].tolist())
        self._save(block.until(n))
        path = self.run.path / NON_FINITE / f"update-{done + n + 1}.npz"
        _save_batch(path, jax.tree.map(lambda x: x[n], block.segments))
        self._checkpoints.wait()
        before = f" after {self._skipped} that were left out" if self._skipped else ""
        raise UserError(
            f"update {done + n + 1}{before}: the {what} not finite; its batch is in "
            f"{path}, and what came before it is saved; lower optimizer.learning_rate "
            f"or set optimizer.clip.norm in {self.run.path / CONFIG}, and go on "
            f"with jaxlstm resume {self.run.path} --allow-change optimizer"
        )

    def _write(self, update: int, split: str, values: dict[str, Any]) -> None:
        for writer in self._writers:
            writer.write(update, split, values)

    def _log(self, done: int, meter: Meter) -> None:
        rows = np.asarray(self._window, np.float64).reshape(-1, 3)
        rows = rows[np.isfinite(rows).all(axis=1)]
        skipped = len(self._window) - len(rows)
        self._window.clear()
        if not len(rows):
            return
        loss, weight, norm = rows.T
        values: dict[str, Any] = {"loss": _mean(loss, weight)}
        values |= self.run.task.derive(values)
        values["gradient_norm"] = float(norm.mean())
        if skipped:
            values["skipped"] = skipped
        values["seconds"] = {
            "elapsed": round(time.perf_counter() - meter.began, 3),
            "updates_per_second": round(meter.rate(done), 1),
        }
        self._write(done, "train", values)

    def _wants_evaluation(self, done: int) -> bool:
        """Returns whether the validation loss is to be measured and has not been."""
        every = self._every["eval"]
        if not every or not done or "validation" not in self.run.task.splits:
            return False
        last = done == self.run.experiment.num_updates
        known = any(line["update"] == done for line in self._validations)
        return (last or done % every == 0) and not known

    def _evaluate(self, state: TrainState, done: int, meter: Meter) -> None:
        try:
            values = self._measure("validation", state.params, done)
        except Interrupted:
            return  # It is saved first; a resumed run measures it then.
        best = min([line["loss"] for line in self._validations], default=math.inf)
        self._write(done, "validation", values)
        self._validations.append({"update": done, **values})
        meter.say(f"update {done}  validation {describe(values)}")
        if values["loss"] < best:
            self._checkpoints.save_best(state.params, done)

    def _out_of_patience(self) -> bool:
        """Returns whether the last evaluations all failed to get below the best."""
        patience = self.run.config.sections.train.patience
        losses = [line["loss"] for line in self._validations]
        if patience is None or not losses:
            return False
        return len(losses) - 1 - int(np.argmin(losses)) >= patience

    def _measure(self, split: str, params: PyTree, update: int) -> dict[str, float]:
        experiment = self.run.experiment
        values = experiment.evaluator(
            params,
            experiment.split(split),
            experiment.batch_size,
            check=self.request.check,
        )
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"update {update}: the {split} loss is {values['loss']}, and the "
                "training loss is finite; lower optimizer.learning_rate, or look at "
                f"the {split} data"
            )
        return values

    def _evaluate_all(self, state: TrainState) -> Results:
        """Measures every split, but the validation loss where it is known already."""
        update, params = int(state.num_updates), state.params
        best = self._checkpoints.number("best")
        if best is not None and best != update:
            update = best
            params = self._checkpoints.restore_params(params, "best")
        known = {line["update"]: _figures(line) for line in self._validations}
        results = {}
        for split in self.run.task.splits:
            if split == "validation" and update in known:
                results[split] = known[update]
                continue
            results[split] = self._measure(split, params, update)
            self._write(update, split, results[split])
        return results


def _all_finite(tree: PyTree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _save_batch(path: Path, segment: PyTree) -> None:
    """Writes the arrays of a segment under the names they have in it."""
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(where).lstrip("."): np.asarray(leaf)
        for where, leaf in jax.tree_util.tree_leaves_with_path(segment)
    }
    try:
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
    except OSError as error:
        raise cannot_write(path, error) from None


def _figures(line: dict[str, Any]) -> dict[str, float]:
    """Returns a line of metrics.jsonl without what is not a measure of the model."""
    others = "update", "split", "gradient_norm", "skipped", "seconds"
    return {name: value for name, value in line.items() if name not in others}


def _mean(sums: np.ndarray, weights: np.ndarray) -> float:
    weight = float(np.sum(weights))
    return float(np.sum(sums)) / weight if weight else 0.0


def describe(values: dict[str, float]) -> str:
    """Returns metrics as `name value`, the loss first."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
