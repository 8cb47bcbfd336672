"""Gradients by lag: each against truncations by windows, and against a loop."""

import functools

import jax
import numpy as np
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.diagnostics import lag_gradients
from jaxlstm.estimators import Segment, bptt, tbptt
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import CELLS, carried, initial, problem_of
from tests.estimators.problems import B, T, X, make_segment, problem, squared_error
from tests.helpers import assert_close, jit

pytestmark = pytest.mark.usefixtures("x64")

# Each pair compiles a program of its own.
QUICK = [("two_layers", 2), ("two_layers", T)]
REST = [(name, k) for name in CELLS for k in range(1, T + 1) if (name, k) not in QUICK]


def resolve(model, params, segment, **options):
    def run(params):
        lags = lag_gradients(model, squared_error, params, segment, **options)
        return lags, lags.total

    return jit(run)(params)


@functools.cache
def resolved(name):
    return resolve(*problem_of(name), make_segment())


def truncate(model, params, segment, horizon, change=lambda state: state):
    member = tbptt(model, squared_error, horizon=horizon, stride=1)
    state = change(initial(member, params))
    return jit(member.estimate)(params, state, segment)[0]


def first(lags, k):
    return jax.tree.map(lambda x: x[:k].sum(axis=0), lags.grads)


@pytest.mark.parametrize(
    ("name", "horizon"),
    [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in REST)],
)
def test_first_lags_are_a_truncation(name, horizon):
    lags, total = resolved(name)
    expected = truncate(*problem_of(name), make_segment(), horizon)
    assert_close((lags.loss, lags.weight), (expected.loss, expected.weight))
    assert_close(first(lags, horizon), expected.grads)
    if horizon == T:
        assert_close(total, expected.grads)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(lags.beyond))


def test_what_is_beyond_is_kept_together():
    whole, total = resolved("two_layers")
    lags, same = resolve(*problem_of("two_layers"), make_segment(), num_lags=3)
    assert lags.num_lags == 3 and whole.num_lags == T
    assert_close(lags.grads, jax.tree.map(lambda x: x[:3], whole.grads))
    assert_close(lags.beyond, jax.tree.map(lambda x: x[3:].sum(axis=0), whole.grads))
    assert_close(same, total)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3, T])
@pytest.mark.parametrize("name", ["lstm", "gru", "no_gated_form"])
def test_state_that_is_given_has_no_gradient(name, horizon):
    model, params = problem_of(name)
    state = carried(initial(bptt(model, squared_error), params)).hidden
    lags, _ = resolve(model, params, make_segment(), state=state)
    expected = truncate(model, params, make_segment(), horizon, carried)
    assert_close(first(lags, horizon), expected.grads)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3, T])
def test_noise_is_that_of_an_estimator(horizon):
    model, params = problem(make_lstm(), num_layers=2, dropout=0.5)
    keys = initial(bptt(model, squared_error), params).keys
    lags, _ = resolve(model, params, make_segment(), keys=keys)
    expected = truncate(model, params, make_segment(), horizon)
    assert_close((lags.loss, first(lags, horizon)), (expected.loss, expected.grads))


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 2, T])
def test_tied_embedding_has_both_its_gradients(horizon):
    model, params = problem(make_lstm(), inputs="embedding", output_size=X, tied=True)
    rng = np.random.default_rng(0)
    segment = make_segment()._replace(
        inputs=rng.integers(X, size=(T, B)), targets=rng.normal(size=(T, B, X))
    )
    lags, _ = resolve(model, params, segment)
    expected = truncate(model, params, segment, horizon)
    assert_close(first(lags, horizon), expected.grads)


def test_model_of_ones_own_without_controls():
    """The readout acts at lag 0 alone, and the first step's initial state at any."""
    made, params = problem_of("no_gated_form")
    model = Model(*made[:5])
    segment = make_segment()
    segment = Segment(*(np.nan_to_num(x) for x in segment[:2]))
    lags, total = resolve(model, params, segment)
    member = bptt(model, squared_error)
    state = initial(member, params)
    assert_close(total, jit(member.estimate)(params, state, segment)[0].grads)
    for leaf in jax.tree.leaves(lags.grads.readout):
        assert np.any(leaf[0]) and not np.any(leaf[1:])
    for leaf in jax.tree.leaves(lags.grads.recurrent.initial_state):
        assert np.all(np.any(leaf, axis=1))


def test_lags_of_one_loss_are_its_distances():
    """A loss at one step, and an initial state put before it, have one lag apart."""
    model, params = problem_of("lstm")
    resets, weights = np.zeros((T, B)), np.zeros((T, B))
    resets[3], weights[5] = 1, 1
    segment = make_segment()._replace(resets=resets, mask=None, weights=weights)
    segment = jax.tree.map(np.nan_to_num, segment)
    lags, _ = resolve(model, params, segment)

    def lags_of(tree):
        return [set(np.flatnonzero(x.reshape(T, -1).any(1))) for x in tree]

    recurrent = lags.grads.recurrent
    assert lags_of(jax.tree.leaves(recurrent.initial_state)) == [{2}, {2}]
    assert lags_of(jax.tree.leaves(recurrent.layers)) == [{0, 1, 2}] * 3
    assert lags_of(jax.tree.leaves(lags.grads.readout)) == [{0}, {0}]


@pytest.mark.parametrize("count", [0, T + 1])
def test_number_of_lags_is_refused_by_name(count):
    model, params = problem_of("lstm")
    with pytest.raises(OptionError, match=r"num_lags: \d is not in 1\.\.T = 7; use"):
        lag_gradients(model, squared_error, params, make_segment(), num_lags=count)


def test_model_without_steps_is_refused():
    model, params = problem_of("lstm")
    with pytest.raises(OptionError, match="no online form"):
        lag_gradients(model._replace(step=None), squared_error, params, make_segment())
