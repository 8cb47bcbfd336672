"""Backpropagation through time."""

from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits
from jaxlstm.estimators.edges import backward
from jaxlstm.model import Model
from jaxlstm.sequence import Remat
from jaxlstm.shapes import check_choice


def bptt(model: Model, loss_fn: LossFn, *, remat: Remat = "none") -> GradientEstimator:
    """Differentiates the unrolled segment.

        lambda_t = q_t + J_{t+1}^T lambda_{t+1},     g = sum_t I_t^T lambda_t

    with lambda_t = dL/ds_t, q_t the direct partial of the loss at t by the state s_t,
    J the step's Jacobian by the state and I that by the weights.

    *Exact* within a segment; between segments the state is carried and the gradient
    is cut, so that short segments of long sequences give truncated backpropagation.
    Costs O(T H) memory and O(P) time a step, with P weights.

    Args:
      model: the model.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      remat: "none", "step", "sqrt" (O(sqrt(T) H) memory, for one more forward pass)
        or "sqrt_step", as in `jaxlstm.unroll`. What noise a model draws does not
        depend on it.

    Returns:
      The estimator.

    Raises:
      ValueError: `remat` is unknown.

    References:
      Werbos, Backpropagation through time: what it does and how to do it,
      Proceedings of the IEEE 78(10), 1990; remat: Gruslys et al., Memory-Efficient
      Backpropagation Through Time, NIPS 2016.
    """
    check_choice("remat", remat, Remat)
    traits = Traits(kind="exact", segment_invariant=False, online=False)
    return backward(model, loss_fn, remat=remat, traits=traits)
