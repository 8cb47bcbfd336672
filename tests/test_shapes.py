"""What a user is told whose arguments do not fit: argument, shapes and axis letters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm import LSTMState, init_lstm, lstm, lstm_cell, zero_state
from jaxlstm.cells import CELLS
from jaxlstm.edges import Edges
from jaxlstm.sequence import unroll
from tests.helpers import B, H, T, X

SHAPES = jax.eval_shape(lambda: init_lstm(jax.random.key(0), X, H))
PARAMS = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), SHAPES)
INPUTS = np.ones((T, B, X), np.float32)


def state(*shape, dtype=np.float32):
    return LSTMState(np.zeros(shape, dtype), np.zeros(shape, dtype))


def refuse(error, *words, inputs=INPUTS, **options):
    """Runs a layer, and compares the words of the error, all in one line."""
    with pytest.raises(error) as caught:
        lstm(PARAMS, inputs, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert message.startswith(words[0])


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [(np.ones((T, B, X + 1)), "(7, 2, 4)"), (np.ones(X), "(3,)"), (1.0, "()")],
)
def test_inputs(inputs, shape):
    words = ["inputs:", shape, "[T, ..., X]", "[X, K]", "(3, 16)", "X = 3"]
    refuse(ValueError, *words, inputs=inputs)


@pytest.mark.parametrize("name", ["state", "reset_state"])
def test_state_of_another_shape(name):
    words = [f"{name}.h:", "(5, 4)", "(2, 4)", "[..., H]", "[T, ..., X]", "(7, 2, 3)"]
    refuse(ValueError, *words, **{name: state(5, H)})
    mixed = LSTMState(np.zeros((B, H), np.float32), np.zeros((B, H + 1), np.float32))
    refuse(ValueError, f"{name}.c:", "(2, 5)", "(2, 4)", **{name: mixed})


@pytest.mark.parametrize("name", ["state", "reset_state"])
def test_state_of_another_structure(name):
    refuse(ValueError, f"{name}:", "LSTMState", **{name: tuple(state(B, H))})


@pytest.mark.parametrize("name", ["state", "reset_state"])
def test_state_of_another_dtype(name):
    half = state(B, H, dtype=np.float16)
    refuse(TypeError, f"{name}.h:", "float16", "float32", "parameters", **{name: half})


def test_only_a_reset_state_is_broadcast():
    last, _ = lstm(PARAMS, INPUTS, reset_state=state(H))
    assert last.h.shape == (B, H)
    refuse(ValueError, "state.h:", "(4,)", "(2, 4)", state=state(H))


@pytest.mark.parametrize("name", ["mask", "resets"])
@pytest.mark.parametrize("shape", [(T + 1,), (B, T), (T, B, 1), ()])
def test_controls(name, shape):
    words = [f"{name}:", str(shape), "[T, ...]", "[T, ..., X]", "(7, 2, 3)", "(7, 2)"]
    refuse(ValueError, *words, **{name: np.ones(shape)})


def test_edges():
    good, bad = np.ones((T, B)), np.ones((B, T))
    for name, edges in [("h", Edges(bad, good)), ("c", Edges(good, bad))]:
        refuse(ValueError, f"edges.{name}:", "(2, 7)", "(7, 2)", edges=edges)
    refuse(TypeError, "edges:", "tuple", "Edges(h, c)", edges=(good, good))


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        ([1.0, 2.0], TypeError, ["dtype float32", "integer"]),
        ([1, 2, 3], ValueError, ["(3,)", "(2,)", "[T, ..., X]", "(7, 2, 3)"]),
        (3, ValueError, ["()", "(2,)"]),
        ([T + 1, 0], ValueError, ["8", "0..T = 7", "[T, ..., X]", "(7, 2, 3)"]),
        ([0, -1], ValueError, ["-1", "0..T = 7"]),
    ],
)
def test_lengths(lengths, error, words):
    refuse(error, "lengths:", *words, lengths=lengths)


def test_known_lengths_are_checked_under_jit_and_traced_ones_are_not():
    run = jax.jit(lambda lengths: lstm(PARAMS, INPUTS, lengths=lengths)[0])
    assert run(np.array([T + 1, 0])).h.shape == (B, H)
    with pytest.raises(ValueError, match="lengths: 8 is not in"):
        jax.jit(lambda: lstm(PARAMS, INPUTS, lengths=np.array([T + 1, 0])))()


@pytest.mark.parametrize("name", ["remat", "derivative"])
def test_options(name):
    choices = {"remat": "'sqrt_step'", "derivative": "'autodiff'"}
    refuse(ValueError, f"{name}:", "'sqr'", choices[name], **{name: "sqr"})


def test_what_a_cell_without_a_gated_form_lacks():
    cell = CELLS["lstm"]()._replace(gated=None)
    with pytest.raises(ValueError, match=r"^compute_dtype: .* no gated form"):
        unroll(cell, PARAMS, INPUTS, compute_dtype=jnp.bfloat16)
    ones = np.ones(T)
    with pytest.raises(ValueError, match=r"^edges.c: .* gated form .* leave it out"):
        unroll(cell, PARAMS, INPUTS, edges=Edges(ones, ones.copy()))


@pytest.mark.parametrize("x", [np.ones((B, X + 1)), np.ones(X - 1), 1.0])
def test_input_of_one_step(x):
    words = (
        r"^x: shape .* does not fit \[\.\.\., X\]; .* \[X, K\] .* \(3, 16\), .*X = 3"
    )
    with pytest.raises(ValueError, match=words) as caught:
        lstm_cell(PARAMS, zero_state(PARAMS), x)
    assert str(np.shape(x)) in str(caught.value)


@pytest.mark.parametrize("name", sorted(CELLS))
def test_input_of_one_step_of_every_cell(name):
    cell = CELLS[name]()
    params = cell.init(jax.random.key(0), X, H)
    with pytest.raises(ValueError, match=r"^x: shape \(2, 4\) does not fit"):
        cell.step(params, cell.initial_state(params, (B,)), np.ones((B, X + 1)))


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("field", ["w_x", "w_h", "b"])
def test_weights_of_another_shape(name, field):
    cell = CELLS[name]()
    params = cell.init(jax.random.key(0), X, H)
    wrong = params._replace(**{field: getattr(params, field)[..., :-1]})
    message = rf"^params.{field}: shape \(.*\) does not fit \[.*H\]; H = {H} by"
    with pytest.raises(ValueError, match=message):
        unroll(cell, wrong, INPUTS)
    with pytest.raises(ValueError, match=message):
        cell.step(wrong, cell.initial_state(params, (B,)), INPUTS[0])


@pytest.mark.parametrize("shape", [(), (1,), (T, 1), (1, B), (B, T)])
def test_mask_is_checked_beside_lengths(shape):
    lengths = np.full(B, T)
    refuse(ValueError, "mask:", mask=np.zeros(shape), lengths=lengths)
