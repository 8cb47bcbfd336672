"""The GRU whose reset gate acts after the recurrent product."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import Cell, Gate, Gated, GatedWeights, gated_step, read_h
from jaxlstm.cells.initializers import Initializer, draw_gates, find_initializer
from jaxlstm.shapes import check_gates, check_kind
from jaxlstm.types import Array, Key


class GRUParams(NamedTuple):
    """Weights of one GRU layer. Gates stand in the order r, u, n.

    Attributes:
      w_x: [X, 3H] input weights.
      w_h: [H, 3H] recurrent weights.
      b: [3H] bias.
      b_h: [H] bias of the candidate's recurrent product, inside the reset.
    """

    w_x: Array
    w_h: Array
    b: Array
    b_h: Array


class GRUState(NamedTuple):
    """What the cell remembers between two steps.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
    """

    h: Array


def init_gru(
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    initializer: str | Initializer = "glorot_orthogonal",
    dtype: Any = jnp.float32,
) -> GRUParams:
    """Draws the weights of one layer.

    Args:
      key: a key from `jax.random.key`, consumed whole.
      input_size: X.
      hidden_size: H.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.
      dtype: of all parameters.

    Returns:
      The parameters: w_x [X, 3H], w_h [H, 3H], b [3H], b_h [H].

    Raises:
      ValueError: the initialiser's name is unknown.
    """
    key, key_n = jax.random.split(key)
    w_x, w_h, b = draw_gates(initializer, key, input_size, hidden_size, 3, dtype)
    b_h = find_initializer(initializer).bias(key_n, (hidden_size,), hidden_size, dtype)
    return GRUParams(w_x, w_h, b, b_h)


def zero_gru_state(params: GRUParams, batch_shape: tuple[int, ...] = ()) -> GRUState:
    """Returns the state of zeros, h [*batch_shape, H]."""
    return GRUState(jnp.zeros((*batch_shape, params.w_h.shape[0]), params.w_h.dtype))


def _weights(params: GRUParams) -> GatedWeights:
    check_kind(params, GRUParams)
    check_gates(params, 3)
    # The candidate's two products stay apart: by x in the first block of z, by h in
    # the last, with r and u, which take the sum, between them.
    hidden_size = params.w_h.shape[0]
    candidate_first = jnp.roll(params.w_x, hidden_size, axis=-1)
    b = jnp.concatenate([jnp.roll(params.b, hidden_size), params.b_h])
    return GatedWeights(candidate_first, params.w_h, b)


def _scaled_update(
    small: None, state: GRUState, z: Array, factor: Array | None
) -> GRUState:
    del small
    n_x, r, u, n_h = jnp.split(z, 4, axis=-1)
    n = jnp.tanh(n_x + jax.nn.sigmoid(r) * n_h)
    n = n if factor is None else factor * n
    u = jax.nn.sigmoid(u)
    return GRUState((1 - u) * n + u * state.h)


def _update(small: None, state: GRUState, z: Array) -> GRUState:
    return _scaled_update(small, state, z, None)


GRU_GATES = (
    Gate("candidate by x"),
    Gate("reset", "sigmoid"),
    Gate("update", "sigmoid"),
    Gate("candidate by h"),
)
GRU_GATED = Gated(_weights, read_h, _update, GRU_GATES, _scaled_update)
_step = gated_step(GRU_GATED)


def gru_cell(params: GRUParams, state: GRUState, x: Array) -> tuple[GRUState, Array]:
    """Advances the cell by one time step.

        r, u = sigmoid(x W_x + h W_h + b)             reset and update gates
           n = tanh(x W_x + b + r (h W_h + b_h))      candidate
          h' = (1 - u) n + u h

    Args:
      params: weights of the layer.
      state: the state left by the step before, h [..., H].
      x: [..., X] input.

    Returns:
      The next state, and the output h' [..., H].

    References:
      Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, EMNLP
      2014; in the form of its version 1 and of cuDNN, with the reset after the
      product.
    """
    return _step(params, state, x)


def make_gru(*, initializer: str | Initializer = "glorot_orthogonal") -> Cell:
    """Returns the GRU as a `Cell`; the option is that of `init_gru`."""
    init = functools.partial(init_gru, initializer=find_initializer(initializer))
    return Cell(init, zero_gru_state, gru_cell, GRU_GATED)
