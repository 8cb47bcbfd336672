"""Backpropagation through time, against a loop by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.estimators import Segment, bptt, score
from tests.estimators.problems import (
    B,
    H,
    T,
    cut,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, draw_like, jit


@functools.cache
def bptt_problem():
    return problem(make_lstm())


@functools.cache
def compiled_estimate(remat="none"):
    return jit(bptt(bptt_problem()[0], squared_error, remat=remat).estimate)


def first_state(batch_size=B):
    model, params = bptt_problem()
    init = bptt(model, squared_error).init
    return init(params, (batch_size,), jax.random.key(0))


def later_state(seed=3):
    """A state after some segment, with a hidden state away from zero."""
    state = first_state()
    return state._replace(
        hidden=draw_like(state.hidden, seed), num_steps=jnp.asarray(4, jnp.int32)
    )


def loss_by_hand(params, start, segment):
    """Sums weight times loss, example by example and step by step.

    Control flow is Python's: what is masked is not computed, and what has no weight
    is not compared.
    """
    recurrent, (w, b) = params
    (layer,), (learned,) = recurrent.layers, recurrent.initial_state
    inputs, targets, mask, resets, weights = segment
    total, lasts = 0.0, []
    for n in range(B):
        h, c = (learned.h, learned.c) if start is None else (start.h[n], start.c[n])
        for t in range(len(inputs)):
            if resets[t, n]:
                h, c = learned.h, learned.c
            if not mask[t, n]:
                continue
            z = inputs[t, n] @ layer.w_x + h @ layer.w_h + layer.b
            i, f, g, o = (z[k * H : (k + 1) * H] for k in range(4))
            i, f, o = (1 / (1 + jnp.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * jnp.tanh(g)
            h = o * jnp.tanh(c)
            if weights[t, n]:
                error = h @ w + b - targets[t, n]
                total = total + weights[t, n] * jnp.sum(error**2)
        lasts.append((h, c))
    return total, jax.tree.map(lambda *x: jnp.stack(x), *lasts)


@functools.cache
def expected(*, first: bool):
    params, segment = bptt_problem()[1], make_segment()
    (start,) = (None,) if first else later_state().hidden
    by_hand = jax.value_and_grad(loss_by_hand, has_aux=True)
    (loss, last), grads = jit(lambda p: by_hand(p, start, segment))(params)
    return loss, grads, np.sum(segment.mask * segment.weights), last


@pytest.mark.parametrize("remat", ["none", "step", "sqrt", "sqrt_step"])
def test_bptt_is_the_gradient_of_a_loop(remat, x64):
    params = bptt_problem()[1]
    state = later_state()
    estimate, after = compiled_estimate(remat)(params, state, make_segment())
    loss, grads, weight, last = expected(first=False)
    assert_close(estimate.grads, grads)
    assert_close((estimate.loss, *after.hidden[0]), (loss, *last))
    np.testing.assert_allclose(estimate.weight, weight, rtol=1e-14)
    assert after.num_steps == 4 + T


def test_first_segment_starts_from_the_learned_state(x64):
    params = bptt_problem()[1]
    # What stands in the first state was made of other parameters, and is passed over.
    stale = first_state()._replace(hidden=later_state().hidden)
    estimate, after = compiled_estimate()(params, stale, make_segment())
    loss, grads, _, last = expected(first=True)
    assert_close(estimate.grads, grads)
    assert_close((estimate.loss, *after.hidden[0]), (loss, *last))


def test_only_the_first_segment_reaches_the_learned_state(x64):
    params = bptt_problem()[1]
    segment = make_segment()
    segment = segment._replace(resets=0 * segment.resets)
    first, state = compiled_estimate()(params, first_state(), segment)
    later, _ = compiled_estimate()(params, state, segment)
    for leaf in jax.tree.leaves(first.grads.recurrent.initial_state):
        assert np.all(leaf != 0)
    for leaf in jax.tree.leaves(later.grads.recurrent.initial_state):
        assert not np.any(leaf)


def test_estimates_of_parts_of_a_batch_add_up(x64):
    params, segment = bptt_problem()[1], make_segment()
    whole, _ = compiled_estimate()(params, first_state(), segment)
    parts = [
        compiled_estimate()(
            params,
            first_state(1),
            jax.tree.map(lambda x, n=n: x[:, n : n + 1], segment),
        )[0]
        for n in range(B)
    ]
    assert_close(jax.tree.map(jnp.add, *parts), whole)


def test_losses_of_segments_add_up_and_gradients_do_not(x64):
    params, segment = bptt_problem()[1], make_segment()
    whole, last = compiled_estimate()(params, first_state(), segment)
    state, parts = first_state(), []
    for start, stop in ((0, 1), (1, 4), (4, T)):
        part, state = compiled_estimate()(params, state, cut(segment, start, stop))
        parts.append(part)
    total = jax.tree.map(lambda *x: sum(x), *parts)
    assert_close((total.loss, total.weight), (whole.loss, whole.weight))
    assert_close(state.hidden, last.hidden)
    w_h, w_h_whole = (e.grads.recurrent.layers[0].w_h for e in (total, whole))
    assert np.abs(w_h - w_h_whole).max() > 0.01 * np.abs(w_h_whole).max()
    assert not bptt(bptt_problem()[0], squared_error).traits.segment_invariant


@pytest.mark.parametrize("axes", [(T, B), (T,)])
def test_masked_segment_gives_zeros(axes, x64):
    params, segment, state = bptt_problem()[1], make_segment(), later_state()
    segment = segment._replace(
        inputs=np.full_like(segment.inputs, np.nan),
        targets=np.full_like(segment.targets, np.nan),
        mask=np.zeros(axes),
        resets=np.zeros((T, B)),
    )
    estimate, after = compiled_estimate()(params, state, segment)
    for leaf in jax.tree.leaves(estimate):
        assert not np.any(leaf)
    chex.assert_trees_all_equal(after.hidden, state.hidden)


@pytest.mark.parametrize("mask_axes", [(T, B), (T,), None])
@pytest.mark.parametrize("weights_axes", [(T, B), (T,), None])
def test_mask_and_weights_broadcast_from_the_left(mask_axes, weights_axes, x64):
    steps = B  # Axes of one size do not say by themselves which is which.
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(steps, B))

    def first_of(axes, values):
        if axes is None:
            return None
        return values if axes == (T, B) else values[:, 0]

    mask = first_of(mask_axes, np.array([[1.0, 0.0], [0.0, 1.0]]))
    weights = first_of(weights_axes, rng.uniform(1, 2, size=(steps, B)))

    def spread(value):
        if value is None:
            return np.ones((steps, B))
        return np.stack([value] * B, axis=1) if value.ndim == 1 else value

    segment = Segment(None, np.zeros((steps, B)), mask=mask, weights=weights)
    _, actual = score(lambda p, y: p - y, losses, segment)
    np.testing.assert_array_equal(actual, spread(mask) * spread(weights))


def test_segment_without_controls_has_weight_one(x64):
    params, segment = bptt_problem()[1], make_segment()
    plain = Segment(np.nan_to_num(segment.inputs), np.nan_to_num(segment.targets))
    ones = np.ones((T, B))
    full = Segment(plain.inputs, plain.targets, ones, 0 * ones, ones)
    (bare, after_bare), (ones, after_ones) = (
        compiled_estimate()(params, later_state(), s) for s in (plain, full)
    )
    assert_close((bare, after_bare.hidden), (ones, after_ones.hidden))


def test_remat_is_refused_by_name():
    with pytest.raises(ValueError, match="remat: 'all' is unknown; use one of 'none'"):
        bptt(bptt_problem()[0], squared_error, remat="all")  # type: ignore[arg-type]
