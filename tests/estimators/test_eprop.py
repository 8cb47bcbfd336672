"""E-prop and RFLO: no gradient through h W_h, and feedback of two kinds."""

import jax
import numpy as np
import pytest

from jaxlstm.cells import make_gru, make_leaky_rnn, make_lstm
from jaxlstm.estimators import eprop, h_detach, rflo
from tests.estimators.patterns import CELLS, GATED, initial, problem_of, stop_h
from tests.estimators.problems import (
    B,
    H,
    X,
    loop_loss,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, jit
from tests.toy_cells import TOY_CELLS

NORMALISED = TOY_CELLS["normalised"]
QUICK = "lstm", "two_layers"


def estimate_of(estimator, params):
    state = initial(estimator, params)
    return jit(estimator.estimate)(params, state, make_segment())[0], state


def gradient_of_a_loop(cell, params, edit=None, readout=None, **options):
    """Returns the gradient with h fixed in the preactivations."""
    model, _ = problem(stop_h(cell), **options)
    if readout is not None:
        model = model._replace(readout=readout(model))
    others = {} if edit is None else {"edit": edit}

    def loss(params):
        return loop_loss(model, params, make_segment(), **others)[0]

    return jit(jax.grad(loss))(params)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in GATED],
)
def test_is_a_loop_with_h_stopped(name, x64):
    model, params = problem_of(name)
    cell, options = CELLS[name]
    actual, _ = estimate_of(eprop(model, squared_error), params)
    assert_close(actual.grads, gradient_of_a_loop(cell, params, **options))


@pytest.mark.slow
def test_cells_that_mix_units(x64):
    model, params = problem(NORMALISED, num_layers=2)
    actual, _ = estimate_of(eprop(model, squared_error), params)
    assert_close(actual.grads, gradient_of_a_loop(NORMALISED, params, num_layers=2))


@pytest.mark.slow
def test_is_h_detach_with_all_edges_cut(x64):
    model, params = problem_of("two_layers")
    forward, _ = estimate_of(eprop(model, squared_error), params)
    backward, _ = estimate_of(h_detach(model, squared_error, p=1.0), params)
    assert_close(forward, backward)


@pytest.mark.slow
def test_layerwise(x64):
    """Below, with what upper layers remember held fixed as well."""
    model, params = problem_of("two_layers")
    estimator = eprop(model, squared_error, layerwise=True)
    actual, _ = estimate_of(estimator, params)

    def fixed_above(state, n, t):
        return state[0], jax.lax.stop_gradient(state[1])

    above = gradient_of_a_loop(make_lstm(), params, num_layers=2)
    below = gradient_of_a_loop(make_lstm(), params, fixed_above, num_layers=2)
    assert_close(actual.grads.recurrent.layers[0], below.recurrent.layers[0])
    assert_close(actual.grads.recurrent.layers[1], above.recurrent.layers[1])
    assert_close(actual.grads.readout, above.readout)


def test_random_feedback(x64):
    """The error reaches the state through a readout that makes no prediction."""
    model, params = problem_of("lstm")
    estimator = eprop(model, squared_error, feedback="random")
    actual, state = estimate_of(estimator, params)
    feedback = model.init(state.feedback).readout

    def readout(model):
        def read_out(params, state, **options):
            fixed = jax.lax.stop_gradient(state)
            prediction = model_readout(params, fixed)
            other = jax.lax.stop_gradient(params)._replace(readout=feedback)
            spoken = model_readout(other, state)
            return prediction + spoken - jax.lax.stop_gradient(spoken)

        model_readout = model.readout
        return read_out

    expected = gradient_of_a_loop(make_lstm(), params, readout=readout)
    assert_close(actual.grads, expected)
    symmetric, _ = estimate_of(eprop(model, squared_error), params)
    assert_close(actual.grads.readout, symmetric.grads.readout)
    w_h, other = (e.grads.recurrent.layers[0].w_h for e in (actual, symmetric))
    assert np.abs(w_h - other).max() > 0.1 * np.abs(other).max()


def test_rflo_by_its_recursion(x64):
    """Murray 2019, equations 2 to 4, with the trace of each synapse by itself."""
    leak = 0.3
    model, params = problem(make_leaky_rnn(leak=leak), learned_initial_state=False)
    estimator = rflo(model, squared_error)
    actual, state = estimate_of(estimator, params)
    feedback = np.asarray(model.init(state.feedback).readout.w)
    (layer,), (w, b) = params.recurrent.layers, params.readout
    rows = np.concatenate([layer.w_x, layer.w_h, layer.b[None]])
    inputs, targets, mask, resets, weights = make_segment()
    total = np.zeros_like(rows)
    for n in range(B):
        h, traces = np.zeros(H), np.zeros((X + H + 1, H))
        for t in range(len(inputs)):
            if resets[t, n]:
                h, traces = np.zeros(H), np.zeros_like(traces)
            if not mask[t, n]:
                continue
            u = np.concatenate([inputs[t, n], h, [1]])
            slope = 1 - np.tanh(u @ rows) ** 2
            h = (1 - leak) * h + leak * np.tanh(u @ rows)
            traces = (1 - leak) * traces + leak * np.outer(u, slope)
            if weights[t, n]:
                error = 2 * weights[t, n] * (h @ w + b - targets[t, n])
                total += (feedback @ error) * traces
    (grads,) = actual.grads.recurrent.layers
    found = np.concatenate([grads.w_x, grads.w_h, grads.b[None]])
    assert_close(found, total)


def test_refusals(x64):
    lstm, _ = problem_of("lstm")
    own, _ = problem_of("no_gated_form")
    tied, _ = problem(
        make_gru(), inputs="embedding", tied=True, input_size=X, output_size=X
    )
    mixing, _ = problem(NORMALISED)
    for make, message in (
        (lambda: eprop(own, squared_error), "eprop: follows a state past its"),
        (lambda: eprop(mixing, squared_error, layerwise=True), "layerwise: needs"),
        (lambda: rflo(lstm, squared_error), "rflo: is defined for one layer of the"),
        (
            lambda: eprop(tied, squared_error, feedback="random"),
            'feedback: is "random", and the readout has no weights of its own',
        ),
        (
            lambda: eprop(lstm, squared_error, feedback="fixed"),
            "feedback: 'fixed' is unknown; use one of 'symmetric', 'random'",
        ),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert str(error.value).startswith(message)
