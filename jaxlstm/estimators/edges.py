"""The engine of estimators that go backward in time, by autodiff of the unroll."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.edges import Edges, Hooks
from jaxlstm.estimators import draws
from jaxlstm.estimators.base import (
    Estimate,
    GradientEstimator,
    LossFn,
    Segment,
    Traits,
    check_online_form,
)
from jaxlstm.estimators.forward import forward
from jaxlstm.estimators.penalties import PenaltyFn
from jaxlstm.model import Model
from jaxlstm.noise import Keys, split
from jaxlstm.sequence import Remat
from jaxlstm.shapes import OptionError, check_choice
from jaxlstm.types import Array, Key, PyTree

# (keys [B], numbers of the steps [T], segment) -> edges into its steps, [T, B].
EdgesFn = Callable[[Key, Array, Segment], Edges | Hooks]


class BackwardState(NamedTuple):
    """What a backward estimator remembers between two segments.

    Attributes:
      hidden: the model's state after the last segment, leaves [B, ...].
      keys: [B] a key for each example.
      num_steps: [] how many steps were seen.
    """

    hidden: Any
    keys: Keys
    num_steps: Array


def backward(
    model: Model,
    loss_fn: LossFn,
    *,
    edges: EdgesFn | None = None,
    penalty: PenaltyFn | None = None,
    remat: Remat = "none",
    traits: Traits,
) -> GradientEstimator:
    """Differentiates the loss of a segment by the parameters, in reverse.

    The state is carried from segment to segment and the gradient stops there. The
    first segment starts from `model.initial_state`, whose gradient it gives.

    Args:
      model: the model.
      loss_fn: `(prediction, target) -> loss of each example`.
      edges: `(keys [B], times [T], segment) -> Edges`, what becomes of the gradient on
        its way back into each step, from the keys of the examples and the numbers of
        the steps. None: it passes.
      penalty: what is added to the loss of each step, as `penalize` gives it.
      remat: as in `jaxlstm.unroll`; readout and loss are made again with the states.
      traits: what the estimator promises.

    Returns:
      The estimator; its state is a `BackwardState`.

    Raises:
      OptionError: `remat` is unknown, or the model has no online form.
    """
    check_choice("remat", remat, Remat)
    check_online_form(model)
    # Only named where they are asked for: a model of one's own need not know them.
    inner: dict[str, Any] = {"remat": "step"} if "step" in remat else {}

    def init(params: PyTree, batch_shape: tuple[int, ...], key: Key) -> BackwardState:
        return BackwardState(
            hidden=model.initial_state(params, batch_shape),
            keys=split(key, batch_shape),
            num_steps=jnp.zeros((), jnp.int32),
        )

    def estimate(
        params: PyTree, state: BackwardState, segment: Segment
    ) -> tuple[Estimate, BackwardState]:
        keys, time = state.keys, state.num_steps
        length = len(jax.tree.leaves(segment.inputs)[0])

        def options(segment: Segment, time: Array) -> dict[str, Any]:
            if edges is None:
                return inner
            steps = time + jnp.arange(len(jax.tree.leaves(segment.inputs)[0]))
            return {**inner, "edges": edges(keys.own, steps, segment)}

        def total(params: PyTree) -> tuple[Array, tuple[Any, Array]]:
            hidden, losses, weights = forward(
                *(model, loss_fn, params, state.hidden, segment, keys, time),
                chunks="sqrt" in remat,
                options=options,
                penalty=penalty,
            )
            return jnp.sum(weights * losses), (hidden, jnp.sum(weights))

        (loss, (hidden, weight)), grads = jax.value_and_grad(total, has_aux=True)(
            params
        )
        state = state._replace(hidden=hidden, num_steps=time + length)
        return Estimate(loss, grads, weight), state

    return GradientEstimator(init, estimate, traits)


def draw(sample: draws.Sample, keys: Key, times: Array) -> Array:
    """Draws one number for each step of each example.

    Args:
      sample: draws them.
      keys: [B] of the examples.
      times: [T] the numbers of the steps.

    Returns:
      [T, B].
    """
    by_example = jax.vmap(lambda key, time: sample(key, time, ()), in_axes=(0, None))
    by_step = jax.vmap(by_example, in_axes=(None, 0))
    return by_step(keys.reshape(-1), times).reshape(*times.shape, *keys.shape)


def check_probability(name: str, value: float, *, one: bool) -> None:
    """Raises OptionError unless a value is in [0, 1), or 1 where that is allowed."""
    if not (0 <= value < 1 or (one and value == 1)):
        raise OptionError(
            f"{name}: {value} is not a probability {'up to' if one else 'below'} 1; "
            f"use one in [0, 1{']' if one else ')'}"
        )


def has_gated_form(model: Model) -> bool:
    """Tells whether steps have an edge c; of a model of one's own it is not known."""
    return model.layers is None or model.layers.cell.gated is not None
