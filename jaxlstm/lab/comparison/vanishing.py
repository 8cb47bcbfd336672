"""What a comparison measures of vanishing gradients, on fresh nets of known gain."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.diagnostics import Curve, vanishing_curves
from jaxlstm.diagnostics.transition import read_inputs
from jaxlstm.lab.comparison.flow import as_figures
from jaxlstm.lab.comparison.problem import Part, Problem, as_dtype
from jaxlstm.lab.comparison.windows import read_window
from jaxlstm.select import keep
from jaxlstm.types import Array

# Rates hardly depend on the size of a net, and singular values take its cube in time.
MOST_UNITS = 64
LAGS = *range(1, 10), *range(10, 101, 5)
# Steps that are read before the first that counts.
WARM_UP = 20

NAMES = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
PREDICTED_BY = {
    "rnn": "spectral radius of W_h, the gain",
    "gru": "spectral radius of the Jacobian at rest, I/2 + W_n/4",
    "lstm": "spectral radius of the Jacobian at rest, sigmoid(forget bias) I + W_g/4",
}
DRIVEN_BY = {
    "rnn": "gain times the geometric mean of tanh', a lower bound",
    "gru": "geometric mean of the update gate, the memory alone",
    "lstm": "geometric mean of the forget gate, the memory alone",
}


def measure(
    problem: Problem,
    *,
    gains: Sequence[float] = (0.5, 0.9, 1.0, 1.5, 2.0),
    forget_biases: Sequence[float] = (0.0, 1.0, 3.0),
    num_examples: int = 4,
) -> Part:
    """Measures |ds_t/ds_{t-k}| of fresh RNNs, GRUs and LSTMs, at rest and driven.

    In float64. Each is one layer of the config's hidden size, or of 64 units where that
    is more; inputs are those of the task, resets aside. Norms, rate and prediction of a
    curve are those at rest; what is named "driven" is under the task's inputs.

    Args:
      problem: what is compared.
      gains: of the recurrent weights.
      forget_biases: of LSTMs of gain 1.
      num_examples: that drive the nets.
    """
    hidden_size = min(problem.config.sections.model.hidden_size, MOST_UNITS)
    problem.progress(f"nets of {hidden_size} units, at rest and driven")
    with jax.enable_x64(True):
        inputs = read_vectors(problem, max(LAGS) + WARM_UP)[:, :num_examples]
        curves = vanishing_curves(
            inputs,
            hidden_size,
            gains=gains,
            forget_biases=forget_biases,
            lags=LAGS,
            key=jax.random.key(problem.config.sections.seed),
        )
    values = {
        "k": list(LAGS),
        "hidden_size": hidden_size,
        "num_examples": inputs.shape[1],
        "curves": [write(curve) for curve in curves],
    }
    return Part(values)


def read_vectors(problem: Problem, num_steps: int) -> Array:
    """Returns the first training inputs as vectors [T, B, X]; masked ones are zero."""
    parts = problem.config.task.parts()
    count = -(-num_steps // problem.config.sections.train.segment_length)
    while (window := read_window(problem, 0, count)).num_steps < num_steps:
        count *= 2  # Segments may be shorter where an epoch ends.
    x, mask, *_ = read_inputs(as_dtype(window.whole, "float64"), begins=False)
    if parts.symbols:
        x = jax.nn.one_hot(x, parts.input_size)
        x = keep(mask, x, jnp.zeros_like(x))
    return x[:num_steps]


def write(curve: Curve) -> dict[str, Any]:
    """Returns a curve as JSON holds it."""
    rest, driven = curve.rest, curve.driven
    setting = (
        f"gain {curve.gain:g}"
        if curve.gain is not None
        else f"forget bias {curve.forget_bias:g}"
    )
    return {
        "cell": curve.cell,
        "gain": curve.gain,
        "forget_bias": curve.forget_bias,
        "label": f"{NAMES[curve.cell]}, {setting}",
        "norms": as_figures(rest.log_norms),
        "rate": rest.rate and rest.rate.factor,
        "rate_error": rest.rate and rest.rate.error,
        "predicted": rest.predicted,
        "predicted_by": PREDICTED_BY[curve.cell],
        "driven": driven.rate and driven.rate.factor,
        "driven_error": driven.rate and driven.rate.error,
        "driven_norms": as_figures(driven.log_norms),
        "driven_predicted": driven.predicted,
        "driven_predicted_by": DRIVEN_BY[curve.cell],
        "slope": curve.slope,
        "forget_product": None
        if curve.log_forget_product is None
        else as_figures(curve.log_forget_product),
        "saturation": {
            name: {"low": float(shares.low), "high": float(shares.high)}
            for name, shares in curve.saturation.items()
        },
    }
