"""Backpropagation through time, truncated at random and reweighted."""

import jax.numpy as jnp

from jaxlstm.edges import Edges
from jaxlstm.estimators.base import GradientEstimator, LossFn, Segment, Traits
from jaxlstm.estimators.draws import Sample, bernoulli
from jaxlstm.estimators.edges import backward, check_probability, draw
from jaxlstm.model import Model
from jaxlstm.select import like
from jaxlstm.sequence import Remat
from jaxlstm.types import Array, Key


def artbp(
    model: Model,
    loss_fn: LossFn,
    *,
    p: float,
    remat: Remat = "none",
    sample: Sample | None = None,
) -> GradientEstimator:
    """Cuts the gradient at random, and makes up for it where it passes.

        X_t      ~ Bernoulli(p)                      1 cuts between t-1 and t
        lambda_t = q_t + (1 - X_{t+1}) / (1 - p) J_{t+1}^T lambda_{t+1}
        g        = sum_t I_t^T lambda_t

    with lambda_t = dL/ds_t, q_t the direct partial of the loss at t by the state s_t,
    J the step's Jacobian by the state and I that by the weights. The gradient by a
    learned initial state is never cut on its way from the step that it stands before.

    *Unbiased* within a segment: a factor has mean 1, each path from a loss to a weight
    has every step between them once, and the draws are independent. Between segments
    the state is carried and the gradient is cut, as in `bptt`. The variance grows with
    the segment's length like that of a product of factors, 1 / (1 - p) each. Costs
    O(T H) memory and O(P) time a step, with P weights; the mean span is 1 / p steps.

    Args:
      model: the model.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      p: the probability of a cut at a step, in [0, 1). 0 gives `bptt`.
      remat: as in `bptt`.
      sample: draws X; by default Bernoulli(p), for each example and step by itself.

    Returns:
      The estimator.

    Raises:
      ValueError: `p` is no such probability, or `remat` is unknown.

    References:
      Tallec and Ollivier, Unbiasing Truncated Backpropagation Through Time, 2017,
      with the same probability at every step.
    """
    check_probability("p", p, one=False)
    draws = bernoulli(p) if sample is None else sample

    def edges(keys: Key, times: Array, segment: Segment) -> Edges:
        factors = (1 - draw(draws, keys, times)) / (1 - p)
        begins = like(times == 0, factors)
        if segment.resets is not None:
            begins = begins | (like(jnp.asarray(segment.resets), factors) != 0)
        return Edges(jnp.where(begins, 1, factors))

    traits = Traits(
        kind="unbiased" if p else "exact", segment_invariant=False, online=False
    )
    return backward(model, loss_fn, edges=edges, remat=remat, traits=traits)
