"""Cells whose update works unit by unit: how their steps look when linearised.

The new state of unit j depends on the state of unit j and on the preactivations of unit
j alone; other units reach it through z = x W_x + h W_h + b only. So it is with the
LSTM, the GRU and the RNN. Then ds'/ds at fixed z and ds'/dz hold F and G numbers a
unit, for F fields of the state and G blocks of z, and each weight touches one unit.

Whether a cell is of this kind, and what in it depends on what, is found out by probing
its functions at random points: an entry that is zero there is zero by structure. Masks
taken from the values of a run would be wrong wherever an input happens to be zero.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import Cell, GatedWeights, num_columns, preactivations
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
      connections: of each layer, [R, K_h] which recurrent weights there are, or None
        where there is no recurrent product.
    """

    cell: Cell
    hidden_size: int
    by_state: np.ndarray
    by_z: np.ndarray
    rows: np.ndarray
    outputs: np.ndarray
    keeps: float | None
    connections: tuple[np.ndarray | None, ...]

    @property
    def diagonal(self) -> bool:
        """Whether no unit's state reaches another one's within a layer."""
        return all(self._is_diagonal(mask) for mask in self.connections)

    def _is_diagonal(self, mask: np.ndarray | None) -> bool:
        if mask is None:
            return True
        columns = np.arange(mask.shape[1]) % self.hidden_size
        reads = np.full(mask.shape[0], -1)
        for rows in self.rows:
            reads[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        return not np.any(mask & (reads[:, None] != columns))


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
    with jax.ensure_compile_time_eval():
        return _probe(model, model.layers.cell)


def _probe(model: Model, cell: Cell) -> Units | None:
    gated = cell.gated
    assert gated is not None
    random = np.random.default_rng(0)

    def draw(shapes: Any) -> Any:
        return jax.tree.map(
            lambda x: random.normal(size=x.shape).astype(x.dtype), shapes
        )

    shapes = jax.eval_shape(model.init, jax.random.key(0)).recurrent.layers
    layers = draw(shapes)
    state = jax.eval_shape(lambda: cell.initial_state(layers[0], ()))
    weights = jax.eval_shape(lambda: gated.weights(layers[0]))
    fields, columns = jax.tree.leaves(state), num_columns(weights)
    size = fields[0].size
    products = [w.shape[-1] for w in weights[:2] if w is not None]
    if any(leaf.shape != (size,) for leaf in fields) or any(
        count % size for count in (columns, *products)
    ):
        return None
    z = jax.ShapeDtypeStruct((columns,), fields[0].dtype)

    # Any two units differ in a bit: one lies in a set of these, and the other does not.
    bits = np.arange(size) >> np.arange(max(1, size.bit_length()))[:, None] & 1
    sets = np.concatenate([bits, 1 - bits]).astype(z.dtype)
    kinds = np.eye(len(fields) + columns // size, dtype=z.dtype)

    @jax.jit
    def probe(layers: Any, points: Any) -> Any:
        weights = [gated.weights(params) for params in layers]

        def at(point: Any) -> Any:
            def update(state: Any, z: Array) -> Array:
                new = gated.update(weights[0].small, state, z)
                return jnp.stack(jax.tree.leaves(new))

            linear = jax.linearize(update, *point)[1]
            push = jax.vmap(lambda tangent: linear(*tangent))
            by_output = jax.jacrev(cell.output)(point[0])
            return (
                push(jax.vmap(functools.partial(_repeat, point, size))(sets)) != 0,
                push(jax.vmap(functools.partial(_spread, point, size))(kinds)),
                jnp.stack([jnp.any(x != 0) for x in jax.tree.leaves(by_output)]),
            )

        return jax.vmap(at)(points), [
            None if w.w_h is None else w.w_h != 0 for w in weights
        ]

    points = jax.tree.map(
        lambda *x: np.stack(x), *(draw((state, z)) for _ in range(NUM_POINTS))
    )
    (reached, by_kind, outputs), connections = jax.tree.map(
        np.asarray, probe(layers, points)
    )
    if np.any(reached & (sets[:, None] == 0)):
        return None
    rows = _find_rows(gated.read, state, size)
    if rows is None:
        return None
    found = np.any(by_kind != 0, axis=(0, -1)).T
    slopes = by_kind[:, 0]
    leaky = found.shape == (1, 2) and np.ptp(slopes) < 1e-6
    return Units(
        cell,
        size,
        found[:, : len(fields)],
        found[:, len(fields) :],
        rows,
        np.any(outputs, axis=0),
        float(slopes.flat[0]) if leaky else None,
        tuple(connections),
    )


def _repeat(like: Any, size: int, unit: Any) -> Any:
    """Returns a tangent with the same entry [H] in all fields and blocks of z."""
    return jax.tree.map(lambda x: jnp.tile(unit, x.size // size), like)


def _spread(like: Any, size: int, kind: Any) -> Any:
    """Returns a tangent with the same entry in all units, [F + G]."""
    leaves, structure = jax.tree.flatten(like)
    counts = np.cumsum([leaf.size // size for leaf in leaves])[:-1]
    parts = jnp.split(jnp.repeat(kind, size), counts * size)
    return jax.tree.unflatten(structure, parts)


def _find_rows(read: Any, state: Any, size: int) -> np.ndarray | None:
    leaves, structure = jax.tree.flatten(state)
    count = len(leaves)
    numbers = np.arange(count * size, dtype=np.float32).reshape(count, size)
    read_numbers = np.asarray(read(jax.tree.unflatten(structure, list(numbers))))
    sources = read_numbers.astype(int)
    rows = np.full(count * size, -1)
    rows[sources] = np.arange(len(sources))
    twice = len(np.unique(sources)) < len(sources)
    return (
        None
        if twice or np.any(sources != read_numbers)
        else rows.reshape(numbers.shape)
    )


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
            x = layers.encode(step.recurrent.embedding, step.x)
            x = layers.drop(x, n, step.key, step.time)
        weights, h = gated.weights(params), gated.read(state)
        z = preactivations(weights, x, h, layers.compute_dtype)

        def update(small: Any, state: Any, z: Array) -> Array:
            return jnp.stack(jax.tree.leaves(gated.update(small, state, z)))

        push = jax.linearize(functools.partial(update, weights.small), state, z)[1]
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
            by_small = jax.jacrev(update)(weights.small, state, z)
        found.append(LayerStep(x, h, weights, by_state, by_z, by_small, by_x, by_below))
        below = gated.update(weights.small, state, z)
    return found
