"""The steps of a model, layer by layer, with what goes in and what comes out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.diagnostics.transition import Inputs, transition
from jaxlstm.model import Model, ModelParams
from jaxlstm.noise import fold_in
from jaxlstm.select import keep, select
from jaxlstm.sequence import advance
from jaxlstm.types import Array, Key, PyTree


class Taps(NamedTuple):
    """What is added on the way: zeros, by which one can differentiate.

    Attributes:
      states: to the states after the steps, as in `Walk`; None where nothing is.
      inputs: to the inputs of the layers, likewise.
    """

    states: tuple[Any, ...]
    inputs: tuple[Any, ...]


class Walk(NamedTuple):
    """What goes into each step of each layer, and what comes out; leaves [T, B, ...].

    A model without `layers` counts as one layer.

    Attributes:
      previous: by layer, the state that goes into the step: s_{t-1}, or after a reset
        the initial state.
      inputs: by layer, x_t; of a masked step they mean nothing.
      states: by layer, s_t; of a masked step that which is carried over it.
    """

    previous: tuple[Any, ...]
    inputs: tuple[Any, ...]
    states: tuple[Any, ...]


def walk(
    model: Model,
    params: ModelParams,
    inputs: Inputs,
    state: Any,
    keys: Key | None = None,
    taps: Taps | None = None,
) -> Walk:
    """Runs a model step by step, and keeps what each layer meets.

    Args:
      model: has a `step`.
      params: all of them, as a learned initial state is one.
      inputs: of the steps, leaves [T, B, ...].
      state: before the first step, leaves [B, ...].
      keys: [B] of the examples' noise; None for none.
      taps: added to states and inputs, leaves [T, B, ...]. What is added to a layer's
        state reaches the layers above within the step, and the next step.

    Raises:
      OptionError: the model has no step.
    """
    start = model.initial_state(params, inputs.mask.shape[1:])

    def body(state: Any, xs: tuple[Inputs, Taps | None]) -> tuple[Any, Walk]:
        inputs, taps = xs
        state = select(inputs.reset, start, state)
        if model.layers is None:
            made = _whole_step(model, params, state, inputs, keys, taps)
            return made.states[0], made
        made = _layered_step(model, params, state, inputs, keys, taps)
        return made.states, made

    return jax.lax.scan(body, state, (inputs, taps))[1]


def _whole_step(
    model: Model,
    params: ModelParams,
    state: Any,
    inputs: Inputs,
    keys: Key | None,
    taps: Taps | None,
) -> Walk:
    if taps is not None:
        inputs = inputs._replace(x=_add(inputs.x, taps.inputs[0]))
    new = transition(model, params, state, inputs, keys)
    if taps is not None:
        new = _add(new, taps.states[0])
    return Walk((state,), (inputs.x,), (new,))


def _layered_step(
    model: Model,
    params: ModelParams,
    state: Any,
    inputs: Inputs,
    keys: Key | None,
    taps: Taps | None,
) -> Walk:
    assert model.layers is not None
    layers, recurrent = model.layers, params.recurrent
    key = None if keys is None else fold_in(keys, 0)
    output = layers.encode(recurrent.embedding, inputs.x, key, inputs.time)
    xs, states = [], []
    for n, (layer, old) in enumerate(zip(recurrent.layers, state, strict=True)):
        x = layers.drop(output, n, key, inputs.time)
        noise = layers.noise(old, n, key, inputs.time)
        if taps is not None:
            x = _add(x, taps.inputs[n])
        new = advance(
            layers.cell, layer, old, x, compute_dtype=layers.compute_dtype, noise=noise
        )
        new = keep(inputs.mask, new, old)
        if taps is not None:
            new = _add(new, taps.states[n])
        output = layers.cell.output(new)
        xs.append(x)
        states.append(new)
    return Walk(tuple(state), tuple(xs), tuple(states))


def _add(tree: PyTree, taps: PyTree) -> PyTree:
    def add(x: Array, tap: Array | None) -> Array:
        return x if tap is None else x + tap

    return jax.tree.map(add, tree, taps)


def zeros_like_floating(tree: PyTree) -> PyTree:
    """Returns zeros of the shapes of a tree's leaves; None for those of integers."""

    def zeros(leaf: Any) -> Array | None:
        floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.zeros(leaf.shape, leaf.dtype) if floating else None

    return jax.tree.map(zeros, tree)
