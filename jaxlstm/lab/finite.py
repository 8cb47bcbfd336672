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
        if not len(loss) and not block.finite:
            raise NotFinite(0, "the parameters before it are")
        found, before = None, []
        for n in range(len(loss)):
            before.append(self.skipped)
            if np.isfinite(loss[n]) and np.isfinite(norm[n]):
                self.skipped = 0
            elif np.isfinite(norm[n]) or self.skipped == self.most:
                # The optimizer leaves out gradients alone.
                name = "gradient" if np.isfinite(loss[n]) else "loss"
                found = NotFinite(n, f"the {name} is")
                break
            else:
                self.skipped += 1
        if found is None and block.finite:
            return
        last = found.number if found else len(loss)
        state = block.until(last) if found else block.state
        if not _all_finite(state.params):
            # Finite gradients made too large a step. Once not finite, always so.
            finite = 0
            while last - finite > 1:
                middle = (finite + last) // 2
                if _all_finite(block.until(middle).params):
                    finite = middle
                else:
                    last = middle
            self.skipped = before[finite]
            found = NotFinite(finite, "the parameters after it are")
        if found:
            raise found


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
