"""Real-time recurrent learning."""

from jaxlstm.estimators.base import GradientEstimator, LossFn, Traits
from jaxlstm.estimators.dense import dense
from jaxlstm.estimators.traces import online
from jaxlstm.model import Model


def rtrl(model: Model, loss_fn: LossFn) -> GradientEstimator:
    """X."""
    traits = Traits(kind="exact", segment_invariant=True, online=True)
    return online(model, loss_fn, dense(model), traits=traits)
