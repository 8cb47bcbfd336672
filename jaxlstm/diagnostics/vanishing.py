"""Where gradients vanish and explode: small nets of known gain, and what predicts them.

What a state says of an earlier one is the product of the Jacobians in between. At rest,
where input and state are zero, it is a power of one matrix, and its norm a power of
the matrix's spectral radius. For recurrent weights W = gain times an orthogonal matrix,

    RNN:   ds'/ds = W^T                           |eigenvalues| = gain, exactly
    GRU:   ds'/ds = I/2 + W_n^T/4                 1/2 from the update gate, open halfway
    LSTM:  dc'/dc = sigmoid(b_f) I + W_g^T/4      the forget gate, and the way by h

As inputs drive the net, every unit of the RNN multiplies by tanh' < 1 too,
J_t = diag(tanh'(z_t)) W^T. So its decay lies between two rates,

    gain exp(mean log tanh') <= rate <= gain                                      (1)

the mean over units and steps: the left side is the geometric mean of the singular
values, by the determinant; the right side is the product of the norms. A gain above 1
lets gradients explode only until units saturate, as tanh' then takes back what the
weights give.

References:
  Hochreiter, Untersuchungen zu dynamischen neuronalen Netzen, 1991. Pascanu, Mikolov
  and Bengio, On the Difficulty of Training Recurrent Neural Networks, ICML 2013.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells import Cell, make_gru, make_lstm, make_rnn
from jaxlstm.diagnostics.gates import Saturation, gate_values, saturation
from jaxlstm.diagnostics.jacobians import (
    Products,
    Rate,
    fit_rate,
    forget_products,
    jacobian_products,
    read_lags,
    step_jacobians,
)
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, ModelParams, make_model
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array, Key

CELLS: dict[str, Cell] = {"rnn": make_rnn(), "gru": make_gru(), "lstm": make_lstm()}

# The gate along which a memory is kept, by cell.
KEEPERS = {"gru": "update", "lstm": "forget"}


class Decay(NamedTuple):
    """How |ds_t/ds_{t-k}| goes with k.

    Attributes:
      log_norms: [K] natural logarithms; driven, the mean over examples.
      rate: the factor a step, fitted; None where fewer than three norms are finite.
      predicted: the factor that theory gives, or None.
    """

    log_norms: np.ndarray
    rate: Rate | None
    predicted: float | None


class Curve(NamedTuple):
    """A net of one layer, and how its gradients fare.

    Attributes:
      cell: "rnn", "gru" or "lstm".
      gain: of the recurrent weights; None where they are as drawn, at 1.
      forget_bias: of the LSTM; None where it is as drawn, at 1.
      lags: [K] of k.
      rest: at zero input and state, predicted by the spectral radius of the Jacobian
        there; None if the net does not stay there.
      driven: by inputs. Predicted for the RNN is the least rate of (1); for the others,
        the geometric mean of the gate that keeps their memory.
      slope: the geometric mean of tanh', of the RNN; None for others.
      saturation: of the driven net's gates, by name.
      log_forget_product: [K] of the driven LSTM, the mean over examples; or None.
    """

    cell: str
    gain: float | None
    forget_bias: float | None
    lags: np.ndarray
    rest: Decay
    driven: Decay
    slope: float | None
    saturation: dict[str, Saturation]
    log_forget_product: np.ndarray | None


class _Measured(NamedTuple):
    """What is computed of one net, before anything is fitted."""

    products: Products
    jacobian: Array
    stays: Array
    gates: dict[str, Array]
    saturation: dict[str, Saturation]
    forget_product: Array | None


def vanishing_curves(
    inputs: Array,
    hidden_size: int,
    *,
    gains: Sequence[float] = (0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0),
    forget_biases: Sequence[float] = (0.0, 1.0, 3.0),
    lags: Sequence[int] | None = None,
    key: Key,
) -> list[Curve]:
    """Measures RNN, GRU and LSTM by recurrent gain, and the LSTM by forget bias.

    Each is drawn as `init` draws it, with zero biases but the LSTM's forget bias of 1
    and orthogonal blocks of recurrent weights, which are multiplied by the gain. It
    starts at zero and reads all inputs; norms are those of the last step.

    Args:
      inputs: [T, B, X] that drive the nets.
      hidden_size: H.
      gains: of the recurrent weights.
      forget_biases: of the LSTM, at gain 1.
      lags: of k, from 1 to T; by default all. Fewer take less time.
      key: draws the weights; the same ones for all gains and biases.

    Returns:
      The curves: of each cell by gain, then of the LSTM by forget bias.

    Raises:
      OptionError: a gain is negative, or there is no such lag.
    """
    negative = [gain for gain in gains if not gain >= 0]
    if negative:
        raise OptionError(f"gains: value is {negative[0]}; use numbers from 0 on")
    inputs = jnp.asarray(inputs, jnp.result_type(float))
    wanted = read_lags(lags, len(inputs))
    curves = []
    for name, cell in CELLS.items():
        model = _make_model(cell, inputs.shape[-1], hidden_size)
        drawn = model.init(key)
        settings: list[tuple[float | None, float | None]] = [(g, None) for g in gains]
        if name == "lstm":
            settings += [(None, b) for b in forget_biases]
        if not settings:
            continue
        nets = [
            with_forget_bias(with_gain(drawn, 1.0 if gain is None else gain), bias)
            for gain, bias in settings
        ]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *nets)
        measure = functools.partial(_measure, model, inputs, wanted)
        run = jax.jit(functools.partial(jax.lax.map, measure))
        measured = jax.device_get(run(stacked))
        for n, (gain, bias) in enumerate(settings):
            one = jax.tree.map(lambda x, n=n: x[n], measured)
            curves.append(_curve(name, gain, bias, one))
    return curves


def with_gain(params: ModelParams, gain: float) -> ModelParams:
    """Returns parameters whose recurrent weights are multiplied by a gain."""
    layers = tuple(
        layer._replace(w_h=gain * layer.w_h) for layer in params.recurrent.layers
    )
    return params._replace(recurrent=params.recurrent._replace(layers=layers))


def with_forget_bias(params: ModelParams, bias: float | None) -> ModelParams:
    """Returns parameters of LSTMs with another forget bias; None leaves it."""
    if bias is None:
        return params

    def put(layer: Any) -> Any:
        hidden_size = len(layer.w_h)
        return layer._replace(b=layer.b.at[hidden_size : 2 * hidden_size].set(bias))

    layers = tuple(put(layer) for layer in params.recurrent.layers)
    return params._replace(recurrent=params.recurrent._replace(layers=layers))


def spectral_radius(jacobian: Any) -> float:
    """Returns the largest absolute eigenvalue of [S, S]."""
    return float(np.max(np.abs(np.linalg.eigvals(np.asarray(jacobian)))))


def _make_model(cell: Cell, input_size: int, hidden_size: int) -> Model:
    return make_model(
        cell,
        input_size=input_size,
        output_size=hidden_size,
        hidden_size=hidden_size,
        readout="none",
        dtype=jnp.result_type(float),
    )


def _measure(
    model: Model, inputs: Array, lags: np.ndarray, params: ModelParams
) -> _Measured:
    # The first example is at rest, the others are driven.
    rest = jnp.zeros_like(inputs[:, :1])
    both = Segment(jnp.concatenate([rest, inputs], axis=1), None)
    driven, first = Segment(inputs, None), Segment(rest[:1], None)
    start = model.initial_state(params, (both.inputs.shape[1],))
    drive_start, rest_start = (
        jax.tree.map(lambda x, part=part: x[part], start)
        for part in (slice(1, None), slice(1))
    )
    options = [int(k) for k in lags]
    (gates,) = gate_values(model, params, driven, state=drive_start)
    (shares,) = saturation(model, params, driven, state=drive_start)
    after, _ = model.unroll(params.recurrent, rest_start, first.inputs)
    moved = jax.tree.map(lambda x, y: jnp.any(x != y), after, rest_start)
    return _Measured(
        jacobian_products(model, params, both, lags=options, state=start),
        step_jacobians(model, params, first, state=rest_start)[0, 0],
        ~jnp.any(jnp.stack(jax.tree.leaves(moved))),
        # Of the steps that the longest lag spans.
        {name: x[-max(options) :] for name, x in gates.items()},
        shares,
        forget_products(model, params, driven, lags=options, state=drive_start),
    )


def _curve(
    cell: str, gain: float | None, forget_bias: float | None, measured: _Measured
) -> Curve:
    lags, log_norms = map(np.asarray, measured.products[:2])
    at_rest, driven = log_norms[:, 0], log_norms[:, 1:].mean(axis=1)
    slope, least = None, None
    if cell == "rnn":
        value = measured.gates["candidate"]
        slope = float(np.exp(np.mean(np.log1p(-value) + np.log1p(value))))
        least = slope if gain is None else gain * slope
    else:
        keeper = measured.gates[KEEPERS[cell]]
        least = float(np.exp(np.mean(np.log(keeper))))
    gated = CELLS[cell].gated
    assert gated is not None
    shares = {
        gate.name: measured.saturation[gate.name]
        for gate in gated.gates
        if gate.name in measured.saturation
    }
    product = measured.forget_product
    radius = spectral_radius(measured.jacobian) if measured.stays else None
    return Curve(
        cell,
        gain,
        forget_bias,
        lags,
        Decay(at_rest, fit_rate(lags, at_rest), radius),
        Decay(driven, fit_rate(lags, driven), least),
        slope,
        shares,
        None if product is None else np.mean(np.asarray(product), axis=1),
    )
