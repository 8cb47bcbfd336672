"""The minLSTM against the paper's equations: step by step, and by its logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import (
    CELLS,
    Initializer,
    MinLSTMParams,
    MinLSTMState,
    init_min_lstm,
    make_min_lstm,
    min_lstm_cell,
)
from jaxlstm.checks import check_cell
from jaxlstm.sequence import unroll
from jaxlstm.shapes import OptionError
from tests.helpers import B, H, T, X, assert_close, jit

BATCHES = [(), (B,), (B, 3)]


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def make_params():
    return MinLSTMParams(draw(X, 3 * H), draw(3 * H))


def blocks(params, x):
    """Returns the preactivations of the input gate, forget gate and candidate."""
    return np.split(x @ params.w_x + params.b, 3, axis=-1)


def advance(params, h, x, positive=False):
    i, f, g = blocks(params, x)
    i, f = sigmoid(i), sigmoid(f)
    g = np.where(g >= 0, g + 0.5, sigmoid(g)) if positive else g
    return f / (f + i) * h + i / (f + i) * g


@pytest.mark.parametrize("batch", BATCHES)
def test_step_by_its_equations(x64, batch):
    params, x, h = make_params(), draw(*batch, X), draw(*batch, H, seed=1)
    expected = advance(params, h, x)
    state, output = jit(min_lstm_cell)(params, MinLSTMState(h), x)
    assert_close((state, output), (MinLSTMState(expected), expected))


@pytest.mark.parametrize("engine", ["scan", "parallel"])
@pytest.mark.parametrize("candidate", ["identity", "positive"])
def test_sequence_is_a_loop(x64, engine, candidate):
    params, inputs, h = make_params(), draw(T, B, X), draw(B, H)
    cell = make_min_lstm(candidate=candidate)
    run = jit(lambda *arguments: unroll(cell, *arguments, engine=engine))
    last, states = run(params, inputs, MinLSTMState(h))
    expected = []
    for x in inputs:
        h = advance(params, h, x, positive=candidate == "positive")
        expected.append(h)
    assert_close((last, states), (MinLSTMState(h), MinLSTMState(np.stack(expected))))


def test_positive_candidate_is_the_papers_sum_in_logarithms(x64):
    """Log h_t = A_t + logcumsumexp(log h_0, log i + log g - A), A = cumsum(log f)."""
    params, inputs = make_params(), 2 * draw(T, B, X)
    start = np.exp(draw(B, H, seed=3))
    i, f, g = blocks(params, inputs)
    balance = np.logaddexp(0, -f) - np.logaddexp(0, -i)
    log_f, log_i = -np.logaddexp(0, balance), -np.logaddexp(0, -balance)
    log_g = np.where(g >= 0, np.log(np.maximum(g, 0) + 0.5), -np.logaddexp(0, -g))
    decay = np.concatenate([np.zeros((1, B, H)), np.cumsum(log_f, axis=0)])
    terms = np.concatenate([np.log(start)[None], log_i + log_g]) - decay
    expected = np.exp(decay + np.logaddexp.accumulate(terms, axis=0))[1:]

    cell = make_min_lstm(candidate="positive")
    run = jit(lambda *arguments: unroll(cell, *arguments, engine="parallel")[1].h)
    assert_close(run(params, inputs, MinLSTMState(start)), expected)


@pytest.mark.parametrize(
    ("i", "f", "share"),
    [(-1e4, -1e4, 0.5), (-1e4, -1e4 - 1, sigmoid(-1)), (-1e4, 3, 1), (3, -1e4, 0)],
)
def test_gates_that_are_shut_leave_no_zero_over_zero(i, f, share):
    """The share of h that stays is sigmoid(f - i) where both are shut."""
    cell = make_min_lstm()
    z = jnp.asarray([i, f, 5.0], jnp.float32)
    params = MinLSTMParams(jnp.zeros((1, 3)), z)

    def h(params):
        state = MinLSTMState(jnp.full(1, 2.0))
        return cell.step(params, state, jnp.zeros(1))[1][0]

    value, slope = jit(jax.value_and_grad(h))(params)
    np.testing.assert_allclose(value, share * 2 + (1 - share) * 5, rtol=1e-6)
    assert np.isfinite(slope.b).all()
    np.testing.assert_allclose(slope.b[1], share * (1 - share) * (2 - 5), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("candidate", ["identity", "positive"])
def test_cell_passes_its_check(candidate):
    report = check_cell(make_min_lstm(candidate=candidate))
    assert report.passed, str(report)


def test_parameters_are_drawn_as_asked():
    def constant(value):
        return lambda key, shape, hidden_size, dtype: jnp.full(shape, value, dtype)

    own = Initializer(*map(constant, (1.0, 2.0, 3.0, 4.0)))
    cell = CELLS["min_lstm"](initializer=own)
    options = {"forget_bias": None, "initializer": own, "dtype": jnp.bfloat16}
    params, left = jit(
        lambda key: (cell.init(key, X, H), init_min_lstm(key, X, H, **options))
    )(jax.random.key(0))
    assert_close(params.w_x, np.ones((X, 3 * H), np.float32), 0)
    assert_close(params.b, np.repeat(np.float32([3, 1, 3]), H), 0)
    assert_close(left.b, jnp.full(3 * H, 3, jnp.bfloat16), 0)


def test_chrono_forgets_over_the_times_drawn():
    """With b_i = -b_f the share that stays is sigmoid(b_f), 1 - 1/time."""
    params = jit(lambda key: init_min_lstm(key, X, 64, chrono=100))(jax.random.key(0))
    i, f, g = np.split(np.asarray(params.b), 3)
    assert_close(i, -f, 0)
    assert not g.any()
    times = 1 / (1 - sigmoid(f) / (sigmoid(f) + sigmoid(i)))
    # Of 64 uniform draws, chance leaves none in the upper 20 % once in 1.6e6 keys.
    assert 1.99 < times.min() < 30
    assert 80 < times.max() <= 100.1


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((X, 3 * H + 1), (3 * H,)), r"params.w_x: shape \(3, 13\) .* \[X, 3H\]"),
        (((X, 3 * H), (H,)), r"params.b: shape \(4,\) .* \[3H\]; H = 4 by params.w_x"),
    ],
)
def test_parameters_of_another_shape_are_refused(shapes, message):
    params = MinLSTMParams(*map(np.zeros, shapes))
    with pytest.raises(ValueError, match=message):
        min_lstm_cell(params, MinLSTMState(np.zeros(H)), np.zeros(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate": "log"}, "candidate: 'log' is unknown; use one of 'identity'"),
        ({"chrono": 2}, "chrono: 2 is too short a time"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        make_min_lstm(**options)
