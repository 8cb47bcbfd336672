"""Stacks of recurrent layers, and whole models, as ONNX files."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxlstm.interop.files import FilePath, write_file
from jaxlstm.interop.onnx.build import Builder
from jaxlstm.interop.onnx.layer import attributes_of
from jaxlstm.interop.onnx.stack import Plan, add_layers, give_states
from jaxlstm.interop.onnx.states import Layout
from jaxlstm.interop.stacks import layers_of
from jaxlstm.interop.weights import WeightsError
from jaxlstm.layers import Connections
from jaxlstm.model import InputKind, ModelParams
from jaxlstm.shapes import check_choice


def save_onnx(
    path: FilePath,
    params: Any,
    *,
    cell: str = "lstm",
    options: Mapping[str, Any] | None = None,
    layout: Layout = 0,
    reverse: bool = False,
    connections: Connections = "none",
    lengths: bool = False,
    initial_state: bool = False,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes recurrent layers as an ONNX model, which appears whole or not at all.

    Its input is X [T, B, X], its outputs are those of the stack: Y [T, B, D H], zero
    past the lengths, and the last states Y_h and, of an LSTM, Y_c [L D, B, H], layers
    and directions as `state_to_onnx` joins them. With layout 1 it is X [B, T, X],
    Y [B, T, D H] and Y_h [B, L D, H]; onnxruntime runs layout 0 alone on a CPU, and
    float32 alone.

    Args:
      path: of the file; one that is there is replaced.
      params: of each layer, `Directions` where it reads in both; or of one layer.
      cell: name in `CELLS` of the cell of all layers; they must be those of
        `LSTMParams`, `LSTMVariantParams`, `GRUParams` or `RNNParams` that an operator
        can hold.
      options: of the cell.
      layout: of the operators.
      reverse: whether a single direction reads from the last step to the first.
      connections: what feeds each layer, as in `lstm_stack`.
      lengths: whether the model takes `sequence_lens` [B], int32.
      initial_state: whether it takes `initial_h` and, of an LSTM, `initial_c`, shaped
        as the last states are; else it starts from zero.
      opset: the version of the operators, from 14 on; bfloat16 needs 22.
      metadata: text by name, kept in the file.

    Raises:
      ModuleNotFoundError: the package onnx is not installed.
      OptionError: ONNX has no operator for the cell, or an option is unknown.
      OSError: the file cannot be written; then it is as it was.
      TypeError: the parameters are not those of such a cell.
      WeightsError: they have parts that the operator has no place for, or layers are
        not alike.
    """
    layers = layers_of(params)
    plan = _plan(cell, options, layout, reverse, connections, lengths, initial_state)
    builder = Builder(_dtype(layers), opset)
    input_size = jax.tree.leaves(layers[0])[0].shape[0]
    x = builder.take("X", plan.order("T", "B", input_size))
    top, sizes = add_layers(builder, plan, layers, x, None)
    builder.add("Identity", "Y", [top])
    builder.give("Y", plan.order("T", "B", sizes.width(connections)))
    give_states(builder, plan, sizes)
    write_file(path, builder.serialize(metadata or {}))


def model_to_onnx(
    path: FilePath,
    params: ModelParams,
    *,
    cell: str = "lstm",
    options: Mapping[str, Any] | None = None,
    inputs: InputKind = "float",
    connections: Connections = "none",
    lengths: bool = False,
    initial_state: bool = False,
    last: bool = False,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a whole model of `make_model` as an ONNX model.

    Its input X is [T, B] of int64, or [T, B, X] where inputs are "float"; its outputs
    are the prediction Y [T, B, Y] and the last states Y_h and Y_c, as of `save_onnx`.
    There is no dropout in it.

    Args:
      path: of the file; one that is there is replaced.
      params: of the model.
      cell: name in `CELLS` of its cell.
      options: of the cell.
      inputs: as in `make_model`, and so are `connections`.
      connections: "none", "residual" or "skip".
      lengths: whether the model takes `sequence_lens` [B], int32; past the lengths the
        layers give zero, and Y is what the readout makes of it.
      initial_state: whether it takes `initial_h` and `initial_c`; else it starts from
        the learned initial state, or from zero where there is none.
      last: whether the prediction is [B, Y], by the last states, in place of one at
        each step: of a sequence as a whole.
      opset: the version of the operators, from 14 on; bfloat16 needs 22.
      metadata: text by name, kept in the file.

    Raises:
      ModuleNotFoundError: the package onnx is not installed.
      OptionError: ONNX has no operator for the cell, or an option is unknown, or does
        not go with the parameters.
      OSError: the file cannot be written; then it is as it was.
      TypeError: the parameters are not those of such a cell.
      WeightsError: they have parts that the operator has no place for, or layers are
        not alike.
    """
    (table, layers, start), (w, b) = params
    check_choice("inputs", inputs, InputKind)
    takes = lengths, initial_state, last
    plan = _plan(cell, options, 0, False, connections, *takes)
    if (table is not None) != (inputs == "embedding"):
        there = "none" if table is None else "one"
        raise WeightsError(f'params: there is {there} embedding, and inputs="{inputs}"')
    builder = Builder(_dtype(layers), opset)
    x = _add_inputs(builder, inputs, table, layers)
    top, sizes = add_layers(builder, plan, layers, x, start)
    size = sizes.width(connections)
    if b is None:
        builder.add("Identity", "Y", [top])
    else:
        size = b.shape[0]
        if w is None:
            w = builder.add("Transpose", "readout.w", ["embedding.table"], perm=[1, 0])
        else:
            w = builder.constant("readout.w", w)
        product = builder.add("MatMul", "readout", [top, w])
        builder.add("Add", "Y", [product, builder.constant("readout.b", b)])
    builder.give("Y", ["B", size] if last else ["T", "B", size])
    give_states(builder, plan, sizes)
    write_file(path, builder.serialize(metadata or {}))


def _plan(
    cell: str,
    options: Any,
    layout: Layout,
    reverse: bool,
    connections: Any,
    *takes: bool,
) -> Plan:
    check_choice("layout", layout, Layout)
    check_choice("connections", connections, Connections)
    attributes = attributes_of(cell, options)
    return Plan(cell, attributes, layout, reverse, connections, *takes)


def _add_inputs(builder: Builder, inputs: InputKind, table: Any, layers: Any) -> str:
    """Adds the input of a model; returns the name of what feeds the first layer."""
    size = jax.tree.leaves(layers[0])[0].shape[0]
    if inputs == "float":
        return builder.take("X", ["T", "B", size])
    symbols = builder.take("X", ["T", "B"], np.int64)
    if inputs == "embedding":
        table = builder.constant("embedding.table", table)
        return builder.add("Gather", "embedding", [table, symbols])
    depth = builder.constant("one_hot.depth", size, np.int64)
    values = builder.constant("one_hot.values", [0, 1])
    return builder.add("OneHot", "one_hot", [symbols, depth, values])


def _dtype(layers: Any) -> np.dtype:
    """Returns the dtype of all parameters."""
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(layers)}
    if len(dtypes) > 1:
        raise WeightsError(
            f"params: are of {' and '.join(sorted(d.name for d in dtypes))}; an "
            "operator needs one dtype"
        )
    return np.dtype(dtypes.pop())
