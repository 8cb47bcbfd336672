"""What an estimator is compared with: the steps one by one, and their gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.estimators import LossFn, Segment, score
from jaxlstm.model import Model
from jaxlstm.noise import fold_in
from jaxlstm.select import keep, select
from jaxlstm.types import Array, Key, PyTree


class Reference(NamedTuple):
    """What a segment gives from the model's initial state.

    Attributes:
      loss: [] sum of weight times loss.
      by_unroll: the states after each step, leaves [T, B, ...], by `model.unroll`.
      by_step: the same by `model.step`, or None where there is none.
    """

    loss: Array
    by_unroll: Any
    by_step: Any


# (params, keys [B] that the model's noise comes from or None, segment) -> of a segment.
ReferenceFn = Callable[[PyTree, Key | None, Segment], Reference]
GradientFn = Callable[[PyTree, Key | None, Segment], PyTree]


def make_reference(
    model: Model,
    loss_fn: LossFn,
    batch_shape: tuple[int, ...],
    *,
    whole_sequences: bool = False,
) -> tuple[ReferenceFn, GradientFn]:
    """Returns what a segment gives, and the gradient of its loss.

    The steps are made one by one and differentiated by JAX, without the derivative
    rule, unless the model has no step.

    Args:
      model: the model.
      loss_fn: `(prediction, target) -> loss of each example`.
      batch_shape: of the segments.
      whole_sequences: whether there is one prediction a sequence, from its last state.
    """

    def by_step(params: PyTree, keys: Key | None, segment: Segment) -> Any:
        start = model.initial_state(params, batch_shape)
        return _scan(model, params, start, segment, _fold_in(keys, 0))

    def unroll(params: PyTree, keys: Key | None, segment: Segment) -> tuple[Any, Any]:
        return model.unroll(
            params.recurrent,
            model.initial_state(params, batch_shape),
            segment.inputs,
            mask=segment.mask,
            resets=segment.resets,
            key=_fold_in(keys, 0),
        )

    def by_unroll(params: PyTree, keys: Key | None, segment: Segment) -> Any:
        return unroll(params, keys, segment)[1]

    def total(params: PyTree, keys: Key | None, segment: Segment) -> Array:
        if model.step is None:
            last, states = unroll(params, keys, segment)
        else:
            states = by_step(params, keys, segment)
            last = jax.tree.map(lambda x: x[-1], states)
        if whole_sequences:
            targets = jax.tree.map(lambda x: x[-1], segment.targets)
            segment = Segment(None, targets, weights=jnp.asarray(segment.weights)[-1])
            states = last
        predictions = model.readout(params, states, key=_fold_in(keys, 1))
        losses, weights = score(loss_fn, predictions, segment)
        return jnp.sum(weights * losses)

    def reference(*arguments: Any) -> Reference:
        stepped = None if model.step is None else by_step(*arguments)
        return Reference(total(*arguments), by_unroll(*arguments), stepped)

    return reference, jax.grad(total)


def _fold_in(keys: Key | None, purpose: int) -> Key | None:
    return None if keys is None else fold_in(keys, purpose)


def _scan(
    model: Model, params: PyTree, start: Any, segment: Segment, key: Key | None
) -> Any:
    step = model.step
    assert step is not None

    def advance(state: Any, xs: Any) -> tuple[Any, Any]:
        x, mask, reset, time = xs
        state = select(reset, start, state)
        x = jax.tree.map(lambda leaf: keep(mask, leaf, jnp.zeros_like(leaf)), x)
        new = step(params.recurrent, state, x, key=key, time=time)
        state = keep(mask, new, state)
        return state, state

    times = jnp.arange(len(jnp.asarray(segment.mask)))
    xs = segment.inputs, segment.mask, segment.resets, times
    return jax.lax.scan(advance, start, xs)[1]
