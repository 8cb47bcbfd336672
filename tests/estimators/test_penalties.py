"""Penalties on activations and on their changes, against a loop in Python."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_rnn
from jaxlstm.dropout import Dropout
from jaxlstm.estimators import Segment, Traits, bptt
from jaxlstm.estimators.edges import backward
from jaxlstm.estimators.penalties import find_begins
from jaxlstm.shapes import OptionError
from tests.estimators.problems import B, H, T, cut, make_segment, problem, squared_error
from tests.helpers import assert_close, draw_like, jit

FACTORS = {"activation": 0.7, "temporal_activation": 1.3}


def no_error(prediction, target):
    return 0 * prediction[..., 0]


@functools.cache
def stack():
    return problem(make_rnn(), num_layers=2)


def make_state(model, params, num_steps=4):
    state = bptt(model, squared_error).init(params, (B,), jax.random.key(0))
    return state._replace(
        hidden=draw_like(state.hidden, 3), num_steps=jnp.asarray(num_steps, jnp.int32)
    )


def make_pending():
    """Draws a segment in which a sequence begins with a step that is not there."""
    segment = make_segment()
    segment.resets[1:3, 0] = 1, 0
    assert list(segment.mask[1:3, 0]) == [0, 1]
    return segment


def loss_by_hand(params, hidden, segment, *, begun):
    """Sums weight times the loss and the penalties, step by step."""
    model, _ = stack()
    assert model.step is not None
    inputs, targets, mask, resets, weights = segment
    start, total = model.initial_state(params, ()), 0.0
    for n in range(B):
        state = jax.tree.map(lambda x, n=n: x[n], hidden) if begun else start
        previous = state[-1].h if begun else None
        for t in range(len(inputs)):
            if resets[t, n]:
                state, previous = start, None
            if not mask[t, n]:
                continue
            state = model.step(params.recurrent, state, inputs[t, n])
            h, loss = state[-1].h, 0.0
            if weights[t, n]:
                loss = squared_error(model.readout(params, state), targets[t, n])
            loss = loss + FACTORS["activation"] * jnp.sum(h * h) / H
            if previous is not None:
                change = jnp.sum((h - previous) * (h - previous)) / H
                loss = loss + FACTORS["temporal_activation"] * change
            total, previous = total + weights[t, n] * loss, h
    return total


@functools.cache
def expected(begun):
    params = stack()[1]
    hidden = make_state(*stack()).hidden
    by_hand = functools.partial(loss_by_hand, begun=begun)
    gradient = jax.value_and_grad(lambda p: by_hand(p, hidden, make_pending()))
    return jit(gradient)(params)


@functools.cache
def compiled(remat="none"):
    return jit(bptt(stack()[0], squared_error, remat=remat, **FACTORS).estimate)


@pytest.mark.parametrize(
    ("remat", "num_steps"),
    [
        ("none", 4),
        pytest.param("none", 0, marks=pytest.mark.slow),
        pytest.param("sqrt", 4, marks=pytest.mark.slow),
        pytest.param("sqrt_step", 0, marks=pytest.mark.slow),
    ],
)
def test_penalties_are_those_of_a_loop(remat, num_steps, x64):
    model, params = stack()
    state = make_state(model, params, num_steps)
    estimate, _ = compiled(remat)(params, state, make_pending())
    loss, grads = expected(begun=num_steps > 0)
    assert_close((estimate.loss, estimate.grads), (loss, grads))


@pytest.mark.slow
def test_losses_of_segments_add_up(x64):
    model, params = stack()
    segment = make_segment()
    state = make_state(model, params, 0)
    whole, _ = compiled()(params, state, segment)
    total = 0.0
    for start, stop in ((0, 1), (1, 4), (4, T)):
        part, state = compiled()(params, state, cut(segment, start, stop))
        total = total + part.loss
    assert_close(total, whole.loss)


@pytest.mark.slow
def test_activations_are_taken_after_dropout_and_changes_before_it(x64):
    options = {"readout": "none", "output_size": H, "num_layers": 2}
    plain, params = problem(make_rnn(), **options)
    model, _ = problem(make_rnn(), dropout=Dropout(output=0.5), **options)
    segment = make_segment()
    segment = segment._replace(targets=np.zeros((T, B, H)))
    state = make_state(model, params)

    def run(model, loss_fn, **factors):
        estimate = bptt(model, loss_fn, **factors).estimate
        return jit(estimate)(params, state, segment)[0]

    def mean_square(prediction, target):
        return jnp.mean(prediction**2, axis=-1)

    dropped = run(model, no_error, activation=1.0)
    assert_close(dropped, run(model, mean_square))
    whole = run(plain, mean_square)
    assert abs(dropped.loss - whole.loss) > 0.01 * whole.loss

    changes = run(model, no_error, temporal_activation=1.0)
    assert_close(changes, run(plain, no_error, temporal_activation=1.0))
    assert changes.loss > 0


def test_factors_of_zero_change_nothing(x64):
    model, params = stack()
    arguments = params, make_state(model, params), make_segment()
    traits = Traits(kind="exact", segment_invariant=False, online=False)
    zeros = dict.fromkeys(FACTORS, 0.0)
    with_zeros, without = (
        re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(estimator.estimate)(*arguments)))
        for estimator in (
            bptt(model, squared_error, **zeros),
            backward(model, squared_error, traits=traits),
        )
    )
    assert with_zeros == without


@pytest.mark.parametrize("time", [0, 5])
@pytest.mark.parametrize("masked", [False, True])
def test_sequences_begin_with_the_first_step_that_is_there(time, masked):
    rng = np.random.default_rng(time)
    mask, resets = rng.random((2, 40, 3)) < [[[0.4]], [[0.3]]]
    segment = Segment(np.zeros((40, 3, 1)), None, mask if masked else None, resets)
    expected = np.zeros((40, 3), bool)
    for n in range(3):
        pending = time == 0
        for t in range(40):
            pending = pending or resets[t, n]
            if mask[t, n] or not masked:
                expected[t, n], pending = pending, False
    actual = find_begins(segment, (3,), jnp.asarray(time))
    np.testing.assert_array_equal(actual, expected)
    assert 0 < expected.sum() < expected.size


def test_controls_of_steps_alone_broadcast():
    resets = np.array([0, 1, 0, 0])
    mask = np.array([1, 0, 0, 1])
    segment = Segment(np.zeros((4, 2, 1)), None, mask, resets)
    actual = find_begins(segment, (2,), jnp.asarray(3))
    np.testing.assert_array_equal(actual, np.array([[0, 0, 0, 1]] * 2).T == 1)


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_factors_out_of_range_are_refused(name, value):
    with pytest.raises(OptionError, match=f"{name}: value is {value}; use a number"):
        bptt(stack()[0], squared_error, **{name: value})


@pytest.mark.parametrize("name", FACTORS)
def test_model_without_output_is_refused(name):
    model = stack()[0]._replace(output=None)
    estimator = bptt(model, squared_error, **{name: 0.0})
    assert estimator.traits.kind == "exact"
    with pytest.raises(OptionError, match=f"{name}: .* the model has no output"):
        bptt(model, squared_error, **{name: 1.0})
