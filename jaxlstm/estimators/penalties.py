"""Penalties on what a model's last layer gives, added to the loss of each step."""

import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxlstm.estimators.base import Segment
from jaxlstm.model import Model
from jaxlstm.noise import Keys, fold_in
from jaxlstm.select import like
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array


class PenaltyFn(Protocol):
    """Gives the penalty of each step."""

    def __call__(
        self, before: Any, states: Any, begins: Array, keys: Keys, time: Array
    ) -> Array:
        """Looks at the states of a stretch of time.

        Args:
          before: the model's state before its first step, leaves [B, ...].
          states: those after its steps, leaves [T, B, ...].
          begins: [T, B] whether a step is the first of a sequence.
          keys: [B] a key for each example.
          time: [] the number of the first step.

        Returns:
          [T, B].
        """
        ...


def penalize(
    model: Model, *, activation: float, temporal_activation: float
) -> PenaltyFn | None:
    """Makes the penalty on activations, and on their changes in time.

        penalty_t = activation mean_H(m_t^2)
                  + temporal_activation mean_H((h_t - h_{t-1})^2)

    with h_t [H] the last layer's output, and m_t what the readout takes of it, after
    the dropout on its way there. Into the first step of a sequence there is no change.

    Args:
      model: the model.
      activation: factor of the first.
      temporal_activation: factor of the second.

    Returns:
      What gives the penalty of each step; None where both factors are 0.

    Raises:
      ValueError: a factor is negative or not finite, or the model has no `output`.
    """
    factors = {"activation": activation, "temporal_activation": temporal_activation}
    for name, factor in factors.items():
        if not 0 <= factor < math.inf:
            raise OptionError(f"{name}: value is {factor}; use a number, 0 or more")
        if factor and model.output is None:
            raise OptionError(
                f"{name}: value is {factor}, and the model has no output to say what "
                "its readout takes; give it one, or leave the option out"
            )
    output = model.output
    if output is None or not any(factors.values()):
        return None

    def penalty(
        before: Any, states: Any, begins: Array, keys: Keys, time: Array
    ) -> Array:
        terms = []
        if activation:
            taken = output(states, key=fold_in(keys, 1), time=time)
            terms.append(activation * jnp.mean(taken**2, axis=-1))
        if temporal_activation:
            outputs = output(states)
            previous = jnp.concatenate([output(before)[None], outputs[:-1]])
            change = jnp.where(like(begins, outputs), 0, outputs - previous)
            terms.append(temporal_activation * jnp.mean(change**2, axis=-1))
        return functools.reduce(jnp.add, terms)

    return penalty


def find_begins(segment: Segment, batch_shape: tuple[int, ...], time: Array) -> Array:
    """Tells which steps are the first of a sequence.

    A sequence begins at time 0 and at every reset, with its first step that is there.

    Args:
      segment: leaves [T, B, ...].
      batch_shape: B.
      time: [] the number of the first step.

    Returns:
      [T, B] booleans.
    """
    shape = len(jax.tree.leaves(segment.inputs)[0]), *batch_shape
    steps = jax.lax.broadcasted_iota(jnp.int32, shape, 0)

    def is_set(control: Any) -> Array:
        return like(jnp.asarray(control), steps) != 0

    def last(condition: Array) -> Array:
        return jax.lax.cummax(jnp.where(condition, steps, -1))

    starts = time + steps == 0
    if segment.resets is not None:
        starts |= is_set(segment.resets)
    if segment.mask is None:
        return starts
    present = is_set(segment.mask)
    none = jnp.full((1, *batch_shape), -1, steps.dtype)
    before = jnp.concatenate([none, last(present)[:-1]])
    return present & (last(starts) > before)
