"""Jacobians of steps and their products, against autodiff and matrices in NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxlstm.cells import make_gru, make_lstm, make_rnn
from jaxlstm.diagnostics import (
    fit_rate,
    forget_products,
    gate_values,
    jacobian_products,
    step_jacobians,
)
from jaxlstm.estimators import Segment
from jaxlstm.model import Model, ModelParams
from jaxlstm.shapes import OptionError
from jaxlstm.types import Array
from tests.estimators.problems import B, H, make_segment, problem
from tests.helpers import assert_close, draw_like, jit

T = 7
NOTHING = ModelParams(None, None)


def state_for(model, params):
    return draw_like(jax.eval_shape(lambda: model.initial_state(params, (B,))), 5)


def flatten(state):
    """Lays the state of one example flat, in NumPy's order of fields and layers."""
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(state)])


def jacobian_of_unroll(model, params, segment, state, n, start, stop):
    """Differentiates a stretch of steps of one example by the state before it."""

    def run(state, begin, end):
        cut = jax.tree.map(lambda x: jnp.asarray(x)[begin:end, n], segment)
        return model.unroll(
            params.recurrent, state, cut.inputs, mask=cut.mask, resets=cut.resets
        )[0]

    one = jax.tree.map(lambda x: jnp.asarray(x)[n], state)
    before = run(one, 0, start)
    _, unflatten = ravel_pytree(before)
    return jax.jacfwd(lambda s: flatten(run(unflatten(s), start, stop)))(
        flatten(before)
    )


def compare_with_unroll(make, **options):
    model, params = problem(make(), **options)
    segment, state = make_segment(), state_for(model, params)
    found = jit(lambda p, s: step_jacobians(model, p, segment, state=s))(params, state)
    expected = jit(
        lambda p, s: jnp.stack(
            [
                jnp.stack(
                    [
                        jacobian_of_unroll(model, p, segment, s, n, t, t + 1)
                        for n in range(B)
                    ]
                )
                for t in range(T)
            ]
        )
    )(params, state)
    assert_close(found, expected)
    # A masked step hands on all, a reset nothing.
    size = found.shape[-1]
    assert np.array_equal(found[1, 0], np.eye(size))
    assert not found[2, 0].any()


def test_jacobians_of_steps_are_those_of_unroll(x64):
    compare_with_unroll(make_rnn)


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_lstm, make_gru])
def test_jacobians_of_a_stack_are_those_of_unroll(x64, make):
    compare_with_unroll(make, num_layers=2)


def plain(steps=T):
    """Returns a segment without holes."""
    return Segment(np.nan_to_num(make_segment(steps=steps).inputs), None)


def test_norms_are_those_of_products_in_numpy(x64):
    model, params = problem(make_lstm(), num_layers=2)
    segment, state = plain(), state_for(model, params)

    def measure(params, state):
        lags = 1, 2, 5, T
        return (
            step_jacobians(model, params, segment, state=state),
            jacobian_products(model, params, segment, lags=lags, state=state),
            jacobian_products(model, params, segment, state=state),
        )

    jacobians, some, every = jit(measure)(params, state)
    # Fields of the two layers lie in the order h, c, h, c.
    fields = {"h": np.r_[0:H, 2 * H : 3 * H], "c": np.r_[H : 2 * H, 3 * H : 4 * H]}
    product, norms = np.eye(4 * H)[None], []
    blocks = {"h": [], "c": []}
    for jacobian in np.asarray(jacobians)[::-1]:
        product = product @ jacobian
        norms.append(np.log(np.linalg.norm(product, 2, axis=(1, 2))))
        for name, at in fields.items():
            block = product[:, at][:, :, at]
            blocks[name].append(np.log(np.linalg.norm(block, 2, axis=(1, 2))))
    assert every.lags.tolist() == list(range(1, T + 1))
    assert_close(every.log_norms, np.stack(norms))
    assert_close(every.by_field, jax.tree.map(np.stack, blocks, is_leaf=list_like))
    chosen = np.array([1, 2, 5, T]) - 1
    assert some.lags.tolist() == [1, 2, 5, T]
    assert_close(some.log_norms, every.log_norms[chosen])
    assert_close(some.by_field["c"], every.by_field["c"][chosen])


def list_like(value):
    return isinstance(value, list)


def test_reset_cuts_products_and_the_beginning_does(x64):
    model, params = problem(make_lstm())
    resets = np.zeros((T, B))
    resets[3, 0] = 1
    segment = plain()._replace(resets=resets)
    found = jit(
        lambda p: (
            jacobian_products(model, p, segment),
            forget_products(model, p, segment),
        )
    )(params)
    for log_norms in (found[0].log_norms, found[1]):
        finite = np.isfinite(np.asarray(log_norms))
        # Steps 4, 5 and 6 come after the reset; step 0 begins from nothing before.
        assert finite[:, 0].tolist() == [True] * 3 + [False] * 4
        assert finite[:, 1].tolist() == [True] * 6 + [False]


class Scalar(NamedTuple):
    value: Array


def scaling(factor: float) -> Model:
    """Returns s' = factor s + x, which no float can hold for long."""

    def initial_state(params, batch_shape):
        return Scalar(jnp.zeros((*batch_shape, 1)))

    def step(recurrent, state, x, *, key=None, time=0):
        return Scalar(factor * state.value + x)

    def unused(*args, **options):
        raise AssertionError

    return Model(unused, initial_state, step, unused, unused)


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_neither_growth_nor_decay_leaves_the_logarithms(x64, factor):
    steps = 40
    segment = Segment(np.ones((steps, 1, 1)), None)
    found = jit(
        lambda: jacobian_products(
            scaling(factor),
            NOTHING,
            segment,
            state=Scalar(jnp.zeros((1, 1))),
        )
    )()
    expected = np.arange(1, steps + 1)[:, None] * np.log(factor)
    assert abs(expected[-1, 0]) > 1800  # Beyond 1e700 and 1e-700.
    assert_close(found.log_norms, expected)
    assert list(found.by_field) == ["value"]
    rate = fit_rate(found.lags, found.log_norms[:, 0])
    assert rate is not None
    assert rate.factor == pytest.approx(factor, rel=1e-12)


def test_forget_product_is_that_of_the_gates(x64):
    model, params = problem(make_lstm(), num_layers=2)
    segment, state = make_segment(), state_for(model, params)
    segment = segment._replace(resets=None)
    gates, found = jit(
        lambda p, s: (
            gate_values(model, p, segment, state=s),
            forget_products(model, p, segment, state=s),
        )
    )(params, state)
    for n in range(B):
        product = np.ones(2 * H)
        for k in range(1, T + 1):
            if segment.mask[T - k, n]:
                values = [np.asarray(layer["forget"])[T - k, n] for layer in gates]
                product = product * np.concatenate(values)
            assert found[k - 1, n] == pytest.approx(np.log(product.mean()), rel=1e-12)


def test_cell_without_a_forget_gate_has_no_product(x64):
    model, params = problem(make_gru())
    segment = plain(steps=3)
    assert jit(lambda p: forget_products(model, p, segment))(params) is None


@pytest.mark.parametrize(
    ("lags", "message"), [((1, 8), "value is 8; use some from 1 to 7"), ((), "none")]
)
def test_lags_that_there_are_not_are_refused(x64, lags, message):
    model, params = problem(make_rnn())
    with pytest.raises(OptionError, match=f"lags: .*{message}"):
        jacobian_products(model, params, plain(), lags=lags)


def test_state_of_integers_is_refused(x64):
    counting = scaling(1.0)._replace(
        initial_state=lambda params, shape: Scalar(jnp.zeros((*shape, 1), int))
    )
    with pytest.raises(OptionError, match=r"the state's .value is int64"):
        step_jacobians(
            counting, ModelParams(None, None), Segment(np.ones((3, 1, 1)), None)
        )


def test_rate_is_that_of_polyfit():
    rng = np.random.default_rng(0)
    k = np.arange(1, 30)
    y = 0.3 - 0.2 * k + 0.1 * rng.normal(size=len(k))
    (slope, _), covariance = np.polyfit(k, y, 1, cov=True)
    y = np.append(y, -np.inf)
    rate = fit_rate(np.arange(1, 31), y)
    assert rate is not None
    assert rate.factor == pytest.approx(np.exp(slope), rel=1e-12)
    expected = np.exp(slope) * np.sqrt(covariance[0, 0])
    assert rate.error == pytest.approx(expected, rel=1e-12)
    assert fit_rate([1, 2, 3], [0.0, -1.0, -np.inf]) is None
