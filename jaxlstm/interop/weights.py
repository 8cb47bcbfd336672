"""Parameters as named arrays, and named arrays as parameters of a known form.

The name of an array is its path in the tree, with dots between the parts:
`recurrent.layers.0.w_x` is `params.recurrent.layers[0].w_x`, and keys of dictionaries
stand as they are.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.types import PyTree

# A message stays readable, whatever file it is about.
MOST_LINES, LONGEST_NAME, LONGEST_REASON = 100, 80, 300


class WeightsError(ValueError):
    """Weights that are damaged, or not those that were asked for.

    The message has a line for each thing that is wrong.

    Attributes:
      lines: of the message.
    """

    def __init__(self, *lines: str):
        rest = len(lines) - MOST_LINES
        if rest > 0:
            lines = *lines[:MOST_LINES], f"and {rest} more"
        super().__init__("\n".join(lines))
        self.lines = lines


class Form(NamedTuple):
    """What an array is, but for its values.

    Attributes:
      shape: of the array.
      dtype: its name, such as float32.
    """

    shape: tuple[int, ...]
    dtype: str


def name_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns the arrays of a tree by their names, in the order of the tree.

    Args:
      tree: of arrays, or of anything else with shape and dtype.

    Raises:
      TypeError: a leaf is no array.
      ValueError: two arrays have the same name.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(f"{show(name)}: {type(leaf).__name__} is no array")
        if name in leaves:
            raise ValueError(f"{show(name)}: is the name of two arrays")
        leaves[name] = leaf
    return leaves


def form(array: Any) -> Form:
    """Returns shape and dtype of an array."""
    return Form(tuple(array.shape), array.dtype.name)


def compare_forms(found: Mapping[str, Form], wanted: Mapping[str, Form]) -> list[str]:
    """Returns a line for each array that is missing, in excess, or of another form."""
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        if name not in found:
            lines.append(f"{show(name)}: is missing")
        elif name not in wanted:
            lines.append(f"{show(name)}: is not in the template")
        else:
            rows = zip(Form._fields, found[name], wanted[name], strict=True)
            lines += [
                f"{show(name)}: {what} {show(str(has), LONGEST_REASON)} is not that of "
                f"the template, {wants}"
                for what, has, wants in rows
                if has != wants
            ]
    return lines


def find_non_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Returns a line for each array that holds infinity or NaN."""
    lines = []
    for name, array in arrays.items():
        if jnp.issubdtype(array.dtype, jnp.inexact):
            wrong = np.size(array) - np.count_nonzero(np.isfinite(array))
            if wrong:
                lines.append(
                    f"{show(name)}: {wrong} of {np.size(array)} values are not finite; "
                    "allow_non_finite=True takes them as they are"
                )
    return lines


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and little-endian bytes."""
    sha256 = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha256.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def show(text: str, longest: int = LONGEST_NAME) -> str:
    """Returns text from any file, such as a name, as it can stand in a line."""
    if len(text) > longest:
        text = f"{text[:longest]}..."
    return text if text and text.isprintable() else repr(text)


def prefix(path: Any, lines: Iterable[str]) -> WeightsError:
    """Returns an error whose lines begin with the file that they are about."""
    return WeightsError(*(f"{path}: {line}" for line in lines))
