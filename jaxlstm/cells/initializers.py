"""Initialisers by name: one distribution each for the four kinds of parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.shapes import OptionError, check_sizes
from jaxlstm.types import Array, Key

# (key, shape, hidden_size, dtype) -> Array
Draw = Callable[[Key, tuple[int, ...], int, Any], Array]


class Initializer(NamedTuple):
    """How the parameters of a net are drawn.

    Each field is a function `(key, shape, hidden_size, dtype) -> Array`. Matrices of
    a gated layer are drawn gate by gate, so that each gate is scaled as a layer of
    its own.

    Attributes:
      input: draws the [X, H] block of one gate.
      recurrent: draws the [H, H] block of one gate.
      bias: draws the [H] bias of one gate, or the [Y] bias of a readout.
      readout: draws the [H, Y] weights of a readout.
    """

    input: Draw
    recurrent: Draw
    bias: Draw
    readout: Draw


def _by_shape(draw: Callable[..., Array]) -> Draw:
    return lambda key, shape, hidden_size, dtype: draw(key, shape, dtype)


def _uniform(bound: Callable[[int], float]) -> Draw:
    def draw(key: Key, shape: tuple[int, ...], hidden_size: int, dtype: Any) -> Array:
        limit = bound(hidden_size)
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw


def _orthogonal(
    key: Key, shape: tuple[int, ...], hidden_size: int, dtype: Any
) -> Array:
    # The QR decomposition knows no dtype narrower than float32.
    wide = jnp.promote_types(dtype, jnp.float32)
    return jax.nn.initializers.orthogonal()(key, shape, wide).astype(dtype)


_zeros = _by_shape(jax.nn.initializers.zeros)
_glorot = _by_shape(jax.nn.initializers.glorot_uniform())
_normal_01 = _by_shape(jax.nn.initializers.normal(0.01))
_uniform_hidden = _uniform(lambda hidden_size: 1.0 / math.sqrt(hidden_size))
_uniform_08 = _uniform(lambda hidden_size: 0.08)

INITIALIZERS: dict[str, Initializer] = {
    # Glorot and Bengio, 2010; recurrent weights orthogonal (Saxe et al., 2014), so
    # that at first the state is turned and not scaled.
    "glorot_orthogonal": Initializer(_glorot, _orthogonal, _zeros, _glorot),
    # U(-1/sqrt(H), 1/sqrt(H)), biases included: PyTorch's nn.LSTM and nn.Linear.
    "uniform_hidden": Initializer(*[_uniform_hidden] * 4),
    # U(-.08, .08), biases included: Karpathy's char-rnn.
    "uniform_08": Initializer(*[_uniform_08] * 4),
    # N(0, .01), biases zero: Dive into Deep Learning.
    "normal_01": Initializer(_normal_01, _normal_01, _zeros, _normal_01),
}


def find_initializer(initializer: str | Initializer) -> Initializer:
    """Returns the initialiser of that name, or the given one.

    Raises:
      ValueError: no initialiser has that name.
    """
    if isinstance(initializer, Initializer):
        return initializer
    if initializer not in INITIALIZERS:
        raise OptionError(
            f"initializer: {initializer!r} is unknown; use one of "
            f"{', '.join(INITIALIZERS)}"
        )
    return INITIALIZERS[initializer]


def draw_blocks(
    draw: Draw,
    key: Key,
    shape: tuple[int, ...],
    count: int,
    *,
    hidden_size: int,
    dtype: Any,
) -> Array:
    """Draws `count` blocks of `shape` and joins them along the last axis."""
    keys = jax.random.split(key, count)
    drawn = [draw(k, shape, hidden_size, dtype) for k in keys]
    return jnp.concatenate(drawn, axis=-1)


def draw_gates(
    initializer: str | Initializer,
    key: Key,
    input_size: int,
    hidden_size: int,
    count: int,
    dtype: Any,
) -> tuple[Array, Array, Array]:
    """Draws the weights of a layer of `count` gates, each block by itself.

    Returns:
      w_x [X, count H], w_h [H, count H] and b [count H].

    Raises:
      ValueError: the initialiser's name is unknown, or a size is not positive.
    """
    draw = find_initializer(initializer)
    check_sizes({"input_size": input_size, "hidden_size": hidden_size})
    keys = jax.random.split(key, 3)
    shapes = (input_size, hidden_size), (hidden_size, hidden_size), (hidden_size,)
    draws = draw.input, draw.recurrent, draw.bias
    w_x, w_h, b = (
        draw_blocks(d, k, shape, count, hidden_size=hidden_size, dtype=dtype)
        for d, k, shape in zip(draws, keys, shapes, strict=True)
    )
    return w_x, w_h, b


def check_chrono(chrono: int | None, bias: bool) -> None:
    """Raises OptionError unless biases can be drawn for times up to `chrono`."""
    if chrono is None:
        return
    if chrono < 3:
        raise OptionError(f"chrono: {chrono} is too short a time; use 3 steps or more")
    if not bias:
        raise OptionError("chrono: there is no bias to draw; leave out bias = false")


def set_gate_biases(
    b: Array,
    blocks: Sequence[str],
    key: Key,
    forget_bias: float | None,
    chrono: int | None,
    *,
    coupled: bool = False,
) -> Array:
    """Sets the biases that say how long the cell remembers at first.

    Args:
      b: [G H] as the initialiser drew it.
      blocks: what its G blocks are.
      key: for `chrono`; consumed whole.
      forget_bias: of the forget gate; None leaves it as it is.
      chrono: T_max, or None; see `init_lstm`.
      coupled: whether f = 1 - i, so that the opposite is the input gate's.

    Returns:
      [G H].
    """
    hidden_size = len(b) // len(blocks)
    values: dict[str, Array | float] = {}
    if chrono is not None:
        times = jax.random.uniform(key, (hidden_size,), b.dtype, 1, chrono - 1)
        values["forget"] = jnp.log(times)
        values["input"] = -values["forget"]
    elif forget_bias is not None:
        values["forget"] = forget_bias
        if coupled:
            values["input"] = -forget_bias
    for name, value in values.items():
        if name in blocks:
            start = blocks.index(name) * hidden_size
            b = b.at[start : start + hidden_size].set(value)
    return b
