"""Weights and states of Keras's recurrent layers, as lists of arrays, and back.

Of every layer Keras keeps, with G gates,

    kernel [X, G H]    recurrent_kernel [H, G H]    bias [G H]

in this order in `layer.get_weights()`; `Bidirectional` has those of the forward layer
and then those of the backward one. The LSTM has 4 gates in the order i, f, c, o, which
is that of this package; the GRU 3 in the order z, r, h (update, reset, candidate) and a
bias [2, 3H] of two rows, for the product by x and for that by h; the SimpleRNN 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.cells.variants import LSTMVariantParams
from jaxlstm.interop.stacks import directions_of, layers_of
from jaxlstm.interop.tensors import as_leaf, check_shapes, convert
from jaxlstm.interop.weights import WeightsError
from jaxlstm.layers import Directions

LayerParams = LSTMParams | GRUParams | RNNParams
StackParams = tuple[LayerParams | Directions, ...]

KINDS = "kernel", "recurrent_kernel", "bias"
SIDES = "forward ", "backward "
LAYERS = {1: "SimpleRNN", 3: "GRU", 4: "LSTM"}
# What an LSTM of Keras can have.
PLAIN = {"w_x", "w_h", "b"}


def from_keras(*layers: Sequence[Any], dtype: Any = None) -> StackParams:
    """Returns LSTM, GRU or SimpleRNN layers of Keras, as `lstm_stack` takes LSTMs.

    Which of the three a layer is shows in the shapes; that it has other activations
    than Keras's defaults, or reads backwards, does not: `load_keras` sees it.

    Args:
      *layers: `layer.get_weights()` of each layer, from the input up: kernel [X, G H],
        recurrent_kernel [H, G H], and bias unless `use_bias` is False; twice these for
        `Bidirectional`.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      A tuple of layers, `LSTMParams`, `GRUParams` or `RNNParams` each, or `Directions`
      of two. Where Keras has no biases, an LSTM has b = None and the others have zeros.

    Raises:
      WeightsError: arrays are missing, in excess, or of another shape or dtype; or a
        GRU has reset_after=False, for which there is no cell here.
    """
    read, faults = [], []
    for n, weights in enumerate(layers):
        place = "weights" if len(layers) == 1 else f"weights of layer {n}"
        try:
            read.append(read_layer(weights, place, dtype))
        except WeightsError as error:
            faults += error.lines
    if not layers:
        faults.append("weights: there is no layer; give layer.get_weights() of each")
    if faults:
        raise WeightsError(*faults)
    return tuple(read)


def to_keras(params: Any) -> list[list[np.ndarray]]:
    """Returns for each layer the arrays that its `set_weights` takes.

    Args:
      params: a stack as `from_keras` returns it, or a single layer.

    Returns:
      A list for each layer. An LSTM with b = None gives no bias, for `use_bias=False`.

    Raises:
      TypeError: a layer is of a kind that Keras does not have.
    """
    return [
        [
            np.ascontiguousarray(array)
            for one in directions_of(layer)
            for array in _take_apart(one, n)
        ]
        for n, layer in enumerate(layers_of(params))
    ]


def read_layer(weights: Sequence[Any], place: str, dtype: Any = None) -> Any:
    """Returns the parameters of one layer, in one direction or two.

    Args:
      weights: as `get_weights` returns them.
      place: where they stand, for the messages.
      dtype: of the parameters; by default that of the arrays.

    Raises:
      WeightsError: as `from_keras`.
    """
    if not isinstance(weights, list | tuple):
        kind = type(weights).__name__
        raise WeightsError(f"{place}: {kind} is no list; give layer.get_weights()")
    if len(weights) not in (2, 3, 4, 6):
        raise WeightsError(
            f"{place}: {len(weights)} arrays are not {', '.join(KINDS)} of a layer (2 "
            "without bias, or 3), nor of the two of a Bidirectional (4 or 6)"
        )
    sides = ("",) if len(weights) < 4 else SIDES
    kinds = KINDS[: len(weights) // len(sides)]
    names = [side + kind for side in sides for kind in kinds]
    named = dict(zip(names, weights, strict=True))
    arrays = convert(named, f"{place}: ", dtype)
    read = [_join(arrays, place, side) for side in sides]
    if len(read) == 1:
        return read[0]
    if type(read[0]) is not type(read[1]) or len(read[0].w_x) != len(read[1].w_x):
        shapes = " and ".join(str(arrays[side + "kernel"].shape) for side in sides)
        raise WeightsError(
            f"{place}: kernels of shape {shapes} are not of the two directions of a "
            "layer; give the weights of two layers apart"
        )
    return Directions(*read)


def _join(arrays: Mapping[str, np.ndarray], place: str, side: str) -> LayerParams:
    """Returns the parameters of one layer and direction."""
    kernel, recurrent, bias = (arrays.get(side + kind) for kind in KINDS)
    assert kernel is not None and recurrent is not None
    size, columns = (*recurrent.shape, 0, 0)[:2]
    gates = columns // size if size else 0
    if recurrent.shape != (size, gates * size) or gates not in LAYERS:
        raise WeightsError(
            f"{place}: {side}recurrent_kernel: shape {recurrent.shape} is not [H, 4H] "
            "of an LSTM, [H, 3H] of a GRU or [H, H] of a SimpleRNN"
        )
    if gates == 3 and bias is not None and bias.shape == (columns,):
        raise WeightsError(
            f"{place}: {side}bias: shape {bias.shape} is [3H] of a GRU with "
            "reset_after=False, whose reset gate acts before the product; the GRU here "
            "is that of reset_after=True, with a bias [2, 3H]"
        )
    wide = f"{'' if gates == 1 else gates}H"
    rows = (2,) if gates == 3 else ()
    wanted = {
        "kernel": (f"[X, {wide}]", (*kernel.shape[:1], columns)),
        "bias": (f"[{'2, ' if rows else ''}{wide}]", (*rows, columns)),
    }
    there = [kind for kind in wanted if side + kind in arrays]
    check_shapes(
        {side + kind: arrays[side + kind] for kind in there},
        {side + kind: wanted[kind] for kind in there},
        f"{place}: ",
        f"the {LAYERS[gates]} with H = {size}",
    )
    w_x, w_h = as_leaf(kernel), as_leaf(recurrent)
    if gates == 4:
        return LSTMParams(w_x, w_h, None if bias is None else as_leaf(bias))
    if bias is None:
        bias = np.zeros((*rows, columns), recurrent.dtype)
    if gates == 1:
        return RNNParams(w_x, w_h, as_leaf(bias))
    # The candidate's recurrent bias is multiplied by the reset gate.
    b, b_h = bias[0] + bias[1], bias[1, 2 * size :]
    b[2 * size :] = bias[0, 2 * size :]
    return GRUParams(*map(as_leaf, (*map(_swap_gates, (kernel, recurrent, b)), b_h)))


def _swap_gates(array: np.ndarray) -> np.ndarray:
    """Exchanges reset and update gates, the first two of three blocks of columns."""
    first, second, candidate = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, candidate], axis=-1)


def _take_apart(params: Any, layer: int) -> list[np.ndarray]:
    """Returns the arrays of one layer and direction, as Keras keeps them."""
    kind = type(params)
    if kind is GRUParams:
        w_x, w_h, b = (_swap_gates(np.asarray(array)) for array in params[:3])
        recurrent = np.zeros_like(b)
        recurrent[-len(params.b_h) :] = np.asarray(params.b_h)
        return [w_x, w_h, np.stack([b, recurrent])]
    there = {name: a for name, a in params._asdict().items() if a is not None}
    if kind is LSTMVariantParams:
        columns = np.shape(params.w_h)[1:]
        if columns != (4 * len(params.w_h),) or not there.keys() <= PLAIN:
            raise TypeError(
                f"params: layer {layer} has {', '.join(there)} of an LSTM of another "
                "form; Keras's has w_x [X, 4H], w_h [H, 4H] and b alone"
            )
    elif kind not in (LSTMParams, RNNParams):
        raise TypeError(
            f"params: layer {layer} is {kind.__name__}; Keras has layers for "
            "LSTMParams, LSTMVariantParams, GRUParams and RNNParams"
        )
    return [np.asarray(array) for array in there.values()]
