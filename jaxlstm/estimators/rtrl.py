"""Real-time recurrent learning."""

from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits, check_online_form
from jaxlstm.estimators.dense import dense
from jaxlstm.estimators.layered import layered
from jaxlstm.estimators.traces import online
from jaxlstm.estimators.units import find_units
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError


def rtrl(
    model: Model, loss_fn: LossFn, *, layerwise: bool = False
) -> GradientEstimator:
    """Carries the whole influence of the parameters on the state forward.

        M_t = J_t M_{t-1} + I_t                                                      (1)
          g = sum_t q_t M_t                                                          (2)

    *Exact* while the weights stand still, and equal then to `bptt` over everything seen
    since a sequence began, in any segments. When weights change at every segment, M
    holds what older ones did.

    Costs S P floats an example of memory and O(S^2 P) time a step. In a cell that works
    unit by unit (LSTM, GRU, RNN) J is one dense block by h and a diagonal by the state:
    4 H^2 P operations for one LSTM layer, with P = 4 H (X + H + 1). For tens of hidden
    units, not hundreds. Where the recurrent weights reach a unit from itself alone
    (none, or made diagonal by the cell's gated form), each weight is followed in its
    unit alone: still exact, O(P) memory and time in a single layer.

    Args:
      model: the model; any with a step.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      layerwise: whether parameters are followed in their own layer alone, for less
        memory and time in a stack. The loss reaches a lower layer through those above
        within a step only: *biased* for all layers but the uppermost.

    Returns:
      The estimator.

    Raises:
      OptionError: the model has no online form, or `layerwise` for a cell that does
        not work unit by unit.

    References:
      Williams and Zipser, A Learning Algorithm for Continually Running Fully Recurrent
      Neural Networks, Neural Computation 1(2), 1989.
    """
    check_online_form(model)
    units = find_units(model)
    if units is None:
        if layerwise:
            raise OptionError(
                "layerwise: needs layers of a gated cell that works unit by unit, such "
                "as an LSTM; leave it out"
            )
        trace = dense(model)
    else:
        carry = "unit" if units.diagonal else "all"
        trace = layered(
            model, units, carry=carry, own=units.diagonal, layerwise=layerwise
        )
    several = units is not None and units.num_layers > 1
    traits = Traits(
        kind="biased" if layerwise and several else "exact",
        segment_invariant=True,
        online=True,
    )
    return online(model, loss_fn, trace, traits=traits)
