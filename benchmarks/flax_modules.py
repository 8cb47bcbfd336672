"""`RNN(OptimizedLSTMCell(...))` of Flax, and the same lines with the import changed."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.nnx import Rngs, State, merge, split

from benchmarks.base import Prepared, Size, Work
from benchmarks.problems import Layer, draw_layer
from jaxlstm.types import Array

GATES = "ifgo"
Run = Callable[[Any, Array], Array]


def prepare(size: Size, *, package: str) -> Prepared:
    """Places the arguments; the first runs compile.

    Args:
      size: T, B, X, H.
      package: import path of the modules, linen's or nnx's.
    """
    layer = draw_layer(size)
    make = make_linen if package.endswith("linen") else make_nnx
    run, params, name_params = make(importlib.import_module(package), size, layer)
    inputs, cotangent = (jnp.swapaxes(x, 0, 1) for x in (layer.inputs, layer.cotangent))

    def gradient(params: Any, inputs: Array) -> Any:
        outputs, pull_back = jax.vjp(run, params, inputs)
        return *pull_back(cotangent), outputs

    def name_gradient(found: Any) -> dict[str, np.ndarray]:
        by_params, by_inputs, outputs = jax.device_get(found)
        named = {"inputs": by_inputs, "outputs": outputs}
        return {**name_params(by_params), **named}

    compiled_gradient, compiled_run = jax.jit(gradient), jax.jit(run)
    works = {
        "gradient": Work(
            lambda: jax.block_until_ready(compiled_gradient(params, inputs)),
            name_gradient,
        ),
        "forward": Work(
            lambda: jax.block_until_ready(compiled_run(params, inputs)),
            lambda outputs: {"outputs": np.asarray(outputs)},
        ),
    }
    return Prepared(works, device=f"1 x {jax.devices()[0].platform}")


def make_linen(nn: Any, size: Size, layer: Layer) -> tuple[Run, Any, Any]:
    """Returns a layer as a function of parameters, and these, and how to name them."""
    module = nn.RNN(nn.OptimizedLSTMCell(size["H"]))
    params = {}
    blocks = [np.split(weight, 4, axis=-1) for weight in layer.weights]
    for gate, w_x, w_h, b in zip(GATES, *blocks, strict=True):
        params[f"i{gate}"] = {"kernel": jnp.asarray(w_x)}
        params[f"h{gate}"] = {"kernel": jnp.asarray(w_h), "bias": jnp.asarray(b)}

    def run(params: Any, inputs: Array) -> Array:
        return module.apply({"params": {"cell": params}}, inputs)

    def name(found: Any) -> dict[str, np.ndarray]:
        def join(product: str, name: str) -> np.ndarray:
            blocks = [found[f"{product}{gate}"][name] for gate in GATES]
            return np.concatenate(blocks, axis=-1)

        return {
            "w_x": join("i", "kernel"),
            "w_h": join("h", "kernel"),
            "b": join("h", "bias"),
        }

    return run, params, name


def make_nnx(nnx: Any, size: Size, layer: Layer) -> tuple[Run, Any, Any]:
    """Returns a layer as a function of parameters, and these, and how to name them."""
    cell = nnx.OptimizedLSTMCell(size["X"], size["H"], rngs=Rngs(0))
    graph, _, rest = split(nnx.RNN(cell), nnx.Param, ...)
    w_x, w_h, b = map(jnp.asarray, layer.weights)
    params = {"dense_i": {"kernel": w_x}, "dense_h": {"kernel": w_h, "bias": b}}

    def run(params: Any, inputs: Array) -> Array:
        module = merge(graph, State({"cell": params}), rest)
        return module(inputs, rngs=Rngs(0))

    def name(found: Any) -> dict[str, np.ndarray]:
        return {
            "w_x": found["dense_i"]["kernel"],
            "w_h": found["dense_h"]["kernel"],
            "b": found["dense_h"]["bias"],
        }

    return run, params, name
