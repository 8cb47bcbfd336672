"""Truncated backpropagation: windows by hand, and segments of any length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.estimators import Segment, bptt, tbptt
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.devices import estimate_on
from tests.estimators.patterns import CELLS, exact, initial, problem_of
from tests.estimators.problems import (
    B,
    T,
    X,
    cut,
    loop_loss,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, jit

WINDOWS = [(3, 3), (4, 2), (3, 1), (1, 1), (5, 3)]


@functools.cache
def compiled(name, horizon, stride, remat="none"):
    model, params = problem_of(name)
    estimator = tbptt(model, squared_error, horizon=horizon, stride=stride, remat=remat)
    return jit(estimator.estimate), initial(estimator, params)


def run(estimate, params, state, segment, bounds):
    """Adds up the estimates of segments that end at the bounds."""
    parts = []
    for start, stop in zip((0, *bounds), bounds, strict=False):
        part, state = estimate(params, state, cut(segment, start, stop))
        parts.append(part)
    return jax.tree.map(lambda *x: sum(x), *parts), state


def windows_by_hand(model, params, segment, horizon, stride):
    """Sums over windows the loss of the last steps of each, in Python.

    A window begins with the state that a loop from the first step leaves there, held
    fixed; those that reach to the first step begin with the initial state.
    """
    total = 0.0
    for end in range(stride, T + stride, stride):
        start, stop = max(end - horizon, 0), min(end, T)
        hidden = None
        if start:
            _, hidden = loop_loss(model, params, cut(segment, 0, start))
            hidden = jax.lax.stop_gradient(hidden)
        window = cut(segment, start, stop)
        steps = np.arange(start, stop)[:, None]
        weights = np.where(steps >= end - stride, window.weights, 0)
        window = window._replace(weights=weights)
        total = total + loop_loss(model, params, window, hidden)[0]
    return total


@pytest.mark.parametrize(
    ("name", "horizon", "stride"),
    [
        *(("lstm", *sizes) for sizes in WINDOWS),
        *((name, 4, 2) for name in CELLS if name != "lstm"),
    ],
)
def test_windows_are_those_of_a_loop(name, horizon, stride, x64):
    model, params = problem_of(name)
    segment = make_segment()
    estimate, state = compiled(name, horizon, stride)
    actual, _ = estimate(params, state, segment)
    expected = jit(
        jax.value_and_grad(
            lambda p: windows_by_hand(model, p, segment, horizon, stride)
        )
    )(params)
    assert_close((actual.loss, actual.grads), expected)
    np.testing.assert_allclose(actual.weight, exact(name).weight, rtol=1e-14)


@pytest.mark.parametrize(
    ("name", "horizon", "stride"),
    [*(("lstm", *sizes) for sizes in WINDOWS), ("no_gated_form", 4, 2)],
)
def test_segments_add_up_to_the_whole(name, horizon, stride, x64):
    params, segment = problem_of(name)[1], make_segment()
    estimate, state = compiled(name, horizon, stride)
    whole, last = run(estimate, params, state, segment, (T,))
    parts, after = run(estimate, params, state, segment, (1, 4, T))
    assert_close(parts, whole)
    assert_close((after.hidden, after.num_steps), (last.hidden, last.num_steps))
    # What goes on from either is the same as well.
    more = make_segment(1)
    (again, _), (expected, _) = (estimate(params, s, more) for s in (after, last))
    assert_close(again, expected)


def test_empty_segment_changes_nothing(x64):
    params, segment = problem_of("lstm")[1], make_segment()
    estimate, state = compiled("lstm", 4, 2)
    _, state = estimate(params, state, cut(segment, 0, 3))
    sums, after = estimate(params, state, cut(segment, 3, 3))
    for leaf in jax.tree.leaves(sums):
        assert not np.any(leaf)
    rest = cut(segment, 3, T)
    assert_close(estimate(params, after, rest)[0], estimate(params, state, rest)[0])


@pytest.mark.parametrize("name", CELLS)
def test_horizon_over_everything_is_bptt(name, x64):
    params = problem_of(name)[1]
    estimate, state = compiled(name, T, T)
    assert_close(estimate(params, state, make_segment())[0], exact(name))


@pytest.mark.parametrize("bounds", [(1, 4, T), tuple(range(1, T + 1))])
def test_long_horizon_is_bptt_across_segments(bounds, x64):
    """No other backward estimator reaches back into the segments before."""
    params = problem_of("lstm")[1]
    estimate, state = compiled("lstm", T + 2, 1)
    whole, _ = run(estimate, params, state, make_segment(), bounds)
    assert_close(whole, exact("lstm"))


def test_chunks_are_bptt_segment_by_segment(x64):
    model, params = problem_of("lstm")
    segment, bounds = make_segment(), (3, 6)
    chunks, _ = run(*insert(compiled("lstm", 3, 3), params), segment, bounds)
    member = bptt(model, squared_error)
    state = initial(member, params)
    expected, _ = run(jit(member.estimate), params, state, segment, bounds)
    assert_close(chunks, expected)


def insert(pair, params):
    estimate, state = pair
    return estimate, params, state


def test_window_is_run_again_by_the_weights_of_now(x64):
    """A window that has begun has the gradient of what it would give as a whole."""
    params, segment = problem_of("lstm")[1], make_segment()
    other = jax.tree.map(lambda x: 1.1 * x, params)
    estimate, state = compiled("lstm", T, T)
    _, state = estimate(params, state, cut(segment, 0, 4))
    late, _ = estimate(other, state, cut(segment, 4, T))
    unscored = segment._replace(weights=segment.weights * (np.arange(T) >= 4)[:, None])
    _, first = compiled("lstm", T, T)
    assert_close(late, estimate(other, first, unscored)[0])


@pytest.mark.slow
def test_noise_is_that_of_the_step(x64):
    model, params = problem(make_lstm(), num_layers=2, dropout=0.5)
    estimator = tbptt(model, squared_error, horizon=T, stride=1)
    exact = bptt(model, squared_error)
    segment, state = make_segment(), initial(estimator, params)
    whole, _ = jit(exact.estimate)(params, initial(exact, params), segment)
    parts, _ = run(jit(estimator.estimate), params, state, segment, (1, 4, T))
    assert_close(parts, whole)


def test_symbols_are_kept_as_integers(x64):
    model, params = problem(make_lstm(), inputs="embedding", tied=False)
    estimator = tbptt(model, squared_error, horizon=T, stride=2)
    exact = bptt(model, squared_error)
    symbols = np.random.default_rng(0).integers(X, size=(T, B)).astype(np.uint8)
    segment = make_segment()._replace(inputs=symbols)
    state = initial(estimator, params)
    assert state.steps.inputs.dtype == jnp.int32
    parts, _ = run(jit(estimator.estimate), params, state, segment, (1, 4, T))
    windows, _ = jit(estimator.estimate)(params, state, segment)
    assert_close(parts, windows)
    whole, _ = jit(exact.estimate)(params, initial(exact, params), segment)
    assert_close(parts.loss, whole.loss)


@pytest.mark.parametrize("controls", ["none", "time"])
def test_controls_take_any_form(controls, x64):
    params, plain = problem_of("lstm")[1], make_segment()
    inputs, targets = (np.nan_to_num(x) for x in plain[:2])
    ones = np.ones((T, B))
    if controls == "none":
        short, full = (None, None, None), (ones, 0 * ones, ones)
    else:
        short = tuple(x[:, 0] for x in plain[2:])
        full = tuple(np.stack([x] * B, axis=1) for x in short)
    estimate, state = compiled("lstm", 4, 2)
    actual, expected = (
        run(estimate, params, state, Segment(inputs, targets, *values), (4, T))
        for values in (short, full)
    )
    assert_close(actual[0], expected[0])


@pytest.mark.slow
@pytest.mark.parametrize("batch_shape", [(), (B, 1)])
def test_batch_may_have_any_axes(batch_shape, x64):
    model, params = problem_of("lstm")
    estimator = tbptt(model, squared_error, horizon=3, stride=2)
    estimate, examples = jit(estimator.estimate), make_segment()
    batch = cut(examples, 0, 4)
    if not batch_shape:
        examples, batch = (
            jax.tree.map(lambda x: x[:, 0], s) for s in (examples, batch)
        )
        flat = jax.tree.map(lambda x: x[:, None], (examples, batch))
    else:
        flat = examples, batch
        examples, batch = (
            jax.tree.map(lambda x: x[:, :, None], s) for s in (examples, batch)
        )
    sums = []
    for shape, segments in ((batch_shape, (examples, batch)), ((-1,), flat)):
        size = segments[0].mask.shape[1:] if shape == (-1,) else shape
        state, parts = estimator.init(params, size, jax.random.key(0)), []
        for segment in segments:
            part, state = estimate(params, state, segment)
            parts.append(part)
        sums.append(parts)
    assert_close(*sums)


@pytest.mark.parametrize("remat", ["step", "sqrt"])
def test_remat_changes_nothing(remat, x64):
    params, segment = problem_of("lstm")[1], make_segment()
    actual, expected = (
        estimate(params, state, segment)[0]
        for estimate, state in (compiled("lstm", 5, 3, remat), compiled("lstm", 5, 3))
    )
    assert_close(actual, expected)


def test_devices_change_nothing(x64):
    model, params = problem_of("lstm")
    estimator = tbptt(model, squared_error, horizon=4, stride=2)
    state = initial(estimator, params)
    one, two = (
        estimate_on(n, estimator, params, state, make_segment())[0] for n in (1, 2)
    )
    assert_close(two, one)


def test_model_of_ones_own_says_what_an_input_is(x64):
    made, params = problem_of("lstm")
    model = Model(*made[:5])
    with pytest.raises(OptionError, match=r"example_input: is not given, .* give its"):
        tbptt(model, squared_error, horizon=4, stride=2)
    example = jax.ShapeDtypeStruct((X,), jnp.float64)
    estimator = tbptt(model, squared_error, horizon=4, stride=2, example_input=example)
    own, _ = jit(estimator.estimate)(params, initial(estimator, params), make_segment())
    estimate, state = compiled("lstm", 4, 2)
    assert_close(own, estimate(params, state, make_segment())[0])


def test_inputs_of_another_shape_are_refused(x64):
    params, segment = problem_of("lstm")[1], make_segment()
    estimate, state = compiled("lstm", 4, 2)
    wide = segment._replace(inputs=np.ones((T, B, X + 1)))
    with pytest.raises(
        ValueError, match=r"inputs: shape \(7, 2, 4\) is not \(7, 2, 3\)"
    ):
        estimate(params, state, wide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon: 0 is not positive; use 1 or more"),
        ({"horizon": 3, "stride": 4}, r"stride: 4 is not in 1\.\.horizon = 3; lower"),
        ({"horizon": 3, "stride": 0}, r"stride: 0 is not in 1\.\.horizon = 3; lower"),
        ({"horizon": 3, "remat": "all"}, "remat: 'all' is unknown; use one of 'none'"),
    ],
)
def test_options_are_refused_by_name(options, message, x64):
    with pytest.raises(OptionError, match=message):
        tbptt(problem_of("lstm")[0], squared_error, **options)
