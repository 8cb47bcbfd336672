"""The gates of a model as it runs, and how many of them are saturated."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.gates import cell_gates
from jaxlstm.diagnostics.transition import read_inputs
from jaxlstm.diagnostics.walk import walk
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, ModelParams
from jaxlstm.select import keep
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key

# Beyond them a gate counts as shut or open (Karpathy et al.), a tanh as at its end.
SHUT, OPEN = 0.1, 0.9


class Saturation(NamedTuple):
    """Which share of a gate's values, over steps, examples and units, is at an end.

    Attributes:
      low: [] below .1; of a tanh, below -.9.
      high: [] above .9.
    """

    low: Array
    high: Array


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

    Arguments and errors are those of `gate_values`. Masked steps do not count. Gates
    are taken for numbers between 0 and 1; where they are shares of a sum, a share at
    its end says that the other one takes all. A candidate counts where its block of z
    is squashed by tanh: other ones have no such ends, or are those of several blocks.

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
        shut = -OPEN if squashed_by.get(name) == "tanh" else SHUT
        units = x.shape[-1]
        count = jnp.maximum(mask.sum() * units, 1)
        present = jnp.broadcast_to(mask[..., None], x.shape)
        return Saturation(
            *(jnp.sum(end & present) / count for end in (x < shut, x > OPEN))
        )

    return tuple(
        {
            name: shares(name, x)
            for name, x in layer.items()
            if name != "candidate" or squashed_by.get(name) == "tanh"
        }
        for layer in values
    )
