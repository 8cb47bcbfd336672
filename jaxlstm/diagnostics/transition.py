"""One step of a model as its `unroll` makes it, apart, so that it can be linearised."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.edges import Edges, Hooks
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, ModelParams
from jaxlstm.noise import fold_in, of_segment
from jaxlstm.select import keep, like, select
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key


class Inputs(NamedTuple):
    """What goes into steps beside parameters and state, leaves [T, B, ...].

    Of a single step they are [B, ...], which `lax.scan` makes of them.

    Attributes:
      x: of the model, zeros where a step is masked.
      mask: [T, B] whether a step is there.
      reset: [T, B] whether the initial state is put in place before it.
      time: [T] the number of the step.
    """

    x: Any
    mask: Array
    reset: Array
    time: Array


def read_inputs(segment: Segment, *, begins: bool) -> Inputs:
    """Returns the inputs of a segment's steps, numbered from 0.

    Args:
      segment: leaves [T, B, ...].
      begins: whether the first step starts from the model's initial state.
    """
    shape = jax.tree.leaves(segment.inputs)[0].shape[:2]
    ones = jnp.ones(shape, bool)
    mask, resets = (
        default if control is None else _spread(control, default)
        for control, default in ((segment.mask, ones), (segment.resets, ~ones))
    )
    time = jnp.arange(shape[0])
    x = jax.tree.map(
        lambda x: keep(mask, jnp.asarray(x), jnp.zeros_like(x)), segment.inputs
    )
    first = like(time == 0, ones) & begins
    return Inputs(x, mask, resets | first, time)


def transition(
    model: Model,
    params: ModelParams,
    state: Any,
    inputs: Inputs,
    keys: Key | None = None,
    edges: Edges | Hooks | None = None,
) -> Any:
    """Returns the state after a step.

        s_t = F(params, s_{t-1}, x_t),   s_{t-1} where the step is masked,
                                         F(params, s_0(params), x_t) after a reset

    Args:
      model: has a `step`.
      params: all of them, as a learned initial state is one.
      state: s_{t-1}, leaves [B, ...].
      inputs: of the step, leaves [B, ...].
      keys: [B] of the examples' noise, as an estimator's state holds them; None for
        none.
      edges: into the step, for a model with `layers`.

    Raises:
      OptionError: the model has no step.
    """
    if model.step is None:
        raise OptionError("the model has no online form: it cannot be run step by step")
    start = model.initial_state(params, inputs.mask.shape)
    state = select(inputs.reset, start, state)
    noise = None if keys is None else fold_in(of_segment(keys, 0), 0)
    options: dict = {} if edges is None else {"edges": edges}
    new = model.step(
        params.recurrent, state, inputs.x, key=noise, time=inputs.time, **options
    )
    return keep(inputs.mask, new, state)


def _spread(control: Array, ones: Array) -> Array:
    control = jnp.asarray(control) != 0
    return jnp.broadcast_to(like(control, ones), ones.shape)
