"""Whole sequences: against `bptt`, against differences, and what counts as one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_gru, make_leaky_rnn, make_lstm
from jaxlstm.estimators import ESTIMATORS, Segment, bptt, whole_sequence
from jaxlstm.model import ModelParams, make_model
from jaxlstm.noise import fold_in
from jaxlstm.shapes import OptionError
from tests.estimators.problems import B, T, X, Y, problem, squared_error
from tests.estimators.test_interface import OPTIONS
from tests.helpers import assert_close, draw_like, jit


def make_sequences(seed: int = 0) -> Any:
    """Draws sequences padded on the left, with a hole; NaN in what must not matter."""
    random = np.random.default_rng(seed)
    inputs, targets = (random.normal(size=(T, B, n)) for n in (X, Y))
    mask, resets, weights = np.ones((T, B)), np.zeros((T, B)), np.zeros((T, B))
    mask[:2, 0] = mask[3, 0] = mask[4, 1] = 0
    resets[0] = 1
    weights[-1] = random.uniform(0.5, 2, size=B)
    inputs[mask == 0] = targets[:-1] = np.nan
    return Segment(inputs, targets, mask, resets, weights)


def estimate(make, model, params, segment, key=0):
    estimator = make(model, squared_error)
    state = estimator.init(params, (B,), jax.random.key(key))
    return jit(estimator.estimate)(params, state, segment)


def read_both_ways():
    """A model without a step: a leaky sum forward, and another one backward."""

    def init(key):
        a, b, w = (jax.random.normal(k, (X, X)) for k in jax.random.split(key, 3))
        return ModelParams({"forward": a, "backward": b}, w[:, :Y])

    def initial_state(params, batch_shape):
        zeros = jnp.zeros((*batch_shape, X))
        return {"forward": zeros, "backward": zeros}

    def unroll(recurrent, state, inputs, *, mask=None, resets=None, key=None):
        assert mask is not None and resets is not None

        def read(name, reverse):
            def step(h, xs):
                x, present, reset = xs
                h = jnp.where(reset & (not reverse), 0.0, h)
                x = jnp.where(present != 0, x, 0.0)
                new = jnp.where(present != 0, jnp.tanh(x + h @ recurrent[name]), h)
                return jnp.where(reset & reverse, 0.0, new), new

            xs = inputs, mask[..., None], (resets != 0)[..., None]
            return jax.lax.scan(step, state[name], xs, reverse=reverse)

        both = {name: read(name, name == "backward") for name in state}
        return {n: x[0] for n, x in both.items()}, {n: x[1] for n, x in both.items()}

    def readout(params, state, *, key=None, time=0):
        return (state["forward"] - 2 * state["backward"]) @ params.readout

    model = make_model(make_gru(), input_size=X, hidden_size=2, output_size=Y)
    return model._replace(
        **{"init": init, "initial_state": initial_state, "step": None},
        **{"unroll": unroll, "readout": readout, "layers": None},
    )


CELLS = {"lstm": make_lstm, "gru": make_gru, "leaky_rnn": make_leaky_rnn}


@pytest.mark.parametrize(
    "name",
    [
        name if name == "lstm" else pytest.param(name, marks=pytest.mark.slow)
        for name in CELLS
    ],
)
def test_is_bptt_where_the_last_step_alone_is_scored(name, x64):
    model, params = problem(CELLS[name](), num_layers=2)
    segment = make_sequences()
    whole, state = estimate(whole_sequence, model, params, segment)
    assert_close(whole, estimate(bptt, model, params, segment)[0])
    assert int(state.num_segments) == 1
    assert whole.weight == pytest.approx(segment.weights[-1].sum())


@pytest.mark.slow
def test_noise_is_that_of_a_key_for_each_segment(x64):
    model, params = problem(make_lstm(), num_layers=2, dropout=0.5)
    segment, estimator = make_sequences(), whole_sequence(model, squared_error)
    state, run = (
        estimator.init(params, (B,), jax.random.key(0)),
        jit(estimator.estimate),
    )
    first, state = run(params, state, segment)
    second, _ = run(params, state, segment)
    exact = bptt(model, squared_error)
    for number, found in enumerate((first, second)):
        begun = exact.init(params, (B,), jax.random.key(0))
        begun = begun._replace(keys=fold_in(state.keys, number))
        assert_close(found, jit(exact.estimate)(params, begun, segment)[0])
    assert abs(first.loss - second.loss) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["step", "sqrt"])
def test_remat_changes_nothing(remat, x64):
    model, params = problem(make_lstm())
    plain = estimate(whole_sequence, model, params, make_sequences())[0]

    def make(model, loss_fn):
        return whole_sequence(model, loss_fn, remat=remat)

    assert_close(estimate(make, model, params, make_sequences())[0], plain)


def test_gradient_of_both_directions_by_differences(x64):
    model = read_both_ways()
    params = draw_like(jax.eval_shape(model.init, jax.random.key(0)), 0, 0.7)
    segment, estimator = make_sequences(), whole_sequence(model, squared_error)
    state = estimator.init(params, (B,), jax.random.key(0))
    run = jit(estimator.estimate)
    found, _ = run(params, state, segment)
    leaves, structure = jax.tree.flatten(params)
    direction = draw_like(params, 1)
    slope = sum(
        np.vdot(g, d)
        for g, d in zip(*map(jax.tree.leaves, (found.grads, direction)), strict=True)
    )
    step = 1e-6
    up, down = (
        run(
            jax.tree.map(lambda p, d, s=s: p + s * d, params, direction), state, segment
        )
        for s in (step, -step)
    )
    difference = (up[0].loss - down[0].loss) / (2 * step)
    assert slope == pytest.approx(float(difference), rel=1e-8)
    assert len(leaves) == structure.num_leaves == 3
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(found.grads))


@pytest.mark.slow
def test_resets_and_padding_before_the_first_step_have_no_effect(x64):
    model = read_both_ways()
    params = draw_like(jax.eval_shape(model.init, jax.random.key(0)), 0, 0.7)
    segment = make_sequences()
    plain, _ = estimate(whole_sequence, model, params, segment)
    for resets in (0 * segment.resets, (np.arange(T) == 2)[:, None] * [[1.0, 0.0]]):
        other = segment._replace(resets=resets)
        assert_close(estimate(whole_sequence, model, params, other)[0], plain)
    # A cut in the midst is the model's own.
    cut = segment._replace(resets=(np.arange(T) == 5)[:, None] * np.ones((1, B)))
    assert abs(estimate(whole_sequence, model, params, cut)[0].loss - plain.loss) > 1e-3
    # Padded on the right, the target stands at the last step that is there.
    right = jax.tree.map(lambda x: np.roll(x, -2, axis=0)[:, :1], segment)
    right = right._replace(resets=0 * right.mask)
    left = jax.tree.map(lambda x: x[:, :1], segment)
    estimator = whole_sequence(model, squared_error)
    state, run = (
        estimator.init(params, (1,), jax.random.key(0)),
        jit(estimator.estimate),
    )
    assert_close(run(params, state, right)[0], run(params, state, left)[0])


@pytest.mark.slow
def test_weights_by_default_are_of_sequences_that_are_there(x64):
    model, params = problem(make_gru())
    segment = make_sequences()._replace(weights=None)
    mask = segment.mask.copy()
    mask[:, 1] = 0
    filled = segment._replace(
        mask=mask, targets=np.where([[[1.0], [np.nan]]], segment.targets, np.nan)
    )
    assert estimate(whole_sequence, model, params, segment)[0].weight == B
    one, _ = estimate(whole_sequence, model, params, filled)
    assert one.weight == 1
    alone = Segment(*(x if x is None else x[:, :1] for x in segment))
    estimator = whole_sequence(model, squared_error)
    state = estimator.init(params, (1,), jax.random.key(0))
    assert_close(one, jit(estimator.estimate)(params, state, alone)[0])
    bare = Segment(np.nan_to_num(segment.inputs), segment.targets)
    assert estimate(whole_sequence, model, params, bare)[0].weight == B
    by_step = segment._replace(weights=np.arange(T) / 2.0)
    assert estimate(whole_sequence, model, params, by_step)[0].weight == B * (T - 1) / 2


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "whole_sequence"])
def test_others_refuse_a_model_without_an_online_form(name, x64):
    cell = make_leaky_rnn() if name == "rflo" else make_lstm()
    model = problem(cell)[0]._replace(step=None)
    with pytest.raises(OptionError, match=r"no online form.*use estimator whole_seq"):
        ESTIMATORS[name](model, squared_error, **OPTIONS.get(name, {}))


def test_unknown_remat_is_refused(x64):
    with pytest.raises(OptionError, match="remat: 'some' is unknown"):
        whole_sequence(problem(make_gru())[0], squared_error, remat="some")  # type: ignore[arg-type]
