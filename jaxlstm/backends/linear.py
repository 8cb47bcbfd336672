"""Linear recurrences over time, in O(log T) rounds.

    y_t = J_t y_{t-1} + b_t

Two steps in a row are one step, of matrix J_2 J_1 and offset J_2 b_1 + b_2, so that
`associative_scan` joins neighbouring stretches of time until there is one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.types import Array


def linear_scan(jacobians: Array, offsets: Array) -> Array:
    """Solves y_t = J_t y_{t-1} + b_t, from y = 0, in O(log T) rounds.

    Args:
      jacobians: [T, N, S, S], J.
      offsets: [T, N, S], b.

    Returns:
      y [T, N, S].
    """

    def residual(y: Array) -> Array:
        before = jnp.concatenate([jnp.zeros_like(y[:1]), y[:-1]])
        return y - _multiply(jacobians, before)

    def forward(_: Any, b: Array) -> Array:
        return jax.lax.associative_scan(_join, (jacobians, b))[1]

    def backward(_: Any, b: Array) -> Array:
        # y_t = J_{t+1}^T y_{t+1} + b_t. What stands last there meets no y.
        after = jnp.roll(jnp.swapaxes(jacobians, -1, -2), -1, axis=0)
        return jax.lax.associative_scan(_join, (after, b), reverse=True)[1]

    return jax.lax.custom_linear_solve(residual, offsets, forward, backward)


def damped_scan(jacobians: Array, offsets: Array, size: Array) -> Array:
    """Solves as `linear_scan`, but cuts what grows past a size.

    Where nothing does, the two give the same.

    Args:
      jacobians: [T, N, S, S], J.
      offsets: [T, N, S], b.
      size: [1, N, 1] what offsets are cut to wherever two stretches of time join.

    Returns:
      y [T, N, S], finite if the offsets are.
    """
    limits = jnp.finfo(offsets.dtype)
    # The product of two such matrices is finite.
    largest = (limits.max / jacobians.shape[-1]) ** 0.5

    def join(first: Any, second: Any) -> Any:
        matrix, offset = _join(first, second)
        return jnp.clip(matrix, -largest, largest), jnp.clip(offset, -size, size)

    jacobians = jnp.clip(jacobians, -largest, largest)
    return jax.lax.associative_scan(join, (jacobians, offsets))[1]


def _join(first: Any, second: Any) -> Any:
    (j_1, b_1), (j_2, b_2) = first, second
    return _multiply(j_2, j_1), _multiply(j_2, b_1) + b_2


def _multiply(matrix: Array, other: Array) -> Array:
    """Multiplies [..., S, S] by [..., S, S], or by [..., S]."""
    if other.ndim == matrix.ndim:
        return jnp.matmul(matrix, other, precision="highest")
    return _multiply(matrix, other[..., None])[..., 0]
