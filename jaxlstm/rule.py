"""The derivative rule of gated cells: one product over time for each weight matrix.

Plain autodiff of a scan adds to the gradient of every weight at every step. But only
dz_t, the gradient of the preactivations, is sequential; with all dz_t at hand,

    dL/dW_h = sum_t h_{t-1}^T dz_t        dL/dW_x = sum_t x_t^T dz_t

are single products. The rule says this forward in time, as a `custom_jvp`:

    u_t      = dx_t W_x + x_t dW_x + h_{t-1} dW_h + db           for all t at once  (1)
    dz_t     = u_t + dh_{t-1} W_h                                a linear scan      (2)
    dstate_t = d update(state_{t-1}, z_t) . (dstate_{t-1}, dz_t)                    (3)

JAX transposes (2) and (3) into backpropagation through time, and (1) into the two
products above. Being a forward rule, it serves `jvp`, `linearize` and higher orders
as well as `grad`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxlstm.cells.base import (
    Gated,
    GatedWeights,
    StepNoise,
    num_columns,
    pad_columns,
    preactivations,
    product,
    recurrent_product,
    update,
)
from jaxlstm.edges import Edges, edge, scale
from jaxlstm.select import keep, select
from jaxlstm.types import Array, PyTree


class Controls(NamedTuple):
    """What governs the steps of a sequence, [T, ...] each, or None.

    Attributes:
      mask: 0 where a step is not there.
      resets: 1 where the state becomes `reset_state` before the step.
      edges: factors on the gradient.
      noise: what disturbs the updates, leaves [T, ..., H]; no gradient is taken by it.
    """

    mask: Array | None = None
    resets: Array | None = None
    edges: Edges | None = None
    noise: StepNoise | None = None


class Static(NamedTuple):
    """What is fixed when a sequence is traced.

    Attributes:
      gated: the cell.
      reverse: whether time runs backwards.
      keep_z: whether z is kept for the derivative, or computed again.
      compute_dtype: dtype of the factors of all products, or None for that of x.
    """

    gated: Gated
    reverse: bool = False
    keep_z: bool = True
    compute_dtype: Any = None


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def gated_scan(
    static: Static,
    weights: GatedWeights,
    state: PyTree,
    reset_state: PyTree,
    inputs: Array,
    controls: Controls,
) -> tuple[PyTree, PyTree, Array | None]:
    """Scans a gated cell over time, under the rule of this module.

    Args:
      static: the cell, and how it is run.
      weights: of the cell.
      state: the state before the first step, leaves [..., H].
      reset_state: what a reset puts in its place, leaves [..., H].
      inputs: [T, ..., X], finite on masked steps too.
      controls: mask, resets, edges and noise.

    Returns:
      The last state, the states after every step [T, ..., H], and z [T, ..., K] if it
      is kept.
    """
    gated, compute_dtype = static.gated, static.compute_dtype

    def step(state: PyTree, xs: Any) -> tuple[PyTree, Any]:
        x, mask, reset, edges, noise = xs
        state = select(reset, reset_state, state)
        h, direct = gated.read(state), state
        # Needed where a scan around this one drops its rule; see `edge_p`.
        if edges is not None:
            h, direct = edge(h, edges.h), edge(state, edges.c)
        z = preactivations(weights, x, h, compute_dtype)
        state = keep(mask, update(gated, weights.small, direct, z, noise), state)
        return state, (state, z if static.keep_z else None)

    xs = inputs, *controls
    state, (states, zs) = jax.lax.scan(step, state, xs, reverse=static.reverse)
    return state, states, zs


def _gated_scan_jvp(static: Static, primals: Any, tangents: Any) -> Any:
    gated, compute_dtype = static.gated, static.compute_dtype
    weights, state, reset_state, inputs, controls = primals
    dweights, dstate, dreset_state, dinputs, _ = tangents
    edges, columns = controls.edges, num_columns(weights)

    last, states, zs = gated_scan(static, *primals)
    previous = _shift(state, states, reverse=static.reverse)
    previous = select(
        controls.resets, jax.tree.map(lambda x: x[None], reset_state), previous
    )
    hs = gated.read(previous)
    if edges is not None:
        hs = edge(hs, edges.h)
        previous = edge(previous, edges.c)

    # (1). Time and batch are one axis here, so that the transposes are plain products.
    terms = []
    if not _is_zero(dinputs):
        term = product(_rows(dinputs), weights.w_x, compute_dtype)
        terms.append(pad_columns(term, columns, "right"))
    if not _is_zero(dweights.w_x):
        term = product(_rows(inputs), dweights.w_x, compute_dtype)
        terms.append(pad_columns(term, columns, "right"))
    if weights.w_h is not None and not _is_zero(dweights.w_h):
        term = recurrent_product(_rows(hs), dweights.w_h, compute_dtype)
        terms.append(pad_columns(term, columns, "left"))
    if weights.b is not None and not _is_zero(dweights.b):
        rows = math.prod(inputs.shape[:-1])
        terms.append(jnp.broadcast_to(dweights.b, (rows, columns)))
    us = None
    if terms:
        us = functools.reduce(jnp.add, terms).reshape(*inputs.shape[:-1], columns)

    dstate, dreset_state, dsmall = (
        jax.tree.map(_materialise, d, x)
        for d, x in (
            (dstate, state),
            (dreset_state, reset_state),
            (dweights.small, weights.small),
        )
    )
    # Transposed here, outside the loop, so that inside the transposed loop, which
    # training runs, the product is the plain one.
    w_h = weights.w_h
    w_h = w_h.T if w_h is not None and w_h.ndim == 2 else w_h

    # The body is made again in the backward pass from the states and z: otherwise
    # partial evaluation stores each elementwise factor in an array of its own.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def step(dstate: PyTree, xs: Any) -> tuple[PyTree, Any]:
        state, h, x, z, u, mask, reset, edges, noise = xs
        dstate = select(reset, dreset_state, dstate)
        if z is None:
            z = preactivations(weights, x, h, compute_dtype)
        dz = jnp.zeros_like(z) if u is None else u
        if w_h is not None:
            dh = gated.read(dstate)
            if edges is not None:
                dh = scale(dh, edges.h)
            dz = dz + pad_columns(
                _transposed_product(dh, w_h, compute_dtype), columns, "left"
            )
        direct = dstate if edges is None else scale(dstate, edges.c)

        def advance(small: PyTree, state: PyTree, z: Array) -> PyTree:
            return update(gated, small, state, z, noise)

        primals, tangents = (weights.small, state, z), (dsmall, direct, dz)
        _, dnew = jax.jvp(advance, primals, tangents)
        dstate = keep(mask, dnew, dstate)
        return dstate, (dstate, dz if static.keep_z else None)

    x = None if static.keep_z else inputs
    xs = previous, hs if x is not None else None, x, zs, us, *controls
    dlast, (dstates, dzs) = jax.lax.scan(step, dstate, xs, reverse=static.reverse)
    return (last, states, zs), (dlast, dstates, dzs)


gated_scan.defjvp(_gated_scan_jvp, symbolic_zeros=True)


def _rows(x: Array) -> Array:
    """Joins all axes but the last."""
    return x.reshape(-1, x.shape[-1])


def _shift(state: PyTree, states: PyTree, *, reverse: bool) -> PyTree:
    """Returns the state before each step [T, ...], from those after each."""

    def shift(first: Array, rest: Array) -> Array:
        parts = (rest[1:], first[None]) if reverse else (first[None], rest[:-1])
        return jnp.concatenate(parts)[: rest.shape[0]]

    return jax.tree.map(shift, state, states)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _materialise(tangent: Any, primal: Array) -> Array:
    return jnp.zeros_like(primal) if _is_zero(tangent) else tangent


def _transposed_product(h: Array, w: Array, compute_dtype: Any) -> Array:
    """Multiplies [..., R] by the transpose of [K, R], or by blocks as they are."""
    if w.ndim > 2:
        return recurrent_product(h, w, compute_dtype)
    out_dtype = h.dtype
    if compute_dtype is not None:
        h, w = h.astype(compute_dtype), w.astype(compute_dtype)
    return jax.lax.dot_general(
        h, w, (((h.ndim - 1,), (1,)), ((), ())), preferred_element_type=out_dtype
    )
