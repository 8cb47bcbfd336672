"""The minLSTM, a linear recurrence: step after step, or parallel in time."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.base import Prepared, Size, Work
from benchmarks.problems import DTYPE
from jaxlstm import unroll
from jaxlstm.cells import MinLSTMParams, make_min_lstm
from jaxlstm.types import Array

CELL = make_min_lstm()


def scan(params: MinLSTMParams, inputs: Array) -> Array:
    """Returns the layer's outputs [T, B, H], step after step under the rule."""
    return unroll(CELL, params, inputs)[1].h


def parallel(params: MinLSTMParams, inputs: Array) -> Array:
    """Returns the layer's outputs [T, B, H], parallel in time."""
    return unroll(CELL, params, inputs, engine="parallel")[1].h


def by_hand(params: MinLSTMParams, inputs: Array) -> Array:
    """Returns the outputs [T, B, H] by JAX's own derivative of `associative_scan`."""
    z = inputs @ params.w_x
    z = z + jnp.broadcast_to(params.b, z.shape)
    i, f, g = jnp.split(z, 3, axis=-1)
    i, f = jax.nn.sigmoid(i), jax.nn.sigmoid(f)

    def join(first: Any, second: Any) -> Any:
        (a_1, b_1), (a_2, b_2) = first, second
        return a_2 * a_1, a_2 * b_1 + b_2

    return jax.lax.associative_scan(join, (f / (f + i), i / (f + i) * g))[1]


FORWARDS: dict[str, Callable[[MinLSTMParams, Array], Array]] = {
    "scan": scan,
    "parallel": parallel,
    "by_hand": by_hand,
}


def prepare(size: Size, *, forward: Literal["scan", "parallel", "by_hand"]) -> Prepared:
    """Places the arguments; the first runs compile.

    Args:
      size: T, B, X, H.
      forward: how the layer is run.
    """
    run, random = FORWARDS[forward], np.random.default_rng(0)
    steps, batch, inputs_size, hidden_size = (size[axis] for axis in "TBXH")

    def draw(*shape: int) -> Array:
        return jnp.asarray(random.normal(size=shape), DTYPE)

    params = MinLSTMParams(
        draw(inputs_size, 3 * hidden_size) / inputs_size**0.5, draw(3 * hidden_size)
    )
    inputs = draw(steps, batch, inputs_size)
    cotangent = draw(steps, batch, hidden_size)

    def gradient(params: MinLSTMParams, inputs: Array, cotangent: Array) -> Any:
        _, pull_back = jax.vjp(run, params, inputs)
        return pull_back(cotangent)

    def work(function: Callable[..., Any], arguments: Any, *names: str) -> Work:
        compiled = jax.jit(function)

        def outputs(result: Any) -> dict[str, np.ndarray]:
            leaves = map(np.asarray, jax.tree.leaves(result))
            return dict(zip(names, leaves, strict=True))

        return Work(lambda: jax.block_until_ready(compiled(*arguments)), outputs)

    return Prepared(
        {
            "gradient": work(
                gradient, (params, inputs, cotangent), "w_x", "b", "inputs"
            ),
            "forward": work(run, (params, inputs), "outputs"),
        },
        device=jax.devices()[0].platform,
    )
