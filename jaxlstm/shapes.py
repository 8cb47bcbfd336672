"""Checks of what callers pass in. Errors name argument, shapes and axis letters."""

from numbers import Integral
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm.types import Array


class OptionError(ValueError):
    """An option has a value that it cannot have, alone or beside another."""


def check_choice(name: str, value: Any, literal: Any) -> None:
    """Raises OptionError unless the value is one of a Literal's."""
    if value not in get_args(literal):
        choices = ", ".join(repr(choice) for choice in get_args(literal))
        raise OptionError(f"{name}: {value!r} is unknown; use one of {choices}")


def check_kind(params: Any, *kinds: type) -> None:
    """Raises TypeError unless parameters are of one of these kinds."""
    if not isinstance(params, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"params: {type(params).__name__} is not {names}, what this cell has; give "
            "the cell whose parameters they are"
        )


def check_sizes(sizes: dict[str, int]) -> None:
    """Raises OptionError unless all sizes are positive integers."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise OptionError(f"{name}: {size!r} is not an integer")
        if size < 1:
            raise OptionError(f"{name}: {size} is not positive")


def check_inputs(inputs: Array, w_x: Array) -> None:
    """Raises ValueError unless inputs [T, ..., X] fit input weights [X, K]."""
    size, columns = w_x.shape
    if inputs.ndim < 2 or inputs.shape[-1] != size:
        raise ValueError(
            f"inputs: shape {inputs.shape} does not fit [T, ..., X]; the input weights "
            f"[X, K] have shape {(size, columns)}, so X = {size}"
        )


def check_gates(params: Any, count: int, w_p: Array | None = None) -> None:
    """Raises ValueError unless w_x, w_h and b are those of `count` gates.

    Args:
      params: has w_x [X, count H], w_h [H, count H] and b [count H] or None.
      count: how many gates stand side by side.
      w_p: [H, P] projection, with which w_h is [P, count H]; None for none.
    """
    if w_p is not None:
        _check_projected(params, count, w_p)
        return
    axes = f"{'' if count == 1 else count}H"
    size = jnp.shape(params.w_h)[0] if jnp.ndim(params.w_h) else 0
    by = f"H = {size} by params.w_h [H, {axes}] of shape {jnp.shape(params.w_h)}"
    for name, letters in (("w_h", f"[H, {axes}]"), ("w_x", f"[X, {axes}]")):
        shape = jnp.shape(getattr(params, name))
        if len(shape) != 2 or shape[1] != count * size:
            raise ValueError(
                f"params.{name}: shape {shape} does not fit {letters}; {by}"
            )
    if params.b is not None and jnp.shape(params.b) != (count * size,):
        raise ValueError(
            f"params.b: shape {jnp.shape(params.b)} does not fit [{axes}]; {by}"
        )


def _check_projected(params: Any, count: int, w_p: Array) -> None:
    shape = jnp.shape(w_p)
    if len(shape) != 2:
        raise ValueError(f"params.w_p: shape {shape} does not fit [H, P]")
    size, output_size = shape
    columns = count * size
    by = f"H = {size} and P = {output_size} by params.w_p [H, P] of shape {shape}"
    wanted = {
        "w_h": (f"[P, {count}H]", (output_size, columns)),
        "w_x": (f"[X, {count}H]", (*jnp.shape(params.w_x)[:1], columns)),
        "b": (f"[{count}H]", (columns,)),
    }
    for name, (letters, want) in wanted.items():
        value = getattr(params, name)
        if value is not None and jnp.shape(value) != want:
            raise ValueError(
                f"params.{name}: shape {jnp.shape(value)} does not fit {letters}; {by}"
            )


def check_heads(num_heads: int, hidden_size: int) -> int:
    """Returns the size of each head, H/N; raises OptionError if N does not divide H."""
    if hidden_size % num_heads:
        raise OptionError(
            f"heads: {num_heads} do not divide hidden_size = {hidden_size}"
        )
    return hidden_size // num_heads


def check_heads_of(params: Any, count: int) -> None:
    """Raises ValueError unless w_x and b fit w_h [N, H/N, G, H/N] of G = `count`."""
    shape = jnp.shape(params.w_h)
    heads, width, blocks, out = shape
    if blocks != count or out != width:
        raise ValueError(
            f"params.w_h: shape {shape} does not fit [N, H/N, G, H/N]; G = {count}"
        )
    columns = heads * width * count
    by = f"H = {heads * width} and G = {count} by params.w_h of shape {shape}"
    for name, letters in (("w_x", "[X, G H]"), ("b", "[G H]")):
        value = getattr(params, name)
        ndim = 2 if name == "w_x" else 1
        wrong = jnp.ndim(value) != ndim or jnp.shape(value)[-1] != columns
        if value is not None and wrong:
            raise ValueError(
                f"params.{name}: shape {jnp.shape(value)} does not fit {letters}; {by}"
            )


def check_step_input(x: Array, w_x: Array) -> None:
    """Raises ValueError unless x [..., X] fits input weights [X, K]."""
    if jnp.ndim(x) < 1 or jnp.shape(x)[-1] != w_x.shape[0]:
        raise ValueError(
            f"x: shape {jnp.shape(x)} does not fit [..., X]; the input weights [X, K] "
            f"have shape {w_x.shape}, so X = {w_x.shape[0]}"
        )


def check_state(name: str, state: Any, expected: Any, inputs: Array) -> Any:
    """Returns a state that has the structure, shapes and dtypes expected of it.

    Args:
      name: of the argument.
      state: the state.
      expected: a state of `jax.ShapeDtypeStruct`.
      inputs: [T, ..., X] that it goes with.

    Raises:
      ValueError: structure or shape differ.
      TypeError: a dtype differs.
    """
    check_structure(name, state, expected)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), want in zip(leaves, jax.tree.leaves(expected), strict=True):
        where = name + jax.tree_util.keystr(path)
        if jnp.shape(leaf) != want.shape:
            raise ValueError(
                f"{where}: shape {jnp.shape(leaf)} is not {want.shape}, which is "
                f"[..., H] for inputs [T, ..., X] of shape {inputs.shape}"
            )
        if jnp.result_type(leaf) != want.dtype:
            raise TypeError(
                f"{where}: dtype {jnp.result_type(leaf)} is not {want.dtype}, that of "
                "the parameters; convert one of them"
            )
    return state


def check_floating(name: str, state: Any) -> None:
    """Raises TypeError unless all leaves of a state are floating-point."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)}: dtype {jnp.result_type(leaf)}; "
                "the derivative rule takes floating-point states alone; use "
                'derivative="autodiff"'
            )


def check_wide(name: str, state: Any) -> None:
    """Raises TypeError unless all leaves of a state are float32, or all float64."""
    dtypes = {jnp.result_type(leaf) for leaf in jax.tree.leaves(state)}
    if dtypes not in ({jnp.dtype("float32")}, {jnp.dtype("float64")}):
        found = ", ".join(sorted(map(str, dtypes)))
        raise TypeError(
            f'{name}: dtype {found}; engine "deer" takes float32 or float64 alone; '
            'use engine="scan"'
        )


def check_structure(name: str, state: Any, expected: Any) -> None:
    """Raises ValueError unless a state has the structure expected of it."""
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(
            f"{name}: {jax.tree.structure(state)} is not of the cell's own structure, "
            f"{jax.tree.structure(expected)}"
        )


def broadcast_state(name: str, state: Any, expected: Any, inputs: Array) -> Any:
    """Returns the state with leaves broadcast to [..., H], checked by `check_state`.

    Raises:
      ValueError: structure differs, or a shape does not broadcast.
      TypeError: a dtype differs.
    """
    check_structure(name, state, expected)

    def broadcast(leaf: Any, want: Any) -> Any:
        try:
            return jnp.broadcast_to(leaf, want.shape)
        except ValueError:
            return leaf  # For `check_state` to refuse, by its name.

    return check_state(name, jax.tree.map(broadcast, state, expected), expected, inputs)


def check_time_axes(name: str, value: Any, inputs: Array) -> Array:
    """Returns the value as an array, checked to be [T, ...] as inputs [T, ..., X] are.

    Raises:
      ValueError: it does not broadcast from the left.
    """
    value = jnp.asarray(value)
    axes = inputs.shape[:-1]
    if value.ndim < 1 or value.shape != axes[: value.ndim]:
        raise ValueError(
            f"{name}: shape {value.shape} does not fit [T, ...]; inputs [T, ..., X] of "
            f"shape {inputs.shape} need {axes} or its first axes"
        )
    return value


def check_lengths(lengths: Any, inputs: Array) -> Array:
    """Returns lengths as an array, checked to be integers [...] from 0 to T.

    The values are checked where they are known, that is where they are not traced.

    Raises:
      TypeError: they are not integers.
      ValueError: the shape is not that of the batch, or a length is out of range.
    """
    given, lengths = lengths, jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths: dtype {lengths.dtype} is not an integer")
    if lengths.shape != inputs.shape[1:-1]:
        raise ValueError(
            f"lengths: shape {lengths.shape} is not {inputs.shape[1:-1]}, the batch "
            f"axes of inputs [T, ..., X] of shape {inputs.shape}"
        )
    # Under `jit`, asarray makes a tracer even of what is known.
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        values = np.asarray(given)
        wrong = values[(values < 0) | (values > inputs.shape[0])]
        if wrong.size:
            raise ValueError(
                f"lengths: {wrong[0]} is not in 0..T = {inputs.shape[0]}, the time "
                f"axis of inputs [T, ..., X] of shape {inputs.shape}"
            )
    return lengths
