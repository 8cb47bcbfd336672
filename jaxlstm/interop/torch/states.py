"""States and batch-first arrays as users of PyTorch hold them, and back.

PyTorch joins layers and directions to one axis: h_n is [L D, B, R] and c_n [L D, B, H],
where D is 2 with two directions, that of a layer side by side, and else 1. R is H, or P
where the output is projected.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cells.gru import GRUParams, GRUState
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.cells.rnn import RNNParams, RNNState
from jaxlstm.interop.stacks import cells_of, layers_of
from jaxlstm.interop.tensors import as_array
from jaxlstm.interop.torch.layers import LayerParams, StackParams
from jaxlstm.layers import Directions
from jaxlstm.types import Array


def state_from_torch(state: Any, params: StackParams | LayerParams) -> tuple[Any, ...]:
    """Returns PyTorch's initial or last state as the state of a stack.

    Args:
      state: (h, c), h [L D, ..., R] and c [L D, ..., H], of an LSTM; h of the others.
        Tensors, or arrays, traced ones too.
      params: of the stack, or of a single layer; they say what there is a state of.

    Returns:
      A tuple of layers: `LSTMState`, `GRUState` or `RNNState`, or `Directions` of two,
      in the dtype of the parameters.

    Raises:
      ValueError: a part is missing or too many, or a shape is not that of the stack.
    """
    layers = layers_of(params)
    cells = cells_of(layers)
    make = _find_state(cells[0])
    parts = state if isinstance(state, tuple | list) else (state,)
    if len(parts) != len(make._fields):
        wanted = "(h, c)" if make is LSTMState else "h alone"
        count = f"{len(parts)} part{'' if len(parts) == 1 else 's'}"
        raise ValueError(
            f"state: has {count}; that of {type(cells[0]).__name__} is {wanted}"
        )
    columns = cells[0].w_h.shape
    sizes = {"h": columns[0], "c": columns[1] // 4}
    arrays = [
        _read_part(name, part, len(cells), sizes[name], cells[0].w_h.dtype)
        for name, part in zip(make._fields, parts, strict=True)
    ]
    states = iter([make(*(array[n] for array in arrays)) for n in range(len(cells))])
    return tuple(
        Directions(next(states), next(states))
        if isinstance(layer, Directions)
        else next(states)
        for layer in layers
    )


def state_to_torch(states: Any) -> Any:
    """Returns the state of a stack as PyTorch has it.

    Args:
      states: of each layer, or `Directions` of two, leaves [..., H]; or of a single
        layer.

    Returns:
      (h [L D, ..., R], c [L D, ..., H]) of an LSTM; h of the others. As JAX arrays:
      `torch.tensor(numpy.asarray(h))` makes a tensor of one.
    """
    cells = cells_of(states)
    joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cells)
    return tuple(joined) if isinstance(joined, LSTMState) else joined.h


def time_major(array: Any) -> Array:
    """Returns [T, B, ...] of [B, T, ...], as PyTorch has it with batch_first=True."""
    return jnp.asarray(_read("array", array).swapaxes(0, 1))


def batch_first(array: Any) -> Array:
    """Returns [B, T, ...] of [T, B, ...], as the functions of this package give it."""
    return jnp.asarray(_read("array", array).swapaxes(0, 1))


def _find_state(params: Any) -> type:
    """Returns the type of the state that goes with the parameters of a layer."""
    if isinstance(params, GRUParams):
        return GRUState
    return RNNState if isinstance(params, RNNParams) else LSTMState


def _read(name: str, value: Any) -> Any:
    """Returns an array of JAX as it is, traced or not, and others as NumPy's."""
    if isinstance(value, jax.Array):
        return value
    array = as_array(value)
    if array is None:
        raise ValueError(f"{name}: {type(value).__name__} is no array")
    return array


def _read_part(name: str, value: Any, count: int, size: int, dtype: Any) -> Array:
    """Returns a part of a state, checked to be [count, ..., size]."""
    array = _read(name, value)
    if array.ndim < 2 or (array.shape[0], array.shape[-1]) != (count, size):
        letters = "[L D, ..., R]" if name == "h" else "[L D, ..., H]"
        raise ValueError(
            f"{name}: shape {array.shape} does not fit {letters}, which is "
            f"({count}, ..., {size}) by the parameters"
        )
    return jnp.asarray(array.astype(dtype))
