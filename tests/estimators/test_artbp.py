"""Randomly truncated backpropagation through time, by all patterns of its cuts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.estimators import Segment, artbp
from jaxlstm.estimators.draws import bernoulli
from jaxlstm.estimators.edges import draw
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import (
    CELLS,
    bit,
    bits_of,
    carried,
    exact,
    expectation,
    initial,
    make_keys,
    problem_of,
)
from tests.estimators.problems import (
    B,
    T,
    loop_loss,
    make_segment,
    squared_error,
)
from tests.helpers import assert_close, jit

P = 0.3


@pytest.mark.parametrize("name", CELLS)
def test_all_patterns_of_cuts_give_bptt(name, x64):
    model, params = problem_of(name)
    estimator = artbp(model, squared_error, p=P, sample=bit)
    assert estimator.traits.kind == "unbiased"
    assert_close(expectation(estimator, params, P), exact(name))


def test_all_patterns_give_bptt_of_a_later_segment(x64):
    model, params = problem_of("lstm")
    estimator = artbp(model, squared_error, p=P, sample=bit)
    actual = expectation(estimator, params, P, first=False)
    assert_close(actual, exact("lstm", first=False))


@pytest.mark.parametrize("remat", ["none", "sqrt_step"])
@pytest.mark.parametrize("name", ["two_layers", "no_gated_form"])
def test_one_pattern_is_a_loop_that_scales_the_gradient(name, remat, x64):
    model, params = problem_of(name)
    segment, numbers = make_segment(), np.array([0b0101101, 0b1010010])
    factors = (1 - bits_of(numbers)) / (1 - P)
    factors[0] = factors[segment.resets != 0] = 1

    def scaled(state, n, t):
        a = factors[t, n]
        return jax.tree.map(lambda s: a * s + (1 - a) * jax.lax.stop_gradient(s), state)

    def loss(params):
        return loop_loss(model, params, segment, edit=scaled)[0]

    estimator = artbp(model, squared_error, p=P, sample=bit, remat=remat)
    state = initial(estimator, params)._replace(keys=make_keys(numbers))
    estimate, _ = jit(estimator.estimate)(params, state, segment)
    assert_close((estimate.loss, estimate.grads), jit(jax.value_and_grad(loss))(params))


def test_no_cuts_are_bptt(x64):
    model, params = problem_of("lstm")
    estimator = artbp(model, squared_error, p=0.0)
    assert estimator.traits.kind == "exact"
    state = initial(estimator, params)
    estimate, _ = jit(estimator.estimate)(params, state, make_segment())
    assert_close(estimate, exact("lstm"))


def test_examples_and_segments_have_draws_of_their_own(x64):
    model, params = problem_of("lstm")
    estimator = artbp(model, squared_error, p=0.5)
    estimate, segment = jit(estimator.estimate), make_segment()
    single = Segment(*(np.nan_to_num(x[:, :1]) for x in segment[:2]))
    state = carried(initial(estimator, params))
    same = jax.tree.map(lambda x: np.stack([x[0]] * B), state.hidden)
    later = state._replace(hidden=same, num_steps=state.num_steps + T)

    def gradient(state, n):
        pick = jax.tree.map(lambda x: x[n : n + 1], (state.hidden, state.keys))
        alone = state._replace(hidden=pick[0], keys=pick[1])
        return estimate(params, alone, single)[0].grads.recurrent.layers[0].w_h

    state = state._replace(hidden=same)
    results = [gradient(s, n) for s in (state, later) for n in range(B)]
    for n, one in enumerate(results):
        for other in results[:n]:
            assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def test_cuts_are_as_frequent_as_asked_for():
    keys = jax.random.split(jax.random.key(1), (50, 20))
    cuts = jit(lambda keys: draw(bernoulli(P), keys, jnp.arange(30)))(keys)
    assert cuts.shape == (30, 50, 20)
    # Of 30,000 draws; five standard deviations.
    assert abs(cuts.mean() - P) < 5 * np.sqrt(P * (1 - P) / cuts.size)
    # Pairs of neighbours, in time and from example to example, are independent: the
    # mean of (X - p) (X' - p) has a standard deviation of p (1 - p) / sqrt(N).
    centred = np.asarray(cuts) - P
    for products in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1]):
        assert abs(products.mean()) < 5 * P * (1 - P) / np.sqrt(products.size)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_probability_is_refused_by_name(p, x64):
    with pytest.raises(OptionError, match=r"p: .* is not a probability below 1; use"):
        artbp(problem_of("lstm")[0], squared_error, p=p)


def test_remat_is_refused_by_name(x64):
    with pytest.raises(OptionError, match="remat: 'all' is unknown; use one of 'none'"):
        artbp(problem_of("lstm")[0], squared_error, p=0.5, remat="all")
