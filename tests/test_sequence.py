"""A cell over time: against a loop in Python that runs one sequence by itself."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState, init_lstm, lstm, lstm_cell, zero_state
from jaxlstm.cells import CELLS
from jaxlstm.sequence import unroll
from tests.helpers import B, H, T, X, assert_close, jit, loop, make_problem

CELL = CELLS["lstm"]()
ZERO = LSTMState(np.zeros((B, H)), np.zeros((B, H)))


def pick(tree, n, axis=0):
    return jax.tree.map(lambda leaf: jnp.take(leaf, n, axis), tree)


def by_loop(
    problem, *, mask=None, resets=None, reset_state=ZERO, cell=CELL, reverse=False
):
    """Runs each sequence of a problem by itself, [T, X], and stacks the results."""
    params, inputs, state, *_ = problem.arguments

    def advance(state, x, t):
        return cell.step(params, state, x)[0]

    pairs = [
        loop(
            advance,
            inputs[:, n],
            pick(state, n),
            pick(reset_state, n),
            mask=None if mask is None else mask[:, n],
            resets=None if resets is None else resets[:, n],
            reverse=reverse,
        )
        for n in range(B)
    ]
    lasts, states = zip(*pairs, strict=True)
    return (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *lasts),
        jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *states),
    )


def sequence(problem, cell=CELL, **options):
    return unroll(cell, problem.params, problem.inputs, problem.state, **options)


def make_full_problem(cell=CELL, **options):
    """Returns a problem without NaN, for options that leave no step out."""
    problem = make_problem(cell, **options)
    filler = np.random.default_rng(8).normal(size=problem.inputs.shape)
    inputs = np.where(np.isnan(problem.inputs), filler, problem.inputs)
    return problem._replace(inputs=inputs)


def pair(options, **same):
    """Returns (by the sequence, by the loop) under the same options."""
    full, masked = make_full_problem(), make_problem(CELL)
    problem = masked if "mask" in options else full
    return sequence(problem, **options, **same), by_loop(problem, **options, **same)


@pytest.mark.parametrize("reverse", [False, True])
def test_sequence_is_a_loop(x64, reverse):
    """Mask, resets and the state of a reset, alone and together."""
    problem = make_problem(CELL)
    mask, resets = {"mask": problem.mask}, {"resets": problem.resets}
    given = {"reset_state": problem.reset_state}
    first = np.zeros((T, B))
    first[0] = first[-1, 1] = 1
    choices = {
        "plain": {},
        "mask": mask,
        "resets to zeros": resets,
        "resets to the given state": resets | given,
        "mask and resets": mask | resets | given,
        "resets at the ends": {"resets": first} | given,
    }
    pairs = jit(lambda: {k: pair(o, reverse=reverse) for k, o in choices.items()})()
    for name, (actual, expected) in pairs.items():
        assert_close({name: actual}, {name: expected})


def test_reset_reaches_the_last_state_in_reverse(x64):
    problem = make_full_problem()
    resets = np.zeros((T, B))
    resets[0, 1] = 1
    last, states = jit(
        lambda: sequence(
            problem, resets=resets, reset_state=problem.reset_state, reverse=True
        )
    )()
    assert_close(pick(last, 1), pick(problem.reset_state, 1))
    assert_close(pick(last, 0), pick(pick(states, 0), 0))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_are_those_of_a_loop(x64, reverse):
    problem = make_problem(CELL)

    def gradients(run):
        def loss(params, state, reset_state):
            changed = problem._replace(params=params, state=state)
            outputs = run(
                changed, **problem.controls, reset_state=reset_state, reverse=reverse
            )
            terms = jax.tree.map(lambda y: jnp.sum(y**2 + jnp.sin(3 * y)), outputs)
            return jnp.sum(jnp.stack(jax.tree.leaves(terms)))

        arguments = problem.params, problem.state, problem.reset_state
        return jax.grad(loss, argnums=(0, 1, 2))(*arguments)

    actual, expected = jit(lambda: (gradients(sequence), gradients(by_loop)))()
    assert_close(actual, expected)


@pytest.mark.parametrize("name", ["gru", "rnn", "leaky_rnn"])
def test_other_cells_are_loops_too(x64, name):
    cell = CELLS[name]()
    problem = make_problem(cell)
    options = problem.controls | {"reset_state": problem.reset_state, "cell": cell}
    actual, expected = jit(
        lambda: (sequence(problem, **options), by_loop(problem, **options))
    )()
    assert_close(actual, expected)


def test_cell_without_a_gated_form_takes_the_same_options(x64):
    cell = CELL._replace(gated=None)
    problem = make_problem(CELL)
    options = problem.controls | {"reset_state": problem.reset_state, "reverse": True}
    plain, gated = jit(
        lambda: (sequence(problem, cell, **options), sequence(problem, **options))
    )()
    assert_close(plain, gated)


def test_lengths_are_a_mask_on_the_right(x64):
    problem = make_full_problem()
    lengths = np.array([T - 3, 0])
    short = np.arange(T)[:, None] < lengths
    inputs = np.where(short[..., None], problem.inputs, np.nan)
    padded = problem._replace(inputs=inputs)
    hole = np.ones(T)
    hole[1] = 0

    def both():
        by_lengths = sequence(padded, lengths=lengths)
        with_hole = sequence(padded, lengths=lengths, mask=hole)
        expected = by_loop(padded, mask=short)
        expected_with_hole = by_loop(padded, mask=short * hole[:, None])
        return (by_lengths, with_hole), (expected, expected_with_hole)

    actual, expected = jit(both)()
    assert_close(actual, expected)
    assert_close(pick(actual[0][0], 1), pick(problem.state, 1))


def test_reverse_reads_each_sequence_within_its_own_length(x64):
    problem = make_full_problem()
    lengths = np.array([T - 3, T])

    def alone(n):
        """Runs one sequence forward, its own steps in reversed order."""
        own = problem.inputs[: lengths[n], n][::-1]
        last, states = unroll(CELL, problem.params, own, pick(problem.state, n))
        return last, jax.tree.map(lambda y: y[::-1], states)

    (last, states), singles = jit(
        lambda: (
            sequence(problem, lengths=lengths, reverse=True),
            [alone(n) for n in range(B)],
        )
    )()
    for n, single in enumerate(singles):
        within = jax.tree.map(lambda y, n=n: y[: lengths[n], n], states)
        assert_close((pick(last, n), within), single)


def test_what_lacks_batch_axes_holds_for_the_whole_batch(x64):
    problem = make_full_problem()
    mask, resets = problem.mask[:, 0], problem.resets[:, 0]
    spread = {
        "mask": np.stack([mask, mask], 1),
        "resets": np.stack([resets, resets], 1),
    }
    actual, expected = jit(
        lambda: (
            sequence(problem, mask=mask, resets=resets),
            by_loop(problem, **spread),
        )
    )()
    assert_close(actual, expected)


def test_batch_axes_are_none_one_or_two(x64):
    problem = make_problem(CELL)
    params, *sequences = problem.arguments
    sequences = [*sequences, problem.mask, problem.resets]
    axes = [1, 0, 0, 1, 1]

    def run(inputs, state, reset_state, mask, resets):
        options = {"mask": mask, "resets": resets, "reset_state": reset_state}
        return unroll(CELL, params, inputs, state, **options)

    def move(function):
        return [
            jax.tree.map(functools.partial(function, axis=axis), tree)
            for tree, axis in zip(sequences, axes, strict=True)
        ]

    def runs():
        one = run(*sequences)
        none = run(*move(lambda x, axis: jnp.take(x, 1, axis)))
        two = run(*move(lambda x, axis: jnp.expand_dims(x, axis + 1)))
        return one, none, two

    one, none, two = jit(runs)()
    assert_close(none, (pick(one[0], 1), pick(one[1], 1, axis=1)))
    squeezed = (pick(two[0], 0, axis=1), pick(two[1], 0, axis=2))
    assert_close(squeezed, one)


@pytest.mark.parametrize("remat", ["none", "sqrt"])
@pytest.mark.parametrize("reverse", [False, True])
def test_no_steps_leave_the_state(x64, remat, reverse):
    problem = make_full_problem(steps=3)
    nothing = problem._replace(inputs=problem.inputs[:0])
    options = {"mask": np.ones((0, B)), "resets": np.ones((0, B))}

    def loss(state):
        run = nothing._replace(state=state)
        last, states = sequence(run, remat=remat, reverse=reverse, **options)
        return jnp.sum(last.h * 2), (last, states)

    grads, (last, states) = jit(jax.grad(loss, has_aux=True))(problem.state)
    assert_close(last, problem.state)
    assert states.h.shape == (0, B, H)
    assert_close(grads, LSTMState(np.full((B, H), 2.0), np.zeros((B, H))))


def test_splitting_a_sequence_changes_nothing(x64):
    problem = make_problem(CELL)
    options = problem.controls | {"reset_state": problem.reset_state}

    def split():
        state, parts = problem.state, []
        for part in (slice(0, 1), slice(1, 4), slice(4, T)):
            here = problem._replace(inputs=problem.inputs[part], state=state)
            cut = {k: options[k][part] for k in ("mask", "resets")}
            state, states = sequence(here, reset_state=problem.reset_state, **cut)
            parts.append(states)
        return state, jax.tree.map(lambda *y: jnp.concatenate(y), *parts)

    whole, parts = jit(lambda: (sequence(problem, **options), split()))()
    assert_close(parts, whole)


@pytest.mark.parametrize("steps", [1, 2, 7, 9, 10])
def test_remat_changes_nothing(x64, steps):
    problem = make_full_problem(steps=max(steps, 3))
    cut = {"mask": problem.mask[:steps], "resets": problem.resets[:steps]}

    def gradients(remat, reverse):
        def loss(params, inputs, state, reset_state):
            outputs = unroll(
                CELL,
                params,
                inputs,
                state,
                reset_state=reset_state,
                remat=remat,
                reverse=reverse,
                **cut,
            )
            terms = jax.tree.map(lambda y: jnp.sum(y**2 + jnp.sin(3 * y)), outputs)
            return jnp.sum(jnp.stack(jax.tree.leaves(terms))), outputs

        params, inputs, *states = problem.arguments
        grad = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        return grad(params, inputs[:steps], *states)

    kinds = ["none", "sqrt"] + ["step", "sqrt_step"] * (steps == 10)
    results = jit(
        lambda: [[gradients(k, reverse) for k in kinds] for reverse in (False, True)]
    )()
    for none, *others in results:
        assert_close(others, [none] * len(others))


def test_remat_saves_memory():
    params = init_lstm(jax.random.key(0), X, H)
    inputs = jnp.ones((256, B, X))

    def temporaries(remat):
        def loss(params):
            return lstm(params, inputs, remat=remat)[1].sum()

        analysis = jit(jax.grad(loss)).lower(params).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    sizes = [temporaries(remat) for remat in ("none", "step", "sqrt")]
    none, step, sqrt = sizes
    assert sqrt < step < none
    # A sixteenth of the states, and z within one chunk of sixteen steps.
    assert sqrt < none / 5


def test_bfloat16_products_stay_near_float32():
    """Values, gradients and dtypes when products take bfloat16 factors.

    A factor is rounded to within u = 2^-9, so a product of two is off by 2 u of
    sum |h| |w|, and a preactivation by 2 u (X + H) max |h| max |w|. Inputs and weights
    are at most 1/2, h at most 1, so that is d = 2 u (X + H) / 2 = .014. The slope of
    sigmoid is at most 1/4 and that of tanh 1; each step adds at most 2 d to c, and T
    steps at most 2 T d to any state, .19. Gradients have the same factors, and are held
    to the same share of their largest entry.
    """
    bound = 2 * T * (2 * 2**-9 * (X + H) / 2)
    rng = np.random.default_rng(0)
    shapes = {"w_x": (X, 4 * H), "w_h": (H, 4 * H), "b": (4 * H,)}
    drawn = {k: rng.uniform(-0.5, 0.5, shape) for k, shape in shapes.items()}
    params = init_lstm(jax.random.key(0), X, H)._replace(
        **{k: jnp.asarray(v, jnp.float32) for k, v in drawn.items()}
    )
    inputs = jnp.asarray(rng.uniform(-0.5, 0.5, (T, B, X)), jnp.float32)
    state = jax.tree.map(lambda x: x + 0.5, zero_state(params, (B,)))

    def run(compute_dtype, derivative):
        def loss(*arguments):
            outputs = lstm(
                *arguments, compute_dtype=compute_dtype, derivative=derivative
            )
            return jnp.sum(outputs[1] ** 2), outputs

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(params, inputs, state)

    choices = [(None, "rule"), (jnp.bfloat16, "rule"), (jnp.bfloat16, "autodiff")]
    full, *halves = jit(lambda: [run(*choice) for choice in choices])()
    for half in halves:
        assert_close(half, full, bound)
        with pytest.raises(AssertionError):
            assert_close(half, full, 2**-16)
    assert_close(halves[0], halves[1], bound / 10)
    assert {leaf.dtype for leaf in jax.tree.leaves(halves)} == {jnp.dtype("float32")}


def test_float32_stays_near_float64(x64):
    problem = make_problem(CELL)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), problem)
    options = problem.controls | {"reset_state": problem.reset_state}
    options_32 = single.controls | {"reset_state": single.reset_state}
    (last, states), wide = jit(
        lambda: (sequence(single, **options_32), sequence(problem, **options))
    )()
    assert {y.dtype for y in jax.tree.leaves((last, states))} == {jnp.dtype("float32")}
    # Each step adds a few roundings of 2^-24, of values of about one.
    narrowed = jax.tree.map(lambda y: y.astype(jnp.float32), wide)
    assert_close((last, states), narrowed, 10 * T * 2**-24)


def test_partial_cell_is_a_body_of_scan(x64):
    params, inputs, state, *_ = make_full_problem()
    (last, outputs), (scanned, scanned_outputs) = jit(
        lambda: (
            lstm(params, inputs, state),
            jax.lax.scan(functools.partial(lstm_cell, params), state, inputs),
        )
    )()
    assert_close((last, outputs), (scanned, scanned_outputs))


def test_outputs_of_masked_steps_are_zero(x64):
    problem = make_problem(CELL)
    lengths = np.array([T - 1, T])
    short = np.arange(T)[:, None] < lengths

    def run(**options):
        return lstm(problem.params, problem.inputs, problem.state, **options)

    (_, outputs), (_, cut), states = jit(
        lambda: (
            run(mask=problem.mask),
            run(mask=problem.mask, lengths=lengths),
            sequence(problem, mask=problem.mask)[1],
        )
    )()
    masked = np.where(problem.mask[..., None] != 0, states.h, 0.0)
    assert_close(outputs, masked)
    assert_close(cut, np.where(short[..., None], masked, 0.0))
    assert (np.asarray(states.h)[problem.mask == 0] != 0).all()


def test_default_state_is_the_cells_own(x64):
    problem = make_full_problem()
    default, given = jit(
        lambda: (
            lstm(problem.params, problem.inputs),
            lstm(problem.params, problem.inputs, ZERO),
        )
    )()
    assert_close(default, given)


def test_sequence_is_traced_once():
    params = init_lstm(jax.random.key(0), X, H)
    run = jax.jit(chex.assert_max_traces(lstm, n=1))
    lengths = np.arange(1, B + 1)
    (state, first) = run(params, jnp.ones((T, B, X)), None, lengths=lengths)
    (_, second) = run(params, jnp.zeros((T, B, X)), None, lengths=lengths + 1)
    assert state.h.shape == (B, H)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("remat", ["none", "sqrt_step"])
def test_longer_sequences_make_no_longer_programs(remat):
    params = init_lstm(jax.random.key(0), X, H)

    def count_lines(steps):
        inputs = jnp.ones((steps, B, X))
        grad = jax.grad(lambda params: lstm(params, inputs, remat=remat)[1].sum())
        return len(str(jax.make_jaxpr(grad)(params)).splitlines())

    assert count_lines(16) == count_lines(64)
