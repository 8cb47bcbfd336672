"""Backpropagation through time."""

from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits
from jaxlstm.estimators.edges import backward
from jaxlstm.estimators.penalties import penalize
from jaxlstm.model import Model
from jaxlstm.sequence import Remat
from jaxlstm.shapes import check_choice


def bptt(
    model: Model,
    loss_fn: LossFn,
    *,
    remat: Remat = "none",
    activation: float = 0.0,
    temporal_activation: float = 0.0,
) -> GradientEstimator:
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
      activation: factor of mean_H(m_t^2), which is added to the loss of each step,
        with m_t [H] what the readout takes: the last layer's output h_t, after the
        dropout on its way there.
      temporal_activation: factor of mean_H((h_t - h_{t-1})^2), likewise; there is no
        change into the first step of a sequence. h_{t-1} of a segment before is fixed.

    Returns:
      The estimator.

    Raises:
      ValueError: `remat` is unknown, a factor is negative or not finite, or is given
        for a model without `output`.

    References:
      Werbos, Backpropagation through time: what it does and how to do it,
      Proceedings of the IEEE 78(10), 1990; remat: Gruslys et al., Memory-Efficient
      Backpropagation Through Time, NIPS 2016; both factors: Merity, McCann and
      Socher, Revisiting Activation Regularization for Language RNNs, 2017, with the
      norm squared.
    """
    check_choice("remat", remat, Remat)
    traits = Traits(kind="exact", segment_invariant=False, online=False)
    penalty = penalize(
        model, activation=activation, temporal_activation=temporal_activation
    )
    return backward(model, loss_fn, penalty=penalty, remat=remat, traits=traits)
