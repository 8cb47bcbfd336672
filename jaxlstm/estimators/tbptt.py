"""Truncated backpropagation through time, in windows of any stride."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.estimators.base import (
    Estimate,
    GradientEstimator,
    LossFn,
    Segment,
    Traits,
    check_online_form,
    score,
)
from jaxlstm.model import Model
from jaxlstm.noise import Keys, fold_in, of_segment, split
from jaxlstm.select import like
from jaxlstm.sequence import Remat
from jaxlstm.shapes import OptionError, check_choice
from jaxlstm.types import Array, Key, PyTree
from jaxlstm.varying import vary, varying_axes


class Steps(NamedTuple):
    """The steps that windows reach back to.

    Attributes:
      inputs: leaves [B, horizon - 1, ...].
      mask: [B, horizon - 1] whether a step is there; none is before number 0.
      resets: [B, horizon - 1] whether the initial state is put in place before it.
    """

    inputs: Any
    mask: Array
    resets: Array


class TruncatedState(NamedTuple):
    """What truncated backpropagation remembers between two segments.

    Attributes:
      hidden: the model's state before the first window that is not complete, leaves
        [B, ...].
      steps: the last ones that were seen; None where no window reaches back to any.
      keys: [B] a key for each example.
      num_steps: [] how many steps were seen.
    """

    hidden: Any
    steps: Steps | None
    keys: Keys
    num_steps: Array


def tbptt(
    model: Model,
    loss_fn: LossFn,
    *,
    horizon: int,
    stride: int | None = None,
    remat: Remat = "none",
    example_input: Any = None,
) -> GradientEstimator:
    """Follows each loss back to the start of its window.

        e(t) = stride ceil((t + 1) / stride)        the end of the window of step t
        g    = sum_t dl_t / dtheta,    the state before step e(t) - horizon held fixed

    with t counted from number 0. A window ends at every multiple of the stride, reaches
    back over `horizon` steps, and its last `stride` losses count. So a loss reaches
    back over horizon - stride + 1 steps at least. `stride = horizon` cuts time into
    chunks, `stride = 1` gives every loss the whole horizon.

    *Biased* by what lies beyond; where the horizon covers all there is, the gradient of
    `bptt`. Windows do not depend on segments: one that has begun in an earlier segment
    is run again, by the weights of now, from the state before it. Steps before number
    0, and before a reset, have no influence; a reset within a window passes gradient to
    a learned initial state. Costs O(horizon H) memory and O(P horizon / stride) time a
    step, with P weights, and O(horizon X) memory between segments.

    Args:
      model: the model.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      horizon: the number of steps in a window.
      stride: the number of steps from a window to the next, at most the horizon; by
        default the horizon.
      remat: what a window computes again in its backward pass, as in
        `jaxlstm.unroll`.
      example_input: `jax.ShapeDtypeStruct` of an input without time and batch, or a
        pytree of them; needed for a model of one's own.

    Returns:
      The estimator.

    Raises:
      ValueError: horizon and stride are not 1 <= stride <= horizon, `remat` is unknown,
        it is not known what an input looks like, or the model has no online form.

    References:
      Williams and Peng, An Efficient Gradient-Based Algorithm for On-Line Training of
      Recurrent Network Trajectories, Neural Computation 2(4), 1990: BPTT(h; h') with
      h the horizon and h' the stride.
    """
    check_choice("remat", remat, Remat)
    check_online_form(model)
    if horizon < 1:
        raise OptionError(f"horizon: {horizon} is not positive; use 1 or more")
    width = horizon if stride is None else stride
    if not 1 <= width <= horizon:
        raise OptionError(
            f"stride: {width} is not in 1..horizon = {horizon}; lower the stride, or "
            "raise the horizon, so that each loss is in a window"
        )
    example = _example(model, example_input)
    # Only named where it is asked for: a model of one's own need not know it.
    options: dict[str, Any] = {} if remat == "none" else {"remat": remat}

    def init(params: PyTree, batch_shape: tuple[int, ...], key: Key) -> TruncatedState:
        axes = *batch_shape, horizon - 1
        steps = Steps(
            inputs=jax.tree.map(
                lambda x: jnp.zeros((*axes, *x.shape), x.dtype), example
            ),
            mask=jnp.zeros(axes, bool),
            resets=jnp.zeros(axes, bool),
        )
        return TruncatedState(
            hidden=model.initial_state(params, batch_shape),
            # An array without entries could not be saved.
            steps=steps if horizon > 1 else None,
            keys=split(key, batch_shape),
            num_steps=jnp.zeros((), jnp.int32),
        )

    def estimate(
        params: PyTree, state: TruncatedState, segment: Segment
    ) -> tuple[Estimate, TruncatedState]:
        keys, start, batch_ndim = state.keys, state.num_steps, state.keys.ndim
        steps, scored = _spread(segment, example, start, keys.shape)
        stop = start + len(jax.tree.leaves(segment.inputs)[0])

        # What windows may see: the steps before the segment, it, and what is not yet.
        seen = steps
        if state.steps is not None:
            before = jax.tree.map(lambda x: jnp.moveaxis(x, batch_ndim, 0), state.steps)
            seen = jax.tree.map(lambda *x: jnp.concatenate(x), before, steps)
        ahead = jax.tree.map(lambda x: _pad(x, 0, width - 1), seen)
        scored = jax.tree.map(lambda x: _pad(x, width - 1, width - 1), scored)

        def window(params: PyTree, hidden: Any, end: Array) -> Any:
            first = end - start - 1
            inputs, mask, resets = _slice(ahead, first, horizon)
            _, states = model.unroll(
                params.recurrent,
                hidden,
                inputs,
                mask=mask,
                resets=resets,
                key=fold_in(of_segment(keys, start), 0),
                time=end - horizon,
                **options,
            )
            last = jax.tree.map(lambda x: x[horizon - width :], states)
            predictions = model.readout(
                params, last, key=fold_in(keys, 1), time=end - width
            )
            losses, weights = score(loss_fn, predictions, _slice(scored, first, width))
            following = jax.tree.map(lambda x: x[width - 1], states)
            return jnp.sum(weights * losses), (jnp.sum(weights), following)

        def add_window(n: Array, carry: Any) -> Any:
            estimate, hidden = carry
            end = (start // width + 1 + n) * width
            gradient = jax.value_and_grad(window, has_aux=True)
            (loss, (weight, following)), grads = gradient(params, hidden, end)
            estimate = jax.tree.map(jnp.add, estimate, Estimate(loss, grads, weight))
            hidden = jax.tree.map(
                lambda new, old: jnp.where(end <= stop, new, old), following, hidden
            )
            return estimate, hidden

        axes = varying_axes((params, state, segment))
        params, hidden = vary((params, state.hidden), axes)
        loss, (weight, _) = jax.eval_shape(window, params, hidden, stop)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), Estimate(loss, params, weight)
        )
        count = -(-stop // width) - start // width
        total, hidden = jax.lax.fori_loop(
            0, count, add_window, (vary(zeros, axes), hidden)
        )
        kept = None
        if state.steps is not None:
            kept = jax.tree.map(
                lambda x: jnp.moveaxis(x[len(x) - (horizon - 1) :], 0, batch_ndim), seen
            )
        return total, TruncatedState(hidden, kept, keys, stop)

    traits = Traits(kind="biased", segment_invariant=True, online=False)
    return GradientEstimator(init, estimate, traits)


def _example(model: Model, given: Any) -> Any:
    if given is not None:
        return given
    if model.example_input is None:
        raise OptionError(
            "example_input: is not given, and the model does not say what an input "
            "looks like; give its jax.ShapeDtypeStruct, without time and batch"
        )
    return model.example_input


def _spread(
    segment: Segment, example: Any, start: Array, batch_shape: tuple[int, ...]
) -> tuple[Steps, Segment]:
    """Returns the steps of a segment and what scores them, all controls [T, B].

    Inputs have the example's dtype. The step of number 0 has a reset, so that it begins
    with the initial state.
    """
    axes = len(jax.tree.leaves(segment.inputs)[0]), *batch_shape

    def convert(x: Any, want: Any) -> Array:
        if jnp.shape(x) != (*axes, *want.shape):
            raise ValueError(
                f"inputs: shape {jnp.shape(x)} is not {(*axes, *want.shape)}, that of "
                f"[T, B, ...] for inputs of shape {want.shape} and keys of shape "
                f"{batch_shape}"
            )
        return jnp.asarray(x, want.dtype)

    ones = jnp.ones(axes, bool)
    present, resets, weights = (
        default if value is None else jnp.broadcast_to(like(value, default), axes)
        for value, default in (
            (segment.mask, ones),
            (segment.resets, ~ones),
            (segment.weights, ones.astype(float)),
        )
    )
    first = start + jnp.arange(len(ones)) == 0
    inputs = jax.tree.map(convert, segment.inputs, example)
    targets = jax.tree.map(jnp.asarray, segment.targets)
    return (
        Steps(inputs, present != 0, (resets != 0) | like(first, ones)),
        Segment(None, targets, present, None, weights),
    )


def _pad(x: Array, before: int, after: int) -> Array:
    return jnp.pad(x, [(before, after)] + [(0, 0)] * (x.ndim - 1))


def _slice(tree: PyTree, first: Array, length: int) -> PyTree:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, length), tree)
