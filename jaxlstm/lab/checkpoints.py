"""Checkpoints of a run, by orbax: the latest ones to go on from, and the best one.

    checkpoints/latest/N/     parameters, and all else that training goes on from
    checkpoints/best/N/       parameters alone

N is the number of updates that were made.
"""

import logging
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

from jaxlstm.lab.errors import UserError, suggest
from jaxlstm.lab.training import TrainState
from jaxlstm.types import PyTree

logging.getLogger("absl").setLevel(logging.ERROR)

Which = Literal["best", "latest"]

# The item of a checkpoint that a model needs, and the one that training needs beside.
PARAMS, TRAINING = "params", "training"


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
        self._keep = keep
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def save(self, state: TrainState) -> None:
        """Saves a state among the latest ones; returns when it is on disk."""
        manager, step = self._manager("latest", self._keep), int(state.num_updates)
        if step not in manager.all_steps():
            rest = state._replace(params=())
            items = {PARAMS: state.params, TRAINING: rest}
            manager.save(step, args=_composite(ocp.args.StandardSave, items))

    def save_best(self, params: PyTree, update: int) -> None:
        """Saves parameters in place of the best ones so far."""
        args = _composite(ocp.args.StandardSave, {PARAMS: params})
        self._manager("best", 1).save(update, args=args)

    def drop_best_after(self, update: int) -> None:
        """Forgets a best checkpoint that is younger than the update gone on from."""
        best = self.number("best")
        if best is not None and best > update:
            self._manager("best", 1).delete(best)

    def number(self, which: Which) -> int | None:
        """Returns the update that a checkpoint was made after; None without one."""
        if which not in self._managers and not (self.folder / which).is_dir():
            return None
        return self._manager(which).latest_step()

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

    def _manager(self, which: Which, keep: int | None = None) -> ocp.CheckpointManager:
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
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, templates)
        try:
            args = _composite(ocp.args.StandardRestore, abstract)
            return self._manager(which).restore(step, args=args)
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.folder / which / str(step)}: cannot be restored: {reason}"
            ) from error


def _composite(kind: Any, items: dict[str, PyTree]) -> ocp.args.Composite:
    return ocp.args.Composite(**{name: kind(item) for name, item in items.items()})
