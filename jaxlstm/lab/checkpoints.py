"""Checkpoints of a run, by orbax: the latest ones to go on from, and the best one.

    checkpoints/latest/N/     parameters, and all else that training goes on from
    checkpoints/best/N/       parameters alone

N is the number of updates that were made. Beside them lies manifest.json, written last,
with a hash of every file: orbax would restore many a flipped bit without a word. A
checkpoint without it was cut short while it was saved, and does not count.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from jaxlstm.lab.data import hash_file
from jaxlstm.lab.errors import UserError, suggest
from jaxlstm.lab.training import TrainState
from jaxlstm.types import PyTree

# What is wrong with a checkpoint is found before orbax finds it.
logging.getLogger("absl").setLevel(logging.CRITICAL)

Which = Literal["best", "latest"]

# The item of a checkpoint that a model needs, and the one that training needs beside.
PARAMS, TRAINING = "params", "training"
MANIFEST = "manifest.json"


def check_which(which: str) -> None:
    """Raises UserError unless a checkpoint is asked for by a name there is."""
    if which not in get_args(Which):
        raise UserError(f"--checkpoint {which}: {suggest(which, get_args(Which))}")


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      folder: where they lie.
    """

    def __init__(self, folder: Path, *, keep: int | None = None):
        self.folder = folder
        self._keep: dict[str, int | None] = {"latest": keep, "best": keep and 1}
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def save(self, state: TrainState) -> None:
        """Saves a state among the latest ones; returns when it is on disk."""
        step = int(state.num_updates)
        if step not in self._steps("latest"):
            rest = state._replace(params=())
            self._save("latest", step, {PARAMS: state.params, TRAINING: rest})

    def save_best(self, params: PyTree, update: int) -> None:
        """Saves parameters in place of the best ones so far."""
        self._save("best", update, {PARAMS: params})

    def drop_best_after(self, update: int) -> None:
        """Forgets best checkpoints that are younger than the update gone on from."""
        for step in self._steps("best"):
            if step > update:
                self._manager("best").delete(step)

    def number(self, which: Which) -> int | None:
        """Returns the update that a checkpoint was made after; None without one."""
        return max(self._steps(which), default=None)

    def restore(self, template: TrainState) -> TrainState:
        """Returns the latest state.

        Args:
          template: a state of the shapes, dtypes and shardings to restore.

        Raises:
          UserError: there is none, or it does not fit the template.
        """
        rest = template._replace(params=())
        items = self._restore("latest", {PARAMS: template.params, TRAINING: rest})
        return items[TRAINING]._replace(params=items[PARAMS])

    def restore_params(self, template: PyTree, which: Which) -> PyTree:
        """Returns the parameters of a checkpoint, bound to no device.

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
        params = self._restore(which, {PARAMS: template})[PARAMS]
        # Not bound to that device: they may serve on several as well.
        return jax.tree.map(jnp.asarray, jax.device_get(params))

    def close(self) -> None:
        """Waits for what is under way."""
        for manager in self._managers.values():
            manager.close()

    def _steps(self, which: Which) -> list[int]:
        paths = (self.folder / which).glob(f"*/{MANIFEST}")
        return [int(p.parent.name) for p in paths if p.parent.name.isdecimal()]

    def _path(self, which: Which, step: int) -> Path:
        return self.folder / which / str(step)

    def _save(self, which: Which, step: int, items: dict[str, PyTree]) -> None:
        manager, finished = self._manager(which), self._steps(which)
        # Orbax saves nothing older than what it has, be that cut short or not.
        for old in manager.all_steps():
            if old == step or old not in finished:
                manager.delete(old)
        manager.save(step, args=_composite(ocp.args.StandardSave, items))
        path = self._path(which, step)
        replacement = path / f"{MANIFEST}.new"
        replacement.write_text(json.dumps(_hash_files(path), indent=2) + "\n")
        os.replace(replacement, path / MANIFEST)

    def _check(self, path: Path) -> None:
        """Raises UserError unless the files are those that were saved."""
        try:
            expected = json.loads((path / MANIFEST).read_text())
        except ValueError:
            expected = None
        found = _hash_files(path)
        if expected == found:
            return
        expected = expected if isinstance(expected, dict) else {}
        names = sorted(expected.keys() | found.keys() | {MANIFEST})
        wrong = next((n for n in names if expected.get(n) != found.get(n)), MANIFEST)
        raise UserError(
            f"{path}: is damaged: {wrong} is not what was saved; remove the folder, "
            "and the checkpoint before it is taken"
        )

    def _manager(self, which: Which) -> ocp.CheckpointManager:
        keep = self._keep[which]
        if which not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=keep is not None,
                enable_async_checkpointing=False,
            )
            folder = (self.folder / which).resolve()
            self._managers[which] = ocp.CheckpointManager(folder, options=options)
        return self._managers[which]

    def _restore(self, which: Which, templates: dict[str, PyTree]) -> Any:
        step = self.number(which)
        if step is None:
            raise UserError(
                f"{self.folder}: holds no checkpoint; `jaxlstm resume` begins anew"
            )
        self._check(self._path(which, step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, templates)
        try:
            args = _composite(ocp.args.StandardRestore, abstract)
            return self._manager(which).restore(step, args=args)
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self._path(which, step)}: cannot be restored: {reason[:200]}"
            ) from error


def _hash_files(folder: Path) -> dict[str, str]:
    """Returns the hash of each file of a checkpoint but its manifest."""
    return {
        str(path.relative_to(folder)): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(MANIFEST)
    }


def _composite(kind: Any, items: dict[str, PyTree]) -> ocp.args.Composite:
    return ocp.args.Composite(**{name: kind(item) for name, item in items.items()})
