"""The tanh RNN, plain and leaky."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxlstm.cells.base import Cell, Gate, Gated, GatedWeights, gated_step, read_h
from jaxlstm.cells.initializers import Initializer, draw_gates, find_initializer
from jaxlstm.shapes import OptionError, check_gates, check_kind
from jaxlstm.types import Array, Key


class RNNParams(NamedTuple):
    """Weights of one RNN layer.

    Attributes:
      w_x: [X, H] input weights.
      w_h: [H, H] recurrent weights.
      b: [H] bias.
    """

    w_x: Array
    w_h: Array
    b: Array


class RNNState(NamedTuple):
    """What the cell remembers between two steps.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
    """

    h: Array


def init_rnn(
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    initializer: str | Initializer = "glorot_orthogonal",
    dtype: Any = jnp.float32,
) -> RNNParams:
    """Draws the weights of one layer, leaky or not.

    Args:
      key: a key from `jax.random.key`, consumed whole.
      input_size: X.
      hidden_size: H.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.
      dtype: of all parameters.

    Returns:
      The parameters: w_x [X, H], w_h [H, H], b [H].

    Raises:
      ValueError: the initialiser's name is unknown.
    """
    return RNNParams(*draw_gates(initializer, key, input_size, hidden_size, 1, dtype))


def zero_rnn_state(params: RNNParams, batch_shape: tuple[int, ...] = ()) -> RNNState:
    """Returns the state of zeros, h [*batch_shape, H]."""
    return RNNState(jnp.zeros((*batch_shape, params.w_h.shape[0]), params.w_h.dtype))


def _weights(params: RNNParams) -> GatedWeights:
    check_kind(params, RNNParams)
    check_gates(params, 1)
    return GatedWeights(params.w_x, params.w_h, params.b)


def _update(small: None, state: RNNState, z: Array) -> RNNState:
    del small, state
    return RNNState(jnp.tanh(z))


def _leaky_update(small: None, state: RNNState, z: Array, *, leak: float) -> RNNState:
    del small
    return RNNState((1 - leak) * state.h + leak * jnp.tanh(z))


RNN_GATES = (Gate("candidate", "tanh"),)
RNN_GATED = Gated(_weights, read_h, _update, RNN_GATES)
_step = gated_step(RNN_GATED)


def rnn_cell(params: RNNParams, state: RNNState, x: Array) -> tuple[RNNState, Array]:
    """Advances the cell by one time step, h' = tanh(x W_x + h W_h + b).

    Args:
      params: weights of the layer.
      state: the state left by the step before, h [..., H].
      x: [..., X] input.

    Returns:
      The next state, and the output h' [..., H].

    References:
      Elman, Finding Structure in Time, Cognitive Science 14(2), 1990.
    """
    return _step(params, state, x)


def make_rnn(*, initializer: str | Initializer = "glorot_orthogonal") -> Cell:
    """Returns the tanh RNN as a `Cell`; the option is that of `init_rnn`."""
    init = functools.partial(init_rnn, initializer=find_initializer(initializer))
    return Cell(init, zero_rnn_state, rnn_cell, RNN_GATED)


def make_leaky_rnn(
    *, leak: float = 0.1, initializer: str | Initializer = "glorot_orthogonal"
) -> Cell:
    """Returns the leaky tanh RNN, h' = (1 - leak) h + leak tanh(x W_x + h W_h + b).

    Args:
      leak: the share of h replaced at each step, in (0, 1]: time step over time
        constant of a unit. At 1 it is the plain RNN.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.

    Raises:
      ValueError: the leak is not in (0, 1].

    References:
      Jaeger et al., Optimization and Applications of Echo State Networks with
      Leaky-Integrator Neurons, Neural Networks 20(3), 2007.
    """
    if not 0 < leak <= 1:
        raise OptionError(f"leak: {leak} is not in (0, 1]")
    update = functools.partial(_leaky_update, leak=leak)
    gated = Gated(_weights, read_h, update, RNN_GATES)
    init = functools.partial(init_rnn, initializer=find_initializer(initializer))
    return Cell(init, zero_rnn_state, gated_step(gated), gated)
