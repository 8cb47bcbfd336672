"""States as ONNX's operators have them, and back.

An operator has initial_h, initial_c, Y_h and Y_c [D, B, H] in layout 0, and [B, D, H]
in layout 1. Of a stack, layers and directions are joined to one axis, that of a layer
side by side, as the files that `save_onnx` writes have it: [L D, B, H] or [B, L D, H].
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlstm.cells.gru import GRUParams, GRUState
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.cells.rnn import RNNParams, RNNState
from jaxlstm.interop.onnx.operators import hidden_size_of
from jaxlstm.interop.stacks import cells_of, layers_of
from jaxlstm.interop.tensors import as_array
from jaxlstm.layers import Directions
from jaxlstm.shapes import check_choice
from jaxlstm.types import Array

Layout = Literal[0, 1]


def state_from_onnx(state: Any, params: Any, *, layout: Layout = 0) -> Any:
    """Returns the state of an operator, or of a stack of them, as it is here.

    Args:
      state: (h, c) of an LSTM; h of the others. Each [D, B, H], or [L D, B, H] of L
        layers; with layout 1 [B, D, H].
      params: of the layer, as `from_onnx` gives it, or a tuple of layers; they say what
        there is a state of.
      layout: of the operator.

    Returns:
      `LSTMState`, `GRUState` or `RNNState`, leaves [B, H], or `Directions` of two; of a
      stack a tuple of these. In the dtype of the parameters.

    Raises:
      OptionError: the layout is neither 0 nor 1.
      ValueError: a part is missing or too many, or of another shape.
    """
    check_choice("layout", layout, Layout)
    layers = layers_of(params)
    cells = cells_of(layers)
    make = find_state(cells[0])
    parts = state if isinstance(state, tuple | list) else (state,)
    if len(parts) != len(make._fields):
        wanted = "(h, c)" if make is LSTMState else "h alone"
        raise ValueError(
            f"state: has {len(parts)} part{'' if len(parts) == 1 else 's'}; that of "
            f"{type(cells[0]).__name__} is {wanted}"
        )
    arrays = [
        _read_part(name, part, cells, layout)
        for name, part in zip(make._fields, parts, strict=True)
    ]
    states = iter([make(*(array[n] for array in arrays)) for n in range(len(cells))])
    found = tuple(
        Directions(next(states), next(states))
        if isinstance(layer, Directions)
        else next(states)
        for layer in layers
    )
    return found if layers is params else found[0]


def state_to_onnx(states: Any, *, layout: Layout = 0) -> Any:
    """Returns the state of a layer, or of a stack, as ONNX's operators have it.

    Args:
      states: of a layer, leaves [B, H], or `Directions` of two; or of each layer.
      layout: of the operator.

    Returns:
      (h, c) of an LSTM; h of the others. Each [D, B, H], or [L D, B, H] of L layers;
      with layout 1 [B, D, H].

    Raises:
      OptionError: the layout is neither 0 nor 1.
    """
    check_choice("layout", layout, Layout)
    joined = jax.tree.map(
        lambda *leaves: jnp.stack(leaves, axis=layout), *cells_of(states)
    )
    return tuple(joined) if isinstance(joined, LSTMState) else joined.h


def find_state(params: Any) -> type:
    """Returns the type of the state that goes with the parameters of a layer."""
    if isinstance(params, GRUParams):
        return GRUState
    return RNNState if isinstance(params, RNNParams) else LSTMState


def _read_part(name: str, value: Any, cells: list[Any], layout: Layout) -> Array:
    """Returns a part of a state as [count, B, H], checked to be so."""
    array = value if isinstance(value, jax.Array) else as_array(value)
    if array is None:
        raise ValueError(f"{name}: {type(value).__name__} is no array")
    count, size, dtype = len(cells), hidden_size_of(cells[0]), cells[0].w_h.dtype
    wanted = "[B, L D, H]" if layout else "[L D, B, H]"
    if array.ndim != 3 or (array.shape[layout], array.shape[2]) != (count, size):
        raise ValueError(
            f"{name}: shape {array.shape} does not fit {wanted} of layout {layout}; by "
            f"the parameters L D = {count} and H = {size}"
        )
    return jnp.asarray(array.swapaxes(0, layout), dtype)
