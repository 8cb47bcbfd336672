"""Random feedback local online learning."""

from jaxlstm.estimators.base import GradientEstimator, LossFn, check_online_form
from jaxlstm.estimators.eprop import eprop
from jaxlstm.estimators.units import find_units
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError


def rflo(model: Model, loss_fn: LossFn) -> GradientEstimator:
    """Follows weights of a leaky RNN through its leak, under random feedback.

        h_t = (1 - a) h_{t-1} + a tanh(z_t),    z = u W,    u = (x, h, 1)            (1)
        p_t = (1 - a) p_{t-1} + a tanh'(z_t) u_t^T                                   (2)
          g = sum_t (B e_t) p_t                                                      (3)

    with e the partial of the loss by the prediction, and B a readout of its own, drawn
    once. It is `eprop` with random feedback, for the cell that it was derived for.

    *Biased*; segment-invariant. Costs P floats an example of memory and O(P) time a
    step.

    Args:
      model: a model of one layer of the leaky RNN, or of a cell like it, by
        `make_model`.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.

    Returns:
      The estimator.

    Raises:
      OptionError: the cell is another, there are several layers, or the readout has no
        weights that random feedback could replace.

    References:
      Murray, Local online learning in recurrent networks with random feedback, eLife 8,
      2019.
    """
    check_online_form(model)
    units = find_units(model)
    if units is None or units.keeps is None or units.num_layers > 1:
        raise OptionError(
            'rflo: is defined for one layer of the leaky RNN, cell = "leaky_rnn"; for '
            'others use name = "eprop" with feedback = "random"'
        )
    return eprop(model, loss_fn, feedback="random")
