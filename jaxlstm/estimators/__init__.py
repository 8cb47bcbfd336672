"""Gradient estimators: pairs of functions that turn segments into gradients."""

from collections.abc import Callable

from jaxlstm.estimators.base import Estimate as Estimate
from jaxlstm.estimators.base import GradientEstimator as GradientEstimator
from jaxlstm.estimators.base import LossFn as LossFn
from jaxlstm.estimators.base import Segment as Segment
from jaxlstm.estimators.base import Traits as Traits
from jaxlstm.estimators.base import score as score
from jaxlstm.estimators.bptt import bptt as bptt

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "bptt": bptt,
}
