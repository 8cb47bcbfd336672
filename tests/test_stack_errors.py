"""What does not fit a stack of LSTM layers is refused in one line."""

import re

import jax
import numpy as np
import pytest

from jaxlstm import (
    Directions,
    LSTMParams,
    LSTMState,
    init_lstm_stack,
    lstm_stack,
    lstm_stack_step,
)
from jaxlstm.cells import GRUState
from jaxlstm.shapes import OptionError
from tests.stacks import B, H, T, X, draw_inputs, draw_stack

SINGLE = {"num_layers": 2}
PAIR = {"num_layers": 2, "bidirectional": True}


def ints(*values):
    return np.array(values)


def make_state(num_layers, bidirectional=False):
    one = LSTMState(np.ones((B, H)), np.ones((B, H)))
    return num_layers * ((Directions(one, one) if bidirectional else one),)


@pytest.mark.parametrize(
    ("options", "changed", "error", "line"),
    [
        (SINGLE, {"inputs": np.ones(X)}, ValueError, "inputs: shape (3,) does not fit"),
        (
            SINGLE,
            {"inputs": np.ones((T, B, X + 1))},
            ValueError,
            "inputs: shape (5, 2, 4) does not fit [T, ..., X]",
        ),
        (SINGLE, {"mask": np.ones((B, T))}, ValueError, "mask: shape (2, 5) does not"),
        (SINGLE, {"resets": np.ones(B)}, ValueError, "resets: shape (2,) does not fit"),
        (
            SINGLE,
            {"lengths": ints(T + 1, 1)},
            ValueError,
            "lengths: 6 is not in 0..T",
        ),
        (
            SINGLE,
            {"lengths": ints(1, -1)},
            ValueError,
            "lengths: -1 is not in 0..T",
        ),
        (
            SINGLE,
            {"lengths": np.ones(B)},
            TypeError,
            "lengths: dtype float64",
        ),
        (
            SINGLE,
            {"lengths": ints(1)},
            ValueError,
            "lengths: shape (1,) is not (2,)",
        ),
        (
            SINGLE,
            {"state": LSTMState(1, 2)},
            ValueError,
            "state: LSTMState is no",
        ),
        (
            SINGLE,
            {"state": make_state(1)},
            ValueError,
            "state: 1 states are not those of 2 layers",
        ),
        (SINGLE, {"state": make_state(**PAIR)}, ValueError, "state[0]: PyTreeDef("),
        (
            SINGLE,
            {"state": 2 * (GRUState(np.ones((B, H))),)},
            ValueError,
            "state[0]: PyTreeDef(",
        ),
        (
            SINGLE,
            {"state": 2 * (LSTMState(np.ones((B, H)), np.ones((B, 1))),)},
            ValueError,
            "state[0].c: shape (2, 1) is not (2, 4)",
        ),
        (
            PAIR,
            {"reset_state": make_state(**SINGLE)},
            ValueError,
            "reset_state[0]: PyTreeDef(",
        ),
        (SINGLE, {"connections": "dense"}, OptionError, "connections: 'dense' is unkn"),
        (SINGLE, {"dropout": 1.0}, OptionError, "dropout: 1.0 is not in [0, 1)"),
        (
            {"num_layers": 1},
            {"params": LSTMParams(np.ones(1), np.ones(1), None)},
            ValueError,
            "params: LSTMParams is no tuple of layers; write (params,)",
        ),
        (SINGLE, {"params": ()}, ValueError, "params: there is no layer"),
        (
            SINGLE,
            {"params": 2 * (LSTMParams(np.ones((X, 4)), np.ones((1, 4)), None),)},
            ValueError,
            "params[1].w_x: shape (3, 4) does not fit [X, K]; what is below",
        ),
        (SINGLE, {"key": 3}, TypeError, "key: 3 is none; use one of jax.random.key"),
        (
            {"num_layers": 1},
            {"state": (LSTMState(*2 * [np.ones((B, H), np.float32)]),)},
            TypeError,
            "state[0].h: dtype float32 is not float64, that of the parameters",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(x64, options, changed, error, line):
    params, _, _ = draw_stack(**options)
    arguments = {"params": params, "inputs": draw_inputs()} | changed
    with pytest.raises(error, match=f"^{re.escape(line)}") as caught:
        jax.eval_shape(lambda: lstm_stack(**arguments))
    assert "\n" not in str(caught.value)


def test_steps_need_a_single_direction(x64):
    params, state, _ = draw_stack(**PAIR)
    with pytest.raises(OptionError, match=r"^params: a layer reads in both directions"):
        lstm_stack_step(params, state, draw_inputs()[0])
    params, state, _ = draw_stack(**SINGLE)
    with pytest.raises(ValueError, match=r"^x: shape \(2, 4\) does not fit"):
        lstm_stack_step(params, state, np.ones((B, X + 1)))


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers"])
def test_sizes_are_positive(name):
    sizes = {"input_size": X, "hidden_size": H, "num_layers": 1} | {name: 0}
    with pytest.raises(OptionError, match=f"^{name}: 0 is not positive"):
        init_lstm_stack(jax.random.key(0), **sizes)
