"""Gradient flow against the backward pass by hand, and against a loop in Python."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import textbook
from jaxlstm.cells import LSTMState, make_gru, make_leaky_rnn, make_lstm
from jaxlstm.diagnostics import flow_norms, gradient_flow
from jaxlstm.estimators import Segment, bptt
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.problems import B, H, X, make_segment, problem, squared_error
from tests.helpers import assert_close, draw_like, jit

T = 7


def half_squared_error(prediction, target):
    return squared_error(prediction, target) / 2


def flow_of(model, params, segment, loss_fn=squared_error, **options):
    return jit(lambda p: gradient_flow(model, loss_fn, p, segment, **options))(params)


def test_one_lstm_layer_is_the_backward_pass_by_hand(x64):
    model, params = problem(make_lstm(), learned_initial_state=False)
    whole = make_segment()
    clean = jax.tree.map(np.nan_to_num, whole)
    segment = Segment(clean.inputs, clean.targets, weights=clean.weights)
    state = draw_like(jax.eval_shape(lambda: model.initial_state(params, (B,))), 5)
    (layer,), readout = params.recurrent.layers, textbook.TextbookReadout(*params[1])
    cache = textbook.forward(layer, readout, segment.inputs, LSTMState(*state[0]))
    by_hand = textbook.backward(
        layer, readout, cache, segment.targets, weights=segment.weights
    )
    flow = flow_of(model, params, segment, half_squared_error, state=state)
    assert_close(flow.loss, by_hand.loss.sum())
    assert_close(flow.states[0], LSTMState(by_hand.delta_h, by_hand.delta_c_later))
    assert_close(flow.inputs[0], by_hand.delta_x)
    # With the way by h_t, as the page on the backward pass counts it.
    way_by_h = flow.states[0].h * cache.o * (1 - cache.tanh_c**2)
    assert_close(flow.states[0].c + way_by_h, by_hand.delta_c)


def loop_gradient(model, params, segment, state=None):
    """Differentiates a loop in Python by what it adds to states and layers' inputs."""
    inputs, targets, mask, resets, weights = segment
    steps, batch = mask.shape
    cell, layers = model.layers.cell, params.recurrent.layers
    start = model.initial_state(params, ())

    def total(taps):
        loss = 0.0
        for n in range(batch):
            at = start if state is None else jax.tree.map(lambda x, n=n: x[n], state)
            for t in range(steps):
                if resets[t, n]:
                    at = start
                tap, x_taps = jax.tree.map(lambda x, n=n, t=t: x[t, n], taps)
                if not mask[t, n]:
                    at = jax.tree.map(jnp.add, at, tap)
                    continue
                output, new = inputs[t, n], []
                for m, layer in enumerate(layers):
                    made, _ = cell.step(layer, at[m], output + x_taps[m])
                    made = jax.tree.map(jnp.add, made, tap[m])
                    output = cell.output(made)
                    new.append(made)
                at = tuple(new)
                if weights[t, n]:
                    error = squared_error(model.readout(params, at), targets[t, n])
                    loss = loss + weights[t, n] * error
        return loss

    def zeros(x):
        return np.zeros((steps, batch, *x.shape))

    taps = (
        jax.tree.map(zeros, start),
        tuple(np.zeros((steps, batch, X if m == 0 else H)) for m in range(len(layers))),
    )
    return jit(jax.value_and_grad(total))(taps)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_lstm, make_gru])
@pytest.mark.parametrize("carried", [False, True])
def test_stack_with_holes_and_resets_is_that_of_a_loop(x64, make, carried):
    model, params = problem(make(), num_layers=2)
    segment, state = make_segment(), None
    if carried:
        state = draw_like(jax.eval_shape(lambda: model.initial_state(params, (B,))), 5)
    flow = flow_of(model, params, segment, state=state)
    loss, (states, inputs) = loop_gradient(model, params, segment, state)
    assert_close(flow.loss, loss)
    assert_close(flow.states, states)
    assert_close(flow.inputs, inputs)


def test_leaky_stack_with_holes_and_resets_is_that_of_a_loop(x64):
    model, params = problem(make_leaky_rnn(leak=0.4), num_layers=2)
    segment = make_segment(steps=5)
    flow = flow_of(model, params, segment)
    _, (states, inputs) = loop_gradient(model, params, segment)
    assert_close(flow.states, states)
    assert_close(flow.inputs, inputs)


def own_model(model: Model, integer: bool) -> Model:
    """Returns the model as one of its own; it may count its steps too."""

    def initial_state(params, batch_shape):
        state = model.initial_state(params, batch_shape)
        return (state, jnp.zeros(batch_shape, int)) if integer else (state,)

    def step(recurrent, state, x, *, key=None, time=0):
        assert model.step is not None
        new = model.step(recurrent, state[0], x, key=key, time=time)
        return (new, state[1] + 1) if integer else (new,)

    def readout(params, state, *, key=None, time=0):
        return model.readout(params, state[0], key=key, time=time)

    return Model(model.init, initial_state, step, model.unroll, readout)


@pytest.mark.parametrize("integer", [False, True])
def test_model_of_its_own_is_one_layer(x64, integer):
    model, params = problem(make_lstm())
    segment = make_segment()
    own = flow_of(own_model(model, integer), params, segment)
    expected = flow_of(model, params, segment)
    assert_close(own.states[0][0], expected.states)
    assert_close(own.inputs, expected.inputs)
    if integer:
        assert own.states[0][1] is None


def test_symbols_have_the_gradient_of_their_embedding(x64):
    model, params = problem(
        make_lstm(), inputs="embedding", embedding_size=2, input_size=5
    )
    whole = make_segment()
    symbols = np.arange(T * B).reshape(T, B) % 5
    flow = flow_of(model, params, whole._replace(inputs=symbols))
    assert flow.inputs[0].shape == (T, B, 2)
    # The embedding's gradient is the sum of those of its rows' uses.
    expected = np.zeros((5, 2))
    np.add.at(expected, symbols, np.asarray(flow.inputs[0]))

    def loss(params):
        start = model.initial_state(params, (B,))
        _, states = model.unroll(
            params.recurrent, start, symbols, mask=whole.mask, resets=whole.resets
        )
        prediction = model.readout(params, states)
        scored = whole.mask * whole.weights
        targets = np.nan_to_num(whole.targets)
        return jnp.sum(scored * squared_error(prediction, targets))

    assert_close(jit(jax.grad(loss))(params).recurrent.embedding, expected)


def test_noise_is_that_of_its_keys(x64):
    model, params = problem(make_lstm(), num_layers=2, dropout=0.5)
    segment, keys = make_segment(), jax.random.split(jax.random.key(3), B)

    def loss(params):
        estimator = bptt(model, squared_error)
        state = estimator.init(params, (B,), jax.random.key(0))._replace(keys=keys)
        return estimator.estimate(params, state, segment)[0].loss

    assert_close(
        flow_of(model, params, segment, keys=keys).loss, jit(loss)(params), 1e-13
    )


def test_norms_are_over_batch_and_units(x64):
    model, params = problem(make_lstm())
    flow = flow_of(model, params, make_segment())
    norms = flow_norms(flow)
    c, x = np.asarray(flow.states[0].c), np.asarray(flow.inputs[0])
    assert_close(norms.states[0].c, np.sqrt((c**2).sum((1, 2))))
    assert_close(norms.inputs[0], np.sqrt((x**2).sum((1, 2))))
    # The last step has no later one for its memory to reach.
    assert norms.states[0].c[-1] == 0 < norms.states[0].c[2]


def test_model_without_steps_is_refused(x64):
    model, params = problem(make_lstm())
    with pytest.raises(OptionError, match="no online form"):
        own: Any = own_model(model, False)._replace(step=None)
        gradient_flow(own, squared_error, params, make_segment())
