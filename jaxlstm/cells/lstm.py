"""The LSTM."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import (
    Cell,
    Gated,
    GatedWeights,
    preactivations,
    read_h,
)
from jaxlstm.cells.form import Form, Small, make_updates
from jaxlstm.cells.initializers import (
    Initializer,
    check_chrono,
    draw_blocks,
    draw_gates,
    find_initializer,
    set_gate_biases,
)
from jaxlstm.shapes import check_gates, check_kind, check_sizes, check_step_input
from jaxlstm.types import Array, Key


class LSTMParams(NamedTuple):
    """Weights of one LSTM layer. Gates stand in the order i, f, g, o.

    Attributes:
      w_x: [X, 4H] input weights.
      w_h: [H, 4H] recurrent weights.
      b: [4H] bias, or None.
    """

    w_x: Array
    w_h: Array
    b: Array | None


class ProjectedLSTMParams(NamedTuple):
    """Weights of one LSTM layer whose output is projected to P numbers.

    Attributes:
      w_x: [X, 4H] input weights.
      w_h: [P, 4H] recurrent weights.
      b: [4H] bias, or None.
      w_p: [H, P] projection.
    """

    w_x: Array
    w_h: Array
    b: Array | None
    w_p: Array


class LSTMState(NamedTuple):
    """What the cell remembers between two steps.

    Attributes:
      h: [..., H] hidden state; also the cell's output. [..., P] where it is projected.
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
    chrono: int | None = None,
    bias: bool = True,
    projection_size: int | None = None,
    initializer: str | Initializer = "glorot_orthogonal",
    dtype: Any = jnp.float32,
) -> LSTMParams | ProjectedLSTMParams:
    """Draws the weights of one layer.

    Args:
      key: a key from `jax.random.key`, consumed whole.
      input_size: X.
      hidden_size: H.
      forget_bias: the bias of the forget gate, whatever the initialiser draws for the
        others. At 1 the cell starts out remembering, so gradients reach far back from
        the first update [1]. None leaves it to the initialiser.
      chrono: T_max, the longest stretch of time to bridge, in steps. The biases of the
        gates are then drawn so that units forget over times from 1 to T_max [3]:
        b_f = log(U(1, T_max - 1)) and b_i = -b_f, whatever `forget_bias` says.
      bias: whether there is one.
      projection_size: P, the size of the output and of what the recurrent weights
        read [2]; None for no projection.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.
      dtype: of all parameters.

    Returns:
      The parameters: w_x [X, 4H], w_h [H, 4H], b [4H]; with a projection w_h
      [P, 4H] and w_p [H, P] too.

    Raises:
      ValueError: the initialiser's name is unknown, P is not positive, or T_max is too
        short.

    References:
      [1] Gers, Schmidhuber and Cummins, Learning to Forget, Neural Computation 12(10),
      2000; Jozefowicz, Zaremba and Sutskever, An Empirical Exploration of Recurrent
      Network Architectures, ICML 2015.
      [2] Sak, Senior and Beaufays, Long Short-Term Memory Recurrent Neural Network
      Architectures for Large Scale Acoustic Modeling, Interspeech 2014.
      [3] Tallec and Ollivier, Can Recurrent Neural Networks Warp Time?, ICLR 2018.
    """
    check_chrono(chrono, bias)
    key_b = key
    if chrono is not None:
        key, key_b = jax.random.split(key)
    keys = [key]
    if projection_size is not None:
        check_sizes({"projection_size": projection_size})
        keys = jax.random.split(key, 3)
    w_x, w_h, b = draw_gates(initializer, keys[0], input_size, hidden_size, 4, dtype)
    b = set_gate_biases(b, Form().blocks, key_b, forget_bias, chrono) if bias else None
    if projection_size is None:
        return LSTMParams(w_x, w_h, b)
    draw = find_initializer(initializer)
    shape = hidden_size, projection_size
    w_h = draw_blocks(
        draw.input, keys[1], shape[::-1], 4, hidden_size=hidden_size, dtype=dtype
    )
    w_p = draw.readout(keys[2], shape, hidden_size, dtype)
    return ProjectedLSTMParams(w_x, w_h, b, w_p)


def zero_state(
    params: LSTMParams | ProjectedLSTMParams, batch_shape: tuple[int, ...] = ()
) -> LSTMState:
    """Returns the state of zeros that a sequence starts from.

    Args:
      params: weights of the layer; they give H and the dtype.
      batch_shape: the batch axes, none by default.

    Returns:
      h and c, [*batch_shape, H] each; h [*batch_shape, P] where it is projected.
    """
    check_kind(params, LSTMParams, ProjectedLSTMParams)
    output_size, columns = params.w_h.shape
    h, c = (
        jnp.zeros((*batch_shape, size), params.w_h.dtype)
        for size in (output_size, columns // 4)
    )
    return LSTMState(h, c)


def _weights(params: LSTMParams | ProjectedLSTMParams) -> GatedWeights:
    check_kind(params, LSTMParams, ProjectedLSTMParams)
    w_p = params.w_p if isinstance(params, ProjectedLSTMParams) else None
    check_gates(params, 4, w_p)
    small = None if w_p is None else Small(w_p)
    return GatedWeights(params.w_x, params.w_h, params.b, small)


_UPDATES = make_updates(Form())
LSTM_GATED = Gated(_weights, read_h, _UPDATES.plain, Form().describe(), _UPDATES.scaled)


def lstm_cell(
    params: LSTMParams | ProjectedLSTMParams, state: LSTMState, x: Array
) -> tuple[LSTMState, Array]:
    """Advances the cell by one time step.

        i, f, o = sigmoid(x W_x + h W_h + b)     input, forget and output gates
              g = tanh(x W_x + h W_h + b)        candidate for the memory
             c' = f c + i g
             h' = o tanh(c')                     or o tanh(c') W_p, if projected

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
    weights = _weights(params)
    check_step_input(x, weights.w_x)
    z = preactivations(weights, x, state.h)
    state = LSTM_GATED.update(weights.small, state, z)
    return state, state.h


def make_lstm(
    *,
    forget_bias: float | None = 1.0,
    chrono: int | None = None,
    bias: bool = True,
    projection_size: int | None = None,
    initializer: str | Initializer = "glorot_orthogonal",
) -> Cell:
    """Returns the LSTM as a `Cell`; the options are those of `init_lstm`."""
    if projection_size is not None:
        check_sizes({"projection_size": projection_size})
    init = functools.partial(
        init_lstm,
        forget_bias=forget_bias,
        chrono=chrono,
        bias=bias,
        projection_size=projection_size,
        initializer=find_initializer(initializer),
    )
    return Cell(init, zero_state, lstm_cell, LSTM_GATED)
