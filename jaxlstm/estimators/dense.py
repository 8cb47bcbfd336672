"""The influence as a whole matrix, of any model that has a step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxlstm.estimators.traces import LinearStep, Trace
from jaxlstm.interface import Model, StepFn
from jaxlstm.types import Array, Key, PyTree
from jaxlstm.varying import like_varying


def dense(model: Model, mask: Callable[[LinearStep], PyTree] | None = None) -> Trace:
    """Keeps M, leaves [S, *shape] for each leaf of the recurrent parameters.

        M_t = J_t M_{t-1} + I_t

    Args:
      model: the model.
      mask: `(step) -> leaves [S, *shape]`, what is kept of M; by default all.

    Returns:
      The trace.
    """
    step_fn = model.step
    assert step_fn is not None

    def start(params: PyTree, key: Key, time: Array) -> PyTree:
        del key, time

        def initial(recurrent: Any) -> Array:
            return flat(model.initial_state(params._replace(recurrent=recurrent), ()))

        return jax.jacrev(initial)(params.recurrent)

    def advance(influence: PyTree, step: LinearStep, key: Key) -> PyTree:
        del key
        jacobian, immediate = jacobians(step_fn, step)
        pushed = jax.tree.map(
            lambda m, i: jnp.tensordot(jacobian, m, 1) + i, influence, immediate
        )
        if mask is None:
            return pushed
        return jax.tree.map(jnp.multiply, pushed, mask(step))

    def pull_back(influence: PyTree, q: Any, step: LinearStep) -> PyTree:
        del step
        return jax.tree.map(lambda m: jnp.tensordot(flat(q), m, 1), influence)

    return Trace(start, advance, pull_back)


def jacobians(step_fn: StepFn, step: LinearStep) -> tuple[Array, PyTree]:
    """Returns J [S, S] and I, leaves [S, *shape], of a step of one example."""
    vector, unflatten = ravel_pytree(step.previous)
    basis = like_varying(jnp.eye(len(vector), dtype=vector.dtype), vector)
    columns = jax.vmap(lambda v: flat(step.push_forward(step_fn, unflatten(v))))(basis)
    rows = jax.vmap(lambda v: step.pull_back(step_fn, unflatten(v)))(basis)
    return columns.T, rows


def flat(state: PyTree) -> Array:
    """Joins the leaves of a state, [S]."""
    return ravel_pytree(state)[0]
