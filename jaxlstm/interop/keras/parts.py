"""What stands around Keras's recurrent layers: states, masks, Embedding, Dense."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.gru import GRUParams, GRUState
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.cells.rnn import RNNParams, RNNState
from jaxlstm.interop.stacks import directions_of, layers_of, readout_of
from jaxlstm.interop.tensors import as_array, as_leaf, check_shapes, convert
from jaxlstm.interop.weights import WeightsError
from jaxlstm.layers import Directions
from jaxlstm.model import ReadoutParams
from jaxlstm.types import Array


def state_from_keras(states: Sequence[Sequence[Any]], params: Any) -> tuple[Any, ...]:
    """Returns Keras's initial or last states as the state of a stack.

    Args:
      states: of each layer a list, what Keras calls `initial_state`: [h, c] of an LSTM,
        [h] of the others, [..., H] each; of `Bidirectional` those of both directions.
      params: of the stack, or of a single layer; they say what there is a state of.

    Returns:
      A tuple of layers: `LSTMState`, `GRUState` or `RNNState`, or `Directions` of two,
      in the dtype of the parameters.

    Raises:
      ValueError: a part is missing or too many, or a shape is not that of the stack.
    """
    layers = layers_of(params)
    if len(states) != len(layers):
        raise ValueError(
            f"states: {len(states)} are not those of {len(layers)} layers; give a list "
            "for each layer"
        )
    return tuple(
        _read_state(parts, layer, f"states[{n}]")
        for n, (parts, layer) in enumerate(zip(states, layers, strict=True))
    )


def state_to_keras(states: Any) -> list[list[Array]]:
    """Returns the state of a stack as Keras has it, a list of arrays for each layer."""
    return [
        [part for one in directions_of(layer) for part in one]
        for layer in layers_of(states)
    ]


def mask_from_padding(symbols: Any, value: Any = 0) -> Array:
    """Returns which of some symbols are no padding.

    That is the mask of Keras's `Embedding(mask_zero=True)`, for sequences that
    `pad_sequences` has padded on the left, as it does by default, or on the right. A
    symbol amid a sequence that has the value of the padding is a hole in the mask here
    and there. The state that follows is Keras's; on masked steps Keras repeats the
    output before them, and the functions of this package give zeros.

    Args:
      symbols: [T, ...] as they are read; transposed, if they come as Keras's [B, T].
      value: of the padding.

    Returns:
      Booleans of the shape of the symbols.
    """
    return jnp.asarray(symbols) != value


def embedding_from_keras(weights: Sequence[Any], *, dtype: Any = None) -> Array:
    """Returns the table [X, E] of an Embedding, of its `get_weights()`.

    Args:
      weights: the embeddings, alone.
      dtype: of the table; by default that of the array.

    Raises:
      WeightsError: they are not one matrix.
    """
    return read_embedding(weights, "weights", dtype)


def embedding_to_keras(embedding: Any) -> list[np.ndarray]:
    """Returns a table [X, E] as `set_weights` of an Embedding takes it."""
    return [np.array(embedding)]


def linear_from_keras(weights: Sequence[Any], *, dtype: Any = None) -> ReadoutParams:
    """Returns the weights of a Dense layer, of its `get_weights()`.

    Args:
      weights: kernel [H, Y], and bias [Y] unless `use_bias` is False. The activation
        is not in them.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      w [H, Y] and b [Y], zeros where Keras has no bias.

    Raises:
      WeightsError: they are missing, in excess or mis-shaped.
    """
    return read_dense(weights, "weights", dtype)


def linear_to_keras(params: ReadoutParams) -> list[np.ndarray]:
    """Returns the weights of a readout as `set_weights` of a Dense layer takes them.

    Raises:
      ValueError: the readout has no weights of its own.
    """
    return list(readout_of(params))


def read_embedding(weights: Sequence[Any], place: str, dtype: Any = None) -> Array:
    """Returns a table; `place` is where its array stands, for the messages."""
    return as_leaf(_read(weights, ("embeddings",), "[X, E]", place, dtype)[0])


def read_dense(weights: Sequence[Any], place: str, dtype: Any = None) -> ReadoutParams:
    """Returns a readout; `place` is where its arrays stand, for the messages."""
    names = ("kernel", "bias")[: max(1, min(len(weights), 2))]
    kernel, *rest = _read(weights, names, "[H, Y]", place, dtype)
    bias = rest[0] if rest else np.zeros_like(kernel[0])
    wanted = {"bias": ("[Y]", kernel.shape[1:])}
    check_shapes({"bias": bias}, wanted, f"{place}: ", f"a kernel {kernel.shape}")
    return ReadoutParams(as_leaf(kernel), as_leaf(bias))


def _read(
    weights: Sequence[Any], names: tuple[str, ...], letters: str, place: str, dtype: Any
) -> list[np.ndarray]:
    """Returns arrays of which the first is a matrix."""
    if len(weights) != len(names):
        raise WeightsError(
            f"{place}: {len(weights)} arrays are not {' and '.join(names)} alone"
        )
    arrays = convert(dict(zip(names, weights, strict=True)), f"{place}: ", dtype)
    if (shape := arrays[names[0]].shape)[2:] or len(shape) < 2:
        raise WeightsError(f"{place}: {names[0]}: shape {shape} is not {letters}")
    return list(arrays.values())


def _read_state(parts: Sequence[Any], layer: Any, place: str) -> Any:
    """Returns the state of one layer, checked against its parameters."""
    cells = directions_of(layer)
    states = {GRUParams: GRUState, RNNParams: RNNState}
    make = states.get(type(cells[0]), LSTMState)
    each = len(make._fields)
    parts = parts if isinstance(parts, list | tuple) else [parts]
    if len(parts) != each * len(cells):
        both = " forward, and the same backward" if len(cells) == 2 else ""
        raise ValueError(
            f"{place}: has {len(parts)} parts, and not {each * len(cells)}: "
            f"{', '.join(make._fields)}{both}"
        )
    read = []
    for k, part in enumerate(parts):
        w_h = cells[k // each].w_h
        array = part if isinstance(part, jax.Array) else as_array(part)
        if array is None:
            raise ValueError(f"{place}[{k}]: {type(part).__name__} is no array")
        if array.shape[-1:] != (len(w_h),):
            raise ValueError(
                f"{place}[{k}]: shape {array.shape} does not fit [..., H], which is "
                f"(..., {len(w_h)}) by the parameters"
            )
        read.append(jnp.asarray(array.astype(w_h.dtype)))
    made = [make(*read[k : k + each]) for k in range(0, len(read), each)]
    return made[0] if len(made) == 1 else Directions(*made)
