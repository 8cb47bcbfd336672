"""One step of every cell against its equations in NumPy, and what is drawn at first."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMParams, LSTMState, init_lstm, lstm_cell, zero_state
from jaxlstm.cells import (
    CELLS,
    INITIALIZERS,
    GRUParams,
    GRUState,
    Initializer,
    RNNParams,
    RNNState,
    gru_cell,
    init_gru,
    make_leaky_rnn,
    make_lstm,
    rnn_cell,
)
from jaxlstm.cells.base import preactivations
from tests.helpers import FIRST_CELLS, B, H, X, assert_close, draw_like, jit

ALL_CELLS = [
    name if name in FIRST_CELLS else pytest.param(name, marks=pytest.mark.slow)
    for name in CELLS
]
BATCHES = [(), (B,), (B, 3)]
WIDE = 64


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def draw_gates(names):
    """Draws (w_x, w_h, b) of each gate."""
    shapes = (X, H), (H, H), (H,)
    return {
        name: tuple(draw(*shape, seed=n) for shape in shapes)
        for n, name in enumerate(names)
    }


def join(blocks):
    """Returns w_x, w_h and b of all gates, in the order of the blocks."""
    return [np.concatenate(w, axis=-1) for w in zip(*blocks.values(), strict=True)]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("batch", BATCHES)
def test_lstm_by_its_equations(x64, batch):
    blocks = draw_gates("ifgo")
    params = LSTMParams(*join(blocks))
    x, h, c = draw(*batch, X), draw(*batch, H, seed=1), draw(*batch, H, seed=2)

    z = {gate: x @ w_x + h @ w_h + b for gate, (w_x, w_h, b) in blocks.items()}
    c_next = sigmoid(z["f"]) * c + sigmoid(z["i"]) * np.tanh(z["g"])
    h_next = sigmoid(z["o"]) * np.tanh(c_next)

    state, output = jit(lstm_cell)(params, LSTMState(h=h, c=c), x)
    assert_close((state, output), (LSTMState(h=h_next, c=c_next), h_next))


@pytest.mark.parametrize("batch", BATCHES)
def test_gru_by_its_equations(x64, batch):
    blocks = draw_gates("run")
    b_h = draw(H, seed=9)
    params = GRUParams(*join(blocks), b_h=b_h)
    x, h = draw(*batch, X), draw(*batch, H, seed=1)

    z = {gate: (x @ w_x + b, h @ w_h) for gate, (w_x, w_h, b) in blocks.items()}
    r, u = (sigmoid(sum(z[gate])) for gate in "ru")
    by_x, by_h = z["n"]
    h_next = (1 - u) * np.tanh(by_x + r * (by_h + b_h)) + u * h

    state, output = jit(gru_cell)(params, GRUState(h), x)
    assert_close((state, output), (GRUState(h_next), h_next))


@pytest.mark.parametrize("batch", BATCHES)
def test_rnn_by_its_equations(x64, batch):
    w_x, w_h, b = draw(X, H), draw(H, H), draw(H)
    x, h = draw(*batch, X), draw(*batch, H, seed=1)
    candidate = np.tanh(x @ w_x + h @ w_h + b)
    leaky = 0.7 * h + 0.3 * candidate

    params = RNNParams(w_x, w_h, b)
    plain_step, leaky_step = jit(
        lambda: (
            rnn_cell(params, RNNState(h), x),
            make_leaky_rnn(leak=0.3).step(params, RNNState(h), x),
        )
    )()
    assert_close(plain_step, (RNNState(candidate), candidate))
    assert_close(leaky_step, (RNNState(leaky), leaky))


@pytest.mark.parametrize("name", ALL_CELLS)
def test_gated_form_is_the_step(x64, name):
    cell = CELLS[name]()
    gated = cell.gated
    assert gated is not None
    shapes = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), X, H, dtype=jnp.float64)
    )
    params = draw_like(shapes, 0)
    state = draw_like(jax.eval_shape(lambda: cell.initial_state(params, (B,))), 1)
    x = draw(B, X)

    def by_gates():
        weights = gated.weights(params)
        z = preactivations(weights, x, gated.read(state))
        state_next = gated.update(weights.small, state, z)
        return state_next, cell.output(state_next)

    step, gates = jit(lambda: (cell.step(params, state, x), by_gates()))()
    assert_close(gates, step)
    assert_close(step[1], step[0].h)


@pytest.mark.parametrize("name", ALL_CELLS)
def test_initial_state_is_zeros_of_the_parameters_dtype(name):
    cell = CELLS[name]()
    params = jit(lambda: cell.init(jax.random.key(0), X, H, dtype=jnp.bfloat16))()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    for batch in BATCHES:
        state = cell.initial_state(params, batch)
        assert state.h.shape == (*batch, H)
        for field, leaf in state._asdict().items():
            assert leaf.shape == (*batch, 3 * H if field == "gates" else H)
            assert leaf.dtype == jnp.bfloat16
            expected = jnp.bfloat16(-1e30) if field == "m" else 0
            assert (np.asarray(leaf) == expected).all()


def test_zero_state_needs_no_batch():
    params = LSTMParams(*(np.zeros(s, np.float32) for s in [(X, 16), (H, 16), 16]))
    assert_close(zero_state(params), LSTMState(*np.zeros((2, H), np.float32)))


def test_parameters_are_float32_by_default_and_float64_where_asked(x64):
    narrow, wide = jax.eval_shape(
        lambda: (
            init_lstm(jax.random.key(0), X, H),
            init_lstm(jax.random.key(0), X, H, dtype=jnp.float64),
        )
    )
    assert {leaf.dtype for leaf in narrow} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in wide} == {jnp.dtype("float64")}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("lstm", [(X, 4 * H), (H, 4 * H), (4 * H,)]),
        ("gru", [(X, 3 * H), (H, 3 * H), (3 * H,), (H,)]),
        ("rnn", [(X, H), (H, H), (H,)]),
        ("leaky_rnn", [(X, H), (H, H), (H,)]),
    ],
)
def test_shapes_of_parameters(name, shapes):
    params = jax.eval_shape(lambda: CELLS[name]().init(jax.random.key(0), X, H))
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == shapes


@pytest.fixture(scope="module")
def drawn():
    """Draws wide layers under every initialiser, with the forget bias left alone."""
    return jit(
        lambda: {
            name: init_lstm(
                jax.random.key(0), X, WIDE, forget_bias=None, initializer=name
            )
            for name in INITIALIZERS
        }
    )()


def gates(w):
    return np.split(np.asarray(w), 4, axis=-1)


def assert_uniform(values, bound):
    """Bounds uniform draws from both sides.

    Of 192 draws or more, chance leaves none in the outer 10 % of either side once in
    0.95^-192 = 19,000 keys.
    """
    assert -bound <= values.min() < -0.9 * bound
    assert 0.9 * bound < values.max() <= bound


def assert_normal(values, deviation):
    """Holds mean and deviation to 4.5 of their standard errors, 1 in 150,000 keys."""
    mean_error = deviation / math.sqrt(values.size)
    assert abs(values.mean()) < 4.5 * mean_error
    assert abs(values.std() - deviation) < 4.5 * mean_error / math.sqrt(2)


def test_glorot_orthogonal(drawn):
    params = drawn["glorot_orthogonal"]
    for w_x, w_h in zip(gates(params.w_x), gates(params.w_h), strict=True):
        assert_uniform(w_x, math.sqrt(6 / (X + WIDE)))
        np.testing.assert_allclose(w_h.T @ w_h, np.eye(WIDE), atol=WIDE * 2**-23)
    assert not params.b.any()


@pytest.mark.parametrize(
    ("name", "bound"), [("uniform_hidden", 1 / math.sqrt(WIDE)), ("uniform_08", 0.08)]
)
def test_uniform(drawn, name, bound):
    for leaf in drawn[name]:
        assert_uniform(np.asarray(leaf), bound)


def test_normal_01(drawn):
    params = drawn["normal_01"]
    for w in (*gates(params.w_x), *gates(params.w_h)):
        assert_normal(w, 0.01)
    assert not params.b.any()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_readout_is_drawn_like_the_rest(name):
    shape = (WIDE, 8)
    w = np.asarray(INITIALIZERS[name].readout(jax.random.key(1), shape, WIDE, float))
    assert w.shape == shape
    bounds = {
        "glorot_orthogonal": math.sqrt(6 / sum(shape)),
        "uniform_hidden": 1 / math.sqrt(WIDE),
        "uniform_08": 0.08,
    }
    if name in bounds:
        assert_uniform(w, bounds[name])
    else:
        assert_normal(w, 0.01)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_gates_are_drawn_apart(drawn, name):
    blocks = [*gates(drawn[name].w_x), *gates(drawn[name].w_h)]
    for n, one in enumerate(blocks):
        for other in blocks[n + 1 :]:
            assert one.shape != other.shape or not (one == other).any()


def test_draws_follow_the_key():
    first, again, other = (
        init_gru(jax.random.key(seed), X, H, initializer="uniform_08")
        for seed in (0, 0, 1)
    )
    assert_close(first, again, 0)
    for a, b in zip(first, other, strict=True):
        assert not (np.asarray(a) == np.asarray(b)).any()


@pytest.mark.parametrize("initializer", ["glorot_orthogonal", "uniform_hidden"])
def test_forget_bias_is_that_of_the_forget_gate(initializer):
    left, default, three = (
        init_lstm(jax.random.key(0), X, H, initializer=initializer, **options)
        for options in ({"forget_bias": None}, {}, {"forget_bias": 3.0})
    )
    of_cell = make_lstm(forget_bias=3.0, initializer=initializer)
    assert_close(of_cell.init(jax.random.key(0), X, H), three, 0)
    for params, value in [(default, 1.0), (three, 3.0)]:
        i, f, g, o = gates(params.b)
        np.testing.assert_array_equal(f, value)
        i_left, _, g_left, o_left = gates(left.b)
        assert_close([i, g, o], [i_left, g_left, o_left], 0)
        assert_close(params[:2], left[:2], 0)
    drawn = gates(left.b)[1]
    assert drawn.any() == (initializer == "uniform_hidden")


def test_initializer_of_ones_own():
    def constant(value):
        return lambda key, shape, hidden_size, dtype: jnp.full(shape, value, dtype)

    own = Initializer(*map(constant, (1.0, 2.0, 3.0, 4.0)))
    for name, make in CELLS.items():
        params = make(initializer=own).init(jax.random.key(0), X, H)
        assert (np.asarray(params.w_x) == 1).all()
        assert (np.asarray(getattr(params, "w_h", 2)) == 2).all()
        assert (np.asarray(params.b[-H:]) == 3).all(), name


@pytest.mark.parametrize("name", CELLS)
def test_unknown_initializer_is_refused_by_name(name):
    with pytest.raises(
        ValueError, match=r"^initializer: 'glorot' is unknown; .*normal"
    ):
        CELLS[name](initializer="glorot")


def test_unknown_initializer_is_refused_where_weights_are_drawn():
    for init in (init_lstm, init_gru):
        with pytest.raises(ValueError, match=r"^initializer: 'he' is unknown"):
            init(jax.random.key(0), X, H, initializer="he")


@pytest.mark.parametrize("leak", [0.0, -0.1, 1.1, math.nan])
def test_leak_is_a_share(leak):
    with pytest.raises(ValueError, match=rf"^leak: {leak} is not in \(0, 1\]"):
        make_leaky_rnn(leak=leak)
