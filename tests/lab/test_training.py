"""Training: devices, compiled calls, averages, draws, evaluation."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from jaxlstm.cells import make_rnn
from jaxlstm.estimators import bptt
from jaxlstm.lab import Source, UserError
from jaxlstm.lab.blocks import Pace
from jaxlstm.lab.devices import AXIS, make_mesh
from jaxlstm.lab.evaluation import Evaluator
from jaxlstm.lab.training import Trainer, fit
from jaxlstm.model import make_model
from jaxlstm.noise import fold_in
from tests.helpers import assert_close, jit
from tests.lab.tiny import Tiny

B, T, SEED = 4, 3, 1
TASK = Tiny()


def mesh_of(count):
    devices = jax.devices()[:count]
    assert len(devices) == count
    return jax.make_mesh(
        (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
    )


def noisy(model):
    """Returns the model with noise on its predictions, drawn by each example's key."""

    def readout(params, state, *, key=None, time=0):
        prediction = model.readout(params, state)
        if key is None:
            return prediction
        draw = functools.partial(jax.random.normal, shape=(T, 1), dtype=jnp.float32)
        return prediction + jnp.moveaxis(jax.vmap(draw)(fold_in(key.own, time)), 0, 1)

    return model._replace(readout=readout)


def make_trainer(
    num_devices=1, *, dtype="float32", average="steps", optimizer=None, noise=False
):
    # Of few operations, for compiling them is what takes the time.
    model = make_model(
        make_rnn(initializer="uniform_08"),
        initializer="uniform_08",
        input_size=2,
        output_size=1,
        hidden_size=3,
        learned_initial_state=True,
        dtype=jnp.dtype(dtype),
    )
    estimator = bptt(noisy(model) if noise else model, TASK.loss)
    optimizer = optimizer or optax.adam(0.1)
    return Trainer(model, estimator, optimizer, mesh_of(num_devices), average)


def source(split="train"):
    return TASK.split(split, batch_size=B, segment_length=T, seed=SEED)


def train(trainer, num_updates=3, updates_per_call=3):
    state = trainer.init(jax.random.key(0), B)
    stop = lambda done: num_updates  # noqa: E731
    calls = list(fit(trainer, state, source(), stop, updates_per_call))
    metrics = [
        np.concatenate(v) for v in zip(*(call.metrics for call in calls), strict=True)
    ]
    return jax.device_get(calls[-1].state.params), metrics, calls


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [pytest.param("float32", 1e-6, marks=pytest.mark.slow), ("float64", 1e-12)],
)
def test_two_devices_are_as_one(dtype, bound, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    one, two = (train(make_trainer(n, dtype=dtype, noise=True)) for n in (1, 2))
    assert_close(two[0], one[0], bound)
    assert_close(two[1], one[1], bound)
    keys = [calls[-1][0].estimator.keys for _, _, calls in (one, two)]
    assert keys[0].shape == (B,)
    for alone, spread in zip(*keys, strict=True):
        assert len(spread.devices()) == 2
        np.testing.assert_array_equal(*map(jax.random.key_data, (alone, spread)))


def test_one_call_is_as_many():
    together, one_by_one = (train(make_trainer(), 5, n) for n in (5, 1))
    ragged = train(make_trainer(), 5, 3)
    # The first call compiles, and the next ones take a single segment: while the
    # first of them is timed, the segment of the second is taken already.
    made = [[len(c.metrics.loss) for c in x[2]] for x in (together, one_by_one, ragged)]
    assert made == [[0, 1, 1, 3], [0, 1, 1, 1, 1, 1], [0, 1, 1, 3]]
    for other in (one_by_one, ragged):
        chex.assert_trees_all_equal(other[0], together[0])
        chex.assert_trees_all_equal(other[1], together[1])


def test_a_call_takes_about_a_second():
    pace = Pace(100)
    assert pace.count == 1
    for count, seconds, expected in [
        (1, 0.001, 100),  # As many as a block holds.
        (100, 0.1, 100),
        (100, 4.0, 25),
        (25, 30.0, 1),
        (1, 30.0, 1),
        (1, 0.25, 4),
    ]:
        pace.took(count, seconds)
        assert pace.count == expected


def test_every_parameter_is_looked_at():
    trainer = make_trainer()
    state = trainer.init(jax.random.key(0), B)
    leaves, structure = jax.tree.flatten(state.params)
    call = trainer.compile(state, source().segments(0, 1))
    for n in range(-1, len(leaves)):
        bad = [jnp.inf * x if n == k else x for k, x in enumerate(leaves)]
        params = jax.tree.unflatten(structure, [jnp.asarray(x) for x in bad])
        *_, finite = call(state._replace(params=params), source().segments(0, 1), 0)
        assert bool(finite) == (n < 0)


def test_updates_are_made_again():
    _, _, calls = train(make_trainer(noise=True), 5, 5)
    last = calls[-1]
    chex.assert_trees_all_equal(last.until(3).params, last.state.params)
    assert int(last.until(2).num_updates) == 4
    again = train(make_trainer(noise=True), 4, 5)
    chex.assert_trees_all_equal(jax.device_get(last.until(2).params), again[0])


def test_fit_asks_for_each_segment_once_and_for_none_beyond():
    asked = []

    def segments(start, count):
        asked.extend(range(start, start + count))
        return source().segments(start, count)

    trainer = make_trainer()
    state = trainer.init(jax.random.key(0), B)
    calls = fit(trainer, state, Source(segments), lambda n: min(5, (n // 3 + 1) * 3), 3)
    assert [int(call.state.num_updates) for call in calls] == [0, 1, 2, 3, 5]
    assert asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("average", ["steps", "batch"])
def test_average(average, num_devices):
    # A step of size one along the gradient shows what it was divided by.
    trainer = make_trainer(num_devices, average=average, optimizer=optax.sgd(1.0))
    state = trainer.init(jax.random.key(0), B)
    start = jax.device_get(state)
    segment = jax.tree.map(lambda x: x[0], source().segments(0, 1))
    sums, _ = jit(trainer.estimator.estimate)(start.params, start.estimator, segment)
    assert sums.weight == np.sum(segment.mask * segment.weights) != B
    divisor = sums.weight if average == "steps" else B
    expected = jax.tree.map(lambda p, g: p - g / divisor, start.params, sums.grads)
    params, (loss, weight, norm), _ = train(trainer, 1, 1)
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([*loss, *weight], [sums.loss, sums.weight], rtol=1e-6)
    np.testing.assert_allclose(norm, [optax.tree.norm(sums.grads) / divisor], rtol=1e-5)


def test_segment_without_weight_changes_nothing():
    def segments(start, count):
        segment: Any = source().segments(start, count)
        return segment._replace(weights=0 * segment.weights)

    trainer = make_trainer(optimizer=optax.sgd(1.0))
    state = trainer.init(jax.random.key(0), B)
    before = jax.device_get(state.params)
    calls = fit(trainer, state, Source(segments), lambda n: 1, 1)
    *_, (after, metrics, *_) = calls
    chex.assert_trees_all_equal(jax.device_get(after.params), before)
    assert metrics.loss == metrics.weight == metrics.gradient_norm == 0


@pytest.mark.parametrize("num_devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_skipped_segment_changes_no_state(num_devices):
    def segments(start, count):
        block = source().segments(start, count)
        block.targets[:, -1] = np.inf
        return block

    optimizer = optax.apply_if_finite(optax.adam(0.1), 3)
    trainer = make_trainer(num_devices, optimizer=optimizer, noise=True)
    trainer = trainer._replace(skips=True)
    before = trainer.init(jax.random.key(0), B)
    *_, (after, metrics, *_) = fit(trainer, before, Source(segments), lambda n: 1, 1)
    assert not np.isfinite(metrics.loss) and not np.isfinite(metrics.gradient_norm)
    assert int(after.num_updates) == 1 and int(after.optimizer.notfinite_count) == 1
    for name in ("params", "estimator"):
        chex.assert_trees_all_equal(
            *(jax.tree.map(as_numbers, getattr(x, name)) for x in (after, before))
        )


def as_numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@pytest.mark.parametrize("num_devices", [1, 2])
def test_weights_of_steps_alone_count_for_every_example(num_devices):
    """[T] weights are alike on all devices; their sum must not be taken for one."""

    def segments(start, count):
        segment: Any = source().segments(start, count)
        inputs, targets = map(np.nan_to_num, (segment.inputs, segment.targets))
        weights = np.broadcast_to(np.float32([0, 1, 2]), (count, T))
        return segment._replace(
            inputs=inputs, targets=targets, mask=None, weights=weights
        )

    trainer = make_trainer(num_devices)
    state = trainer.init(jax.random.key(0), B)
    *_, (_, metrics, *_) = fit(trainer, state, Source(segments), lambda n: 1, 1)
    assert metrics.weight == 3 * B
    evaluate = Evaluator(trainer.model, TASK, trainer.mesh)
    params = jax.device_get(trainer.init(jax.random.key(0), B).params)
    values = evaluate(params, Source(segments, 2), B)
    expected = evaluate_by_hand(trainer.model, params, segments(0, 2))
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-5)


def evaluate_by_hand(model, params, block):
    """Averages in float64, over a loop of segments, leaving out what has no weight."""

    @jit
    def predict(state, inputs, mask, resets):
        state, states = model.unroll(
            params.recurrent, state, inputs, mask=mask, resets=resets
        )
        return state, model.readout(params, states)

    state = model.initial_state(params, (B,))
    losses, errors, weights = [], [], []
    for n in range(len(block.inputs)):
        segment: Any = jax.tree.map(lambda x, n=n: x[n], block)
        inputs, targets, mask, resets, weight = segment
        state, predictions = predict(state, inputs, mask, resets)
        weight = weight[:, None] if weight.ndim == 1 else weight
        weight = weight * (np.ones((T, B)) if mask is None else mask)
        scored = weight != 0
        error = np.float64(predictions) - targets
        losses.extend((error[scored] ** 2)[:, 0])
        errors.extend(np.abs(error[scored])[:, 0])
        weights.extend(weight[scored])
    loss, error = (np.average(x, weights=weights) for x in (losses, errors))
    return {"loss": loss, "error": error, "root": loss**0.5}


@pytest.mark.parametrize(("num_devices", "per_call"), [(1, 32), (1, 2), (2, 3)])
def test_evaluation_is_the_weighted_average(num_devices, per_call):
    trainer = make_trainer(num_devices)
    params = jax.device_get(trainer.init(jax.random.key(0), B).params)
    evaluate = Evaluator(trainer.model, TASK, trainer.mesh)
    values = evaluate(params, source("test"), B, segments_per_call=per_call)
    expected = evaluate_by_hand(trainer.model, params, source("test").segments(0, 3))
    assert values.keys() == expected.keys()
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-5)


def test_evaluation_without_weight_is_refused():
    def segments(start, count):
        segment: Any = source("test").segments(start, count)
        return segment._replace(weights=0 * segment.weights)

    trainer = make_trainer()
    params = trainer.init(jax.random.key(0), B).params
    with pytest.raises(UserError, match="no step has a weight"):
        Evaluator(trainer.model, TASK, trainer.mesh)(params, Source(segments, 1), B)


@pytest.mark.parametrize(
    ("devices", "batch_size", "size"),
    [("all", 4, 2), ("all", 3, 1), ("all", 1, 1), (1, 4, 1), (2, 6, 2)],
)
def test_mesh_takes_devices_over_which_the_batch_divides(devices, batch_size, size):
    assert make_mesh(devices, batch_size).size == size


def test_state_lies_where_it_is_used():
    state = make_trainer(2).init(jax.random.key(0), B)
    for leaf in jax.tree.leaves(state):
        assert len(leaf.devices()) == 2
    hidden = jax.tree.leaves(state.estimator.hidden)
    assert all(leaf.addressable_shards[0].data.shape[0] == B // 2 for leaf in hidden)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
