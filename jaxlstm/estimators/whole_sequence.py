"""The gradient of whole sequences with one target each, by autodiff of the unroll."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.estimators.base import (
    Estimate,
    GradientEstimator,
    LossFn,
    Segment,
    Traits,
    score,
)
from jaxlstm.model import Model
from jaxlstm.noise import Keys, fold_in, split
from jaxlstm.select import like
from jaxlstm.sequence import Remat
from jaxlstm.shapes import check_choice
from jaxlstm.types import Array, Key, PyTree


class WholeSequenceState(NamedTuple):
    """What the estimator remembers between two segments.

    Attributes:
      keys: [B] a key for each row of the batch.
      num_segments: [] how many segments were seen.
    """

    keys: Keys
    num_segments: Array


def whole_sequence(
    model: Model, loss_fn: LossFn, *, remat: Remat = "none"
) -> GradientEstimator:
    """Differentiates the loss of one prediction a sequence.

        s_0 = initial state,     s = unroll(s_0, x_1 ... x_T)
        L   = sum_n weight_n loss(readout(s_n), target_n)

    A segment is a batch of whole sequences. Each has one target and one weight, those
    of its last step that is there, and one prediction, from the state that
    `model.unroll` returns last: with directions, that of reading up to the end and that
    of reading down to the beginning. The default weight is 1; a sequence without any
    step has none. Padding may stand on either side, masked.

    *Exact*; for a model with an online form it is `bptt` over segments that begin with
    a reset and are scored at their last step. Nothing is carried from segment to
    segment. Costs O(T H) memory and O(P) time a step, with P weights.

    Args:
      model: the model; it need not have a `step`.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      remat: as in `jaxlstm.unroll`.

    Returns:
      The estimator; its state is a `WholeSequenceState`.

    Raises:
      ValueError: `remat` is unknown.
    """
    check_choice("remat", remat, Remat)

    def init(
        params: PyTree, batch_shape: tuple[int, ...], key: Key
    ) -> WholeSequenceState:
        del params
        return WholeSequenceState(split(key, batch_shape), jnp.zeros((), jnp.int32))

    def estimate(
        params: PyTree, state: WholeSequenceState, segment: Segment
    ) -> tuple[Estimate, WholeSequenceState]:
        # Sequences of two segments have different noise, each from time 0 on.
        keys = fold_in(state.keys, state.num_segments)

        def total(params: PyTree) -> tuple[Array, Array]:
            predictions, scored = predict_sequences(
                model, params, segment, keys.shape, key=keys, remat=remat
            )
            losses, weights = score(loss_fn, predictions, scored)
            return jnp.sum(weights * losses), jnp.sum(weights)

        (loss, weight), grads = jax.value_and_grad(total, has_aux=True)(params)
        state = state._replace(num_segments=state.num_segments + 1)
        return Estimate(loss, grads, weight), state

    traits = Traits(
        kind="exact", segment_invariant=False, online=False, whole_sequences=True
    )
    return GradientEstimator(init, estimate, traits)


def predict_sequences(
    model: Model,
    params: PyTree,
    segment: Segment,
    batch_shape: tuple[int, ...],
    *,
    key: Keys | None = None,
    remat: Remat = "none",
) -> tuple[Any, Segment]:
    """Predicts once for each sequence of a segment, from its initial state on.

    Args:
      model: the model.
      params: of it.
      segment: whole sequences, leaves [T, B, ...]. A reset before the first step that
        is there has no effect; a later one is the model's to heed.
      batch_shape: B.
      key: [B] a key for each sequence; None means no noise.
      remat: as in `jaxlstm.unroll`.

    Returns:
      Predictions [B, ...], and what they are scored by: a segment of leaves [B, ...]
      with targets and weights of the last step of each that is there, whose mask says
      which sequences have any step.
    """
    mask, resets = segment.mask, segment.resets
    if resets is not None:
        resets = _drop_first(resets, mask, len(batch_shape))
    # Only named where it is asked for: a model of one's own need not know it.
    options: dict[str, Any] = {} if remat == "none" else {"remat": remat}
    last, _ = model.unroll(
        params.recurrent,
        model.initial_state(params, batch_shape),
        segment.inputs,
        mask=mask,
        resets=resets,
        key=None if key is None else fold_in(key, 0),
        **options,
    )
    predictions = model.readout(
        params, last, key=None if key is None else fold_in(key, 1)
    )
    return predictions, _at_last_steps(segment, batch_shape)


def _at_last_steps(segment: Segment, batch_shape: tuple[int, ...]) -> Segment:
    """Returns what the last step of each sequence is scored by, leaves [B, ...]."""
    scored = segment._replace(inputs=None, resets=None)
    length = len(jax.tree.leaves(segment.inputs)[0])
    present = jnp.ones(1) if segment.mask is None else jnp.asarray(segment.mask)
    if not length:
        # As a segment whose only step is not there.
        scored = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), scored)
        present, length = jnp.zeros(1), 1
    example = jnp.empty((length, *batch_shape))
    present = jnp.broadcast_to(like(present, example), example.shape) != 0
    last_step = length - 1 - jnp.argmax(present[::-1], axis=0)

    def pick(x: Array) -> Array:
        x = like(jnp.asarray(x), example)
        x = jnp.broadcast_to(x, (*example.shape, *x.shape[example.ndim :]))
        return jnp.take_along_axis(x, like(last_step, x[0])[None], axis=0)[0]

    return Segment(
        inputs=None,
        targets=jax.tree.map(pick, scored.targets),
        mask=jnp.any(present, axis=0),
        weights=None if scored.weights is None else pick(scored.weights),
    )


def _drop_first(resets: Array, mask: Array | None, batch_ndim: int) -> Array:
    """Leaves out resets before which no step is there: a backward pass ends there."""
    present = jnp.ones(len(resets)) if mask is None else jnp.asarray(mask) != 0
    before = jnp.cumsum(present, axis=0) - present
    example = jnp.empty((1,) * (1 + batch_ndim))
    resets, before = like(jnp.asarray(resets), example), like(before, example)
    return jnp.where(before > 0, resets, 0)
