"""The forward gradient, by enumeration of its directions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxlstm import Dropout
from jaxlstm.cells import make_gru, make_lstm, make_rnn
from jaxlstm.estimators import bptt, forward_gradient
from jaxlstm.noise import dropout
from tests.estimators.devices import estimate_on
from tests.estimators.problems import B, T, cut, make_segment, problem, squared_error
from tests.helpers import assert_close, jit


def noisy_problem():
    """Two layers with noise between and inside them, and on what they predict."""
    rates = Dropout(between=0.5, recurrent=0.4, zoneout_h=0.3, zoneout_c=0.2)
    model, params = problem(make_lstm(), num_layers=2, dropout=rates)

    def readout(params, state, *, key, time):
        return dropout(model.readout(params, state), 0.5, key, time)

    return model._replace(readout=readout), params


PROBLEMS = {
    "lstm": lambda: problem(make_lstm()),
    "gru": lambda: problem(make_gru()),
    "rnn": lambda: problem(make_rnn()),
    "noisy_layers": noisy_problem,
    "no_gated_form": lambda: problem(make_lstm()._replace(gated=None)),
}


@functools.cache
def tiny_problem():
    """A model of ten parameters."""
    return problem(make_rnn(), hidden_size=1)


def hadamard_row(key, time, shape):
    """Returns row `time` of the Hadamard matrix, from its rows' periodic order."""
    del key
    bits = jax.lax.population_count(jnp.uint32(time) & jnp.arange(*shape, dtype="u4"))
    return 1.0 - 2.0 * (bits % 2)


def pattern(key, time, shape):
    """Returns the signs that the bits of the key's number say."""
    del time
    number = jax.random.key_data(key)[-1]
    return 1.0 - 2.0 * (number >> jnp.arange(*shape, dtype="u4") & 1)


def power_of_two(number):
    return 1 << (number - 1).bit_length()


def flatten(tree):
    return np.asarray(ravel_pytree(tree)[0])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "noisy" in name else ())
        for name in PROBLEMS
    ],
)
def test_all_rows_of_a_hadamard_matrix_give_bptt(name, x64):
    """The rows v_n of one of N >= P have sum_n v_n v_n^T = N 1, so that errors cancel.

    The second of the two segments begins with the state that the first one left.
    """
    model, params = PROBLEMS[name]()
    exact = bptt(model, squared_error)
    estimator = forward_gradient(
        model,
        squared_error,
        num_directions=power_of_two(flatten(params).size),
        sample=hadamard_row,
    )

    @jit
    def run(params, segments):
        results = []
        for member in (estimator, exact):
            state, estimates = member.init(params, (B,), jax.random.key(0)), []
            for segment in segments:
                estimate, state = member.estimate(params, state, segment)
                estimates.append(estimate)
            results.append((estimates, state.hidden, state.num_steps))
        return results

    whole = make_segment()
    actual, expected = run(params, (cut(whole, 0, 2), cut(whole, 2, T)))
    assert_close(actual, expected)


@functools.cache
def all_signs():
    """Returns exact gradient [P], and the estimates [2^P, P] of all single signs."""
    model, params = tiny_problem()
    estimator = forward_gradient(model, squared_error, sample=pattern)
    numbers = np.arange(2 ** flatten(params).size, dtype=np.uint32)
    data = np.stack([np.zeros_like(numbers), numbers], axis=-1)
    return estimates_of(estimator, jax.random.wrap_key_data(data))


def estimates_of(estimator, direction_keys):
    """Returns exact gradient [P], and an estimate [N, P] for each of the keys."""
    model, params = tiny_problem()
    exact = bptt(model, squared_error)

    @jit
    def run(params, segment):
        state = estimator.init(params, (B,), jax.random.key(0))

        def one(key):
            given = state._replace(direction_key=key)
            return ravel_pytree(estimator.estimate(params, given, segment)[0].grads)[0]

        start = exact.init(params, (B,), jax.random.key(0))
        gradient = exact.estimate(params, start, segment)[0].grads
        return ravel_pytree(gradient)[0], jax.lax.map(
            one, direction_keys, batch_size=64
        )

    return jax.tree.map(np.asarray, run(params, make_segment()))


def relative_square_error(gradient, estimates):
    """Returns |g - dL/dtheta|^2 / |dL/dtheta|^2 of each estimate g."""
    return np.sum((estimates - gradient) ** 2, axis=1) / np.sum(gradient**2)


def test_signs_are_unbiased(x64):
    gradient, estimates = all_signs()
    np.testing.assert_allclose(estimates.mean(axis=0), gradient, rtol=1e-12)


def test_square_error_of_signs(x64):
    gradient, estimates = all_signs()
    error = relative_square_error(gradient, estimates).mean()
    np.testing.assert_allclose(error, gradient.size - 1, rtol=1e-12)


def test_square_error_of_normal_directions(x64):
    """Its mean is P + 1, seen in N draws.

    With dL/dtheta = |dL/dtheta| u, v = a u + w, a normal and r = |w|^2 chi-square of
    P - 1 degrees, the relative square error is (a^2 - 1)^2 + a^2 r. Its mean is
    2 + (P - 1), and its variance, by the moments of a and r,

        60 + 3 (P^2 - 1) + 20 (P - 1) - (P + 1)^2.

    The bound is of five standard errors of the mean, half the distance to P - 1.
    """
    count = 2**14
    model, params = tiny_problem()
    estimator = forward_gradient(model, squared_error)
    keys = jax.random.split(jax.random.key(1), count)
    gradient, estimates = estimates_of(estimator, keys)
    p = flatten(params).size
    variance = 60 + 3 * (p**2 - 1) + 20 * (p - 1) - (p + 1) ** 2
    bound = 5 * np.sqrt(variance / count)
    assert bound < 1
    assert abs(relative_square_error(gradient, estimates).mean() - (p + 1)) < bound


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["normal", "signs"])
def test_error_of_a_mean_falls_as_the_root_of_the_number(distribution, x64):
    """The mean of N directions has a square error of (P +- 1) / N, to three decades.

    It is seen in R draws of that mean. Its spread about that is less than sqrt(2)
    times it where N is large, as of any sum of squares of normal numbers; for N = 1 it
    is at most twice it, by the variance above. The bound is of five standard errors.
    """
    count, (model, params) = 1024, tiny_problem()
    p = flatten(params).size
    constant = p + 1 if distribution == "normal" else p - 1
    for number in (1, 10, 100, 1000):
        estimator = forward_gradient(
            model, squared_error, distribution=distribution, num_directions=number
        )
        keys = jax.random.split(jax.random.key(number), count)
        gradient, estimates = estimates_of(estimator, keys)
        error = relative_square_error(gradient, estimates).mean()
        np.testing.assert_allclose(
            error * number / constant, 1, atol=5 * 2 / np.sqrt(count)
        )


def test_drawn_signs_are_signs(x64):
    model, _ = tiny_problem()
    estimator = forward_gradient(model, squared_error, distribution="signs")
    _, estimates = estimates_of(estimator, jax.random.split(jax.random.key(1), 64))
    sizes = np.abs(estimates)
    np.testing.assert_allclose(sizes, sizes[:, :1] + 0 * sizes, rtol=1e-14)
    # Of 64 x 9 pairs of signs, chance takes the share of equal ones past .5 +- .1 once
    # in 600,000 keys.
    equal = np.mean(np.sign(estimates[:, 1:]) == np.sign(estimates[:, :1]))
    assert abs(equal - 0.5) < 0.1


def test_directions_are_drawn_for_each_segment_and_number(x64):
    """Directions of n everywhere give n^2 times the sum of the gradient."""
    model, params = tiny_problem()

    def sample(key, time, shape):
        del key
        return jnp.full(shape, time, float)

    estimator = forward_gradient(model, squared_error, num_directions=2, sample=sample)
    exact = bptt(model, squared_error)

    @jit
    def run(params, segments):
        states = [e.init(params, (B,), jax.random.key(0)) for e in (estimator, exact)]
        results = []
        for segment in segments:
            sums, states[0] = estimator.estimate(params, states[0], segment)
            expected, states[1] = exact.estimate(params, states[1], segment)
            grads, expected = (ravel_pytree(e.grads)[0] for e in (sums, expected))
            results.append((grads, jnp.sum(expected)))
        return results

    whole = make_segment()
    first, second = run(params, (cut(whole, 0, 3), cut(whole, 3, T)))
    for (grads, total), numbers in ((first, (0, 1)), (second, (6, 7))):
        expected = total * np.mean(np.square(numbers))
        np.testing.assert_allclose(grads, np.full(grads.shape, expected), rtol=1e-12)


def test_estimates_of_parts_of_a_batch_add_up(x64):
    """One direction serves all examples, of a batch with axes or with none."""
    model, params = tiny_problem()
    estimator, segment = forward_gradient(model, squared_error), make_segment()
    state = estimator.init(params, (B,), jax.random.key(0))
    estimate = jit(estimator.estimate)
    whole, _ = estimate(params, state, segment)
    parts = [
        estimate(
            params,
            state._replace(
                hidden=jax.tree.map(lambda x, n=n: x[n], state.hidden),
                keys=jax.tree.map(lambda keys, n=n: keys[n], state.keys),
            ),
            jax.tree.map(lambda x, n=n: x[:, n], segment),
        )[0]
        for n in range(B)
    ]
    assert_close(jax.tree.map(jnp.add, *parts), whole)


def test_two_devices_are_as_one(x64):
    model, params = tiny_problem()
    estimator = forward_gradient(model, squared_error, num_directions=2)
    state = estimator.init(params, (B,), jax.random.key(0))
    (one, after_one), (two, after_two) = (
        estimate_on(count, estimator, params, state, make_segment()) for count in (1, 2)
    )
    assert_close(two, one)
    assert_close(after_two.hidden, after_one.hidden)


def test_keys_are_those_of_bptt_and_the_directions_have_another(x64):
    model, params = tiny_problem()
    key = jax.random.key(5)
    state = forward_gradient(model, squared_error).init(params, (B,), key)
    keys = bptt(model, squared_error).init(params, (B,), key).keys
    assert jnp.all(state.keys.own == keys.own)
    assert not jnp.any(state.keys.own == state.direction_key)
    assert not jnp.any(state.keys.shared == state.direction_key)


def test_bad_options_are_refused_by_name(x64):
    model, _ = tiny_problem()
    with pytest.raises(ValueError, match="num_directions: value is 0; use 1 or more"):
        forward_gradient(model, squared_error, num_directions=0)
    with pytest.raises(ValueError, match="distribution: 'gauss' is unknown; use one"):
        forward_gradient(model, squared_error, distribution="gauss")  # type: ignore
