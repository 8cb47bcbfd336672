"""The influence of gated layers, by the structure that their gates give it.

A weight touches one unit, so that I_t holds one row for each weight; and J_t is one
dense block by h, for each field of the state, and a diagonal by the state itself:

    J[f, f'] = by_z[f] W_h(f')^T + diag(by_state[f, f'])

The influence of layer m's parameters on layer l >= m is a tuple over the fields of l,
of `Theta`. Its leaves are [H, *shape]: all units of l; or, where only the unit that a
weight touches is followed, [*shape].
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import GatedWeights, dense_weights
from jaxlstm.estimators.columns import FIRST, Rest, columns_of, join, spread
from jaxlstm.estimators.traces import LinearStep, Trace, add
from jaxlstm.estimators.units import LayerStep, Units, linearise
from jaxlstm.model import Model, ModelParams, RecurrentParams
from jaxlstm.types import Array, Key

# What carries the influence on a layer from step to step.
#   "all": the whole J. "unit": its entries within a unit. "state": those at fixed z.
Carry = Literal["all", "unit", "state"]


class Theta(NamedTuple):
    """The parameters of a layer, apart by the way they act.

    Attributes:
      weights: through z; the small ones inside `update`.
      start: the state that a sequence starts from, or None.
      embedding: [X, E] of the first layer, or None.
    """

    weights: GatedWeights
    start: Any
    embedding: Array | None


def layered(
    model: Model,
    units: Units,
    *,
    carry: Carry,
    own: bool,
    layerwise: bool = False,
    kept: np.ndarray | None = None,
) -> Trace:
    """Keeps the influence layer by layer.

    Args:
      model: the model.
      units: what `find_units` says of it.
      carry: what carries it from step to step.
      own: whether weights are followed in the unit that they touch alone.
      layerwise: whether parameters are followed in their own layer alone. The loss then
        reaches a lower layer through those above it within a step.
      kept: [F, G] which fields are followed for weights of a gate, with `own`; by
        default all.

    Returns:
      The trace. In time and memory it costs O(P) a step with `own` in a single layer,
      and else S P of memory and O(S H P) of time, 4 H^2 P for an LSTM.
    """
    gated = units.cell.gated
    assert gated is not None
    cross: Carry = "all" if carry == "unit" and not units.diagonal else carry

    def lower(layer: int) -> range:
        return range(layer, layer + 1) if layerwise else range(layer + 1)

    def is_own(layer: int, m: int) -> bool:
        return own and layer == m

    def start(params: ModelParams, key: Key, time: Array) -> Any:
        del key, time
        recurrent = params.recurrent
        states = model.initial_state(params, ())
        return [
            [
                _start_block(
                    _theta(recurrent, m, dense_weights(gated)),
                    state,
                    is_own(n, m),
                    n == m,
                )
                for m in lower(n)
            ]
            for n, state in enumerate(states)
        ]

    def advance(influence: Any, step: LinearStep, key: Key) -> Any:
        del key
        found: list[list[Any]] = []
        for n, layer in enumerate(linearise(model, units, step)):
            row = []
            for m, block in zip(lower(n), influence[n], strict=True):
                if n == m:
                    pushed = _push(units, layer, block, carry, own)
                    pushed = add(
                        pushed, _immediate(model, units, layer, step, m, block, own)
                    )
                    if kept is not None:
                        pushed = _keep(units, pushed, kept)
                else:
                    pushed = _push(units, layer, block, cross, False)
                    pushed = add(
                        pushed, _lift(units, layer, found[-1][m], is_own(n - 1, m))
                    )
                row.append(pushed)
            found.append(row)
        return found

    def pull_back(influence: Any, q: Any, step: LinearStep) -> list[Theta]:
        qs = [jnp.stack(jax.tree.leaves(part)) for part in q]
        if layerwise and len(qs) > 1:
            steps = linearise(model, units, step)
            for n in reversed(range(1, len(qs))):
                by_below = steps[n].by_below
                assert by_below is not None
                qs[n - 1] = qs[n - 1] + jnp.tensordot(qs[n], by_below, 2)
        sums: list[Any] = [None] * len(qs)
        for n, row in enumerate(influence):
            for m, block in zip(lower(n), row, strict=True):
                found = _contract(qs[n], block, is_own(n, m))
                sums[m] = found if sums[m] is None else add(sums[m], found)
        return sums

    def finish(recurrent: RecurrentParams, sums: list[Theta]) -> RecurrentParams:
        starts = None
        if recurrent.initial_state is not None:
            starts = tuple(theta.start for theta in sums)
        small = tuple(theta.weights.small for theta in sums)
        rest = Rest(small, sums[0].embedding, starts)
        return join(model, recurrent, [theta.weights[:3] for theta in sums], rest)

    return Trace(start, advance, pull_back, finish)


def _theta(recurrent: RecurrentParams, m: int, weights: Any) -> Theta:
    starts = recurrent.initial_state
    return Theta(
        weights(recurrent.layers[m]),
        None if starts is None else starts[m],
        recurrent.embedding if m == 0 else None,
    )


def _start_block(theta: Theta, state: Any, own: bool, same: bool) -> tuple[Theta, ...]:
    """Returns the influence on a first state: that of the state which is learned."""
    fields, structure = jax.tree.flatten(state)

    def zeros(leaf: Array) -> Array:
        return jnp.zeros((*fields[0].shape, *leaf.shape), leaf.dtype)

    def block(field: int) -> Theta:
        found = jax.tree.map(zeros, theta)
        if own:
            weights = theta.weights[:3]
            found = _with_own(found, jax.tree.map(jnp.zeros_like, weights))
        if theta.start is None or not same:
            return found
        leaves = [zeros(leaf) for leaf in fields]
        leaves[field] = jnp.eye(len(fields[field]), dtype=fields[field].dtype)
        return found._replace(start=jax.tree.unflatten(structure, leaves))

    return tuple(block(n) for n in range(len(fields)))


def _with_own(theta: Theta, leaves: Any) -> Theta:
    """Puts others in the place of w_x, w_h and b."""
    w_x, w_h, b = leaves
    return theta._replace(weights=GatedWeights(w_x, w_h, b, theta.weights.small))


def _map(theta: Theta, function: Any, own: bool) -> Theta:
    """Maps `(own, leaf) -> leaf` over the leaves."""
    if not own:
        return jax.tree.map(functools.partial(function, False), theta)
    none = _with_own(theta, (None, None, None))
    rest = jax.tree.map(functools.partial(function, False), none)
    return _with_own(
        rest, [None if w is None else function(True, w) for w in theta.weights[:3]]
    )


def _per_unit(value: Array, leaf: Array, own: bool) -> Array:
    """Shapes a value a unit, [H], to multiply a leaf with it."""
    if own:
        value = jnp.tile(value, leaf.shape[-1] // len(value))
        return jnp.broadcast_to(value, leaf.shape)
    return value.reshape(-1, *[1] * (leaf.ndim - 1))


def _rows(units: Units, weights: GatedWeights, field: int) -> Array | None:
    """Returns the recurrent weights of each unit's field, [H, G_h, H]."""
    rows = units.rows[field]
    if weights.w_h is None or np.all(rows < 0):
        return None
    w_h = weights.w_h
    if len(w_h) != len(rows) or np.any(rows != np.arange(len(rows))):
        known = jnp.asarray(rows >= 0)[:, None]
        w_h = jnp.where(known, w_h[np.maximum(rows, 0)], 0)
    return w_h.reshape(len(rows), -1, units.hidden_size)


def _push(
    units: Units, layer: LayerStep, block: tuple[Theta, ...], carry: Carry, own: bool
) -> tuple[Theta, ...]:
    """Returns J M of a layer's own J."""
    fields = range(len(block))
    diagonal = [[layer.by_state[f, k] for k in fields] for f in fields]
    known = [[bool(units.by_state[f, k]) for k in fields] for f in fields]
    products = None
    for k in fields:
        rows = None if carry == "state" else _rows(units, layer.weights, k)
        if rows is None:
            continue
        by_z = layer.by_z[:, layer.by_z.shape[1] - rows.shape[1] :]
        if carry == "unit":
            within = jnp.einsum("fgj,jgj->fj", by_z, rows)
            for f in fields:
                diagonal[f][k], known[f][k] = diagonal[f][k] + within[f], True
            continue
        jacobian = jnp.einsum("fgj,rgj->fjr", by_z, rows)
        # All fields by one product: it reads M once.
        product = jax.tree.map(
            lambda leaf, j=jacobian: jnp.tensordot(j, leaf, 1), block[k]
        )
        products = product if products is None else add(products, product)

    def push(f: int) -> Theta:
        total = None
        if products is not None:
            total = jax.tree.map(lambda leaf: leaf[f], products)
        for k in fields:
            if known[f][k]:
                scaled = _map(
                    block[k],
                    lambda own, leaf, d=diagonal[f][k]: _per_unit(d, leaf, own) * leaf,
                    own,
                )
                total = scaled if total is None else add(total, scaled)
        return jax.tree.map(jnp.zeros_like, block[f]) if total is None else total

    return tuple(push(f) for f in fields)


def _immediate(
    model: Model,
    units: Units,
    layer: LayerStep,
    step: LinearStep,
    m: int,
    block: tuple[Theta, ...],
    own: bool,
) -> tuple[Theta, ...]:
    """Returns I, of the parameters of a layer on its own state."""
    layers, size = model.layers, units.hidden_size
    assert layers is not None
    weights: Any = layer.weights
    embedding = step.recurrent.embedding
    pull = None
    if m == 0 and embedding is not None:
        pull = jax.vjp(
            lambda e: layers.encode(e, step.x, step.key, step.time), embedding
        )[1]

    def field(f: int) -> Theta:
        by_z = layer.by_z[f].reshape(-1)
        if not own:
            touched = np.tile(np.eye(size, dtype=bool), len(by_z) // size)
            by_z = jnp.where(touched, by_z[None], 0)
        leaves = spread(weights, (layer.x, layer.h, jnp.ones(())), by_z)
        rest = Theta(
            weights._replace(small=jax.tree.map(lambda x: x[f], layer.by_small)),
            jax.tree.map(jnp.zeros_like, block[f].start),
            None if pull is None else jax.vmap(pull)(layer.by_x[f])[0],
        )
        return _with_own(rest, leaves)

    return tuple(field(f) for f in range(len(block)))


def _lift(
    units: Units, layer: LayerStep, block: tuple[Theta, ...], own: bool
) -> tuple[Theta, ...]:
    """Returns what the influence on the layer below adds to that on a layer."""
    by_below = layer.by_below
    assert by_below is not None

    def lift(f: int) -> Theta:
        total = None
        for k in np.flatnonzero(units.outputs):
            jacobian = by_below[f, :, k]

            def product(own: bool, leaf: Array, j: Array = jacobian) -> Array:
                if not own:
                    return jnp.tensordot(j, leaf, 1)
                j = jnp.tile(j, (1, leaf.shape[-1] // j.shape[1]))
                shape = len(j), *[1] * (leaf.ndim - 1), leaf.shape[-1]
                return j.reshape(shape) * leaf[None]

            term = _map(block[k], product, own)
            total = term if total is None else add(total, term)
        assert total is not None
        return total

    return tuple(lift(f) for f in range(len(by_below)))


def _contract(q: Array, block: tuple[Theta, ...], own: bool) -> Theta:
    """Returns q M."""

    def contract(own: bool, leaf: Array, q: Array) -> Array:
        return _per_unit(q, leaf, own) * leaf if own else jnp.tensordot(q, leaf, 1)

    terms = [
        _map(theta, lambda own, leaf, q=q[f]: contract(own, leaf, q), own)
        for f, theta in enumerate(block)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = add(total, term)
    return total


def _keep(
    units: Units, block: tuple[Theta, ...], kept: np.ndarray
) -> tuple[Theta, ...]:
    """Leaves out weights where `kept` does; a first state is kept in its own field."""

    def keep(f: int, theta: Theta) -> Theta:
        columns = np.repeat(kept[f], units.hidden_size)
        leaves = [
            None if w is None else jnp.where(columns_of(columns, w, first=first), w, 0)
            for w, first in zip(theta.weights[:3], FIRST, strict=True)
        ]
        starts, structure = jax.tree.flatten(theta.start)
        starts = [x if f == k else jnp.zeros_like(x) for k, x in enumerate(starts)]
        theta = _with_own(theta, leaves)
        return theta._replace(start=jax.tree.unflatten(structure, starts))

    return tuple(keep(f, theta) for f, theta in enumerate(block))
