"""A session of a run: from where it stands to its last update."""

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from rich.console import Console

from jaxlstm.lab.averaging import (
    averaged_params,
    begin_average,
    find_average,
    is_time_to_average,
)
from jaxlstm.lab.checkpoints import Checkpoints, warn
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.fingerprint import Change
from jaxlstm.lab.finite import Guard, NotFinite, save_batch
from jaxlstm.lab.metrics import (
    SHADOW,
    JsonLines,
    TensorBoard,
    Writer,
    cut_metrics,
    figures,
    is_finite,
    measure,
    starts_with,
)
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
      visits: what is called with the parameters after some updates, before they are
        saved in a checkpoint.
    """

    def __init__(
        self,
        run: Run,
        console: Console,
        request: StopRequest,
        visits: Mapping[int, Callable[[PyTree], None]] | None = None,
    ):
        self.run, self.console, self.request = run, console, request
        self.visits = visits or {}
        sections = run.config.sections
        self._every = {
            "log": sections.logging.every,
            "eval": sections.train.eval_every,
            "save": sections.checkpoint.every,
        }
        self._seconds_between = 60 * sections.checkpoint.every_minutes
        self._guard = Guard(sections.optimizer.skip_non_finite)
        self._checkpoints = Checkpoints(
            run.path / CHECKPOINTS,
            keep=sections.checkpoint.keep,
            run=run.facts.get("id", ""),
        )
        # Loss, weight and norm of each update since the last line of training loss.
        self._window: list[Sequence[float]] = []
        self._writers: list[Writer] = []
        # Of every evaluation so far: what is best, and patience, are counted from it.
        self._validations: list[dict[str, Any]] = []
        # After which updates gradients were compared.
        self._compared: set[int] = set()

    def train(self, changes: Sequence[Change] | None = None) -> Results:
        """Trains to the last update, and evaluates every split.

        Args:
          changes: of the run's fingerprint, where it goes on from its latest
            checkpoint; None where it begins.

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
            state = run.template if changes is None else self._restore()
            done = int(state.num_updates)
            if changes:
                run.note_changes(changes, done)
                for key, was, now in changes:
                    self._say(f"{run.path}: {key} is now {now}, and was {was}")
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
        return {"last train": figures(lines[-1]), **results} if lines else results

    def begin_with(self, params: PyTree) -> Results:
        """Saves parameters as those before the first update, and measures them.

        Args:
          params: of the model, on one device.

        Returns:
          The metrics of each split.

        Raises:
          Interrupted: a signal came.
          UserError: a loss is not finite, or something cannot be saved.
        """
        run, sections = self.run, self.run.config.sections
        key, batch_size = jax.random.key(sections.seed), sections.train.batch_size
        try:
            state = run.experiment.trainer.init(key, batch_size, params)
            self._writers = [JsonLines(run.path / METRICS)]
            run.note(updates=0)
            if self._every["eval"] and "validation" in run.task.splits:
                # What is best is counted from here on.
                values = self._measure("validation", state.params, 0)
                averages = find_average(state.optimizer) is not None
                line = values | ({"averaging": False} if averages else {})
                self._write(0, "validation", line)
                self._validations.append({"update": 0, **line})
                self._checkpoints.save_best(state.params, 0)
            self._save(state)
            return self._evaluate_all(state)
        finally:
            for writer in self._writers:
                writer.close()
            self._checkpoints.close()

    def finish(
        self, results: Results, seconds: float, status: str = "finished"
    ) -> None:
        """Draws pictures, writes samples and README, and notes what became of the run.

        Args:
          results: the metrics by split.
          seconds: spent in all sessions.
          status: what became of it.
        """
        files = draw_run(self.run)
        self.run.note(seconds=seconds)
        if self.run.writes_text:
            write_samples(self.run, self.run.path / SAMPLES)
        write_readme(self.run, results, files)
        self.run.note(status=status)

    def _restore(self) -> TrainState:
        """Returns the state to go on from, and takes back what was written since."""
        state, checkpoints = self.run.template, self._checkpoints
        written, metrics = None, self.run.path / METRICS
        if checkpoints.number("latest") is not None:
            state, notes = checkpoints.restore(state, put_aside=True)
            self._window, self._guard.skipped = notes["window"], notes["skipped"]
            written = notes["written"]
        elif "imported" in self.run.facts:
            raise UserError(
                f"{checkpoints.folder}: holds no checkpoint, and the run began with "
                f"weights of {self.run.facts['imported']['file']}; import them again"
            )
        else:
            self._say(f"{checkpoints.folder}: holds no checkpoint; the run begins anew")
        done = int(state.num_updates)
        whole = written is None or starts_with(metrics, written)
        if not whole:
            warn(
                f"{metrics}: is not what it was after update {done}; the best "
                "checkpoint and patience follow what is left of it"
            )
        known = written["bytes"] if written and whole else None
        cut_metrics(metrics, done, known)
        checkpoints.remove_unfinished()
        checkpoints.drop_best_after(done)
        if metrics.is_file():
            lines = self.run.metrics
            self._validations = [x for x in lines if x["split"] == "validation"]
            self._compared = {x["update"] for x in lines if x["split"] == SHADOW}
        return state

    def _updates(self, state: TrainState, meter: Meter) -> TrainState:
        experiment = self.run.experiment
        done = int(state.num_updates)
        self._visit(state, done)
        # A signal may have come while they were under way.
        self._evaluate(state, done, meter)
        state = self._average(state, done, meter)
        self._compare(state, done, meter)
        self.request.check()
        if self._out_of_patience():
            self._log(done, meter)
            return state
        if done >= experiment.num_updates:
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
        block = next(blocks, None)
        while block is not None:
            try:
                self._guard.check(block)
            except NotFinite as found:
                self._end_at(block, done, found)
            state = block.state
            count = len(block.metrics.loss)
            done += count
            self._window.extend(np.stack(block.metrics, axis=1).tolist())
            if count:
                meter.show(done, _mean(block.metrics.loss, block.metrics.weight))
                self._visit(state, done)
            else:
                meter.compiled()
            last = done == experiment.num_updates
            if count and (last or self._due("log", done)):
                self._log(done, meter)
            evaluated = self._evaluate(state, done, meter)
            state = self._average(state, done, meter)
            self._compare(state, done, meter)
            if evaluated and self._out_of_patience():
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
            block = _go_on(blocks, state)
        self._checkpoints.wait()
        self.request.check()
        return state

    def _due(self, what: str, done: int) -> bool:
        every = self._every[what]
        return every is not None and done % every == 0

    def _stop(self, done: int) -> int:
        """Returns the next update after which there is something to do."""
        nexts = [(done // every + 1) * every for every in self._every.values() if every]
        nexts += [update for update in self.visits if update > done]
        return max(done, min([*nexts, self.run.experiment.num_updates]))

    def _visit(self, state: TrainState, done: int) -> None:
        if done in self.visits:
            self.visits[done](state.params)

    def _save(self, state: TrainState, *, prune: bool = True) -> None:
        # What the checkpoint says was measured must outlast it.
        for writer in self._writers:
            writer.sync()
        notes = {
            "window": list(self._window),
            "skipped": self._guard.skipped,
            "written": measure(self.run.path / METRICS),
        }
        self._checkpoints.save(state, notes, prune=prune)

    def _end_at(self, block: Block, done: int, found: NotFinite) -> NoReturn:
        """Saves the state before an update and the batch of it, and says what is wrong.

        Args:
          block: holds the update.
          done: updates before the block.
          found: at which of its updates, and what.
        """
        n, skipped, run = found.number, self._guard.skipped, self.run.path
        if not len(block.metrics.loss):
            saved = run / CHECKPOINTS / "latest" / str(done)
            remedy = (
                f"remove {saved}, and go on from the checkpoint before it with jaxlstm "
                f"resume {run}"
                if done
                else "mend the init of the cell"
            )
            raise UserError(f"update {done + 1}: {found.what} not finite; {remedy}")
        self._window.extend(np.stack(block.metrics, axis=1)[:n].tolist())
        self._checkpoints.wait()
        before = self._checkpoints.number("latest")
        # It may be ruined already: none of those before it goes for it.
        self._save(block.until(n), prune=False)
        path = run / NON_FINITE / f"update-{done + n + 1}.npz"
        save_batch(path, jax.tree.map(lambda x: x[n], block.segments))
        self._checkpoints.wait()
        left_out = f" after {skipped} that were left out" if skipped else ""
        saved = run / CHECKPOINTS / "latest" / str(done + n)
        earlier = (
            f"; to go on from update {before}, remove {saved} first"
            if before not in (None, done + n)
            else ""
        )
        raise UserError(
            f"update {done + n + 1}{left_out}: {found.what} not finite; its batch is "
            f"in {path}, and the state before it is saved; lower "
            "optimizer.learning_rate, or set optimizer.clip.norm or "
            f"optimizer.skip_non_finite, in {run / CONFIG}, and go on with jaxlstm "
            f"resume {run} --allow-change optimizer{earlier}"
        )

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

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

    def _at_evaluation(self, done: int) -> bool:
        """Returns whether it is an update after which something is measured."""
        last = done == self.run.experiment.num_updates
        return done > 0 and (last or self._due("eval", done))

    def _evaluate(self, state: TrainState, done: int, meter: Meter) -> bool:
        """Measures the validation loss if it is time; returns whether it was."""
        known = any(line["update"] == done for line in self._validations)
        if (
            known
            or not self._every["eval"]
            or not self._at_evaluation(done)
            or "validation" not in self.run.task.splits
        ):
            return False
        params = averaged_params(state.params, state.optimizer)
        try:
            values: dict[str, Any] = self._measure("validation", params, done)
        except Interrupted:
            return False  # It is saved first; a resumed run measures it then.
        meter.say(f"update {done}  validation {describe(values)}")
        losses = [line["loss"] for line in self._validations]
        average = find_average(state.optimizer)
        if average is not None:
            values["averaging"] = bool(average.begun) or is_time_to_average(
                [*losses, values["loss"]],
                self.run.config.optimizer_options["non_monotone"],
            )
        self._write(done, "validation", values)
        self._validations.append({"update": done, **values})
        if values["loss"] < min(losses, default=math.inf):
            self._checkpoints.save_best(params, done)
        return True

    def _average(self, state: TrainState, done: int, meter: Meter) -> TrainState:
        """Returns the state whose parameters are averaged, if it is time for that."""
        average = find_average(state.optimizer)
        if average is None or average.begun or not self._validations:
            return state
        last = self._validations[-1]
        if last["update"] != done or not last["averaging"]:
            return state
        meter.say(f"update {done}  the average of the parameters begins")
        return state._replace(optimizer=begin_average(state.optimizer))

    def _compare(self, state: TrainState, done: int, meter: Meter) -> None:
        """Compares gradients if it is time, and has not been done."""
        experiment = self.run.experiment
        if (
            experiment.shadow is None
            or done in self._compared
            or not self._at_evaluation(done)
        ):
            return
        try:
            values = experiment.shadow(
                state, experiment.source, check=self.request.check
            )
        except Interrupted:
            return  # As above.
        self._compared.add(done)
        if values is None:
            meter.say(f"update {done}  shadow: the loss is not finite")
            return
        self._write(done, SHADOW, values)
        shown = {name: x for name, x in values.items() if "/" in name and is_finite(x)}
        meter.say(f"update {done}  shadow {describe(shown)}")

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
        update = int(state.num_updates)
        params = averaged_params(state.params, state.optimizer)
        best = self._checkpoints.find_best()
        lowest = min(self._validations, key=lambda line: line["loss"], default=None)
        if lowest is not None and best != lowest["update"]:
            warn(
                f"{self._checkpoints.folder}/best/{lowest['update']}: is missing, of "
                f"the lowest validation loss; {'the latest' if best is None else best} "
                "is measured in its place"
            )
        if best is not None and best != update:
            params, update = self._checkpoints.restore_params(params, "best")
        known = {line["update"]: figures(line) for line in self._validations}
        results = {}
        for split in self.run.task.splits:
            if split == "validation" and update in known:
                results[split] = known[update]
                continue
            results[split] = self._measure(split, params, update)
            self._write(update, split, results[split])
        if best is not None:
            self._checkpoints.drop_best_before(best)
        return results


def _go_on(
    blocks: Generator[Block, TrainState | None, None], state: TrainState
) -> Block | None:
    try:
        return blocks.send(state)
    except StopIteration:
        return None


def _mean(sums: np.ndarray, weights: np.ndarray) -> float:
    weight = float(np.sum(weights))
    return float(np.sum(sums)) / weight if weight else 0.0


def describe(values: dict[str, float]) -> str:
    """Returns metrics as `name value`, the loss first."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
