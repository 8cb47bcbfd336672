"""The minLSTM: gates and candidate of the input alone, so that no step waits."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import Cell, Gate, Gated, GatedWeights, gated_step, read_h
from jaxlstm.cells.initializers import (
    Initializer,
    check_chrono,
    draw_blocks,
    find_initializer,
    set_gate_biases,
)
from jaxlstm.shapes import check_choice, check_kind, check_sizes
from jaxlstm.types import Array, Key

Candidate = Literal["identity", "positive"]

BLOCKS = "input", "forget", "candidate"


class MinLSTMParams(NamedTuple):
    """Weights of one minLSTM layer. Blocks stand in the order i, f, g.

    Attributes:
      w_x: [X, 3H] input weights.
      b: [3H] bias.
    """

    w_x: Array
    b: Array


class MinLSTMState(NamedTuple):
    """What the cell remembers between two steps.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
    """

    h: Array


def init_min_lstm(
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | None = 1.0,
    chrono: int | None = None,
    initializer: str | Initializer = "glorot_orthogonal",
    dtype: Any = jnp.float32,
) -> MinLSTMParams:
    """Draws the weights of one layer.

    Args:
      key: a key from `jax.random.key`, consumed whole.
      input_size: X.
      hidden_size: H.
      forget_bias: the bias of the forget gate, whatever the initialiser draws for the
        others. None leaves it to the initialiser.
      chrono: T_max, the longest stretch of time to bridge, in steps; as in `init_lstm`.
        Since b_i = -b_f, the two gates add up to 1 at first, and units forget over
        just the times that are drawn.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.
      dtype: of all parameters.

    Returns:
      The parameters: w_x [X, 3H], b [3H].

    Raises:
      ValueError: the initialiser's name is unknown, a size is not positive, or T_max is
        too short.
    """
    check_sizes({"input_size": input_size, "hidden_size": hidden_size})
    check_chrono(chrono, True)
    draw = find_initializer(initializer)
    key_w, key_b, key_times = jax.random.split(key, 3)
    w_x, b = (
        draw_blocks(d, k, shape, len(BLOCKS), hidden_size=hidden_size, dtype=dtype)
        for d, k, shape in (
            (draw.input, key_w, (input_size, hidden_size)),
            (draw.bias, key_b, (hidden_size,)),
        )
    )
    b = set_gate_biases(b, BLOCKS, key_times, forget_bias, chrono)
    return MinLSTMParams(w_x, b)


def zero_min_lstm_state(
    params: MinLSTMParams, batch_shape: tuple[int, ...] = ()
) -> MinLSTMState:
    """Returns the state of zeros, h [*batch_shape, H]."""
    hidden_size = params.w_x.shape[-1] // len(BLOCKS)
    return MinLSTMState(jnp.zeros((*batch_shape, hidden_size), params.w_x.dtype))


def _weights(params: MinLSTMParams) -> GatedWeights:
    check_kind(params, MinLSTMParams)
    shape = jnp.shape(params.w_x)
    if len(shape) != 2 or shape[1] % len(BLOCKS):
        raise ValueError(f"params.w_x: shape {shape} does not fit [X, 3H]")
    if jnp.shape(params.b) != shape[1:]:
        raise ValueError(
            f"params.b: shape {jnp.shape(params.b)} does not fit [3H]; H = "
            f"{shape[1] // len(BLOCKS)} by params.w_x [X, 3H] of shape {shape}"
        )
    return GatedWeights(params.w_x, None, params.b)


def _positive(z: Array) -> Array:
    """Returns z + 1/2 from 0 on, sigmoid(z) below; continuous, and above 0."""
    return jnp.where(z >= 0, z + 0.5, jax.nn.sigmoid(z))


def _gate_values(
    small: None, state: MinLSTMState, z: Array, *, positive: bool
) -> dict[str, Array]:
    """Returns the shares of candidate and state, which add up to 1, and the former."""
    del small, state
    i, f, g = jnp.split(z, len(BLOCKS), axis=-1)
    # f / (f + i) of the gates is sigmoid(log f - log i), which no gate that is shut
    # turns into 0 / 0.
    balance = jax.nn.softplus(-i) - jax.nn.softplus(-f)
    return {
        "input": jax.nn.sigmoid(-balance),
        "forget": jax.nn.sigmoid(balance),
        "candidate": _positive(g) if positive else g,
    }


def _scaled_update(
    small: None, state: MinLSTMState, z: Array, factor: Array | None, *, positive: bool
) -> MinLSTMState:
    values = _gate_values(small, state, z, positive=positive)
    i, f, g = (values[name] for name in BLOCKS)
    g = g if factor is None else factor * g
    return MinLSTMState(f * state.h + i * g)


def _update(
    small: None, state: MinLSTMState, z: Array, *, positive: bool
) -> MinLSTMState:
    return _scaled_update(small, state, z, None, positive=positive)


def _make_gated(candidate: Candidate) -> Gated:
    positive = candidate == "positive"
    return Gated(
        _weights,
        read_h,
        functools.partial(_update, positive=positive),
        tuple(map(Gate, BLOCKS)),
        functools.partial(_scaled_update, positive=positive),
        functools.partial(_gate_values, positive=positive),
        linear=True,
    )


GATED: dict[Candidate, Gated] = {
    "identity": _make_gated("identity"),
    "positive": _make_gated("positive"),
}
_step = gated_step(GATED["identity"])


def min_lstm_cell(
    params: MinLSTMParams, state: MinLSTMState, x: Array
) -> tuple[MinLSTMState, Array]:
    """Advances the cell by one time step.

        i, f = sigmoid(x W_x + b)         input and forget gates
           g = x W_x + b                  candidate
          h' = f/(f + i) h + i/(f + i) g

    Args:
      params: weights of the layer.
      state: the state left by the step before, h [..., H].
      x: [..., X] input.

    Returns:
      The next state, and the output h' [..., H].

    References:
      Feng, Tung, Ahmed, Bengio and Hajimirsadeghi, Were RNNs All We Needed?, 2024; its
      length-independent scaling, the sum of the two gates being 1.
    """
    return _step(params, state, x)


def make_min_lstm(
    *,
    candidate: Candidate = "identity",
    forget_bias: float | None = 1.0,
    chrono: int | None = None,
    initializer: str | Initializer = "glorot_orthogonal",
) -> Cell:
    """Returns the minLSTM as a `Cell`, a linear recurrence.

    Args:
      candidate: "identity"; or "positive": g(z) = z + 1/2 from 0 on, sigmoid(z) below,
        with which the paper computes in logarithms.
      forget_bias: as in `init_min_lstm`, and so are `chrono` and `initializer`.
      chrono: T_max.
      initializer: a name of `INITIALIZERS`, or an `Initializer`.

    Raises:
      ValueError: an option is unknown.
    """
    check_choice("candidate", candidate, Candidate)
    check_chrono(chrono, True)
    init = functools.partial(
        init_min_lstm,
        forget_bias=forget_bias,
        chrono=chrono,
        initializer=find_initializer(initializer),
    )
    gated = GATED[candidate]
    return Cell(init, zero_min_lstm_state, gated_step(gated), gated)
