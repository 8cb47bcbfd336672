"""A step of real-time recurrent learning against the operations that it has to make.

    python benchmarks/rtrl.py [--size T=20,B=8,X=32,H=64] [--rounds N] [--devices N]

One LSTM layer pushes its influence forward by 4 B H^2 P operations a step, with the
P = 4 H (X + H + 1) weights of the layer. They are set against the machine's rate at one
large product, measured in turn with the steps.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import PartitionSpec  # noqa: E402

from jaxlstm.cells import make_lstm  # noqa: E402
from jaxlstm.estimators import Segment, bptt, rtrl  # noqa: E402
from jaxlstm.lab.devices import (  # noqa: E402
    batch_specs,
    local,
    make_mesh,
    spread,
    total,
)
from jaxlstm.model import make_model  # noqa: E402

LARGE = 2048
OUTPUTS = 4


def squared_error(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the loss of each example."""
    return jnp.sum((prediction - target) ** 2, axis=-1)


def make_estimate(size: dict[str, int], devices: int) -> Callable[[], Any]:
    """Returns a function that makes one estimate of a segment, compiled and checked."""
    steps, batch, inputs, hidden = (size[axis] for axis in "TBXH")
    mesh = make_mesh(devices, batch)
    model = make_model(
        make_lstm(), input_size=inputs, hidden_size=hidden, output_size=OUTPUTS
    )
    params = model.init(jax.random.key(0))
    random = np.random.default_rng(0)
    segment = Segment(
        np.float32(random.normal(size=(steps, batch, inputs))),
        np.float32(random.normal(size=(steps, batch, OUTPUTS))),
    )
    online, exact = rtrl(model, squared_error), bptt(model, squared_error)
    state = online.init(params, (batch,), jax.random.key(0))

    def run(params: Any, state: Any, segment: Segment) -> Any:
        sums, state = online.estimate(local(params, mesh), state, segment)
        return total(sums, mesh), state

    alike, specs = PartitionSpec(), batch_specs(state, axis=0)
    in_specs = alike, specs, batch_specs(segment, axis=1)
    estimate = jax.jit(spread(run, mesh, in_specs, (alike, specs)))
    expected, _ = jax.jit(exact.estimate)(
        params, exact.init(params, (batch,), jax.random.key(0)), segment
    )
    found, _ = estimate(params, state, segment)
    for a, e in zip(*map(jax.tree.leaves, (found.grads, expected.grads)), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-4 * float(np.abs(e).max()))
    return lambda: jax.block_until_ready(estimate(params, state, segment))


def time_call(call: Callable[[], Any], count: int = 5) -> float:
    """Returns the median seconds of a call."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(size: dict[str, int], rounds: int, devices: int) -> list[list[float]]:
    """Returns for each round operations a second, seconds a step, and the ratio."""
    estimate = make_estimate(size, devices)
    steps, batch, inputs, hidden = (size[axis] for axis in "TBXH")
    num_weights = 4 * hidden * (inputs + hidden + 1)
    operations = 4 * batch * hidden**2 * num_weights
    square = jnp.ones((LARGE, LARGE), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    large = lambda: multiply(square, square).block_until_ready()  # noqa: E731
    large()
    rows = []
    for _ in range(rounds):
        rate = 2 * LARGE**3 / time_call(large)
        seconds = time_call(estimate) / steps
        rows.append([rate, seconds, seconds * rate / operations])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="T=20,B=8,X=32,H=64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        size = {
            axis: int(value)
            for axis, value in (part.split("=") for part in options.size.split(","))
        }
    except ValueError:
        size = {}
    if set(size) != set("TBXH") or min(size.values()) < 1 or options.rounds < 1:
        parser.error(
            f"--size {options.size} --rounds {options.rounds}: write sizes above 0 as "
            "T=20,B=8,X=32,H=64, and 1 round or more"
        )
    rows = measure(size, options.rounds, options.devices)
    print(f"{options.size}, {options.devices} devices, jax {jax.__version__}")
    for name, column, scale in (
        ("large product, GFLOP/s", 0, 1e-9),
        ("a step, ms", 1, 1e3),
        ("times as long as its operations", 2, 1.0),
    ):
        values = [row[column] * scale for row in rows]
        low, high = min(values), max(values)
        print(f"{name:32}{statistics.median(values):9.2f}  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
