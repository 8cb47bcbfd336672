"""The engine for linear recurrences: against the scan, in values and derivatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import sequence
from jaxlstm.backends.diagonal import Terms, diagonal_scan
from jaxlstm.backends.parallel import parallel
from jaxlstm.cells import CELLS, Cell, MinLSTMParams, make_lstm, make_min_lstm
from jaxlstm.cells.base import StepNoise
from jaxlstm.checks import check_cell
from jaxlstm.dropout import Dropout
from jaxlstm.edges import Edges, Hooks
from jaxlstm.estimators import bptt, h_detach
from jaxlstm.lab import commands, load_run
from jaxlstm.model import make_model
from jaxlstm.sequence import unroll
from jaxlstm.shapes import OptionError
from tests.estimators import problems
from tests.estimators.devices import estimate_on
from tests.helpers import B, H, T, X, assert_close, draw_like, jit, make_problem
from tests.lab import tiny
from tests.toy_cells import TOY_CELLS, ToyState, make_toy

ENGINES = "parallel", "scan"


def _mixed(small: Any, state: ToyState, z: Any) -> ToyState:
    """Two fields with factors of their own, of either sign; one does not see z."""
    p, q = (jnp.broadcast_to(s, state.h.shape) for s in small)
    a, b = jnp.split(z, 2, axis=-1)
    h = jnp.sin(a) * state.h + p * b
    return ToyState(h=h, c=jnp.tanh(q) * state.c + a * b)


def _say_linear(cell: Cell) -> Cell:
    assert cell.gated is not None
    return cell._replace(gated=cell.gated._replace(linear=True))


def _make_linear(update: Any, **options: Any) -> Cell:
    return _say_linear(make_toy(update, k_h=0, **options))


CELLS_BY_NAME = {
    "min_lstm": make_min_lstm(),
    "mixed": _make_linear(_mixed, k_x=2, columns=2, small=2),
    "no_bias": _make_linear(
        lambda small, state, z: ToyState(h=jnp.cos(z) * state.h + z, c=state.c + z),
        k_x=1,
        columns=None,
    ),
}


def draw_edges(seed=3):
    rng = np.random.default_rng(seed)
    return Edges(rng.uniform(0.5, 2, (T, B)), rng.uniform(0.5, 2, (T, B)))


def draw_noise(cell):
    rng = np.random.default_rng(4)
    return StepNoise(
        rng.uniform(0, 2, (T, B, H)), {"h": (rng.random((T, B, H)) < 0.4) * 1.0}
    )


def make_run(cell, *, mask, resets, **options):
    def run(params, inputs, state, reset_state):
        return unroll(
            cell,
            params,
            inputs,
            state,
            reset_state=reset_state,
            mask=mask,
            resets=resets,
            **options,
        )

    return run


def first_order(run, arguments, tangents):
    """Returns values, tangents and gradients of all that a run gives."""
    values, forward = jax.jvp(run, arguments, tangents)
    _, pull_back = jax.vjp(run, *arguments)
    return values, forward, pull_back(draw_like(values, 9))


def second_order(run, arguments, tangents):
    """Returns a Hessian-vector product, forward over reverse and reverse over it."""
    gradient = jax.grad(functools.partial(loss, run), range(4))
    forward = jax.jvp(gradient, arguments, tangents)[1]
    return forward, reverse_over_reverse(run, arguments, tangents)


def reverse_over_reverse(run, arguments, tangents):
    def slope(*arguments):
        gradient = jax.grad(functools.partial(loss, run), range(4))(*arguments)
        return add_up(jax.tree.map(jnp.vdot, gradient, tangents))

    return jax.grad(slope, range(4))(*arguments)


def loss(run, *arguments):
    return add_up(
        jax.tree.map(lambda y: jnp.sum(y**2 + jnp.sin(3 * y)), run(*arguments))
    )


def add_up(tree):
    return functools.reduce(jnp.add, jax.tree.leaves(tree))


def compare(cell, order=first_order, *, controls=True, **options):
    """Compares both engines; returns what the parallel one gives."""
    problem = make_problem(cell)
    given = {"mask": None, "resets": None}
    if controls:
        given = problem.controls
    else:
        inputs = np.random.default_rng(8).normal(size=(T, B, X))
        problem = problem._replace(inputs=inputs)
    runs = [make_run(cell, engine=name, **given, **options) for name in ENGINES]
    arguments, tangents = problem.arguments, draw_like(problem.arguments, 7)
    actual, expected = jit(lambda *both: [order(run, *both) for run in runs])(
        arguments, tangents
    )
    assert_close(actual, expected)
    return actual


def test_parallel_is_the_scan(x64):
    """Values, tangents and gradients by all arguments, with all that governs steps."""
    cell = CELLS_BY_NAME["min_lstm"]
    *_, (_, by_inputs, *_) = compare(cell, edges=draw_edges(), noise=draw_noise(cell))
    # What stands in a masked step is NaN; its gradient is zero all the same.
    assert not np.any(np.asarray(by_inputs)[make_problem(cell).mask == 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("min_lstm", {"controls": False}),
        ("min_lstm", {"controls": False, "reverse": True}),
        ("min_lstm", {"lengths": np.array([4, 6])}),
        ("min_lstm", {"reverse": True, "edges": draw_edges(), "remat": "step"}),
        ("min_lstm", {"reverse": True, "lengths": np.array([3, 7]), "remat": "sqrt"}),
        ("min_lstm", {"compute_dtype": jnp.bfloat16}),
        ("mixed", {}),
        ("mixed", {"reverse": True, "remat": "sqrt_step"}),
        ("mixed", {"controls": False, "edges": Edges(np.ones(T), np.arange(T) / 3)}),
        ("no_bias", {"noise": StepNoise(None, {"c": np.full((T, B, 1), 0.3)})}),
    ],
)
def test_table_of_settings_is_the_scan(x64, name, options):
    compare(CELLS_BY_NAME[name], **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("min_lstm", {"edges": draw_edges()}), ("mixed", {"reverse": True})],
)
def test_second_derivatives_are_those_of_the_scan(x64, name, options):
    compare(CELLS_BY_NAME[name], second_order, **options)


@pytest.mark.slow
def test_second_derivatives_inside_a_scan_keep_the_edges(x64):
    """A scan around the engine drops the rules of `custom_jvp`; see `jaxlstm.edges`."""
    cell, edges = CELLS_BY_NAME["min_lstm"], draw_edges()

    def order(run, arguments, tangents):
        def twice(params, inputs, state, reset_state):
            def body(state, inputs):
                return run(params, inputs, state, reset_state)

            return jax.lax.scan(body, state, jnp.stack([inputs, 2 * inputs]))

        return reverse_over_reverse(twice, arguments, tangents)

    compare(cell, order, edges=edges)


@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_is_a_loop(x64, reverse):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, T, B))
    cuts = rng.random((T, 1)) < 0.4
    y, expected = np.zeros(B), np.zeros((T, B))
    for t in reversed(range(T)) if reverse else range(T):
        y = b[t] if cuts[t] else a[t] * y + b[t]
        expected[t] = y
    solve = jit(lambda a, b, c: diagonal_scan(Terms(a, b, c), reverse=reverse))
    assert_close(solve(a, b, cuts), expected)


@pytest.mark.parametrize("axes", [(), (2, 3)])
def test_batch_axes_are_none_or_two(x64, axes):
    """The last axis of a mask or of resets may be left out."""
    cell, rng = CELLS_BY_NAME["min_lstm"], np.random.default_rng(5)
    params = make_problem(cell).params
    inputs, mask = rng.normal(size=(T, *axes, X)), rng.random((T, *axes[:-1])) < 0.7
    resets = rng.random((T, *axes[:1])) < 0.3
    inputs[~mask] = np.nan
    state = draw_like(cell.initial_state(params, axes), 1)
    runs = [make_run(cell, mask=mask, resets=resets, engine=name) for name in ENGINES]
    actual, expected = jit(lambda *operands: [run(*operands) for run in runs])(
        params, inputs, state, state
    )
    assert_close(actual, expected)


@pytest.mark.slow
def test_one_example_under_vmap_is_one_of_a_batch(x64):
    cell = CELLS_BY_NAME["mixed"]
    problem, edges = make_problem(cell), draw_edges()

    def gradients(params, inputs, state, reset_state, mask, resets, edges):
        options = {"mask": mask, "resets": resets, "edges": edges}
        run = make_run(cell, engine="parallel", **options)
        values, pull_back = jax.vjp(run, params, inputs, state, reset_state)
        return pull_back(jax.tree.map(jnp.ones_like, values))

    operands = *problem.arguments, problem.mask, problem.resets, edges
    each, whole = jit(
        lambda: (
            jax.vmap(gradients, (None, 1, 0, 0, 1, 1, 1))(*operands),
            gradients(*operands),
        )
    )()
    assert_close(jax.tree.map(lambda g: g.sum(0), each[0]), whole[0])
    assert_close(jnp.moveaxis(each[1], 0, 1), whole[1])
    assert_close(each[2:], whole[2:])


@pytest.mark.parametrize("shape", [(0, B), (T, 0)])
@pytest.mark.parametrize("reverse", [False, True])
def test_no_steps_and_no_examples(x64, shape, reverse):
    cell = CELLS_BY_NAME["min_lstm"]
    params = make_problem(cell).params
    state = draw_like(cell.initial_state(params, shape[1:]), 0)
    options = {"resets": np.ones(shape), "reverse": reverse}

    def run(params, state, name):
        inputs = np.zeros((*shape, X))
        return unroll(cell, params, inputs, state, engine=name, **options)

    both = jit(lambda params, state: [run(params, state, name) for name in ENGINES])
    assert_close(*both(params, state))


def test_what_is_reset_leaves_no_trace_even_as_nan(x64):
    """Of a NaN in the input before a reset, and in the state before one at step 0."""
    cell = CELLS_BY_NAME["min_lstm"]
    problem = make_problem(cell)
    inputs = np.random.default_rng(8).normal(size=(T, B, X))
    inputs[2, 0] = np.nan
    state = problem.state._replace(h=np.where([[True], [False]], 1.0, np.nan))
    state = state._replace(h=np.broadcast_to(state.h, (B, H)))
    resets = np.zeros((T, B))
    resets[4, 0] = resets[0, 1] = 1
    runs = [make_run(cell, mask=None, resets=resets, engine=name) for name in ENGINES]

    def differentiate(run, state):
        def states(*arguments):
            params, state, reset_state = arguments
            return run(params, inputs, state, reset_state)[1].h

        arguments = problem.params, state, problem.reset_state
        values, pull_back = jax.vjp(states, *arguments)
        _, forward = jax.jvp(states, arguments, arguments)
        counted = jnp.ones_like(values).at[:4, 0].set(0)
        *_, by_reset_state = pull_back(counted)
        return (values[4:], forward[4:], values[:, 1]), by_reset_state.h

    actual, expected = jit(lambda state: [differentiate(run, state) for run in runs])(
        state
    )
    assert np.isfinite(expected[0][0]).all()
    assert np.isfinite(expected[1]).all()
    assert_close(actual, expected)


def test_no_output_depends_on_later_inputs(x64):
    cell = CELLS_BY_NAME["min_lstm"]
    params = make_problem(cell).params

    def outputs(inputs):
        return unroll(cell, params, inputs, engine="parallel")[1].h.sum(-1)

    inputs = np.random.default_rng(0).normal(size=(T, X))
    slopes = jnp.abs(jit(jax.jacfwd(outputs))(inputs)).sum(-1)
    assert_close(slopes, jnp.tril(slopes), 0)
    assert (np.asarray(slopes)[np.tril_indices(T)] > 0).all()


def test_chunks_are_the_whole(x64):
    cell = CELLS_BY_NAME["min_lstm"]
    problem = make_problem(cell)

    def run(state, start, stop):
        here = slice(start, stop)
        return unroll(
            cell,
            problem.params,
            problem.inputs[here],
            state,
            mask=problem.mask[here],
            resets=problem.resets[here],
            engine="parallel",
        )

    def chunked():
        middle, first = run(problem.state, 0, 3)
        last, rest = run(middle, 3, T)
        return last, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, rest)

    assert_close(*jit(lambda: (chunked(), run(problem.state, 0, T)))())


@pytest.mark.slow
def test_a_long_sequence_in_float32():
    """Products of the decays underflow, 2^-149 after some hundred steps."""
    cell, length = CELLS_BY_NAME["min_lstm"], 100_000
    rng = np.random.default_rng(0)
    params = MinLSTMParams(*(rng.normal(size=s) for s in ((2, 9), (9,))))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    inputs = jnp.asarray(rng.normal(size=(length, 2)), jnp.float32)

    def loss(params, inputs, engine):
        states = unroll(cell, params, inputs, engine=engine)[1].h
        return jnp.mean(states**2), states

    def differentiate(params, inputs):
        slope = jax.value_and_grad(loss, (0, 1), has_aux=True)
        return [slope(params, inputs, name) for name in ENGINES]

    actual, expected = jit(differentiate)(params, inputs)
    # Roundings of 6e-8, of which as many add up as there are steps remembered.
    assert_close(actual, expected, 1e-5)


@functools.cache
def models():
    options = {"learned_initial_state": True, "num_layers": 2}
    cell = CELLS_BY_NAME["min_lstm"]
    model, params = problems.problem(cell, engine="parallel", **options)
    return model, problems.problem(cell, **options)[0], params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "options", "num_devices"),
    [
        (bptt, {}, 1),
        (bptt, {"remat": "sqrt"}, 2),
        (h_detach, {"p": 0.5}, 1),
    ],
)
def test_estimators_take_either_engine(x64, estimator, options, num_devices):
    *pair, params = models()
    segment, results = problems.make_segment(), []
    for model in pair:
        made = estimator(model, problems.squared_error, **options)
        state = made.init(params, (B,), jax.random.key(0))
        results.append(estimate_on(num_devices, made, params, state, segment)[0])
    assert_close(*results)


@pytest.mark.slow
def test_dropout_draws_what_the_scan_draws(x64):
    dropout = Dropout(between=0.3, recurrent=0.2, zoneout_h=0.4)
    cell, estimates = CELLS_BY_NAME["min_lstm"], []
    for name in ENGINES:
        options = {"dropout": dropout, "num_layers": 2, "engine": name}
        model, params = problems.problem(cell, **options)
        made = bptt(model, problems.squared_error)
        state = made.init(params, (B,), jax.random.key(0))
        estimates.append(jit(made.estimate)(params, state, problems.make_segment())[0])
    assert_close(*estimates)


@pytest.mark.slow
def test_training_by_a_config_on_two_devices(tmp_path, monkeypatch):
    calls = []

    def spy(*arguments):
        calls.append(arguments)
        return parallel(*arguments)

    monkeypatch.setattr(sequence, "parallel", spy)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny.CONFIG)
    options = "model.cell=min_lstm", "model.engine=parallel", "devices=2"
    commands.main(["run", "tiny.toml", *options, "--out", "run"])
    assert calls
    run = load_run(tmp_path / "run")
    assert run.config.sections.model.engine == "parallel"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("lstm", {}, 'engine: "parallel" is for cells that are linear'),
        ("plain", {}, 'engine: "parallel" is for cells that are'),
        ("min_lstm", {"derivative": "autodiff"}, "derivative: .*; use engine="),
        ("min_lstm", {"edges": Hooks(h=jnp.tanh)}, "edges: are hooks, .*; use engine="),
    ],
)
def test_what_it_cannot_do_is_refused(cell, options, message):
    cells = {
        "lstm": make_lstm(),
        "plain": make_min_lstm()._replace(gated=None),
        "min_lstm": make_min_lstm(),
    }
    cell, given = cells[cell], {"engine": "parallel", **options}
    with pytest.raises(OptionError, match=message):
        unroll(cell, None, np.zeros((T, X)), **given)
    if "edges" in options:
        return
    with pytest.raises(OptionError, match=message):
        make_model(cell, input_size=X, output_size=1, hidden_size=H, **given)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "linear"), [("mixed", True), ("toy", False)])
def test_check_of_a_cell_tells_whether_it_is_linear(name, linear):
    cells = {
        "mixed": CELLS_BY_NAME["mixed"],
        "toy": _say_linear(TOY_CELLS["without_recurrence"]),
    }
    report = check_cell(cells[name], finite_differences=False)
    failed = [row.identity for row in report.rows if row.passed is False]
    assert failed == ([] if linear else ["linear: parallel in time it makes the steps"])


def test_cells_that_say_they_are_linear_have_no_recurrent_weights():
    linear = []
    for name, make in CELLS.items():
        cell = make()
        if cell.gated is None or not cell.gated.linear:
            continue
        linear.append(name)
        params = jax.eval_shape(lambda cell=cell: cell.init(jax.random.key(0), X, H))
        assert jax.eval_shape(cell.gated.weights, params).w_h is None
    assert "min_lstm" in linear
