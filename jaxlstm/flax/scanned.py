"""What `ScannedLSTM` is in linen and in nnx alike."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.cells.lstm import LSTMParams, LSTMState, zero_state
from jaxlstm.sequence import Remat, lstm
from jaxlstm.shapes import OptionError, check_state
from jaxlstm.types import Array


def run_scanned(
    params: LSTMParams,
    carry: LSTMState,
    inputs: Array,
    resets: Array | None,
    *,
    compute_dtype: Any,
    remat: Remat,
) -> tuple[LSTMState, Array]:
    """Runs over a stretch of time, from a carry that is checked.

    Args:
      params: of the layer.
      carry: the state before the first step, [..., H] each.
      inputs: [T, ..., X].
      resets: [T, ...], or None.
      compute_dtype: as in `unroll`.
      remat: as in `unroll`.

    Returns:
      The carry after the last step, and the outputs [T, ..., H].

    Raises:
      ValueError: the carry has another form, or shapes do not fit together.
      TypeError: the carry's dtype is not that of the parameters.
    """
    if not isinstance(carry, LSTMState):
        raise ValueError(
            f"carry: {describe(carry)}; give LSTMState(h, c), [..., H] each, as "
            "ScannedLSTM.initialize_carry makes it (the carry of Flax's own cells "
            "is (c, h))"
        )
    start = jax.eval_shape(lambda: zero_state(params, inputs.shape[1:-1]))
    check_state("carry", carry, start, inputs)
    return lstm(
        params,
        inputs,
        carry,
        resets=resets,
        compute_dtype=compute_dtype,
        remat=remat,
    )


def split_inputs(x: Any) -> tuple[Array, Array | None]:
    """Returns inputs [T, ..., X] and resets [T, ...] from the pair of them."""
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(
            f"x: {describe(x)}; give (inputs [T, ..., X], resets [T, ...])"
        )
    inputs, resets = jnp.asarray(x[0]), x[1]
    if inputs.ndim < 2:
        raise ValueError(
            f"inputs: shape {inputs.shape} does not fit [T, ..., X]; for one step "
            "of time give inputs[None] and resets[None]"
        )
    return inputs, resets


def choose_size(name: str, size: int | None, input_size: int) -> int:
    """Returns H, by default X.

    Raises:
      OptionError: it is not positive; the option has that name.
    """
    hidden_size = input_size if size is None else size
    if hidden_size < 1:
        raise OptionError(
            f"{name}: value is {hidden_size}; give 1 or more, or None for the "
            "size of the inputs, which must then have one"
        )
    return hidden_size


def initialize_carry(
    batch_size: int | Sequence[int], hidden_size: int, dtype: Any = jnp.float32
) -> LSTMState:
    """Returns the carry of zeros that a first episode starts from.

    Args:
      batch_size: B; or the batch axes, if there are none or several.
      hidden_size: H.
      dtype: the module's `param_dtype`.

    Returns:
      h and c, [B, H] each.
    """
    several = isinstance(batch_size, Sequence)
    batch_shape = tuple(batch_size) if several else (batch_size,)
    zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
    return LSTMState(h=zeros, c=zeros)


def describe(value: Any) -> str:
    """Returns the type of a value, and how large it is."""
    if hasattr(value, "shape"):
        return f"is an array of shape {value.shape}"
    size = f" of {len(value)}" if isinstance(value, Sequence) else ""
    return f"is a {type(value).__name__}{size}"
