"""What a cell is: one step of time as pure functions, and the form of gated cells."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxlstm.shapes import check_step_input
from jaxlstm.types import Array, Key, PyTree


class GatedWeights(NamedTuple):
    """The weights of a gated cell, as they make z.

    z has K columns. `x W_x` is added to the first of them and `h W_h` to the last, so
    that the middle ones hold the sum:

        z = [ x W_x |           0 ]
          + [     0 |       h W_h ]  + b

    Where both products have K columns, as in the LSTM, this is the plain sum. A
    GRU whose reset acts after the product needs both parts of its candidate
    apart: its z is [candidate by x | reset | update | candidate by h]. A cell that
    normalises each product keeps them wholly apart, K = K_x + K_h. A cell without
    recurrent weights has `w_h = None`.

    Attributes:
      w_x: [X, K_x] input weights.
      w_h: [R, K_h] recurrent weights, or None. Or [N, D, G, E], where they are N blocks
        on the diagonal: each reads D of the R = N D numbers, and gives E of the N E of
        each of G gates.
      b: [K] bias. None means no bias, and that each product there is has K columns; a
        cell that keeps them apart and has no bias gives zeros.
      small: parameters that only `update` reads (peepholes, scales of a
        normalisation), or None. Their gradients are taken step by step, so they
        should be small.
    """

    w_x: Array
    w_h: Array | None
    b: Array | None
    small: PyTree = None


class Gate(NamedTuple):
    """A block of z.

    Attributes:
      name: what the field calls it, such as "forget".
      squashed_by: the function that `update` takes of it; None where that is another
        one, or one of more than this block.
    """

    name: str
    squashed_by: Literal["sigmoid", "tanh"] | None = None


class StepNoise(NamedTuple):
    """What disturbs `update`, in one step [..., H] or in all of them [T, ..., H].

    Axes of size 1 broadcast.

    Attributes:
      candidate: factor on the candidate for the memory, or None.
      stay: by name of a field of the state, the share of it that stays as it was: 1
        or 0 in training, the rate itself where the expectation is taken; or None.
    """

    candidate: Array | None = None
    stay: dict[str, Array] | None = None


class Gated(NamedTuple):
    """The form of a cell whose weights act only through z = x W_x + h W_h + b.

    `jaxlstm.rule` differentiates every such cell with one product over time for each
    weight matrix.

    Attributes:
      weights: `(params) -> GatedWeights`.
      read: `(state) -> [..., R]`, what the recurrent weights multiply. Linear in the
        state (it selects or joins fields).
      update: `(small, state, z) -> state`, with z [..., K]. Works on any batch axes.
      gates: the blocks of z, all of one width, K / len(gates). They change nothing:
        diagnostics tell them apart. By default z is one block.
      scaled_update: `(small, state, z, factor) -> state`, the update with the candidate
        for the memory multiplied by a factor [..., H]; None for a cell that adds no
        candidate to a memory, or does not say how. It takes recurrent dropout.
      gate_values: `(small, state, z) -> {name: [..., H]}`, the gates and the candidate
        as the step from that state has them; None where they are the blocks of z, each
        by what it is squashed by.
      linear: whether the cell is a linear recurrence: `w_h` is None, and each entry of
        the next state is affine in the same entry of the state, s' = a(z) s + b(z).
        Such a cell runs parallel in time by `engine="parallel"`. |a| at most 1, or
        products of it over a sequence may overflow.
    """

    weights: Callable[[Any], GatedWeights]
    read: Callable[[Any], Array]
    update: Callable[[PyTree, Any, Array], Any]
    gates: tuple[Gate, ...] = (Gate("preactivation"),)
    scaled_update: Callable[[PyTree, Any, Array, Array], Any] | None = None
    gate_values: Callable[[PyTree, Any, Array], dict[str, Array]] | None = None
    linear: bool = False


class InitCell(Protocol):
    """Draws the parameters of one layer."""

    def __call__(
        self, key: Key, input_size: int, hidden_size: int, *, dtype: Any = jnp.float32
    ) -> Any:
        """Consumes the key whole."""
        ...


def read_h(state: Any) -> Array:
    """Returns the hidden state, the output of every cell of this package."""
    return state.h


class Cell(NamedTuple):
    """One step of time, as pure functions. Sizes are read off the parameters.

    Attributes:
      init: `(key, input_size, hidden_size, *, dtype) -> params`.
      initial_state: `(params, batch_shape) -> state` of zeros (or whatever the cell
        starts from), leaves [*batch_shape, ...] in the dtype of the parameters.
      step: `(params, state, x [..., X]) -> (state, output)`, as `lax.scan` wants it.
      gated: the gated form of the same step, or None for a cell that has none. With
        it the cell takes the derivative rule and knows `compute_dtype`.
      output: `(state) -> [..., H]`. `step` returns `output(state)` of its new state:
        an output is part of the state, so that a readout needs nothing else.
    """

    init: InitCell
    initial_state: Callable[[Any, tuple[int, ...]], Any]
    step: Callable[[Any, Any, Array], tuple[Any, Array]]
    gated: Gated | None = None
    output: Callable[[Any], Array] = read_h


def update(
    gated: Gated, small: PyTree, state: Any, z: Array, noise: StepNoise | None = None
) -> Any:
    """Returns the next state from z [..., K], disturbed by the noise of the step.

        s' = update(state, z), the candidate multiplied by the factor
        field' = stay field + (1 - stay) field of s'    for each field that may stay

    Args:
      gated: the cell; with a `scaled_update`, where the noise has a factor.
      small: as in `GatedWeights`.
      state: leaves [..., H].
      z: [..., K].
      noise: of this step; None for none.
    """
    if noise is None:
        return gated.update(small, state, z)
    if noise.candidate is None:
        new = gated.update(small, state, z)
    else:
        assert gated.scaled_update is not None
        new = gated.scaled_update(small, state, z, noise.candidate)
    if noise.stay is None:
        return new
    mixed = {
        name: share * getattr(state, name) + (1 - share) * getattr(new, name)
        for name, share in noise.stay.items()
    }
    return new._replace(**mixed)


def product(h: Array, w: Array, compute_dtype: Any = None) -> Array:
    """Multiplies [..., R] by [R, K], in `compute_dtype` if given; sums in h's dtype."""
    if compute_dtype is None:
        return h @ w
    return jax.lax.dot_general(
        h.astype(compute_dtype),
        w.astype(compute_dtype),
        (((h.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=h.dtype,
    )


def recurrent_product(h: Array, w: Array, compute_dtype: Any = None) -> Array:
    """Multiplies [..., R] by the recurrent weights, in `compute_dtype` if given.

    Args:
      h: [..., R].
      w: [R, K_h], or [N, D, G, E] with R = N D and K_h = G N E; see `GatedWeights`.
      compute_dtype: dtype of the factors, or None for their own.

    Returns:
      [..., K_h] in h's dtype.
    """
    if w.ndim == 2:
        return product(h, w, compute_dtype)
    num_heads, width, num_gates, _ = w.shape
    out_dtype = h.dtype
    if compute_dtype is not None:
        h, w = h.astype(compute_dtype), w.astype(compute_dtype)
    if width == w.shape[-1] == 1:
        diagonal = w.reshape(num_heads, num_gates).T
        shape = *h.shape[:-1], num_gates, num_heads
        z = jnp.broadcast_to(h[..., None, :], shape) * jnp.broadcast_to(diagonal, shape)
        return z.astype(out_dtype).reshape(*h.shape[:-1], -1)
    heads = h.reshape(*h.shape[:-1], num_heads, width)
    z = jnp.einsum("...nd,ndge->...gne", heads, w, preferred_element_type=out_dtype)
    return z.reshape(*h.shape[:-1], -1)


def num_recurrent_columns(w: Array | None) -> int:
    """Returns K_h of recurrent weights, 0 where there are none."""
    if w is None:
        return 0
    return w.shape[-1] if w.ndim == 2 else w.shape[0] * w.shape[2] * w.shape[3]


def dense(weights: GatedWeights) -> GatedWeights:
    """Returns the weights with w_h as one matrix [R, K_h], zero between the blocks."""
    w = weights.w_h
    if w is None or w.ndim == 2:
        return weights
    num_heads, width, num_gates, out = w.shape
    apart = jnp.eye(num_heads, dtype=w.dtype)
    w = jnp.einsum("ndge,nm->ndgme", w, apart)
    return weights._replace(
        w_h=w.reshape(num_heads * width, num_gates * num_heads * out)
    )


def dense_weights(gated: Gated) -> Callable[[Any], GatedWeights]:
    """Returns what `gated.weights` gives, by `dense`."""
    return lambda params: dense(gated.weights(params))


def preactivations(
    weights: GatedWeights, x: Array, h: Array, compute_dtype: Any = None
) -> Array:
    """Returns z [..., K] from x [..., X] and h [..., R]; see `GatedWeights`."""
    z = product(x, weights.w_x, compute_dtype)
    if weights.w_h is not None:
        z_h = recurrent_product(h, weights.w_h, compute_dtype)
        z = overlap(z, z_h, num_columns(weights))
    return z if weights.b is None else z + jnp.broadcast_to(weights.b, z.shape)


def num_columns(weights: GatedWeights) -> int:
    """Returns K, the number of columns of z."""
    if weights.b is not None:
        return weights.b.shape[-1]
    return max(weights.w_x.shape[-1], num_recurrent_columns(weights.w_h))


def overlap(z_x: Array, z_h: Array, columns: int) -> Array:
    """Adds z_x to the first of K columns and z_h to the last ones."""
    return pad_columns(z_x, columns, "right") + pad_columns(z_h, columns, "left")


def pad_columns(z: Array, columns: int, side: str) -> Array:
    """Widens z to `columns` with zeros on one side."""
    missing = columns - z.shape[-1]
    if not missing:
        return z
    width = (0, missing) if side == "right" else (missing, 0)
    return jnp.pad(z, [(0, 0)] * (z.ndim - 1) + [width])


def gated_step(gated: Gated) -> Callable[[Any, Any, Array], tuple[Any, Array]]:
    """Returns the plain step of a gated cell whose output is the hidden state."""

    def step(params: Any, state: Any, x: Array) -> tuple[Any, Array]:
        weights = gated.weights(params)
        check_step_input(x, weights.w_x)
        z = preactivations(weights, x, gated.read(state))
        state = gated.update(weights.small, state, z)
        return state, state.h

    return step
