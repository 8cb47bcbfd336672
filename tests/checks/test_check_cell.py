"""Cells that are right pass the check; each wrong one fails in its own row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import check_cell
from jaxlstm.cells import CELLS, gated_step, make_lstm
from tests.toy_cells import TOY_CELLS

LSTM = make_lstm()
assert LSTM.gated is not None
GATES = LSTM.gated

READ = "output is read from the state"
OUTPUT = "step returns output(state)"
KEPT = "step keeps structure, shapes, dtypes of the state"
START = "initial_state has leaves [*batch_shape, ...]"
GATED = "gated form makes the step"
DIFFERENCES = "derivative of a step: finite differences"


def failing(report: Any) -> set[str]:
    return {row.identity for row in report.rows if row.passed is False}


@pytest.mark.parametrize(
    "name",
    ["lstm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gru", "leaky_rnn"))],
)
def test_cells_of_the_library_pass(name):
    report = check_cell(CELLS[name]())
    assert report.passed, str(report)
    assert "float64" in report.title
    errors = [
        row.error
        for row in report.rows
        if row.error is not None and row.identity != DIFFERENCES
    ]
    assert len(errors) > 10
    assert max(errors) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY_CELLS)
def test_every_form_of_weights_passes(name):
    report = check_cell(TOY_CELLS[name])
    assert report.passed, str(report)


@pytest.mark.slow
def test_float32_has_bounds_of_its_own():
    report = check_cell(LSTM, dtype="float32")
    assert report.passed, str(report)
    assert "float32" in report.title
    assert report[GATED].bound == 1e-4


@pytest.mark.slow
def test_cell_without_gated_form_passes():
    report = check_cell(LSTM._replace(gated=None))
    assert report.passed, str(report)
    assert report[GATED].passed is None


def swap_gates(small, state, z):
    i, f, g, o = jnp.split(z, 4, axis=-1)
    z = jnp.concatenate([f, i, g, o], axis=-1)
    return GATES.update(small, state, z)


def test_gates_swapped_in_the_gated_form_fail_there():
    report = check_cell(LSTM._replace(gated=GATES._replace(update=swap_gates)))
    assert failing(report) >= {GATED, "masks (over NaN) and resets: a loop"}
    assert report[OUTPUT].passed


class Visible(NamedTuple):
    """The memory alone, so that the output is not in the state."""

    c: Any


def hidden_output(params, state, x):
    h = jnp.tanh(state.c)
    new, output = LSTM.step(
        params, LSTM.initial_state(params, ())._replace(c=h, h=h), x
    )
    return Visible(new.c), output


def test_output_that_is_not_in_the_state_fails_there():
    def initial_state(params, axes):
        return Visible(LSTM.initial_state(params, axes).c)

    cell = LSTM._replace(step=hidden_output, initial_state=initial_state, gated=None)
    assert failing(check_cell(cell)) == {READ}
    other = cell._replace(output=lambda state: state.c)
    assert OUTPUT in failing(check_cell(other))


def test_read_that_is_not_linear_fails_there():
    gated = GATES._replace(read=lambda state: jnp.tanh(state.h))
    cell = LSTM._replace(step=gated_step(gated), gated=gated)
    report = check_cell(cell)
    assert failing(report) >= {"read is linear"}
    assert report[GATED].passed


def change_dtype(params, state, x):
    state, output = LSTM.step(params, state, x)
    return state._replace(c=state.c.astype(jnp.float16)), output


def test_state_that_changes_its_dtype_fails_there():
    report = check_cell(LSTM._replace(step=change_dtype))
    assert failing(report) == {KEPT}
    assert ".c: float16[4] is not float64[4]" in report[KEPT].note
    assert report.rows[-1].identity == "the rest"


def test_initial_state_without_batch_axes_fails_there():
    cell = LSTM._replace(
        initial_state=lambda params, axes: LSTM.initial_state(params, ())
    )
    assert failing(check_cell(cell)) == {START}


def test_draws_of_numpy_inside_a_step_fail():
    random = np.random.default_rng(0)

    def step(params, state, x):
        state, _ = LSTM.step(params, state, x)
        state = state._replace(h=state.h + random.normal())
        return state, state.h

    report = check_cell(LSTM._replace(step=step, gated=None))
    assert "step is pure: traced twice, it gives the same" in failing(report)


def test_examples_that_are_mixed_fail_there():
    def step(params, state, x):
        if x.ndim > 1:
            x = x - x.mean(axis=0, keepdims=True)
        return LSTM.step(params, state, x)

    report = check_cell(LSTM._replace(step=step, gated=None))
    assert "batch axes (): examples one by one" in failing(report)


@jax.custom_jvp
def square(x: Any) -> Any:
    return x * x


square.defjvp(
    lambda primals, tangents: (square(*primals), 2.02 * primals[0] * tangents[0])
)


def test_derivative_of_its_own_fails_in_finite_differences_alone():
    def update(small, state, z):
        return GATES.update(small, state, square(z))

    gated = GATES._replace(update=update)
    cell = LSTM._replace(step=gated_step(gated), gated=gated)
    report = check_cell(cell)
    assert failing(report) == {DIFFERENCES}
    assert "finite_differences=False" in report[DIFFERENCES].note
    assert report[DIFFERENCES]._replace(bound=None, passed=None, note="") == (
        check_cell(cell, finite_differences=False)[DIFFERENCES]._replace(note="")
    )
