"""Checkpoints of a run, by orbax: the latest ones to go on from, and the best one.

    checkpoints/latest/N/     parameters, and all else that training goes on from
    checkpoints/best/N/       parameters alone
    checkpoints/damaged/      what was no longer as it had been saved, put aside

Where the optimizer averages parameters, these are the average; training goes on from
those beside it.

N is the number of updates that were made. In each lies manifest.json, written last,
with a hash of every file and the dtype and shape of every leaf: orbax would restore
many a flipped bit, and another dtype, without a word. A checkpoint without it was cut
short while it was saved, and does not count.
"""

import itertools
import json
import os
import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from jaxlstm.lab.averaging import averaged_params, find_average
from jaxlstm.lab.errors import UserError, suggest
from jaxlstm.lab.files import sync, write_text
from jaxlstm.lab.manifest import (
    MANIFEST,
    describe_leaves,
    differences,
    find_damage,
    make_manifest,
)
from jaxlstm.lab.quiet import hide_what_follows
from jaxlstm.lab.training import TrainState
from jaxlstm.types import PyTree

Which = Literal["best", "latest"]

# The item of a checkpoint that a model needs, and the one that training needs beside.
PARAMS, TRAINING = "params", "training"
NOTES = "notes.json"


def check_which(which: str) -> None:
    """Raises UserError unless a checkpoint is asked for by a name there is."""
    if which not in get_args(Which):
        raise UserError(f"--checkpoint {which}: {suggest(which, get_args(Which))}")


class DamagedCheckpoint(UserWarning):
    """A checkpoint is not what was saved; an earlier one is taken."""


class Checkpoints:
    """The checkpoints of one run.

    They are written in the background, one at a time. What goes wrong there is raised
    by the next call of `save`, `save_best`, `check` or `wait`.

    Attributes:
      folder: where they lie.
      keep: how many of the latest are kept; None to read only.
      run: what the run is known by. Checkpoints of another one are not believed.
    """

    def __init__(self, folder: Path, *, keep: int | None = None, run: str = ""):
        self.folder, self.keep, self.run = folder, keep, run
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._saving: Future[None] | None = None

    def save(self, state: TrainState, notes: Any = None, *, prune: bool = True) -> None:
        """Saves a state among the latest ones, unless it has been.

        Args:
          state: what training goes on from. Its buffers must not be given away.
          notes: what else goes with it, as JSON.
          prune: whether those go that are too many.

        Raises:
          UserError: this or an earlier one cannot be saved.
        """
        self.wait()
        step = int(state.num_updates)
        if step not in self._steps("latest"):
            items = {
                PARAMS: averaged_params(state.params, state.optimizer),
                TRAINING: _without_params(state),
            }
            self._saving = self._writer.submit(
                self._save, "latest", step, items, notes, prune=prune
            )

    def save_best(self, params: PyTree, update: int) -> None:
        """Saves parameters as the best ones so far; what is older goes when it can."""
        self.wait()
        self._saving = self._writer.submit(
            self._save, "best", update, {PARAMS: params}, None
        )

    def check(self) -> None:
        """Raises what went wrong in the background, if anything did."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Returns when all that is to be saved is on disk."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def drop_best_after(self, update: int) -> None:
        """Forgets best checkpoints that are younger than the update gone on from."""
        for step in self._steps("best"):
            if step > update:
                self._drop("best", step)

    def drop_best_before(self, update: int) -> None:
        """Forgets best checkpoints that a better one has followed, once all is done."""
        self.wait()
        for step in self._steps("best"):
            if step < update:
                self._drop("best", step)

    def remove_unfinished(self) -> None:
        """Removes what is left where saving or dropping a checkpoint was cut short."""
        for which in get_args(Which):
            folder = self.folder / which
            for path in [
                *folder.glob("*.orbax-checkpoint-tmp*"),
                *[self._path(which, n) for n in self._steps(which, unfinished=True)],
            ]:
                shutil.rmtree(path)
        for manager in self._managers.values():
            manager.reload()

    def number(self, which: Which) -> int | None:
        """Returns the update that a checkpoint was made after; None without one."""
        return max(self._steps(which), default=None)

    def find_best(self) -> int | None:
        """Returns the update of the best checkpoint that is as it was saved.

        What is damaged is put aside with a warning.
        """
        self.wait()
        if not self._steps("best"):
            return None
        try:
            return self._find("best", put_aside=True)
        except UserError as error:
            warn(str(error))
            for step in self._steps("best"):
                _put_aside(self._path("best", step), self.folder / "damaged")
            return None

    def restore(
        self, template: TrainState, *, put_aside: bool = False
    ) -> tuple[TrainState, Any]:
        """Returns the latest state that is as it was saved, and its notes.

        What is damaged is passed over with a warning.

        Args:
          template: a state of the shapes, dtypes and shardings to restore.
          put_aside: whether what is damaged is moved to `damaged/`, so that it is not
            in the way of what is saved later.

        Raises:
          UserError: there is none, or it does not fit the template.
        """
        rest = _without_params(template)
        templates = {PARAMS: template.params, TRAINING: rest}
        _, items, notes = self._read("latest", templates, put_aside=put_aside)
        if find_average(template.optimizer) is not None:
            return items[TRAINING], notes
        return items[TRAINING]._replace(params=items[PARAMS]), notes

    def restore_params(self, template: PyTree, which: Which) -> tuple[PyTree, int]:
        """Returns the parameters of a checkpoint, bound to no device, and its update.

        Args:
          template: shapes and dtypes.
          which: of the checkpoints.

        Raises:
          UserError: there is none, or it does not fit the template.
        """
        device = SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), template
        )
        step, items, _ = self._read(which, {PARAMS: template})
        # Not bound to that device: they may serve on several as well.
        return jax.tree.map(jnp.asarray, jax.device_get(items[PARAMS])), step

    def close(self) -> None:
        """Waits for what is under way, whatever comes of it."""
        self._writer.shutdown()
        for manager in self._managers.values():
            manager.close()

    def _path(self, which: Which, step: int) -> Path:
        return self.folder / which / str(step)

    def _steps(self, which: Which, *, unfinished: bool = False) -> list[int]:
        """Returns the steps that were saved, or those that were cut short."""
        paths = [p for p in (self.folder / which).glob("*") if p.name.isdecimal()]
        return sorted(
            int(p.name) for p in paths if (p / MANIFEST).exists() != unfinished
        )

    def _save(
        self,
        which: Which,
        step: int,
        items: dict[str, PyTree],
        notes: Any,
        *,
        prune: bool = True,
    ) -> None:
        path = self._path(which, step)
        try:
            manager = self._manager(which)
            # Orbax saves nothing older than what it has, be that cut short or not.
            for old in manager.all_steps():
                if old == step or old not in self._steps(which):
                    manager.delete(old)
            saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            hide_what_follows()
            manager.save(step, args=ocp.args.Composite(**saved))
            write_text(path / NOTES, json.dumps(notes))
            for written in [*path.rglob("*"), path, path.parent]:
                sync(written)
            write_text(path / MANIFEST, make_manifest(path, items, self.run))
            if prune:
                self._prune()
        except (OSError, ValueError, UserError) as error:
            reason = str(error).strip().splitlines()[0]
            code = re.search(r"os_error_code='(\d+)'", reason)
            reason = os.strerror(int(code[1])) if code else reason[:200]
            raise UserError(
                f"{path}: cannot be saved: {reason}; the checkpoint before it is "
                "kept: make room, and go on with `jaxlstm resume`"
            ) from error

    def _prune(self) -> None:
        """Drops what nobody needs. Orbax does not know what counts."""
        latest, best = self._steps("latest"), self._steps("best")
        for old in latest[: -(self.keep or 1)]:
            self._drop("latest", old)
        # Of each checkpoint that a run may go on from, the best one until then.
        oldest = min(latest[-(self.keep or 1) :], default=-1)
        for old, newer in itertools.pairwise(best):
            if newer <= oldest:
                self._drop("best", old)

    def _drop(self, which: Which, step: int) -> None:
        # From here on it does not count: half of it may be left if this is cut short.
        (self._path(which, step) / MANIFEST).unlink()
        self._manager(which).delete(step)

    def _read(
        self, which: Which, templates: dict[str, PyTree], *, put_aside: bool = False
    ) -> tuple[int, Any, Any]:
        """Returns the youngest step that is as it was saved, its items and notes."""
        while True:
            step = self._find(which, put_aside=put_aside)
            try:
                return step, *self._restore(which, step, templates)
            except (UserError, OSError):
                # Who trains may have dropped it meanwhile, for a younger one.
                if (self._path(which, step) / MANIFEST).exists():
                    raise

    def _find(self, which: Which, *, put_aside: bool = False) -> int:
        """Returns the youngest step whose files are those that were saved."""
        self.wait()
        steps = self._steps(which)
        wrong = {}
        for step in reversed(steps):
            path = self._path(which, step)
            damage = find_damage(path, self.run)
            if damage is None:
                break
            if not (path / MANIFEST).exists():
                # Who trains has dropped it meanwhile, for a younger one.
                return self._find(which, put_aside=put_aside)
            wrong[path] = damage
        else:
            if not steps:
                raise UserError(
                    f"{self.folder}: holds no checkpoint; `jaxlstm resume` begins anew"
                )
            other = (
                "--checkpoint latest takes the latest one"
                if which == "best"
                else f"remove {self.folder}, and `jaxlstm resume` begins anew"
            )
            raise UserError(
                *[
                    f"{path}: is damaged: {damage}; there is none left to take: {other}"
                    for path, damage in wrong.items()
                ]
            )
        cut_short = [
            self._path(which, young)
            for young in self._steps(which, unfinished=True)
            if young > step
        ]
        for path, damage in wrong.items():
            warn(f"{path}: is damaged: {damage}; the one before it is taken, {step}")
            if put_aside:
                _put_aside(path, self.folder / "damaged")
        for path in cut_short if put_aside else ():
            warn(f"{path}: was cut short; the one before it is taken, {step}")
        return step

    def _manager(self, which: Which) -> ocp.CheckpointManager:
        if which not in self._managers:
            options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
            folder = (self.folder / which).resolve()
            self._managers[which] = ocp.CheckpointManager(folder, options=options)
        return self._managers[which]

    def _restore(
        self, which: Which, step: int, templates: dict[str, PyTree]
    ) -> tuple[Any, Any]:
        path = self._path(which, step)
        saved = json.loads((path / MANIFEST).read_text())["leaves"]
        for item, template in templates.items():
            found = list(differences(saved.get(item, {}), describe_leaves(template)))
            if found:
                more = f" (and {len(found) - 1} leaves more)" if found[1:] else ""
                raise UserError(
                    f"{path}: {found[0]}{more}; bring config.toml back to what the run "
                    "began with"
                )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, templates)
        hide_what_follows()
        try:
            # Not by a manager, which looks at all steps: others may be dropped now.
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
                items = {
                    item: checkpointer.restore(
                        (path / item).resolve(), args=ocp.args.StandardRestore(template)
                    )
                    for item, template in abstract.items()
                }
            return items, json.loads((path / NOTES).read_text())
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: cannot be restored: {reason[:200]}") from error


def _without_params(state: TrainState) -> TrainState:
    """Returns what training needs beside the parameters that a model is used with."""
    averages = find_average(state.optimizer) is not None
    return state if averages else state._replace(params=())


def warn(message: str) -> None:
    """Warns that a run goes on from less than it had."""
    warnings.warn(message, DamagedCheckpoint, stacklevel=4)


def _put_aside(path: Path, folder: Path) -> None:
    """Moves a checkpoint to where nobody looks for one."""
    folder.mkdir(exist_ok=True)
    name, number = f"{path.parent.name}-{path.name}", 1
    while (folder / name).exists():
        number += 1
        name = f"{path.parent.name}-{path.name}-{number}"
    path.rename(folder / name)
