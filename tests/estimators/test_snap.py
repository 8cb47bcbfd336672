"""SnAp: the pattern by structure, the definition, and where it is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_gru, make_lstm
from jaxlstm.estimators import Traits, eprop, rtrl, snap
from jaxlstm.estimators.columns import find_pattern
from jaxlstm.estimators.dense import dense
from jaxlstm.estimators.traces import online
from tests.estimators.patterns import exact, initial, masked_cell, problem_of
from tests.estimators.problems import (
    B,
    H,
    T,
    X,
    make_segment,
    problem,
    squared_error,
)
from tests.helpers import assert_close, jit
from tests.toy_cells import TOY_CELLS

ONLINE = Traits(kind="biased", segment_invariant=True, online=True)


def masked_lstm(mask):
    return masked_cell(make_lstm(), mask)


def connections(size, density, seed=0):
    """Draws which units reach which, by all four gates alike; [H, 4H]."""
    reach = np.random.default_rng(seed).random((size, size)) < density
    return np.tile(reach, 4)


def gradient(estimator, params, segment=None):
    segment = make_segment() if segment is None else segment
    state = initial(estimator, params)
    return jit(estimator.estimate)(params, state, segment)[0].grads


def distance(actual, expected):
    """Returns the largest relative error over the layers' weights."""
    pairs = zip(*map(jax.tree.leaves, (actual, expected)), strict=True)
    return max(np.abs(a - e).max() / np.abs(e).max() for a, e in pairs)


def by_definition(model, params, mask, segment=None):
    """Returns the gradient with M = S o (J M + I), S as leaves [2H, *shape]."""
    trace = dense(model, lambda step: mask)
    return gradient(online(model, squared_error, trace, traits=ONLINE), params, segment)


def unit_mask(params, *, entries):
    """Returns S_1 of an LSTM by hand: h and c of a weight's own unit; not c for o."""
    own = np.concatenate([np.tile(np.eye(H), 4)] * 2)
    if entries:
        own[H:, 3 * H :] = 0
    start = np.eye(2 * H) if entries else np.tile(np.eye(H), (2, 2))

    def leaf(path, x):
        if "initial_state" in jax.tree_util.keystr(path):
            part = slice(0, H) if path[-1].name == "h" else slice(H, 2 * H)
            return jnp.asarray(start[:, part])
        rows = own if x.ndim == 1 else own[:, None]
        return jnp.asarray(np.broadcast_to(rows, (2 * H, *x.shape)))

    return jax.tree_util.tree_map_with_path(leaf, params.recurrent)


@pytest.mark.parametrize("level", ["entry", "unit"])
def test_one_step_by_the_definition(level, x64):
    model, params = problem_of("lstm")
    estimator = snap(model, squared_error, level=level)
    mask = unit_mask(params, entries=level == "entry")
    assert_close(gradient(estimator, params), by_definition(model, params, mask))


def test_one_step_without_a_gated_form_and_with_one_hot_inputs(x64):
    """The pattern is that of all symbols, also of those that are not there."""
    model, params = problem(make_lstm()._replace(gated=None))
    segment = make_segment()
    symbols = np.random.default_rng(0).integers(0, X, size=(T, B))
    segment = segment._replace(inputs=np.eye(X)[symbols])
    mask = unit_mask(params, entries=True)
    assert_close(
        gradient(snap(model, squared_error), params, segment),
        by_definition(model, params, mask, segment),
    )


def test_pattern_of_an_lstm(x64):
    """S_1 holds 7 / (8 H) of all entries, S_2 all of them."""
    pattern = find_pattern(problem(make_lstm(), learned_initial_state=False)[0])
    (first,) = pattern.by_z
    assert first.mean() == 7 / (8 * H)
    assert np.all(pattern.jacobian @ first | first)
    # By h of any unit, and by c of the same one.
    dense, own = np.ones((2 * H, H)), np.concatenate([np.eye(H)] * 2)
    np.testing.assert_array_equal(
        pattern.jacobian, np.concatenate([dense, own], axis=1)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "two_layers", "no_gated_form"])
def test_many_steps_are_rtrl(name, x64):
    model, params = problem_of(name)
    estimator = snap(model, squared_error, n=4)
    assert_close(gradient(estimator, params), exact(name).grads)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["entry", "unit"])
def test_columns_and_the_masked_whole_agree(level, x64):
    """The same cell, by its gates and without them, in two layers."""
    cell = masked_lstm(connections(H, 0.4))
    options = {"num_layers": 2}
    model, params = problem(cell, **options)
    plain, _ = problem(cell._replace(gated=None), **options)
    for n in (1, 2):
        by_column, by_mask = (
            gradient(snap(m, squared_error, n=n, level=level), params)
            for m in (model, plain)
        )
        assert_close(by_column, by_mask)


@pytest.mark.slow
def test_sparse_recurrent_weights(x64):
    """The error falls with n, to nothing once all ways are followed."""
    size = 8
    cell = masked_lstm(connections(size, 0.15))
    model, params = problem(cell, hidden_size=size, learned_initial_state=False)
    estimators = [snap(model, squared_error, n=n) for n in (1, 2, 5)]
    one, two, five = (gradient(e, params).recurrent.layers for e in estimators)
    expected = gradient(rtrl(model, squared_error), params)
    whole = gradient(snap(model, squared_error, n=size + 1), params)
    assert_close(whole, expected)
    errors = [distance(g, expected.recurrent.layers) for g in (one, two, five)]
    assert errors[0] > 10 * errors[1] > 1e3 * errors[2]


@pytest.mark.slow
def test_zero_diagonal_is_eprop(x64):
    """No unit reaches itself through h W_h, so that only its memory is followed."""
    cell = masked_lstm(np.tile(1 - np.eye(H), 4))
    model, params = problem(cell, learned_initial_state=False)
    assert_close(
        gradient(snap(model, squared_error, level="unit"), params),
        gradient(eprop(model, squared_error), params),
    )
    assert_close(
        gradient(snap(model, squared_error), params),
        gradient(eprop(model, squared_error), params),
    )


def test_diagonal_recurrence_is_exact_by_units_alone(x64):
    """An output gate's weight reaches the memory at its second step only."""
    cell = masked_lstm(np.tile(np.eye(H), 4))
    model, params = problem(cell)
    expected = by_definition(
        model,
        params,
        jax.tree.map(lambda x: jnp.ones((2 * H, *x.shape)), params.recurrent),
    )
    units = gradient(snap(model, squared_error, level="unit"), params)
    entries = gradient(snap(model, squared_error), params)
    assert_close(units, expected)
    assert distance(entries.recurrent.layers, expected.recurrent.layers) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no_gated_form", "lstm"])
def test_one_hot_inputs_change_no_pattern(name, x64):
    """Masks from values would leave out the rows of absent symbols for good."""
    model, params = problem_of(name)
    segment = make_segment()
    symbols = np.random.default_rng(0).integers(0, X, size=(T, B))
    segment = segment._replace(inputs=np.eye(X)[symbols])
    assert_close(
        gradient(snap(model, squared_error, n=5), params, segment),
        by_definition(
            model,
            params,
            jax.tree.map(lambda x: jnp.ones((2 * H, *x.shape)), params.recurrent),
            segment,
        ),
    )


@pytest.mark.slow
def test_embedding(x64):
    model, params = problem(make_gru(), inputs="embedding", num_layers=2)
    symbols = np.random.default_rng(0).integers(0, X, size=(T, B))
    segment = make_segment()._replace(inputs=symbols)
    everything = jax.tree.map(lambda x: jnp.ones((2 * H, *x.shape)), params.recurrent)
    assert_close(
        gradient(snap(model, squared_error, n=3), params, segment),
        by_definition(model, params, everything, segment),
    )


def test_refusals(x64):
    model, _ = problem_of("lstm")
    with pytest.raises(ValueError, match="n: 0 is not 1 or more"):
        snap(model, squared_error, n=0)
    with pytest.raises(ValueError, match="level: 'units' is unknown; use one of"):
        snap(model, squared_error, level="units")  # type: ignore[arg-type]
    cell = TOY_CELLS["peephole"]._replace(gated=None)
    model, params = problem(cell, inputs="one_hot")
    estimator = snap(model, squared_error)
    symbols = np.zeros((T, B), int)
    with pytest.raises(ValueError, match="snap: the pattern of a model without gated"):
        gradient(estimator, params, make_segment()._replace(inputs=symbols))
