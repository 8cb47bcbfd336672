"""Linear recurrences parallel in time, exactly and without an iteration.

A gated cell without recurrent weights knows all its preactivations before the first
step, z = x W_x + b for all t by one product. Where its update is besides affine in
each entry of the state, s' = a(z) s + b(z), the states are a linear recurrence,

    b_t = update(0, z_t)    a_t = update(1, z_t) - update(0, z_t), as the derivative
    s_t = a_t s_{t-1} + b_t

which `jaxlstm.backends.diagonal` solves in O(log T) rounds. Nothing here knows the
cell: what makes noise, masks and resets of its steps is affine as well, and enters a
and b.

References:
  Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, Were RNNs All We Needed?, 2024.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.backends.diagonal import Terms, diagonal_scan
from jaxlstm.cells.base import Cell, GatedWeights, product, update
from jaxlstm.edges import Edges, Hooks, edge
from jaxlstm.rule import Controls, Static
from jaxlstm.select import keep, like, select
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, PyTree


def parallel(
    static: Static,
    weights: GatedWeights,
    state: PyTree,
    reset_state: PyTree,
    inputs: Array,
    controls: Controls,
) -> tuple[PyTree, PyTree]:
    """Runs a linear cell over time, all steps at once.

    Exact: what `jaxlstm.rule.gated_scan` gives, up to rounding, and its derivatives of
    any order and mode. O(T B H) time beside the products, in O(log T) rounds.

    Args:
      static: the cell, and how it is run.
      weights: of the cell.
      state: the state before the first step, leaves [..., H].
      reset_state: what a reset puts in its place, leaves [..., H].
      inputs: [T, ..., X], finite on masked steps too.
      controls: mask, resets, edges and noise.

    Returns:
      The last state, and the states after every step, leaves [T, ..., H].
    """
    length = len(inputs)
    if not length:
        return state, jax.tree.map(lambda x: jnp.zeros((0, *x.shape), x.dtype), state)
    first = length - 1 if static.reverse else 0
    is_first = jnp.arange(length) == first

    def coefficients(weights: GatedWeights, inputs: Array) -> tuple[PyTree, PyTree]:
        z = _preactivations(weights, inputs, static.compute_dtype)

        def advance(state: PyTree) -> PyTree:
            return update(static.gated, weights.small, state, z, controls.noise)

        zeros = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), state)
        ones = jax.tree.map(jnp.ones_like, zeros)
        return jax.jvp(advance, (zeros,), (ones,))

    if not static.keep_z:
        coefficients = jax.checkpoint(coefficients)
    offsets, factors = coefficients(weights, inputs)

    def solve(b: Array, a: Array, start: Array, reset_to: Array) -> Array:
        mask, resets, edges = (
            None if value is None else like(value, b)
            for value in (
                controls.mask,
                controls.resets,
                None if controls.edges is None else controls.edges.c,
            )
        )
        a, b = keep(mask, (a, b), (jnp.ones_like(a), jnp.zeros_like(b)))
        before = jnp.where(like(is_first, b), start[None], 0)
        before = select(resets, reset_to[None], before)
        if edges is not None:
            edges = edges.astype(b.dtype)
            edges = keep(mask, edges, jnp.ones_like(edges))
            before = edge(before, edges)
        cuts = None if resets is None else resets != 0
        terms = Terms(a, b + a * before, cuts, edges)
        return diagonal_scan(terms, reverse=static.reverse)

    states = jax.tree.map(solve, offsets, factors, state, reset_state)
    last = 0 if static.reverse else length - 1
    return jax.tree.map(lambda x: x[last], states), states


def check_parallel(
    cell: Cell,
    *,
    derivative: str = "rule",
    edges: Edges | Hooks | None = None,
) -> None:
    """Raises OptionError where the engine "parallel" does not take a cell or option."""
    if cell.gated is None or not cell.gated.linear:
        raise OptionError(
            'engine: "parallel" is for cells that are linear recurrences, such as '
            '"min_lstm", and this one is none; use engine="scan"'
        )
    refused = {
        f'derivative: is "{derivative}"': derivative != "rule",
        "edges: are hooks": isinstance(edges, Hooks),
    }
    for value, wrong in refused.items():
        if wrong:
            raise OptionError(
                f'{value}, which engine "parallel" does not take; use engine="scan"'
            )


def _preactivations(weights: GatedWeights, inputs: Array, compute_dtype: Any) -> Array:
    """Returns z [T, ..., K]. Time and batch are one axis in the product."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    z = product(rows, weights.w_x, compute_dtype)
    if weights.b is not None:
        z = z + jnp.broadcast_to(weights.b, z.shape)
    return z.reshape(*inputs.shape[:-1], z.shape[-1])
