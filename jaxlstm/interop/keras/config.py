"""Keras's configs of layers, read as cells and parameters that run without Keras."""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np

from jaxlstm.cells import Cell, LSTMParams, make_gru, make_lstm, make_rnn
from jaxlstm.cells.activations import Activation
from jaxlstm.cells.variants import LSTMVariantParams, make_lstm_variant
from jaxlstm.interop.keras.activations import DENSE_NAMES, activation_of_keras
from jaxlstm.interop.keras.arrays import read_layer
from jaxlstm.interop.keras.parts import read_dense, read_embedding
from jaxlstm.interop.keras.running import (
    KerasDense,
    KerasEmbedding,
    KerasIdle,
    KerasLayer,
    KerasMasking,
    KerasRecurrent,
    MergeMode,
)
from jaxlstm.interop.weights import WeightsError, show
from jaxlstm.layers import Directions

# Returns the arrays of a layer: given its parts as a file calls them, and how many
# arrays each is to have.
ReadArrays = Callable[[Sequence[str], int], list[np.ndarray]]

RECURRENT = "LSTM", "GRU", "SimpleRNN"
# What layers compute in if all is of one dtype; of a policy it is the name.
DTYPES = "float32", "float64"
# They change nothing outside of training.
IDLE = (
    "InputLayer",
    "Dropout",
    "SpatialDropout1D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
)


class Options:
    """The options of a layer in a config, each of which is checked when it is read.

    Attributes:
      kind: the name of the layer's class.
      name: of the layer.
      place: how messages call it.
      version: the major one of Keras.
    """

    def __init__(self, layer: Any, version: int):
        config = layer.get("config") if isinstance(layer, dict) else None
        kind = layer.get("class_name") if isinstance(layer, dict) else None
        if not isinstance(config, dict) or not isinstance(kind, str):
            raise WeightsError("config: a layer has no class_name and config")
        self.kind, self.version, self._config = kind, version, config
        self.name = str(config.get("name", layer.get("name", "")))
        self.place = f"layer {show(repr(self.name))}"
        module = layer.get("module")
        if not (module is None or str(module).split(".")[0] in ("keras", "tf_keras")):
            raise self.refuse(f"{show(f'{module}.{kind}')} is a class of its own")

    def refuse(self, why: str) -> WeightsError:
        """Returns an error about this layer."""
        return WeightsError(f"{self.place}: {why}")

    def take(self, name: str, kind: type, default: Any) -> Any:
        """Returns an option of a type; the default is Keras's own."""
        value = self._config.get(name, default)
        if value is None:
            return default
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        if type(value) is not kind:
            raise self.refuse(f"{name}: {show(repr(value))} is no {kind.__name__}")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an option as it stands."""
        return self._config.get(name, default)

    def inner(self, name: str) -> "Options":
        """Returns the options of a layer that this one wraps."""
        return Options(self._config.get(name), self.version).check_dtype()

    def check_dtype(self) -> "Options":
        """Returns these options, of a layer that computes in the dtype of its weights.

        Raises:
          WeightsError: it computes in lower or mixed precision.
        """
        policy = self._config.get("dtype")
        inner = policy.get("config") if isinstance(policy, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else policy
        if self.kind != "InputLayer" and name is not None and name not in DTYPES:
            raise self.refuse(
                f"dtype: is {show(repr(name))}; layers here compute in "
                f"{' or '.join(DTYPES)}, that of their weights; give from_keras the "
                "get_weights() of the layer"
            )
        return self


def read_keras_layer(layer: Options, arrays: ReadArrays) -> KerasLayer:
    """Returns what a layer of a config is, with its weights.

    Raises:
      WeightsError: it is of a kind or has an option that has no counterpart here, or
        its weights are not those that the config speaks of.
    """
    kind = layer.check_dtype().kind
    if kind in IDLE:
        return KerasIdle(layer.name, kind)
    if kind == "Activation":
        return KerasDense(layer.name, None, _read_activation(layer))
    if kind == "Masking":
        return KerasMasking(layer.name, layer.take("mask_value", float, 0.0))
    if kind == "Embedding":
        table = read_embedding(arrays(["vars"], 1), layer.place)
        return KerasEmbedding(layer.name, table, layer.take("mask_zero", bool, False))
    if kind == "Dense":
        return _read_dense(layer, layer.name, lambda n: arrays(["vars"], n))
    if kind == "TimeDistributed":
        inner = layer.inner("layer")
        if inner.kind == "Dense":
            return _read_dense(inner, layer.name, lambda n: arrays(["layer/vars"], n))
    if kind == "Bidirectional":
        return _read_both(layer, arrays)
    if kind in RECURRENT:
        return _read_recurrent(layer, arrays(["cell/vars"], 3 - _lacks_bias(layer)))
    raise layer.refuse(
        f"{show(kind)} is none of {', '.join(RECURRENT)}, Bidirectional, Embedding, "
        f"Masking, Dense, TimeDistributed(Dense), Activation, {', '.join(IDLE)}"
    )


def _read_dense(
    layer: Options, name: str, arrays: Callable[[int], list[np.ndarray]]
) -> KerasDense:
    params = read_dense(arrays(2 - _lacks_bias(layer)), layer.place)
    return KerasDense(name, params, _read_activation(layer))


def _read_activation(layer: Options) -> Activation:
    place = f"{layer.place}: activation"
    return activation_of_keras(
        layer.get("activation"), layer.version, place, DENSE_NAMES
    )


def _lacks_bias(layer: Options) -> bool:
    return not layer.take("use_bias", bool, True)


def _read_recurrent(layer: Options, arrays: list[np.ndarray]) -> KerasRecurrent:
    """Returns a layer from its options and arrays, those of two directions included."""
    if layer.take("time_major", bool, False):
        raise layer.refuse("time_major: is True, and the layers here are batch-first")
    if layer.kind == "GRU" and not layer.take("reset_after", bool, layer.version >= 2):
        raise layer.refuse(
            "reset_after: is False; the reset gate of the GRU here acts after the "
            "product, as with reset_after=True"
        )
    params = read_layer(arrays, layer.place)
    columns = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[layer.kind]
    units = layer.take("units", int, 0)
    w_h = params.forward.w_h if isinstance(params, Directions) else params.w_h
    if w_h.shape != (units, columns * units):
        raise layer.refuse(
            f"recurrent_kernel: shape {w_h.shape} is not that of units = {units} of "
            f"the {layer.kind}"
        )
    cell, params = _choose_cell(layer, params)
    return KerasRecurrent(
        layer.name,
        layer.kind,
        cell,
        params,
        return_sequences=layer.take("return_sequences", bool, False),
        go_backwards=layer.take("go_backwards", bool, False),
        zero_output_for_mask=layer.take("zero_output_for_mask", bool, False),
        stateful=layer.take("stateful", bool, False),
        dropout=layer.take("dropout", float, 0.0),
        recurrent_dropout=layer.take("recurrent_dropout", float, 0.0),
    )


def _choose_cell(layer: Options, params: Any) -> tuple[Cell, Any]:
    """Returns the cell of a layer's activations, and its parameters."""
    outer = activation_of_keras(
        layer.get("activation", "tanh"), layer.version, f"{layer.place}: activation"
    )
    gate = activation_of_keras(
        # It was hard in Keras 1 and 2 themselves, whose configs always name it.
        layer.get("recurrent_activation", "sigmoid"),
        layer.version,
        f"{layer.place}: recurrent_activation",
    )
    plain = (outer, gate) == ("tanh", "sigmoid")
    if layer.kind == "SimpleRNN" and outer == "tanh":
        return make_rnn(), params
    if layer.kind == "GRU" and plain:
        return make_gru(), params
    if layer.kind == "LSTM":
        if plain:
            return make_lstm(), params
        cell = make_lstm_variant(
            gate_activation=gate, candidate_activation=outer, output_activation=outer
        )
        return cell, _as_variant(params)
    names = " and ".join(
        f"{name}={layer.get(name)!r}"
        for name in ("activation", "recurrent_activation")
        if layer.get(name) is not None
    )
    raise layer.refuse(
        f"the {layer.kind} here has no {show(names)}, but tanh and sigmoid alone"
    )


def _as_variant(params: LSTMParams | Directions) -> Any:
    if isinstance(params, Directions):
        return Directions(*map(_as_variant, params))
    return LSTMVariantParams(params.w_x, params.w_h, params.b)


def _read_both(layer: Options, arrays: ReadArrays) -> KerasRecurrent:
    """Returns a Bidirectional layer."""
    forward = layer.inner("layer")
    backward = layer.inner("backward_layer") if layer.get("backward_layer") else forward
    if forward.kind not in RECURRENT:
        raise layer.refuse(f"layer: {show(forward.kind)} is none of {RECURRENT}")
    for name in "activation", "recurrent_activation", "units", "use_bias":
        if forward.kind != backward.kind or forward.get(name) != backward.get(name):
            raise layer.refuse(
                f"backward_layer: differs from the forward one in {name}, or in kind; "
                "here both directions have one cell"
            )
    turned = backward is forward or backward.take("go_backwards", bool, False)
    if forward.take("go_backwards", bool, False) or not turned:
        raise layer.refuse("go_backwards: is not that of the backward layer alone")
    merge_mode = layer.get("merge_mode", "concat")
    if merge_mode is not None and merge_mode not in get_args(MergeMode):
        raise layer.refuse(f"merge_mode: {show(repr(merge_mode))} is unknown")
    paths = [f"{side}_layer/cell/vars" for side in ("forward", "backward")]
    read = _read_recurrent(forward, arrays(paths, 3 - _lacks_bias(forward)))
    return read._replace(
        name=layer.name,
        merge_mode=merge_mode,
        zero_output_for_mask=read.return_sequences,
    )
