"""UORO and KF-RTRL: the mean over all their draws is the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_gru, make_leaky_rnn, make_lstm
from jaxlstm.estimators import Segment, bptt, kf_rtrl, uoro
from jaxlstm.estimators import uoro as uoro_function
from jaxlstm.estimators.draws import bernoulli, normal, signs
from tests.estimators.patterns import exact, initial, make_keys, problem_of
from tests.estimators.problems import make_segment, problem, squared_error
from tests.helpers import assert_close, jit
from tests.toy_cells import TOY_CELLS


def make_steps(steps, seed=0):
    """Draws a short segment of one example, with a hole, a reset and weights."""
    rng = np.random.default_rng(seed)
    shape = steps, 1
    mask, resets = np.ones(shape), np.zeros(shape)
    mask[1] = 0
    resets[2] = 1
    inputs, targets = rng.normal(size=(*shape, 2)), rng.normal(size=(*shape, 2))
    inputs[1] = targets[1] = np.nan
    return Segment(inputs, targets, mask, resets, rng.uniform(0.5, 2, shape))


def mean_over(factory, cell, draws_of, count, steps=4, **options):
    """Returns the mean of an estimate over `count` patterns, and that of `bptt`."""
    model, params = problem(
        cell, input_size=2, output_size=2, **{"hidden_size": 1, **options}
    )
    one = make_steps(steps)
    many = jax.tree.map(lambda x: np.repeat(x, count, axis=1), one)
    estimator = factory(model, squared_error, sample=draws_of(model, params, steps))
    state = initial(estimator, params, count)._replace(keys=make_keys(np.arange(count)))
    found, _ = jit(estimator.estimate)(params, state, many)
    expected = bptt(model, squared_error)
    expected, _ = jit(expected.estimate)(params, initial(expected, params, 1), one)
    return jax.tree.map(lambda x: x / count, found), expected


def sign_at(key, places):
    """Reads signs off the bits of the number that a key carries."""
    number = jax.random.key_data(key)[-1]
    return 1.0 - 2.0 * (number >> jnp.asarray(places, jnp.uint32) & 1)


def uoro_draws(model, params, steps):
    """Signs of steps 0, 2 and 3, of the start and of the reset, S bits each."""
    size = sum(x.size for x in jax.tree.leaves(model.initial_state(params, ())))

    def sample(key, time, shape):
        assert shape == (2, size)
        place = jnp.asarray([0, 0, 1, 2])[time]
        start = 3 + (time > 0)
        rows = jnp.stack([place, start])[:, None] * size + jnp.arange(size)[None]
        return sign_at(key, rows)

    return sample


@pytest.mark.parametrize(
    ("cell", "size"),
    [
        (make_lstm(), 2),
        pytest.param(make_gru(), 1, marks=pytest.mark.slow),
        pytest.param(make_lstm()._replace(gated=None), 2, marks=pytest.mark.slow),
    ],
)
def test_mean_of_uoro_over_all_signs(cell, size, x64):
    actual, expected = mean_over(uoro, cell, uoro_draws, 2 ** (5 * size))
    assert_close(actual, expected)


@pytest.mark.slow
def test_mean_of_uoro_in_two_layers(x64):
    options = {"num_layers": 2, "learned_initial_state": False}
    actual, expected = mean_over(uoro, make_lstm(), uoro_draws, 2 ** (3 * 4), **options)
    assert_close(actual, expected)


def kf_draws(model, params, steps):
    """Signs of steps 0, 2 and 3, two for each layer."""

    def sample(key, time, shape):
        place = jnp.asarray([0, 0, 1, 2])[time]
        size = int(np.prod(shape))
        return sign_at(key, place * size + jnp.arange(size)).reshape(shape)

    return sample


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (make_lstm(), {"hidden_size": 3}),
        pytest.param(make_gru(), {"num_layers": 2}, marks=pytest.mark.slow),
        pytest.param(TOY_CELLS["normalised"], {}, marks=pytest.mark.slow),
        pytest.param(TOY_CELLS["peephole"], {"hidden_size": 2}, marks=pytest.mark.slow),
    ],
)
def test_mean_of_kf_rtrl_over_all_signs(cell, options, x64):
    layers = options.get("num_layers", 1)
    actual, expected = mean_over(kf_rtrl, cell, kf_draws, 4 ** (3 * layers), **options)
    assert_close(actual, expected)


@pytest.mark.slow
def test_kf_rtrl_with_an_embedding(x64):
    model, params = problem(make_gru(), inputs="embedding")
    rng = np.random.default_rng(0)
    segment = Segment(rng.integers(0, 3, (2, 1)), rng.normal(size=(2, 1, 2)))
    many = jax.tree.map(lambda x: np.repeat(x, 16, axis=1), segment)

    def sample(key, time, shape):
        return sign_at(key, 2 * time + jnp.arange(2)).reshape(shape)

    estimator, oracle = (
        kf_rtrl(model, squared_error, sample=sample),
        bptt(model, squared_error),
    )
    state = initial(estimator, params, 16)._replace(keys=make_keys(np.arange(16)))
    found, _ = jit(estimator.estimate)(params, state, many)
    expected, _ = jit(oracle.estimate)(params, initial(oracle, params, 1), segment)
    assert_close(jax.tree.map(lambda x: x / 16, found), expected)


def spread_of(scales, monkeypatch):
    """Returns E |g^ - g|^2 of UORO over all signs, under other scales."""
    module = __import__(uoro_function.__module__, fromlist=["_balance"])
    with monkeypatch.context() as patch:
        patch.setattr(module, "_balance", scales(module._balance))
        model, params = problem(
            make_leaky_rnn(), hidden_size=1, learned_initial_state=False
        )
        one = Segment(*(x[:3, :1] for x in problem_steps()))

        def sample(key, time, shape):
            return jnp.broadcast_to(sign_at(key, time), shape)

        estimator = uoro(model, squared_error, sample=sample)

        @jit
        def draw(key):
            state = initial(estimator, params, 1)._replace(
                keys=jax.tree.map(lambda k: k[None], key)
            )
            return estimator.estimate(params, state, one)[0].grads.recurrent.layers

        draws = jax.vmap(draw)(make_keys(np.arange(8)))
    return sum(float(np.sum(np.var(x, axis=0))) for x in jax.tree.leaves(draws))


@functools.cache
def problem_steps():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 1, 3)), rng.normal(size=(3, 1, 2))


@pytest.mark.slow
def test_scales_make_the_variance_small(x64, monkeypatch):
    """The mean does not see which factor is divided; the variance does."""
    balanced = spread_of(lambda balance: balance, monkeypatch)
    plain = spread_of(lambda balance: lambda p, s: jnp.ones(()), monkeypatch)
    swapped = spread_of(lambda balance: lambda p, s: 1 / balance(p, s), monkeypatch)
    assert balanced < 0.9 * plain < 0.9 * swapped


@pytest.mark.slow
@pytest.mark.parametrize("factory", [uoro, kf_rtrl])
def test_draws_are_of_each_example_and_step(factory, x64):
    model, params = problem_of("gru")
    estimator = factory(model, squared_error)
    segment = make_segment()
    first = initial(estimator, params)
    other = estimator.init(params, (2,), jax.random.key(1))
    same, _ = jit(estimator.estimate)(params, first, segment)
    different, _ = jit(estimator.estimate)(params, other, segment)
    assert_close(same.loss, different.loss)
    w_h, other_w_h = (e.grads.recurrent.layers[0].w_h for e in (same, different))
    assert np.abs(w_h - other_w_h).max() > 0.01 * np.abs(w_h).max()
    assert_close(same.loss, exact("gru").loss)


@pytest.mark.parametrize("draw", [signs, normal, bernoulli(0.5)])
def test_draws_of_two_steps_differ(draw):
    first, same, second = (draw(jax.random.key(0), n, (64,)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.any(first != second)


def test_refusal(x64):
    with pytest.raises(ValueError, match="kf_rtrl: the influence has Kronecker"):
        kf_rtrl(problem_of("no_gated_form")[0], squared_error)
