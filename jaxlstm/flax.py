"""Modules of Flax over the functions of this package."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlstm.cells.initializers import Initializer
from jaxlstm.cells.lstm import LSTMParams, LSTMState, init_lstm, zero_state
from jaxlstm.sequence import Remat, lstm
from jaxlstm.shapes import OptionError, check_state
from jaxlstm.types import Array


class ScannedLSTM(nn.Module):
    """An LSTM over time whose state is reset where an episode starts.

        carry, outputs = ScannedLSTM()(carry, (inputs, resets))

    It is called as the `ScannedRNN` of PureJaxRL [1], and has the same
    `initialize_carry`; the carry is an `LSTMState` in place of one array. It runs
    `jaxlstm.lstm`: what a gradient costs is what it costs there. Parameters are those
    of `LSTMParams`: w_x [X, 4H], w_h [H, 4H] and b [4H].

    Attributes:
      features: H; by default X, the size of the inputs, as in [1].
      forget_bias: see `init_lstm`.
      initializer: see `init_lstm`.
      param_dtype: of the parameters, the carry and the outputs.
      compute_dtype: of the factors of all products, such as `jnp.bfloat16`; sums,
        carry and parameters keep `param_dtype`.
      remat: see `unroll`.

    References:
      [1] Lu et al., Discovered Policy Optimisation, NeurIPS 2022;
      https://github.com/luchris429/purejaxrl.
    """

    features: int | None = None
    forget_bias: float | None = 1.0
    initializer: str | Initializer = "glorot_orthogonal"
    param_dtype: Any = jnp.float32
    compute_dtype: Any = None
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self, carry: LSTMState, x: tuple[Array, Array | None]
    ) -> tuple[LSTMState, Array]:
        """Runs over a stretch of time, of one step or of many.

        Args:
          carry: the state before the first step, [..., H] each.
          x: inputs [T, ..., X], and resets [T, ...]: where they are not 0, the state
            becomes zero before the step, `carry` included. None is for no resets.

        Returns:
          The carry after the last step, and the outputs [T, ..., H].

        Raises:
          ValueError: what is given has another form, or shapes do not fit together.
          TypeError: the carry's dtype is not `param_dtype`.
        """
        inputs, resets = self._split(x)
        params = self._make_params(inputs.shape[-1])
        if not isinstance(carry, LSTMState):
            raise ValueError(
                f"carry: {_describe(carry)}; give LSTMState(h, c), [..., H] each, as "
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
            compute_dtype=self.compute_dtype,
            remat=self.remat,
        )

    def _split(self, x: Any) -> tuple[Array, Array | None]:
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise ValueError(
                f"x: {_describe(x)}; give (inputs [T, ..., X], resets [T, ...])"
            )
        inputs, resets = jnp.asarray(x[0]), x[1]
        if inputs.ndim < 2:
            raise ValueError(
                f"inputs: shape {inputs.shape} does not fit [T, ..., X]; for one step "
                "of time give inputs[None] and resets[None]"
            )
        return inputs, resets

    def _make_params(self, input_size: int) -> LSTMParams:
        hidden_size = input_size if self.features is None else self.features
        if hidden_size < 1:
            raise OptionError(
                f"features: value is {hidden_size}; give 1 or more, or None for the "
                "size of the inputs, which must then have one"
            )

        def draw(key: Array, name: str) -> Array:
            params = init_lstm(
                key,
                input_size,
                hidden_size,
                forget_bias=self.forget_bias,
                initializer=self.initializer,
                dtype=self.param_dtype,
            )
            return getattr(params, name)

        return LSTMParams(
            **{name: self.param(name, draw, name) for name in ("w_x", "w_h", "b")}
        )

    @staticmethod
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


def _describe(value: Any) -> str:
    """Returns the type of a value, and how large it is."""
    if hasattr(value, "shape"):
        return f"is an array of shape {value.shape}"
    size = f" of {len(value)}" if isinstance(value, Sequence) else ""
    return f"is a {type(value).__name__}{size}"
