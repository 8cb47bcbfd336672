"""The influence of gated weights by columns of z: I_t = D_t (x) u_t.

A weight acts through one column of z = u W, with u = (x, h, 1). So what it does to the
state in a step is D_t = ds'/dz, [S, K], times its row's u: no [S, P] array is needed to
say it, in any gated cell and any stack of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxlstm.cells.base import (
    GatedWeights,
    dense_weights,
    num_columns,
    preactivations,
    update,
)
from jaxlstm.estimators.dense import flat
from jaxlstm.estimators.structure import find_structure, follow
from jaxlstm.estimators.traces import LinearStep
from jaxlstm.model import Model, RecurrentParams
from jaxlstm.types import Array, PyTree
from jaxlstm.varying import like_varying

# Which of w_x, w_h and b add to the first columns of z, and not to the last.
FIRST = True, False, True


class Rest(NamedTuple):
    """Parameters that act in another way than through a column of z.

    Attributes:
      small: of each layer, as in `GatedWeights`.
      embedding: [X, E], or None.
      start: the state that a sequence starts from, or None.
    """

    small: tuple[Any, ...]
    embedding: Any
    start: Any


class ColumnStep(NamedTuple):
    """A step of one example, linearised by columns.

    Attributes:
      jacobian: [S, S] J.
      by_z: of each layer, [S, K] ds'/dz.
      factors: of each layer, x [X] and h [R].
      by_rest: leaves [S, *shape], ds' by the rest.
    """

    jacobian: Array
    by_z: tuple[Array, ...]
    factors: tuple[tuple[Array, Array], ...]
    by_rest: Rest


class Pattern(NamedTuple):
    """Which entries of the state something may reach, by structure.

    Attributes:
      jacobian: [S, S] where J is not zero.
      by_z: of each layer, [S, K].
      by_rest: leaves [S, *shape].
    """

    jacobian: np.ndarray
    by_z: tuple[np.ndarray, ...]
    by_rest: Rest


def split(model: Model, recurrent: RecurrentParams) -> tuple[list[GatedWeights], Rest]:
    """Returns the weights of all layers, and the rest."""
    gated = _gated(model)
    weights = [dense_weights(gated)(params) for params in recurrent.layers]
    small = tuple(w.small for w in weights)
    return weights, Rest(small, recurrent.embedding, recurrent.initial_state)


def join(
    model: Model, recurrent: RecurrentParams, weights: list[Any], rest: Rest
) -> RecurrentParams:
    """Turns gradients by what `split` gives into those by the parameters.

    Args:
      model: the model.
      recurrent: the parameters.
      weights: of each layer, gradients by w_x, w_h and b, or None.
      rest: gradients by the rest.
    """
    found = []
    parts = zip(recurrent.layers, weights, rest.small, strict=True)
    for params, (w_x, w_h, b), small in parts:
        pull_back = jax.vjp(dense_weights(_gated(model)), params)[1]
        found += pull_back(GatedWeights(w_x, w_h, b, small))
    return RecurrentParams(rest.embedding, tuple(found), rest.start)


def linearise(model: Model, step: LinearStep) -> ColumnStep:
    """Linearises a step of one example, by S passes back."""
    layers = model.layers
    assert layers is not None
    weights, rest = split(model, step.recurrent)
    vector, unflatten = ravel_pytree(step.previous)
    basis = like_varying(jnp.eye(len(vector), dtype=vector.dtype), vector)
    offsets = like_varying(
        [jnp.zeros(num_columns(w), vector.dtype) for w in weights], vector
    )

    def run(vector: Array, offsets: Any, small: Any, embedding: Any) -> Any:
        x = layers.encode(embedding, step.x, step.key, step.time)
        with_small = [w._replace(small=s) for w, s in zip(weights, small, strict=True)]
        return _walk(model, with_small, unflatten(vector), x, offsets, step)

    arguments = vector, offsets, rest.small, rest.embedding
    _, pull_back, factors = jax.vjp(run, *arguments, has_aux=True)
    by_state, by_z, by_small, by_embedding = jax.vmap(pull_back)(basis)
    start = _zeros(len(vector), rest.start)
    return ColumnStep(
        by_state, tuple(by_z), factors, Rest(by_small, by_embedding, start)
    )


def start_rest(model: Model, params: Any) -> Rest:
    """Returns the influence of the rest on the state that a sequence starts from."""
    _, rest = split(model, params.recurrent)

    def initial(start: Any) -> Array:
        recurrent = params.recurrent._replace(initial_state=start)
        return flat(model.initial_state(params._replace(recurrent=recurrent), ()))

    size = len(initial(rest.start))
    zeros = _zeros(size, rest)
    if rest.start is None:
        return zeros
    return zeros._replace(start=jax.jacrev(initial)(rest.start))


def find_pattern(model: Model) -> Pattern:
    """Returns which entries J and I of a gated model may have, by its structure."""
    layers = find_structure(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0)).recurrent
    sizes = [len(layer.by_state) for layer in layers]
    size, firsts = sum(sizes), np.cumsum([0, *sizes])
    embedded = layers[0].x.shape[1]
    # From old states, columns of z, small parameters and the input, in this order.
    small = [_flat(layer.by_small) for layer in layers]
    counts = [size, *(len(x.x) for x in layers), *(x.shape[1] for x in small), embedded]
    begins = np.cumsum([0, *counts])
    reached, below = [], None
    for n, layer in enumerate(layers):
        rows = np.zeros((sizes[n], begins[-1]), bool)

        def put(block: np.ndarray, begin: int, rows: np.ndarray = rows) -> None:
            rows[:, begin : begin + block.shape[1]] |= block

        put(layer.by_state | follow(layer.by_z, layer.h), firsts[n])
        put(layer.by_z, begins[1 + n])
        put(small[n], begins[1 + len(layers) + n])
        by_x = follow(layer.by_z, layer.x)
        if below is None:
            put(by_x, begins[-2])
        else:
            rows |= follow(by_x, below)
        reached.append(rows)
        below = follow(layer.output, rows)
    found = np.split(np.concatenate(reached), begins[1:-1], axis=1)
    start, embedding = None, None
    if shapes.initial_state is not None:
        _, unflatten = ravel_pytree(
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.initial_state)
        )
        start = jax.tree.map(
            lambda x: np.asarray(x) != 0, jax.vmap(unflatten)(jnp.eye(size))
        )
    if shapes.embedding is not None:
        count = len(shapes.embedding)
        embedding = np.repeat(found[-1][:, None], count, axis=1)
    by_small = tuple(
        _like_leaves(rows, layer.by_small)
        for rows, layer in zip(found[1 + len(layers) : -1], layers, strict=True)
    )
    return Pattern(
        found[0], tuple(found[1 : 1 + len(layers)]), Rest(by_small, embedding, start)
    )


def _flat(by_small: Any) -> np.ndarray:
    """Joins leaves [S, ...] of booleans to [S, all]; there may be none."""
    leaves = [np.reshape(x, (len(x), -1)) != 0 for x in jax.tree.leaves(by_small)]
    return np.concatenate(leaves, axis=1) if leaves else np.zeros((1, 0), bool)


def _like_leaves(rows: np.ndarray, by_small: Any) -> Any:
    """Takes rows [S, all] apart into leaves of the shapes that were joined."""
    leaves, structure = jax.tree.flatten(by_small)
    ends = np.cumsum([int(np.prod(x.shape[1:])) for x in leaves])[:-1]
    parts = np.split(rows, ends, axis=1) if leaves else []
    shaped = [
        p.reshape(len(rows), *x.shape[1:]) for p, x in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaped)


def _walk(
    model: Model,
    weights: list[GatedWeights],
    state: Any,
    x: Array,
    offsets: list[Array],
    step: LinearStep,
) -> tuple[Array, Any]:
    """Makes a step with offsets on z; returns the state [S], and x and h by layer."""
    layers, gated = model.layers, _gated(model)
    assert layers is not None
    found, factors = [], []
    for n, (w, layer_state) in enumerate(zip(weights, state, strict=True)):
        x, h = layers.drop(x, n, step.key, step.time), gated.read(layer_state)
        noise = layers.noise(layer_state, n, step.key, step.time)
        z = preactivations(w, x, h, layers.compute_dtype)
        new = update(gated, w.small, layer_state, z + offsets[n], noise)
        found.append(new)
        factors.append((x, h))
        x = layers.cell.output(new)
    return flat(tuple(found)), tuple(factors)


def _zeros(size: int, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), tree)


def _gated(model: Model) -> Any:
    assert model.layers is not None
    return model.layers.cell.gated


def spread(weights: GatedWeights, rows: tuple[Any, ...], by_column: Array) -> list:
    """Returns u (x) a: leaves [..., X, K_x], [..., R, K_h] and [..., K], or None.

    Args:
      weights: of the layer; say which leaves there are.
      rows: x [X], h [R] and the factor [] of the bias.
      by_column: [..., K] a.
    """
    found = []
    for w, row, first in zip(weights[:3], rows, FIRST, strict=True):
        if w is None:
            found.append(None)
            continue
        part = columns_of(by_column, w, first=first)
        row = jnp.asarray(row)
        shape = *[1] * (part.ndim - 1), *row.shape, *[1]
        leaf = row.reshape(shape) * (part[..., None, :] if row.ndim else part)
        found.append(leaf)
    return found


def columns_of(by_column: Any, w: Array, *, first: bool) -> Array:
    """Returns the columns [..., K_w] that a weight matrix adds to, of [..., K]."""
    count = w.shape[-1]
    begin = 0 if first else by_column.shape[-1] - count
    return by_column[..., begin : begin + count]


def push(jacobian: Array, tree: PyTree) -> PyTree:
    """Returns J M, leaves [S, *shape]."""
    return jax.tree.map(lambda m: jnp.tensordot(jacobian, m, 1), tree)
