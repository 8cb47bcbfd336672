"""The parameters of a model in blocks: by layer and gate, embedding and readout."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.cells.base import Cell, Gated, GatedWeights, dense_weights, num_columns
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from jaxlstm.types import PyTree


@functools.lru_cache(maxsize=64)
def parameter_blocks(model: Model) -> dict[str, PyTree]:
    """Tells which entries of the parameters belong to which block.

    Each entry is in one block. "layer 1: forget" are the entries by which the first
    layer's parameters make the columns of z of that gate, in input weights, recurrent
    weights and bias; "layer 1: small" what its `update` alone reads; "layer 1: other"
    what makes several of these, or none. A layer without a gated form is one block.

    Args:
      model: has `layers`.

    Returns:
      By name, booleans of the parameters' structure: embedding, layers from the input
      up, initial state, readout; those of them that there are.

    Raises:
      OptionError: the model has no `layers`, or gates do not divide z evenly.
    """
    if model.layers is None:
        raise OptionError(
            "model: does not say how its step is made (its `layers` are None), and so "
            "not what its parameters do; use one of `make_model`"
        )
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), shapes)
    recurrent = shapes.recurrent
    blocks: dict[str, PyTree] = {}

    def add(name: str, field: str, masks: PyTree) -> None:
        if not any(np.any(leaf) for leaf in jax.tree.leaves(masks)):
            return
        part = nothing.recurrent._replace(**{field: masks})
        blocks[name] = nothing._replace(recurrent=part)

    add("embedding", "embedding", _all(recurrent.embedding))
    with jax.ensure_compile_time_eval():
        for n, layer in enumerate(recurrent.layers):
            for gate, masks in _cell_blocks(model.layers.cell, layer).items():
                layers = list(nothing.recurrent.layers)
                layers[n] = masks
                name = f"layer {n + 1}" + (f": {gate}" if gate else "")
                add(name, "layers", tuple(layers))
    add("initial state", "initial_state", _all(recurrent.initial_state))
    if jax.tree.leaves(shapes.readout):
        blocks["readout"] = nothing._replace(readout=_all(shapes.readout))
    return blocks


class ColumnGates(NamedTuple):
    """The number of the gate that each column belongs to.

    Attributes:
      w_x: [K_x] of the input weights.
      w_h: [K_h] of the recurrent weights.
      b: [K] of z.
    """

    w_x: np.ndarray
    w_h: np.ndarray
    b: np.ndarray


def column_gates(gated: Gated, weights: GatedWeights) -> ColumnGates:
    """Tells which gates the columns of weights make.

    Args:
      gated: names the gates.
      weights: arrays, or shapes alone.

    Raises:
      OptionError: gates do not divide the K columns of z evenly.
    """
    columns, count = num_columns(weights), len(gated.gates)
    if columns % count:
        raise OptionError(
            f"gates: {count} of them do not divide the {columns} columns of z evenly; "
            "name one for each of its blocks, all of one width"
        )
    gates = np.repeat(np.arange(count), columns // count)
    by_h = 0 if weights.w_h is None else weights.w_h.shape[-1]
    return ColumnGates(gates[: weights.w_x.shape[-1]], gates[columns - by_h :], gates)


def _all(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), tree)


def _cell_blocks(cell: Cell, shapes: Any) -> dict[str, PyTree]:
    """Returns by gate which entries of a layer's parameters make it."""
    if cell.gated is None:
        return {"": _all(shapes)}
    made, names = _reach(cell.gated, shapes), [gate.name for gate in cell.gated.gates]
    counts = jax.tree.map(lambda *masks: np.sum(masks, axis=0), *made)
    return {
        **{
            name: jax.tree.map(lambda x, n: np.asarray(x) & (n == 1), masks, counts)
            for name, masks in zip([*names, "small"], made, strict=True)
        },
        "other": jax.tree.map(lambda n: np.asarray(n != 1), counts),
    }


def _reach(gated: Gated, shapes: Any) -> list[PyTree]:
    """Returns which entries of the parameters make each gate, and the small ones.

    Of weights drawn at random, by the transposed derivative of how they are made, along
    random directions: by chance no entry has none.
    """
    random = np.random.default_rng(0)

    def draw(shapes: Any) -> Any:
        return jax.tree.map(
            lambda x: random.normal(size=x.shape).astype(x.dtype), shapes
        )

    params = draw(shapes)
    weights = jax.eval_shape(dense_weights(gated), params)
    direction, gates = draw(weights), column_gates(gated, weights)

    nothing = jax.tree.map(np.zeros_like, direction)

    def part(n: int) -> GatedWeights:
        def pick(weights: Any, of: np.ndarray) -> Any:
            return None if weights is None else weights * (of == n)

        w_x, w_h, b = map(pick, direction[:3], gates)
        return nothing._replace(w_x=w_x, w_h=w_h, b=b)

    @jax.jit
    def run(params: Any) -> list[PyTree]:
        _, pull = jax.vjp(dense_weights(gated), params)
        parts = [part(n) for n in range(len(gated.gates))]
        parts.append(nothing._replace(small=direction.small))
        return [jax.tree.map(lambda x: x != 0, pull(each)[0]) for each in parts]

    return run(params)
