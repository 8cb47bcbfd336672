"""Layers of Keras that run without it, batch-first, and a chain of them."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxlstm.cells import Cell
from jaxlstm.cells.activations import Activation, find_activation
from jaxlstm.layers import Directions
from jaxlstm.model import ReadoutParams
from jaxlstm.select import keep
from jaxlstm.sequence import unroll
from jaxlstm.types import Array

MergeMode = Literal["concat", "sum", "mul", "ave"]


class KerasRecurrent(NamedTuple):
    """An LSTM, GRU or SimpleRNN, or a Bidirectional of one.

    Attributes:
      name: of the layer.
      kind: "LSTM", "GRU" or "SimpleRNN".
      cell: that makes its steps, with the activations of the layer.
      params: of the cell; `Directions` of two of a Bidirectional.
      merge_mode: how outputs of two directions are joined: "concat", "sum", "mul",
        "ave", or None for a pair of them.
      return_sequences: whether the outputs of all steps are given, or the last one.
      go_backwards: whether it reads from the last step to the first, and gives outputs
        in the order in which it reads.
      zero_output_for_mask: whether outputs on masked steps are zeros, and not the
        output before them.
      stateful: whether Keras starts a batch from the last state of the one before; here
        that is for the caller to do.
      dropout: rate of the inputs in training.
      recurrent_dropout: rate of the hidden state in training.
    """

    name: str
    kind: str
    cell: Cell
    params: Any
    merge_mode: MergeMode | None = None
    return_sequences: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    stateful: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0


class KerasEmbedding(NamedTuple):
    """An Embedding.

    Attributes:
      name: of the layer.
      table: [X, E], a row for each of X symbols.
      mask_zero: whether symbol 0 is padding, which is masked for the layers above.
    """

    name: str
    table: Array
    mask_zero: bool = False


class KerasMasking(NamedTuple):
    """A Masking layer: steps at which all inputs have one value are masked.

    Attributes:
      name: of the layer.
      mask_value: the value.
    """

    name: str
    mask_value: float


class KerasDense(NamedTuple):
    """A Dense layer, in TimeDistributed or not; or an Activation, without weights.

    Attributes:
      name: of the layer.
      params: w [H, Y] and b [Y]; None of an Activation.
      activation: a name of `jaxlstm.cells.activations.ACTIVATIONS`, or a function.
    """

    name: str
    params: ReadoutParams | None
    activation: Activation


class KerasIdle(NamedTuple):
    """A layer that only acts in training, or never.

    Attributes:
      name: of the layer.
      kind: the name of its class in Keras, such as "Dropout".
    """

    name: str
    kind: str


KerasLayer = KerasRecurrent | KerasEmbedding | KerasMasking | KerasDense | KerasIdle


class KerasModel(NamedTuple):
    """The layers of a Sequential or Functional model.

    Attributes:
      layers: from the input up, in the order of the config.
      branches: why they are no chain, in which each is fed by the one before it; None
        of a chain, which `apply_keras` runs.
      version: the major one of the Keras that wrote them.
    """

    layers: tuple[KerasLayer, ...]
    branches: str | None
    version: int

    @property
    def recurrent(self) -> tuple[KerasRecurrent, ...]:
        """The recurrent layers, from the input up."""
        return tuple(one for one in self.layers if isinstance(one, KerasRecurrent))


def apply_keras(model: KerasModel | KerasLayer, inputs: Any, mask: Any = None) -> Any:
    """Returns what Keras returns of these inputs, outside of training.

    Under `jax.jit` the model is closed over: it holds names and cells beside arrays.

    Args:
      model: as `load_keras` returns it, or one of its layers.
      inputs: [B, T, X], or symbols [B, T] where an Embedding comes first.
      mask: [B, T], 0 where a step is not there. An Embedding with mask_zero and a
        Masking layer put their own in its place.

    Returns:
      The outputs of the last layer: [B, T, ...], or [B, ...] where the last recurrent
      layer gives none but the last one; a pair of them where it is a Bidirectional of
      merge_mode None. `run_keras` gives the last states too.

    Raises:
      ValueError: shapes do not fit together, or the model is no chain.
    """
    return run_keras(model, inputs, mask)[1]


def run_keras(
    model: KerasModel | KerasLayer,
    inputs: Any,
    mask: Any = None,
    state: Any = None,
) -> tuple[tuple[Any, ...], Any]:
    """Returns the last states and the outputs of these inputs, outside of training.

    Args:
      model: as in `apply_keras`, and so are the next two.
      inputs: [B, T, X] or [B, T].
      mask: [B, T] or None.
      state: of each recurrent layer before its first step, as `state_from_keras`
        returns it, leaves [B, H]; zeros by default.

    Returns:
      The last state of each recurrent layer; and the outputs, as of `apply_keras`.

    Raises:
      ValueError: shapes do not fit together, or the model is no chain.
    """
    if isinstance(model, KerasModel) and model.branches is not None:
        raise ValueError(
            f"model: is no chain of layers: {model.branches}; give its layers to "
            "run_keras one by one"
        )
    layers = model.layers if isinstance(model, KerasModel) else (model,)
    count = sum(isinstance(layer, KerasRecurrent) for layer in layers)
    starts = (None,) * count if state is None else tuple(state)
    if len(starts) != count:
        raise ValueError(f"state: {len(starts)} are not those of {count} layers")
    x, lasts = jnp.asarray(inputs), []
    mask = None if mask is None else jnp.asarray(mask) != 0
    for layer in layers:
        if isinstance(x, tuple):
            raise ValueError(
                f"model: {layer.name!r} is fed the pair of a Bidirectional of "
                "merge_mode None; give the layers to run_keras one by one"
            )
        match layer:
            case KerasRecurrent():
                last, x = _run_recurrent(layer, x, mask, starts[len(lasts)])
                lasts.append(last)
                mask = mask if layer.return_sequences else None
            case KerasEmbedding(table=table):
                mask = x != 0 if layer.mask_zero else mask
                x = table[x.astype(int)]
            case KerasMasking(mask_value=value):
                mask = (x != value).any(-1)
                x = keep(mask, x, jnp.zeros_like(x))
            case KerasDense():
                x = _run_dense(layer, x)
            case KerasIdle():
                pass
    return tuple(lasts), x


def _run_dense(layer: KerasDense, x: Array) -> Array:
    if layer.params is not None:
        w, b = layer.params
        x = x @ jnp.asarray(w)
        x = x + jnp.broadcast_to(jnp.asarray(b), x.shape)
    return find_activation("activation", layer.activation)(x)


def _run_recurrent(
    layer: KerasRecurrent, x: Array, mask: Array | None, state: Any
) -> tuple[Any, Any]:
    """Returns the last state and the outputs, both as Keras orders them."""
    steps = jnp.swapaxes(x, 0, 1)
    mask = None if mask is None else mask.swapaxes(0, 1)

    def run(params: Any, state: Any, backwards: bool) -> tuple[Any, Array]:
        last, states = unroll(
            layer.cell, params, steps, state, mask=mask, reverse=backwards
        )
        outputs = layer.cell.output(states)
        if layer.zero_output_for_mask:
            outputs = keep(mask, outputs, jnp.zeros_like(outputs))
        if not layer.return_sequences:
            return last, outputs[0 if backwards else -1]
        return last, outputs.swapaxes(0, 1)

    if not isinstance(layer.params, Directions):
        last, y = run(layer.params, state, layer.go_backwards)
        # Keras gives outputs in the order in which they are made.
        turn = layer.go_backwards and layer.return_sequences
        return last, y[:, ::-1] if turn else y
    starts = Directions(None, None) if state is None else state
    forward, y = run(layer.params.forward, starts.forward, False)
    backward, y_back = run(layer.params.backward, starts.backward, True)
    merge = {
        "concat": lambda: jnp.concatenate([y, y_back], axis=-1),
        "sum": lambda: y + y_back,
        "mul": lambda: y * y_back,
        "ave": lambda: (y + y_back) / 2,
        None: lambda: (y, y_back),
    }
    return Directions(forward, backward), merge[layer.merge_mode]()
