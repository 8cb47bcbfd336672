"""Checkpoints of the training state, by orbax."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxlstm.lab.errors import UserError
from jaxlstm.lab.training import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one run, each under the number of its update."""

    def __init__(self, folder: Path, *, keep: int | None = None):
        self.folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=keep is not None, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, state: TrainState) -> None:
        """Saves a state; returns when it is on disk."""
        step = int(state.num_updates)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    @property
    def latest(self) -> int | None:
        """The update of the latest checkpoint."""
        return self._manager.latest_step()

    def restore(self, template: Any) -> TrainState:
        """Returns the latest state.

        Args:
          template: a state of the shapes, dtypes and shardings to restore.

        Raises:
          UserError: there is none, or it does not fit the template.
        """
        step = self.latest
        if step is None:
            raise UserError(
                f"{self.folder}: holds no checkpoint; `jaxlstm resume` begins anew"
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        try:
            args = ocp.args.StandardRestore(abstract)
            restored: Any = self._manager.restore(step, args=args)
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.folder / str(step)}: cannot be restored: {reason}"
            ) from error
        return restored

    def close(self) -> None:
        """Waits for what is under way."""
        self._manager.close()
