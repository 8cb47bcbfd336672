"""What depends on what is told from derivatives that happen to be zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import Cell, Gated, GatedWeights, gated_step, make_lstm, make_rnn
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.estimators import bptt, rtrl, snap
from jaxlstm.estimators.columns import find_pattern
from jaxlstm.estimators.units import find_units
from tests.estimators.patterns import initial
from tests.estimators.problems import make_segment, problem, squared_error
from tests.helpers import assert_close, jit


def plain(small, state, z):
    f, g = jnp.split(z, 2, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jnp.tanh(g)
    return LSTMState(jnp.tanh(c), c)


def make_cell(update=plain, read=lambda state: state.h, weights=None, small=None):
    """Returns a cell of two gates; its parameters are its `GatedWeights`."""

    def init(key, input_size, hidden_size, *, dtype=jnp.float32):
        sizes = (input_size, 2 * hidden_size), (hidden_size, 2 * hidden_size)
        w_x, w_h = (jnp.ones(size, dtype) for size in sizes)
        k = None if small is None else jnp.asarray(small, dtype)
        return GatedWeights(w_x, w_h, jnp.ones(2 * hidden_size, dtype), k)

    def initial_state(params, batch_shape):
        zeros = jnp.zeros((*batch_shape, params.w_h.shape[0]), params.w_h.dtype)
        return LSTMState(zeros, zeros)

    gated = Gated(weights or (lambda params: params), read, update)
    return Cell(init, initial_state, gated_step(gated), gated)


def homeostatic(small, state, z):
    mean = jnp.mean(state.h - state.c, axis=-1, keepdims=True)
    new = plain(small, state, z)
    return new._replace(c=new.c - jnp.broadcast_to(mean, new.c.shape))


def lateral(small, state, z):
    total = jax.nn.relu(jnp.sum(state.c, axis=-1, keepdims=True) - 1)
    new = plain(small, state, z)
    return new._replace(c=new.c - jnp.broadcast_to(total, new.c.shape))


def with_threshold(small, state, z):
    new = plain(small, state, z)
    return new._replace(h=new.h + 0.5 * jax.nn.relu(state.h - 0.5))


def with_shared_leak(small, state, z):
    new = plain(small, state, z)
    leak = jnp.broadcast_to(jax.nn.relu(small), new.c.shape)
    return new._replace(c=new.c + leak * state.c)


def pruned(params):
    w_h = params.w_h
    return params._replace(w_h=jnp.where(jnp.abs(w_h) > 0.4, w_h, 0))


CELLS = {
    "negated": (make_cell(read=lambda state: -state.h), False),
    "doubled": (make_cell(read=lambda state: 2 * state.h), False),
    "summed": (make_cell(read=lambda state: state.h + state.c), False),
    "memory": (make_cell(read=lambda state: state.c), True),
    "homeostatic": (make_cell(homeostatic), False),
    "lateral": (make_cell(lateral), False),
    "with_threshold": (make_cell(with_threshold), True),
    "with_shared_leak": (make_cell(with_shared_leak, small=0.8), True),
    "pruned": (make_cell(weights=pruned), True),
}
QUICK = "negated", "homeostatic", "with_threshold"


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CELLS],
)
def test_rtrl_is_exact_where_structure_is_hard_to_see(name, x64):
    cell, by_units = CELLS[name]
    model, params = problem(cell)
    assert (find_units(model) is not None) == by_units
    online, exact = rtrl(model, squared_error), bptt(model, squared_error)
    segment = make_segment()
    # A state far from zero, so that thresholds are met.
    large = jax.tree.map(lambda x: 4 * x, params.recurrent.initial_state)
    params = params._replace(recurrent=params.recurrent._replace(initial_state=large))
    assert_close(
        jit(online.estimate)(params, initial(online, params), segment)[0],
        jit(exact.estimate)(params, initial(exact, params), segment)[0],
    )


@pytest.mark.parametrize("make", [make_lstm, make_rnn])
def test_saturation_is_no_structure(make):
    """Sums of many products saturate gates; their derivatives are zero by rounding."""
    model, _ = problem(
        make(),
        input_size=32,
        hidden_size=64,
        num_layers=2,
        dtype=jnp.float32,
        learned_initial_state=False,
    )
    for by_z in find_pattern(model).by_z:
        assert np.all(by_z.any(axis=0))
    lower, upper = find_pattern(model).by_z
    # In the layer above, all units of all layers below are reached at once.
    assert np.all(lower[len(lower) // 2 :].any(axis=1))
    assert not np.any(upper[: len(upper) // 2])


@pytest.mark.slow
def test_no_unit_is_left_out_for_good():
    model, _ = problem(
        make_rnn(), input_size=32, hidden_size=64, num_layers=2, dtype=jnp.float32
    )
    params = model.init(jax.random.key(0))
    estimator, random = snap(model, squared_error), np.random.default_rng(0)
    segment = make_segment()._replace(
        inputs=np.float32(random.normal(size=(7, 2, 32))), mask=None, resets=None
    )
    segment = jax.tree.map(np.float32, segment._replace(weights=None))
    segment = segment._replace(targets=np.nan_to_num(segment.targets))
    estimate, _ = jit(estimator.estimate)(params, initial(estimator, params), segment)
    for layer in estimate.grads.recurrent.layers:
        assert np.all(layer.b != 0)
