"""Gradient estimators: pairs of functions that turn segments into gradients."""

from collections.abc import Callable

from jaxlstm.estimators.base import Estimate as Estimate
from jaxlstm.estimators.base import GradientEstimator as GradientEstimator
from jaxlstm.estimators.base import LossFn as LossFn
from jaxlstm.estimators.base import Segment as Segment
from jaxlstm.estimators.base import Traits as Traits
from jaxlstm.estimators.base import score as score
from jaxlstm.estimators.bptt import bptt as bptt
from jaxlstm.estimators.forward_gradient import forward_gradient as forward_gradient
from jaxlstm.estimators.pes import pes as pes
from jaxlstm.estimators.rtrl import rtrl as rtrl
from jaxlstm.estimators.uoro import uoro as uoro

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "bptt": bptt,
    "forward_gradient": forward_gradient,
    "pes": pes,
    "rtrl": rtrl,
    "uoro": uoro,
}
