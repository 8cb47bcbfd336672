"""Real-time recurrent learning: equal to backpropagation over everything seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_gru, make_lstm
from jaxlstm.cells.base import gated_step
from jaxlstm.cells.lstm import LSTM_GATED
from jaxlstm.estimators import Segment, bptt, rtrl
from jaxlstm.estimators.units import find_units
from tests.estimators.patterns import (
    CELLS,
    exact,
    initial,
    masked_cell,
    problem_of,
)
from tests.estimators.problems import (
    B,
    H,
    T,
    X,
    Y,
    cut,
    loop_loss,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, jit
from tests.toy_cells import TOY_CELLS

OTHERS = [name for name in CELLS if name not in ("lstm", "two_layers")]
NORMALISED = TOY_CELLS["normalised"]
WITHOUT_RECURRENCE = TOY_CELLS["without_recurrence"]


DIAGONAL = masked_cell(make_lstm(), np.tile(np.eye(H), 4))


@pytest.mark.parametrize(
    "name",
    ["lstm", "two_layers"] + [pytest.param(n, marks=pytest.mark.slow) for n in OTHERS],
)
def test_equals_bptt(name, x64):
    model, params = problem_of(name)
    estimator = rtrl(model, squared_error)
    state = initial(estimator, params)
    estimate, _ = jit(estimator.estimate)(params, state, make_segment())
    assert_close(estimate, exact(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "num_layers"),
    [(NORMALISED, 1), (WITHOUT_RECURRENCE, 2), (DIAGONAL, 1), (make_gru(), 3)],
)
def test_equals_bptt_for_cells_of_other_structure(cell, num_layers, x64):
    model, params = problem(cell, num_layers=num_layers)
    compare_with_bptt(model, params, make_segment())


def compare_with_bptt(model, params, segment):
    exact, online = bptt(model, squared_error), rtrl(model, squared_error)
    expected, after = jit(exact.estimate)(params, initial(exact, params), segment)
    actual, state = jit(online.estimate)(params, initial(online, params), segment)
    assert_close(actual, expected)
    assert_close(state.hidden, after.hidden)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["embedding", "one_hot"])
def test_symbols(inputs, x64):
    model, params = problem(make_gru(), num_layers=2, inputs=inputs)
    symbols = np.random.default_rng(0).integers(0, X, size=(T, B))
    compare_with_bptt(model, params, make_segment()._replace(inputs=symbols))


@pytest.mark.slow
def test_tied_weights_get_both_gradients(x64):
    options = {"input_size": X, "output_size": X, "inputs": "embedding", "tied": True}
    model, params = problem(make_lstm(), **options)
    rng = np.random.default_rng(0)
    inputs, targets = rng.integers(0, X, (T, B)), rng.normal(size=(T, B, X))
    segment = make_segment()._replace(inputs=inputs, targets=targets)
    compare_with_bptt(model, params, segment)


def test_the_cheap_form_of_diagonal_recurrence_is_taken(x64):
    model, params = problem(DIAGONAL)
    units = find_units(model)
    assert units is not None and units.diagonal
    state = compare_with_bptt(model, params, make_segment())
    size = sum(leaf.size for leaf in jax.tree.leaves(state.influence))
    weights = 4 * H * (X + H + 1)
    # Two fields for each weight and example, and the learned first state as a whole.
    assert size == B * (2 * weights + (2 * H) ** 2)
    dense = find_units(problem_of("lstm")[0])
    assert dense is not None and not dense.diagonal


@pytest.mark.slow
def test_a_stack_is_diagonal_only_if_all_layers_are(x64):
    def weights(params):
        made = LSTM_GATED.weights(params)
        diagonal = np.tile(np.eye(H), 4) if made.w_x.shape[0] == X else 1
        return made._replace(w_h=made.w_h * diagonal)

    gated = LSTM_GATED._replace(weights=weights)
    cell = make_lstm()._replace(gated=gated, step=gated_step(gated))
    model, params = problem(cell, num_layers=2)
    units = find_units(model)
    assert units is not None and not units.diagonal
    compare_with_bptt(model, params, make_segment())


def layer_of(grads, n):
    return grads.recurrent.layers[n], grads.recurrent.initial_state[n]


def test_layerwise(x64):
    """Exact above; below, the gradient with what upper layers remember held fixed."""
    model, params = problem_of("two_layers")
    estimator, segment = rtrl(model, squared_error, layerwise=True), make_segment()
    assert estimator.traits.kind == "biased"
    actual, _ = jit(estimator.estimate)(params, initial(estimator, params), segment)

    def fixed_above(state, n, t):
        return state[0], jax.lax.stop_gradient(state[1])

    def loss(params):
        return loop_loss(model, params, segment, edit=fixed_above)[0]

    below, above = jit(jax.grad(loss))(params), exact("two_layers").grads
    for n, expected in enumerate((below, above)):
        for actual_part, part in zip(
            layer_of(actual.grads, n), layer_of(expected, n), strict=True
        ):
            assert_close(actual_part, part)
    assert_close(actual.grads.readout, above.readout)
    w_h, w_h_exact = (g.recurrent.layers[0].w_h for g in (actual.grads, above))
    assert np.abs(w_h - w_h_exact).max() > 0.01 * np.abs(w_h_exact).max()


@pytest.mark.slow
def test_layerwise_is_exact_for_one_layer(x64):
    model, params = problem_of("gru")
    estimator = rtrl(model, squared_error, layerwise=True)
    assert estimator.traits.kind == "exact"
    state = initial(estimator, params)
    assert_close(
        jit(estimator.estimate)(params, state, make_segment())[0], exact("gru")
    )


def test_episodes_of_reinforcement_learning(x64):
    """With resets, the sum over episodes of backpropagation through each by itself."""
    model, params = problem_of("lstm")
    rng = np.random.default_rng(0)
    steps, starts = 12, [[0, 5, 6], [0, 3, 9]]
    inputs = rng.normal(size=(steps, B, X))
    targets = rng.normal(size=(steps, B, Y))
    resets = np.zeros((steps, B))
    for n, firsts in enumerate(starts):
        resets[firsts, n] = 1
    online, exact = rtrl(model, squared_error), bptt(model, squared_error)

    # Episodes go over the borders of segments.
    state, parts = initial(online, params), []
    estimate_fn = jit(online.estimate)
    for start in range(0, steps, 4):
        part = Segment(
            *(x[start : start + 4] for x in (inputs, targets)),
            resets=resets[start : start + 4],
        )
        estimate, state = estimate_fn(params, state, part)
        parts.append(estimate)
    actual = jax.tree.map(lambda *x: sum(x), *parts)

    episodes = []
    for n, firsts in enumerate(starts):
        for first, last in zip(firsts, [*firsts[1:], steps], strict=True):
            episode = Segment(*(x[first:last, n : n + 1] for x in (inputs, targets)))
            fresh = initial(exact, params, 1)
            episodes.append(jit(exact.estimate)(params, fresh, episode)[0])
    assert_close(actual, jax.tree.map(lambda *x: sum(x), *episodes))


def test_influence_goes_on_over_segments(x64):
    """Unlike `bptt`, which cuts the gradient between them."""
    model, params = problem_of("lstm")
    estimator, segment = rtrl(model, squared_error), make_segment()
    state = initial(estimator, params)
    first, state = jit(estimator.estimate)(params, state, cut(segment, 0, 3))
    second, _ = jit(estimator.estimate)(params, state, cut(segment, 3, T))
    assert_close(jax.tree.map(jnp.add, first, second), exact("lstm"))


@pytest.mark.slow
def test_float32_over_a_thousand_steps():
    model, params = problem(make_lstm(), dtype=jnp.float32)
    params = jax.tree.map(np.float32, params)
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(1000, B, X)), rng.normal(size=(1000, B, Y))
    segment = Segment(np.float32(inputs), np.float32(targets))
    exact, online = bptt(model, squared_error), rtrl(model, squared_error)
    expected, _ = jit(exact.estimate)(params, initial(exact, params), segment)
    actual, _ = jit(online.estimate)(params, initial(online, params), segment)
    # Both add 2,000 terms with a rounding of 6e-8 each, in another order.
    assert_close(actual.grads, expected.grads, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(), (2, 2)])
def test_any_batch_axes(axes, x64):
    model, params = problem_of("gru")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3, *axes, X))
    segment = Segment(inputs, rng.normal(size=(3, *axes, Y)))
    exact, online = bptt(model, squared_error), rtrl(model, squared_error)
    key = jax.random.key(0)
    assert_close(
        jit(online.estimate)(params, online.init(params, axes, key), segment)[0],
        jit(exact.estimate)(params, exact.init(params, axes, key), segment)[0],
    )


def test_refusals(x64):
    model, _ = problem(NORMALISED, num_layers=2)
    with pytest.raises(ValueError, match="layerwise: needs layers of a gated cell"):
        rtrl(model, squared_error, layerwise=True)
    with pytest.raises(ValueError, match="the model has no online form"):
        rtrl(problem_of("lstm")[0]._replace(step=None), squared_error)

    def counted(recurrent, state, x, **options):
        return state

    model, params = problem_of("lstm")
    counter = model._replace(
        step=counted,
        layers=None,
        initial_state=lambda params, shape: {"count": jnp.zeros(shape, int)},
    )
    with pytest.raises(ValueError, match=r"the state's \['count'\] is int"):
        rtrl(counter, squared_error).init(params, (B,), jax.random.key(0))
