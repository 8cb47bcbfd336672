"""One step of a model with the ways into it apart: the state's own, and by h W_h."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import (
    Cell,
    StepNoise,
    dense_weights,
    num_columns,
    pad_columns,
    product,
    update,
)
from jaxlstm.diagnostics.blocks import column_gates
from jaxlstm.diagnostics.transition import Inputs
from jaxlstm.model import Model, ModelParams
from jaxlstm.noise import fold_in
from jaxlstm.select import keep, select
from jaxlstm.types import Array, Key, PyTree


class Ways(NamedTuple):
    """A step, linearised where it is made; states have leaves [B, ...].

    A masked step hands on what it gets. What enters a step that follows a reset comes
    from the initial state, and not from the step before.

    Attributes:
      push: `(d recurrent) -> ds_t` at a fixed state before the step.
      pull: `(lambda [R, B, ...]) -> [R, ...]` by the recurrent parameters.
      back: `(lambda [R, B, ...]) -> (start, previous)`, of the same shapes: what goes
        back, over the ways into the step, to the initial state and to the step before.
    """

    push: Callable[[PyTree], Any]
    pull: Callable[[Any], PyTree]
    back: Callable[[Any], tuple[Any, Any]]


def recurrent_gates(model: Model, params: ModelParams) -> list[str]:
    """Returns the names of the gates that recurrent weights reach, in z's order."""
    assert model.layers is not None
    gated = model.layers.cell.gated
    if gated is None:
        return []
    weights = jax.eval_shape(dense_weights(gated), params.recurrent.layers[0])
    if weights.w_h is None:
        return []
    numbers = np.unique(column_gates(gated, weights).w_h)
    return [gated.gates[n].name for n in numbers]


def linearise(
    model: Model,
    params: ModelParams,
    previous: Any,
    inputs: Inputs,
    keys: Key | None = None,
) -> Ways:
    """Linearises a step of a model with `layers`.

    Lambdas are by route: first that of the step's own loss, then that of the state
    alone, then one for each of `recurrent_gates`. A cell that has none of these has two
    routes, of which the second takes all.

    Args:
      model: has `layers`.
      params: of the model.
      previous: the state before the step, and before a reset.
      inputs: of the step, leaves [B, ...].
      keys: [B] of the examples' noise; None for none.
    """
    count = len(recurrent_gates(model, params))
    start = model.initial_state(params, inputs.mask.shape)
    state = select(inputs.reset, start, previous)
    by_gate = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), state)

    def step(recurrent: Any, state: Any, by_gate: Any) -> Any:
        return _step(model, recurrent, state, by_gate, inputs, keys)

    _, transpose = jax.vjp(step, params.recurrent, state, by_gate)

    def within(mask: Array, tree: Any) -> Any:
        return keep(mask, tree, jax.tree.map(jnp.zeros_like, tree))

    def push(tangent: PyTree) -> Any:
        def advance(recurrent: Any) -> Any:
            return step(recurrent, state, by_gate)

        made = jax.jvp(advance, (params.recurrent,), (tangent,))[1]
        return within(inputs.mask, made)

    def pull(cotangents: Any) -> PyTree:
        return jax.vmap(lambda x: transpose(within(inputs.mask, x))[0])(cotangents)

    def own_way(cotangent: Any) -> Any:
        into = transpose(within(inputs.mask, cotangent))[1]
        return jax.tree.map(jnp.add, into, within(~inputs.mask, cotangent))

    def back(cotangents: Any) -> tuple[Any, Any]:
        whole = jax.tree.map(lambda x: x.sum(axis=0), cotangents)
        by_h = transpose(within(inputs.mask, whole))[2]

        def gather(own: Array, by_h: Array) -> Array:
            alone = own[0] + own[1]
            first = jnp.stack([jnp.zeros_like(alone), alone])
            return jnp.concatenate([first, own[2:] + by_h])

        reached = jax.tree.map(gather, jax.vmap(own_way)(cotangents), by_h)
        to_start, to_previous = (
            jax.vmap(functools.partial(within, where))(reached)
            for where in (inputs.reset, ~inputs.reset)
        )
        return to_start, to_previous

    return Ways(push, pull, back)


def _step(
    model: Model,
    recurrent: Any,
    state: Any,
    by_gate: Any,
    inputs: Inputs,
    keys: Key | None,
) -> Any:
    """Makes a step whose recurrent weights read h apart for each gate.

    Args:
      model: has `layers`.
      recurrent: its parameters.
      state: before the step, leaves [B, ...], for the ways of its own.
      by_gate: the same for each of `recurrent_gates`, leaves [gates, B, ...].
      inputs: of the step.
      keys: of the noise.
    """
    assert model.layers is not None
    layers, states = model.layers, []
    key = None if keys is None else fold_in(keys, 0)
    output = layers.encode(recurrent.embedding, inputs.x, key, inputs.time)
    for n, layer in enumerate(zip(recurrent.layers, state, by_gate, strict=True)):
        output = layers.drop(output, n, key, inputs.time)
        noise = layers.noise(state[n], n, key, inputs.time)
        new = _cell_step(layers.cell, *layer, output, layers.compute_dtype, noise)
        output = layers.cell.output(new)
        states.append(new)
    return tuple(states)


def _cell_step(
    cell: Cell,
    params: Any,
    state: Any,
    by_gate: Any,
    x: Array,
    compute_dtype: Any,
    noise: StepNoise | None,
) -> Any:
    gated = cell.gated
    if gated is None:
        return cell.step(params, state, x)[0]
    weights = dense_weights(gated)(params)
    columns = num_columns(weights)
    z = pad_columns(product(x, weights.w_x, compute_dtype), columns, "right")
    if weights.w_h is not None:
        # Gates stand side by side, the first of them perhaps in part.
        numbers = column_gates(gated, weights).w_h
        blocks = jnp.split(weights.w_h, np.flatnonzero(np.diff(numbers)) + 1, axis=-1)
        parts = [
            product(h, block, compute_dtype)
            for h, block in zip(gated.read(by_gate), blocks, strict=True)
        ]
        z = z + pad_columns(jnp.concatenate(parts, axis=-1), columns, "left")
    if weights.b is not None:
        z = z + jnp.broadcast_to(weights.b, z.shape)
    return update(gated, weights.small, state, z, noise)
