"""The nodes of a stack of recurrent layers in an ONNX model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.cells.gru import GRUParams
from jaxlstm.cells.lstm import LSTMParams
from jaxlstm.cells.rnn import RNNParams
from jaxlstm.cells.variants import LSTMVariantParams
from jaxlstm.interop.onnx.build import Builder
from jaxlstm.interop.onnx.operators import to_onnx
from jaxlstm.interop.onnx.states import Layout, state_to_onnx
from jaxlstm.interop.stacks import directions_of
from jaxlstm.interop.weights import WeightsError
from jaxlstm.layers import Connections, Directions
from jaxlstm.types import Array

OPERATORS = {"gru": "GRU", "rnn": "RNN"}
KINDS = {"gru": (GRUParams,), "rnn": (RNNParams,)}


class Sizes(NamedTuple):
    """Sizes of a stack, in which all layers are alike.

    Attributes:
      layers: L.
      directions: D.
      hidden_size: H.
    """

    layers: int
    directions: int
    hidden_size: int

    def width(self, connections: Connections) -> int:
        """Returns the size of the output of the stack."""
        size = self.directions * self.hidden_size
        return size * self.layers if connections == "skip" else size


class Plan(NamedTuple):
    """How recurrent layers become nodes.

    Attributes:
      cell: name of all layers' cell.
      attributes: of the operator.
      layout: of the operator.
      reverse: whether a layer of one direction reads from the last step.
      connections: as in `make_model`.
      lengths: whether the model takes sequence_lens.
      initial_state: whether it takes the state to start from.
      last: whether the output of the stack is that of the last states alone.
    """

    cell: str
    attributes: Mapping[str, Any]
    layout: Layout
    reverse: bool
    connections: Connections
    lengths: bool
    initial_state: bool
    last: bool = False

    @property
    def operator(self) -> str:
        """ONNX's name of the operator."""
        return OPERATORS.get(self.cell, "LSTM")

    @property
    def letters(self) -> tuple[str, ...]:
        """What a state has."""
        return ("h",) if self.cell in OPERATORS else ("h", "c")

    def order(self, major: Any, batch: Any, *rest: Any) -> list[Any]:
        """Returns axes in the order of the layout, batch second or first."""
        return [batch, major, *rest] if self.layout else [major, batch, *rest]


def add_layers(
    builder: Builder, plan: Plan, layers: Sequence[Any], x: str, start: Any
) -> tuple[str, Sizes]:
    """Adds recurrent layers; returns the name of their output, and their sizes.

    Args:
      builder: of the model.
      plan: how.
      layers: the parameters of each, one direction or `Directions`.
      x: name of the inputs, [T, B, X] or, with layout 1, [B, T, X].
      start: the state that all sequences start from, leaves [H], or None for zero.

    Raises:
      TypeError: the parameters are not those of the cell.
      WeightsError: parameters have no place in the operator, or the layers are not
        alike.
    """
    tensors = [_take_apart(layer, n, plan) for n, layer in enumerate(layers)]
    kinds = {(len(part["R"]), part["R"].shape[2]) for part in tensors}
    if len(kinds) > 1:
        said = " and ".join(f"{count} x {size}" for count, size in sorted(kinds))
        raise WeightsError(
            f"params: layers have {said} directions x units; their states are one "
            "array in a file, which needs as many in each"
        )
    sizes = Sizes(len(layers), *kinds.pop())
    lengths = builder.take("sequence_lens", ["B"], np.int32) if plan.lengths else ""
    starts = _add_starts(builder, plan, sizes, x, start)
    outputs: list[str] = []
    for n, (layer, part) in enumerate(zip(layers, tensors, strict=True)):
        name, feed = f"layers.{n}", _join_below(builder, plan, x, outputs)
        given = {key: builder.constant(f"{name}.{key}", w) for key, w in part.items()}
        inputs = [feed, given["W"], given["R"], given.get("B", ""), lengths]
        inputs += starts[n]
        if "P" in given:
            inputs += [*["", ""][len(starts[n]) :], given["P"]]
        both, backward = isinstance(layer, Directions), plan.reverse
        builder.add(
            plan.operator,
            name,
            inputs,
            [f"{name}.{end}" for end in ("Y", *(f"Y_{key}" for key in plan.letters))],
            hidden_size=sizes.hidden_size,
            layout=plan.layout,
            direction="bidirectional" if both else "reverse" if backward else "forward",
            **plan.attributes,
        )
        outputs.append(_flatten(builder, plan, sizes, name))
    if plan.last:
        outputs = [_flatten_last(builder, plan, sizes, n) for n in range(len(layers))]
    if plan.connections == "none" or len(outputs) == 1:
        return outputs[-1], sizes
    return _join(builder, "layers.all", outputs, plan.connections), sizes


def give_states(builder: Builder, plan: Plan, sizes: Sizes) -> None:
    """Makes the last states of all layers the outputs Y_h and Y_c of the model."""
    count = sizes.layers * sizes.directions
    for letter in plan.letters:
        name = f"Y_{letter}"
        parts = [f"layers.{n}.{name}" for n in range(sizes.layers)]
        builder.add("Concat", name, parts, axis=plan.layout)
        builder.give(name, plan.order(count, "B", sizes.hidden_size))


def _take_apart(layer: Any, number: int, plan: Plan) -> dict[str, np.ndarray]:
    kinds = KINDS.get(plan.cell, (LSTMParams, LSTMVariantParams))
    for one in directions_of(layer):
        if not isinstance(one, kinds):
            raise TypeError(
                f"params: layer {number} is {type(one).__name__}; the cell "
                f"{plan.cell!r} has {' or '.join(kind.__name__ for kind in kinds)}"
            )
    coupled = bool(plan.attributes.get("input_forget"))
    try:
        return to_onnx(layer, input_forget=coupled)
    except WeightsError as error:
        lines = (f"params: layer {number}: {line}" for line in error.lines)
        raise WeightsError(*lines) from None


def _add_starts(
    builder: Builder, plan: Plan, sizes: Sizes, x: str, start: Any
) -> list[list[str]]:
    """Returns the names of the state that each layer starts from, none for zero."""
    names: list[list[str]] = [[] for _ in range(sizes.layers)]
    if plan.initial_state:
        for letter in plan.letters:
            parts = _take_state(builder, plan, sizes, f"initial_{letter}")
            for name, part in zip(names, parts, strict=True):
                name.append(part)
    elif start is not None:
        batch = builder.numbers("batch.axis", 1 - plan.layout)
        after = builder.numbers("batch.end", 2 - plan.layout)
        one = builder.numbers("one", 1)
        shape = builder.add("Shape", "inputs.shape", [x])
        shape = builder.add("Slice", "batch", [shape, batch, after])
        order = plan.order(one, shape, one)
        shape = builder.add("Concat", "state.shape", order, axis=0)
        for n, state in enumerate(start):
            for letter, value in zip(plan.letters, _parts(state, plan), strict=True):
                name = f"layers.{n}.initial_{letter}"
                value = builder.constant(f"{name}.value", value)
                names[n].append(builder.add("Expand", name, [value, shape]))
    return names


def _take_state(builder: Builder, plan: Plan, sizes: Sizes, name: str) -> list[str]:
    """Makes a part of all states an input; returns the names of each layer's."""
    count, _, size = sizes.layers * sizes.directions, "B", sizes.hidden_size
    whole = builder.take(name, plan.order(count, "B", size))
    if sizes.layers == 1:
        return [whole]
    ends = [f"layers.{n}.{name}" for n in range(sizes.layers)]
    split = builder.numbers(f"{name}.split", *[sizes.directions] * sizes.layers)
    builder.add("Split", f"{name}.parts", [whole, split], ends, axis=plan.layout)
    return ends


def _parts(state: Any, plan: Plan) -> tuple[Array, ...]:
    """Returns the state of a layer, leaves [H], as [D, 1, H] each."""
    found = state_to_onnx(
        jax.tree.map(lambda leaf: leaf[None], state), layout=plan.layout
    )
    return found if isinstance(found, tuple) else (found,)


def _flatten(builder: Builder, plan: Plan, sizes: Sizes, name: str) -> str:
    """Returns the name of the output of a layer, its directions side by side."""
    y, axis = f"{name}.Y", 2 if plan.layout else 1
    if sizes.directions == 1:
        axes = builder.numbers(f"{name}.axis", axis)
        return builder.add("Squeeze", f"{name}.output", [y, axes])
    if not plan.layout:
        y = builder.add("Transpose", f"{name}.beside", [y], perm=[0, 2, 1, 3])
    shape = builder.numbers(f"{name}.shape", 0, 0, 2 * sizes.hidden_size)
    return builder.add("Reshape", f"{name}.output", [y, shape])


def _flatten_last(builder: Builder, plan: Plan, sizes: Sizes, number: int) -> str:
    """Returns the name of the last output of a layer [B, D H]."""
    name, h = f"layers.{number}.last", f"layers.{number}.Y_h"
    if not plan.layout:
        h = builder.add("Transpose", f"{name}.beside", [h], perm=[1, 0, 2])
    size = sizes.directions * sizes.hidden_size
    return builder.add("Reshape", name, [h, builder.numbers(f"{name}.shape", 0, size)])


def _join_below(builder: Builder, plan: Plan, x: str, outputs: Sequence[str]) -> str:
    """Returns the name of what feeds the layer above some outputs."""
    if not outputs:
        return x
    below, name = outputs[-1], f"layers.{len(outputs)}.feed"
    if plan.connections == "skip":
        return _join(builder, name, [x, below], "skip")
    if plan.connections == "residual" and len(outputs) > 1:
        return _join(builder, name, outputs, "residual")
    return below


def _join(
    builder: Builder, name: str, parts: Sequence[str], connections: Connections
) -> str:
    if connections == "skip":
        return builder.add("Concat", name, parts, axis=-1)
    return builder.add("Sum", name, parts)
