"""The derivative rule: against plain autodiff, differences, and loops over time."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_jvp, check_vjp

from jaxlstm.cells import CELLS
from jaxlstm.cells.base import preactivations
from jaxlstm.edges import Edges, edge
from jaxlstm.sequence import unroll
from tests.helpers import (
    FIRST_CELLS,
    H,
    X,
    assert_close,
    draw_like,
    jit,
    loop,
    make_problem,
)
from tests.toy_cells import TOY_CELLS

BUILT_IN = {name: CELLS[name]() for name in FIRST_CELLS}


def dot(a, b):
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def make_loss(run):
    """Returns a loss to which every entry of every output adds in its own way."""

    def loss(arguments, *rest):
        outputs = run(arguments, *rest)
        return dot(outputs, draw_like(outputs, 9)) + dot(outputs, outputs)

    return loss


def grad(run, arguments, tangents, *rest):
    del tangents
    return jax.grad(make_loss(run))(arguments, *rest)


def jvp(run, arguments, tangents, *rest):
    return jax.jvp(lambda a: run(a, *rest), (arguments,), (tangents,))


def linearize(run, arguments, tangents, *rest):
    _, pushforward = jax.linearize(lambda a: run(a, *rest), arguments)
    return pushforward(tangents)


def hessian_vector_product(run, arguments, tangents, *rest):
    by_arguments = jax.grad(lambda a: make_loss(run)(a, *rest))
    return jax.jvp(by_arguments, (arguments,), (tangents,))[1]


def reverse_over_reverse(run, arguments, tangents, *rest):
    by_arguments = jax.grad(make_loss(run))
    return jax.grad(lambda a: dot(by_arguments(a, *rest), tangents))(arguments)


def vmap_over_inputs(run, arguments, tangents, *rest):
    params, inputs, *states = arguments
    batch = jnp.stack([inputs, 2 * inputs])
    return jax.vmap(lambda x: grad(run, (params, x, *states), tangents, *rest))(batch)


def vmap_over_params(run, arguments, tangents, *rest):
    params, *others = arguments
    batch = jax.tree.map(lambda p: jnp.stack([p, -p]), params)
    return jax.vmap(lambda p: grad(run, (p, *others), tangents, *rest))(batch)


def per_example(run, arguments, tangents, mask, resets):
    axes = (None, 1, 0, 0), None, 1, 1
    by_example = jax.vmap(functools.partial(grad, run), axes)
    return by_example(arguments, tangents, mask, resets)


def checkpoint(run, *operands):
    return grad(jax.checkpoint(run), *operands)


def nested_jit(run, *operands):
    return grad(jax.jit(run), *operands)


FIRST = [grad, jvp]
SECOND = [hessian_vector_product, reverse_over_reverse]
MOST = [*FIRST, *SECOND, linearize, per_example]
ALL = [*MOST, vmap_over_inputs, vmap_over_params, checkpoint, nested_jit]


def make_run(cell, **options):
    def run(arguments, mask, resets):
        params, inputs, state, reset_state = arguments
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


def compare_with_autodiff(cell, transformations, **options):
    """Compares the rule with plain autodiff, and returns what the rule gave."""
    problem = make_problem(cell)
    runs = make_run(cell, **options), make_run(cell, derivative="autodiff")

    @jit
    def transform(*operands):
        return [
            {t.__name__: t(run, *operands) for t in transformations} for run in runs
        ]

    tangents = draw_like(problem.arguments, 7)
    by_rule, by_autodiff = transform(
        problem.arguments, tangents, problem.mask, problem.resets
    )
    assert_close(by_rule, by_autodiff)
    for name in {"grad", "hessian_vector_product"} & set(by_rule):
        # What stands in a masked step is NaN; its gradient is zero all the same.
        by_inputs = by_rule[name][1]
        assert (np.asarray(by_inputs)[problem.mask == 0] == 0).all()
        assert (np.asarray(by_inputs)[problem.mask == 1] != 0).all()
    return by_rule


@pytest.mark.parametrize(
    "name",
    [n if n == "lstm" else pytest.param(n, marks=pytest.mark.slow) for n in BUILT_IN],
)
def test_rule_is_autodiff(x64, name):
    compare_with_autodiff(BUILT_IN[name], MOST if name == "leaky_rnn" else ALL)


@pytest.mark.parametrize("name", ["lstm", "peephole"])
def test_rule_that_makes_z_again_is_autodiff(x64, name):
    cell = (BUILT_IN | TOY_CELLS)[name]
    compare_with_autodiff(cell, [grad, hessian_vector_product], remat="step")


@pytest.mark.parametrize("name", TOY_CELLS)
def test_rule_serves_every_form_of_weights(x64, name):
    by_rule = compare_with_autodiff(TOY_CELLS[name], [grad, hessian_vector_product])
    for leaf in jax.tree.leaves(by_rule["grad"][0]):
        assert (np.asarray(leaf) != 0).all()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_rule_agrees_with_differences(x64, name):
    problem = make_problem(BUILT_IN[name], steps=3)
    arguments = problem.params, np.nan_to_num(problem.inputs), *problem.arguments[2:]

    def run(*arguments):
        return make_run(BUILT_IN[name])(arguments, problem.mask, problem.resets)

    def by_arguments(*arguments):
        return jax.grad(make_loss(lambda a: run(*a)))(arguments)

    for f in (run, by_arguments):
        values = jit(f)
        push = jit(lambda primals, tangents, f=f: jax.jvp(f, primals, tangents))
        pull = jit(lambda primals, cotangent, f=f: jax.vjp(f, *primals)[1](cotangent))

        def with_pull(*primals, values=values, pull=pull):
            return values(*primals), functools.partial(pull, primals)

        check_jvp(values, push, arguments)
        check_vjp(values, with_pull, arguments)


def equations(jaxpr):
    """Yields the equations of a jaxpr, and of all those within it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def loops(jaxpr):
    return (e for e in equations(jaxpr) if e.primitive.name == "scan")


@pytest.mark.parametrize("options", [{}, {"edges": True}, {"remat": "step"}])
def test_rule_sums_no_weight_gradient_inside_a_loop(x64, options):
    cell = BUILT_IN["lstm"]
    problem = make_problem(cell)
    if "edges" in options:
        options = {"edges": Edges(problem.mask, problem.mask)}

    def weights_in_loops(**options):
        loss = make_loss(make_run(cell, **options))
        jaxpr = jax.make_jaxpr(jax.grad(loss))(
            problem.arguments, problem.mask, problem.resets
        )
        shapes = {v.aval.shape for loop in loops(jaxpr.jaxpr) for v in loop.outvars}
        return {(X, 4 * H), (H, 4 * H)} & shapes

    assert not weights_in_loops(**options)
    assert weights_in_loops(**options, derivative="autodiff")


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_rule_under_shard_map(x64, name):
    cell = BUILT_IN[name]
    problem = make_problem(cell)
    params, _, state, reset_state = problem.arguments
    factors = np.random.default_rng(3).uniform(size=(2, *problem.mask.shape))
    across = {
        "inputs": problem.inputs,
        "mask": problem.mask,
        "resets": problem.resets,
        "edges": Edges(*factors),
    }
    weights = draw_like(np.empty((*problem.mask.shape, H)), 4)

    def loss(params, state, reset_state, across, weights):
        last, states = unroll(
            cell, params, state=state, reset_state=reset_state, **across
        )
        return jnp.sum(weights * states.h**2) + jnp.sum(last.h**3)

    def gradients(params, state, reset_state, across, weights):
        rest = across, weights
        by_all = jax.grad(loss, argnums=(0, 1, 2))
        zero_start = jax.grad(loss)(params, None, None, *rest)
        product = jax.jvp(
            lambda p: jax.grad(loss)(p, state, reset_state, *rest), (params,), (params,)
        )
        return by_all(params, state, reset_state, *rest), zero_start, product[1]

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    shard, time = P("data"), P(None, "data")
    # Gradients of what is alike on all devices come summed over them.
    sharded = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(P(), shard, shard, time, time),
        out_specs=((P(), shard, shard), P(), P()),
    )
    operands = params, state, reset_state, across, weights
    by_two, by_one = jit(lambda *a: (sharded(*a), gradients(*a)))(*operands)
    assert_close(by_two, by_one)


AUTODIFF = {"derivative": "autodiff"}


@pytest.mark.parametrize("derivative", ["rule", "autodiff"])
def test_gradients_are_summed_over_devices_outside_of_loops(x64, derivative):
    cell = TOY_CELLS["peephole"]
    problem = make_problem(cell)

    def gradients(params, inputs):
        def loss(params):
            return unroll(cell, params, inputs, derivative=derivative)[1].h.sum()

        return jax.grad(loss)(params)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    specs = P(), P(None, "data")
    sharded = jax.shard_map(gradients, mesh=mesh, in_specs=specs, out_specs=P())
    jaxpr = jax.make_jaxpr(sharded)(problem.params, problem.inputs).jaxpr

    def count_sums(found):
        return sum("psum" in equation.primitive.name for equation in found)

    assert count_sums(equations(jaxpr))
    assert not any(
        count_sums(equations(inner))
        for loop in loops(jaxpr)
        for inner in jaxprs_in_params(loop.params)
    )


def make_edges(shape, seed=5):
    """Draws factors of which some are 0, some 1 and some above."""
    rng = np.random.default_rng(seed)
    return Edges(*rng.choice([0.0, 0.3, 1.0, 1.7], size=(2, *shape)))


def make_short_problem(cell):
    """Returns a problem whose mask and resets are [T], for a loop to branch on."""
    problem = make_problem(cell, steps=5)
    mask, resets = np.array([1, 0, 1, 1, 1]), np.array([0, 1, 0, 0, 1])
    inputs = np.nan_to_num(problem.inputs, nan=0.5)
    inputs[mask == 0] = np.nan
    return problem._replace(inputs=inputs, mask=mask, resets=resets)


def make_oracle(cell, problem, edge_h, edge_c, **options):
    """Returns a run by a loop in Python, with the given edits of the gradient.

    Plain autodiff of a scan is no oracle here: in jax 0.10 its partial evaluation
    drops `custom_jvp` rules, so that a gradient edit may be lost at second order.
    """

    def run(arguments, mask, resets):
        del mask, resets
        params, inputs, state, reset_state = arguments
        weights = cell.gated.weights(params)

        def advance(state, x, t):
            z = preactivations(weights, x, edge_h(cell.gated.read(state), t))
            return cell.gated.update(weights.small, edge_c(state, t), z)

        return loop(advance, inputs, state, reset_state, **problem.controls, **options)

    return run


def scanned(run, chunks):
    """Returns the run inside a scan over chunks of time."""

    def in_chunks(arguments, mask, resets, edges):
        params, inputs, state, reset_state = arguments

        def fold(x):
            return x.reshape(chunks, -1, *x.shape[1:])

        def body(state, xs):
            x, *rest = xs
            return run((params, x, state, reset_state), *rest)

        xs = jax.tree.map(fold, (inputs, mask, resets, edges))
        last, states = jax.lax.scan(body, state, xs)
        return last, jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), states)

    return in_chunks


@pytest.mark.parametrize(
    ("name", "runs", "transformations", "reverse"),
    [
        pytest.param(
            *("lstm", [{}, {"remat": "sqrt"}, AUTODIFF], [grad, *SECOND], False),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("gru", [{"remat": "step"}, AUTODIFF], SECOND, True),
            marks=pytest.mark.slow,
        ),
        ("peephole", [{}], [grad, hessian_vector_product], True),
    ],
)
def test_edges_are_those_of_a_loop(x64, name, runs, transformations, reverse):
    cell = (BUILT_IN | TOY_CELLS)[name]
    problem = make_short_problem(cell)
    edges = make_edges(problem.inputs.shape[:2])
    a_h, a_c = np.asarray(edges.h), np.asarray(edges.c)
    oracle = make_oracle(
        cell,
        problem,
        lambda h, t: edge(h, a_h[t]),
        lambda state, t: edge(state, a_c[t]),
        reverse=reverse,
    )
    scans = [
        make_run(cell, edges=edges, reverse=reverse, **options) for options in runs
    ]

    @jit
    def transform(*operands):
        return [
            [t(run, *operands) for t in transformations] for run in [oracle, *scans]
        ]

    tangents = draw_like(problem.arguments, 7)
    expected, *actual = transform(
        problem.arguments, tangents, problem.mask, problem.resets
    )
    assert_close(actual, [expected] * len(scans))


def test_edges_hold_inside_an_outer_scan(x64):
    cell = BUILT_IN["lstm"]
    problem = make_problem(cell, steps=6)
    edges = make_edges(problem.mask.shape)
    tangents = draw_like(problem.arguments, 7)

    def run(arguments, mask, resets, edges):
        return make_run(cell, edges=edges)(arguments, mask, resets)

    @jit
    def transform(*operands):
        runs = run, scanned(run, 2)
        return [[t(run, *operands) for t in SECOND] for run in runs]

    whole, in_chunks = transform(
        problem.arguments, tangents, problem.mask, problem.resets, edges
    )
    assert_close(in_chunks, whole)


def test_edges_of_one_and_of_zero(x64):
    cell = BUILT_IN["lstm"]
    problem = make_short_problem(cell)
    ones, zeros = np.ones(len(problem.mask)), np.zeros(len(problem.mask))

    def pass_on(x, t):
        return x

    def cut(x, t):
        return jax.lax.stop_gradient(x)

    choices = list(itertools.product([(ones, pass_on), (zeros, cut)], repeat=2))

    @jit
    def gradients(*operands):
        by_edges = [make_run(cell, edges=Edges(h, c)) for (h, _), (c, _) in choices]
        by_hand = [make_oracle(cell, problem, h, c) for (_, h), (_, c) in choices]
        return [[grad(run, *operands) for run in runs] for runs in (by_edges, by_hand)]

    by_edges, by_hand = gradients(problem.arguments, None, problem.mask, problem.resets)
    assert_close(by_edges, by_hand)


def test_edge_changes_no_value(x64):
    values = jnp.array([[-0.0, np.inf, np.nan], [1e-310, 1.0, -3.0]])
    factor = jnp.array([0.0, 2.0])
    same, tangent = jax.jvp(lambda x: edge(x, factor), (values,), (values * 0 + 1,))
    np.testing.assert_array_equal(
        np.asarray(same).view(np.int64), np.asarray(values).view(np.int64)
    )
    np.testing.assert_array_equal(tangent[1], [2.0, 2.0, 2.0])
    assert edge(values.astype(jnp.bfloat16), factor).dtype == jnp.bfloat16


def test_one_edge_serves_every_way_and_every_cell(x64):
    cell = BUILT_IN["gru"]
    problem = make_short_problem(cell)
    cut = make_edges(problem.mask.shape).h
    bare = cell._replace(gated=None)
    pairs = (cell, Edges(cut, cut)), (cell, Edges(cut)), (bare, Edges(cut))

    @jit
    def gradients(*operands):
        runs = [make_run(one, edges=edges) for one, edges in pairs]
        return [grad(run, *operands) for run in runs]

    both, one, ungated = gradients(
        problem.arguments, None, problem.mask, problem.resets
    )
    assert_close(one, both)
    assert_close(ungated, both)


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (1, 0)])
def test_edge_under_vmap(x64, axes):
    one_x, one_factor = np.arange(8.0).reshape(2, 4), np.array([0.5, 2.0])
    xs = np.stack([one_x, one_x + 1, one_x - 2])
    factors = np.stack([one_factor, 0 * one_factor, 3 * one_factor])
    if axes[0] is None:
        x, xs = one_x, np.stack([one_x] * 3)
    else:
        x = np.moveaxis(xs, 0, axes[0])
    if axes[1] is None:
        factor, factors = one_factor, np.stack([one_factor] * 3)
    else:
        factor = factors

    def gradient(x, factor):
        return jax.grad(lambda x: jnp.sum(edge(x, factor) ** 2))(x)

    mapped = jax.vmap(gradient, axes)(x, factor)
    assert_close(mapped, jnp.asarray(2 * xs * factors[:, :, None]))


def test_every_pattern_of_cuts_at_once(x64):
    cell = BUILT_IN["lstm"]
    problem = make_short_problem(cell)
    steps = len(problem.mask)
    patterns = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, -1).T
    patterns = np.pad(patterns, [(0, 0), (steps - 3, 0)], constant_values=1.0)

    def gradient(cut, derivative):
        run = make_run(cell, edges=Edges(cut), derivative=derivative)
        return grad(run, problem.arguments, None, problem.mask, problem.resets)

    @jit
    def both(patterns):
        run = {d: functools.partial(gradient, derivative=d) for d in RULES}
        at_once = [jax.vmap(run[d])(patterns) for d in RULES]
        return at_once, jax.lax.map(run["rule"], patterns)

    (rule, plain), alone = both(patterns)
    assert_close(rule, alone)
    assert_close(plain, alone)


RULES = "rule", "autodiff"


def test_state_of_integers_is_refused_by_the_rule():
    cell = BUILT_IN["rnn"]
    params = cell.init(jax.random.key(0), 3, 4)

    def start(params, batch_shape):
        state = cell.initial_state(params, batch_shape)
        return state._replace(h=state.h.astype(jnp.int32))

    counting = cell._replace(initial_state=start)
    with pytest.raises(TypeError, match=r"^state.h: dtype int32; .*autodiff"):
        unroll(counting, params, jnp.ones((5, 2, 3)))
