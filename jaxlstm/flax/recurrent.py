"""What `RNN` is in linen and in nnx alike: the call of Flax, run under the rule."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxlstm.cells.base import Cell
from jaxlstm.cells.lstm import LSTMParams, LSTMState, zero_state
from jaxlstm.cells.variants import LSTMVariantParams, make_lstm_variant
from jaxlstm.flax.scanned import describe
from jaxlstm.sequence import LSTM, unroll
from jaxlstm.shapes import check_lengths, check_state
from jaxlstm.types import Array

Activation = Callable[..., Any]


class Call(NamedTuple):
    """How an `RNN` is called.

    Attributes:
      seq_lengths: [...] integers, or None.
      return_carry: whether the carry is returned beside the outputs.
      time_major: whether time is the first axis, else the last but one.
      reverse: whether sequences are read backwards, each within its length.
      keep_order: whether outputs of reversed sequences stand in the order of inputs.
    """

    seq_lengths: Any
    return_carry: bool
    time_major: bool
    reverse: bool
    keep_order: bool

    @classmethod
    def of(cls, module: Any, seq_lengths: Any, **given: bool | None) -> "Call":
        """Returns a call of a module, whose attributes say what is given as None."""
        chosen = {
            name: getattr(module, name) if value is None else value
            for name, value in given.items()
        }
        return cls(seq_lengths, **chosen)

    def time_axis(self, inputs: Array) -> int:
        """Returns which axis of the inputs is time."""
        return 0 if self.time_major else inputs.ndim - 2

    def step_shape(self, inputs: Array) -> tuple[int, ...]:
        """Returns the shape of one step of the inputs, [..., X]."""
        axis = self.time_axis(inputs)
        return inputs.shape[:axis] + inputs.shape[axis + 1 :]


class Activations(NamedTuple):
    """Those of a cell of Flax.

    Attributes:
      gate_fn: of the three gates.
      activation_fn: of the candidate, and of the memory on its way out.
    """

    gate_fn: Activation
    activation_fn: Activation

    @property
    def plain(self) -> bool:
        """Whether they are Flax's defaults."""
        return self == (jax.nn.sigmoid, jnp.tanh)

    def find_obstacle(self, module_type: type) -> str | None:
        """Returns what keeps the rule from differentiating them, or None.

        Args:
          module_type: the class of all modules; one has parameters of its own.
        """
        for name, function in self._asdict().items():
            if isinstance(function, module_type):
                return f"{name} is a module"
            if _reads_traced_values(function):
                return f"{name} reads a value that is being traced"
        return None


def find_name(module: str, package: ModuleType, name: str) -> Any:
    """Returns what Flax has by a name.

    Args:
      module: the name of the module that stands in place of Flax's.
      package: Flax's module.
      name: in both.

    Raises:
      AttributeError: there is no such name, in neither.
    """
    try:
        return getattr(package, name)
    except AttributeError:
        raise AttributeError(
            f"module {module!r} has no attribute {name!r}, nor has "
            f"{package.__name__!r}",
            name=name,
            obj=package,
        ) from None


def check_inputs(inputs: Any, call: Call) -> Array:
    """Returns inputs as an array.

    Raises:
      ValueError: they have no axis of time.
    """
    inputs = jnp.asarray(inputs)
    if inputs.ndim < 2:
        axes = "[T, ..., X]" if call.time_major else "[..., T, X]"
        raise ValueError(
            f"inputs: shape {inputs.shape} does not fit {axes}; for one step of time "
            "give it an axis of time of size 1"
        )
    return inputs


def check_carry(carry: Any) -> tuple[Array, Array]:
    """Returns the pair (c, h) as arrays.

    Raises:
      ValueError: it is no pair of arrays of one dtype.
    """
    if not isinstance(carry, tuple | list) or len(carry) != 2:
        raise ValueError(
            f"initial_carry: {describe(carry)}; give (c, h), [..., H] each"
        )
    if isinstance(carry, LSTMState):
        raise ValueError(
            "initial_carry: is LSTMState(h, c); the carry of Flax is the plain tuple "
            "(c, h)"
        )
    c, h = map(jnp.asarray, carry)
    if c.dtype != h.dtype or not jnp.issubdtype(h.dtype, jnp.floating):
        raise ValueError(
            f"initial_carry: c of {c.dtype} and h of {h.dtype}; give floating-point "
            "numbers of one dtype"
        )
    return c, h


def run(
    params: LSTMParams,
    inputs: Array,
    carry: tuple[Array, Array],
    call: Call,
    *,
    activations: Activations,
    dtype: Any,
) -> Any:
    """Runs over sequences as Flax's `RNN` runs its LSTM cells.

    Outputs past the end of a sequence are what the cell makes of the padding. The carry
    of a sequence of length 0 is, as there, that after the last step.

    Args:
      params: of the layer, in any dtype.
      inputs: [..., T, X], or [T, ..., X] if time is the first axis.
      carry: (c, h), [..., H] each.
      call: how it is called.
      activations: of the cell.
      dtype: that of the products, as Flax's cells have it; None for the one that
        arguments promote to.

    Returns:
      The outputs [..., T, H], or [T, ..., H]; with the last carry (c, h) before them if
      it is asked for.

    Raises:
      ValueError: shapes do not fit together.
      TypeError: a step would change the dtype of the carry, or lengths are no integers.
    """
    c, h = carry
    products = find_products_dtype(dtype, inputs, params, carry)
    if jnp.promote_types(products, h.dtype) != h.dtype:
        raise TypeError(
            f"carry: dtype {h.dtype}, of which a step makes {products}, the dtype that "
            f"inputs and parameters promote to; set dtype={h.dtype} on the cell, or "
            f"give a carry of {products}"
        )
    params = jax.tree.map(lambda w: w.astype(h.dtype), params)
    time_axis = call.time_axis(inputs)
    inputs = jnp.moveaxis(inputs, time_axis, 0).astype(products)
    state = LSTMState(h=h, c=c)
    start = jax.eval_shape(lambda: zero_state(params, inputs.shape[1:-1]))
    check_state("initial_carry", state, start, inputs)
    lengths = call.seq_lengths
    if lengths is not None:
        lengths = _check_lengths(lengths, inputs)
    if call.reverse:
        inputs = flip(inputs, lengths)
    cell, cell_params = choose_cell(activations, params)
    last, states = unroll(
        cell,
        cell_params,
        inputs,
        state,
        compute_dtype=None if products == h.dtype else products,
    )
    outputs = states.h
    if lengths is not None and call.return_carry:
        last = jax.tree.map(lambda s: take_last(s, lengths), states)
    if call.reverse and call.keep_order:
        outputs = flip(outputs, lengths)
    outputs = jnp.moveaxis(outputs, 0, time_axis)
    return ((last.c, last.h), outputs) if call.return_carry else outputs


def find_products_dtype(
    dtype: Any, inputs: Array, params: LSTMParams, carry: tuple[Array, Array]
) -> Any:
    """Returns the dtype of z: the one given, or the one that its factors promote to."""
    if dtype is not None:
        return jnp.dtype(dtype)
    found = jnp.result_type(inputs, carry[1], *jax.tree.leaves(params))
    wide = jnp.issubdtype(found, jnp.inexact)
    return found if wide else jnp.promote_types(found, jnp.float32)


def choose_cell(activations: Activations, params: LSTMParams) -> tuple[Cell, Any]:
    """Returns the LSTM with these activations, and its parameters."""
    if activations.plain:
        return LSTM, params
    cell = make_lstm_variant(
        gate_activation=activations.gate_fn,
        candidate_activation=activations.activation_fn,
        output_activation=activations.activation_fn,
    )
    return cell, LSTMVariantParams(*params)


def flip(x: Array, lengths: Array | None) -> Array:
    """Turns sequences [T, ..., K] round; padding stays at the end, turned as well."""
    if lengths is None:
        return x[::-1]
    steps = x.shape[0]
    backwards = jnp.arange(steps - 1, -1, -1).reshape(-1, *[1] * lengths.ndim)
    # Past the end, a whole turn further on is where padding comes from.
    source = (backwards + lengths[None]) % steps
    return jnp.take_along_axis(x, source[..., None], axis=0)


def take_last(x: Array, lengths: Array) -> Array:
    """Returns what stands at the last step of each sequence [T, ..., K]."""
    last = (lengths - 1) % x.shape[0]
    return jnp.take_along_axis(x, last[None, ..., None], axis=0)[0]


def _check_lengths(lengths: Any, inputs: Array) -> Array:
    try:
        return check_lengths(lengths, inputs)
    except (TypeError, ValueError) as error:
        raise type(error)(f"seq_{error}") from None


def _reads_traced_values(function: Activation) -> bool:
    if function in (jax.nn.sigmoid, jnp.tanh):
        return False
    consts = jax.make_jaxpr(function)(jnp.zeros(1)).consts
    return any(isinstance(const, Tracer) for const in consts)
