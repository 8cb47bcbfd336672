"""Embeddings, dense layers and states of Flax, linen's and nnx's, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.gru import GRUParams, GRUState
from jaxlstm.cells.lstm import LSTMParams, LSTMState
from jaxlstm.cells.rnn import RNNParams, RNNState
from jaxlstm.cells.variants import LSTMVariantParams
from jaxlstm.interop.flax.cells import find_node, flatten
from jaxlstm.interop.stacks import readout_of
from jaxlstm.interop.tensors import (
    as_array,
    as_leaf,
    check_mapping,
    check_names,
    check_shapes,
    convert,
)
from jaxlstm.interop.weights import LONGEST_REASON, WeightsError, show
from jaxlstm.layers import Directions
from jaxlstm.model import ReadoutParams
from jaxlstm.types import Array

STATES = {
    LSTMParams: LSTMState,
    LSTMVariantParams: LSTMState,
    GRUParams: GRUState,
    RNNParams: RNNState,
}


def embedding_from_flax(
    variables: Mapping[str, Any], path: str = "", *, dtype: Any = None
) -> Array:
    """Returns the table of an Embed of linen or nnx.

    Args:
      variables: as `init` returns them, or as `nnx.state` does.
      path: of the module in the tree, such as "Embed_0".
      dtype: of the table; by default that of the array.

    Returns:
      [X, E], a row for each of X symbols.

    Raises:
      WeightsError: the array is not there, is no matrix, or is not alone.
    """
    return as_leaf(_read(variables, path, dtype, "embedding")["embedding"])


def embedding_to_flax(embedding: Any) -> dict[str, np.ndarray]:
    """Returns a table [X, E] as what stands at the path of an Embed."""
    return {"embedding": np.array(embedding)}


def linear_from_flax(
    variables: Mapping[str, Any], path: str = "", *, dtype: Any = None
) -> ReadoutParams:
    """Returns the weights of linen's Dense or nnx's Linear.

    Args:
      variables: as `init` returns them, or as `nnx.state` does.
      path: of the module in the tree, such as "Dense_0".
      dtype: of the parameters; by default that of the arrays.

    Returns:
      w [H, Y] and b [Y], zeros where Flax has no bias.

    Raises:
      WeightsError: arrays are missing, in excess or mis-shaped.
    """
    arrays = _read(variables, path, dtype, "kernel", "bias")
    prefix, kernel = f"{path}/" if path else "", arrays["kernel"]
    columns = kernel.shape[1]
    arrays = {"bias": np.zeros_like(kernel[0])} | arrays
    check_shapes(arrays, {"bias": ("[Y]", (columns,))}, prefix, f"Y = {columns}")
    return ReadoutParams(as_leaf(kernel), as_leaf(arrays["bias"]))


def linear_to_flax(params: ReadoutParams) -> dict[str, np.ndarray]:
    """Returns a readout as what stands at the path of a Dense or Linear.

    Raises:
      ValueError: the readout has no weights of its own.
    """
    return dict(zip(("kernel", "bias"), readout_of(params), strict=True))


def state_from_flax(carry: Any, params: Any) -> Any:
    """Returns a carry of Flax's cells as a state.

    Args:
      carry: (c, h) of an LSTM, h of the others, leaves [..., H]; a pair of these,
        forward and backward, for two directions; a sequence of carries for a stack.
        Arrays, traced ones too.
      params: of the stack, or of a single layer; they say what there is a carry of.

    Returns:
      `LSTMState`, `GRUState` or `RNNState`, or `Directions` of two, in the dtype of the
      parameters; for a stack a tuple of layers.

    Raises:
      ValueError: a part is missing or in excess, or a shape does not fit the layer.
    """
    if not isinstance(params, (Directions, *STATES)):
        carries = _split("carry", carry, len(params), "one for each layer")
        pairs = enumerate(zip(carries, params, strict=True))
        return tuple(_read_layer(f"carry {n}", *pair) for n, pair in pairs)
    return _read_layer("carry", carry, params)


def state_to_flax(state: Any) -> Any:
    """Returns a state as Flax's cells carry it.

    Args:
      state: `LSTMState`, `GRUState` or `RNNState`, or `Directions` of two, leaves
        [..., H]; or a tuple of layers.

    Returns:
      (c, h) of an LSTM, h of the others; a pair of these for two directions; a tuple of
      carries for a stack.
    """
    if isinstance(state, LSTMState):
        return state.c, state.h
    if isinstance(state, GRUState | RNNState):
        return state.h
    return tuple(map(state_to_flax, state))


def _read_layer(name: str, carry: Any, params: Any) -> Any:
    """Returns the carry of one layer as its state."""
    if isinstance(params, Directions):
        both = _split(name, carry, 2, "forward and backward")
        names = f"{name}, forward", f"{name}, backward"
        return Directions(*map(_read_layer, names, both, params))
    kind = STATES[type(params)]
    if kind is LSTMState:
        c, h = _split(name, carry, 2, "(c, h)")
        parts = {"h": h, "c": c}
    else:
        parts = {"h": carry}
    return kind(**{n: _read_part(f"{name}: {n}", p, params) for n, p in parts.items()})


def _split(name: str, value: Any, count: int, wanted: str) -> Sequence[Any]:
    """Returns a pair or another sequence, checked to be of its size."""
    if not isinstance(value, Sequence) or len(value) != count:
        size = f" of {len(value)}" if isinstance(value, Sequence) else ""
        raise ValueError(
            f"{name}: is a {type(value).__name__}{size}; give a tuple of {count}, "
            f"{wanted}"
        )
    return value


def _read_part(name: str, value: Any, params: Any) -> Array:
    """Returns a part of a carry, checked to be [..., H]."""
    array = value if isinstance(value, jax.Array) else as_array(value)
    size = params.w_h.shape[0]
    if array is None:
        raise ValueError(f"{name} is a {type(value).__name__}; give an array [..., H]")
    if array.ndim == 0 or array.shape[-1] != size:
        raise ValueError(
            f"{name} has shape {array.shape}, which does not fit [..., H] for H = "
            f"{size} of the parameters"
        )
    return jnp.asarray(array).astype(params.w_h.dtype)


def _read(
    variables: Mapping[str, Any], path: str, dtype: Any, matrix: str, *optional: str
) -> dict[str, np.ndarray]:
    """Returns what stands at a path: a matrix, and what is optional beside it."""
    check_mapping(variables)
    tree = variables.get("params", variables)
    node, prefix = find_node(tree, path), f"{path}/" if path else ""
    if not isinstance(node, Mapping):
        there = ", ".join(repr(str(key)) for key in tree)
        raise WeightsError(
            f"path: {show(repr(path))} is not in the tree; there are "
            f"{show(there, LONGEST_REASON)}"
        )
    arrays = flatten(node)
    check_names(arrays, [matrix, *(n for n in optional if n in arrays)], prefix)
    arrays = convert(arrays, prefix, dtype)
    shape = arrays[matrix].shape
    if len(shape) != 2:
        raise WeightsError(
            f"{show(prefix + matrix)}: shape {shape} is not that of a matrix"
        )
    return arrays
