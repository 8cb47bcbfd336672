"""Weights as tutorials write them, against their own loop in NumPy."""

import jax
import numpy as np
import pytest

from jaxlstm import LSTMState, lstm
from jaxlstm.interop.textbook import from_tutorial, to_tutorial
from jaxlstm.interop.weights import WeightsError
from jaxlstm.model import ReadoutParams
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close, jit

T, B, X, H, Y = 4, 2, 3, 5, 6


def draw_weights(**shapes):
    rng = np.random.default_rng(0)
    wanted = {}
    for gate in "fioc":
        wanted |= {f"W_x{gate}": (X, H), f"W_h{gate}": (H, H), f"b_{gate}": (H,)}
    wanted |= {"W_hq": (H, Y), "b_q": (Y,)}
    return {name: rng.normal(size=shape) for name, shape in (wanted | shapes).items()}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def run(inputs, state, w):
    """Runs the tutorial's loop over rows, X [B, X] and H [B, H]."""
    (H_t, C), outputs = state, []
    for X_t in inputs:
        I_t = sigmoid(X_t @ w["W_xi"] + H_t @ w["W_hi"] + w["b_i"])
        F_t = sigmoid(X_t @ w["W_xf"] + H_t @ w["W_hf"] + w["b_f"])
        O_t = sigmoid(X_t @ w["W_xo"] + H_t @ w["W_ho"] + w["b_o"])
        C_tilda = np.tanh(X_t @ w["W_xc"] + H_t @ w["W_hc"] + w["b_c"])
        C = F_t * C + I_t * C_tilda
        H_t = O_t * np.tanh(C)
        outputs.append(H_t @ w["W_hq"] + w["b_q"])
    return np.stack(outputs), (H_t, C)


def test_a_sequence_by_the_loop_of_a_tutorial(x64):
    weights = draw_weights(b_c=(1, H), b_q=(1, Y))
    rng = np.random.default_rng(1)
    inputs, *state = (rng.normal(size=s) for s in ((T, B, X), (B, H), (B, H)))
    params, readout = from_tutorial(weights)
    assert readout.w is not None and readout.b is not None
    last, outputs = jit(lstm)(params, inputs, LSTMState(*state))
    expected, (h, c) = run(inputs, state, weights)
    assert_close(outputs @ readout.w + readout.b[None, None], expected)
    assert_close(last, LSTMState(h, c))


def test_both_ways(x64):
    weights = draw_weights()
    there = to_tutorial(*from_tutorial(weights))
    assert list(there)[:4] == ["W_xi", "W_hi", "b_i", "W_xf"]
    assert_close(there, {name: weights[name] for name in there}, 0.0)
    params, readout = from_tutorial(
        {f"rnn.{n}": w for n, w in weights.items()}, prefix="rnn."
    )
    row = list(weights.values())
    assert_close(from_tutorial(row, order="fioc"), (params, readout), 0.0)
    swapped = from_tutorial(row[3:6] + row[:3] + row[6:], order="ifoc")
    assert_close(swapped, (params, readout), 0.0)
    alone = from_tutorial(row[:12], order="fioc")
    assert_close(alone, (params, ReadoutParams(None, None)), 0.0)
    zeros = to_tutorial(params._replace(b=None), prefix="rnn.")
    assert len(zeros) == 12 and not zeros["rnn.b_f"].any()
    assert (
        jax.tree.leaves(from_tutorial(row, order="fioc", dtype="float32"))[0].dtype
        == "float32"
    )


def test_names_and_shapes_that_do_not_fit_are_listed():
    weights = {
        n: w.astype("float32")
        for n, w in draw_weights(W_ho=(H, X), b_f=(H, 1), W_hq=(X, Y)).items()
    }
    with pytest.raises(WeightsError) as caught:
        from_tutorial(weights)
    by = "X = 3 and H = 5 by W_xi"
    assert caught.value.lines == (
        f"b_f: shape (5, 1) is not (5,), which is [H] for {by}",
        f"W_ho: shape (5, 3) is not (5, 5), which is [H, H] for {by}",
        f"W_hq: shape (3, 6) is not (5, 6), which is [H, Y] for {by}",
    )
    named = draw_weights()
    named["w_xf"] = named.pop("W_xf")
    with pytest.raises(WeightsError) as caught:
        from_tutorial(named)
    assert caught.value.lines == ("W_xf: is missing", "w_xf: is not of this layer")
    del named["b_q"], named["w_xf"]
    with pytest.raises(WeightsError) as caught:
        from_tutorial(named)
    assert caught.value.lines == ("W_xf: is missing", "b_q: is missing")
    with pytest.raises(WeightsError, match=r"^W_xi: shape \(3,\) is not \[X, H\]$"):
        from_tutorial(
            {n: w.astype("float32") for n, w in draw_weights(W_xi=(X,)).items()}
        )


def test_a_row_without_its_order_is_refused():
    row = list(draw_weights().values())
    for order in (None, "ifgo", "iioc"):
        with pytest.raises(OptionError, match=r"^order: is .* have no names; give"):
            from_tutorial(row, order=order)
    with pytest.raises(WeightsError, match=r"^weights: 13 arrays in a row are not 14"):
        from_tutorial(row[1:], order="fioc")
    with pytest.raises(TypeError, match=r"^params: list has no form of fourteen"):
        to_tutorial(row)
