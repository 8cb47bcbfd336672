"""Models that other frameworks have layers for: which of ours are such."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlstm.cells import (
    Cell,
    GRUParams,
    LSTMParams,
    ProjectedLSTMParams,
    RNNParams,
    make_gru,
    make_lstm,
    make_rnn,
)
from jaxlstm.cells.base import GatedWeights, dense
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.config import Config
from jaxlstm.lab.errors import UserError
from jaxlstm.layers import Directions
from jaxlstm.model import ModelParams, RecurrentParams

# By the name that their layers have elsewhere.
PLAIN: dict[str, tuple[Cell, tuple[type, ...]]] = {
    "lstm": (make_lstm(), (LSTMParams, ProjectedLSTMParams)),
    "gru": (make_gru(), (GRUParams,)),
    "rnn": (make_rnn(), (RNNParams,)),
}
TOLERANCE = 1e-4


class Layout(NamedTuple):
    """What a model of plain layers is made of.

    Attributes:
      kind: "lstm", "gru" or "rnn".
      symbols: the number of symbols, or None where inputs are vectors.
      embedding_size: or None without an embedding.
      input_size: of the first layer.
      hidden_size: of every layer.
      projection_size: of the output of a projected LSTM, or 0.
      num_layers: L.
      bidirectional: whether each reads in both directions.
      bias: whether its layers have biases.
      output_size: of the readout; None without one.
      tied: whether it has the weights of the embedding.
      dtype: of the parameters.
    """

    kind: str
    symbols: int | None
    embedding_size: int | None
    input_size: int
    hidden_size: int
    projection_size: int
    num_layers: int
    bidirectional: bool
    bias: bool
    output_size: int | None
    tied: bool
    dtype: str


def find_layout(config: Config, shapes: Any, symbols: int | None, where: str) -> Layout:
    """Returns what a model is made of, if its layers are plain ones.

    Args:
      config: of the model.
      shapes: its parameters, or what has their shapes.
      symbols: the number of symbols that it reads; None for vectors.
      where: what asks for it, for errors.

    Raises:
      UserError: the model has what no other framework has a layer for, which is named.
    """
    section = config.sections.model
    own = isinstance(shapes, ModelParams) and isinstance(
        shapes.recurrent, RecurrentParams
    )
    kind = _find_kind(config, shapes) if own else None
    reasons = {
        f'model.cell = "{section.cell}"': kind is None,
        f'model.connections = "{section.connections}"': section.connections != "none",
        "model.learned_initial_state = true": section.learned_initial_state,
    }
    lines = [
        f"{where}: {reason} has no form there; use --format safetensors"
        for reason, refused in reasons.items()
        if refused
    ]
    if kind is None or lines:
        raise UserError(*lines)
    (table, layers, _), (readout, readout_bias) = shapes
    first = first_cell(layers)
    projected = isinstance(first, ProjectedLSTMParams)
    return Layout(
        kind=kind,
        symbols=symbols,
        embedding_size=None if table is None else table.shape[1],
        input_size=first.w_x.shape[0],
        hidden_size=first.w_p.shape[0] if projected else first.w_h.shape[0],
        projection_size=first.w_p.shape[1] if projected else 0,
        num_layers=len(layers),
        bidirectional=section.bidirectional,
        bias=first.b is not None,
        output_size=None if readout_bias is None else readout_bias.shape[0],
        tied=readout_bias is not None and readout is None,
        dtype=first.w_x.dtype.name,
    )


def first_cell(layers: tuple[Any, ...]) -> Any:
    """Returns the parameters of the first layer, of its forward direction."""
    layer = layers[0]
    return layer.forward if isinstance(layer, Directions) else layer


def _find_kind(config: Config, shapes: ModelParams) -> str | None:
    """Returns which plain cell computes what the config's does, or None.

    Cells of one form of parameters may differ in what they make of them.
    """
    params = first_cell(shapes.recurrent.layers)
    for kind, (plain, types) in PLAIN.items():
        if type(params) in types:
            return kind if are_alike(config.cell, plain, params, params) else None
    return None


def join(w_h: np.ndarray) -> np.ndarray:
    """Returns recurrent weights in heads as one matrix, zero between them."""
    w = jax.numpy.asarray(w_h)
    return np.asarray(dense(GatedWeights(w, w, None)).w_h)


def join_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of recurrent weights in heads as `join` gives them.

    Any other shape stays as it is.
    """
    if len(shape) != 4:
        return shape
    heads, width, gates, out = shape
    return heads * width, gates * heads * out


def are_alike(cell: Cell, other: Cell, shapes: Any, other_shapes: Any) -> bool:
    """Returns whether two cells make the same of parameters, by steps from drawn ones.

    Args:
      cell: one of them.
      other: which may have the same parameters in another tree.
      shapes: of the parameters of one.
      other_shapes: of those of the other, under the same names; recurrent weights that
        stand in heads in one may be a matrix there.
    """
    random = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        return random.normal(size=leaf.shape).astype(leaf.dtype)

    named = {name: draw(leaf) for name, leaf in name_leaves(shapes).items()}
    trees = [
        jax.tree.unflatten(
            jax.tree.structure(tree),
            [
                named[name] if named[name].ndim == leaf.ndim else join(named[name])
                for name, leaf in name_leaves(tree).items()
            ],
        )
        for tree in (shapes, other_shapes)
    ]
    starts = [
        jax.eval_shape(functools.partial(each.initial_state, params, (2,)))
        for each, params in zip((cell, other), trees, strict=True)
    ]
    if jax.tree.structure(starts[0]) != jax.tree.structure(starts[1]):
        return False
    start = jax.tree.map(draw, starts[0])
    inputs = draw(jax.ShapeDtypeStruct((2, 2, shapes.w_x.shape[0]), shapes.w_x.dtype))

    def go(each: Cell, params: Any) -> list[Any]:
        state, found = start, []
        for x in inputs:
            state, output = each.step(params, state, x)
            found += [*jax.tree.leaves(state), output]
        return found

    one, two = jax.jit(lambda: (go(cell, trees[0]), go(other, trees[1])))()
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
        for a, b in zip(one, two, strict=True)
    )
