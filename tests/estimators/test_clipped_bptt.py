"""Clipping inside the recursion, against a backward pass by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlstm.cells import make_min_lstm
from jaxlstm.cells.base import preactivations
from jaxlstm.edges import Hooks
from jaxlstm.estimators import clipped_bptt
from jaxlstm.estimators.clipped_bptt import clip_gradient
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import (
    CELLS,
    GATED,
    carried,
    exact,
    initial,
    problem_of,
    stop_h,
)
from tests.estimators.problems import (
    B,
    T,
    X,
    loop_loss,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, jit

BOUNDS = {"z": 0.03, "h": 0.2, "c": 0.1}


def clip(tree, bound):
    limit = math.inf if bound is None else bound
    return jax.tree.map(lambda x: jnp.clip(x, -limit, limit), tree)


def add(*trees):
    return jax.tree.map(lambda *x: sum(x), *trees)


def backward_by_hand(name, params, segment, hidden, *, z=None, h=None, c=None):
    """Goes back in time by Python, over one layer, for the gradient of the cell.

    Returns the gradient of the layer's parameters, and of the learned initial state.
    """
    model, gated = problem_of(name)[0], CELLS[name][0].gated
    assert gated is not None
    inputs, targets, mask, resets, weights = segment
    (layer,), (learned,) = params.recurrent.layers, params.recurrent.initial_state
    made, from_params = jax.vjp(gated.weights, layer)
    zeros = jax.tree.map(jnp.zeros_like, made)
    total, total_start = zeros, jax.tree.map(jnp.zeros_like, learned)

    def compose(w, x, state_h, state):
        """Returns z and the next state by parts, each with its own way back."""
        value, back_z = jax.vjp(lambda w, h: preactivations(w, x, h), w, state_h)
        after, back_update = jax.vjp(gated.update, w.small, state, value)
        return after, back_z, back_update

    for n in range(B):
        state = jax.tree.map(lambda x, n=n: x[n], hidden)
        steps = []
        for t in range(T):
            state = learned if resets[t, n] else state
            if mask[t, n]:
                read, back_read = jax.vjp(gated.read, state)
                state, *back = compose(made, inputs[t, n], read, state)
                steps.append((state, back_read, *back))
            else:
                steps.append(None)

        def loss(state, n=n, t=0):
            return weights[t, n] * squared_error(
                model.readout(params, (state,)), targets[t, n]
            )

        dstate = jax.tree.map(jnp.zeros_like, learned)
        for t in reversed(range(T)):
            if steps[t] is not None:
                after, back_read, back_z, back_update = steps[t]
                if weights[t, n]:
                    scored = functools.partial(loss, n=n, t=t)
                    dstate = add(dstate, jax.grad(scored)(after))
                dsmall, direct, dz = back_update(dstate)
                dw, dh = back_z(clip(dz, z))
                total = add(total, dw._replace(small=dsmall))
                (by_h,) = back_read(clip(dh, h))
                dstate = add(by_h, clip(direct, c))
            if resets[t, n]:
                total_start = add(total_start, dstate)
                dstate = jax.tree.map(jnp.zeros_like, learned)
    return from_params(total)[0], total_start


@pytest.mark.parametrize(
    ("name", "bounded"),
    [("lstm", "zhc"), ("peephole", "zhc"), ("lstm", "z"), ("lstm", "h"), ("lstm", "c")],
)
def test_clipping_is_that_of_a_backward_pass_by_hand(name, bounded, x64):
    model, params = problem_of(name)
    bounds = {bound: BOUNDS[bound] for bound in bounded}
    estimator = clipped_bptt(model, squared_error, **bounds)
    state, segment = carried(initial(estimator, params)), make_segment()
    estimate, _ = jit(estimator.estimate)(params, state, segment)
    by_hand = jit(
        lambda p: backward_by_hand(name, p, segment, state.hidden[0], **bounds)
    )(params)
    recurrent = estimate.grads.recurrent
    assert_close((recurrent.layers[0], recurrent.initial_state[0]), by_hand)
    # Bounds are met, and the readout lies beyond them.
    whole = exact(name, first=False)
    assert_close((estimate.loss, estimate.grads.readout), (whole.loss, whole[1][1]))
    w_x, w_x_whole = (g.layers[0].w_x for g in (recurrent, whole.grads.recurrent))
    assert np.abs(w_x - w_x_whole).max() > 0.01 * np.abs(w_x_whole).max()


@pytest.mark.parametrize("name", CELLS)
def test_bounds_that_are_never_met_give_bptt(name, x64):
    model, params = problem_of(name)
    bounds = BOUNDS if name in GATED else ["h"]
    estimator = clipped_bptt(model, squared_error, **dict.fromkeys(bounds, math.inf))
    state, segment = carried(initial(estimator, params)), make_segment()
    estimate, _ = jit(estimator.estimate)(params, state, segment)
    assert_close(estimate, exact(name, first=False))


@pytest.mark.parametrize("name", GATED)
def test_bound_of_zero_by_h_is_a_loop_with_h_stopped(name, x64):
    """The identity of e-prop: no gradient by h_{t-1} in the preactivations."""
    model, params = problem_of(name)
    cell, options = CELLS[name]
    stopped, _ = problem(stop_h(cell), **options)
    estimator = clipped_bptt(model, squared_error, h=0.0)
    state, segment = carried(initial(estimator, params)), make_segment()

    def loss(params):
        return loop_loss(stopped, params, segment, state.hidden)[0]

    estimate, _ = jit(estimator.estimate)(params, state, segment)
    assert_close((estimate.loss, estimate.grads), jit(jax.value_and_grad(loss))(params))


def test_bound_of_zero_cuts_the_only_way_of_a_cell_without_gated_form(x64):
    model, params = problem_of("no_gated_form")
    estimator = clipped_bptt(model, squared_error, h=0.0)
    state, segment = initial(estimator, params), make_segment()

    def loss(params):
        def edit(state, n, t):
            return jax.lax.stop_gradient(state)

        return loop_loss(model, params, segment, edit=edit)[0]

    estimate, _ = jit(estimator.estimate)(params, state, segment)
    assert_close((estimate.loss, estimate.grads), jit(jax.value_and_grad(loss))(params))


def test_clipping_afterwards_is_another_thing(x64):
    model, params = problem_of("lstm")
    estimator = clipped_bptt(model, squared_error, z=BOUNDS["z"])
    estimate, _ = jit(estimator.estimate)(
        params, initial(estimator, params), make_segment()
    )
    inside, whole = estimate.grads.recurrent, exact("lstm").grads.recurrent
    transform = optax.clip(BOUNDS["z"])
    w_x_after, _ = transform.update(whole.layers[0].w_x, transform.init(whole))
    w_x = inside.layers[0].w_x
    assert np.abs(w_x).max() > BOUNDS["z"] >= jnp.abs(jnp.asarray(w_x_after)).max()


def test_bounds_are_those_of_each_example(x64):
    model, params = problem_of("lstm")
    estimator = clipped_bptt(model, squared_error, **BOUNDS)
    estimate = jit(estimator.estimate)
    state, segment = initial(estimator, params), make_segment()
    whole, _ = estimate(params, state, segment)
    parts = [
        estimate(
            params,
            initial(estimator, params, 1),
            jax.tree.map(lambda x, n=n: x[:, n : n + 1], segment),
        )[0]
        for n in range(B)
    ]
    assert_close(add(*parts), whole)


@pytest.mark.parametrize("remat", ["step", "sqrt"])
def test_remat_changes_nothing(remat, x64):
    model, params = problem_of("lstm")
    results = []
    for name in ("none", remat):
        estimator = clipped_bptt(model, squared_error, **BOUNDS, remat=name)
        state = initial(estimator, params)
        results.append(jit(estimator.estimate)(params, state, make_segment())[0])
    assert_close(*results)


def test_forward_mode_is_refused_by_jax(x64):
    model, params = problem_of("lstm")
    hooks = Hooks(z=functools.partial(clip_gradient, bound=1.0))
    start, inputs = model.initial_state(params, (B,)), np.ones((T, B, X))

    def states(recurrent):
        return model.unroll(recurrent, start, inputs, edges=hooks)[1]

    with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
        jax.jvp(states, (params.recurrent,), (params.recurrent,))


def test_bounds_are_refused_by_name(x64):
    model, _ = problem_of("lstm")
    with pytest.raises(OptionError, match="z, h, c: none is given; give one, or use"):
        clipped_bptt(model, squared_error)
    for bound in (-1.0, math.nan):
        with pytest.raises(OptionError, match=f"c: {bound} is not a bound; use 0 or"):
            clipped_bptt(model, squared_error, z=1.0, c=bound)


def test_model_of_another_engine_is_refused_when_the_estimator_is_made(x64):
    model, _ = problem(make_min_lstm(), engine="parallel")
    with pytest.raises(OptionError, match='engine: the model\'s is "parallel"'):
        clipped_bptt(model, squared_error, c=1.0)


@pytest.mark.parametrize("name", ["z", "c"])
def test_cell_without_gated_form_has_one_bound(name, x64):
    model, _ = problem_of("no_gated_form")
    with pytest.raises(
        OptionError, match=f"{name}: the model's cell has no gated .* h"
    ):
        clipped_bptt(model, squared_error, **{name: 1.0})
