"""Backpropagation through time, with the way by h cut at random."""

from typing import Literal

import jax.numpy as jnp

from jaxlstm.edges import Edges
from jaxlstm.estimators.base import GradientEstimator, LossFn, Segment, Traits
from jaxlstm.estimators.draws import Sample, bernoulli
from jaxlstm.estimators.edges import backward, check_probability, draw, has_gated_form
from jaxlstm.model import Model
from jaxlstm.sequence import Remat
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key


def h_detach(
    model: Model,
    loss_fn: LossFn,
    *,
    p: float,
    reweighted: bool = False,
    remat: Remat = "none",
    sample: Sample | None = None,
) -> GradientEstimator:
    """Cuts the gradient through the recurrent weights at random.

        X_t  ~ Bernoulli(p)                            1 cuts the way by h into step t
        z_t  = x_t W_x + edge(h_{t-1}, a_t) W_h + b    gradient by h_{t-1} times a_t
        s_t  = update(s_{t-1}, z_t)                    gradient by s_{t-1} whole
        a_t  = 1 - X_t,   reweighted: (1 - X_t) / (1 - p)

    The way by the memory cell is linear and reaches far; the one by h, which adds large
    and short-sighted terms to it, is damped.

    *Exact* at p = 0, where it is `bptt`. *Unbiased* if reweighted, as each path from a
    loss to a weight enters every step between them once, by one of the two ways. Else
    *biased*; at p = 1 the gradient is that of e-prop, within a segment. Between
    segments the state is carried and the gradient is cut. Costs O(T H) memory and O(P)
    time a step, with P weights.

    Args:
      model: the model. Its cell has a gated form.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      p: the probability of a cut at a step.
      reweighted: whether what passes by h makes up for what is cut. Not at p = 1,
        where nothing passes.
      remat: as in `bptt`.
      sample: draws X; by default Bernoulli(p), for each example and step by itself.

    Returns:
      The estimator.

    Raises:
      ValueError: `p` is no such probability, `remat` is unknown, or the cell has no
        gated form.

    References:
      Kanuparthi et al., h-detach: Modifying the LSTM Gradient Towards Better
      Optimization, ICLR 2019; not reweighted there.
    """
    check_probability("p", p, one=True)
    if reweighted and p == 1:
        raise OptionError(
            "reweighted: p is 1, so that nothing passes to be reweighted; lower p, or "
            "leave reweighted out"
        )
    if not has_gated_form(model):
        raise OptionError(
            "model: its cell has no gated form, and so one way from step to step, with "
            "none beside it to leave whole; give the cell one, or use artbp"
        )
    scale = 1 / (1 - p) if reweighted else 1.0
    draws = bernoulli(p) if sample is None else sample

    def edges(keys: Key, times: Array, segment: Segment) -> Edges:
        del segment
        factors = scale * (1 - draw(draws, keys, times))
        return Edges(factors, jnp.ones_like(factors))

    kind: Literal["exact", "unbiased", "biased"] = "exact"
    if p:
        kind = "unbiased" if reweighted else "biased"
    traits = Traits(kind=kind, segment_invariant=False, online=False)
    return backward(model, loss_fn, edges=edges, remat=remat, traits=traits)
