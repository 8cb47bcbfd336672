"""Persistent evolution strategies, against their definition and what they aim at."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxlstm import Dropout
from jaxlstm.cells import make_gru, make_lstm, make_rnn
from jaxlstm.estimators import Segment, bptt, pes
from jaxlstm.estimators.draws import normal
from jaxlstm.model import Model, ModelParams
from jaxlstm.noise import fold_in, of_batch
from jaxlstm.select import keep, select
from tests.estimators.devices import estimate_on
from tests.estimators.problems import B, T, cut, make_segment, problem, squared_error
from tests.helpers import assert_close, draw_like, jit

N, SIGMA = 4, 0.1


def run_segments(estimator, params, state, segments):
    """Returns the sum of the estimates of segments in a row, and the last state."""
    estimates = []
    for segment in segments:
        estimate, state = estimator.estimate(params, state, segment)
        estimates.append(estimate)
    return jax.tree.map(lambda *x: sum(x), *estimates), state


def cut_all(segment, lengths):
    stops = np.cumsum(lengths)
    return [
        cut(segment, stop - n, stop) for stop, n in zip(stops, lengths, strict=True)
    ]


# The definition.


def run_particle(model, params, segment, lengths, epsilons, key, n):
    """Runs one particle of example n, step by step, and keeps its perturbations apart.

    Args:
      model: its `step` and `readout` are used.
      params: of the model, before they are perturbed.
      segment: the whole sequence, NumPy arrays.
      lengths: of the segments.
      epsilons: [S, P] one perturbation a segment.
      key: of the example.
      n: which example.

    Returns:
      sum_t l_t, sum_t l_t xi_t [P], the last state, and the last xi [P].
    """
    flat, unravel = ravel_pytree(params)
    numbers = np.repeat(np.arange(len(lengths)), lengths)
    inputs, targets, mask, resets, weights = segment
    loss, product = 0.0, jnp.zeros_like(flat)
    state, touched = None, set()
    for t, s in enumerate(numbers):
        perturbed = unravel(flat + epsilons[s])
        if t == 0 or resets[t, n]:
            state, touched = model.initial_state(perturbed, ()), {s}
        if not mask[t, n]:
            continue
        x = inputs[t, n]
        state = model.step(perturbed.recurrent, state, x, key=fold_in(key, 0), time=t)
        touched.add(s)
        if weights[t, n]:
            prediction = model.readout(perturbed, state, key=fold_in(key, 1), time=t)
            step_loss = weights[t, n] * squared_error(prediction, targets[t, n])
            loss = loss + step_loss
            product = product + step_loss * sum(epsilons[s] for s in touched)
    return loss, product, state, sum(epsilons[s] for s in touched)


def by_definition(model, params, segment, lengths, keys):
    """Returns loss, gradient [P], last states [B, N, ...] and xi [B, N, P]."""
    flat, _ = ravel_pytree(params)
    starts = np.cumsum(lengths) - lengths
    loss, gradient, lasts = 0.0, 0.0, []
    for n in range(B):
        halves = [SIGMA * normal(keys.own[n], t, (N // 2, flat.size)) for t in starts]
        epsilons = jnp.stack([jnp.concatenate([e, -e]) for e in halves], axis=1)
        losses, products, *last = jax.vmap(
            lambda e, n=n: run_particle(
                model,
                params,
                segment,
                lengths,
                e,
                jax.tree.map(lambda k: k[n], keys),
                n,
            )
        )(epsilons)
        loss = loss + jnp.mean(losses)
        gradient = gradient + jnp.mean(products, axis=0) / SIGMA**2
        lasts.append(last)
    return loss, gradient, *jax.tree.map(lambda *x: jnp.stack(x), *lasts)


PROBLEMS = {
    "lstm": lambda: problem(make_lstm()),
    "gru": lambda: problem(make_gru()),
    "rnn": lambda: problem(make_rnn()),
    "noisy_layers": lambda: problem(
        make_gru(),
        num_layers=2,
        dropout=Dropout(between=0.5, recurrent=0.4, zoneout_h=0.3),
    ),
    "no_gated_form": lambda: problem(make_rnn()._replace(gated=None)),
}


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("lstm", (1, 3, 3)),
        pytest.param("rnn", (1,) * T, marks=pytest.mark.slow),
        ("gru", (2, 5)),
        ("lstm", (T,)),
        pytest.param("noisy_layers", (4, 3), marks=pytest.mark.slow),
        ("no_gated_form", (5, 2)),
    ],
)
def test_pes_is_its_definition(name, lengths, x64):
    model, params = PROBLEMS[name]()
    segment, lengths = make_segment(), np.asarray(lengths)
    segment.resets[2, 1] = 1
    assert not segment.mask[2, 1]
    estimator = pes(model, squared_error, num_particles=N, sigma=SIGMA)
    state = estimator.init(params, (B,), jax.random.key(2))
    # What stands in the first state was made of other parameters, and is passed over.
    stale = state._replace(
        hidden=draw_like(state.hidden, 3),
        perturbations=draw_like(state.perturbations, 4),
    )
    run = functools.partial(run_segments, estimator)
    total, last = jit(run)(params, stale, cut_all(segment, lengths))
    loss, gradient, hidden, xi = jit(
        lambda params: by_definition(model, params, segment, lengths, state.keys)
    )(params)
    assert_close(ravel_pytree(total.grads)[0], gradient)
    assert_close((total.loss, last.hidden), (loss, hidden))
    assert_close(last.perturbations, xi[:, : N // 2])
    np.testing.assert_allclose(total.weight, np.sum(segment.mask * segment.weights))
    assert last.num_steps == T


# What they aim at.


class LinearParams(NamedTuple):
    """Parameters that act by sums alone.

    Attributes:
      drift: [] is added at each step.
      start: [S] the initial state.
    """

    drift: Any
    start: Any


def linear_model():
    """Returns s' = A s + x + drift, predicting s_1 + b, of four parameters."""
    a = np.array([[0.5, 0.5], [-0.3, 0.8]])

    def init(key):
        del key
        return ModelParams(LinearParams(jnp.asarray(0.7), jnp.array([0.3, -0.4])), 0.2)

    def initial_state(params, batch_shape):
        return jnp.broadcast_to(params.recurrent.start, (*batch_shape, 2))

    def step(recurrent, state, x, *, key=None, time=0):
        del key, time
        return state @ a.T + x + recurrent.drift * jnp.ones(2)

    def unroll(recurrent, state, inputs, *, mask=None, resets=None, **options):
        del options
        start = jnp.broadcast_to(recurrent.start, state.shape)
        states = []
        for t, x in enumerate(inputs):
            state = select(None if resets is None else resets[t], start, state)
            present = None if mask is None else mask[t]
            state = keep(present, step(recurrent, state, x), state)
            states.append(state)
        return state, jnp.stack(states)

    def readout(params, state, *, key=None, time=0):
        del key, time
        return state[..., :1] + jnp.broadcast_to(params.readout, (*state.shape[:-1], 1))

    return Model(init, initial_state, step, unroll, readout)


def test_all_signs_give_the_gradient_of_a_linear_quadratic_system(x64):
    """Each example of the batch has one of the 2^{3 S} patterns of S segments.

    Over them, E[eps_i eps_j] = sigma^2 [i = j], and odd products vanish. So a loss that
    is quadratic in all perturbations leaves nothing but its gradient.
    """
    model = linear_model()
    params = model.init(jax.random.key(0))
    lengths = (1, 2, 1)
    starts = np.cumsum(lengths) - lengths
    size = ravel_pytree(params)[0].size
    count = 2 ** (size * len(lengths))
    steps = sum(lengths)
    rng = np.random.default_rng(0)
    mask, resets = np.ones(steps), np.zeros(steps)
    mask[0] = 0
    resets[2] = 1
    one = Segment(
        inputs=rng.normal(size=(steps, 2)),
        targets=rng.normal(size=(steps, 1)),
        mask=mask,
        resets=resets,
        weights=rng.uniform(0.5, 2, size=steps),
    )
    # Controls are [T]; what has features is repeated for each pattern.
    batch = one._replace(
        inputs=np.repeat(one.inputs[:, None], count, axis=1),
        targets=np.repeat(one.targets[:, None], count, axis=1),
    )

    def pattern(key, time, shape):
        bit = size * jnp.searchsorted(starts, time) + jnp.arange(shape[-1])
        bits = jax.random.key_data(key)[-1] >> bit.astype(jnp.uint32) & 1
        return jnp.broadcast_to(1.0 - 2.0 * bits, shape)

    estimator = pes(model, squared_error, num_particles=2, sigma=0.5, sample=pattern)
    numbers = np.arange(count, dtype=np.uint32)
    data = np.stack([np.zeros_like(numbers), numbers], axis=-1)
    state = estimator.init(params, (count,), jax.random.key(0))
    keys = jax.random.wrap_key_data(data)
    state = state._replace(keys=of_batch(keys, keys.shape))
    run = functools.partial(run_segments, estimator)
    total, _ = jit(run)(params, state, cut_all(batch, lengths))

    exact = bptt(model, squared_error)
    single = exact.init(params, (), jax.random.key(0))
    expected, _ = jit(exact.estimate)(params, single, one)
    assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(expected.grads))
    assert_close(jax.tree.map(lambda x: x / count, total.grads), expected.grads)


def smoothed(sigma, num_nodes=24):
    """Returns what PES gives on an LSTM in the mean, what it aims at, and the exact.

    Perturbations are normal along one direction d, of unit length, and independent in
    each of two segments. All means over them are Gauss-Hermite quadratures: each
    example of the batch has a pair of nodes, and their weight as its weight.

    Returns:
      Three derivatives along d.
    """
    model, params = problem(make_lstm(), hidden_size=2)
    flat, unravel = ravel_pytree(params)
    direction = np.random.default_rng(5).normal(size=flat.size)
    direction /= np.linalg.norm(direction)
    nodes, chances = np.polynomial.hermite_e.hermegauss(num_nodes)
    chances /= chances.sum()
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    chance = np.outer(chances, chances).reshape(-1)
    lengths, count = (2, 2), len(chance)

    rng = np.random.default_rng(1)
    inputs, targets = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    batch = Segment(
        np.repeat(inputs[:, None], count, axis=1),
        np.repeat(targets[:, None], count, axis=1),
        weights=np.broadcast_to(chance, (4, count)),
    )

    def node(key, time, shape):
        pair = jnp.asarray(grid)[jax.random.key_data(key)[-1]]
        return jnp.broadcast_to(pair[time // 2] * direction, shape)

    estimator = pes(model, squared_error, num_particles=2, sigma=sigma, sample=node)
    numbers = np.arange(count, dtype=np.uint32)
    data = np.stack([np.zeros_like(numbers), numbers], axis=-1)
    state = estimator.init(params, (count,), jax.random.key(0))
    keys = jax.random.wrap_key_data(data)
    state = state._replace(keys=of_batch(keys, keys.shape))

    def loss(shift, pair):
        """The loss of the sequence where a segment has weights of its own."""
        total, state = 0.0, None
        for t in range(4):
            perturbed = unravel(flat + (shift + sigma * pair[t // 2]) * direction)
            if state is None:
                state = model.initial_state(perturbed, ())
            assert model.step is not None
            state = model.step(perturbed.recurrent, state, inputs[t])
            prediction = model.readout(perturbed, state)
            total = total + squared_error(prediction, targets[t])
        return total

    def smooth(shift):
        return chance @ jax.vmap(loss, in_axes=(None, 0))(shift, jnp.asarray(grid))

    @jit
    def run(params, segments):
        total, _ = run_segments(estimator, params, state, segments)
        estimate = ravel_pytree(total.grads)[0]
        chex.assert_shape(estimate, flat.shape)
        return estimate @ direction, jax.grad(smooth)(0.0), jax.grad(loss)(0.0, (0, 0))

    return run(params, cut_all(batch, lengths))


def test_pes_aims_at_the_gradient_of_the_smoothed_loss(x64):
    actual, expected, _ = smoothed(0.3)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.slow
def test_bias_is_of_the_second_order_in_sigma(x64):
    biases = []
    for sigma in (0.1, 0.05):
        actual, _, exact = smoothed(sigma)
        biases.append((actual - exact) / exact)
    # What follows is of fourth order: at these sigma, some percent of the ratio.
    assert abs(biases[0]) > 1e-4
    np.testing.assert_allclose(biases[0] / biases[1], 4, rtol=0.05)


# What the interface asks for.


@functools.cache
def small_problem():
    model, params = problem(make_rnn())
    return model, params, pes(model, squared_error, num_particles=N, sigma=SIGMA)


def later_state(batch_shape=(B,)):
    _, params, estimator = small_problem()
    state = estimator.init(params, batch_shape, jax.random.key(0))
    return state._replace(
        hidden=draw_like(state.hidden, 3),
        perturbations=0.1 * draw_like(state.perturbations, 4),
        num_steps=jnp.asarray(4, jnp.int32),
    )


@pytest.mark.parametrize("axes", [(T, B), (T,)])
def test_masked_segment_changes_nothing(axes, x64):
    _, params, estimator = small_problem()
    segment, state = make_segment(), later_state()
    segment = segment._replace(
        inputs=np.full_like(segment.inputs, np.nan),
        targets=np.full_like(segment.targets, np.nan),
        mask=np.zeros(axes),
        resets=np.zeros((T, B)),
    )
    estimate, after = jit(estimator.estimate)(params, state, segment)
    for leaf in jax.tree.leaves(estimate):
        assert not np.any(leaf)
    chex.assert_trees_all_equal(after.hidden, state.hidden)
    np.testing.assert_array_equal(after.perturbations, state.perturbations)


def test_batch_axes_may_be_any(x64):
    """Two batch axes are as one, and the parts of a batch add up, with axes or none."""
    _, params, estimator = small_problem()
    segment, state = make_segment(), later_state()
    estimate = jit(estimator.estimate)
    whole, _ = estimate(params, state, segment)
    folded, after = estimate(
        params,
        jax.tree.map(lambda x: x.reshape(1, B, *x.shape[1:]) if x.ndim else x, state),
        jax.tree.map(lambda x: x.reshape(T, 1, B, *x.shape[2:]), segment),
    )
    assert after.perturbations.shape[:2] == (1, B)
    assert_close(folded, whole)
    parts = [
        estimate(
            params,
            jax.tree.map(lambda x, n=n: x[n] if x.ndim else x, state),
            jax.tree.map(lambda x, n=n: x[:, n], segment),
        )[0]
        for n in range(B)
    ]
    assert_close(jax.tree.map(jnp.add, *parts), whole)


def test_segment_without_controls_has_weight_one(x64):
    _, params, estimator = small_problem()
    segment = make_segment()
    plain = Segment(np.nan_to_num(segment.inputs), np.nan_to_num(segment.targets))
    ones = np.ones((T, B))
    full = Segment(plain.inputs, plain.targets, ones, 0 * ones, ones)
    (bare, after_bare), (ones, after_ones) = (
        jit(estimator.estimate)(params, later_state(), s) for s in (plain, full)
    )
    assert_close((bare, after_bare.hidden), (ones, after_ones.hidden))
    assert_close(after_bare.perturbations, after_ones.perturbations)


def test_two_devices_are_as_one(x64):
    _, params, estimator = small_problem()
    (one, after_one), (two, after_two) = (
        estimate_on(count, estimator, params, later_state(), make_segment())
        for count in (1, 2)
    )
    assert_close(two, one)
    assert_close(after_two.hidden, after_one.hidden)
    assert_close(after_two.perturbations, after_one.perturbations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 3}, "num_particles: value is 3, .* use an even number"),
        ({"num_particles": 0}, "num_particles: value is 0, .* use an even number"),
        ({"sigma": 0.0}, "sigma: value is 0.0; use a positive number"),
        ({"sigma": float("nan")}, "sigma: value is nan; use a positive number"),
    ],
)
def test_bad_options_are_refused_by_name(options, message, x64):
    model, _, _ = small_problem()
    with pytest.raises(ValueError, match=message):
        pes(model, squared_error, **{"num_particles": 2, "sigma": 0.1} | options)
