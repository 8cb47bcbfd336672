"""The influence of gated weights by columns of z: I_t = D_t (x) u_t.

A weight acts through one column of z = u W, with u = (x, h, 1). So what it does to the
state in a step is D_t = ds'/dz, [S, K], times its row's u: no [S, P] array is needed to
say it, in any gated cell and any stack of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxlstm.cells.base import GatedWeights, num_columns, preactivations
from jaxlstm.estimators.dense import flat
from jaxlstm.estimators.traces import LinearStep
from jaxlstm.model import Model, RecurrentParams
from jaxlstm.types import Array, PyTree
from jaxlstm.varying import like_varying

NUM_POINTS = 3


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
    weights = [gated.weights(params) for params in recurrent.layers]
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
        pull_back = jax.vjp(_gated(model).weights, params)[1]
        found += pull_back(GatedWeights(w_x, w_h, b, small))
    return RecurrentParams(rest.embedding, tuple(found), rest.start)


def linearise(model: Model, step: LinearStep) -> ColumnStep:
    """Linearises a step of one example, by S passes back and as many forward."""
    layers = model.layers
    assert layers is not None
    weights, rest = split(model, step.recurrent)
    vector, unflatten = ravel_pytree(step.previous)
    basis = like_varying(jnp.eye(len(vector), dtype=vector.dtype), vector)
    offsets = like_varying(
        [jnp.zeros(num_columns(w), vector.dtype) for w in weights], vector
    )

    def run(vector: Array, offsets: Any, small: Any, embedding: Any) -> Any:
        x = layers.encode(embedding, step.x)

        def noise(output: Array, layer: int) -> Array:
            return layers.drop(output, layer, step.key, step.time)

        with_small = [w._replace(small=s) for w, s in zip(weights, small, strict=True)]
        return _walk(model, with_small, unflatten(vector), x, offsets, noise)

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


@functools.lru_cache(maxsize=64)
def find_pattern(model: Model) -> Pattern:
    """Returns which entries a gated model's J and I may have, by probing its functions.

    Parameters, state and input are drawn at random: what is zero then is zero by
    structure. Masks taken from the values of a run are wrong for one-hot inputs.
    """
    with jax.ensure_compile_time_eval():
        return _probe(model)


def _probe(model: Model) -> Pattern:
    layers, random = model.layers, np.random.default_rng(0)
    assert layers is not None

    def draw(shapes: Any) -> Any:
        return jax.tree.map(
            lambda x: random.normal(size=x.shape).astype(x.dtype), shapes
        )

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    state = jax.eval_shape(lambda: model.initial_state(draw(shapes), ()))
    x = jax.ShapeDtypeStruct((layers.width,), jax.tree.leaves(state)[0].dtype)

    @jax.jit
    def at(recurrent: Any, state: Any, x: Array) -> Any:
        weights, rest = split(model, recurrent)
        vector, unflatten = ravel_pytree(state)
        offsets = [jnp.zeros(num_columns(w), vector.dtype) for w in weights]

        def run(vector: Array, offsets: Any, small: Any, x: Array) -> Array:
            with_small = [
                w._replace(small=s) for w, s in zip(weights, small, strict=True)
            ]
            drop = lambda output, layer: output  # noqa: E731
            return _walk(model, with_small, unflatten(vector), x, offsets, drop)[0]

        _, pull_back = jax.vjp(run, vector, offsets, rest.small, x)
        found = jax.vmap(pull_back)(jnp.eye(len(vector), dtype=vector.dtype))
        return jax.tree.map(lambda x: x != 0, found)

    points = [
        jax.tree.map(np.asarray, at(*draw((shapes.recurrent, state, x))))
        for _ in range(NUM_POINTS)
    ]
    jacobian, by_z, by_small, by_x = jax.tree.map(lambda *x: np.any(x, axis=0), *points)
    embedding, size = shapes.recurrent.embedding, len(jacobian)
    start = None
    if shapes.recurrent.initial_state is not None:
        _, unflatten = ravel_pytree(draw(state))
        start = jax.tree.map(
            lambda x: np.asarray(x) != 0, jax.vmap(unflatten)(jnp.eye(size))
        )
    if embedding is not None:
        embedding = np.repeat(by_x[:, None], len(embedding), axis=1)
    return Pattern(jacobian, tuple(by_z), Rest(by_small, embedding, start))


def _walk(
    model: Model,
    weights: list[GatedWeights],
    state: Any,
    x: Array,
    offsets: list[Array],
    drop: Callable[[Array, int], Array],
) -> tuple[Array, Any]:
    """Makes a step with offsets on z; returns the state [S], and x and h by layer."""
    gated, cell = _gated(model), model.layers.cell  # type: ignore[union-attr]
    found, factors = [], []
    for n, (w, layer_state) in enumerate(zip(weights, state, strict=True)):
        x, h = drop(x, n), gated.read(layer_state)
        z = preactivations(w, x, h, model.layers.compute_dtype)  # type: ignore[union-attr]
        new = gated.update(w.small, layer_state, z + offsets[n])
        found.append(new)
        factors.append((x, h))
        x = cell.output(new)
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
    for w, row, first in zip(weights[:3], rows, (True, False, True), strict=True):
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
