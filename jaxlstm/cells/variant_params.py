"""Parameters and states of the variants of the LSTM: drawn, begun with, and checked."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm.cells.form import LOG_OF_ZERO, Form
from jaxlstm.cells.initializers import (
    Initializer,
    draw_blocks,
    draw_gates,
    set_gate_biases,
)
from jaxlstm.cells.lstm import LSTMState
from jaxlstm.shapes import check_gates, check_heads, check_heads_of, check_kind
from jaxlstm.types import Array, Key

Heads = int | Literal["diagonal"]


class LSTMVariantParams(NamedTuple):
    """Weights of one layer of a variant of the LSTM.

    The G blocks of z are those that there are of i, f, g, o, in this order.

    Attributes:
      w_x: [X, G H] input weights.
      w_h: [R, G H] recurrent weights, R = H or, where the output is projected, P. Or
        [N, H/N, G, H/N] of N heads, which do not read each other.
      b: [G H] bias, or None.
      w_p: [H, P] projection, or None.
      peepholes: [p, H] on the memory, of the p gates that there are, in the order i,
        f, o; or None.
      w_gates: [p H, p H] on the gates of the step before, from and to those of the same
        order; or None.
      w_mx: [X, H] on the input, where it multiplies the hidden state; or None.
      w_mh: [H, H] on the hidden state, where the input multiplies it; or None.
      scale_x: [G H] gain of the normalised x W_x, or None.
      scale_h: [G H] gain of the normalised h W_h, or None.
      scale_c: [H] gain of the normalised memory, or None.
      shift_c: [H] bias of the normalised memory, or None.
    """

    w_x: Array
    w_h: Array
    b: Array | None = None
    w_p: Array | None = None
    peepholes: Array | None = None
    w_gates: Array | None = None
    w_mx: Array | None = None
    w_mh: Array | None = None
    scale_x: Array | None = None
    scale_h: Array | None = None
    scale_c: Array | None = None
    shift_c: Array | None = None


class GateRecurrentState(NamedTuple):
    """What a cell remembers whose gates read each other.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
      c: [..., H] memory cell.
      gates: [..., p H] values of the gates, in the order i, f, o.
    """

    h: Array
    c: Array
    gates: Array


class ExponentialState(NamedTuple):
    """What a cell with exponential gates remembers.

    Attributes:
      h: [..., H] hidden state; also the cell's output.
      c: [..., H] memory cell, divided by its normaliser n.
      m: [..., H] log n.
    """

    h: Array
    c: Array
    m: Array


class Layout(NamedTuple):
    """What is there beside the form, and at which sizes."""

    form: Form
    bias: bool
    heads: Heads
    projection_size: int | None


def init_variant(
    layout: Layout,
    draw: Initializer,
    key: Key,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | None,
    chrono: int | None,
    dtype: Any = jnp.float32,
) -> LSTMVariantParams:
    """Draws the weights of one layer.

    Args:
      layout: what there is to draw.
      draw: how.
      key: consumed whole.
      input_size: X.
      hidden_size: H.
      forget_bias: as in `init_lstm`.
      chrono: as in `init_lstm`.
      dtype: of all parameters.

    Raises:
      OptionError: the heads do not divide H.
    """
    form, size = layout.form, layout.projection_size
    count, gates = len(form.blocks), len(form.gates)
    key_z, key_h, key_p, key_c, key_g, key_m, key_b = jax.random.split(key, 7)
    w_x, w_h, b = draw_gates(draw, key_z, input_size, hidden_size, count, dtype)

    def draw_matrix(kind: Any, key: Key, *shape: int, blocks: int = 1) -> Array:
        return draw_blocks(
            kind, key, shape, blocks, hidden_size=hidden_size, dtype=dtype
        )

    extra: dict[str, Array] = {}
    if size is not None:
        extra["w_p"] = draw_matrix(draw.readout, key_p, hidden_size, size)
        w_h = draw_matrix(draw.input, key_h, size, hidden_size, blocks=count)
    num_heads = hidden_size if layout.heads == "diagonal" else layout.heads
    if num_heads != 1 or layout.heads == "diagonal":
        width = check_heads(num_heads, hidden_size)
        w_h = jax.vmap(
            lambda key: draw_matrix(draw.recurrent, key, width, width, blocks=count)
        )(jax.random.split(key_h, num_heads))
        w_h = w_h.reshape(num_heads, width, count, width)
    if form.peepholes:
        drawn = draw_matrix(draw.bias, key_c, hidden_size, blocks=gates)
        extra["peepholes"] = drawn.reshape(gates, hidden_size)
    if form.gate_recurrence:
        extra["w_gates"] = jnp.concatenate(
            [
                draw_matrix(draw.recurrent, k, hidden_size, hidden_size, blocks=gates)
                for k in jax.random.split(key_g, gates)
            ]
        )
    if form.multiplicative:
        key_x, key_h = jax.random.split(key_m)
        extra["w_mx"] = draw_matrix(draw.input, key_x, input_size, hidden_size)
        extra["w_mh"] = draw_matrix(draw.recurrent, key_h, hidden_size, hidden_size)
    if form.layer_norm != "none":
        ones = jnp.ones(count * hidden_size, dtype)
        extra |= {"scale_x": ones, "scale_h": ones}
        extra["scale_c"] = ones[:hidden_size]
        extra["shift_c"] = jnp.zeros(hidden_size, dtype)
    if layout.bias:
        b = set_gate_biases(
            b, form.blocks, key_b, forget_bias, chrono, coupled=form.coupled
        )
    return LSTMVariantParams(w_x, w_h, b if layout.bias else None, **extra)


def make_start(form: Form) -> Callable[[Any, tuple[int, ...]], Any]:
    """Returns the `initial_state` of a form: zeros, and log 0 for what is a log."""

    def initial_state(params: LSTMVariantParams, batch_shape: tuple[int, ...]) -> Any:
        check_kind(params, LSTMVariantParams)

        def full(size: int, value: float = 0.0) -> Array:
            return jnp.full((*batch_shape, size), value, params.w_x.dtype)

        size = params.w_x.shape[-1] // len(form.blocks)
        h = full(size if params.w_p is None else params.w_p.shape[-1])
        if form.gate_recurrence:
            return GateRecurrentState(h, full(size), full(len(form.gates) * size))
        if form.exponential:
            return ExponentialState(h, full(size), full(size, LOG_OF_ZERO))
        return LSTMState(h, full(size))

    return initial_state


def check_params(form: Form, params: LSTMVariantParams) -> None:
    """Raises unless parameters are those of a form, and fit together.

    Raises:
      TypeError: they are of another cell.
      ValueError: one is missing, in excess, or of another shape.
    """
    check_kind(params, LSTMVariantParams)
    columns = jnp.shape(params.w_x)[-1] if jnp.ndim(params.w_x) else 0
    count, gates = len(form.blocks), len(form.gates)
    size = columns // count
    if jnp.ndim(params.w_h) == 4:
        check_heads_of(params, count)
    else:
        check_gates(params, count, params.w_p)
    normal = form.layer_norm != "none"
    wanted = {
        "peepholes": ("[p, H]", (gates, size), form.peepholes),
        "w_gates": ("[p H, p H]", (gates * size,) * 2, form.gate_recurrence),
        "w_mx": ("[X, H]", (jnp.shape(params.w_x)[0], size), form.multiplicative),
        "w_mh": ("[H, H]", (size, size), form.multiplicative),
        "scale_x": ("[G H]", (columns,), normal),
        "scale_h": ("[G H]", (columns,), normal),
        "scale_c": ("[H]", (size,), normal),
        "shift_c": ("[H]", (size,), normal),
    }
    sizes = f"H = {size}, G = {count} blocks and p = {gates} gates"
    for name, (letters, shape, is_there) in wanted.items():
        value = getattr(params, name)
        if (value is not None) != is_there:
            said = "is missing" if is_there else "is not of this cell"
            raise ValueError(f"params.{name}: {said}; its blocks are {form.blocks}")
        if value is not None and jnp.shape(value) != shape:
            raise ValueError(
                f"params.{name}: shape {jnp.shape(value)} does not fit {letters}, "
                f"which is {shape} for {sizes}"
            )
