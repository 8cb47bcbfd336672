"""What every estimator of the table has to do, and what `score` does for them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_gru, make_leaky_rnn, make_lstm
from jaxlstm.estimators import ESTIMATORS, tbptt
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.training import TrainState
from jaxlstm.model import make_model
from tests.estimators.devices import estimate_on
from tests.estimators.problems import (
    B,
    H,
    T,
    X,
    Y,
    cut,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, draw_like, jit

# The interface, for every member of the table. Options that a factory needs stand here.
OPTIONS: dict[str, dict[str, Any]] = {
    "artbp": {"p": 0.3},
    "clipped_bptt": {"z": 0.5},
    "h_detach": {"p": 0.3},
    "tbptt": {"horizon": 3, "stride": 2},
    "pes": {"num_particles": 4, "sigma": 0.1},
}


QUICK = "bptt", "tbptt", "rtrl", "eprop"


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ESTIMATORS
    ]
)
def member(request):
    """An estimator with parameters for it, in float32."""
    rflo = request.param == "rflo"
    model = make_model(
        make_leaky_rnn() if rflo else make_gru(),
        input_size=X,
        hidden_size=H,
        output_size=Y,
        num_layers=1 if rflo else 2,
        learned_initial_state=True,
    )
    options = OPTIONS.get(request.param, {})
    estimator = ESTIMATORS[request.param](model, squared_error, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return estimator, jax.tree.map(np.float32, draw_like(shapes, 0, 0.5))


def single(segment):
    return jax.tree.map(np.float32, segment)


def test_interface(member, tmp_path):
    estimator, params = member
    check_interface(estimator, params, tmp_path)


def test_a_window_of_one_step_can_be_saved(tmp_path):
    """It has no buffer, and an array without entries could not be saved."""
    model, params = problem(make_leaky_rnn(), dtype=jnp.float32)
    params = jax.tree.map(np.float32, params)
    check_interface(tbptt(model, squared_error, horizon=1), params, tmp_path)


def check_interface(estimator, params, tmp_path):
    state = estimator.init(params, (B,), jax.random.key(0))
    for leaf in jax.tree.leaves(state):
        assert leaf.shape[:1] in ((), (B,))
    estimate = jit(chex.assert_max_traces(estimator.estimate, n=1))

    sums, second = estimate(params, state, single(make_segment(0)))
    again, third = estimate(params, second, single(make_segment(1)))

    for loss, grads, weight in (sums, again):
        chex.assert_shape((loss, weight), ())
        assert loss.dtype == weight.dtype == jnp.float32
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        chex.assert_tree_all_finite((loss, grads, weight))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, second, third)

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    saved = TrainState(params, {}, second, jnp.asarray(3))
    checkpoints.save(jax.tree.map(jnp.asarray, saved))
    restored, _ = checkpoints.restore(saved._replace(estimator=state))
    checkpoints.close()
    from_restored, _ = estimate(params, restored.estimator, single(make_segment(1)))
    chex.assert_trees_all_equal(from_restored, again)


LENGTHS = 1, 3, T - 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_segments_add_up_where_that_is_claimed(name, x64):
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model, params = problem(cell, num_layers=1 if name == "rflo" else 2)
    estimator = ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    segment, estimate = make_segment(), jit(estimator.estimate)
    state = estimator.init(params, (B,), jax.random.key(0))
    whole, last = estimate(params, state, segment)
    parts, start = [], 0
    # Nothing is added by a segment without steps.
    for length in (0, *LENGTHS):
        part, state = estimate(params, state, cut(segment, start, start + length))
        parts.append(part)
        start += length
    total = jax.tree.map(lambda *x: sum(x), *parts)
    assert start == T
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(parts[0]))
    if estimator.traits.segment_invariant:
        assert_close((total, state.hidden), (whole, last.hidden))
    else:
        w_h, w_h_whole = (e.grads.recurrent.layers[0].w_h for e in (total, whole))
        assert np.abs(w_h - w_h_whole).max() > 1e-3 * np.abs(w_h_whole).max()


@pytest.mark.slow
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_two_devices_are_as_one(name, learned, x64):
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model, params = problem(cell, learned_initial_state=learned)
    estimator = ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    state = estimator.init(params, (B,), jax.random.key(0))
    one, two = (
        estimate_on(n, estimator, params, state, make_segment())[0] for n in (1, 2)
    )
    assert_close(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_masked_segment_gives_nothing(name, x64):
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model, params = problem(cell)
    estimator = ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))
    estimate = jit(estimator.estimate)
    state = estimator.init(params, (B,), jax.random.key(0))
    _, state = estimate(params, state, make_segment())
    nothing = make_segment(1)
    nothing = nothing._replace(
        inputs=np.full_like(nothing.inputs, np.nan),
        targets=np.full_like(nothing.targets, np.nan),
        mask=np.zeros_like(nothing.mask),
        resets=np.zeros_like(nothing.resets),
    )
    added, after = estimate(params, state, nothing)
    for leaf in jax.tree.leaves(added):
        assert not np.any(leaf)
    # The state as a whole goes on as if the steps had not been, but for their number.
    number = "num_segments" if name == "whole_sequence" else "num_steps"
    same = {number: getattr(after, number)}
    (first, _), (second, _) = (
        estimate(params, s._replace(**same), make_segment(2)) for s in (state, after)
    )
    if name != "tbptt":
        assert_close(second, first)
