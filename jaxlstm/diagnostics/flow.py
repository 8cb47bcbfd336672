"""Gradient flow: the gradient by every state and input, at every step and layer."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.diagnostics.transition import read_inputs
from jaxlstm.diagnostics.walk import Taps, walk, zeros_like_floating
from jaxlstm.estimators import LossFn, Segment, score
from jaxlstm.model import Model, ModelParams
from jaxlstm.noise import fold_in
from jaxlstm.types import Array, Key


class Flow(NamedTuple):
    """Where the gradient of a segment's loss goes, by layer from the input up.

    Attributes:
      loss: [] sum of weight times loss.
      states: dL/ds_t of each layer, of the structure of its state, leaves [T, B, ...];
        of the norms [T]. None for leaves of integers.
      inputs: dL/dx_t of each layer, [T, B, X], or [T]; zeros on masked steps.
    """

    loss: Array
    states: tuple[Any, ...]
    inputs: tuple[Any, ...]


def gradient_flow(
    model: Model,
    loss_fn: LossFn,
    params: ModelParams,
    segment: Segment,
    *,
    state: Any = None,
    keys: Key | None = None,
) -> Flow:
    """Returns the gradient by all states and inputs, in one backward pass.

        s_t = F(params, s_{t-1}, x_t) + e_t,      dL/ds_t = dL/de_t  at e = 0
        dL/ds_t = dl_t/ds_t + J_{t+1}^T dL/ds_{t+1},   J_t = ds_t/ds_{t-1}

    A derivative by s_t holds the other fields of s_t still. In an LSTM c_t reaches h_t
    within step t, so that dL/dc_t is here what passes on by c alone, past h_t; with the
    way by h_t it is dL/dc_t + dL/dh_t * o_t * (1 - tanh(c_t)^2). That of a lower layer
    has the way through the layers above at step t in it.

    A masked step hands on what it gets. Nothing passes a reset.

    Args:
      model: has a `step`. With `layers`, inputs are those of each layer, the first of
        them encoded (one-hot, or a row of the embedding) and each after its noise;
        without, the model is one layer, and its input that of the segment.
      loss_fn: `(prediction, target) -> loss of each example`.
      params: of the model.
      segment: leaves [T, B, ...].
      state: before the first step, leaves [B, ...]; by default the initial one.
      keys: [B] of the examples' noise; None for none.

    Returns:
      The gradients. Memory O(T B S), time of one gradient without that of the weights.

    Raises:
      OptionError: the model has no step.

    References:
      Hochreiter, Untersuchungen zu dynamischen neuronalen Netzen, 1991. Bengio, Simard
      and Frasconi, Learning Long-Term Dependencies with Gradient Descent Is Difficult,
      IEEE Transactions on Neural Networks 5(2), 1994.
    """
    inputs = read_inputs(segment, begins=state is None)
    if state is None:
        state = model.initial_state(params, inputs.mask.shape[1:])
    run = functools.partial(walk, model)
    shapes = jax.eval_shape(run, params, inputs, state, keys)
    taps = Taps(*zeros_like_floating((shapes.states, shapes.inputs)))
    noise = None if keys is None else fold_in(keys, 1)

    def total(taps: Taps) -> Array:
        states = run(params, inputs, state, keys, taps).states
        prediction = model.readout(
            params, states if model.layers is not None else states[0], key=noise
        )
        losses, weights = score(loss_fn, prediction, segment)
        return jnp.sum(weights * losses)

    loss, grads = jax.value_and_grad(total)(taps)
    return Flow(loss, *grads)


def flow_norms(flow: Flow) -> Flow:
    """Returns the norms over units and batch, [T] in the place of [T, B, ...]."""

    def norm(x: Array) -> Array:
        return jnp.linalg.norm(x.reshape(len(x), -1), axis=1)

    return flow._replace(
        states=jax.tree.map(norm, flow.states), inputs=jax.tree.map(norm, flow.inputs)
    )
