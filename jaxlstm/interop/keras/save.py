"""Models of Keras, written by Keras itself."""

from typing import Any

import jax.numpy as jnp

from jaxlstm.cells import GRUParams, RNNParams
from jaxlstm.interop.files import FilePath
from jaxlstm.interop.keras.arrays import to_keras
from jaxlstm.interop.keras.parts import embedding_to_keras, linear_to_keras
from jaxlstm.interop.keras.running import MergeMode
from jaxlstm.interop.stacks import directions_of, layers_of
from jaxlstm.layers import Directions
from jaxlstm.model import ModelParams, ReadoutParams

# The name of a layer, and how many of its two activations it has.
LSTM = "LSTM", 2
KINDS = {GRUParams: ("GRU", 2), RNNParams: ("SimpleRNN", 1)}


def save_keras(
    path: FilePath,
    params: Any,
    *,
    merge_mode: MergeMode = "concat",
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    return_sequences: bool = True,
    mask_zero: bool = False,
) -> None:
    """Writes a model that `keras.models.load_model` opens. Needs Keras.

    Args:
      path: of the file, which ends in ".keras".
      params: a stack of layers as `from_keras` returns it, a single layer, or the
        parameters of a whole model of `make_model`.
      merge_mode: of layers in two directions; those of `make_model` and `lstm_stack`
        are "concat".
      activation: Keras's name of that of the candidate and of the memory.
      recurrent_activation: of the gates of an LSTM or GRU.
      return_sequences: whether the last layer gives the outputs of all steps.
      mask_zero: whether symbol 0 is padding, where there is an embedding.

    Raises:
      ImportError: the package keras is not installed, or has no backend.
      TypeError: a layer is of a kind that Keras does not have.
      ValueError: the model has a learned initial state, or the path another ending.
    """
    if not str(path).endswith(".keras"):
        raise ValueError(f"path: {str(path)!r} does not end in .keras")
    table, layers, readout = _take_apart(params)
    arrays = to_keras(layers)
    keras = _import_keras()
    dtype = arrays[0][0].dtype.name
    model = keras.Sequential()
    weights = [] if table is None else [embedding_to_keras(table)]
    if table is None:
        model.add(keras.Input((None, len(arrays[0][0])), dtype=dtype))
    else:
        model.add(keras.Input((None,), dtype="int32"))
        size = table.shape
        model.add(keras.layers.Embedding(*size, mask_zero=mask_zero, dtype=dtype))
    activations = {
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }
    for n, layer in enumerate(layers):
        one = directions_of(layer)[0]
        kind, gates = KINDS.get(type(one), LSTM)
        made = getattr(keras.layers, kind)(
            len(one.w_h),
            use_bias=one.b is not None,
            return_sequences=return_sequences or n + 1 < len(layers),
            dtype=dtype,
            **dict(list(activations.items())[:gates]),
        )
        if isinstance(layer, Directions):
            made = keras.layers.Bidirectional(made, merge_mode=merge_mode, dtype=dtype)
        model.add(made)
    if readout is not None:
        arrays.append(linear_to_keras(readout))
        model.add(keras.layers.Dense(arrays[-1][1].size, dtype=dtype))
    for layer, own in zip(model.layers, weights + arrays, strict=True):
        layer.set_weights(own)
    model.save(path)


def _take_apart(params: Any) -> tuple[Any, tuple[Any, ...], ReadoutParams | None]:
    """Returns embedding, layers and readout; None for what there is not."""
    if not isinstance(params, ModelParams):
        return None, layers_of(params), None
    (table, layers, start), (w, b) = params
    if start is not None:
        raise ValueError(
            "params: the initial state is learned, and Keras's layers have none; give "
            "it to them as `state_to_keras` returns it"
        )
    if b is None:
        return table, layers, None
    w = jnp.asarray(table).T if w is None else w
    return table, layers, ReadoutParams(w, b)


def _import_keras() -> Any:
    try:
        import keras
    except ModuleNotFoundError as error:
        if error.name == "keras":
            why = "pip install keras"
        else:
            why = f"its backend {error.name} is not there: set KERAS_BACKEND=jax"
        raise ModuleNotFoundError(
            f"Keras writes its own files, and cannot be imported: {why}",
            name=error.name,
        ) from None
    return keras
