"""What a gradient estimator is."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxlstm.model import Model
from jaxlstm.select import keep, like
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key, PyTree

# (prediction [..., Y], target [...]) -> loss of each example [...], over any axes.
LossFn = Callable[[Any, Any], Array]


class Segment(NamedTuple):
    """A stretch of time of a batch of sequences.

    Attributes:
      inputs: pytree, [T, B, ...].
      targets: pytree, [T, B, ...].
      mask: [T, B] or [T]; 0 where a step is not there. Default: all are.
      resets: [T, B] or [T]; 1 where a new sequence begins. Default: none does.
      weights: [T, B] or [T]; factor on the loss of a step. 0 is a step that advances
        but is not scored. Default: 1. Masked steps have no weight.
    """

    inputs: Any
    targets: Any
    mask: Array | None = None
    resets: Array | None = None
    weights: Array | None = None


class Estimate(NamedTuple):
    """A loss and its gradient, as sums over steps and examples.

    Estimates of two segments add up to that of the whole; whoever trains divides, by
    the weight or by the size of the batch.

    Attributes:
      loss: [] sum of weight times loss.
      grads: its gradient by the parameters, of their structure.
      weight: [] sum of the weights.
    """

    loss: Array
    grads: PyTree
    weight: Array


@dataclasses.dataclass(frozen=True)
class Traits:
    """What an estimator promises; tests and reports are driven by it.

    Attributes:
      kind: "exact" (the gradient within what it sees), "unbiased" or "biased".
      segment_invariant: whether, with the weights frozen, the estimates of the
        segments of a sequence add up to the estimate of the whole.
      online: whether it runs forward in time, by `model.step`.
      whole_sequences: whether a segment is a batch of whole sequences, with one target
        each, at its last step; nothing is then carried from segment to segment.
    """

    kind: Literal["exact", "unbiased", "biased"]
    segment_invariant: bool
    online: bool
    whole_sequences: bool = False


class InitFn(Protocol):
    """Makes the state before the first segment."""

    def __call__(self, params: PyTree, batch_shape: tuple[int, ...], key: Key) -> Any:
        """Makes the state before the first segment.

        Args:
          params: of the model.
          batch_shape: the batch axes of the segments to come.
          key: a key, split into one an example.

        Returns:
          The state. Its leaves lead with `batch_shape`, or have no axes, so that a
          batch can be spread over devices.
        """
        ...


class EstimateFn(Protocol):
    """Turns a segment into an estimate, and the state before it into that after it."""

    def __call__(
        self, params: PyTree, state: Any, segment: Segment
    ) -> tuple[Estimate, Any]:
        """Returns the estimate and the state after the segment."""
        ...


class GradientEstimator(NamedTuple):
    """A pair of pure functions that turns segments of time into gradients.

    Segments of one long sequence are fed in order, and what must outlive a segment
    (hidden state, influence of the weights on it, random keys) is in the state.

    Attributes:
      init: `(params, batch_shape, key) -> state`.
      estimate: `(params, state, segment) -> (Estimate, state)`.
      traits: what the estimator promises.
    """

    init: InitFn
    estimate: EstimateFn
    traits: Traits


def check_online_form(model: Model) -> None:
    """Raises OptionError unless a model can go on from where a segment has ended."""
    if model.step is None:
        raise OptionError(
            "the model has no online form, as one that reads in both directions has "
            "not: it cannot go on from segment to segment; use estimator whole_sequence"
        )


def score(loss_fn: LossFn, predictions: Any, segment: Segment) -> tuple[Array, Array]:
    """Returns the loss of each step and its weight, [T, B] each.

    Targets of weight 0 may be anything, NaN included: they are put to 0, where the loss
    has to have a finite gradient.

    Args:
      loss_fn: `(prediction, target) -> loss of each example`.
      predictions: [T, B, ...].
      segment: gives targets, weights and mask.
    """
    weights = segment.weights
    if segment.mask is not None:
        weights = jnp.ones(()) if weights is None else jnp.asarray(weights)
        present = jnp.asarray(segment.mask) != 0
        ndim = max(weights.ndim, present.ndim)
        present, weights = (
            x.reshape(x.shape + (1,) * (ndim - x.ndim)) for x in (present, weights)
        )
        weights = jnp.where(present, weights, 0)
    if weights is None:
        losses = loss_fn(predictions, segment.targets)
        return losses, jnp.ones_like(losses)
    targets = jax.tree.map(
        lambda y: keep(weights, y, jnp.zeros_like(y)), segment.targets
    )
    losses = loss_fn(predictions, targets)
    weights = jnp.broadcast_to(like(weights, losses), losses.shape)
    losses = keep(weights, losses, jnp.zeros_like(losses))
    return losses, weights.astype(losses.dtype)
