"""The forward gradient: directional derivatives along random directions."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxlstm.estimators.base import (
    Estimate,
    GradientEstimator,
    LossFn,
    Segment,
    Traits,
    check_online_form,
)
from jaxlstm.estimators.draws import Sample, normal, signs
from jaxlstm.estimators.forward import forward
from jaxlstm.model import Model
from jaxlstm.noise import Keys, split
from jaxlstm.shapes import OptionError, check_choice
from jaxlstm.types import Array, Key, PyTree
from jaxlstm.varying import vary, varying_axes

Distribution = Literal["normal", "signs"]


class ForwardGradientState(NamedTuple):
    """What the forward gradient remembers between two segments.

    Attributes:
      hidden: the model's state after the last segment, leaves [B, ...].
      keys: [B] a key for each example, for the model's noise.
      direction_key: [] a key for the directions, which the whole batch shares.
      num_steps: [] how many steps were seen.
    """

    hidden: Any
    keys: Keys
    direction_key: Key
    num_steps: Array


def forward_gradient(
    model: Model,
    loss_fn: LossFn,
    *,
    distribution: Distribution = "normal",
    num_directions: int = 1,
    sample: Sample | None = None,
) -> GradientEstimator:
    """Weighs random directions by the derivative of the loss along them.

        g = 1/N sum_n (v_n . dL/dtheta) v_n,     E[v v^T] = 1

    with N directions v over all parameters at once, drawn anew for each segment and
    the same for the whole batch. Each v . dL/dtheta is one product of the Jacobian,
    made on the way forward: there is no backward pass.

    *Unbiased* for the gradient within a segment; between segments the state is carried
    and the gradient is cut, as in `bptt`. Its error is large: of P weights,

        E |g - dL/dtheta|^2 = (P + 1)/N |dL/dtheta|^2     for normal directions
                              (P - 1)/N |dL/dtheta|^2     for signs

    Costs O(N P) time a step, and O(N (P + sqrt(T) H)) memory: the states of about
    sqrt(T) steps with their tangents are there at a time, and nothing is kept for a
    way back.

    Args:
      model: the model.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      distribution: of the entries of a direction: standard "normal", or "signs",
        which are 1 or -1, as likely.
      num_directions: N.
      sample: draws the directions, in place of the distribution: direction n of the
        segment whose first step has the number `time` is `sample(key, time * N + n,
        (P,))`, with the state's `direction_key`. The parameters stand in it as
        `ravel_pytree` puts them.

    Returns:
      The estimator; its state is a `ForwardGradientState`.

    Raises:
      ValueError: the distribution is unknown, there is no direction, or the model has
        no online form.

    References:
      Baydin, Pearlmutter, Syme, Wood and Torr, Gradients without Backpropagation,
      2022; signs: Spall, Multivariate Stochastic Approximation Using a Simultaneous
      Perturbation Gradient Approximation, IEEE Transactions on Automatic Control
      37(3), 1992.
    """
    check_choice("distribution", distribution, Distribution)
    check_online_form(model)
    if num_directions < 1:
        raise OptionError(f"num_directions: value is {num_directions}; use 1 or more")
    draw = sample or {"normal": normal, "signs": signs}[distribution]

    def init(
        params: PyTree, batch_shape: tuple[int, ...], key: Key
    ) -> ForwardGradientState:
        return ForwardGradientState(
            hidden=model.initial_state(params, batch_shape),
            keys=split(key, batch_shape),
            # `split` numbers its keys as `fold_in` does, from 0: this is one more.
            direction_key=jax.random.fold_in(key, math.prod(batch_shape)),
            num_steps=jnp.zeros((), jnp.int32),
        )

    def estimate(
        params: PyTree, state: ForwardGradientState, segment: Segment
    ) -> tuple[Estimate, ForwardGradientState]:
        time = state.num_steps
        length = len(jax.tree.leaves(segment.inputs)[0])
        flat, unravel = ravel_pytree(params)

        def total(params: PyTree) -> tuple[Array, tuple[Any, Array]]:
            hidden, losses, weights = forward(
                *(model, loss_fn, params, state.hidden, segment, state.keys, time),
                chunks=True,
            )
            return jnp.sum(weights * losses), (hidden, jnp.sum(weights))

        def derivative(direction: Array) -> tuple[Array, Array, tuple[Any, Array]]:
            loss, slope, rest = jax.jvp(
                total, (params,), (unravel(direction),), has_aux=True
            )
            return slope, loss, rest

        numbers = time * num_directions + jnp.arange(num_directions)
        directions = jax.vmap(lambda n: draw(state.direction_key, n, flat.shape))(
            numbers
        )
        # Alike on all devices, but the tangents of what is each device's own.
        directions = vary(directions.astype(flat.dtype), varying_axes(params))
        slopes, loss, (hidden, weight) = jax.vmap(derivative, out_axes=(0, None, None))(
            directions
        )
        grads = unravel(slopes.astype(flat.dtype) @ directions / num_directions)
        state = state._replace(hidden=hidden, num_steps=time + length)
        return Estimate(loss, grads, weight), state

    traits = Traits(kind="unbiased", segment_invariant=False, online=False)
    return GradientEstimator(init, estimate, traits)
