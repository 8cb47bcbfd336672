"""What depends on what in a gated cell, whatever its parameters and states are.

A derivative may be zero at a point for two reasons: that there is none, or that a gate
is saturated, a unit dead, an input absent. Only the first is structure, and here it is
told by tangents that are not a number: they pass through a factor of zero, and show in
all that is computed from them. Where functions choose by value, as relu does, what is
seen at any of several points counts. Weights make ways as well: a recurrent weight that
the cell makes of its parameters as zero, at all draws of them, is not there.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxlstm.cells.base import Cell, num_columns, pad_columns
from jaxlstm.model import Model

# Sizes of what is drawn at the points that are looked at, for thresholds of all sizes.
SCALES = 2 * (0.1, 0.3, 1.0, 1.0, 3.0, 10.0, 30.0, 100.0)


class LayerStructure(NamedTuple):
    """What may differ from zero in a layer's step, of arrays of booleans.

    Attributes:
      by_state: [S, S] a new entry of the state by an old one, at fixed z.
      by_z: [S, K] by a column of z.
      by_small: leaves [S, ...] by the small parameters.
      x: [K, X] the input weights there are, by the column of z.
      h: [K, S] the ways from the old state through the recurrent weights.
      read: [R, S] 1 where a row reads an entry of the state; None where it does more
        than select entries, none of them twice.
      output: [H, S] the output by the new state.
    """

    by_state: np.ndarray
    by_z: np.ndarray
    by_small: Any
    x: np.ndarray
    h: np.ndarray
    read: np.ndarray | None
    output: np.ndarray


@functools.lru_cache(maxsize=64)
def find_structure(model: Model) -> tuple[LayerStructure, ...]:
    """Returns the structure of all layers of a model of gated cells."""
    assert model.layers is not None
    cell = model.layers.cell
    shapes = jax.eval_shape(model.init, jax.random.key(0)).recurrent.layers
    with jax.ensure_compile_time_eval():
        return tuple(_look(cell, params) for params in shapes)


def _look(cell: Cell, shapes: Any) -> LayerStructure:
    """Returns the structure of a layer with parameters of these shapes."""
    gated = cell.gated
    assert gated is not None
    random = np.random.default_rng(0)

    def draw(shapes: Any, scale: float = 1.0) -> Any:
        return jax.tree.map(
            lambda x: (scale * random.normal(size=x.shape)).astype(x.dtype), shapes
        )

    state = jax.eval_shape(lambda p: cell.initial_state(p, ()), shapes)
    weights = jax.eval_shape(gated.weights, shapes)
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    columns = num_columns(weights)
    z = jax.ShapeDtypeStruct((columns,), jax.tree.leaves(state)[0].dtype)

    def update(small: Any, state: Any, z: Any) -> Any:
        return ravel_pytree(gated.update(small, state, z))[0]

    @jax.jit
    def at(params: Any, state: Any, z: Any) -> Any:
        made = gated.weights(params)
        found = _reached(update, (made.small, state, z))
        output = _reached(cell.output, (state,))[0]
        there = [None if w is None else w != 0 for w in (made.w_x, made.w_h)]
        return found, output, there

    points = [at(*draw((shapes, state, z), scale)) for scale in SCALES]
    (by_small, by_state, by_z), output, (w_x, w_h) = jax.tree.map(
        lambda *x: np.any(np.stack(x), axis=0), *points
    )
    joined = _join(by_state, size)
    jacobian = np.asarray(_flat_read(gated.read, draw(state)))
    x = np.asarray(pad_columns(jnp.asarray(w_x), columns, "right")).T
    h = np.zeros((columns, size), bool)
    if w_h is not None:
        w_h = np.asarray(pad_columns(jnp.asarray(w_h), columns, "left"))
        h = w_h.T @ (jacobian != 0)
    ones = np.sum(jacobian != 0, axis=1) == 1
    selects = np.all(np.isin(jacobian, (0, 1))) and np.all(ones)
    once = np.all(np.sum(jacobian != 0, axis=0) <= 1)
    return LayerStructure(
        joined,
        _join(by_z, columns),
        by_small,
        x,
        h,
        jacobian == 1 if selects and once else None,
        _join(output, size),
    )


def _reached(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns for each leaf [...] of the arguments what it reaches, [outputs, ...]."""
    vector, unflatten = ravel_pytree(arguments)
    _, push = jax.linearize(function, *arguments)

    def reach(n: Any) -> Any:
        tangent = jnp.where(jnp.arange(len(vector)) == n, jnp.nan, 0)
        return jnp.isnan(push(*unflatten(tangent.astype(vector.dtype))))

    # Where values overflow, all is not a number, and nothing is said.
    overflown = reach(-1)
    reached = (jax.vmap(reach)(jnp.arange(len(vector))) & ~overflown[None]).T
    return jax.vmap(lambda row: unflatten(row.astype(vector.dtype)))(reached)


def _flat_read(read: Any, state: Any) -> Any:
    """Returns the matrix [R, S] of a linear `read`."""
    vector, unflatten = ravel_pytree(state)
    return jax.jacfwd(lambda v: read(unflatten(v)))(vector)


def _join(tree: Any, size: int) -> np.ndarray:
    """Joins leaves [outputs, ...] to [outputs, size] of booleans."""
    leaves = [np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(tree)]
    joined = np.concatenate(leaves, axis=1) != 0
    assert joined.shape[1] == size
    return joined
