"""The gates of a model as it runs, and how many of them are saturated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells import Cell
from jaxlstm.cells.base import preactivations
from jaxlstm.diagnostics.transition import read_inputs
from jaxlstm.diagnostics.walk import walk
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, ModelParams
from jaxlstm.select import keep
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key

# Beyond them a gate counts as shut or open (Karpathy et al.), a tanh as at its end.
SHUT, OPEN = 0.1, 0.9

SQUASH = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}


class Saturation(NamedTuple):
    """Which share of a gate's values, over steps, examples and units, is at an end.

    Attributes:
      low: [] below .1; of a tanh, below -.9.
      high: [] above .9.
    """

    low: Array
    high: Array


def cell_gates(
    cell: Cell, params: Any, state: Any, x: Array, compute_dtype: Any = None
) -> dict[str, Array]:
    """Returns the gates of a cell's step by their names, [..., H] each.

    Blocks of z that are not squashed by themselves, such as the two halves of a GRU's
    candidate, are left out.

    Args:
      cell: has a gated form.
      params: of the cell.
      state: that goes into the step, leaves [..., H].
      x: [..., X].
      compute_dtype: dtype of the factors of the products, or None.

    Raises:
      OptionError: the cell has no gated form.
    """
    gated = cell.gated
    if gated is None:
        raise OptionError("the cell has no gated form, and so no gates to be named")
    z = preactivations(gated.weights(params), x, gated.read(state), compute_dtype)
    blocks = jnp.split(z, len(gated.gates), axis=-1)
    return {
        gate.name: SQUASH[gate.squashed_by](block)
        for gate, block in zip(gated.gates, blocks, strict=True)
        if gate.squashed_by is not None
    }


def gate_values(
    model: Model,
    params: ModelParams,
    segment: Segment,
    *,
    state: Any = None,
    keys: Key | None = None,
) -> tuple[dict[str, Array], ...]:
    """Returns the gates of each layer by their names, [T, B, H] each.

    On masked steps they are zero.

    Args:
      model: layers of a gated cell.
      params: of the model.
      segment: leaves [T, B, ...].
      state: before the first step, leaves [B, ...]; by default the initial one.
      keys: [B] of the examples' noise; None for none.

    Raises:
      OptionError: the model has no `layers`, or their cell no gated form.
    """
    layers = model.layers
    if layers is None:
        raise OptionError(
            "the model is one of its own, whose gates are not known; use make_model"
        )
    inputs = read_inputs(segment, begins=state is None)
    if state is None:
        state = model.initial_state(params, inputs.mask.shape[1:])
    steps = walk(model, params, inputs, state, keys)
    found = []
    for layer, previous, x in zip(
        params.recurrent.layers, steps.previous, steps.inputs, strict=True
    ):
        values = cell_gates(layers.cell, layer, previous, x, layers.compute_dtype)
        found.append(keep(inputs.mask, values, jax.tree.map(jnp.zeros_like, values)))
    return tuple(found)


def saturation(
    model: Model,
    params: ModelParams,
    segment: Segment,
    *,
    state: Any = None,
    keys: Key | None = None,
) -> tuple[dict[str, Saturation], ...]:
    """Returns how much of each gate of each layer is saturated, by names.

    Arguments and errors are those of `gate_values`. Masked steps do not count.

    References:
      Karpathy, Johnson and Fei-Fei, Visualizing and Understanding Recurrent Networks,
      2015.
    """
    values = gate_values(model, params, segment, state=state, keys=keys)
    assert model.layers is not None and model.layers.cell.gated is not None
    squashed_by = {
        gate.name: gate.squashed_by for gate in model.layers.cell.gated.gates
    }
    mask = read_inputs(segment, begins=False).mask

    def shares(name: str, x: Array) -> Saturation:
        shut = SHUT if squashed_by[name] == "sigmoid" else -OPEN
        units = x.shape[-1]
        count = jnp.maximum(mask.sum() * units, 1)
        present = jnp.broadcast_to(mask[..., None], x.shape)
        return Saturation(
            *(jnp.sum(end & present) / count for end in (x < shut, x > OPEN))
        )

    return tuple(
        {name: shares(name, x) for name, x in layer.items()} for layer in values
    )
