"""Modules of Flax's linen. What is not defined here is `flax.linen`'s own.

from jaxlstm.flax import linen as nn
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import Bidirectional as Bidirectional
from flax.linen import LSTMCell as LSTMCell
from flax.linen import OptimizedLSTMCell as OptimizedLSTMCell

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
from jaxlstm.types import Array, Key

GATES = "ifgo"
SERVED = nn.LSTMCell.__call__, nn.OptimizedLSTMCell.__call__
SCAN_OPTIONS = (
    "unroll",
    "variable_axes",
    "variable_broadcast",
    "variable_carry",
    "split_rngs",
)


def __getattr__(name: str) -> Any:
    return find_name(__name__, nn, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(nn)})


class RNN(nn.RNN):
    """Flax's `RNN`, whose LSTM cells run under the derivative rule.

    It is called as that is, has its attributes, its parameters and its outputs. What
    the rule cannot serve runs in Flax's own scan; `obstacle` says what that is.
    """

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: Any = None,
        init_key: Key | None = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Runs over sequences.

        Args:
          inputs: [..., T, X], or [T, ..., X] if `time_major`.
          initial_carry: (c, h), [..., H] each; by default the cell's own.
          init_key: of the cell's `initialize_carry`.
          seq_lengths: [...] integers: where padding starts. Outputs past it are not
            zeroed; the carry is that of the last step before it.
          return_carry: whether to return the carry as well.
          time_major: whether time is the first axis, else the last but one.
          reverse: whether sequences are read backwards, each within its length.
          keep_order: whether the outputs of reversed sequences are turned back.

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
                inputs, initial_carry=initial_carry, init_key=init_key, **given
            )
        call = Call.of(self, **given)
        cell: Any = self.cell
        inputs = check_inputs(inputs, call)
        step_shape = call.step_shape(inputs)
        if initial_carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            initial_carry = cell.initialize_carry(key, step_shape)
        carry = check_carry(initial_carry)
        return run(
            _find_params(cell, carry, jnp.zeros(step_shape, inputs.dtype)),
            inputs,
            carry,
            call,
            activations=Activations(cell.gate_fn, cell.activation_fn),
            dtype=cell.dtype,
        )

    @property
    def obstacle(self) -> str | None:
        """What keeps the rule from running this, or None."""
        cell: Any = self.cell
        if type(cell).__call__ not in SERVED:
            return f"cell is a {type(cell).__name__}"
        for name in SCAN_OPTIONS:
            value = getattr(self, name)
            if value != nn.RNN.__dataclass_fields__[name].default:
                return f"{name} is {value}"
        activations = Activations(cell.gate_fn, cell.activation_fn)
        return activations.find_obstacle(nn.Module)


def _find_params(cell: Any, carry: tuple[Array, Array], x: Array) -> LSTMParams:
    """Returns the parameters of a bound cell of Flax, made if they are not there yet.

    Args:
      cell: the cell.
      carry: (c, h), [..., H] each.
      x: [..., X], of which the shape counts.
    """
    hidden_size = carry[1].shape[-1]
    expected = {}
    for gate in GATES:
        expected[f"i{gate}"] = {"kernel": (x.shape[-1], hidden_size)}
        expected[f"h{gate}"] = {
            "kernel": (hidden_size, hidden_size),
            "bias": (hidden_size,),
        }
    if jax.tree.map(jnp.shape, _read_params(cell)) != expected:
        # Flax makes them, or says by its own error which are missing or mis-shaped.
        cell(carry, x)
    params = _read_params(cell)

    def join(product: str, name: str) -> Array:
        blocks = [params[f"{product}{gate}"][name] for gate in GATES]
        return jnp.concatenate(blocks, axis=-1)

    return LSTMParams(join("i", "kernel"), join("h", "kernel"), join("h", "bias"))


def _read_params(cell: Any) -> Any:
    return nn.meta.unbox(cell.variables.get("params", {}))


class LSTM(nn.Module):
    """An LSTM layer: `RNN(OptimizedLSTMCell(features))`, and its parameters.

    It is called as `RNN` is, and takes the attributes of both.

    Attributes:
      features: H.
      gate_fn: activation of the gates.
      activation_fn: activation of the candidate, and of the memory on its way out.
      kernel_init: draws the input weights.
      recurrent_kernel_init: draws the recurrent weights.
      bias_init: draws the bias; by default zero, the forget gate's too.
      dtype: of the products; by default what inputs and parameters promote to.
      param_dtype: of the parameters and of the carry.
      carry_init: draws the carry where none is given.
      time_major: see `RNN`, as those that follow.
      return_carry: whether the carry is returned as well.
      reverse: whether sequences are read backwards.
      keep_order: whether outputs of reversed sequences are turned back.
    """

    features: int
    gate_fn: Callable[..., Any] = nn.sigmoid
    activation_fn: Callable[..., Any] = nn.tanh
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    recurrent_kernel_init: Callable[..., Any] = nn.initializers.orthogonal()
    bias_init: Callable[..., Any] = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Callable[..., Any] = nn.initializers.zeros_init()
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False

    @nn.compact
    def __call__(self, inputs: Array, **call: Any) -> Any:
        """Runs over sequences.

        Args:
          inputs: [..., T, X], or [T, ..., X] if `time_major`.
          **call: what `RNN` is called with.

        Returns:
          The outputs, [..., T, H] or [T, ..., H]; or (carry, outputs).
        """
        cell = nn.OptimizedLSTMCell(
            features=self.features,
            gate_fn=self.gate_fn,
            activation_fn=self.activation_fn,
            kernel_init=self.kernel_init,
            recurrent_kernel_init=self.recurrent_kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            carry_init=self.carry_init,
            name="cell",
        )
        rnn = RNN(
            cell,
            time_major=self.time_major,
            return_carry=self.return_carry,
            reverse=self.reverse,
            keep_order=self.keep_order,
        )
        return rnn(inputs, **call)


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

    initialize_carry = staticmethod(initialize_carry)

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
        inputs, resets = split_inputs(x)
        return run_scanned(
            self._make_params(inputs.shape[-1]),
            carry,
            inputs,
            resets,
            compute_dtype=self.compute_dtype,
            remat=self.remat,
        )

    def _make_params(self, input_size: int) -> LSTMParams:
        hidden_size = choose_size("features", self.features, input_size)

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
