"""The LSTM."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.base import (
    Cell,
    Gate,
    Gated,
    GatedWeights,
    preactivations,
    read_h,
)
from jaxlstm.cells.initializers import Initializer, draw_gates, find_initializer
from jaxlstm.shapes import check_gates, check_step_input
from jaxlstm.types import Array, Key


class LSTMParams(NamedTuple):
    """Weights of one LSTM layer. Gates stand in the order i, f, g, o.

    Attributes:
      w_x: [X, 4H] input weights.
      w_h: [H, 4H] recurrent weights.
      b: [4H] bias.
    """

    w_x: Array
    w_h: Array
    b: Array


class LSTMState(NamedTuple):
    """What the cell remembers between two steps.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
      c: [..., H] memory cell.
    """

    h: Array
    c: Array


def init_lstm(
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | None = 1.0,
    initializer: str | Initializer = "glorot_orthogonal",
    dtype: Any = jnp.float32,
) -> LSTMParams:
    """Draws the weights of one layer.

    Args:
      key: a key from `jax.random.key`, consumed whole.
      input_size: X.
      hidden_size: H.
      forget_bias: the bias of the forget gate, whatever the initialiser draws for the
        others. At 1 the cell starts out remembering, so gradients reach far back from
        the first update [1]. None leaves it to the initialiser.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.
      dtype: of all parameters.

    Returns:
      The parameters: w_x [X, 4H], w_h [H, 4H], b [4H].

    Raises:
      ValueError: the initialiser's name is unknown.

    References:
      [1] Gers, Schmidhuber and Cummins, Learning to Forget, Neural Computation 12(10),
      2000; Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent
      Network Architectures, ICML 2015.
    """
    w_x, w_h, b = draw_gates(initializer, key, input_size, hidden_size, 4, dtype)
    if forget_bias is not None:
        b = b.at[hidden_size : 2 * hidden_size].set(forget_bias)
    return LSTMParams(w_x, w_h, b)


def zero_state(params: LSTMParams, batch_shape: tuple[int, ...] = ()) -> LSTMState:
    """Returns the state of zeros that a sequence starts from.

    Args:
      params: weights of the layer; they give H and the dtype.
      batch_shape: the batch axes, none by default.

    Returns:
      h and c, [*batch_shape, H] each.
    """
    hidden_size, _ = params.w_h.shape
    zeros = jnp.zeros((*batch_shape, hidden_size), params.w_h.dtype)
    return LSTMState(h=zeros, c=zeros)


def _update(small: None, state: LSTMState, z: Array) -> LSTMState:
    del small
    # sigmoid(z) = tanh(z / 2) / 2 + 1/2: all four gates are one tanh.
    hidden_size = state.c.shape[-1]
    half = np.repeat([0.5, 0.5, 1.0, 0.5], hidden_size)
    half = jnp.broadcast_to(jnp.asarray(half, z.dtype), z.shape)
    gates = jnp.tanh(z * half) * half + (1 - half)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = f * state.c + i * g
    return LSTMState(h=o * jnp.tanh(c), c=c)


def _weights(params: LSTMParams) -> GatedWeights:
    check_gates(params, 4)
    return GatedWeights(params.w_x, params.w_h, params.b)


LSTM_GATES = (
    Gate("input", "sigmoid"),
    Gate("forget", "sigmoid"),
    Gate("candidate", "tanh"),
    Gate("output", "sigmoid"),
)
LSTM_GATED = Gated(_weights, read_h, _update, LSTM_GATES)


def lstm_cell(
    params: LSTMParams, state: LSTMState, x: Array
) -> tuple[LSTMState, Array]:
    """Advances the cell by one time step.

        i, f, o = sigmoid(x W_x + h W_h + b)     input, forget and output gates
              g = tanh(x W_x + h W_h + b)        candidate for the memory
             c' = f c + i g
             h' = o tanh(c')

    `functools.partial(lstm_cell, params)` is a body for `jax.lax.scan`.

    Args:
      params: weights of the layer.
      state: the state (h, c) left by the step before, [..., H] each.
      x: [..., X] input.

    Returns:
      The next state (h', c'), and the output h', [..., H] each.

    References:
      Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8),
      1997; with the forget gate of Gers, Schmidhuber and Cummins, Learning to
      Forget, Neural Computation 12(10), 2000. No peepholes.
    """
    check_step_input(x, params.w_x)
    z = preactivations(_weights(params), x, state.h)
    state = _update(None, state, z)
    return state, state.h


def make_lstm(
    *,
    forget_bias: float | None = 1.0,
    initializer: str | Initializer = "glorot_orthogonal",
) -> Cell:
    """Returns the LSTM as a `Cell`; the options are those of `init_lstm`."""
    init = functools.partial(
        init_lstm, forget_bias=forget_bias, initializer=find_initializer(initializer)
    )
    return Cell(init, zero_state, lstm_cell, LSTM_GATED)
