"""Noise: of each example, step and layer its own, however a sequence is run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxlstm import noise
from jaxlstm.cells import make_lstm
from jaxlstm.estimators import Segment, bptt
from jaxlstm.model import make_model
from tests.helpers import assert_close, draw_like, jit

B, X, H, Y, T, L = 3, 2, 4, 5, 7, 3
RATE = 0.3
KEYS = jax.random.split(jax.random.key(5), B)


def make_problem(**options):
    model = make_model(
        make_lstm(),
        input_size=X,
        hidden_size=H,
        output_size=Y,
        dtype=jnp.float64,
        **{"num_layers": L, "dropout": RATE, **options},
    )
    params = draw_like(jax.eval_shape(model.init, jax.random.key(0)), 0, 0.5)
    inputs = np.random.default_rng(1).normal(size=(T, B, X))
    return model, params, inputs


def test_kept_entries_are_scaled_and_others_zero():
    size, steps = 50, 200
    kept = np.asarray(
        noise.dropout(jnp.full((steps, B, size), 7.0), RATE, KEYS, 0), np.float64
    )
    assert np.unique(kept).size == 2
    np.testing.assert_allclose(kept.max(), 7 / (1 - RATE), rtol=1e-6)
    # Of 30,000 independent draws the share kept is within 5 standard deviations, but
    # once in some two million keys; the same for each lag-one product.
    ones = kept > 0
    bound = 5 * math.sqrt(RATE * (1 - RATE) / ones.size)
    assert abs(ones.mean() - (1 - RATE)) < bound
    for axis in range(3):
        both = ones & np.roll(ones, 1, axis=axis)
        assert abs(both.mean() - (1 - RATE) ** 2) < 2 * bound


def test_unroll_draws_what_step_draws(x64):
    model, params, inputs = make_problem()
    start, advance = model.initial_state(params, (B,)), model.step
    assert advance is not None

    def by_step(state, xs):
        x, time = xs
        state = advance(params.recurrent, state, x, key=KEYS, time=time)
        return state, state

    @jit
    def run(first):
        times = first + jnp.arange(T)
        return (
            model.unroll(params.recurrent, start, inputs, key=KEYS, time=first),
            jax.lax.scan(by_step, start, (jnp.asarray(inputs), times)),
        )

    at_zero, stepped = run(0)
    assert_close(at_zero, stepped)
    later, stepped = run(11)
    assert_close(later, stepped)
    assert not np.allclose(at_zero[0][-1].h, later[0][-1].h)


def test_chunks_draw_what_the_whole_draws(x64):
    model, params, inputs = make_problem()
    state = model.initial_state(params, (B,))
    _, whole = model.unroll(params.recurrent, state, inputs, key=KEYS)
    parts = []
    for begin, end in ((0, 1), (1, 4), (4, T)):
        chunk = inputs[begin:end]
        state, states = model.unroll(
            params.recurrent, state, chunk, key=KEYS, time=begin
        )
        parts.append(states)
    assert_close(jax.tree.map(lambda *x: jnp.concatenate(x), *parts), whole)


def test_an_example_draws_alone(x64):
    model, params, inputs = make_problem()
    state = model.initial_state(params, (B,))
    _, whole = model.unroll(params.recurrent, state, inputs, key=KEYS)
    for n in range(B):
        one = model.initial_state(params, ())
        _, states = model.unroll(params.recurrent, one, inputs[:, n], key=KEYS[n])
        assert_close(states, jax.tree.map(lambda x, n=n: x[:, n], whole))


def test_layers_by_hand(x64):
    """Each layer is run by itself, on outputs dropped by a mask of its own."""
    model, params, inputs = make_problem()
    start = model.initial_state(params, (B,))
    _, states = model.unroll(params.recurrent, start, inputs, key=KEYS)
    single, _, _ = make_problem(num_layers=1, dropout=0.0)
    masks, outputs = [], inputs
    for n, layer in enumerate(params.recurrent.layers):
        recurrent = params.recurrent._replace(layers=(layer,))
        _, (alone,) = single.unroll(recurrent, (start[n],), outputs)
        assert_close(states[n], alone)
        key = noise.fold_in(KEYS, n + 1)
        masks.append(np.asarray(noise.dropout(jnp.ones((T, B, H)), RATE, key, 0)))
        outputs = alone.h * masks[-1]
    assert (masks[0] != masks[1]).any()


def test_no_key_is_no_noise(x64):
    model, params, inputs = make_problem()
    plain, _, _ = make_problem(dropout=0.0)
    start = model.initial_state(params, (B,))
    _, evaluated = model.unroll(params.recurrent, start, inputs)
    _, without = plain.unroll(params.recurrent, start, inputs, key=KEYS)
    assert_close(evaluated, without, tolerance=0)
    _, trained = model.unroll(params.recurrent, start, inputs, key=KEYS)
    assert not np.allclose(trained[-1].h, evaluated[-1].h)
    assert_close(trained[0], evaluated[0], tolerance=0)


@pytest.mark.parametrize(
    "remat",
    [pytest.param(n, marks=pytest.mark.slow) for n in ("sqrt_step", "step", "sqrt")],
)
def test_rematerialisation_does_not_change_the_draws(remat, x64):
    model, params, inputs = make_problem()
    targets = np.random.default_rng(2).normal(size=(T, B, Y))

    def squared(prediction, target):
        return jnp.sum((prediction - target) ** 2, axis=-1)

    def two_segments(remat):
        estimator = bptt(model, squared, remat=remat)
        state = estimator.init(params, (B,), jax.random.key(3))
        first, state = estimator.estimate(params, state, Segment(inputs, targets))
        second, state = estimator.estimate(params, state, Segment(inputs, targets))
        return first, second

    first, second = jit(lambda: two_segments(remat))()
    assert_close((first, second), jit(lambda: two_segments("none"))())
    # A segment has draws of its own.
    assert not np.allclose(first.loss, second.loss, rtol=1e-3)


def test_devices_do_not_change_the_draws():
    devices = 2
    keys = jax.random.split(jax.random.key(6), 2 * devices)
    x = jnp.ones((T, 2 * devices, H))
    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
    spread = jax.shard_map(
        lambda x, keys: noise.dropout(x, RATE, keys, 4),
        mesh=mesh,
        in_specs=(PartitionSpec(None, "batch"), PartitionSpec("batch")),
        out_specs=PartitionSpec(None, "batch"),
    )
    np.testing.assert_array_equal(
        jax.jit(spread)(x, keys), noise.dropout(x, RATE, keys, 4)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout: 1.0 is not in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout: -0.1 is not in \[0, 1\)"),
        ({"num_layers": 1}, "dropout: 0.3 acts between layers, and num_layers is 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        make_problem(**options)


def test_one_key_does_not_serve_a_batch():
    """With T = B its draws would broadcast, alike for all examples."""
    with pytest.raises(ValueError, match=r"^key: shape \(\) is not that of the batch"):
        noise.dropout(jnp.ones((B, B, H)), RATE, KEYS[0], 0)
