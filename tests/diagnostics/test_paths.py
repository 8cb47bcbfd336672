"""Gradients by their ways: against all ways one by one, and what identities hold."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_lstm
from jaxlstm.cells.base import num_columns, overlap
from jaxlstm.diagnostics import advise, lag_gradients, parameter_blocks, path_gradients
from jaxlstm.estimators import Segment, bptt, h_detach
from jaxlstm.model import Model
from jaxlstm.shapes import OptionError
from tests.estimators.patterns import (
    CELLS,
    GATED,
    carried,
    exact,
    initial,
    problem_of,
)
from tests.estimators.problems import B, X, Y, make_segment, problem, squared_error
from tests.helpers import assert_close, jit
from tests.toy_cells import TOY_CELLS

pytestmark = pytest.mark.usefixtures("x64")

STEPS = 4
GATES = {
    "lstm": ["input", "forget", "candidate", "output"],
    "two_layers": ["input", "forget", "candidate", "output"],
    "gru": ["reset", "update", "candidate by h"],
    "rnn": ["candidate"],
    "peephole": ["preactivation"],
}


def resolve(model, params, segment, **options):
    def run(params):
        paths = path_gradients(model, squared_error, params, segment, **options)
        lags = lag_gradients(model, squared_error, params, segment, **options)
        return paths, lags

    return jax.device_get(jit(run)(params))


@functools.cache
def resolved(name):
    return resolve(*problem_of(name), make_segment())


def slow_but(*quick):
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.slow)
        for name in CELLS
    ]


@pytest.mark.parametrize("name", slow_but("lstm"))
def test_routes_add_up_to_the_exact_gradient(name):
    paths, lags = resolved(name)
    assert_close(paths.total, exact(name).grads)
    assert abs(float(paths.shares.sum()) - 1) < 1e-12
    by_lag = paths.by_route_and_lag.sum(axis=0)
    assert not np.any(by_lag[-1])
    np.testing.assert_allclose(by_lag[:-1], advise(lags).lag_shares, atol=1e-12)


@pytest.mark.parametrize("name", slow_but("lstm"))
def test_shares_are_those_of_the_parts(name):
    """By route and block, from gradients alone."""
    paths, _ = resolved(name)
    blocks = parameter_blocks(problem_of(name)[0])
    assert paths.blocks == tuple(blocks)
    square = sum(np.sum(x**2) for x in jax.tree.leaves(paths.total))
    for n, masks in enumerate(blocks.values()):
        products = jax.tree.map(
            lambda x, g, m: np.sum((x * g[None] * m[None]).reshape(len(x), -1), axis=1),
            paths.grads,
            paths.total,
            masks,
        )
        expected = sum(jax.tree.leaves(products)) / square
        actual = paths.by_route_and_block[:, n]
        np.testing.assert_allclose(actual, expected, atol=1e-12)
    sums = list(paths.by_route.values())
    np.testing.assert_allclose(sums, paths.shares.sum((1, 2)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", GATED)
def test_without_h_is_what_h_detach_leaves(name):
    model, params = problem_of(name)
    member = h_detach(model, squared_error, p=1.0)
    state = initial(member, params)
    expected = jit(member.estimate)(params, state, make_segment())[0].grads
    paths, _ = resolved(name)
    assert paths.routes[:2] == ("same step", "state alone")
    assert_close(jax.tree.map(lambda x: x[:2].sum(axis=0), paths.grads), expected)


@pytest.mark.slow
def test_cell_without_gated_form_has_two_routes():
    """Beyond the same step, where an initial state stands too, it is all one."""
    paths, lags = resolved("no_gated_form")
    assert paths.routes == ("same step", "through h")
    same = jax.tree.map(lambda x: x[0], paths.grads)
    assert_close(
        (same.recurrent.layers, same.readout),
        jax.tree.map(lambda x: x[0], (lags.grads.recurrent.layers, lags.grads.readout)),
    )
    assert not any(np.any(x) for x in jax.tree.leaves(same.recurrent.initial_state))


def draw_segment() -> Any:
    """Draws one whole sequence, and one with a hole whose masked step has a reset."""
    rng = np.random.default_rng(0)
    mask, resets = np.ones((STEPS, B)), np.zeros((STEPS, B))
    mask[1, 1], resets[1, 1] = 0, 1
    inputs, targets = (rng.normal(size=(STEPS, B, n)) for n in (X, Y))
    inputs[mask == 0] = targets[mask == 0] = np.nan
    return Segment(inputs, targets, mask, resets, rng.uniform(0.5, 2, (STEPS, B)))


def mix(value, factor):
    """Scales the gradient alone."""
    return jax.tree.map(
        lambda x: factor * x + (1 - factor) * jax.lax.stop_gradient(x), value
    )


def losses_one_way(model, gates, params, factors, segment, n):
    """Returns the losses [T] of an example, with a factor on each way into each step.

    Args:
      model: its cell has a gated form.
      gates: the names of those that h reaches.
      params: of each step, leaves [T, ...]; an initial state is that of the step which
        starts from it.
      factors: [T, 1 + gates], first on the state's own way.
      segment: NumPy arrays.
      n: the number of the example.
    """
    gated, losses, state = model.layers.cell.gated, [], None
    for t in range(STEPS):
        here = jax.tree.map(lambda x, t=t: x[t], params)
        if state is None or segment.resets[t, n]:
            state = here.recurrent.initial_state
        if not segment.mask[t, n]:
            losses.append(0.0)
            continue
        x, new = segment.inputs[t, n], []
        for layer, old in zip(here.recurrent.layers, state, strict=True):
            weights = gated.weights(layer)
            columns = num_columns(weights)
            width = columns // len(gated.gates)
            z = overlap(x @ weights.w_x, 0 * weights.w_h[0], columns)
            z = z if weights.b is None else z + weights.b
            for k, gate in enumerate(gated.gates):
                if gate.name in gates:
                    h = mix(gated.read(old), factors[t, 1 + gates.index(gate.name)])
                    z_h = overlap(0 * weights.w_x[0], h @ weights.w_h, columns)
                    z = z + z_h * (np.arange(columns) // width == k)
            new.append(gated.update(weights.small, mix(old, factors[t, 0]), z))
            x = model.layers.cell.output(new[-1])
        state = tuple(new)
        error = squared_error(model.readout(here, state), segment.targets[t, n])
        losses.append(segment.weights[t, n] * error)
    return jnp.stack(losses)


def weigh_ways(patterns, num_ways, present, *, into_first):
    """Returns what a gradient by a pattern counts, [patterns, t, s, routes, lags].

    From a loss at t to the weights of s, the ways into s+1, ..., t count, and to a
    state put before s those into s too. The others are free, and are divided out.

    Args:
      patterns: [patterns, T] the number of the way into each step, 0 for the own.
      num_ways: how many there are.
      present: [T] whether a step is there.
      into_first: whether the way into s counts.
    """
    weights = np.zeros((len(patterns), STEPS, STEPS, 1 + num_ways, STEPS))
    for p, pattern in enumerate(patterns):
        for t, s in itertools.product(range(STEPS), repeat=2):
            used = [k for k in range(s + 1 - into_first, t + 1) if present[k]]
            by_h = [pattern[k] for k in used if pattern[k]]
            route = 1 + by_h[0] if by_h else int(bool(used))
            if s <= t:
                weights[p, t, s, route, t - s] = num_ways ** (len(used) - STEPS)
    return weights


def enumerate_ways(name):
    """Returns the gradient as a sum over all ways, leaves [routes, lags, ...]."""
    model, params = problem_of(name)
    segment, gates = draw_segment(), GATES[name]
    num_ways = 1 + len(gates)
    patterns = np.array(list(itertools.product(range(num_ways), repeat=STEPS)))
    copies = jax.tree.map(lambda x: np.stack([x] * STEPS), params)
    parts = []
    for n in range(B):

        def losses(copies, factors, n=n):
            return losses_one_way(model, gates, copies, factors, segment, n)

        def gather(tree, n=n, **options):
            weights = weigh_ways(patterns, num_ways, segment.mask[:, n], **options)
            return jax.tree.map(
                lambda x: np.einsum("pts...,ptsrk->rk...", x, weights), tree
            )

        by_pattern = jit(jax.vmap(jax.jacrev(losses), in_axes=(None, 0)))(
            copies, np.eye(num_ways)[patterns]
        )
        start = by_pattern.recurrent.initial_state
        part = gather(by_pattern, into_first=False)
        start = gather(start, into_first=True)
        parts.append(
            part._replace(recurrent=part.recurrent._replace(initial_state=start))
        )
    return jax.tree.map(lambda *x: sum(x), *parts)


@pytest.mark.parametrize(
    "name",
    [
        "rnn",
        *(pytest.param(x, marks=pytest.mark.slow) for x in GATED if x != "rnn"),
    ],
)
def test_routes_are_sums_over_all_ways(name):
    model, params = problem_of(name)
    paths, _ = resolve(model, params, draw_segment())
    expected = enumerate_ways(name)
    names = ["same step", "state alone", *(f"through h: {g}" for g in GATES[name])]
    assert list(paths.routes) == names
    assert_close(paths.grads, jax.tree.map(lambda x: x.sum(axis=1), expected))
    square = sum(np.sum(x**2) for x in jax.tree.leaves(paths.total))
    for n, masks in enumerate(parameter_blocks(model).values()):
        products = jax.tree.map(
            lambda x, g, m: (x * (g * m)[None, None]).reshape(*x.shape[:2], -1).sum(-1),
            expected,
            paths.total,
            masks,
        )
        shares = sum(jax.tree.leaves(products)) / square
        np.testing.assert_allclose(paths.shares[:, :-1, n], shares, atol=1e-12)


@pytest.mark.slow
def test_what_is_beyond_is_kept_together():
    whole, _ = resolved("two_layers")
    model, params = problem_of("two_layers")
    paths, _ = resolve(model, params, make_segment(), num_lags=2)
    np.testing.assert_allclose(paths.shares[:, :2], whole.shares[:, :2], atol=1e-12)
    beyond = whole.shares[:, 2:].sum(axis=1)
    assert np.abs(beyond).max() > 1e-3
    np.testing.assert_allclose(paths.shares[:, 2], beyond, atol=1e-12)
    assert_close(paths.grads, whole.grads)


@pytest.mark.slow
def test_noise_and_state_are_those_of_an_estimator():
    model, params = problem(make_lstm(), num_layers=2, dropout=0.5)
    member = bptt(model, squared_error)
    state = initial(member, params)
    paths, _ = resolve(model, params, make_segment(), keys=state.keys)
    expected = jit(member.estimate)(params, state, make_segment())[0]
    assert_close(paths.total, expected.grads)
    model, params = problem_of("lstm")
    state = carried(initial(bptt(model, squared_error), params))
    paths, _ = resolve(model, params, make_segment(), state=state.hidden)
    assert_close(paths.total, exact("lstm", first=False).grads)


@pytest.mark.slow
def test_tied_embedding_and_its_products():
    options = {"inputs": "embedding", "output_size": X, "tied": True}
    model, params = problem(make_lstm(), **options)
    rng = np.random.default_rng(0)
    segment = make_segment()._replace(
        inputs=rng.integers(X, size=make_segment().mask.shape),
        targets=rng.normal(size=(*make_segment().mask.shape, X)),
    )
    member = bptt(model, squared_error)
    expected = jit(member.estimate)(params, initial(member, params), segment)[0]
    paths, lags = resolve(model, params, segment)
    assert paths.blocks[0] == "embedding"
    assert_close(paths.total, expected.grads)
    by_lag = paths.by_route_and_lag.sum(axis=0)[:-1]
    np.testing.assert_allclose(by_lag, advise(lags).lag_shares, atol=1e-12)


def test_model_of_ones_own_is_refused():
    made, params = problem_of("lstm")
    with pytest.raises(OptionError, match=r"model: does not say how its step is made"):
        path_gradients(Model(*made[:5]), squared_error, params, make_segment())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "through"),
    [("normalised", 1), ("without_bias", 1), ("without_recurrence", 0)],
)
def test_gated_forms_of_all_kinds(name, through):
    model, params = problem(TOY_CELLS[name])
    paths, lags = resolve(model, params, make_segment())
    assert len(paths.routes) == 2 + through
    member = bptt(model, squared_error)
    state = initial(member, params)
    expected = jit(member.estimate)(params, state, make_segment())[0].grads
    assert_close(paths.total, expected)
    by_lag = paths.by_route_and_lag.sum(axis=0)[:-1]
    np.testing.assert_allclose(by_lag, advise(lags).lag_shares, atol=1e-12)
