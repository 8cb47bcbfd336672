"""The LSTM's own Jacobians, term by term: by which gate the gradient comes back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells import LSTMParams, LSTMState, zero_state
from jaxlstm.cells.base import preactivations
from jaxlstm.cells.lstm import LSTM_GATED
from jaxlstm.types import Array


class MemoryTerms(NamedTuple):
    """The terms of dc_t/dc_{t-1}, [T, B, H, H] each; entry [i, j] is dc_i/dc_j.

    Attributes:
      direct: along the memory cell, diag(f_t).
      forget, input, candidate: through h_{t-1}, by that gate.
    """

    direct: Array
    forget: Array
    input: Array
    candidate: Array


class HiddenTerms(NamedTuple):
    """The terms of dh_t/dh_{t-1} with c_{t-1} held still, [T, B, H, H] each.

    Attributes:
      output: by the output gate.
      forget, input, candidate: by that gate, through c_t.
    """

    output: Array
    forget: Array
    input: Array
    candidate: Array


def lstm_terms(
    params: LSTMParams, inputs: Array, state: LSTMState | None = None
) -> tuple[MemoryTerms, HiddenTerms]:
    """Takes the two Jacobians of an LSTM's steps apart.

        F_t = diag(c_{t-1} f_t (1 - f_t)) W_hf^T
        I_t = diag(g_t i_t (1 - i_t)) W_hi^T
        G_t = diag(i_t (1 - g_t^2)) W_hg^T
        O_t = diag(tanh(c_t) o_t (1 - o_t)) W_ho^T
        D_t = diag(o_t (1 - tanh(c_t)^2))

        dc_t/dc_{t-1} = diag(f_t) + (F_t + I_t + G_t) D_{t-1}
        dh_t/dh_{t-1} = O_t + D_t (F_t + I_t + G_t)

    The first is that of the composite map from c_{t-1} through h_{t-1} = o_{t-1}
    tanh(c_{t-1}), with o_{t-1} held still. Where f = 1 and the candidate is shut, all
    but diag(f_t) vanish, and the gradient passes as it is: the constant error carousel.

    Args:
      params: weights of the layer.
      inputs: [T, B, X].
      state: before the first step, [B, H] each; zeros by default.

    Returns:
      The terms. At step 0 the state is given, h and c each by itself, and the terms of
      dc_t/dc_{t-1} through h_{t-1} are zero.

    References:
      Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997.
    """
    inputs = jnp.asarray(inputs)
    if state is None:
        state = zero_state(params, inputs.shape[1:-1])
    nothing = jnp.zeros_like(state.c)

    def body(
        carry: tuple[LSTMState, Array], x: Array
    ) -> tuple[tuple[LSTMState, Array], tuple[MemoryTerms, HiddenTerms]]:
        state, slope = carry
        terms, state, slope = step_terms(params, state, slope, x)
        return (state, slope), terms

    return jax.lax.scan(body, (state, nothing), inputs)[1]


def step_terms(
    params: LSTMParams, state: LSTMState, slope: Array, x: Array
) -> tuple[tuple[MemoryTerms, HiddenTerms], LSTMState, Array]:
    """Returns the terms of one step, as `lstm_terms` has them.

    Args:
      params: weights of the layer.
      state: that goes into the step, [B, H] each.
      slope: [B, H] dh_{t-1}/dc_{t-1} = o_{t-1} (1 - tanh(c_{t-1})^2), or zeros where h
        does not come from c.
      x: [B, X].

    Returns:
      The terms [B, H, H], the next state, and the slope that goes with it.
    """
    weights = LSTM_GATED.weights(params)
    z = preactivations(weights, x, state.h)
    z_i, z_f, z_g, z_o = jnp.split(z, 4, axis=-1)
    i, f, g, o = (
        *(jax.nn.sigmoid(z) for z in (z_i, z_f)),
        jnp.tanh(z_g),
        jax.nn.sigmoid(z_o),
    )
    c = f * state.c + i * g
    tanh_c = jnp.tanh(c)
    w_i, w_f, w_g, w_o = jnp.split(params.w_h, 4, axis=-1)

    def by(factor: Array, w: Array) -> Array:
        return factor[..., :, None] * jnp.broadcast_to(w.T, (len(factor), *w.T.shape))

    through = {
        "forget": by(state.c * f * (1 - f), w_f),
        "input": by(g * i * (1 - i), w_i),
        "candidate": by(i * (1 - g**2), w_g),
    }
    new_slope = o * (1 - tanh_c**2)
    memory = MemoryTerms(
        direct=f[..., :, None] * jnp.eye(f.shape[-1], dtype=f.dtype)[None],
        **{name: term * slope[..., None, :] for name, term in through.items()},
    )
    hidden = HiddenTerms(
        output=by(tanh_c * o * (1 - o), w_o),
        **{name: new_slope[..., :, None] * term for name, term in through.items()},
    )
    return (memory, hidden), LSTMState(o * tanh_c, c), new_slope
