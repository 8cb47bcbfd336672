"""The exact gradient resolved by lag: how far before a loss the weights acted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.diagnostics.transition import Inputs, read_inputs, transition
from jaxlstm.estimators import LossFn, Segment, score
from jaxlstm.model import Model, ModelParams
from jaxlstm.noise import fold_in
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key, PyTree


class LagGradients(NamedTuple):
    """A gradient as the sum of what weights did at each lag before a loss.

    Attributes:
      loss: [] sum over steps and examples of weight times loss.
      weight: [] sum of the weights.
      grads: the gradient by lag, leaves [K, ...] of the parameters' structure.
      beyond: the gradient of all lags from K on, leaves [...].
    """

    loss: Array
    weight: Array
    grads: PyTree
    beyond: PyTree

    @property
    def num_lags(self) -> int:
        """K."""
        return len(jax.tree.leaves(self.grads)[0])

    @property
    def total(self) -> PyTree:
        """The exact gradient, that of all lags together."""
        return jax.tree.map(lambda x, y: x.sum(axis=0) + y, self.grads, self.beyond)


def lag_gradients(
    model: Model,
    loss_fn: LossFn,
    params: ModelParams,
    segment: Segment,
    *,
    state: Any = None,
    keys: Key | None = None,
    num_lags: int | None = None,
) -> LagGradients:
    """Splits the exact gradient by the lag from a step to the losses it acts on.

        g_k = sum_t I_{t-k}^T dl_t/ds_{t-k}    I_t = ds_t/dtheta at fixed s_{t-1}
          g = sum_k g_k                        the gradient of `bptt`

    so that the sum of the first k is the gradient of `tbptt` with horizon k and stride
    1, for every k. The readout's own gradient has lag 0, that of an initial state the
    lag of the step that starts from it; masked steps count. What follows from it is in
    `advise`.

    One scan forward keeps the states. One scan backward carries the derivatives of the
    K losses ahead of a step, side by side:

        lambda_t^(k) = dl_{t+k}/ds_t                  q_t = dl_t/ds_t at fixed weights
                     = J_{t+1}^T lambda_{t+1}^(k-1)   J_t = ds_t/ds_{t-1}
        lambda_t^(0) = q_t
                g_k += I_t^T lambda_t^(k)

    What leaves the last lag is gathered in one more, so that nothing is lost where K is
    less than T. *Exact*. Costs K P + K B S memory beside the states, with P weights and
    S numbers in the state, and K times the backward pass of `bptt`.

    Args:
      model: has a `step`.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      params: of the model.
      segment: leaves [T, B, ...].
      state: before the first step, leaves [B, ...], held fixed; by default the model's
        initial state, whose gradient is given.
      keys: [B] of the examples' noise, as in an estimator's state; None for none.
      num_lags: K, up to T; by default T.

    Returns:
      The gradients by lag.

    Raises:
      OptionError: the model has no step, or K is not in 1..T.

    References:
      Williams and Peng, An Efficient Gradient-Based Algorithm for On-Line Training of
      Recurrent Network Trajectories, Neural Computation 2(4), 1990.
    """
    count = check_lags(num_lags, segment)
    record = run_forward(model, loss_fn, params, segment, state, keys)

    def advance(carry: Any, xs: tuple[Inputs, Any, Any]) -> tuple[Any, None]:
        grads, pulled = carry
        inputs, previous, q = xs

        def step(params: ModelParams, previous: Any) -> Any:
            return transition(model, params, previous, inputs, keys)

        _, pull = jax.vjp(step, params, previous)
        terms, pulled = jax.vmap(pull)(shift_lags(q, pulled))
        return (jax.tree.map(jnp.add, grads, terms), pulled), None

    grads, nothing = (
        jax.tree.map(lambda x: jnp.zeros((count + 1, *x.shape), x.dtype), tree)
        for tree in (params, jax.tree.map(lambda x: x[0], record.q))
    )
    xs = record.inputs, record.previous, record.q
    (grads, _), _ = jax.lax.scan(advance, (grads, nothing), xs, reverse=True)
    grads = jax.tree.map(lambda x, r: x.at[0].add(r), grads, record.direct)
    return LagGradients(
        record.loss,
        record.weight,
        jax.tree.map(lambda x: x[:-1], grads),
        jax.tree.map(lambda x: x[-1], grads),
    )


class Record(NamedTuple):
    """A segment run forward, and the direct partials of its loss.

    Attributes:
      loss: [] sum of weight times loss.
      weight: [] sum of the weights.
      inputs: of the steps, leaves [T, B, ...].
      previous: the states before them, before any reset, leaves [T, B, ...].
      q: dl_t/ds_t at fixed weights, leaves [T, B, ...].
      direct: sum_t dl_t/dtheta at fixed states: what the readout reads by itself.
    """

    loss: Array
    weight: Array
    inputs: Inputs
    previous: Any
    q: Any
    direct: PyTree


def run_forward(
    model: Model,
    loss_fn: LossFn,
    params: ModelParams,
    segment: Segment,
    state: Any,
    keys: Key | None,
) -> Record:
    """Runs a segment and scores it; the arguments are those of `lag_gradients`."""
    inputs = read_inputs(segment, begins=state is None)
    if state is None:
        state = model.initial_state(params, inputs.mask.shape[1:])

    def advance(state: Any, inputs: Inputs) -> tuple[Any, Any]:
        new = transition(model, params, state, inputs, keys)
        return new, (state, new)

    _, (previous, states) = jax.lax.scan(advance, state, inputs)

    def total(params: ModelParams, states: Any) -> tuple[Array, Array]:
        noise = None if keys is None else fold_in(keys, 1)
        predictions = model.readout(params, states, key=noise, time=0)
        losses, weights = score(loss_fn, predictions, segment)
        return jnp.sum(weights * losses), jnp.sum(weights)

    gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    (loss, weight), (direct, q) = gradient(params, states)
    return Record(loss, weight, inputs, previous, q, direct)


def shift_lags(q: Any, pulled: Any) -> Any:
    """Puts q at lag 0, and moves what comes from the step after by one lag.

    Args:
      q: of a step, leaves [...].
      pulled: of the step after, by lag, leaves [K + 1, ...], the last of which is of
        all lags from K on.

    Returns:
      Leaves [K + 1, ...].
    """

    def shift(q: Array, pulled: Array) -> Array:
        moved = jnp.concatenate([q[None], pulled[:-1]])
        return moved.at[-1].add(pulled[-1])

    return jax.tree.map(shift, q, pulled)


def check_lags(num_lags: int | None, segment: Segment) -> int:
    """Returns the number of lags to resolve, by default that of the steps.

    Raises:
      OptionError: there are not so many.
    """
    length = len(jax.tree.leaves(segment.inputs)[0])
    count = length if num_lags is None else num_lags
    if not 1 <= count <= length:
        raise OptionError(
            f"num_lags: {count} is not in 1..T = {length}; use one of these, or leave "
            "it out"
        )
    return count
