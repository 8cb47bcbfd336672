"""Small gated cells, one for each capability of `GatedWeights`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.base import Cell, Gated, GatedWeights, gated_step, read_h
from jaxlstm.types import Array, Key


class ToyState(NamedTuple):
    """A hidden state and a memory, [..., H] each."""

    h: Array
    c: Array


def make_toy(
    update: Any,
    *,
    k_x: int,
    k_h: int,
    columns: int | None,
    small: int = 0,
    read: Any = read_h,
) -> Cell:
    """Returns a cell whose parameters are its `GatedWeights`.

    Args:
      update: of the gated form.
      k_x: columns of w_x, in units of H.
      k_h: columns of w_h, in units of H; 0 for none.
      columns: entries of b, in units of H; None for none.
      small: number of small parameters [H].
      read: of the gated form.
    """

    def init(key: Key, input_size: int, hidden_size: int, *, dtype: Any) -> Any:
        keys = jax.random.split(key, 4)
        state = ToyState(*jnp.zeros((2, hidden_size)))

        def draw(key: Key, *shape: int) -> Array:
            return jax.random.normal(key, shape, dtype)

        return GatedWeights(
            w_x=draw(keys[0], input_size, k_x * hidden_size),
            w_h=draw(keys[1], read(state).size, k_h * hidden_size) if k_h else None,
            b=None if columns is None else draw(keys[2], columns * hidden_size),
            small=draw(keys[3], small, hidden_size) if small else None,
        )

    def initial_state(params: Any, batch_shape: tuple[int, ...]) -> ToyState:
        hidden_size = params.w_x.shape[-1] // k_x
        zeros = jnp.zeros((*batch_shape, hidden_size), params.w_x.dtype)
        return ToyState(zeros, zeros)

    gated = Gated(lambda params: params, read, update)
    return Cell(init, initial_state, gated_step(gated), gated)


def _normalise(z: Array) -> Array:
    centred = z - z.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 0.1)


def _normalised(small: Array, state: ToyState, z: Array) -> ToyState:
    z_x, z_h = jnp.split(z, 2, axis=-1)
    scaled = (jnp.broadcast_to(s, z_x.shape) for s in small)
    g = jnp.tanh(next(scaled) * _normalise(z_x) + next(scaled) * _normalise(z_h))
    return ToyState(h=g * jnp.cos(state.c), c=0.5 * state.c + g)


def _peephole(small: Array, state: ToyState, z: Array) -> ToyState:
    i, f, g, o = jnp.split(z, 4, axis=-1)
    p_i, p_f, p_o = (jnp.broadcast_to(p, i.shape) for p in small)
    c = jax.nn.sigmoid(f + p_f * state.c) * state.c
    c = c + jax.nn.sigmoid(i + p_i * state.c) * jnp.tanh(g)
    return ToyState(h=jax.nn.sigmoid(o + p_o * c) * jnp.tanh(c), c=c)


def _without_recurrence(small: None, state: ToyState, z: Array) -> ToyState:
    del small
    f, g = jnp.split(z, 2, axis=-1)
    c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(-f) * g
    return ToyState(h=jnp.tanh(c) + 0.1 * state.h, c=c)


def _without_bias(small: None, state: ToyState, z: Array) -> ToyState:
    del small
    by_x, by_both = jnp.split(z, 2, axis=-1)
    c = jax.nn.sigmoid(by_both) * state.c + jnp.sin(by_x)
    return ToyState(h=jnp.tanh(c), c=c)


def _joined(state: ToyState) -> Array:
    return jnp.concatenate([state.h, state.c], axis=-1)


TOY_CELLS: dict[str, Cell] = {
    "normalised": make_toy(_normalised, k_x=1, k_h=1, columns=2, small=2),
    "without_recurrence": make_toy(_without_recurrence, k_x=2, k_h=0, columns=2),
    "without_bias": make_toy(_without_bias, k_x=2, k_h=1, columns=None),
    "peephole": make_toy(_peephole, k_x=4, k_h=4, columns=4, small=3, read=_joined),
}
