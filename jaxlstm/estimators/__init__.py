"""Gradient estimators: pairs of functions that turn segments into gradients."""

from collections.abc import Callable

from jaxlstm.estimators.artbp import artbp as artbp
from jaxlstm.estimators.base import Estimate as Estimate
from jaxlstm.estimators.base import GradientEstimator as GradientEstimator
from jaxlstm.estimators.base import LossFn as LossFn
from jaxlstm.estimators.base import Segment as Segment
from jaxlstm.estimators.base import Traits as Traits
from jaxlstm.estimators.base import score as score
from jaxlstm.estimators.bptt import bptt as bptt
from jaxlstm.estimators.clipped_bptt import clipped_bptt as clipped_bptt
from jaxlstm.estimators.eprop import eprop as eprop
from jaxlstm.estimators.forward_gradient import forward_gradient as forward_gradient
from jaxlstm.estimators.h_detach import h_detach as h_detach
from jaxlstm.estimators.kf_rtrl import kf_rtrl as kf_rtrl
from jaxlstm.estimators.pes import pes as pes
from jaxlstm.estimators.rflo import rflo as rflo
from jaxlstm.estimators.rtrl import rtrl as rtrl
from jaxlstm.estimators.snap import snap as snap
from jaxlstm.estimators.tbptt import tbptt as tbptt
from jaxlstm.estimators.uoro import uoro as uoro
from jaxlstm.estimators.whole_sequence import whole_sequence as whole_sequence

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "bptt": bptt,
    "tbptt": tbptt,
    "artbp": artbp,
    "h_detach": h_detach,
    "clipped_bptt": clipped_bptt,
    "rtrl": rtrl,
    "snap": snap,
    "eprop": eprop,
    "rflo": rflo,
    "uoro": uoro,
    "kf_rtrl": kf_rtrl,
    "forward_gradient": forward_gradient,
    "pes": pes,
    "whole_sequence": whole_sequence,
}
