"""The engine parallel in time: against the scan, and where Newton's method is hard."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import sequence
from jaxlstm.backends import deer as engine
from jaxlstm.backends.deer import System, finish, iterate, solve
from jaxlstm.cells import CELLS, Cell
from jaxlstm.edges import Edges, Hooks
from jaxlstm.estimators import bptt, h_detach
from jaxlstm.lab import commands, load_run
from jaxlstm.model import make_model
from jaxlstm.sequence import unroll
from jaxlstm.shapes import OptionError
from tests.estimators import problems
from tests.estimators.devices import estimate_on
from tests.helpers import (
    FIRST_CELLS,
    B,
    H,
    T,
    X,
    assert_close,
    draw_like,
    jit,
    make_problem,
)
from tests.lab import tiny
from tests.toy_cells import TOY_CELLS

BUILT_IN = {name: CELLS[name]() for name in FIRST_CELLS}
PLAIN = {"plain": BUILT_IN["lstm"]._replace(gated=None)}


def make_run(cell, mask, resets, **options):
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
    """Returns Hessian-vector products by both modes, and per example under vmap."""

    def loss(arguments):
        terms = jax.tree.map(lambda y: jnp.sum(y**2 + jnp.sin(3 * y)), run(*arguments))
        return functools.reduce(jnp.add, jax.tree.leaves(terms))

    def slope(arguments):
        products = jax.tree.map(jnp.vdot, jax.grad(loss)(arguments), tangents)
        return functools.reduce(jnp.add, jax.tree.leaves(products))

    return (
        jax.jvp(jax.grad(loss), (arguments,), (tangents,))[1],
        jax.grad(slope)(arguments),
    )


def compare(cell, order, *, reverse=False, edges=None, full=False):
    """Compares with the scan; if full, at every step, without mask and resets."""
    problem = make_problem(cell)
    mask, resets = problem.controls.values()
    if full:
        # At resets and masked steps the products of the Jacobians commute.
        inputs = np.random.default_rng(8).normal(size=(11, B, X))
        problem, mask, resets = problem._replace(inputs=inputs), None, None
    options = {"reverse": reverse, "edges": edges}
    runs = [
        make_run(cell, mask, resets, engine=name, **options)
        for name in ("deer", "scan")
    ]
    arguments, tangents = problem.arguments, draw_like(problem.arguments, 7)
    actual, expected = jit(lambda *both: [order(run, *both) for run in runs])(
        arguments, tangents
    )
    assert_close(actual, expected)
    return actual


@pytest.mark.parametrize(
    ("name", "reverse"),
    [(name, False) for name in (*BUILT_IN, *TOY_CELLS, *PLAIN)] + [("lstm", True)],
)
def test_deer_is_the_scan(x64, name, reverse):
    """Values, tangents and gradients by all arguments, with mask, resets and NaN."""
    cell = {**BUILT_IN, **TOY_CELLS, **PLAIN}[name]
    *_, (_, by_inputs, *_) = compare(cell, first_order, reverse=reverse)
    # What stands in a masked step is NaN; its gradient is zero all the same.
    assert not np.any(np.asarray(by_inputs)[make_problem(cell).mask == 0])


@pytest.mark.parametrize("name", ["lstm", "rnn"])
def test_sequence_without_controls_is_the_scan(x64, name):
    compare(BUILT_IN[name], first_order, full=True)


@pytest.mark.slow
def test_second_derivatives_are_those_of_the_scan(x64):
    compare(BUILT_IN["gru"], second_order)


@pytest.mark.parametrize(
    "order", [first_order, pytest.param(second_order, marks=pytest.mark.slow)]
)
def test_edges_scale_the_gradient(x64, order):
    rng = np.random.default_rng(3)
    edges = Edges(rng.uniform(0.5, 2, (T, B)), rng.uniform(0.5, 2, (T, 1))[:, 0])
    cell = BUILT_IN["leaky_rnn" if order is second_order else "lstm"]
    compare(cell, order, edges=edges)


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_batch_axes_are_none_one_or_two(x64, axes):
    """The last axis of a mask or of resets may be left out."""
    cell, rng = BUILT_IN["lstm"], np.random.default_rng(5)
    params = make_problem(cell).params
    inputs = rng.normal(size=(T, *axes, X))
    mask = rng.random((T, *axes)) < 0.7
    resets = rng.random((T, *axes[:-1])) < 0.3
    inputs[~mask] = np.nan
    state = draw_like(cell.initial_state(params, axes), 1)
    runs = [make_run(cell, mask, resets, engine=name) for name in ("deer", "scan")]
    actual, expected = jit(lambda *operands: [run(*operands) for run in runs])(
        params, inputs, state, state
    )
    assert_close(actual, expected)


@pytest.mark.slow
def test_one_example_under_vmap_is_one_of_a_batch(x64):
    cell = BUILT_IN["lstm"]
    problem = make_problem(cell)

    def run(params, inputs, state, reset_state, mask, resets):
        run = make_run(cell, mask, resets, engine="deer")
        return jax.vjp(run, params, inputs, state, reset_state)

    def gradients(*operands):
        values, pull_back = run(*operands)
        return pull_back(jax.tree.map(jnp.ones_like, values))

    operands = *problem.arguments, problem.mask, problem.resets
    each, whole = jit(
        lambda: (
            jax.vmap(gradients, (None, 1, 0, 0, 1, 1))(*operands),
            gradients(*operands),
        )
    )()
    assert_close(jax.tree.map(lambda g: g.sum(0), each[0]), whole[0])
    assert_close(jnp.moveaxis(each[1], 0, 1), whole[1])


@pytest.mark.parametrize("shape", [(0, B), (T, 0)])
@pytest.mark.parametrize("reverse", [False, True])
def test_no_steps_and_no_examples(x64, shape, reverse):
    cell = BUILT_IN["lstm"]
    params = make_problem(cell).params
    state = draw_like(cell.initial_state(params, shape[1:]), 0)
    options = {"resets": np.ones(shape), "reverse": reverse}
    both = [
        unroll(cell, params, np.zeros((*shape, X)), state, engine=name, **options)
        for name in ("deer", "scan")
    ]
    assert_close(*both)


class Hard(NamedTuple):
    """A tanh RNN without batch axes, h' = tanh(x + h W): its weights, and its input."""

    w_h: Any
    inputs: Any

    def system(self) -> System:
        start = np.zeros((1, len(self.w_h)))
        inputs = self.inputs[:, None]
        return System(self.w_h, start, start, inputs, None, None, None)

    def scan(self) -> Any:
        def body(state, x):
            state = self.step(self.w_h, state, x)
            return state, state

        return jax.lax.scan(body, jnp.zeros(len(self.w_h)), self.inputs)[1]

    def defects(self, states: Any) -> Any:
        before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
        return self.step(self.w_h, before, self.inputs) - states

    def undamped(self, num_iterations: int) -> Any:
        """Applies Newton's method step by step in time, from the engine's guess."""
        states = self.step(self.w_h, jnp.zeros_like(self.inputs), self.inputs)
        slope = jax.vmap(jax.jacfwd(self.step, 1), (None, 0, 0))

        def body(change, xs):
            jacobian, defect = xs
            change = jacobian @ change + defect
            return change, change

        def improve(_, states):
            before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
            jacobians = slope(self.w_h, before, self.inputs)
            xs = jacobians, self.defects(states)
            return states + jax.lax.scan(body, jnp.zeros_like(states[0]), xs)[1]

        return jax.lax.fori_loop(0, num_iterations, improve, states)

    @staticmethod
    def step(w_h: Any, state: Any, x: Any, edges: None = None) -> Any:
        del edges
        return jnp.tanh(x + state @ w_h)


def make_saturated(steps):
    """Each of two units, near 0 at first, grows fourfold a step until it saturates."""
    inputs = np.zeros((steps, 2))
    inputs[0] = 1e-3, -2e-3
    return Hard(4 * np.eye(2), inputs)


def make_chaotic(steps=96):
    rng = np.random.default_rng(0)
    size = 32
    w_h = rng.normal(size=(size, size)) * 3 / np.sqrt(size)
    return Hard(w_h, 0.3 * rng.normal(size=(steps, size)))


def test_newton_is_of_second_order(x64):
    """Errors of .1, 1e-2, 1e-4 ...: each iteration squares them, up to a factor.

    At the factor C the error of k+1 is at most C error_k^2, with C about half the
    second derivative of a step times the sum of the effects of one step on the later
    ones: of the order of ten.
    """
    rng = np.random.default_rng(1)
    hard = Hard(0.4 * rng.normal(size=(4, 4)), rng.normal(size=(30, 4)))
    run = jit(lambda n: iterate(hard.step, hard.system(), n).states[:, 0])
    states, expected = [run(n) for n in range(1, 7)], jit(hard.scan)()
    errors = [float(jnp.abs(s - expected).max()) for s in states]
    assert errors[0] > 1e-3
    for error, following in itertools.pairwise(errors):
        assert following <= 10 * error**2 + 1e-15
    assert errors[-1] < 1e-14


def test_a_tolerance_stops_the_iterations(x64):
    rng = np.random.default_rng(1)
    hard = Hard(0.4 * rng.normal(size=(4, 4)), rng.normal(size=(30, 4)))
    progress = jit(lambda: iterate(hard.step, hard.system(), 30))()
    assert 3 <= progress.num_iterations <= 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_damping_where_newton_overflows(dtype, request):
    """Fourfold a step: 4^600 is past the largest float64, 1.8e308 = 4^512."""
    if dtype == "float64":
        request.getfixturevalue("x64")
    hard = make_saturated(600)
    hard = Hard(*(jnp.asarray(x, dtype) for x in hard))
    progress, undamped, expected = jit(
        lambda: (
            iterate(hard.step, hard.system(), 64),
            hard.undamped(64),
            hard.scan(),
        )
    )()
    assert not np.all(np.isfinite(undamped))
    assert progress.num_iterations < 20
    # Some roundings a step, of which only those while the units grow are remembered.
    assert_close(progress.states[:, 0], expected, 200 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_small_states_count_by_their_own_size(beside):
    """What is 1e-9 at first decides, grown, what comes of it.

    So it does beside a unit of size one, by which it would be nothing but rounding.
    """
    inputs = np.zeros((28, 3))
    inputs[0] = 1e-9, -2e-9, 0
    inputs[:, 2] = beside
    hard = Hard(
        jnp.asarray(np.diag([2.5, 2.5, 0]), jnp.float32),
        jnp.asarray(inputs, jnp.float32),
    )
    states, expected = jit(lambda: (solve(hard.step, hard.system()), hard.scan()))()
    states = states[:, 0]
    assert np.abs(expected[0, :2]).max() < 1e-8 < 0.9 < np.abs(expected[-1, :2]).min()
    np.testing.assert_allclose(states, expected, rtol=1e-5)


def test_chaotic_sequence_is_scanned(x64):
    """Newton's method does not settle it; what comes out meets each step all the same.

    Two scans of it differ as well where they round differently, so it is each step
    that is compared, and the states as far as they can be foreseen.
    """
    hard = make_chaotic()
    progress, states, expected = jit(
        lambda: (
            iterate(hard.step, hard.system(), engine.MAX_ITERATIONS),
            solve(hard.step, hard.system())[:, 0],
            hard.scan(),
        )
    )()
    assert progress.num_iterations == engine.MAX_ITERATIONS
    assert np.abs(hard.defects(progress.states[:, 0])).max() > 0.1
    assert np.abs(hard.defects(states)).max() < 1e-14
    assert_close(states[:40], expected[:40], 1e-10)


@pytest.mark.parametrize("num_iterations", [0, 1])
def test_what_is_not_settled_is_scanned(x64, num_iterations, monkeypatch):
    monkeypatch.setattr(engine, "MAX_ITERATIONS", num_iterations)
    compare(BUILT_IN["lstm"], first_order)


def test_scan_of_the_rest_leaves_what_holds(x64):
    hard = make_chaotic(8)
    system, expected = hard.system(), hard.scan()
    wrong = expected.at[5:].add(1.0)[:, None]
    before = jnp.concatenate([jnp.zeros_like(wrong[:1]), wrong[:-1]])
    defects = hard.step(hard.w_h, before, system.inputs) - wrong
    unsettled = jnp.asarray(1.0), jnp.asarray(False)
    progress = engine.Progress(wrong, defects, jnp.asarray(64), *unsettled)
    states = finish(hard.step, system, progress)[:, 0]
    np.testing.assert_array_equal(states[:5], expected[:5])
    assert_close(states, expected, 1e-10)


def test_states_that_overflow_are_those_of_the_scan(x64):
    def init(key, input_size, hidden_size, *, dtype):
        raise NotImplementedError

    def step(params, state, x):
        state = params * state**2 + x
        return state, state

    squares = Cell(init, lambda params, shape: jnp.ones((*shape, 1)), step)
    inputs = np.ones((16, 1, 1))
    deer, scan = (
        unroll(squares, jnp.ones(()), inputs, engine=name) for name in ("deer", "scan")
    )
    assert np.isinf(scan[0]).all()
    for actual, expected in zip(deer, scan, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-13)


@functools.cache
def models():
    options = {"learned_initial_state": True, "num_layers": 2}
    model, params = problems.problem(BUILT_IN["gru"], engine="deer", **options)
    return model, problems.problem(BUILT_IN["gru"], **options)[0], params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "options", "num_devices"),
    [(bptt, {}, 1), (bptt, {"remat": "sqrt"}, 2), (h_detach, {"p": 0.5}, 1)],
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
def test_training_by_a_config_on_two_devices(tmp_path, monkeypatch):
    calls = []

    def spy(*arguments, **options):
        calls.append(options)
        return engine.deer(*arguments, **options)

    monkeypatch.setattr(sequence, "deer", spy)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny.CONFIG)
    runs = []
    for name in ("deer", "scan"):
        options = f"model.engine={name}", "devices=2"
        commands.main(["run", "tiny.toml", *options, "--out", name])
        assert bool(calls) == (name == "deer")
        calls.clear()
        runs.append(load_run(tmp_path / name))
    deer, scan = (run.params for run in runs)
    assert runs[0].config.sections.model.engine == "deer"
    # Twelve updates of .05 by Adam, of gradients that differ by some roundings.
    assert_close(deer, scan, 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "x"}, "engine: 'x' is unknown; use one of 'scan', 'deer'"),
        ({"remat": "step"}, 'remat: is "step", which engine "deer" does not take; use'),
        ({"remat": "sqrt"}, 'remat: is "sqrt", .* use engine="scan"'),
        ({"derivative": "autodiff"}, 'derivative: is "autodiff", .*engine="scan"'),
        ({"compute_dtype": jnp.bfloat16}, 'compute_dtype: is .* engine="scan"'),
        ({"edges": Hooks(h=jnp.tanh)}, 'edges: are hooks, .* engine="scan"'),
    ],
)
def test_what_deer_cannot_do_is_refused(x64, options, message):
    problem = make_problem(BUILT_IN["lstm"])
    given = {"engine": "deer", **options}
    with pytest.raises(OptionError, match=message):
        unroll(BUILT_IN["lstm"], problem.params, problem.inputs, **given)


@pytest.mark.parametrize(
    "options",
    [{"derivative": "autodiff"}, {"compute_dtype": jnp.bfloat16}, {"engine": "x"}],
)
def test_models_refuse_when_they_are_made(options):
    given = {"engine": "deer", **options}
    with pytest.raises(OptionError, match="engine"):
        make_model(
            BUILT_IN["lstm"], input_size=X, output_size=1, hidden_size=H, **given
        )


@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("float32", "int32")])
def test_narrow_states_are_refused(dtypes):
    def initial_state(params, shape):
        return tuple(jnp.zeros(shape, dtype) for dtype in dtypes)

    cell = Cell(BUILT_IN["rnn"].init, initial_state, lambda p, s, x: (s, x))
    with pytest.raises(TypeError, match=r"^state: dtype .*; use engine=\"scan\"$"):
        unroll(cell, None, np.zeros((2, X)), engine="deer")
