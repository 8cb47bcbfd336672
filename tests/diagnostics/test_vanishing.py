"""Decay rates against spectra taken from the weights, and against their bounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_lstm, make_rnn
from jaxlstm.diagnostics import (
    spectral_radius,
    step_jacobians,
    vanishing_curves,
)
from jaxlstm.diagnostics.vanishing import CELLS, with_forget_bias, with_gain
from jaxlstm.estimators import Segment
from jaxlstm.model import make_model
from jaxlstm.shapes import OptionError
from tests.helpers import jit

H, X, T = 6, 2, 24
KEY = jax.random.key(4)


def make_inputs(size: float = 1.0):
    return size * np.random.default_rng(0).normal(size=(T, 3, X))


def measure(size=1.0, **options) -> Any:
    return vanishing_curves(make_inputs(size), H, key=KEY, **options)


def drawn(cell):
    model = make_model(
        cell,
        input_size=X,
        output_size=H,
        hidden_size=H,
        readout="none",
        dtype=jnp.float64,
    )
    return model, model.init(KEY)


def candidate_eigenvalues(name):
    """Returns those of the recurrent weights of the candidate, as drawn."""
    _, params = drawn(CELLS[name])
    (layer,) = params.recurrent.layers
    block = {"rnn": 0, "gru": 2, "lstm": 2}[name]
    return np.linalg.eigvals(np.asarray(layer.w_h)[:, block * H : (block + 1) * H])


def sigmoid(b):
    return 1 / (1 + np.exp(-b))


def expected_rate(curve):
    """Returns the rate at rest by the weights' eigenvalues; see the module's text."""
    eigenvalues = candidate_eigenvalues(curve.cell)
    gain = 1 if curve.gain is None else curve.gain
    if curve.cell == "rnn":
        return np.max(np.abs(gain * eigenvalues))
    if curve.cell == "gru":
        return np.max(np.abs(0.5 + gain * eigenvalues / 4))
    bias = 1 if curve.forget_bias is None else curve.forget_bias
    return np.max(np.abs(sigmoid(bias) + gain * eigenvalues / 4))


def check_curve(curve):
    rate = expected_rate(curve)
    assert curve.rest.rate.factor == pytest.approx(rate, rel=1e-12)
    assert curve.rest.predicted == pytest.approx(rate, rel=1e-12)
    assert curve.rest.rate.error < 1e-13


@pytest.mark.parametrize(
    ("name", "gain", "bias"), [("rnn", 0.9, None), ("gru", 1.5, None), ("lstm", 2, 3.0)]
)
def test_radius_at_rest_is_that_of_the_weights(x64, name, gain, bias):
    model, params = drawn(CELLS[name])
    params = with_forget_bias(with_gain(params, gain), bias)
    start = model.initial_state(params, (1,))
    rest = Segment(np.zeros((1, 1, X)), None)
    jacobians = jit(lambda p: step_jacobians(model, p, rest, state=start))(params)
    eigenvalues = gain * candidate_eigenvalues(name) / (1 if name == "rnn" else 4)
    centre = {"rnn": 0, "gru": 0.5, "lstm": sigmoid(3.0)}[name]
    expected = np.max(np.abs(centre + eigenvalues))
    assert spectral_radius(jacobians[0, 0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_rates_of_the_lstm_by_forget_bias_are_those_of_its_spectrum(x64):
    curves = measure(gains=(), forget_biases=(0.0, 3.0), lags=(1, 5, T))
    assert [(c.cell, c.gain, c.forget_bias) for c in curves] == [
        ("lstm", None, 0.0),
        ("lstm", None, 3.0),
    ]
    for curve in curves:
        check_curve(curve)
        assert curve.log_forget_product is not None
        # Of the mean of products over units, the geometric mean is a bound; and the
        # ways by h let more pass.
        assert T * np.log(curve.driven.predicted) <= curve.log_forget_product[-1]
        assert np.all(curve.log_forget_product < curve.driven.log_norms)
    assert curves[0].driven.predicted < 0.55 and curves[1].driven.predicted > 0.9


@pytest.mark.slow
def test_rates_of_all_cells_by_gain_are_those_of_their_spectra(x64):
    gains = 0.0, 0.5, 0.9, 1.0, 2.0
    curves = measure(gains=gains, lags=None)
    assert [c.cell for c in curves] == ["rnn"] * 5 + ["gru"] * 5 + ["lstm"] * 8
    for curve in curves:
        if (curve.cell, curve.gain) == ("rnn", 0.0):
            # Nothing passes, and there is no rate.
            assert curve.rest.rate is None and curve.rest.predicted == 0
            continue
        check_curve(curve)
        assert curve.lags.tolist() == list(range(1, T + 1))
    orthogonal = [c.rest.rate.factor for c in curves[1:5]]
    assert orthogonal == pytest.approx(gains[1:], rel=1e-12)
    # Without recurrent weights, what is left is the gate that keeps the memory.
    without = {c.cell: c for c in curves if c.gain == 0}
    assert without["gru"].rest.rate.factor == pytest.approx(0.5, rel=1e-12)
    assert without["lstm"].rest.rate.factor == pytest.approx(sigmoid(1), rel=1e-12)


@pytest.mark.slow
def test_driven_rnn_lies_between_its_bounds_and_saturates(x64):
    curves = measure(2.0, gains=(0.5, 1.0, 2.0), forget_biases=())[:3]
    slopes, shares = [], []
    for curve in curves:
        k = curve.lags
        # By the product of the norms.
        assert np.all(curve.driven.log_norms <= k * np.log(curve.gain) + 1e-9)
        # By the determinant, over all of the steps of which the slope is the mean.
        least = T * np.log(curve.driven.predicted)
        assert least <= curve.driven.log_norms[-1]
        assert curve.driven.predicted == pytest.approx(curve.gain * curve.slope)
        slopes.append(curve.slope)
        shares.append(sum(map(float, curve.saturation["candidate"])))
    # What the weights give, saturation takes back.
    assert slopes[0] > slopes[1] > slopes[2]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.slow
def test_slope_is_that_of_the_determinants(x64):
    curve = measure(gains=(1.5,), forget_biases=(), lags=(T,))[0]
    model, params = drawn(make_rnn())
    (layer,) = params.recurrent.layers
    layer = layer._replace(w_h=1.5 * layer.w_h)
    params = params._replace(recurrent=params.recurrent._replace(layers=(layer,)))
    start = model.initial_state(params, (3,))
    jacobians = step_jacobians(model, params, Segment(make_inputs(), None), state=start)
    _, log_determinants = np.linalg.slogdet(jacobians)
    expected = np.exp(log_determinants.mean() / H)
    assert curve.driven.predicted == pytest.approx(expected, rel=1e-12)


def test_radius_is_that_of_the_largest_eigenvalue_and_not_of_a_norm():
    assert spectral_radius([[0.5, 100.0], [0.0, -0.75]]) == 0.75
    assert spectral_radius([[0.0, -2.0], [2.0, 0.0]]) == pytest.approx(2)


@pytest.mark.slow
def test_net_that_does_not_rest_is_not_predicted(x64, monkeypatch):
    restless = make_lstm(initializer="uniform_hidden")
    monkeypatch.setitem(CELLS, "lstm", restless)
    (curve,) = measure(gains=(), forget_biases=(1.0,), lags=(1, 2))
    assert curve.rest.predicted is None and curve.rest.rate is None
    assert np.isfinite(curve.rest.log_norms).all()


@pytest.mark.parametrize("gain", [-0.5, np.nan])
def test_negative_gain_is_refused(gain):
    with pytest.raises(OptionError, match=f"gains: value is {gain}"):
        measure(gains=(gain,))
