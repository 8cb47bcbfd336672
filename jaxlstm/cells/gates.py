"""The gates and the candidate of a gated cell's step, by their names."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import Cell, Gated, preactivations
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array

SQUASH = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
# Those of `Gated.gate_values`, of which a cell may lack some.
NAMES = "input", "forget", "candidate", "output"


def gate_names(gated: Gated) -> tuple[str, ...]:
    """Returns the names that `cell_gates` may give, in their order."""
    if gated.gate_values is not None:
        return NAMES
    return tuple(gate.name for gate in gated.gates if gate.squashed_by is not None)


def cell_gates(
    cell: Cell, params: Any, state: Any, x: Array, compute_dtype: Any = None
) -> dict[str, Array]:
    """Returns the gates of a cell's step by their names, [..., H] each.

    They are what the step multiplies by: with peepholes, after the memory is seen; the
    shares of memory and candidate, where gates are divided by their sum; "forget" is
    1 - i of coupled gates. Blocks of z that are not squashed by themselves, such as the
    two halves of a GRU's candidate, are left out.

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
    weights = gated.weights(params)
    z = preactivations(weights, x, gated.read(state), compute_dtype)
    if gated.gate_values is not None:
        values = gated.gate_values(weights.small, state, z)
        return {name: values[name] for name in NAMES if name in values}
    blocks = jnp.split(z, len(gated.gates), axis=-1)
    return {
        gate.name: SQUASH[gate.squashed_by](block)
        for gate, block in zip(gated.gates, blocks, strict=True)
        if gate.squashed_by is not None
    }
