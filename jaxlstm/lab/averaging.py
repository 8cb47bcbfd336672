"""Averages of parameters over updates, kept in the state of an optimizer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlstm.types import Array, PyTree


class AverageState(NamedTuple):
    """What an optimizer that averages parameters remembers.

    Attributes:
      mean: of the parameters before each update since the average was begun.
      num_params: [] how many these are.
      begun: [] whether it was.
    """

    mean: PyTree
    num_params: Array
    begun: Array


def average_params() -> optax.GradientTransformation:
    """Returns a part of an optimizer that averages parameters, and changes no update.

        m_n = m_{n-1} + (w - m_{n-1}) / n

    for the parameters w before each update, once `begin_average` was called.
    """

    def init(params: PyTree) -> AverageState:
        return AverageState(
            jax.tree.map(jnp.zeros_like, params),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, AverageState]:
        number = state.num_params + state.begun

        def add(mean: Array, w: Array) -> Array:
            new = mean + (w - mean) / jnp.maximum(number, 1).astype(mean.dtype)
            return jnp.where(state.begun, new, mean)

        return updates, AverageState(
            jax.tree.map(add, state.mean, params), number, state.begun
        )

    return optax.GradientTransformation(init, update)


def find_average(optimizer_state: Any) -> AverageState | None:
    """Returns the average in an optimizer's state, if it keeps one."""
    found = jax.tree.leaves(optimizer_state, is_leaf=_is_average)
    return next(filter(_is_average, found), None)


def begin_average(optimizer_state: Any) -> Any:
    """Returns the state of an optimizer that averages parameters from now on."""

    def begin(leaf: Any) -> Any:
        if not _is_average(leaf):
            return leaf
        return leaf._replace(begun=jax.device_put(True, leaf.begun.sharding))

    return jax.tree.map(begin, optimizer_state, is_leaf=_is_average)


def averaged_params(params: PyTree, optimizer_state: Any) -> PyTree:
    """Returns what to evaluate: the mean, with the latest parameters, once it is begun.

    Args:
      params: the latest ones.
      optimizer_state: of any optimizer.
    """
    average = find_average(optimizer_state)
    if average is None or not average.begun:
        return params
    return jax.tree.map(
        lambda mean, w: mean + (w - mean) / (average.num_params + 1).astype(mean.dtype),
        average.mean,
        params,
    )


def is_time_to_average(losses: Sequence[float], non_monotone: int) -> bool:
    """Returns whether the last loss is above the best of those well before it.

    Args:
      losses: of all evaluations so far.
      non_monotone: how many evaluations before the last one are passed over.
    """
    *earlier, last = losses
    before = earlier[:-non_monotone]
    return bool(before) and last > min(before)


def _is_average(leaf: Any) -> bool:
    return isinstance(leaf, AverageState)
