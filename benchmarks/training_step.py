"""The layer of jaxlstm: on one device, or with the batch sharded over several."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.base import Prepared, Size, Work
from benchmarks.problems import draw_layer
from jaxlstm import LSTMParams, lstm, lstm_cell, zero_state
from jaxlstm.types import Array

AXIS = "batch"
ALIKE, SHARDED = PartitionSpec(), PartitionSpec(None, AXIS)


def rule(params: LSTMParams, inputs: Array) -> Array:
    """Returns the layer's outputs [T, B, H], under the derivative rule."""
    return lstm(params, inputs)[1]


def autodiff(params: LSTMParams, inputs: Array) -> Array:
    """Returns the layer's outputs [T, B, H], under plain autodiff."""
    return lstm(params, inputs, derivative="autodiff")[1]


def scan(params: LSTMParams, inputs: Array) -> Array:
    """Returns the layer's outputs [T, B, H], by a scan as one writes it by hand."""
    state = zero_state(params, inputs.shape[1:-1])
    return jax.lax.scan(functools.partial(lstm_cell, params), state, inputs)[1]


FORWARDS: dict[str, Callable[[LSTMParams, Array], Array]] = {
    "rule": rule,
    "autodiff": autodiff,
    "scan": scan,
}


def prepare(
    size: Size, *, forward: Literal["rule", "autodiff", "scan"], devices: int = 1
) -> Prepared:
    """Places the arguments; the first runs compile.

    Args:
      size: T, B, X, H.
      forward: how the layer is run.
      devices: how many XLA devices the batch is sharded over.
    """
    jax.config.update("jax_num_cpu_devices", devices)
    mesh = jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,))
    run = FORWARDS[forward]
    layer = draw_layer(size)
    params = LSTMParams(*layer.weights)
    params_tangent = LSTMParams(*layer.weights_tangent)

    def work(
        function: Callable[..., Any],
        arguments: Sequence[Any],
        in_specs: tuple[PartitionSpec, ...],
        out_specs: Any,
        names: Sequence[str],
    ) -> Work:
        if devices > 1:
            function = jax.shard_map(
                function, mesh=mesh, in_specs=in_specs, out_specs=out_specs
            )
        compiled = jax.jit(function)
        placed = [
            jax.device_put(argument, NamedSharding(mesh, spec))
            for argument, spec in zip(arguments, in_specs, strict=True)
        ]

        def outputs(result: Any) -> dict[str, np.ndarray]:
            leaves = map(np.asarray, jax.tree.leaves(result))
            return dict(zip(names, leaves, strict=True))

        return Work(lambda: jax.block_until_ready(compiled(*placed)), outputs)

    # Under shard_map, the gradients of what is alike on all devices come out summed.
    def gradient(params: LSTMParams, inputs: Array, cotangent: Array) -> Any:
        _, pull_back = jax.vjp(run, params, inputs)
        return pull_back(cotangent)

    def jvp(params: LSTMParams, inputs: Array, *tangents: Any) -> Any:
        return jax.jvp(run, (params, inputs), tangents)

    return Prepared(
        {
            "gradient": work(
                gradient,
                (params, layer.inputs, layer.cotangent),
                (ALIKE, SHARDED, SHARDED),
                (ALIKE, SHARDED),
                ("w_x", "w_h", "b", "inputs"),
            ),
            "forward": work(
                run, (params, layer.inputs), (ALIKE, SHARDED), SHARDED, ("outputs",)
            ),
            "jvp": work(
                jvp,
                (params, layer.inputs, params_tangent, layer.inputs_tangent),
                (ALIKE, SHARDED, ALIKE, SHARDED),
                (SHARDED, SHARDED),
                ("outputs", "tangent"),
            ),
        },
        device=f"{mesh.size} x {jax.devices()[0].platform}",
    )
