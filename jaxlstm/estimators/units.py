"""Cells whose update works unit by unit: how their steps look when linearised.

The new state of unit j depends on the state of unit j and on the preactivations of unit
j alone; other units reach it through z = x W_x + h W_h + b only. So it is with the
LSTM, the GRU and the RNN. Then ds'/ds at fixed z and ds'/dz hold F and G numbers a
unit, for F fields of the state and G blocks of z, and each weight touches one unit.

Whether a cell is of this kind is found out from what depends on what in its functions.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import (
    Cell,
    GatedWeights,
    StepNoise,
    dense_weights,
    num_columns,
    preactivations,
    update,
)
from jaxlstm.estimators.structure import find_structure
from jaxlstm.estimators.traces import LinearStep
from jaxlstm.model import Model
from jaxlstm.types import Array
from jaxlstm.varying import like_varying

NUM_POINTS = 3


class Units(NamedTuple):
    """What depends on what in a cell that works unit by unit.

    Attributes:
      cell: the cell.
      hidden_size: H.
      by_state: [F, F] whether a new field depends on an old one, at fixed z.
      by_z: [F, G] whether a field depends on a block of z.
      rows: [F, H] the row of the recurrent weights that reads this entry of the state,
        or -1.
      outputs: [F] whether the output depends on a field.
      keeps: 1 - leak, where s' = (1 - leak) s + f(z) with one field and one block of z;
        else None.
      num_layers: L.
      diagonal: whether no unit's state reaches another one's within a layer.
    """

    cell: Cell
    hidden_size: int
    by_state: np.ndarray
    by_z: np.ndarray
    rows: np.ndarray
    outputs: np.ndarray
    keeps: float | None
    num_layers: int
    diagonal: bool


class LayerStep(NamedTuple):
    """A layer's step of one example, linearised.

    Attributes:
      x: [X] its input.
      h: [R] what its recurrent weights read.
      weights: its weights.
      by_state: [F, F, H] ds'/ds at fixed z, unit by unit.
      by_z: [F, G, H] ds'/dz.
      by_small: leaves [F, H, ...], ds' by the small parameters.
      by_x: [F, H, X] ds'/dx.
      by_below: [F, H, F, H] ds' by the new state of the layer below, or None.
    """

    x: Array
    h: Array
    weights: GatedWeights
    by_state: Array
    by_z: Array
    by_small: Any
    by_x: Array
    by_below: Array | None


@functools.lru_cache(maxsize=64)
def find_units(model: Model) -> Units | None:
    """Returns how a model's cell works, or None if it does not work unit by unit."""
    if model.layers is None or model.layers.cell.gated is None:
        return None
    cell, params = model.layers.cell, jax.eval_shape(model.init, jax.random.key(0))
    gated = cell.gated
    assert gated is not None
    state = jax.eval_shape(lambda p: model.initial_state(p, ()), params)[0]
    fields = jax.tree.leaves(state)
    size = fields[0].size
    weights = jax.eval_shape(dense_weights(gated), params.recurrent.layers[0])
    products = [w.shape[-1] for w in weights[:2] if w is not None]
    columns = num_columns(weights)
    if any(leaf.shape != (size,) for leaf in fields) or any(
        count % size for count in (columns, *products)
    ):
        return None
    layers, first = find_structure(model), find_structure(model)[0]
    by_state, by_z = (_by_unit(x, size) for x in (first.by_state, first.by_z))
    outputs = first.output.reshape(len(first.output), len(fields), size)
    if by_state is None or by_z is None or first.read is None:
        return None
    rows = np.where(first.read.any(0), first.read.argmax(0), -1)
    across = np.arange(columns)[:, None] % size != np.arange(len(rows)) % size
    return Units(
        cell,
        size,
        by_state,
        by_z,
        rows.reshape(len(fields), size),
        np.asarray(outputs.any(axis=(0, 2))),
        _find_leak(cell, weights, state) if by_z.shape == (1, 1) else None,
        len(layers),
        not any(np.any(layer.h & across) for layer in layers),
    )


def _by_unit(reached: np.ndarray, size: int) -> np.ndarray | None:
    """Returns [F, F] or [F, G] of [S, S] or [S, K]; None if units reach others."""
    blocks = reached.reshape(-1, size, reached.shape[1] // size, size)
    apart = ~np.eye(size, dtype=bool)[None, :, None, :]
    if np.any(blocks & apart):
        return None
    return np.asarray(blocks.any(axis=(1, 3)))


def _find_leak(cell: Cell, weights: Any, state: Any) -> float | None:
    """Returns 1 - leak where s' = (1 - leak) s + f(z), or None."""
    gated, random = cell.gated, np.random.default_rng(0)
    assert gated is not None

    def slopes(state: Any, z: Array) -> Array:
        ones = jax.tree.map(jnp.ones_like, state)
        step = lambda state: gated.update(weights.small, state, z)  # noqa: E731
        return jax.tree.leaves(jax.jvp(step, (state,), (ones,))[1])[0]

    if jax.tree.leaves(weights.small):
        return None
    shapes = (NUM_POINTS, *jax.tree.leaves(state)[0].shape)
    with jax.ensure_compile_time_eval():
        points = jax.tree.map(lambda x: random.normal(size=shapes), (state, 0.0))
        found = np.asarray(jax.jit(jax.vmap(slopes))(*points))
    return float(found.flat[0]) if np.ptp(found) < 1e-6 else None


def _spread(like: Any, size: int, kind: Any) -> Any:
    """Returns a tangent with the same entry in all units, [F + G]."""
    leaves, structure = jax.tree.flatten(like)
    counts = np.cumsum([leaf.size // size for leaf in leaves])[:-1]
    parts = jnp.split(jnp.repeat(kind, size), counts * size)
    return jax.tree.unflatten(structure, parts)


def linearise(model: Model, units: Units, step: LinearStep) -> list[LayerStep]:
    """Returns the steps of all layers, from the input up."""
    layers, gated = model.layers, units.cell.gated
    assert layers is not None and gated is not None
    size, found = units.hidden_size, []
    num_fields, num_gates = units.by_z.shape
    dtype = jax.tree.leaves(step.previous)[0].dtype
    kinds = like_varying(jnp.eye(num_fields + num_gates, dtype=dtype), step.previous)
    below: Any = None
    for n, params in enumerate(step.recurrent.layers):
        state = step.previous[n]

        def feed(below: Any, n: int = n) -> Array:
            output = units.cell.output(below)
            return layers.drop(output, n, step.key, step.time)

        if n:
            x = feed(below)
        else:
            x = layers.encode(step.recurrent.embedding, step.x, step.key, step.time)
            x = layers.drop(x, n, step.key, step.time)
        weights, h = dense_weights(gated)(params), gated.read(state)
        z = preactivations(weights, x, h, layers.compute_dtype)
        noise = layers.noise(state, n, step.key, step.time)

        def advance(
            small: Any, state: Any, z: Array, noise: StepNoise | None = noise
        ) -> Any:
            return update(gated, small, state, z, noise)

        def fields(small: Any, state: Any, z: Array, advance: Any = advance) -> Array:
            return jnp.stack(jax.tree.leaves(advance(small, state, z)))

        push = jax.linearize(functools.partial(fields, weights.small), state, z)[1]
        tangents = jax.vmap(functools.partial(_spread, (state, z), size))
        both = jnp.moveaxis(
            jax.vmap(lambda t, push=push: push(*t))(tangents(kinds)), 0, 1
        )
        by_state, by_z = both[:, :num_fields], both[:, num_fields:]
        w_x = weights.w_x.reshape(len(weights.w_x), -1, size)
        by_x = jnp.einsum("fgj,xgj->fjx", by_z[:, : w_x.shape[1]], w_x)
        by_below = None
        if n:
            by_output = jnp.stack(jax.tree.leaves(jax.jacfwd(feed)(below)), 1)
            by_below = jnp.tensordot(by_x, by_output, 1)
        by_small = None
        if weights.small is not None:
            by_small = jax.jacrev(fields)(weights.small, state, z)
        found.append(LayerStep(x, h, weights, by_state, by_z, by_small, by_x, by_below))
        below = advance(weights.small, state, z)
    return found
