"""What each layer of a stack computes, by names, to be held against a recording."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import Cell
from jaxlstm.cells.gates import cell_gates
from jaxlstm.layers import Connections, Directions, Wiring, unroll_stack
from jaxlstm.select import keep
from jaxlstm.sequence import LSTM, mask_by_length
from jaxlstm.shapes import check_choice, check_lengths, check_time_axes
from jaxlstm.types import Array


def trace_layers(
    params: Sequence[Any],
    inputs: Array,
    state: Sequence[Any] | None = None,
    *,
    cell: Cell = LSTM,
    mask: Array | None = None,
    lengths: Array | None = None,
    connections: Connections = "none",
) -> dict[str, Array]:
    """Returns outputs, states and gates of every layer at every step, by names.

    Names are `layers.0.outputs`, `layers.0.h`, `layers.0.c` and, by the names of the
    cell's gates, `layers.0.input`; of two directions `layers.0.forward.h` and so on,
    the outputs of both side by side.

    Args:
      params: of each layer, the cell's, or `Directions` of them.
      inputs: [T, ..., X].
      state: of each layer before the first step; that of the cell by default.
      cell: of all layers.
      mask: [T, ...]; 0 where a step is not there.
      lengths: [...] integers; steps from there on are not there.
      connections: as in `lstm_stack`.

    Returns:
      Arrays [T, ..., H], zero on steps that are not there. Gates are those of
      `jaxlstm.diagnostics.cell_gates`; a cell without a gated form has none.

    Raises:
      ValueError: shapes do not fit together, or an option is unknown.
    """
    check_choice("connections", connections, Connections)
    wiring = Wiring(cell, connections)
    inputs = jnp.asarray(inputs)
    if mask is not None:
        mask = check_time_axes("mask", mask, inputs)
    if lengths is not None:
        mask = mask_by_length(check_lengths(lengths, inputs), mask, inputs)
    if mask is not None:
        inputs = keep(mask, inputs, jnp.zeros_like(inputs))
    start = wiring.initial_state(params, inputs.shape[1:-1])
    begins = start if state is None else tuple(state)
    _, states = unroll_stack(wiring, params, inputs, begins, mask=mask)
    traced: dict[str, Array] = {}
    outputs: list[Array] = []
    for n, (layer, begin, after) in enumerate(zip(params, begins, states, strict=True)):
        x = wiring.feed(inputs, outputs, None, 0)
        outputs.append(wiring.layer_output(after))
        traced[f"layers.{n}.outputs"] = outputs[-1]
        if not isinstance(layer, Directions):
            traced |= _trace(cell, f"layers.{n}", layer, begin, after, x, False)
            continue
        for place, parts in zip(
            Directions._fields, zip(layer, begin, after, strict=True), strict=True
        ):
            backward = place == "backward"
            traced |= _trace(cell, f"layers.{n}.{place}", *parts, x, backward)
    return {
        name: keep(mask, array, jnp.zeros_like(array)) for name, array in traced.items()
    }


def _trace(
    cell: Cell, name: str, params: Any, begin: Any, after: Any, x: Array, backward: bool
) -> dict[str, Array]:
    """Returns states and gates of one layer and direction."""
    arrays = {
        f"{name}.{field}": leaf
        for field, leaf in zip(after._fields, after, strict=True)
    }
    if cell.gated is None:
        return arrays

    def shift(start: Array, leaf: Array) -> Array:
        start = jnp.broadcast_to(start, leaf.shape[1:])[None]
        parts = [leaf[1:], start] if backward else [start, leaf[:-1]]
        return jnp.concatenate(parts)

    before = jax.tree.map(shift, begin, after)
    gates = cell_gates(cell, params, before, x)
    return arrays | {f"{name}.{gate}": values for gate, values in gates.items()}
