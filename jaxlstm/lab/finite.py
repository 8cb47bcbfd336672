"""Numbers that are not finite: which update they came with, and on what batch."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm.lab.files import cannot_write
from jaxlstm.lab.training import Block
from jaxlstm.types import PyTree


class NotFinite(Exception):
    """An update of a block is not to be believed.

    Attributes:
      number: of the update within the block.
      what: is wrong with it.
    """

    def __init__(self, number: int, what: str):
        super().__init__(number, what)
        self.number, self.what = number, what


class Guard:
    """Looks at what updates report, and counts those that the optimizer left out.

    Attributes:
      most: how many may be left out one after the other.
      skipped: how many were, up to now.
    """

    def __init__(self, most: int):
        self.most, self.skipped = most, 0

    def check(self, block: Block) -> None:
        """Raises NotFinite at the first update that should have been left out."""
        loss, _, norm = block.metrics
        # Finite gradients may still make too large a step.
        overflowed = not _all_finite(block.state.params)
        for n in range(len(loss)):
            if np.isfinite(loss[n]) and np.isfinite(norm[n]):
                self.skipped = 0
                if overflowed and not _all_finite(block.until(n + 1).params):
                    raise NotFinite(n, "the parameters after it are")
            elif np.isfinite(norm[n]):
                # The optimizer leaves out gradients alone.
                raise NotFinite(n, "the loss is")
            elif self.skipped == self.most:
                name = "gradient" if np.isfinite(loss[n]) else "loss"
                raise NotFinite(n, f"the {name} is")
            else:
                self.skipped += 1


def save_batch(path: Path, segment: PyTree) -> None:
    """Writes the arrays of a segment under the names they have in it.

    Raises:
      UserError: they cannot be written.
    """
    arrays: dict[str, Any] = {
        jax.tree_util.keystr(where).lstrip("."): np.asarray(leaf)
        for where, leaf in jax.tree_util.tree_leaves_with_path(segment)
    }
    try:
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
    except OSError as error:
        raise cannot_write(path, error) from None


def _all_finite(tree: PyTree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
