"""Eligibility propagation."""

import functools
from typing import Any, Literal

import jax.numpy as jnp

from jaxlstm.edges import Edges
from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits, check_online_form
from jaxlstm.estimators.dense import dense
from jaxlstm.estimators.layered import layered
from jaxlstm.estimators.traces import online
from jaxlstm.estimators.units import find_units
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError, check_choice

Feedback = Literal["symmetric", "random"]


def eprop(
    model: Model,
    loss_fn: LossFn,
    *,
    feedback: Feedback = "symmetric",
    layerwise: bool = False,
) -> GradientEstimator:
    """Follows each weight through the memory of its own unit, and not through h W_h.

        M_t = A_t M_{t-1} + I_t,    A = ds'/ds at fixed z                            (1)
          g = sum_t q_t M_t                                                          (2)

    In an LSTM that is an eligibility trace eps_t = f_t eps_{t-1} + (dc_t/dz_t) u_t^T
    for i, f and g, with u = (x, h, 1), and what o does at once. It is the gradient with
    h_{t-1} held fixed in the preactivations; backward in time, `h_detach` with p = 1.

    *Biased*, but for nets without recurrent weights; segment-invariant. Costs F P
    floats an example of memory, for F fields of the state, and O(P) time a step in a
    single layer of a cell that works unit by unit. In a stack, weights are followed in
    all units of the layers above: S P floats, and O(S^2 P) time in an upper layer for
    each one below; `layerwise` spares it.

    Args:
      model: a model of gated cells, by `make_model`.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      feedback: "symmetric": q is the partial of the loss by the state. "random": the
        error of the prediction reaches the state through a readout of its own, drawn
        once as the model draws its own.
      layerwise: as in `rtrl`.

    Returns:
      The estimator.

    Raises:
      OptionError: the model has no online form, or is no plain chain of gated layers;
        the readout has no weights that random feedback could replace; or `layerwise`
        for a cell that does not work unit by unit.

    References:
      Bellec et al., A solution to the learning dilemma for recurrent networks of
      spiking neurons, Nature Communications 11, 2020.
    """
    check_online_form(model)
    check_choice("feedback", feedback, Feedback)
    if model.layers is None or model.layers.cell.gated is None:
        raise OptionError(
            "eprop: follows a state past its recurrent weights, which only a plain "
            "chain of gated layers tells apart, without connections or dropped "
            'weights, and this model is none; use name = "snap"'
        )
    units = find_units(model)
    if units is not None:
        trace = layered(model, units, carry="state", own=True, layerwise=layerwise)
    elif layerwise:
        raise OptionError(
            "layerwise: needs layers of a gated cell that works unit by unit, such as "
            "an LSTM; leave it out"
        )
    else:
        held = Edges(jnp.zeros(()), jnp.ones(()))
        step: Any = functools.partial(model.step, edges=held)  # type: ignore[arg-type]
        trace = dense(model._replace(step=step))
    traits = Traits(kind="biased", segment_invariant=True, online=True)
    return online(
        model, loss_fn, trace, traits=traits, random_feedback=feedback == "random"
    )
