"""The update of the LSTM and of its variants: one function, told apart by flags."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.cells.activations import Activation, find_activation
from jaxlstm.cells.base import Gate
from jaxlstm.types import Array

LayerNorm = Literal["none", "joint", "gates"]
ForgetActivation = Literal["sigmoid", "exp"]

# The constant that is added to the variance, as in PyTorch's LayerNorm.
EPSILON = 1e-5
# What log n = log 0 stands at: the first gate forgets all, and nothing is infinite.
LOG_OF_ZERO = -1e30


class Form(NamedTuple):
    """Which LSTM it is.

    Attributes:
      input_gate: whether there is one; else i = 1.
      forget_gate: whether there is one; else f = 1.
      output_gate: whether there is one; else o = 1.
      coupled: whether f = 1 - i, in place of a gate of its own.
      peepholes: whether i and f also read c, and o the next c.
      gate_recurrence: whether the gates also read those of the step before.
      layer_norm: of what each product adds to z, and of the next c: "none", "joint"
        over all blocks of a product, or "gates", over each block by itself.
      exponential: the forget gate's activation where the input gate's is the
        exponential, and c is divided by the sum of what gates let in; None where gates
        are plain.
      multiplicative: whether (x W_mx) (h W_mh) takes the place of h.
      gate_activation: of the gates.
      candidate_activation: of the candidate.
      output_activation: of what the output gate lets out.
    """

    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    coupled: bool = False
    peepholes: bool = False
    gate_recurrence: bool = False
    layer_norm: LayerNorm = "none"
    exponential: ForgetActivation | None = None
    multiplicative: bool = False
    gate_activation: Activation = "sigmoid"
    candidate_activation: Activation = "tanh"
    output_activation: Activation = "tanh"

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks of z that there are, of i, f, g, o."""
        there = {
            "input": self.input_gate,
            "forget": self.forget_gate and not self.coupled,
            "candidate": True,
            "output": self.output_gate,
        }
        return tuple(name for name, is_there in there.items() if is_there)

    @property
    def gates(self) -> tuple[str, ...]:
        """The blocks that are gates."""
        return tuple(name for name in self.blocks if name != "candidate")

    def activation(self, block: str) -> Activation:
        """Returns that of a block of z."""
        if block == "candidate":
            return self.candidate_activation
        return self.gate_activation

    def describe(self) -> tuple[Gate, ...]:
        """Returns the blocks of z for `Gated`."""
        if self.multiplicative:
            blocks = *(f"{block} by x" for block in self.blocks), "factor by x"
            return *map(Gate, blocks), Gate("factor by h")
        if self.layer_norm != "none":
            ways = "by x", "by h"
            return tuple(
                Gate(f"{block} {way}") for way in ways for block in self.blocks
            )
        return tuple(Gate(block, self._squashed_by(block)) for block in self.blocks)

    def _squashed_by(self, block: str) -> Any:
        activation = self.activation(block)
        if self.exponential and block in ("input", "forget"):
            return None
        if self.peepholes and block != "candidate":
            return None
        return activation if activation in ("sigmoid", "tanh") else None


class Small(NamedTuple):
    """What `update` reads beside z; None where a form has no such thing.

    Attributes:
      w_p: [H, P] projection of the output.
      w_m: [H, G H] what the product of two factors is multiplied by.
      peepholes: [p, H] of the p gates that there are, in the order i, f, o.
      b: [G H] bias, where the products are normalised before it is added.
      scale_x: [G H] on the normalised x W_x.
      scale_h: [G H] on the normalised h W_h.
      scale_c: [H] on the normalised c.
      shift_c: [H] added to it.
    """

    w_p: Array | None = None
    w_m: Array | None = None
    peepholes: Array | None = None
    b: Array | None = None
    scale_x: Array | None = None
    scale_h: Array | None = None
    scale_c: Array | None = None
    shift_c: Array | None = None


def update(
    form: Form, small: Small, state: Any, z: Array, factor: Array | None = None
) -> Any:
    """Returns the next state from z, whatever the form.

        i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)      g = tanh(z_g)
             c' = f c + i g
             h' = o tanh(c')

    Args:
      form: what is unlike that.
      small: what is read beside z.
      state: h [..., H] or [..., P], c [..., H], and what the form has beside them.
      z: [..., K], the blocks of `form.blocks`; with a normalisation those by x and then
        those by h; with two factors those by x and then the factors.
      factor: [..., H] on the candidate, or None.
    """
    gates, c, more = _advance_memory(form, small, state, z, factor)
    if form.gate_recurrence:
        more["gates"] = jnp.concatenate([gates[n] for n in form.gates], axis=-1)
    seen = c
    if small.scale_c is not None:
        assert small.shift_c is not None
        seen = normalise(c) * jnp.broadcast_to(small.scale_c, c.shape)
        seen = seen + jnp.broadcast_to(small.shift_c, c.shape)
    h = find_activation("output_activation", form.output_activation)(seen)
    if form.output_gate:
        h = gates["output"] * h
    return state._replace(h=h if small.w_p is None else h @ small.w_p, c=c, **more)


def _advance_memory(
    form: Form, small: Small, state: Any, z: Array, factor: Array | None = None
) -> tuple[dict[str, Array], Array, dict[str, Array]]:
    """Returns the gates and the candidate by name, the next c, and further fields."""
    c = state.c
    if form.multiplicative:
        z = _multiply(form, small, z)
    if form.layer_norm != "none":
        z = _normalise_products(form, small, z)
    peepholes = {}
    if small.peepholes is not None:
        rows = (jnp.broadcast_to(row, c.shape) for row in small.peepholes)
        peepholes = dict(zip(form.gates, rows, strict=True))
        z = _look(form, peepholes, c, z)
    gates, more = _squash(form, z), {}
    if form.coupled:
        gates["forget"] = 1 - gates["input"]
    if form.exponential:
        blocks = jnp.split(z, len(form.blocks), axis=-1)
        raw = dict(zip(form.blocks, blocks, strict=True))
        shares = _exponential(form, raw["input"], raw["forget"], state.m)
        gates["input"], gates["forget"], more["m"] = shares
    i, f = gates.get("input"), gates.get("forget")
    g = gates["candidate"] if factor is None else factor * gates["candidate"]
    new = (c if f is None else f * c) + (g if i is None else i * g)
    if form.output_gate and peepholes:
        o = z[..., -c.shape[-1] :] + peepholes["output"] * new
        gates["output"] = find_activation("gate_activation", form.gate_activation)(o)
    return gates, new, more


def normalise(x: Array) -> Array:
    """Returns x with mean 0 and variance 1 over its last axis."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPSILON)


def _multiply(form: Form, small: Small, z: Array) -> Array:
    """Returns the blocks of z, or those by x and by h, from [..., (G + 2) H]."""
    assert small.w_m is not None
    columns = small.w_m.shape[-1]
    factor_x, factor_h = jnp.split(z[..., columns:], 2, axis=-1)
    by_h = (factor_x * factor_h) @ small.w_m
    if form.layer_norm != "none":
        return jnp.concatenate([z[..., :columns], by_h], axis=-1)
    return z[..., :columns] + by_h


def _normalise_products(form: Form, small: Small, z: Array) -> Array:
    """Returns [..., G H] from [..., 2 G H], the products by x and by h side by side."""
    scaled = []
    scales = small.scale_x, small.scale_h
    for part, scale in zip(jnp.split(z, 2, axis=-1), scales, strict=True):
        assert scale is not None
        if form.layer_norm == "gates":
            blocks = part.reshape(*part.shape[:-1], len(form.blocks), -1)
            normal = normalise(blocks).reshape(part.shape)
        else:
            normal = normalise(part)
        scaled.append(normal * jnp.broadcast_to(scale, part.shape))
    z = scaled[0] + scaled[1]
    return z if small.b is None else z + jnp.broadcast_to(small.b, z.shape)


def _look(form: Form, peepholes: dict[str, Array], c: Array, z: Array) -> Array:
    """Adds to z what the gates before the memory see of it."""
    parts = dict(zip(form.blocks, jnp.split(z, len(form.blocks), axis=-1), strict=True))
    for name, row in peepholes.items():
        if name != "output":
            parts[name] = parts[name] + row * c
    return jnp.concatenate(list(parts.values()), axis=-1)


def _squash(form: Form, z: Array) -> dict[str, Array]:
    """Returns the blocks of z, each after its activation."""
    blocks = form.blocks
    kinds = [form.activation(block) for block in blocks]
    if all(kind in ("sigmoid", "tanh") for kind in kinds):
        # sigmoid(z) = tanh(z / 2) / 2 + 1/2: all blocks are one tanh.
        half = [0.5 if kind == "sigmoid" else 1.0 for kind in kinds]
        half = np.repeat(half, z.shape[-1] // len(blocks))
        half = jnp.broadcast_to(jnp.asarray(half, z.dtype), z.shape)
        parts = jnp.split(jnp.tanh(z * half) * half + (1 - half), len(blocks), axis=-1)
    else:
        parts = [
            find_activation("activation", kind)(part)
            for kind, part in zip(
                kinds, jnp.split(z, len(blocks), axis=-1), strict=True
            )
        ]
    return dict(zip(blocks, parts, strict=True))


def _exponential(
    form: Form, i: Array, f: Array, m: Array
) -> tuple[Array, Array, Array]:
    """Returns the shares of candidate and memory, and log n.

    With the input gate exp(i), the memory is the mean of all candidates, weighted by
    what gates let in of them and kept of them since:

        n' = f n + exp(i)      c' = (f n c + exp(i) g) / n'      m = log n

    so the shares of the two add up to 1, and no exponential is taken but of what is
    not positive.
    """
    kept = (f if form.exponential == "exp" else jax.nn.log_sigmoid(f)) + m
    return _share(i, kept)


@jax.custom_jvp
def _share(let_in: Array, kept: Array) -> tuple[Array, Array, Array]:
    """Returns the shares of two numbers in their sum, and its log, by their logs."""
    # One exponential serves all three, as the derivatives of none needs another.
    ratio = jnp.exp(-jnp.abs(let_in - kept))
    larger, smaller = 1 / (1 + ratio), ratio / (1 + ratio)
    more = let_in > kept
    return (
        jnp.where(more, larger, smaller),
        jnp.where(more, smaller, larger),
        jnp.maximum(let_in, kept) + jnp.log1p(ratio),
    )


@_share.defjvp
def _share_jvp(primals: Any, tangents: Any) -> Any:
    by_in, by_kept, total = _share(*primals)
    dlet_in, dkept = tangents
    moved = by_in * by_kept * (dlet_in - dkept)
    dtotal = by_in * dlet_in + by_kept * dkept
    return (by_in, by_kept, total), (moved, -moved, dtotal)


class Updates(NamedTuple):
    """What `Gated` has of a form: `update`, `scaled_update` and `gate_values`."""

    plain: Any
    scaled: Any
    gate_values: Any


@functools.lru_cache(maxsize=256)
def make_updates(form: Form) -> Updates:
    """Returns the functions of a form."""

    def scaled(small: Small | None, state: Any, z: Array, factor: Array | None) -> Any:
        return update(form, small or Small(), state, z, factor)

    def plain(small: Small | None, state: Any, z: Array) -> Any:
        return update(form, small or Small(), state, z)

    def gate_values(small: Small | None, state: Any, z: Array) -> dict[str, Array]:
        return _advance_memory(form, small or Small(), state, z)[0]

    return Updates(plain, scaled, gate_values)
