"""Choices along the first axes of arrays: by masks, resets and factors [...]."""

import jax
import jax.numpy as jnp

from jaxlstm.types import Array, PyTree


def like(value: Array, leaf: Array) -> Array:
    """Appends axes to a value that broadcasts from the left."""
    return value.reshape(value.shape + (1,) * (leaf.ndim - value.ndim))


def select(condition: Array | None, new: PyTree, old: PyTree) -> PyTree:
    """Takes `new` where the condition [...] holds; `old` where it is None."""
    if condition is None:
        return old
    return jax.tree.map(lambda a, b: jnp.where(like(condition, b) != 0, a, b), new, old)


def keep(mask: Array | None, new: PyTree, old: PyTree) -> PyTree:
    """Takes `new` where the mask [...] is not 0, or everywhere if it is None."""
    return new if mask is None else select(mask, new, old)
