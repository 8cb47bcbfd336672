"""The h-detach estimator: its two ends, its patterns, and what it refuses."""

import jax
import numpy as np
import pytest

from jaxlstm.estimators import h_detach
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import (
    CELLS,
    GATED,
    bit,
    bits_of,
    carried,
    exact,
    expectation,
    initial,
    make_keys,
    problem_of,
    stop_h,
)
from tests.estimators.problems import loop_loss, make_segment, problem, squared_error
from tests.helpers import assert_close, jit

P = 0.3


@pytest.mark.parametrize("name", GATED)
def test_all_patterns_reweighted_give_bptt(name, x64):
    model, params = problem_of(name)
    estimator = h_detach(model, squared_error, p=P, reweighted=True, sample=bit)
    assert estimator.traits.kind == "unbiased"
    assert_close(expectation(estimator, params, P), exact(name))


def test_all_patterns_without_weights_do_not_give_bptt(x64):
    model, params = problem_of("lstm")
    estimator = h_detach(model, squared_error, p=P, sample=bit)
    assert estimator.traits.kind == "biased"
    actual, expected = expectation(estimator, params, P), exact("lstm")
    assert_close((actual.loss, actual.weight), (expected.loss, expected.weight))
    w_h, w_h_exact = (e.grads.recurrent.layers[0].w_h for e in (actual, expected))
    assert np.abs(w_h - w_h_exact).max() > 0.01 * np.abs(w_h_exact).max()


@pytest.mark.parametrize("name", GATED)
def test_all_cut_is_a_loop_with_h_stopped(name, x64):
    """The identity of e-prop: no gradient by h_{t-1} in the preactivations."""
    model, params = problem_of(name)
    cell, options = CELLS[name]
    stopped, _ = problem(stop_h(cell), **options)
    estimator = h_detach(model, squared_error, p=1.0)
    assert estimator.traits.kind == "biased"
    state, segment = carried(initial(estimator, params)), make_segment()

    def loss(params):
        return loop_loss(stopped, params, segment, state.hidden)[0]

    estimate, _ = jit(estimator.estimate)(params, state, segment)
    assert_close((estimate.loss, estimate.grads), jit(jax.value_and_grad(loss))(params))


@pytest.mark.parametrize("reweighted", [False, True])
def test_one_pattern_is_a_loop_that_scales_the_gradient_by_h(reweighted, x64):
    model, params = problem_of("two_layers")
    segment, numbers = make_segment(), np.array([0b0101101, 0b1010010])
    factors = (1 - bits_of(numbers)) / (1 - P if reweighted else 1)

    def scaled(state, n, t):
        # An LSTM reads its h by W_h alone.
        a = factors[t, n]
        return tuple(
            s._replace(h=a * s.h + (1 - a) * jax.lax.stop_gradient(s.h)) for s in state
        )

    def loss(params):
        return loop_loss(model, params, segment, edit=scaled)[0]

    estimator = h_detach(model, squared_error, p=P, reweighted=reweighted, sample=bit)
    state = initial(estimator, params)._replace(keys=make_keys(numbers))
    estimate, _ = jit(estimator.estimate)(params, state, segment)
    assert_close((estimate.loss, estimate.grads), jit(jax.value_and_grad(loss))(params))


@pytest.mark.parametrize("reweighted", [False, True])
def test_no_cuts_are_bptt(reweighted, x64):
    model, params = problem_of("lstm")
    estimator = h_detach(model, squared_error, p=0.0, reweighted=reweighted)
    assert estimator.traits.kind == "exact"
    state = initial(estimator, params)
    estimate, _ = jit(estimator.estimate)(params, state, make_segment())
    assert_close(estimate, exact("lstm"))


def test_default_draws_cut_some_ways(x64):
    model, params = problem_of("lstm")
    grads = []
    for p in (0.0, 0.5, 1.0):
        estimator = h_detach(model, squared_error, p=p)
        state = initial(estimator, params)
        estimate, _ = jit(estimator.estimate)(params, state, make_segment())
        grads.append(estimate.grads.recurrent.layers[0].w_h)
    whole, some, none = grads
    for other in (whole, none):
        assert np.abs(some - other).max() > 1e-3 * np.abs(other).max()


def test_cell_without_gated_form_is_refused(x64):
    model, _ = problem_of("no_gated_form")
    with pytest.raises(OptionError, match=r"model: its cell has no gated form.* artbp"):
        h_detach(model, squared_error, p=0.5)


def test_model_of_ones_own_is_asked_at_the_first_estimate(x64):
    made, params = problem_of("no_gated_form")
    model = Model(*made[:5])
    estimator = h_detach(model, squared_error, p=0.5)
    with pytest.raises(ValueError, match=r"edges\.c: a cell without a gated form"):
        estimator.estimate(params, initial(estimator, params), make_segment())


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_probability_is_refused_by_name(p, x64):
    with pytest.raises(OptionError, match=r"p: .* is not a probability up to 1; use"):
        h_detach(problem_of("lstm")[0], squared_error, p=p)


def test_nothing_to_reweight_is_refused(x64):
    with pytest.raises(OptionError, match=r"reweighted: p is 1, .*; lower p, or leave"):
        h_detach(problem_of("lstm")[0], squared_error, p=1.0, reweighted=True)
