"""Modules of Flax's nnx. What is not defined here is `flax.nnx`'s own.

from jaxlstm.flax import nnx
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import Bidirectional as Bidirectional
from flax.nnx import LSTMCell as LSTMCell
from flax.nnx import OptimizedLSTMCell as OptimizedLSTMCell
from flax.nnx.nn.dtypes import promote_dtype

from jaxlstm.cells.initializers import Initializer
from jaxlstm.cells.lstm import LSTMParams, LSTMState, init_lstm
from jaxlstm.flax.recurrent import (
    Activations,
    Call,
    check_carry,
    check_inputs,
    find_name,
    run,
)
from jaxlstm.flax.scanned import (
    choose_size,
    initialize_carry,
    run_scanned,
    split_inputs,
)
from jaxlstm.sequence import Remat
from jaxlstm.types import Array

INPUT_LAYERS = "ii", "if_", "ig", "io"
RECURRENT_LAYERS = "hi", "hf", "hg", "ho"
# What a layer has to be for its product to be the plain one.
LINEAR = {
    "precision": None,
    "dot_general": jax.lax.dot_general,
    "promote_dtype": promote_dtype,
    "preferred_element_type": None,
}


def __getattr__(name: str) -> Any:
    return find_name(__name__, nnx, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(nnx)})


class RNN(nnx.RNN):
    """Flax's `RNN`, whose LSTM cells run under the derivative rule.

    It is made and called as that is, and has its parameters and its outputs. What the
    rule cannot serve runs in Flax's own scan; `obstacle` says what that is.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> Any:
        """Runs over sequences.

        Args:
          inputs: [..., T, X], or [T, ..., X] if `time_major`.
          initial_carry: (c, h), [..., H] each; by default the cell's own.
          seq_lengths: [...] integers: where padding starts. Outputs past it are not
            zeroed; the carry is that of the last step before it.
          return_carry: whether to return the carry as well.
          time_major: whether time is the first axis, else the last but one.
          reverse: whether sequences are read backwards, each within its length.
          keep_order: whether the outputs of reversed sequences are turned back.
          rngs: of the cell's `initialize_carry`; by default the module's own.

        Returns:
          The outputs, [..., T, H] or [T, ..., H]; or (carry, outputs).
        """
        given = {
            "seq_lengths": seq_lengths,
            "return_carry": return_carry,
            "time_major": time_major,
            "reverse": reverse,
            "keep_order": keep_order,
        }
        if self.obstacle is not None:
            return super().__call__(
                inputs, initial_carry=initial_carry, rngs=rngs, **given
            )
        call = Call.of(self, **given)
        cell: Any = self.cell
        inputs = check_inputs(inputs, call)
        if initial_carry is None:
            rngs = self.rngs if rngs is None else rngs
            rngs = rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs
            initial_carry = cell.initialize_carry(call.step_shape(inputs), rngs)
        return run(
            _find_params(cell),
            inputs,
            check_carry(initial_carry),
            call,
            activations=Activations(cell.gate_fn, cell.activation_fn),
            dtype=cell.dtype,
        )

    @property
    def obstacle(self) -> str | None:
        """What keeps the rule from running this, or None."""
        cell: Any = self.cell
        if type(cell).__call__ is nnx.OptimizedLSTMCell.__call__:
            layers = "dense_i", "dense_h"
        elif type(cell).__call__ is nnx.LSTMCell.__call__:
            layers = INPUT_LAYERS + RECURRENT_LAYERS
        else:
            return f"cell is a {type(cell).__name__}"
        for name in layers:
            layer = getattr(cell, name)
            if type(layer).__call__ is not nnx.Linear.__call__:
                return f"cell.{name} is a {type(layer).__name__}"
            for option, default in {**LINEAR, "dtype": cell.dtype}.items():
                if getattr(layer, option) != default:
                    return f"cell.{name}.{option} is {getattr(layer, option)}"
        if self.unroll != 1:
            return f"unroll is {self.unroll}"
        if self.broadcast_rngs is not None:
            return f"broadcast_rngs is {self.broadcast_rngs}"
        if self.state_axes != nnx.StateAxes({...: nnx.Carry}):
            return f"state_axes is {self.state_axes}"
        activations = Activations(cell.gate_fn, cell.activation_fn)
        return activations.find_obstacle(nnx.Module)


def _find_params(cell: Any) -> LSTMParams:
    """Returns the parameters of a cell of Flax."""
    if isinstance(cell, nnx.OptimizedLSTMCell):
        inputs, recurrent = [cell.dense_i], [cell.dense_h]
    else:
        inputs = [getattr(cell, name) for name in INPUT_LAYERS]
        recurrent = [getattr(cell, name) for name in RECURRENT_LAYERS]

    def join(layers: list[Any], name: str) -> Array:
        return jnp.concatenate([getattr(layer, name)[...] for layer in layers], -1)

    return LSTMParams(
        join(inputs, "kernel"), join(recurrent, "kernel"), join(recurrent, "bias")
    )


class LSTM(RNN):
    """An LSTM layer: `RNN(OptimizedLSTMCell(...))`, and its parameters."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        rngs: nnx.Rngs,
        **cell: Any,
    ):
        """Draws the parameters.

        Args:
          in_features: X.
          hidden_features: H.
          time_major: see `RNN`, as those that follow.
          return_carry: whether the carry is returned as well.
          reverse: whether sequences are read backwards.
          keep_order: whether outputs of reversed sequences are turned back.
          rngs: draws the parameters.
          **cell: the other options of `OptimizedLSTMCell`.
        """
        super().__init__(
            nnx.OptimizedLSTMCell(in_features, hidden_features, rngs=rngs, **cell),
            time_major=time_major,
            return_carry=return_carry,
            reverse=reverse,
            keep_order=keep_order,
        )


class ScannedLSTM(nnx.Module):
    """An LSTM over time whose state is reset where an episode starts.

        carry, outputs = ScannedLSTM(in_features, rngs=rngs)(carry, (inputs, resets))

    It is that of `jaxlstm.flax.linen`: the same call, carry and parameters.
    """

    initialize_carry = staticmethod(initialize_carry)

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        *,
        forget_bias: float | None = 1.0,
        initializer: str | Initializer = "glorot_orthogonal",
        param_dtype: Any = jnp.float32,
        compute_dtype: Any = None,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        """Draws the parameters.

        Args:
          in_features: X.
          hidden_features: H; by default X.
          forget_bias: see `init_lstm`.
          initializer: see `init_lstm`.
          param_dtype: of the parameters, the carry and the outputs.
          compute_dtype: of the factors of all products, such as `jnp.bfloat16`; sums,
            carry and parameters keep `param_dtype`.
          remat: see `unroll`.
          rngs: draws the parameters.
        """
        params = init_lstm(
            rngs.params(),
            in_features,
            choose_size("hidden_features", hidden_features, in_features),
            forget_bias=forget_bias,
            initializer=initializer,
            dtype=param_dtype,
        )
        self.w_x = nnx.Param(params.w_x)
        self.w_h = nnx.Param(params.w_h)
        self.b = nnx.Param(params.b)
        self.compute_dtype = compute_dtype
        self.remat: Remat = remat

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
        inputs, resets = split_inputs(x)
        return run_scanned(
            LSTMParams(self.w_x[...], self.w_h[...], self.b[...]),
            carry,
            inputs,
            resets,
            compute_dtype=self.compute_dtype,
            remat=self.remat,
        )
