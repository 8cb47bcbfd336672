"""The forward pass of a segment, for estimators that run it as a whole."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.estimators.base import LossFn, Segment, score
from jaxlstm.estimators.penalties import PenaltyFn, find_begins
from jaxlstm.model import Model
from jaxlstm.noise import Keys, fold_in, of_segment
from jaxlstm.sequence import scan_chunks
from jaxlstm.types import Array, PyTree

# (segment, time of its first step) -> options of `model.unroll`.
OptionsFn = Callable[[Segment, Array], dict[str, Any]]


def forward(
    model: Model,
    loss_fn: LossFn,
    params: PyTree,
    hidden: Any,
    segment: Segment,
    keys: Keys,
    time: Array,
    *,
    chunks: bool,
    options: OptionsFn = lambda segment, time: {},
    penalty: PenaltyFn | None = None,
) -> tuple[Any, Array, Array]:
    """Runs a segment from the state carried into it.

    Args:
      model: the model.
      loss_fn: `(prediction, target) -> loss of each example`.
      params: of the model.
      hidden: the model's state before the segment, leaves [B, ...]. At time 0 its
        initial state takes the place.
      segment: leaves [T, B, ...].
      keys: [B] a key for each example.
      time: [] the number of the first step.
      chunks: whether it goes by chunks of about sqrt(T) steps, made again on a way
        back, so that no more states than those of one are there at a time, nor more of
        their tangents.
      options: of `model.unroll`.
      penalty: what is added to the loss of each step.

    Returns:
      The state after the segment; losses [T, B], with their penalties, and weights, as
      `score` gives them.
    """

    def run(before: Any, segment: Segment, begins: Any, time: Array) -> tuple[Any, Any]:
        hidden, states = model.unroll(
            params.recurrent,
            before,
            segment.inputs,
            mask=segment.mask,
            resets=segment.resets,
            key=fold_in(keys, 0),
            time=time,
            **options(segment, time),
        )
        predictions = model.readout(params, states, key=fold_in(keys, 1), time=time)
        losses, weights = score(loss_fn, predictions, segment)
        if penalty is not None:
            losses = losses + penalty(before, states, begins, keys, time)
        return hidden, (losses, weights)

    keys = of_segment(keys, time)
    start = model.initial_state(params, keys.shape)
    hidden = jax.tree.map(
        lambda new, old: jnp.where(time == 0, new, old), start, hidden
    )
    begins = None if penalty is None else find_begins(segment, keys.shape, time)
    if not chunks:
        hidden, (losses, weights) = run(hidden, segment, begins, time)
        return hidden, losses, weights

    def chunk(hidden: Any, xs: tuple[Array, Segment, Any]) -> tuple[Any, Any]:
        steps, segment, begins = xs
        return run(hidden, segment, begins, steps[0])

    steps = time + jnp.arange(len(jax.tree.leaves(segment.inputs)[0]))
    hidden, (losses, weights) = scan_chunks(chunk, hidden, (steps, segment, begins))
    return hidden, losses, weights
