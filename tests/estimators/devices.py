"""An estimate made on several devices."""

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from jaxlstm.estimators import GradientEstimator
from jaxlstm.lab.devices import AXIS, batch_specs, local, spread, total
from jaxlstm.types import PyTree
from tests.helpers import jit


def estimate_on(
    num_devices: int,
    estimator: GradientEstimator,
    params: PyTree,
    state: Any,
    segment: Any,
) -> Any:
    """Returns estimate and state, with the batch spread over devices as in training."""
    devices = jax.devices()[:num_devices]
    mesh = jax.make_mesh(
        (num_devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )

    def run(params: PyTree, state: Any, segment: Any) -> Any:
        sums, state = estimator.estimate(local(params, mesh), state, segment)
        return total(sums, mesh), state

    alike, specs = PartitionSpec(), batch_specs(state, axis=0)
    in_specs = alike, specs, batch_specs(segment, axis=1)
    return jit(spread(run, mesh, in_specs, (alike, specs)))(params, state, segment)
